//! The gate of a container whose creator does not stay: two FIFOs in a folder of the caller's.
//!
//! What always holds: the container's init has both open before it runs anything of the container, and needs nothing but
//! `read` and `write` on them afterwards, so that a seccomp program loaded before the gate cannot lock it in. Whoever opens
//! the gate learns whether the program could be executed: the report's end of file is the `execve`.

use crate::init::channel::{Failure, Report};
use crate::init::describe;
use crate::init::{Plan, Step};
use crate::sys::SysResult;
use crate::{Error, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A byte written here opens the gate. The file is there as long as the gate is shut.
const GATE: &str = "gate";
/// What the process has to say after the gate.
const REPORT: &str = "report";

/// Both FIFOs as the container's init holds them.
#[derive(Debug)]
pub struct Handover {
    gate: OwnedFd,
    report: OwnedFd,
}

fn system(doing: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::System { doing, source: errno.into() }
}

fn open_at(folder: BorrowedFd<'_>, name: &str, flags: OFlags) -> SysResult<OwnedFd> {
    let fd = rustix::fs::openat(folder, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
        FileType::Fifo => Ok(fd),
        _ => Err(Errno::BADF),
    }
}

impl Handover {
    /// Makes the FIFOs in a folder that only this user can reach.
    ///
    /// # Errors
    /// The folder has them already, or cannot be written to.
    pub fn make(folder: BorrowedFd<'_>) -> Result<Handover> {
        let make = |name| rustix::fs::mknodat(folder, name, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0);
        let made = make(GATE).and_then(|()| make(REPORT)).and_then(|()| {
            let gate = open_at(folder, GATE, OFlags::RDWR)?;
            // A FIFO is opened for writing without waiting only while somebody reads it.
            let reader = open_at(folder, REPORT, OFlags::RDONLY | OFlags::NONBLOCK)?;
            let report = open_at(folder, REPORT, OFlags::WRONLY | OFlags::NONBLOCK)?;
            drop(reader);
            Ok(Handover { gate, report })
        });
        made.map_err(system("make the gate of the container"))
    }

    /// The descriptors that must stay open until the gate.
    pub(crate) fn fds(&self) -> [i32; 2] {
        [self.gate.as_raw_fd(), self.report.as_raw_fd()]
    }

    /// Child: waits until somebody opens the gate.
    pub(crate) fn wait(&self) -> SysResult<()> {
        let mut byte = [0u8; 1];
        loop {
            match rustix::io::read(&self.gate, &mut byte) {
                Err(Errno::INTR) => continue,
                Ok(0) => return Err(Errno::PIPE),
                other => return other.map(drop),
            }
        }
    }

    /// Child: says why it cannot become its program.
    pub(crate) fn report(&self, failure: Failure) {
        let _ = rustix::io::write(&self.report, &Report::Failed(failure).to_wire());
    }
}

/// A step that comes after the gate, in the words that its failure needs; for who opens the gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Late {
    step: u32,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
enum What {
    /// Path and timeout in seconds of each startContainer hook.
    Hooks(Vec<(PathBuf, Option<u64>)>),
    /// The program as it was asked for.
    Execute(String),
    /// What is being done.
    Other(String),
}

/// The steps of a plan that come after its gate.
pub(crate) fn late(plan: &Plan) -> Vec<Late> {
    let after = plan.steps.iter().enumerate().skip_while(|(_, step)| !step.is_gate()).skip(1);
    after
        .map(|(index, step)| {
            let what = match step {
                Step::Hooks(hooks) => {
                    What::Hooks(hooks.hooks.iter().map(|hook| hook.path_and_timeout()).collect())
                }
                Step::Execute => What::Execute(plan.program.name.clone()),
                step => What::Other(describe::doing(step)),
            };
            Late { step: index as u32, what }
        })
        .collect()
}

fn error(late: &[Late], failure: Failure) -> Error {
    let Failure { errno, detail, how, .. } = failure;
    match late.iter().find(|late| late.step == failure.step).map(|late| &late.what) {
        Some(What::Execute(name)) => describe::not_executable(name, errno),
        Some(What::Hooks(hooks)) => {
            let (path, timeout) = hooks.get(detail as usize).cloned().unwrap_or_default();
            crate::hooks::failed("startContainer", path, timeout, how, errno)
        }
        Some(What::Other(doing)) => Error::Init { doing: doing.clone(), errno, hint: "" },
        None => Error::Init { doing: "set up the process".into(), errno, hint: "" },
    }
}

/// Whether the gate is still shut.
pub fn is_shut(folder: BorrowedFd<'_>) -> bool {
    rustix::fs::statat(folder, GATE, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Opens the gate that [`Handover::make`] made in this folder, and waits until the process is its program.
///
/// # Errors
/// [`Error::NotRunning`] if the process is gone; [`Error::Exec`] and others if it cannot become its program: it has exited
/// then.
pub fn open_gate(folder: BorrowedFd<'_>, late: &[Late]) -> Result<()> {
    let failed = system("open the gate of the container");
    // Opened first: what the process says must find a reader.
    let report = open_at(folder, REPORT, OFlags::RDONLY | OFlags::NONBLOCK).map_err(&failed)?;
    let gate = match open_at(folder, GATE, OFlags::WRONLY | OFlags::NONBLOCK) {
        Err(Errno::NXIO) => return Err(Error::NotRunning),
        other => other.map_err(&failed)?,
    };
    rustix::io::write(&gate, &[1]).map_err(&failed)?;
    drop(gate);
    for name in [GATE, REPORT] {
        rustix::fs::unlinkat(folder, name, rustix::fs::AtFlags::empty()).map_err(&failed)?;
    }
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(report.as_fd(), PollFlags::IN)], None) {
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(failed(errno)),
            Ok(_) => break,
        }
    }
    let mut wire = Report::NO_WIRE;
    match rustix::io::read(&report, &mut wire) {
        Ok(0) => Ok(()),
        Ok(_) => match Report::from_wire(&wire) {
            Some(Report::Failed(failure)) => Err(error(late, failure)),
            _ => Err(failed(Errno::BADMSG)),
        },
        Err(errno) => Err(failed(errno)),
    }
}
