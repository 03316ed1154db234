//! `longshore container prune`: remove every stopped container.

use longshore_proto::longshore::engine::v1::PruneRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::prune;
use crate::failure::Failure;
use crate::parse::pairs;

#[derive(clap::Args)]
pub struct Args {
    /// Only those with KEY=VALUE: label, label!, until
    #[arg(long, value_name = "KEY=VALUE", value_parser = pairs::filter)]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

impl Verb for Args {
    const ABOUT: &'static str = "Remove all stopped containers";
    const USAGE: &'static str = "[OPTIONS]";
    const ARGUMENTS: Arguments = Arguments::None;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        prune::ask(self.force, "This will remove all stopped containers.", "container prune")?;
        let request = PruneRequest { filters: self.filter };
        let pruned = context.containers().await?.prune(request).await?.into_inner();
        prune::deleted("Containers", &pruned.removed)?;
        prune::reclaimed(pruned.reclaimed_bytes)?;
        Ok(0)
    }
}
