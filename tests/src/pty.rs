//! A command on a pseudo-terminal, as a person at a keyboard drives it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use nix::pty::{Winsize, openpty};

use crate::daemon::PATIENCE;

/// A running command and what its terminal has shown so far.
pub struct Terminal {
    child: Child,
    master: File,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts a command whose stdin, stdout and stderr are a new terminal of this size.
    pub fn spawn(mut command: Command, columns: u16, rows: u16) -> Result<Terminal> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None)?;
        let slave = pair.slave;
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        // SAFETY: between fork and exec only the two system calls are made, on a descriptor that is open.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn()?;
        drop(command);
        let master = File::from(pair.master);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut reader, screen) = (master.try_clone()?, Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // EIO is how a terminal says that its last user is gone.
            while let Ok(length @ 1..) = reader.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]);
                screen.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Ok(Terminal { child, master, shown })
    }

    pub fn shown(&self) -> String {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits until the terminal has shown this.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.shown().contains(text) {
            assert!(Instant::now() < deadline, "{text:?} did not appear in {:?}", self.shown());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open and `size` outlives the call.
        let result = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        assert_eq!(result, 0, "the terminal takes a size");
    }

    /// The terminal's settings: compared to see that they were restored.
    pub fn settings(&self) -> Result<nix::sys::termios::Termios> {
        Ok(nix::sys::termios::tcgetattr(&self.master)?)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A copy of the master side.
    pub fn master(&self) -> Result<OwnedFd> {
        Ok(self.master.try_clone()?.into())
    }

    /// Waits for the command's end; its exit code, or 128 + the signal.
    #[track_caller]
    pub fn wait(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            }
            assert!(Instant::now() < deadline, "the command does not end; shown: {:?}", self.shown());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
