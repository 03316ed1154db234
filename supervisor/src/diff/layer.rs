//! A layer under construction: files of a tree become entries.
//!
//! What always holds: a directory's entry comes before those in it, a hard link's target before the link; file data are as long as the
//! entry says, or the layer fails; the times of what hides are 0.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::header::{Header, Kind};
use super::stream::Output;
use crate::error::{Error, Result};
use crate::images::unpack::tree::proc_path;
use crate::trees::open_regular;

const READ: usize = 256 * 1024;
/// A file with holes of at least so many bytes is written without them. Others are written out, as other engines do it.
const SPARSE_FROM: u64 = 16 << 20;
/// A file in more pieces is written out.
const MAX_PIECES: usize = 4096;
/// Bytes of the names of attributes, and of a value: as the kernel has it, and what nearly always suffices.
const MAX_XATTRS: usize = 64 * 1024;
const SOME_XATTRS: usize = 256;
const WHITEOUT: &[u8] = b".wh.";

pub struct Layer<'a, 'o> {
    out: &'a mut Output<'o>,
    /// Of the tree that the layer is to make.
    root: BorrowedFd<'a>,
    /// Later times become this one; seconds.
    newest: Option<u64>,
    names: Names,
    /// Instead of this beginning of every name, that one.
    renamed: Option<(Vec<u8>, Vec<u8>)>,
    /// Whether holes may be left out, which not all readers of tar understand.
    holes: Holes,
    directories: HashSet<Vec<u8>>,
    /// Device and inode of files with several names, by the first name that was written.
    linked: HashMap<(u64, u64), Vec<u8>>,
    /// Names of such files that have not changed.
    unchanged: HashMap<(u64, u64), Vec<Vec<u8>>>,
    buffer: Vec<u8>,
}

/// What a name that begins with `.wh.` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// Something is hidden.
    OfALayer,
    /// Itself.
    Plain,
}

/// How files with holes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holes {
    LeftOut,
    WrittenOut,
}

/// A file and where it is.
pub struct Place<'a> {
    pub parent: BorrowedFd<'a>,
    pub leaf: &'a [u8],
    /// From the root, without a slash at the beginning.
    pub path: &'a [u8],
    pub stat: Stat,
}

impl Place<'_> {
    fn key(&self) -> Option<(u64, u64)> {
        let several = self.stat.st_nlink > 1 && !is_directory(&self.stat);
        several.then_some((self.stat.st_dev, self.stat.st_ino))
    }
}

pub fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

impl<'a, 'o> Layer<'a, 'o> {
    pub fn new(out: &'a mut Output<'o>, root: BorrowedFd<'a>, newest: Option<u64>) -> Self {
        Self {
            out,
            root,
            newest,
            names: Names::OfALayer,
            renamed: None,
            holes: Holes::LeftOut,
            directories: HashSet::new(),
            linked: HashMap::new(),
            unchanged: HashMap::new(),
            buffer: Vec::new(),
        }
    }

    /// A plain archive, in which no name has a meaning of its own.
    pub fn plain(out: &'a mut Output<'o>, root: BorrowedFd<'a>, holes: Holes) -> Self {
        Self { names: Names::Plain, holes, ..Self::new(out, root, None) }
    }

    /// What is at `from`, and all below it, goes by the name `to`.
    pub fn renaming(self, from: &[u8], to: &[u8]) -> Self {
        Self { renamed: Some((from.to_vec(), to.to_vec())), ..self }
    }

    fn name(&self, path: Vec<u8>) -> Vec<u8> {
        let Some((from, to)) = &self.renamed else { return path };
        match path.strip_prefix(from.as_slice()) {
            Some(rest) if !rest.is_empty() && !to.is_empty() && rest[0] != b'/' => {
                [to.as_slice(), b"/", rest].concat()
            }
            Some(rest) => [to.as_slice(), rest].concat(),
            None => path,
        }
    }

    /// Adds a file, or a directory without what is in it. Sockets are left out: they mean nothing elsewhere.
    pub fn add(&mut self, place: &Place<'_>) -> Result<()> {
        if FileType::from_raw_mode(place.stat.st_mode) == FileType::Socket {
            return Ok(());
        }
        if self.names == Names::OfALayer && place.leaf.starts_with(WHITEOUT) {
            return Err(Error::precondition(
                shown(place.path),
                "begins with .wh., which in a layer means that something is removed: rename it",
            ));
        }
        self.parents(place.path)?;
        let Some(key) = place.key() else { return self.write(place) };
        if let Some(first) = self.linked.get(&key) {
            return self.link(place, place.path, first.clone());
        }
        self.write(place)?;
        self.linked.insert(key, place.path.to_vec());
        for name in self.unchanged.remove(&key).unwrap_or_default() {
            self.parents(&name)?;
            self.link(place, &name, place.path.to_vec())?;
        }
        Ok(())
    }

    /// Notes a file that is as it was. It is added after all if it is, or becomes, a further name of one that was added.
    pub fn keep(&mut self, place: &Place<'_>) -> Result<()> {
        let Some(key) = place.key() else { return Ok(()) };
        if let Some(first) = self.linked.get(&key) {
            let first = first.clone();
            self.parents(place.path)?;
            return self.link(place, place.path, first);
        }
        self.unchanged.entry(key).or_default().push(place.path.to_vec());
        Ok(())
    }

    /// Hides the name below.
    pub fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        let (parent, leaf) = split(path);
        self.hide(parent, &[WHITEOUT, leaf].concat())
    }

    /// Hides everything below in the directory.
    pub fn opaque(&mut self, path: &[u8]) -> Result<()> {
        self.hide(path, b".wh..wh..opq")
    }

    fn hide(&mut self, directory: &[u8], leaf: &[u8]) -> Result<()> {
        let path = join(directory, leaf);
        self.parents(&path)?;
        self.head(&Header { mode: 0, ..plain(path, Kind::File) })
    }

    /// Adds the directories that lead to `path` and were not added yet.
    fn parents(&mut self, path: &[u8]) -> Result<()> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        for end in ends {
            let directory = &path[..end];
            if self.directories.contains(directory) {
                continue;
            }
            let (above, leaf) = split(directory);
            let parent = open_beneath(self.root, above)?;
            let stat =
                fs::statat(&parent, leaf, fs::AtFlags::SYMLINK_NOFOLLOW).map_err(reading(directory))?;
            self.write(&Place { parent: parent.as_fd(), leaf, path: directory, stat })?;
        }
        Ok(())
    }

    /// A further name of the file at `place`. Some readers set what the link's header says, so it says what the file's does.
    fn link(&mut self, place: &Place<'_>, path: &[u8], target: Vec<u8>) -> Result<()> {
        let header = self.described(place, path.to_vec())?;
        let link = self.name(target);
        self.head(&Header { kind: Kind::HardLink, link, ..header })
    }

    /// A header with the file's attributes.
    fn described(&self, place: &Place<'_>, name: Vec<u8>) -> Result<Header> {
        let stat = &place.stat;
        Ok(Header {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: self.time(stat),
            records: xattrs(place)?,
            ..plain(self.name(name), Kind::File)
        })
    }

    fn head(&mut self, header: &Header) -> Result<()> {
        let bytes = header.encode().map_err(|size| Error::ResourceExhausted {
            what: format!("{}: {size} bytes of names and attributes", shown(&header.name)),
            limit: "bytes of an entry's extended header",
            max: super::header::MAX_RECORDS as u64,
        })?;
        self.out.write(&bytes)
    }

    fn write(&mut self, place: &Place<'_>) -> Result<()> {
        let stat = &place.stat;
        let mut header = self.described(place, place.path.to_vec())?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.file(place, header),
            FileType::Directory => {
                self.directories.insert(place.path.to_vec());
                header.kind = Kind::Directory;
                header.name.push(b'/');
            }
            FileType::Symlink => {
                header.kind = Kind::Symlink;
                let target = fs::readlinkat(place.parent, place.leaf, Vec::new());
                header.link = target.map_err(reading(place.path))?.into_bytes();
            }
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                header.kind = if kind == FileType::CharacterDevice { Kind::Character } else { Kind::Block };
                header.device = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
            }
            FileType::Fifo => header.kind = Kind::Fifo,
            FileType::Socket | FileType::Unknown => return Ok(()),
        }
        self.head(&header)
    }

    fn time(&self, stat: &Stat) -> u64 {
        let time = u64::try_from(stat.st_mtime).unwrap_or(0);
        self.newest.map_or(time, |newest| time.min(newest))
    }

    fn file(&mut self, place: &Place<'_>, mut header: Header) -> Result<()> {
        let opened = open_regular(place.parent, place.leaf).map_err(reading(place.path))?;
        let fd = opened.ok_or_else(|| changed(place.path))?;
        let stat = fs::fstat(&fd).map_err(reading(place.path))?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if stat.st_ino != place.stat.st_ino || stat.st_mode != place.stat.st_mode {
            return Err(changed(place.path));
        }
        let taken = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        let sparse = self.holes == Holes::LeftOut && taken.saturating_add(SPARSE_FROM) <= size;
        let pieces = if sparse { pieces(&fd, size) } else { None };
        let Some(pieces) = pieces else {
            header.size = size;
            self.head(&header)?;
            self.data(place, &fd, 0, size)?;
            return self.out.pad();
        };
        let map = sparse_map(&pieces);
        header.size = map.len() as u64 + pieces.iter().map(|(_, length)| length).sum::<u64>();
        let leaf = &place.leaf[..place.leaf.len().min(80)];
        let name = std::mem::replace(&mut header.name, [b"GNUSparseFile.0/", leaf].concat());
        let mut records: Vec<(Vec<u8>, Vec<u8>)> =
            [("major", b"1".to_vec()), ("minor", b"0".to_vec()), ("name", name)]
                .into_iter()
                .chain([("realsize", size.to_string().into_bytes())])
                .map(|(key, value)| (format!("GNU.sparse.{key}").into_bytes(), value))
                .collect();
        records.append(&mut header.records);
        header.records = records;
        self.head(&header)?;
        self.out.write(&map)?;
        for (offset, length) in pieces {
            self.data(place, &fd, offset, length)?;
        }
        self.out.pad()
    }

    fn data(&mut self, place: &Place<'_>, fd: &OwnedFd, mut offset: u64, length: u64) -> Result<()> {
        let end = offset + length;
        self.buffer.resize(READ, 0);
        while offset < end {
            let wanted = usize::try_from(end - offset).unwrap_or(READ).min(READ);
            match rustix::io::pread(fd, &mut self.buffer[..wanted], offset) {
                Ok(0) => return Err(changed(place.path)),
                Ok(count) => {
                    self.out.write(&self.buffer[..count])?;
                    offset += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(reading(place.path)(errno)),
            }
        }
        Ok(())
    }
}

fn plain(name: Vec<u8>, kind: Kind) -> Header {
    let (link, records) = (Vec::new(), Vec::new());
    Header { name, kind, mode: 0, uid: 0, gid: 0, mtime: 0, size: 0, link, device: (0, 0), records }
}

/// Offset and length of what is not a hole; `None` if the file system does not tell or there are too many.
fn pieces(fd: &OwnedFd, size: u64) -> Option<Vec<(u64, u64)>> {
    let (mut pieces, mut at) = (Vec::new(), 0);
    while at < size {
        let start = match fs::seek(fd, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = fs::seek(fd, SeekFrom::Hole(start)).ok()?.min(size);
        if start < end {
            pieces.push((start, end - start));
        }
        if pieces.len() > MAX_PIECES || end <= at {
            return None;
        }
        at = end;
    }
    // A file that ends with a hole has an empty piece there, which tells readers its size.
    if pieces.last().is_none_or(|(offset, length)| offset + length < size) {
        pieces.push((size, 0));
    }
    Some(pieces)
}

/// GNU's map, version 1.0: a count, then offsets and lengths, a number a line, in whole blocks.
fn sparse_map(pieces: &[(u64, u64)]) -> Vec<u8> {
    let mut map = format!("{}\n", pieces.len());
    for (offset, length) in pieces {
        map.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(super::stream::BLOCK), 0);
    map
}

/// The attributes that belong to a file wherever it is: those of users, capabilities, and access control lists.
fn is_portable(name: &[u8]) -> bool {
    name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
        || name == b"security.capability"
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
}

fn xattrs(place: &Place<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    for (name, value) in read_xattrs(place.parent, place.leaf, place.path, is_portable)? {
        records.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value));
    }
    Ok(records)
}

/// Attributes whose names are `wanted`, in the order of their names.
pub fn read_xattrs(
    parent: BorrowedFd<'_>,
    leaf: &[u8],
    path: &[u8],
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let at = proc_path(parent, leaf);
    let mut names = vec![0u8; SOME_XATTRS];
    let length = match fs::llistxattr(&at, &mut names[..]) {
        Err(Errno::RANGE) => {
            names.resize(MAX_XATTRS, 0);
            fs::llistxattr(&at, &mut names[..])
        }
        outcome => outcome,
    };
    let length = match length {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP | Errno::NOENT) => 0,
        Err(errno) => return Err(reading(path)(errno)),
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty() && wanted(name)) {
        let mut value = vec![0u8; MAX_XATTRS];
        match fs::lgetxattr(&at, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                found.push((name.to_vec(), value));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(reading(path)(errno)),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// All attributes that make a difference in a layer.
pub fn portable_xattrs(parent: BorrowedFd<'_>, leaf: &[u8], path: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    read_xattrs(parent, leaf, path, is_portable)
}

/// Opens a directory of the tree; no link leads out of it.
fn open_beneath(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let start: &[u8] = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    fs::openat2(root, start, flags, Mode::empty(), resolve).map_err(reading(path))
}

/// For `map_err`.
pub fn reading(path: &[u8]) -> impl FnOnce(Errno) -> Error {
    let shown = shown(path);
    move |errno| Error::io("reading the snapshot's", shown, errno.into())
}

fn changed(path: &[u8]) -> Error {
    let why = "changed while it was read: pause or stop the container that writes it, and try again";
    Error::precondition(shown(path), why)
}

fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

pub fn join(directory: &[u8], leaf: &[u8]) -> Vec<u8> {
    if directory.is_empty() { leaf.to_vec() } else { [directory, b"/", leaf].concat() }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}
