//! What can be wrong with a layer, each as its own case. Whoever knows the layer's digest adds it.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;

use rustix::io::Errno;

/// A tar entry's name, made printable and short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryName(String);

impl EntryName {
    pub fn new(name: &[u8]) -> EntryName {
        const SHOWN: usize = 200;
        let mut text = String::from_utf8_lossy(&name[..name.len().min(SHOWN)]).escape_debug().to_string();
        if name.len() > SHOWN {
            text.push('…');
        }
        EntryName(text)
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// A rule for layers: the message says what an entry did that none may do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    #[error("a name must not be absolute")]
    AbsoluteName,
    #[error("a name must not contain `..`")]
    DotDot,
    #[error("a name must not be empty")]
    EmptyName,
    #[error("a name must not contain NUL")]
    NulInName,
    #[error("a name's component must not be longer than 255 bytes")]
    LongComponent,
    #[error("a name must not be longer than {} bytes", super::MAX_PATH)]
    LongName,
    #[error("an entry must not be deeper than {0} directories")]
    TooDeep(usize),
    #[error("a layer must not have more than {0} entries")]
    TooManyEntries(u64),
    #[error("the root must stay a directory")]
    ReplacesRoot,
    #[error("cannot overwrite directory with non-directory")]
    ReplacesDirectory,
    #[error("cannot overwrite non-directory with directory")]
    ReplacesFile,
    #[error("a parent directory must not be a link that leads out of the image")]
    ParentEscapes,
    #[error("a parent directory must not lead through more than 40 links")]
    LinkLoop,
    #[error("a parent must be a directory")]
    ParentNotDirectory,
    #[error("a hard link must stay within the image")]
    HardLinkEscapes,
    #[error("a hard link's target must exist in the image")]
    HardLinkToNothing,
    #[error("a hard link's target must not be a directory")]
    HardLinkToDirectory,
    #[error("a symbolic link's target must be 1 to 4095 bytes without NUL")]
    BadSymlinkTarget,
    #[error("a whiteout must name something: `.wh.` followed by nothing, `.` or `..` does not")]
    EmptyWhiteout,
    #[error("a directory must not be named like a whiteout")]
    WhiteoutDirectory,
    #[error("the character device 0:0 is reserved for whiteouts")]
    WhiteoutDevice,
    #[error("the extended attribute {0} is reserved for the host")]
    ReservedXattr(String),
    #[error("an extended attribute's name must be 1 to 255 bytes and its value at most 64 KiB")]
    BadXattr,
    #[error("the extended header contradicts the entry's {0}")]
    ContradictoryPax(&'static str),
    #[error("a global extended header must not set an entry's {0}")]
    GlobalPax(&'static str),
    #[error("the extended header is malformed")]
    MalformedPax,
    #[error("an extended header must not be larger than {} bytes", super::MAX_EXTENSION)]
    LargeExtension,
    #[error("an extended header must be followed by its entry")]
    DanglingExtension,
    #[error("an entry must not have two extended headers of one kind")]
    RepeatedExtension,
    #[error("the sparse map is malformed, overlapping or out of bounds")]
    BadSparseMap,
    #[error("the {0} is negative, malformed or out of range")]
    BadNumber(&'static str),
    #[error("the header's checksum is wrong")]
    BadChecksum,
    #[error("entries of type {0:?} are not supported")]
    UnknownType(char),
    #[error("the files of a layer must not add up to more than {0} bytes (files with holes count whole)")]
    TooLarge(u64),
}

/// Why a layer was not applied.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("entry {entry} refused: {rule}")]
    Refused { entry: EntryName, rule: Rule },
    #[error("the {format} stream is damaged: {source}")]
    Damaged { format: &'static str, source: io::Error },
    #[error("the archive ends in the middle of {within}")]
    Truncated { within: &'static str },
    #[error(
        "the layer unpacks to more than {limit} bytes, the limit for one of {compressed} bytes: it looks like a decompression bomb"
    )]
    Bomb { limit: u64, compressed: u64 },
    #[error("the layer's media type {0} is not supported")]
    MediaType(String),
    /// The layer means something only on top of its parent: it must be applied to a mount of that.
    #[error("entry {entry} depends on the layers below")]
    NeedsParent { entry: EntryName },
    #[error(
        "no space left on the device while writing entry {entry}: free some (`longshore image prune`) and try again"
    )]
    Full { entry: EntryName },
    #[error("cannot {doing} {entry}: {source}")]
    Write { doing: &'static str, entry: EntryName, source: io::Error },
    #[error("cannot read the layer: {0}")]
    Read(#[source] io::Error),
    #[error("cannot start a thread to inflate the layer: {0}")]
    Thread(#[source] io::Error),
    #[error("the unpacking was cancelled")]
    Cancelled,
}

impl UnpackError {
    pub fn refused(entry: &[u8], rule: Rule) -> UnpackError {
        UnpackError::Refused { entry: EntryName::new(entry), rule }
    }

    pub fn write(doing: &'static str, entry: &[u8], errno: Errno) -> UnpackError {
        let entry = EntryName::new(entry);
        match errno {
            Errno::NOSPC | Errno::DQUOT => UnpackError::Full { entry },
            errno => UnpackError::Write { doing, entry, source: errno.into() },
        }
    }

    /// Nothing is wrong with the layer itself: it may be tried again.
    pub fn is_full(&self) -> bool {
        matches!(self, UnpackError::Full { .. })
    }
}
