//! Local files as a tar stream.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tar::{Builder, EntryType, Header};

use crate::failure::{Failure, errno_text};

/// Packs what is at `source`, with all below it, under the name `base`.
pub fn pack(source: &Path, base: &str, out: impl Write) -> Result<(), Failure> {
    let mut packer = Packer { tar: Builder::new(out), linked: HashMap::new() };
    packer.add(source, Path::new(base))?;
    packer.tar.finish().map_err(|error| failed("write", source, &error))
}

struct Packer<W: Write> {
    tar: Builder<W>,
    /// The first name of files with several, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn add(&mut self, source: &Path, name: &Path) -> Result<(), Failure> {
        let meta = fs::symlink_metadata(source).map_err(|error| failed("lstat", source, &error))?;
        let kind = meta.file_type();
        let mut header = header(&meta);
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            // Of what is meant as the contents alone there is no entry.
            let contents = name == Path::new(".");
            if !contents {
                self.append(&mut header, &name.join(""), io::empty(), source)?;
            }
            let name = if contents { Path::new("") } else { name };
            let mut names: Vec<_> = fs::read_dir(source)
                .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect())
                .map_err(|error| failed("open", source, &error))?;
            names.sort();
            return names.iter().try_for_each(|inner| self.add(&source.join(inner), &name.join(inner)));
        }
        if kind.is_socket() {
            // Means nothing elsewhere.
            return Ok(());
        }
        let key = (meta.dev(), meta.ino());
        if meta.nlink() > 1 {
            if let Some(first) = self.linked.get(&key).cloned() {
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                return self
                    .tar
                    .append_link(&mut header, name, first)
                    .map_err(|error| failed("write", source, &error));
            }
            self.linked.insert(key, name.to_owned());
        }
        if kind.is_symlink() {
            let target = fs::read_link(source).map_err(|error| failed("readlink", source, &error))?;
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            return self
                .tar
                .append_link(&mut header, name, target)
                .map_err(|error| failed("write", source, &error));
        }
        if kind.is_file() {
            return self.file(source, name, header);
        }
        let device = meta.rdev();
        header.set_size(0);
        header.set_entry_type(if kind.is_fifo() {
            EntryType::Fifo
        } else if kind.is_char_device() {
            EntryType::Char
        } else {
            EntryType::Block
        });
        let numbers = header
            .set_device_major(rustix::fs::major(device))
            .and_then(|()| header.set_device_minor(rustix::fs::minor(device)));
        numbers.map_err(|error| failed("write", source, &error))?;
        self.append(&mut header, name, io::empty(), source)
    }

    fn file(&mut self, source: &Path, name: &Path, mut header: Header) -> Result<(), Failure> {
        // What became a FIFO or a link meanwhile neither blocks nor is followed.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(source, flags, Mode::empty())
            .map_err(|errno| failed("open", source, &errno.into()))?
            .into();
        let meta = file.metadata().map_err(|error| failed("stat", source, &error))?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(meta.len());
        // Exactly as long as was said, however the file grows or shrinks.
        let whole = file.take(meta.len()).chain(io::repeat(0)).take(meta.len());
        self.append(&mut header, name, whole, source)
    }

    fn append(
        &mut self,
        header: &mut Header,
        name: &Path,
        data: impl Read,
        source: &Path,
    ) -> Result<(), Failure> {
        self.tar.append_data(header, name, data).map_err(|error| failed("write", source, &error))
    }
}

fn header(meta: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(meta.mode() & 0o7777);
    header.set_uid(meta.uid().into());
    header.set_gid(meta.gid().into());
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    header
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        // The daemon took no more: it says why.
        io::ErrorKind::BrokenPipe => Failure::Silent { code: 1 },
        _ => Failure::message(format!("{doing} {}: {}", path.display(), errno_text(error))),
    }
}
