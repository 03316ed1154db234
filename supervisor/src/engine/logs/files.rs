//! The rotated files of one log: `log` is the one being written, `log.1` the one before, and so on.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most rotated files that are looked for.
pub const MAX_FILES: u32 = 1000;

/// Tells files apart whatever they are called by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub fn of(meta: &fs::Metadata) -> Identity {
        Identity { device: meta.dev(), inode: meta.ino() }
    }
}

/// The name of the `number`th file before the live one; 0: the live one.
pub fn numbered(live: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return live.to_owned();
    }
    let mut name = live.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// An open file of the log.
pub struct Part {
    pub file: File,
    pub identity: Identity,
    pub size: u64,
    pub modified: i64,
}

/// Opens the `number`th file; `None` if it does not exist.
pub fn open(live: &Path, number: u32) -> io::Result<Option<Part>> {
    let file = match File::open(numbered(live, number)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    let (identity, size, modified) = (Identity::of(&meta), meta.len(), meta.mtime());
    Ok(Some(Part { file, identity, size, modified }))
}

/// How many rotated files exist besides the live one.
pub fn rotated(live: &Path) -> u32 {
    (1..=MAX_FILES).take_while(|&number| numbered(live, number).exists()).last().unwrap_or(0)
}

/// Where the file that was opened as `identity` is now: its number, or `None` once it was dropped.
pub fn locate(live: &Path, identity: Identity) -> Option<u32> {
    (0..=rotated(live)).find(|&number| {
        fs::metadata(numbered(live, number)).is_ok_and(|meta| Identity::of(&meta) == identity)
    })
}
