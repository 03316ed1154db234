//! `longshore images`: list images, a row for each name.

use longshore_proto::longshore::engine::v1::{ImageSummary, ListImagesRequest};

use crate::cli::{Arguments, Unbuilt, Verb, long};
use crate::client::Context;
use crate::failure::Failure;
use crate::fields;
use crate::output::human;
use crate::output::list::{self, Layout};
use crate::output::value::Value;
use crate::parse::pairs;

const NONE: &str = "<none>";

#[derive(clap::Args)]
pub struct Args {
    /// Show all images; there are no intermediate ones to hide
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Only those with KEY=VALUE: before, dangling, label, reference, since, until
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pairs::filter)]
    filter: Vec<String>,
    /// `table`, `table TEMPLATE`, `json`, or a Go template such as {{.Repository}}
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// Only this repository, or this tag of it
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: Option<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "List images";
    const USAGE: &'static str = "[OPTIONS] [REPOSITORY[:TAG]]";
    const ARGUMENTS: Arguments = Arguments::AtMost(1);
    const UNBUILT: &'static [Unbuilt] = &[long("tree")];

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        list::check(self.format.as_deref())?;
        let mut filters = self.filter.clone();
        filters.extend(self.repository.as_ref().map(|name| format!("reference={name}")));
        let request = ListImagesRequest { filters, all: self.all };
        let images = context.images().await?.list(request).await?.into_inner().images;
        let rows: Vec<Value> = images.iter().flat_map(|image| self.rows(image)).collect();
        let layout = Layout {
            table: match self.digests {
                true => "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
                false => "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
            },
            quiet: self.quiet.then_some("{{.ID}}"),
            headings: HEADINGS,
        };
        list::print(self.format.as_deref(), &layout, &rows)?;
        Ok(0)
    }
}

const HEADINGS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "VIRTUAL SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

impl Args {
    fn rows(&self, image: &ImageSummary) -> Vec<Value> {
        let digest_of = |repository: &str| {
            image
                .repo_digests
                .iter()
                .filter_map(|name| name.split_once('@'))
                .find(|(name, _)| *name == repository)
                .map_or(NONE, |(_, digest)| digest)
        };
        let mut rows: Vec<Value> = image
            .tags
            .iter()
            .map(|name| {
                let (repository, tag) = name.rsplit_once(':').unwrap_or((name, NONE));
                self.row(image, repository, tag, digest_of(repository))
            })
            .collect();
        if rows.is_empty() {
            let named = image.repo_digests.first().and_then(|name| name.split_once('@'));
            let (repository, digest) = named.unwrap_or((NONE, NONE));
            rows.push(self.row(image, repository, NONE, digest));
        }
        rows
    }

    fn row(&self, image: &ImageSummary, repository: &str, tag: &str, digest: &str) -> Value {
        let size = human::size(image.size as f64);
        fields! {
            "ID" => if self.no_trunc { image.id.as_str() } else { human::short_id(&image.id) },
            "Repository" => repository,
            "Tag" => tag,
            "Digest" => digest,
            "CreatedSince" => human::ago(image.created_at.as_ref()),
            "CreatedAt" => human::local(image.created_at.as_ref()),
            "Size" => size.as_str(),
            "Containers" => "N/A",
            "VirtualSize" => size.as_str(),
            "SharedSize" => "N/A",
            "UniqueSize" => "N/A",
        }
    }
}
