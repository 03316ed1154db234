//! Verbs on containers.

pub mod attach;
pub mod commit;
pub mod cp;
pub mod create;
pub mod diff;
pub mod exec;
pub mod export;
pub mod flags;
pub mod inspect;
pub mod kill;
pub mod logs;
pub mod ls;
pub mod pause;
pub mod port;
pub mod prune;
pub mod rename;
pub mod restart;
pub mod rm;
pub mod run;
pub mod start;
pub mod stats;
pub mod stop;
pub mod top;
pub mod unpause;
pub mod update;
pub mod wait;

use std::path::Path;

use longshore_proto::longshore::engine::v1::{Created, PullProgress};

use crate::failure::Failure;
use crate::output::print::{self, Target};
use crate::output::progress::Progress;
use crate::parse::reference;
use crate::terminal::session::Stages;

/// What the user sees while run and create make a container.
struct Making<'a> {
    cidfile: Option<&'a Path>,
    /// Nothing with `-q`.
    progress: Option<Progress>,
    created: Option<String>,
}

impl<'a> Making<'a> {
    /// Refuses a cidfile that is there already: another container's.
    fn new(
        image: &str,
        cidfile: Option<&'a Path>,
        verbosity: flags::Verbosity,
    ) -> Result<Making<'a>, Failure> {
        if let Some(path) = cidfile.filter(|path| path.symlink_metadata().is_ok()) {
            return Err(Failure::message(format!(
                "container ID file found, make sure the other container isn't running or delete {}",
                path.display()
            )));
        }
        let progress = match verbosity {
            flags::Verbosity::Normal => Some(Progress::new(Target::Stderr, image)),
            flags::Verbosity::Quiet => None,
        };
        Ok(Making { cidfile, progress, created: None })
    }
}

impl Stages for Making<'_> {
    fn image_missing(&mut self, image: &str) {
        if self.progress.is_some() {
            print::note(format!("Unable to find image '{}' locally", reference::familiar(image)));
        }
    }

    fn pull(&mut self, message: PullProgress) {
        if let Some(progress) = &mut self.progress {
            progress.show(message);
        }
    }

    fn created(&mut self, created: &Created) -> Result<(), Failure> {
        self.progress = None;
        for warning in &created.warnings {
            print::note(format!("WARNING: {warning}"));
        }
        self.created = Some(created.id.clone());
        match self.cidfile {
            Some(path) => {
                std::fs::write(path, &created.id).map_err(|error| Failure::file("write", path, &error))
            }
            None => Ok(()),
        }
    }
}
