//! Staying with a process: signals are passed on, its terminal is ours, and its exit code becomes ours.

use super::error::{Error, Result};
use super::log::Log;
use super::terminal::{Relay, Side};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};

/// All signals, as they come in from now on.
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks them and opens a descriptor; before the process exists, so that none is lost.
    pub fn catch() -> Result<Signals> {
        let failed =
            |errno: nix::errno::Errno| Error::System { doing: "catch signals", source: errno.into() };
        let mask = SigSet::all();
        mask.thread_block().map_err(failed)?;
        let fd =
            SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)?;
        Ok(Signals(fd))
    }
}

/// A process that we have made, and how to signal it.
pub struct Watched<'a> {
    pub pid: i32,
    pub pidfd: BorrowedFd<'a>,
}

/// Waits for the process, which is a child of ours; answers its exit code.
pub fn stay(process: &Watched<'_>, signals: &Signals, mut relay: Option<Relay>, log: &Log) -> Result<i32> {
    loop {
        let stdio = (std::io::stdin(), std::io::stdout());
        let mut sides = Vec::with_capacity(3);
        let mut polled = Vec::with_capacity(5);
        polled.push(PollFd::from_borrowed_fd(process.pidfd, PollFlags::IN));
        polled.push(PollFd::from_borrowed_fd(signals.0.as_fd(), PollFlags::IN));
        if let Some(relay) = &relay {
            for (side, flags) in relay.wanted().into_iter().filter(|(_, flags)| !flags.is_empty()) {
                let fd = match side {
                    Side::Input => stdio.0.as_fd(),
                    Side::Output => stdio.1.as_fd(),
                    Side::Container => match relay.container() {
                        Some(fd) => fd,
                        None => continue,
                    },
                };
                polled.push(PollFd::from_borrowed_fd(fd, flags));
                sides.push(side);
            }
        }
        match poll(&mut polled, None) {
            Err(Errno::INTR) => continue,
            other => other.map_err(Error::system("wait for the container"))?,
        };
        let seen: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        drop(polled);
        if let Some(relay) = &mut relay {
            for (side, seen) in sides.iter().zip(&seen[2..]).filter(|(_, seen)| !seen.is_empty()) {
                relay.turn(*side, *seen);
            }
        }
        if !seen[1].is_empty() {
            pass_on(process, signals, relay.as_ref(), log);
        }
        if let Some(code) = reap(process)? {
            if let Some(relay) = &mut relay {
                relay.finish();
            }
            return Ok(code);
        }
        if !seen[0].is_empty() {
            // Ended, but not our child to reap.
            return Err(Error::system("wait for the process")(Errno::CHILD));
        }
    }
}

fn pass_on(process: &Watched<'_>, signals: &Signals, relay: Option<&Relay>, log: &Log) {
    while let Ok(Some(info)) = signals.0.read_signal() {
        let signal = info.ssi_signo as i32;
        match signal {
            libc::SIGCHLD => {}
            libc::SIGWINCH if relay.is_some() => {
                if let Some(relay) = relay {
                    relay.resize();
                }
            }
            signal => {
                log.debug(|| format!("forwarding signal {signal} to {}", process.pid));
                let _ = longshore_runtime::signal(process.pidfd, signal);
            }
        }
    }
}

/// Reaps the process and what else came to us because we are a subreaper; answers the process's exit code: 128 + n for
/// signal n.
fn reap(process: &Watched<'_>) -> Result<Option<i32>> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Err(Errno::INTR) => continue,
            Err(Errno::CHILD) | Ok(None) => return Ok(None),
            Err(errno) => return Err(Error::system("wait for the process")(errno)),
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == process.pid => {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                return Ok(Some(status.exit_status().or(signal).unwrap_or(255)));
            }
            Ok(Some(_)) => {}
        }
    }
}
