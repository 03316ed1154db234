//! The rotated files of one log: `log` is the one being written, `log.1` the one before, and so on.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use flate2::read::GzDecoder;
use rustix::fs::{Mode, OFlags};

/// Most rotated files that are looked for.
pub const MAX_FILES: u32 = 1000;

/// Tells files apart whatever they are called by now. The moment of its making is part of it where the file system keeps it:
/// the number of a file that is gone is soon another one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    /// Nanoseconds since 1970; 0: not known.
    born: u64,
}

impl Identity {
    pub fn from_parts([device, inode, born]: [u64; 3]) -> Identity {
        Identity { device, inode, born }
    }

    pub fn parts(self) -> [u64; 3] {
        [self.device, self.inode, self.born]
    }

    pub fn of(meta: &fs::Metadata) -> Identity {
        let since = meta.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let born = since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0);
        Identity { device: meta.dev(), inode: meta.ino(), born }
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

/// What the `number`th file is called once it is compressed.
fn packed(live: &Path, number: u32) -> PathBuf {
    let mut name = numbered(live, number).into_os_string();
    name.push(".gz");
    name.into()
}

/// Opens the `number`th file; `None` if it does not exist. A compressed one is unpacked into a file without a name.
pub fn open(live: &Path, number: u32) -> io::Result<Option<Part>> {
    let file = match File::open(numbered(live, number)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && number > 0 => return unpack(live, number),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    let (identity, size, modified) = (Identity::of(&meta), meta.len(), meta.mtime());
    Ok(Some(Part { file, identity, size, modified }))
}

fn unpack(live: &Path, number: u32) -> io::Result<Option<Part>> {
    let file = match File::open(packed(live, number)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let modified = file.metadata()?.mtime();
    let mut unpacker = GzDecoder::new(io::BufReader::new(file));
    let identity = named_in(&unpacker).ok_or(io::ErrorKind::InvalidData)?;
    let folder = live.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut plain = File::from(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?);
    let size = io::copy(&mut unpacker, &mut plain)?;
    Ok(Some(Part { file: plain, identity, size, modified }))
}

/// Which file it was: its header says so.
fn named_in<R>(unpacker: &GzDecoder<R>) -> Option<Identity>
where
    R: io::Read,
{
    let comment = std::str::from_utf8(unpacker.header()?.comment()?).ok()?;
    let mut parts = comment.splitn(3, ':').map(|part| part.parse().ok());
    Some(Identity::from_parts([parts.next()??, parts.next()??, parts.next()??]))
}

/// How many rotated files exist besides the live one.
pub fn rotated(live: &Path) -> u32 {
    let exists = |number: &u32| numbered(live, *number).exists() || packed(live, *number).exists();
    (1..=MAX_FILES).take_while(exists).last().unwrap_or(0)
}

/// Where the file that was opened as `identity` is now: its number, or `None` once it was dropped.
pub fn locate(live: &Path, identity: Identity) -> Option<u32> {
    (0..=rotated(live)).find(|&number| match fs::metadata(numbered(live, number)) {
        Ok(meta) => Identity::of(&meta) == identity,
        Err(_) => {
            let file = File::open(packed(live, number)).ok();
            file.and_then(|file| named_in(&GzDecoder::new(file))) == Some(identity)
        }
    })
}
