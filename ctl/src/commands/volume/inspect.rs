//! `longshore volume inspect`: everything about volumes.

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::inspect::{self, Kind};
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct Args {
    /// `json`, or a Go template such as {{.Mountpoint}}
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names
    #[arg(value_name = "VOLUME", required = true)]
    volumes: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Display detailed information on one or more volumes";
    const USAGE: &'static str = "[OPTIONS] VOLUME [VOLUME...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let kinds = [Kind::Volume];
        inspect::show(context, &self.volumes, self.format.as_deref(), &kinds, inspect::Sizes::Left).await
    }
}
