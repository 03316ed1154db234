//! `longshore pull`: fetch an image.

use longshore_proto::longshore::engine::v1::PullRequest;

use crate::auth;
use crate::cli::{Arguments, Unbuilt, Verb, long};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print::{self, Target};
use crate::output::progress::Progress;
use crate::parse::reference;

#[derive(clap::Args)]
pub struct Args {
    /// Download all tagged images in the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Platform of the image, as in linux/amd64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Download an image from a registry";
    const USAGE: &'static str = "[OPTIONS] NAME[:TAG|@DIGEST]";
    const ARGUMENTS: Arguments = Arguments::Exactly(1);
    const UNBUILT: &'static [Unbuilt] = &[long("disable-content-trust")];

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let named = reference::split(&self.name);
        let bare = named.tag.is_none() && named.digest.is_none();
        if self.all_tags && !bare {
            return Err(Failure::message("tag can't be used with --all-tags/-a"));
        }
        let request = PullRequest {
            reference: self.name.clone(),
            platform: self.platform.unwrap_or_default(),
            auth: auth::for_image(&self.name),
            all_tags: self.all_tags,
        };
        let mut events = context.images().await?.pull(request).await?.into_inner();
        let mut progress = (!self.quiet).then(|| match self.all_tags {
            true => Progress::of_all_tags(Target::Stdout, &self.name),
            false => Progress::new(Target::Stdout, &self.name),
        });
        let mut started = false;
        let mut canonical = None;
        while let Some(event) = events.message().await? {
            // Said once the daemon has taken the reference for valid.
            if !std::mem::replace(&mut started, true) && bare && !self.quiet && !self.all_tags {
                print::line("Using default tag: latest")?;
            }
            let done = match (&mut progress, event.what) {
                (Some(progress), what) => {
                    progress.show(longshore_proto::longshore::engine::v1::PullProgress { what })
                }
                (None, Some(longshore_proto::longshore::engine::v1::pull_progress::What::Done(done))) => {
                    Some(done)
                }
                (None, _) => None,
            };
            canonical = done.map(|done| done.canonical_reference).or(canonical);
        }
        match canonical {
            Some(canonical) => match (named.tag, named.digest) {
                (Some(tag), Some(digest)) => {
                    print::line(format!("{}/{}:{tag}@{digest}", named.registry, named.path))?;
                }
                _ => print::line(canonical)?,
            },
            None => {
                return Err(Failure::message(format!("the daemon ended the pull of {} early", self.name)));
            }
        }
        Ok(0)
    }
}
