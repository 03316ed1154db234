//! `longshore cp`: copy files between a container and this machine. The rules of paths are docker's: what a trailing slash and `/.`
//! mean is decided here, by [`plan`].

mod from;
mod pack;
mod plan;
mod to;
mod unpack;

use std::io::IsTerminal;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::{human, print};

#[derive(clap::Args)]
pub struct Args {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Suppress progress output during copy
    #[arg(short, long)]
    quiet: bool,
    /// What to copy: CONTAINER:PATH, a local path, or - for a tar stream
    #[arg(value_name = "SRC")]
    source: String,
    /// Where to
    #[arg(value_name = "DEST")]
    destination: String,
}

/// Whether a link that is named is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Links {
    Followed,
    Copied,
}

impl Verb for Args {
    const ABOUT: &'static str = "Copy files/folders between a container and the local filesystem";
    const USAGE: &'static str =
        "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\tlongshore cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH";
    const ARGUMENTS: Arguments = Arguments::Exactly(2);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        for (argument, name) in [(&self.source, "source"), (&self.destination, "destination")] {
            if argument.is_empty() {
                return Err(Failure::message(format!("{name} can not be empty")));
            }
        }
        let links = if self.follow_link { Links::Followed } else { Links::Copied };
        let (copied, shown) = match (split(&self.source), split(&self.destination)) {
            (Some(_), Some(_)) => {
                return Err(Failure::message("copying between containers is not supported"));
            }
            (None, None) => return Err(Failure::message("must specify at least one container source")),
            (Some((container, path)), None) => {
                (from::copy(context, container, path, &self.destination, links).await?, &self.destination)
            }
            (None, Some((container, path))) => {
                let own = self.archive;
                (to::copy(context, &self.source, container, path, links, own).await?, &self.destination)
            }
        };
        if !self.quiet && shown != "-" && std::io::stderr().is_terminal() {
            print::note(format!("Successfully copied {} to {shown}", human::size(copied as f64)));
        }
        Ok(0)
    }
}

/// `CONTAINER:PATH`; what begins with `/` or `.` is a local path, whatever else is in it.
fn split(argument: &str) -> Option<(&str, &str)> {
    if argument == "-" || argument.starts_with('/') {
        return None;
    }
    match argument.split_once(':') {
        Some((container, path)) if !container.starts_with('.') => Some((container, path)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_container() {
        assert_eq!(split("c:/x"), Some(("c", "/x")));
        assert_eq!(split("c:"), Some(("c", "")));
        for local in ["/a:b", "./a:b", "../a:b", "a", "-", "."] {
            assert_eq!(split(local), None, "{local}");
        }
    }
}
