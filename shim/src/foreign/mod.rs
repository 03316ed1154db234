//! The command line by which any containerd uses a shim: `start`, `delete` and `-info`, and the shim that `start` leaves
//! behind.

mod bootstrap;
mod delete;
mod flags;
mod info;
mod seal;
mod serve;
mod socket;
mod start;

use std::ffi::OsString;
use std::io::{Read, Write};

pub use flags::HELP;
use flags::{Action, Flags};

use crate::error::{Error, Result};
use crate::limits;

/// Does what the words on the command line ask for.
pub fn run(words: impl Iterator<Item = OsString>) -> Result<()> {
    let flags = Flags::parse(words)?;
    match flags.action {
        Action::Version => {
            let version = env!("CARGO_PKG_VERSION");
            say(format!("containerd-shim-longshore-v1:\n  Version:  {version}\n").as_bytes())
        }
        Action::Info => info::info(),
        Action::Start => start::start(&flags),
        Action::Delete => delete::delete(&flags),
        Action::Serve => serve::serve(&flags),
    }
}

/// Everything on stdin.
fn stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let failed = |source| Error::System { doing: "read stdin", source };
    std::io::stdin().take(limits::BOOTSTRAP + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limits::BOOTSTRAP {
        let limit = usize::try_from(limits::BOOTSTRAP).unwrap_or(usize::MAX);
        return Err(Error::Limit { what: "bytes on stdin", limit });
    }
    Ok(bytes)
}

fn say(bytes: &[u8]) -> Result<()> {
    let failed = |source| Error::System { doing: "answer on stdout", source };
    let mut stdout = std::io::stdout();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(failed)
}
