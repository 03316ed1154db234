//! Compressing a file of the log that was rotated away, in a process of its own, so that the shim's memory stays small and its
//! loop goes on.
//!
//! What always holds: the file is there in one form or the other at any moment; its compressed form says in its header which
//! file it was, so that whoever has read half of it finds the rest.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use flate2::{Compression, GzBuilder};

use crate::sys;

/// What a file is called in its compressed form.
pub fn name(plain: &Path) -> PathBuf {
    let mut name = plain.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

/// Begins; the process's number. `None`: it stays as it is.
pub fn start(plain: &Path) -> Option<i32> {
    let (plain, packed) = (plain.to_owned(), name(plain));
    sys::in_child(move || {
        let done = compress(&plain, &packed);
        if done.is_err() {
            let _ = fs::remove_file(temporary(&packed));
        }
        i32::from(done.is_err())
    })
}

fn temporary(packed: &Path) -> PathBuf {
    let mut name = packed.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

fn compress(plain: &Path, packed: &Path) -> io::Result<()> {
    let mut source = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(plain)?;
    let meta = source.metadata()?;
    let written = temporary(packed);
    let _ = fs::remove_file(&written);
    let target = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&written)?;
    // The number alone is another file's as soon as this one is gone.
    let born = meta.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    let born = born.map_or(0, |born| born.as_nanos());
    let identity = format!("{}:{}:{born}", meta.dev(), meta.ino());
    let mut packer = GzBuilder::new().comment(identity).write(target, Compression::fast());
    io::copy(&mut source, &mut packer)?;
    let target: File = packer.finish()?;
    target.set_modified(meta.modified()?)?;
    fs::rename(&written, packed)?;
    fs::remove_file(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_packed_file_holds_the_same_and_says_which_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("log.1");
        fs::write(&plain, "line\n".repeat(10_000)).unwrap();
        let inode = fs::metadata(&plain).unwrap().ino();
        compress(&plain, &name(&plain)).unwrap();
        assert!(!plain.exists());
        let mut packed = flate2::read::GzDecoder::new(File::open(name(&plain)).unwrap());
        let mut text = String::new();
        packed.read_to_string(&mut text).unwrap();
        assert_eq!(text, "line\n".repeat(10_000));
        let comment = String::from_utf8(packed.header().unwrap().comment().unwrap().to_vec()).unwrap();
        assert_eq!(comment.split(':').nth(1), Some(inode.to_string().as_str()), "{comment}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
