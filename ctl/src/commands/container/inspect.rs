//! `longshore container inspect`: everything about containers.

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::inspect::{self, Kind};
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct Args {
    /// `json`, or a Go template such as {{.State.ExitCode}}
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Display total file sizes
    #[arg(short, long)]
    size: bool,
    /// Names or ids
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Display detailed information on one or more containers";
    const USAGE: &'static str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let sizes = if self.size { inspect::Sizes::Shown } else { inspect::Sizes::Left };
        inspect::show(context, &self.containers, self.format.as_deref(), &[Kind::Container], sizes).await
    }
}
