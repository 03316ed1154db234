//! Standard input, output and error of the program: three descriptors, or a terminal of the container's own devpts.
//! Runs in the child.

use super::channel::{Channel, Report};
use super::run::{Child, Trouble};
use super::{Console, mounting};
use crate::paths::{self, Kind, Links};
use crate::sys::SysResult;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Gid, OFlags, Uid};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// Size of a terminal in characters.
pub(super) struct Size {
    pub(super) columns: u16,
    pub(super) rows: u16,
}

/// `/dev/ptmx` in any devpts: character device 5:2.
const PTMX: u64 = 5 << 8 | 2;
/// `/dev/null`: character device 1:3.
pub(super) const NULL: u64 = 1 << 8 | 3;

impl Child {
    /// Opens a terminal, binds it to `/dev/console`, hands its master side to the parent and uses it as stdio.
    ///
    /// The slave is opened through the master (TIOCGPTPEER), never by its name, which the container could swap.
    pub(super) fn terminal(
        &self,
        size: Size,
        uid: u32,
        console: Console,
        channel: &Channel,
    ) -> Result<(), Trouble> {
        let master = self.with_root(open_ptmx)?;
        rustix::pty::unlockpt(&master)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(
            &master,
            OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
        )?;
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        if size.ws_row != 0 && size.ws_col != 0 {
            rustix::termios::tcsetwinsize(&slave, size)?;
        }
        give_to(slave.as_fd(), uid)?;
        if console == Console::Bind {
            self.with_root(|root| bind_console(root, slave.as_fd()))?;
        }
        channel.send_with(Report::Terminal, master.as_fd())?;
        rustix::process::ioctl_tiocsctty(&slave)?;
        rustix::stdio::dup2_stdin(&slave)?;
        rustix::stdio::dup2_stdout(&slave)?;
        rustix::stdio::dup2_stderr(&slave)?;
        Ok(())
    }
}

fn open_ptmx(root: BorrowedFd<'_>) -> Result<OwnedFd, Trouble> {
    const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let master = paths::open(root, c"dev/pts/ptmx", flags, Links::Refuse)?;
    let stat = rustix::fs::fstat(&master)?;
    if stat.st_rdev != PTMX || rustix::fs::fstatfs(&master)?.f_type as u64 != DEVPTS_SUPER_MAGIC {
        return Err(Trouble::suspicious(Errno::NODEV));
    }
    Ok(master)
}

fn bind_console(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<(), Trouble> {
    let target = paths::open_or_create(root, c"dev/console", Kind::File, Links::Refuse)?;
    let tree = mounting::clone_tree(slave, crate::sys::mount::Reach::One)?;
    mounting::attach(tree.as_fd(), target.as_fd())?;
    Ok(())
}

/// Uses the three descriptors as stdio and gives them to the container's user.
pub(super) fn use_as_stdio(fds: &[OwnedFd; 3], uid: u32) -> SysResult<()> {
    for fd in fds {
        give_to(fd.as_fd(), uid)?;
    }
    rustix::stdio::dup2_stdin(&fds[0])?;
    rustix::stdio::dup2_stdout(&fds[1])?;
    rustix::stdio::dup2_stderr(&fds[2])
}

/// Makes the program's user the owner, so that it can open `/dev/stdout`. Where the owner cannot be changed (an unmapped
/// id, a read-only file system, a socket) it stays; the null device is everybody's.
fn give_to(fd: BorrowedFd<'_>, uid: u32) -> SysResult<()> {
    let stat = rustix::fs::fstat(fd)?;
    if stat.st_uid == uid || stat.st_rdev == NULL {
        return Ok(());
    }
    match rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None::<Gid>) {
        Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => Ok(()),
        other => other,
    }
}
