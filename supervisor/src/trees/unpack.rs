//! A tar stream into a folder.

use std::io::Read;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicBool;

use crate::error::{Error, Result};
use crate::images::unpack::{self, Compression, Form, Limits, Manner, Options, UnpackError};

/// Whose the files are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Whom the archive names.
    Kept,
    /// User and group.
    All(u32, u32),
}

/// Makes the files of an archive, which may be compressed, in `folder`. A folder and what is none do not replace each other; other
/// files are replaced. What was made before an error stays. Blocks.
pub fn unpack(
    source: impl Read + Send,
    folder: BorrowedFd<'_>,
    owner: Owner,
    compression: Compression,
    cancel: &AtomicBool,
) -> Result<()> {
    let owner = match owner {
        Owner::Kept => None,
        Owner::All(user, group) => Some((user, group)),
    };
    let limits = Limits::default();
    // How long the stream is, is not known: it may be as long as any.
    let options = Options { form: Form::Merged, compression, compressed: limits.total, limits, cancel };
    unpack::apply(source, folder, options, Manner::Files { owner }).map(drop).map_err(refused)
}

/// In the words that users of docker know.
pub fn refused(error: UnpackError) -> Error {
    match error {
        UnpackError::Cancelled => Error::Canceled { what: "unpacking an archive".to_owned() },
        UnpackError::Full { entry } => {
            Error::DiskFull { doing: "writing", path: entry.to_string().trim_matches('"').into() }
        }
        UnpackError::Truncated { .. } => {
            Error::invalid("Error processing tar file(exit status 1)", "unexpected EOF")
        }
        UnpackError::Write { doing, entry, source } => {
            Error::Io { doing: "unpacking", path: format!("{entry} ({doing})").into(), source }
        }
        other => Error::invalid("Error processing tar file(exit status 1)", other.to_string()),
    }
}
