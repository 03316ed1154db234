//! `longshore image prune`: remove images that nothing needs.

use longshore_proto::longshore::engine::v1::{PruneImagesRequest, PruneImagesResponse};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::prune;
use crate::failure::Failure;
use crate::parse::pairs;

#[derive(clap::Args)]
pub struct Args {
    /// Remove all unused images, not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Only those with KEY=VALUE: label, label!, until
    #[arg(long, value_name = "KEY=VALUE", value_parser = pairs::filter)]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

impl Verb for Args {
    const ABOUT: &'static str = "Remove unused images";
    const USAGE: &'static str = "[OPTIONS]";
    const ARGUMENTS: Arguments = Arguments::None;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let warning = match self.all {
            true => "This will remove all images without at least one container associated to them.",
            false => "This will remove all dangling images.",
        };
        prune::ask(self.force, warning, "image prune")?;
        let request = PruneImagesRequest { all: self.all, filters: self.filter };
        let pruned = context.images().await?.prune(request).await?.into_inner();
        deleted(&pruned)?;
        prune::reclaimed(pruned.reclaimed_bytes)?;
        Ok(0)
    }
}

/// What was removed, if something was.
pub fn deleted(pruned: &PruneImagesResponse) -> Result<(), Failure> {
    let untagged = pruned.untagged.iter().map(|name| format!("untagged: {name}"));
    let deleted = pruned.deleted.iter().map(|id| format!("deleted: {id}"));
    prune::deleted("Images", &untagged.chain(deleted).collect::<Vec<_>>())
}
