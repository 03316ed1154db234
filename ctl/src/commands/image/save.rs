//! `longshore save`: images as an archive.

use std::path::PathBuf;

use longshore_proto::longshore::engine::v1::{SaveRequest, SaveResponse};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::file::{ON_TERMINAL, Output};

#[derive(clap::Args)]
pub struct Args {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Save only these platforms, as in linux/amd64,linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    platform: Vec<String>,
    /// References, digests or ids
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Save one or more images to a tar archive (streamed to STDOUT by default)";
    const USAGE: &'static str = "[OPTIONS] IMAGE [IMAGE...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let output = Output::open(self.output.as_deref(), "failed to save image", ON_TERMINAL)?;
        let request = SaveRequest { images: self.images, platforms: self.platform };
        let pieces = context.images().await?.save(request).await?.into_inner();
        output.receive(pieces, |message: SaveResponse| message.data).await?;
        Ok(0)
    }
}
