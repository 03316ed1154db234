//! The terminal of a foreground process: ours in raw mode, the container's beside it, and what flows between them.
//!
//! What always holds: our terminal is as it was before when this value is gone; at most one buffer waits in each direction.

use super::error::{Error, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{
    OptionalActions, OutputModes, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

/// Bytes that wait in one direction at most.
const BUFFER: usize = 16 * 1024;

/// The terminal that this command was started in, not yet changed.
pub struct Host {
    tty: OwnedFd,
    before: Termios,
}

impl Host {
    /// Finds it among stdio, or as the controlling terminal.
    pub fn find() -> Result<Host> {
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        for fd in [stderr.as_fd(), stdout.as_fd(), stdin.as_fd()] {
            if let Ok(before) = tcgetattr(fd) {
                let tty = fd.try_clone_to_owned().map_err(Error::system("duplicate the terminal"))?;
                return Ok(Host { tty, before });
            }
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
        let tty = rustix::fs::open("/dev/tty", flags, Mode::empty())
            .map_err(Error::io("open the terminal", "/dev/tty"))?;
        let before = tcgetattr(&tty).map_err(Error::io("look at the terminal", "/dev/tty"))?;
        Ok(Host { tty, before })
    }

    /// Columns and rows.
    pub fn size(&self) -> Option<(u16, u16)> {
        let size = tcgetwinsize(&self.tty).ok()?;
        (size.ws_col != 0 && size.ws_row != 0).then_some((size.ws_col, size.ws_row))
    }
}

/// Both terminals, connected.
pub struct Relay {
    host: Host,
    /// None once the container has closed its side.
    container: Option<OwnedFd>,
    to_container: Buffer,
    to_host: Buffer,
    input: Input,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    Ended,
}

struct Buffer {
    bytes: Box<[u8; BUFFER]>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn new() -> Buffer {
        Buffer { bytes: Box::new([0; BUFFER]), start: 0, end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Reads into the empty buffer; answers how much.
    fn fill(&mut self, from: BorrowedFd<'_>) -> Result<usize, Errno> {
        self.start = 0;
        self.end = 0;
        self.end = rustix::io::read(from, &mut self.bytes[..])?;
        Ok(self.end)
    }

    fn drain(&mut self, to: BorrowedFd<'_>) -> Result<(), Errno> {
        self.start += rustix::io::write(to, &self.bytes[self.start..self.end])?;
        Ok(())
    }
}

impl Relay {
    /// Puts our terminal into raw mode; line ends are made by it, not by the container's.
    pub fn new(host: Host, container: OwnedFd) -> Result<Relay> {
        let failed = |errno: Errno| Error::System { doing: "set up the terminal", source: errno.into() };
        let mut theirs = tcgetattr(&container).map_err(failed)?;
        theirs.output_modes.remove(OutputModes::ONLCR);
        tcsetattr(&container, OptionalActions::Now, &theirs).map_err(failed)?;
        let mut raw = host.before.clone();
        raw.make_raw();
        raw.output_modes |= OutputModes::OPOST;
        tcsetattr(&host.tty, OptionalActions::Now, &raw).map_err(failed)?;
        let relay = Relay {
            host,
            container: Some(container),
            to_container: Buffer::new(),
            to_host: Buffer::new(),
            input: Input::Open,
        };
        relay.resize();
        Ok(relay)
    }

    /// Gives the container's terminal our size.
    pub fn resize(&self) {
        if let (Ok(size), Some(container)) = (tcgetwinsize(&self.host.tty), &self.container) {
            let _ = tcsetwinsize(container, size);
        }
    }

    /// What to wait for: our input, the container's terminal, our output.
    pub fn wanted(&self) -> [(Side, PollFlags); 3] {
        let when = |wanted, flags| if wanted { flags } else { PollFlags::empty() };
        let open = self.container.is_some();
        let input = when(open && self.input == Input::Open && self.to_container.is_empty(), PollFlags::IN);
        let container = when(open && self.to_host.is_empty(), PollFlags::IN)
            | when(open && !self.to_container.is_empty(), PollFlags::OUT);
        let output = when(!self.to_host.is_empty(), PollFlags::OUT);
        [(Side::Input, input), (Side::Container, container), (Side::Output, output)]
    }

    /// The container's side.
    pub fn container(&self) -> Option<BorrowedFd<'_>> {
        self.container.as_ref().map(AsFd::as_fd)
    }

    /// Moves what can be moved.
    pub fn turn(&mut self, side: Side, seen: PollFlags) {
        match side {
            Side::Input if self.to_container.is_empty() => {
                match self.to_container.fill(std::io::stdin().as_fd()) {
                    Ok(0) => self.input = Input::Ended,
                    Err(errno) if errno != Errno::INTR && errno != Errno::AGAIN => self.input = Input::Ended,
                    _ => {}
                }
            }
            Side::Output => self.write_out(),
            Side::Container => {
                if seen.contains(PollFlags::OUT) {
                    self.write_in();
                }
                if seen.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && self.to_host.is_empty()
                {
                    self.read_container();
                }
            }
            Side::Input => {}
        }
    }

    fn read_container(&mut self) {
        let Some(container) = &self.container else { return };
        match self.to_host.fill(container.as_fd()) {
            // EIO: nobody has the other side open any more.
            Ok(0) | Err(Errno::IO) => self.container = None,
            _ => {}
        }
    }

    fn write_in(&mut self) {
        let Some(container) = &self.container else { return };
        let _ = self.to_container.drain(container.as_fd());
    }

    fn write_out(&mut self) {
        if let Err(errno) = self.to_host.drain(std::io::stdout().as_fd())
            && errno != Errno::INTR
            && errno != Errno::AGAIN
        {
            // Nobody looks any more.
            self.to_host.start = self.to_host.end;
        }
    }

    /// Brings what the container has written so far to our output; for when its process has ended.
    pub fn finish(&mut self) {
        loop {
            while !self.to_host.is_empty() {
                self.write_out();
            }
            let Some(container) = &self.container else { return };
            let mut ready = [PollFd::new(container, PollFlags::IN)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            match rustix::event::poll(&mut ready, Some(&now)) {
                Ok(0) | Err(_) => return,
                Ok(_) => self.read_container(),
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.host.tty, OptionalActions::Now, &self.host.before);
    }
}

/// Which descriptor a relay waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Input,
    Container,
    Output,
}
