//! `longshore volume prune`: remove the volumes that no container has.

use longshore_proto::longshore::engine::v1::PruneVolumesRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::prune;
use crate::failure::Failure;
use crate::parse::pairs;

#[derive(clap::Args)]
pub struct Args {
    /// Remove all unused volumes, not just anonymous ones
    #[arg(short, long)]
    all: bool,
    /// Only those with KEY=VALUE: label, label!, all
    #[arg(long, value_name = "KEY=VALUE", value_parser = pairs::filter)]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

impl Verb for Args {
    const ABOUT: &'static str = "Remove unused local volumes";
    const USAGE: &'static str = "[OPTIONS]";
    const ARGUMENTS: Arguments = Arguments::None;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let warning = match self.all {
            true => "This will remove all local volumes not used by at least one container.",
            false => "This will remove anonymous local volumes not used by at least one container.",
        };
        prune::ask(self.force, warning, "volume prune")?;
        let request = PruneVolumesRequest { all: self.all, filters: self.filter };
        let pruned = context.volumes().await?.prune(request).await?.into_inner();
        prune::deleted("Volumes", &pruned.removed)?;
        prune::reclaimed(pruned.reclaimed_bytes)?;
        Ok(0)
    }
}
