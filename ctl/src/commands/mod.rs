//! The verbs: a folder for each noun, a file for each verb, and the tables that name them. Every container and image
//! verb is reachable as `longshore container VERB` or `longshore image VERB`; the daily ones also by themselves.

pub mod completion;
pub mod container;
pub mod context;
mod host_config;
pub mod image;
pub mod inspect;
pub mod network;
pub mod prune;
pub mod registry;
pub mod system;
pub mod volume;

use crate::cli::{Entry, Noun};
use crate::failure::Failure;
use crate::output::print;

/// What is behind a word of its own, in the order of the help.
pub const NOUNS: &[Noun] = &[
    Noun { name: "container", about: "Manage containers", verbs: CONTAINER },
    Noun { name: "context", about: "Manage contexts", verbs: CONTEXT },
    Noun { name: "image", about: "Manage images", verbs: IMAGE },
    Noun { name: "network", about: "Manage networks", verbs: NETWORK },
    Noun { name: "system", about: "Manage longshore", verbs: SYSTEM },
    Noun { name: "volume", about: "Manage volumes", verbs: VOLUME },
];

/// The verbs that help shows first.
pub const COMMON: &[&str] =
    &["run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "search", "version", "info"];

/// `longshore VERB`.
pub const TOP: &[Entry] = &[
    Entry::of::<container::run::Args>("run", &[]),
    Entry::of::<container::exec::Args>("exec", &[]),
    Entry::of::<container::ls::Args>("ps", &[]),
    Entry::of::<image::pull::Args>("pull", &[]),
    Entry::of::<image::ls::Args>("images", &[]),
    Entry::of::<container::attach::Args>("attach", &[]),
    Entry::of::<container::commit::Args>("commit", &[]),
    Entry::of::<container::cp::Args>("cp", &[]),
    Entry::of::<container::create::Args>("create", &[]),
    Entry::of::<container::diff::Args>("diff", &[]),
    Entry::of::<container::export::Args>("export", &[]),
    Entry::of::<image::import::Args>("import", &[]),
    Entry::of::<system::events::Args>("events", &[]),
    Entry::of::<image::history::Args>("history", &[]),
    Entry::of::<system::info::Args>("info", &[]),
    Entry::of::<inspect::Args>("inspect", &[]),
    Entry::of::<container::kill::Args>("kill", &[]),
    Entry::of::<image::load::Args>("load", &[]),
    Entry::of::<registry::login::Args>("login", &[]),
    Entry::of::<registry::logout::Args>("logout", &[]),
    Entry::of::<container::logs::Args>("logs", &[]),
    Entry::of::<container::pause::Args>("pause", &[]),
    Entry::of::<image::push::Args>("push", &[]),
    Entry::of::<container::port::Args>("port", &[]),
    Entry::of::<container::rename::Args>("rename", &[]),
    Entry::of::<container::restart::Args>("restart", &[]),
    Entry::of::<container::rm::Args>("rm", &[]),
    Entry::of::<image::rm::Args>("rmi", &[]),
    Entry::of::<image::save::Args>("save", &[]),
    Entry::of::<container::start::Args>("start", &[]),
    Entry::of::<container::stats::Args>("stats", &[]),
    Entry::of::<container::stop::Args>("stop", &[]),
    Entry::of::<image::tag::Args>("tag", &[]),
    Entry::of::<container::top::Args>("top", &[]),
    Entry::of::<container::unpause::Args>("unpause", &[]),
    Entry::of::<container::update::Args>("update", &[]),
    Entry::of::<system::version::Args>("version", &[]),
    Entry::of::<container::wait::Args>("wait", &[]),
    Entry::of::<completion::Args>("completion", &[]),
];

/// `longshore container VERB`.
pub const CONTAINER: &[Entry] = &[
    Entry::of::<container::attach::Args>("attach", &[]),
    Entry::of::<container::commit::Args>("commit", &[]),
    Entry::of::<container::cp::Args>("cp", &[]),
    Entry::of::<container::create::Args>("create", &[]),
    Entry::of::<container::diff::Args>("diff", &[]),
    Entry::of::<container::exec::Args>("exec", &[]),
    Entry::of::<container::export::Args>("export", &[]),
    Entry::of::<container::inspect::Args>("inspect", &[]),
    Entry::of::<container::kill::Args>("kill", &[]),
    Entry::of::<container::logs::Args>("logs", &[]),
    Entry::of::<container::ls::Args>("ls", &["list", "ps"]),
    Entry::of::<container::pause::Args>("pause", &[]),
    Entry::of::<container::port::Args>("port", &[]),
    Entry::of::<container::prune::Args>("prune", &[]),
    Entry::of::<container::rename::Args>("rename", &[]),
    Entry::of::<container::restart::Args>("restart", &[]),
    Entry::of::<container::rm::Args>("rm", &["remove"]),
    Entry::of::<container::run::Args>("run", &[]),
    Entry::of::<container::start::Args>("start", &[]),
    Entry::of::<container::stats::Args>("stats", &[]),
    Entry::of::<container::stop::Args>("stop", &[]),
    Entry::of::<container::top::Args>("top", &[]),
    Entry::of::<container::unpause::Args>("unpause", &[]),
    Entry::of::<container::update::Args>("update", &[]),
    Entry::of::<container::wait::Args>("wait", &[]),
];

/// `longshore image VERB`.
pub const IMAGE: &[Entry] = &[
    Entry::of::<image::history::Args>("history", &[]),
    Entry::of::<image::import::Args>("import", &[]),
    Entry::of::<image::inspect::Args>("inspect", &[]),
    Entry::of::<image::load::Args>("load", &[]),
    Entry::of::<image::ls::Args>("ls", &["list"]),
    Entry::of::<image::prune::Args>("prune", &[]),
    Entry::of::<image::pull::Args>("pull", &[]),
    Entry::of::<image::push::Args>("push", &[]),
    Entry::of::<image::rm::Args>("rm", &["remove"]),
    Entry::of::<image::save::Args>("save", &[]),
    Entry::of::<image::tag::Args>("tag", &[]),
];

/// `longshore context VERB`.
pub const CONTEXT: &[Entry] = &[
    Entry::of::<context::create::Args>("create", &[]),
    Entry::of::<context::export::Args>("export", &[]),
    Entry::of::<context::import::Args>("import", &[]),
    Entry::of::<context::inspect::Args>("inspect", &[]),
    Entry::of::<context::ls::Args>("ls", &["list"]),
    Entry::of::<context::rm::Args>("rm", &["remove"]),
    Entry::of::<context::show::Args>("show", &[]),
    Entry::of::<context::update::Args>("update", &[]),
    Entry::of::<context::r#use::Args>("use", &[]),
];

/// `longshore network VERB`.
pub const NETWORK: &[Entry] = &[
    Entry::of::<network::connect::Args>("connect", &[]),
    Entry::of::<network::create::Args>("create", &[]),
    Entry::of::<network::disconnect::Args>("disconnect", &[]),
    Entry::of::<network::inspect::Args>("inspect", &[]),
    Entry::of::<network::ls::Args>("ls", &["list"]),
    Entry::of::<network::prune::Args>("prune", &[]),
    Entry::of::<network::rm::Args>("rm", &["remove"]),
];

/// `longshore system VERB`.
pub const SYSTEM: &[Entry] = &[
    Entry::of::<system::df::Args>("df", &[]),
    Entry::of::<system::dial_stdio::Args>("dial-stdio", &[]),
    Entry::of::<system::events::Args>("events", &[]),
    Entry::of::<system::info::Args>("info", &[]),
    Entry::of::<system::prune::Args>("prune", &[]),
];

/// `longshore volume VERB`.
pub const VOLUME: &[Entry] = &[
    Entry::of::<volume::create::Args>("create", &[]),
    Entry::of::<volume::inspect::Args>("inspect", &[]),
    Entry::of::<volume::ls::Args>("ls", &["list"]),
    Entry::of::<volume::prune::Args>("prune", &[]),
    Entry::of::<volume::rm::Args>("rm", &["remove"]),
];

/// docker's commands that this version has not.
pub const UNBUILT: &[&str] = &[
    "build", "builder", "buildx", "compose", "config", "manifest", "node", "plugin", "secret", "service",
    "stack", "swarm", "trust",
];

/// docker's commands that there will not be, each with the reason and what to do instead.
pub const REFUSED: &[(&str, &str)] = &[(
    "search",
    "only Docker Hub can be searched, by an interface of its own that registries do not have; look at \
     https://hub.docker.com, or ask a registry that lists its repositories at /v2/_catalog",
)];

/// Does something to each of several things, as docker does: names what succeeded on stdout, what failed on stderr,
/// and goes on to the next. The exit code is 1 if something failed.
pub async fn each<F>(names: &[String], action: impl FnMut(String) -> F) -> Result<u8, Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    Ok(u8::from(!failing(names, action).await?.is_empty()))
}

/// As `each`; returns those that failed.
pub async fn failing<F>(names: &[String], mut action: impl FnMut(String) -> F) -> Result<Vec<String>, Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let mut failed = Vec::new();
    for name in names {
        if !told(name, action(name.clone()).await)? {
            failed.push(name.clone());
        }
    }
    Ok(failed)
}

/// Most that one command does at once.
const AT_ONCE: usize = 50;

/// As `each`, for what may take its time with each of them: all at once, told in their order.
pub async fn each_at_once<F>(names: &[String], action: impl FnMut(String) -> F) -> Result<u8, Failure>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let mut failed = false;
    at_once(names, action, |name, outcome| {
        failed |= !told(name, outcome)?;
        Ok(())
    })
    .await?;
    Ok(u8::from(failed))
}

/// Does something to all of several things, and tells how it went in their order.
pub async fn at_once<F>(
    names: &[String],
    mut action: impl FnMut(String) -> F,
    mut tell: impl FnMut(&str, Result<(), Failure>) -> Result<(), Failure>,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    for some in names.chunks(AT_ONCE) {
        let begun: Vec<_> = some.iter().map(|name| tokio::spawn(action(name.clone()))).collect();
        for (name, work) in some.iter().zip(begun) {
            let ended = work.await.map_err(|error| Failure::message(format!("{name}: {error}")));
            tell(name, ended.and_then(std::convert::identity))?;
        }
    }
    Ok(())
}

/// False: it failed, which was said. An error: there is nobody to ask for the others either.
fn told(name: &str, outcome: Result<(), Failure>) -> Result<bool, Failure> {
    match outcome {
        Ok(()) => print::line(name)?,
        Err(failure @ (Failure::Unreachable { .. } | Failure::Lost { .. } | Failure::BrokenPipe)) => {
            return Err(failure);
        }
        Err(failure) => {
            print::note(failure.to_string());
            return Ok(false);
        }
    }
    Ok(true)
}

/// Asks before something is deleted. A stdin at its end is a no.
pub fn confirm(warning: &str, what: &str) -> Result<(), Failure> {
    use std::io::BufRead;
    print::out(&format!("WARNING! {warning}\nAre you sure you want to continue? [y/N] "))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" => Ok(()),
        _ => Err(Failure::message(format!("{what} has been cancelled"))),
    }
}
