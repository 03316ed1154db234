//! `longshore image inspect`: everything about images.

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::inspect::{self, Kind};
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct Args {
    /// `json`, or a Go template such as {{.Config.Cmd}}
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Of images for several platforms, this one, as in linux/amd64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// References, digests or ids
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Display detailed information on one or more images";
    const USAGE: &'static str = "[OPTIONS] IMAGE [IMAGE...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let kinds = match self.platform {
            None => [Kind::Image],
            Some(platform) => {
                return inspect::images(context, &self.images, self.format.as_deref(), &platform).await;
            }
        };
        inspect::show(context, &self.images, self.format.as_deref(), &kinds, inspect::Sizes::Left).await
    }
}
