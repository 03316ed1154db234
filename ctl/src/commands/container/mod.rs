//! Verbs on containers.

pub mod attach;
mod cidfile;
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

use cidfile::Cidfile;
use longshore_proto::longshore::engine::v1::{Created, PullProgress};

use crate::failure::Failure;
use crate::output::print::{self, Target};
use crate::output::progress::Progress;
use crate::parse::reference;
use crate::terminal::session::Stages;

/// What the user sees while run and create make a container.
struct Making<'a> {
    cidfile: Option<Cidfile<'a>>,
    /// Nothing with `-q`.
    progress: Option<Progress>,
    created: Option<String>,
}

impl<'a> Making<'a> {
    fn new(
        image: &str,
        cidfile: Option<&'a Path>,
        verbosity: flags::Verbosity,
    ) -> Result<Making<'a>, Failure> {
        let cidfile = cidfile.map(Cidfile::new).transpose()?;
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
        self.cidfile.as_mut().map_or(Ok(()), |file| file.write(&created.id))
    }
}
