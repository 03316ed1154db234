//! Where the program is, where it starts, and becoming it. Runs in the child, inside the container's root.

pub(super) use super::Program;

use super::Missing;
use super::run::{Child, Trouble};
use crate::paths::{self, Kind, Links};
use crate::sys::process;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::CStr;

/// Largest passwd file that is read, in bytes.
const PASSWD_MAX: u64 = 10 << 20;
/// Longest line of it that is considered.
const LINE_MAX: usize = 2048;
/// Longest home directory, in bytes; longer ones are taken as missing.
const HOME_MAX: usize = 1024;
/// Room that `HOME=` and its value need.
pub(crate) const HOME_SLOT: usize = HOME_MAX + 8;

impl Child {
    /// Enters the working directory. It is opened inside the root and without magic links, so that no descriptor that
    /// was left open can lead out (CVE-2024-21626).
    pub(super) fn enter(&self, path: &CStr, missing: Missing) -> Result<(), Trouble> {
        self.with_root(|root| {
            let folder = match missing {
                Missing::Create => paths::open_or_create(root, path, Kind::Directory, Links::Follow)?,
                Missing::Fail => paths::open(root, path, OFlags::PATH | OFlags::DIRECTORY, Links::Follow)?,
            };
            Ok(rustix::process::fchdir(&folder)?)
        })
    }

    /// Finds the program as the container's user.
    pub(super) fn find_program(&mut self, program: &Program) -> Result<(), Trouble> {
        if program.init.as_ref().is_some_and(|init| init.alone) {
            return Ok(());
        }
        let mut verdict = Errno::NOENT;
        for (index, candidate) in program.candidates.iter().enumerate() {
            match executable(candidate) {
                Ok(()) => {
                    self.found = index;
                    return Ok(());
                }
                // One candidate was asked for by its path: say what is wrong with it.
                Err(errno) if program.candidates.len() == 1 => verdict = errno,
                Err(_) => {}
            }
        }
        Err(verdict.into())
    }

    /// Becomes the program; returns only with the reason why not.
    pub(super) fn execute(&self, program: &Program) -> Errno {
        if let Some(init) = &program.init {
            return process::execveat(init.file.as_fd(), &init.argv, &program.envp);
        }
        match program.candidates.get(self.found) {
            Some(path) => process::execve(path, &program.argv, &program.envp),
            None => Errno::NOENT,
        }
    }

    /// Sets `HOME` to what the container's passwd file says of the user; `/` if it says nothing.
    pub(super) fn find_home(&self, uid: u32, program: &mut Program) -> Result<(), Trouble> {
        let mut line = Line { bytes: [0; LINE_MAX], len: 0 };
        let found = self.with_root(|root| Ok(search_passwd(root, uid, &mut line).unwrap_or(false)))?;
        let home = if found { line.home().unwrap_or(b"/") } else { b"/" };
        program.envp.fill_slot(&[b"HOME=", home]);
        Ok(())
    }
}

/// A line of the passwd file; longer ones are passed over.
struct Line {
    bytes: [u8; LINE_MAX],
    len: usize,
}

impl Line {
    fn field(&self, index: usize) -> Option<&[u8]> {
        self.bytes[..self.len].split(|b| *b == b':').nth(index)
    }

    fn is_of(&self, uid: u32) -> bool {
        self.field(2).and_then(|f| std::str::from_utf8(f).ok()).and_then(|f| f.parse().ok()) == Some(uid)
    }

    fn home(&self) -> Option<&[u8]> {
        self.field(5).filter(|home| home.starts_with(b"/") && home.len() <= HOME_MAX)
    }
}

/// Leaves the user's line in `line` and answers whether there is one.
fn search_passwd(root: BorrowedFd<'_>, uid: u32, line: &mut Line) -> Result<bool, Errno> {
    // Not blocking: a FIFO of that name must not hold the container up.
    let file =
        paths::open(root, c"etc/passwd", OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Links::Follow)?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_size as u64 > PASSWD_MAX {
        return Ok(false);
    }
    let mut chunk = [0u8; 4096];
    let mut too_long = false;
    let mut total = 0;
    loop {
        let read = rustix::io::read(&file, &mut chunk)?;
        if read == 0 {
            return Ok(!too_long && line.is_of(uid));
        }
        // It may grow while it is read.
        total += read as u64;
        if total > PASSWD_MAX {
            return Ok(false);
        }
        for &byte in &chunk[..read] {
            if byte == b'\n' {
                if !too_long && line.is_of(uid) {
                    return Ok(true);
                }
                line.len = 0;
                too_long = false;
            } else if line.len == LINE_MAX {
                too_long = true;
            } else {
                line.bytes[line.len] = byte;
                line.len += 1;
            }
        }
    }
}

/// Whether this process may execute a path. Magic links are refused: `/proc/self/exe` is the runtime's own program, as
/// long as this process has not become another (CVE-2019-5736).
fn executable(path: &CStr) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    drop(rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?);
    let stat = rustix::fs::statat(CWD, path, AtFlags::empty())?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Err(Errno::ISDIR),
        _ => {
            rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::empty())?;
            if stat.st_mode & 0o111 == 0 { Err(Errno::ACCESS) } else { Ok(()) }
        }
    }
}
