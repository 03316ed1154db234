//! `longshore system prune`: remove what nothing needs, of every kind.

use longshore_proto::longshore::engine::v1::{
    PruneImagesRequest, PruneNetworksRequest, PruneRequest, PruneVolumesRequest,
};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::commands::image::prune::deleted;
use crate::commands::prune;
use crate::failure::Failure;
use crate::parse::pairs;

#[derive(clap::Args)]
pub struct Args {
    /// Remove all unused images not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Only what has KEY=VALUE: label, label!, until
    #[arg(long, value_name = "KEY=VALUE", value_parser = pairs::filter)]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
    /// Prune anonymous volumes
    #[arg(long)]
    volumes: bool,
}

impl Verb for Args {
    const ABOUT: &'static str = "Remove unused data";
    const USAGE: &'static str = "[OPTIONS]";
    const ARGUMENTS: Arguments = Arguments::None;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        if self.volumes && self.filter.iter().any(|filter| filter.starts_with("until=")) {
            return Err(Failure::message("ERROR: The \"until\" filter is not supported with \"--volumes\""));
        }
        prune::ask(self.force, &self.warning(), "system prune")?;
        let request = PruneRequest { filters: self.filter.clone() };
        let containers = context.containers().await?.prune(request).await?.into_inner();
        prune::deleted("Containers", &containers.removed)?;
        let request = PruneNetworksRequest { filters: self.filter.clone() };
        let networks = context.networks().await?.prune(request).await?.into_inner();
        prune::deleted("Networks", &networks.removed)?;
        let mut reclaimed = containers.reclaimed_bytes;
        if self.volumes {
            let request = PruneVolumesRequest { all: false, filters: self.filter.clone() };
            let volumes = context.volumes().await?.prune(request).await?.into_inner();
            prune::deleted("Volumes", &volumes.removed)?;
            reclaimed = reclaimed.saturating_add(volumes.reclaimed_bytes);
        }
        let request = PruneImagesRequest { all: self.all, filters: self.filter };
        let images = context.images().await?.prune(request).await?.into_inner();
        deleted(&images)?;
        prune::reclaimed(reclaimed.saturating_add(images.reclaimed_bytes))?;
        Ok(0)
    }
}

impl Args {
    fn warning(&self) -> String {
        let volumes = self.volumes.then_some("all anonymous volumes not used by at least one container");
        let images = match self.all {
            true => "all images without at least one container associated to them",
            false => "all dangling images",
        };
        let always = ["all stopped containers", "all networks not used by at least one container"];
        let mut text = "This will remove:\n".to_owned();
        for what in always.into_iter().chain(volumes).chain([images]) {
            text.push_str(&format!("  - {what}\n"));
        }
        if !self.filter.is_empty() {
            text.push_str("\n  Items to be pruned will be filtered with:\n");
            let mut filters = self.filter.clone();
            filters.sort();
            filters.iter().for_each(|filter| text.push_str(&format!("  - {filter}\n")));
        }
        text
    }
}
