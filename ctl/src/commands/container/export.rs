//! `longshore export`: a container's files as a tar archive.

use std::path::PathBuf;

use longshore_proto::longshore::engine::v1::{ContainerRequest, ExportResponse};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::file::{ON_TERMINAL, Output};

#[derive(clap::Args)]
pub struct Args {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Export a container's filesystem as a tar archive";
    const USAGE: &'static str = "[OPTIONS] CONTAINER";
    const ARGUMENTS: Arguments = Arguments::Exactly(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let output = Output::open(self.output.as_deref(), "failed to export container", ON_TERMINAL)?;
        let request = ContainerRequest { container: self.container };
        let pieces = context.containers().await?.export(request).await?.into_inner();
        output.receive(pieces, |message: ExportResponse| message.data).await?;
        Ok(0)
    }
}
