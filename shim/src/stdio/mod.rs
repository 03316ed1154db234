//! The stdio of one process: where its output comes from and goes to, and where its stdin comes from.
//!
//! The process has pipes or a terminal; the shim copies, so that a log, a FIFO and any number of attached clients
//! can share what it writes. What always holds: output is read only when everybody who takes part has room for
//! it, so nothing is dropped and little is buffered.

mod attach;
mod compress;
mod input;
mod log;
mod logger;
mod output;
mod pump;
pub mod uri;

use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use longshore_runtime as runtime;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;

pub use attach::Attachment;
pub use input::{Client, Input};
pub use log::{Log, Stamp};
pub use logger::{Identity, Logger, LoggerStart};
pub use output::{Output, Sink};
pub use pump::Until;

use crate::error::{Error, Result};
use crate::poll::Stream;
use uri::Target;

/// The stdio strings of a request, as `State` gives them back.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// Which streams get a pipe although nothing is named for them, because clients attach.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attachable {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// Who owns the pipes, for processes that open `/dev/stdout` anew. `None`: the runtime sees to it.
pub type Owner = Option<(u32, u32)>;

/// The shim's side of one process's stdio.
#[derive(Default)]
pub struct Io {
    outputs: [Option<Output>; 2],
    input: Option<Input>,
    log: Option<Log>,
    logger: Option<Logger>,
    /// Until somebody waits for it.
    logger_start: Option<LoggerStart>,
    /// Kept from before the terminal exists until it does.
    wants_input: Option<Option<OwnedFd>>,
}

impl Io {
    /// Opens everything that the strings name. Gives back the process's side, too.
    pub fn open(
        paths: &Paths,
        attachable: Attachable,
        owner: Owner,
        identity: &Identity<'_>,
    ) -> Result<(Self, runtime::Stdio)> {
        let mut io = Self::default();
        let stdin = uri::parse("stdin", &paths.stdin)?;
        let [stdout, stderr] = io.open_sinks(paths, attachable, identity)?;
        let from = match stdin {
            Target::Null if attachable.stdin => Stdin::Clients,
            Target::Null => Stdin::Given(null()?),
            Target::Fifo(path) => open_stdin(&path, paths.terminal)?,
            Target::File(_) | Target::Log(_) | Target::Logger(_) => {
                return Err(Error::BadField { field: "stdin", why: "must be empty or a FIFO".to_owned() });
            }
        };
        if paths.terminal {
            io.outputs = [Some(Output::new(stdout.unwrap_or(Sink::Discard))), None];
            io.wants_input = match from {
                Stdin::Fifo(fifo) => Some(Some(fifo)),
                Stdin::Clients => Some(None),
                Stdin::Given(_) => None,
            };
            return Ok((io, runtime::Stdio::Terminal));
        }
        let child_stdin = match from {
            Stdin::Given(fd) => fd,
            Stdin::Fifo(fifo) => io.open_input(owner, Some(fifo))?,
            Stdin::Clients => io.open_input(owner, None)?,
        };
        let mut child = [None, None];
        for (stream, sink) in Stream::BOTH.into_iter().zip([stdout, stderr]) {
            child[stream as usize] = Some(match sink {
                None => null()?,
                Some(sink) => {
                    let (reader, writer) = pipe(owner, End::Reader)?;
                    io.outputs[stream as usize] = Some(Output::with_source(sink, reader));
                    writer
                }
            });
        }
        let [Some(stdout), Some(stderr)] = child else { return Err(Error::Finished) };
        Ok((io, runtime::Stdio::Fds { stdin: child_stdin, stdout, stderr }))
    }

    /// Makes the pipe of stdin; gives back the process's end.
    fn open_input(&mut self, owner: Owner, fifo: Option<OwnedFd>) -> Result<OwnedFd> {
        let (reader, writer) = pipe(owner, End::Writer)?;
        self.input = Some(Input::new(writer, fifo));
        Ok(reader)
    }

    /// Where the output streams go; `None`: to `/dev/null`, without a pipe.
    fn open_sinks(
        &mut self,
        paths: &Paths,
        attachable: Attachable,
        identity: &Identity<'_>,
    ) -> Result<[Option<Sink>; 2]> {
        let both = match uri::parse("stdout", &paths.stdout)? {
            Target::Log(target) => {
                self.log = Some(Log::open(target)?);
                return Ok([Some(Sink::Log), Some(Sink::Log)]);
            }
            Target::Logger(target) => {
                let (logger, start, ends) = Logger::start(&target, identity)?;
                (self.logger, self.logger_start) = (Some(logger), Some(start));
                return Ok(ends.map(|fd| Some(Sink::Fifo { fd, is_watched: false, is_unread: false })));
            }
            Target::File(path) => {
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder).map_err(|source| Error::Io {
                        doing: "make folder",
                        path: folder.into(),
                        source,
                    })?;
                }
                return Ok([Some(open_file(&path, true)?), Some(open_file(&path, true)?)]);
            }
            // A terminal has one stream; clients name a second FIFO all the same and do not make it.
            other if paths.terminal => [other, Target::Null],
            other => [other, uri::parse("stderr", &paths.stderr)?],
        };
        let mut sinks = [None, None];
        let wanted = [attachable.stdout, attachable.stderr];
        for ((target, wanted), sink) in both.into_iter().zip(wanted).zip(&mut sinks) {
            *sink = match target {
                Target::Null => wanted.then_some(Sink::Discard),
                Target::Fifo(path) => Some(open_fifo(&path)?),
                Target::File(path) => Some(open_file(&path, true)?),
                Target::Log(_) | Target::Logger(_) => {
                    return Err(Error::BadField {
                        field: "stderr",
                        why: "a log or a logging program takes both streams: name it as stdout".to_owned(),
                    });
                }
            };
        }
        Ok(sinks)
    }

    /// Takes the master side of the process's terminal.
    pub fn adopt_terminal(&mut self, master: OwnedFd) -> Result<()> {
        set_nonblocking(&master)?;
        if let Some(fifo) = self.wants_input.take() {
            let copy =
                rustix::io::fcntl_dupfd_cloexec(&master, 0).map_err(Error::system("copy the terminal"))?;
            self.input = Some(Input::new(copy, fifo));
        }
        if let Some(output) = self.output_mut(Stream::Stdout) {
            output.set_source(master);
        }
        Ok(())
    }

    pub fn output(&self, stream: Stream) -> Option<&Output> {
        self.outputs[stream as usize].as_ref()
    }

    pub fn output_mut(&mut self, stream: Stream) -> Option<&mut Output> {
        self.outputs[stream as usize].as_mut()
    }

    pub fn input(&self) -> Option<&Input> {
        self.input.as_ref()
    }

    pub fn input_mut(&mut self) -> Option<&mut Input> {
        self.input.as_mut()
    }

    /// Drops the shim's end of stdin; the process reads end of file.
    pub fn take_input(&mut self) -> Option<Input> {
        self.input.take()
    }

    pub fn take_output(&mut self, stream: Stream) -> Option<Output> {
        self.outputs[stream as usize].take()
    }

    pub fn log_mut(&mut self) -> Option<&mut Log> {
        self.log.as_mut()
    }

    /// Lets go of the log although it has not taken everything.
    pub fn abandon_log(&mut self) {
        self.log = None;
    }

    /// The beginning of a logging program: the process must not be made before that has come to its end.
    pub fn take_start(&mut self) -> Option<LoggerStart> {
        self.logger_start.take()
    }

    pub fn has_logger(&self) -> bool {
        self.logger.is_some()
    }

    pub fn logger_pid(&self) -> Option<i32> {
        self.logger.as_ref().map(|logger| logger.pid)
    }

    pub fn logger_mut(&mut self) -> &mut Option<Logger> {
        &mut self.logger
    }

    /// Whether the log holds what the disk has not taken.
    pub fn is_log_waiting(&self) -> bool {
        self.log.as_ref().is_some_and(Log::is_waiting)
    }

    /// Whether the log keeps output from being read.
    pub fn is_log_blocked(&self) -> bool {
        self.log.as_ref().is_some_and(Log::is_blocked)
    }

    /// Whether all output was read and has reached where it goes.
    pub fn is_drained(&self) -> bool {
        self.outputs.iter().all(Option::is_none) && !self.is_log_waiting() && self.logger.is_none()
    }

    /// The terminal, for its size.
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        let source = self.output(Stream::Stdout).and_then(Output::source);
        source.filter(|fd| rustix::termios::isatty(fd))
    }

    /// Gives memory back.
    pub fn shrink(&mut self) {
        self.log.iter_mut().for_each(Log::shrink);
        self.outputs.iter_mut().flatten().for_each(Output::shrink);
    }
}

/// A process that did not come to be leaves no logging program behind.
impl Drop for Io {
    fn drop(&mut self) {
        self.outputs = [None, None];
        if let Some(logger) = &mut self.logger {
            logger.end();
        }
    }
}

/// Which end of a pipe is the shim's.
enum End {
    Reader,
    Writer,
}

/// A pipe whose end on the shim's side does not block.
fn pipe(owner: Owner, ours: End) -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Error::system("make a pipe for stdio"))?;
    set_nonblocking(match ours {
        End::Reader => &reader,
        End::Writer => &writer,
    })?;
    if let Some((uid, gid)) = owner {
        rustix::fs::fchown(
            &reader,
            Some(rustix::fs::Uid::from_raw(uid)),
            Some(rustix::fs::Gid::from_raw(gid)),
        )
        .map_err(Error::system("give stdio to its owner"))?;
    }
    Ok((reader, writer))
}

fn set_nonblocking(fd: impl AsFd) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(Error::system("read the flags of stdio"))?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(Error::system("set the flags of stdio"))
}

fn null() -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(Error::file("open", "/dev/null"))
}

/// Opens a FIFO as sink: both ends, so that it neither blocks here nor breaks when its reader goes away and
/// comes again. What is no FIFO is appended to.
fn open_fifo(path: &Path) -> Result<Sink> {
    match fs::metadata(path) {
        Ok(meta) if !meta.file_type().is_fifo() => return open_file(path, false),
        Ok(_) => {}
        Err(source) => return Err(Error::Io { doing: "open stdio FIFO", path: path.into(), source }),
    }
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
    // Without a reader a FIFO cannot be opened for writing alone. A reader that is there would read its end if it were closed again
    // before the other is open.
    let writer = rustix::fs::open(path, OFlags::WRONLY | flags, Mode::empty());
    let fd = rustix::fs::open(path, OFlags::RDWR | flags, Mode::empty())
        .map_err(Error::file("open stdio FIFO", path))?;
    Ok(Sink::Fifo { fd, is_watched: false, is_unread: writer.is_err() })
}

fn open_file(path: &Path, create: bool) -> Result<Sink> {
    let file = OpenOptions::new()
        .append(true)
        .create(create)
        .mode(0o640)
        .open(path)
        .map_err(|source| Error::Io { doing: "open output file", path: path.into(), source })?;
    Ok(Sink::File(file))
}

/// Where stdin comes from.
enum Stdin {
    /// The process gets this descriptor itself.
    Given(OwnedFd),
    Fifo(OwnedFd),
    /// Only from attached clients.
    Clients,
}

/// Opens what stdin names. A file that is no FIFO is handed to the process as it is.
fn open_stdin(path: &Path, terminal: bool) -> Result<Stdin> {
    let failed = |source| Error::Io { doing: "open stdin", path: path.into(), source };
    let is_fifo = fs::metadata(path).map_err(failed)?.file_type().is_fifo();
    if !is_fifo && terminal {
        let why = format!("{path:?} is no FIFO, and a terminal needs one");
        return Err(Error::BadField { field: "stdin", why });
    }
    let blocking = if is_fifo { OFlags::NONBLOCK } else { OFlags::empty() };
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | blocking, Mode::empty())
        .map_err(Error::file("open stdin", path))?;
    Ok(if is_fifo { Stdin::Fifo(fd) } else { Stdin::Given(fd) })
}

/// The writer that keeps a FIFO open.
fn open_keeper(reader: BorrowedFd<'_>) -> Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::empty()).map_err(Error::file("open the writer of stdin FIFO", path))
}
