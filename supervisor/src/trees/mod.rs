//! Trees of files on their way: out of a folder as a tar stream, out of such a stream into a folder, from folder to folder.
//!
//! What always holds: every file is reached from a descriptor of the folder, one component at a time and without following a link
//! in the kernel, so that nobody who writes there meanwhile can lead the way out; what cannot be taken along is an error, not left out
//! (sockets are: they mean nothing elsewhere).

#![forbid(unsafe_code)]

mod copy;
mod pack;
mod path;
mod regular;
mod unpack;

pub use copy::copy_contents;
pub use pack::{pack, pack_contents};
pub use path::{Found, Last, look_up};
pub use regular::{open_regular, reopen_regular};
pub use unpack::{Owner, refused, unpack};

pub use crate::diff::layer::Holes;
