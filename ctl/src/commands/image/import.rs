//! `longshore import`: make an image of the files of a tar archive.

use std::io::Read;

use longshore_proto::longshore::engine::v1::import_request::What;
use longshore_proto::longshore::engine::v1::{ImportRequest, ImportStart};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::{Failure, errno_text};
use crate::output::{print, stream};

#[derive(clap::Args)]
pub struct Args {
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "LINE")]
    change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short, long, value_name = "STRING", default_value = "")]
    message: String,
    /// The platform that the files are for: os/arch[/variant]
    #[arg(long, value_name = "PLATFORM", default_value = "")]
    platform: String,
    /// A file, or - for standard input
    #[arg(value_name = "FILE|-")]
    source: String,
    /// The image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Import the contents from a tarball to create a filesystem image";
    const USAGE: &'static str = "[OPTIONS] FILE|- [REPOSITORY[:TAG]]";
    const ARGUMENTS: Arguments = Arguments::Between(1, 2);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        if self.source.starts_with("http://") || self.source.starts_with("https://") {
            return Err(Failure::message(format!(
                "importing from a URL is not built: fetch it and hand it over, as in 'curl -fL {} | longshore import -'",
                self.source
            )));
        }
        let mut input: Box<dyn Read + Send> = match self.source.as_str() {
            "-" => Box::new(std::io::stdin()),
            path => Box::new(
                std::fs::File::open(path)
                    .map_err(|error| Failure::message(format!("open {path}: {}", errno_text(&error))))?,
            ),
        };
        let message = |what| ImportRequest { what: Some(what) };
        let start = message(What::Start(ImportStart {
            reference: self.reference.unwrap_or_default(),
            message: self.message,
            changes: self.change,
            platform: self.platform,
            source: "-".to_string(),
        }));
        let data = move |bytes| message(What::Data(bytes));
        let (requests, sent) = stream::upload(start, data, move |mut out| {
            std::io::copy(&mut input, &mut out)?;
            Ok(())
        });
        let made = context.images().await?.import(requests).await?.into_inner();
        sent.finish().await?;
        print::line(made.id)?;
        Ok(0)
    }
}
