//! The user's terminal and signals while a container's process is attached.
//!
//! What always holds: a terminal that was made raw is restored before anything is printed and however the command
//! ends: by return, by panic, by a signal that can be caught.

pub mod events;
mod input;
mod keys;
mod raw;
pub mod secret;
pub mod session;
mod signals;

use std::io::IsTerminal;

use longshore_proto::longshore::engine::v1::WindowSize;

use crate::failure::Failure;
pub use keys::DetachKeys;

/// Refuses `-i -t` without a terminal at our own stdin: the user would wait for a prompt that never comes.
pub fn require_for_input(stdin: bool, tty: bool) -> Result<(), Failure> {
    match stdin && tty && !std::io::stdin().is_terminal() {
        true => Err(Failure::Coded { message: "the input device is not a TTY".into(), code: 1 }),
        false => Ok(()),
    }
}

/// The size of the terminal that stdout (or else stdin) is; nothing where neither is one.
pub fn size() -> Option<WindowSize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout())
        .or_else(|_| rustix::termios::tcgetwinsize(std::io::stdin()))
        .ok()?;
    (size.ws_col > 0 && size.ws_row > 0)
        .then(|| WindowSize { columns: size.ws_col.into(), rows: size.ws_row.into() })
}
