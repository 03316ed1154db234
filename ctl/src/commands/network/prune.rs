//! `longshore network prune`: remove networks that no container is on.

use longshore_proto::longshore::engine::v1::PruneNetworksRequest;

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
    const ABOUT: &'static str = "Remove all unused networks";
    const USAGE: &'static str = "[OPTIONS]";
    const ARGUMENTS: Arguments = Arguments::None;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let warning = "This will remove all custom networks not used by at least one container.";
        prune::ask(self.force, warning, "network prune")?;
        let request = PruneNetworksRequest { filters: self.filter };
        let pruned = context.networks().await?.prune(request).await?.into_inner();
        prune::deleted("Networks", &pruned.removed)?;
        Ok(0)
    }
}
