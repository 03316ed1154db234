//! `longshore push`: send an image to a registry.

use longshore_proto::longshore::engine::v1::PushRequest;
use longshore_proto::longshore::engine::v1::push_progress::What;

use crate::auth;
use crate::cli::{Arguments, Unbuilt, Verb, long};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;
use crate::output::push::Push;
use crate::parse::reference;

#[derive(clap::Args)]
pub struct Args {
    /// Push all tags of an image to the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Push only the image of this platform, as in linux/amd64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Upload an image to a registry";
    const USAGE: &'static str = "[OPTIONS] NAME[:TAG]";
    const ARGUMENTS: Arguments = Arguments::Exactly(1);
    const UNBUILT: &'static [Unbuilt] = &[long("disable-content-trust")];

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let named = reference::split(&self.name);
        let bare = named.tag.is_none() && named.digest.is_none();
        if self.all_tags && !bare {
            return Err(Failure::message("tag can't be used with --all-tags/-a"));
        }
        if named.digest.is_some() {
            return Err(Failure::message("cannot push a digest reference"));
        }
        let request = PushRequest {
            reference: self.name.clone(),
            all_tags: self.all_tags,
            platform: self.platform.unwrap_or_default(),
            auth: auth::for_image(&self.name),
        };
        let mut events = context.images().await?.push(request).await?.into_inner();
        let mut push = (!self.quiet).then(Push::default);
        let mut begun = false;
        while let Some(event) = events.message().await.map_err(Failure::from).map_err(Failure::plain)? {
            // Said once the daemon has taken the reference for valid.
            if !std::mem::replace(&mut begun, true) && bare && !self.all_tags && !self.quiet {
                print::line("Using default tag: latest")?;
            }
            match (&mut push, event) {
                (Some(push), event) => push.show(event)?,
                (None, event) => {
                    if let Some(What::Note(text)) = event.what {
                        print::note(text);
                    }
                }
            }
        }
        match push {
            Some(push) => push.finish()?,
            None => print::line(canonical(&self.name, self.all_tags))?,
        }
        Ok(0)
    }
}

/// The reference as docker prints it after a quiet push: in full.
fn canonical(name: &str, all_tags: bool) -> String {
    let named = reference::split(name);
    let repository = format!("{}/{}", named.registry, named.path);
    match (named.tag, all_tags) {
        (Some(tag), _) => format!("{repository}:{tag}"),
        (None, true) => repository,
        (None, false) => format!("{repository}:latest"),
    }
}
