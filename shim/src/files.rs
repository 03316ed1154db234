//! How many files the shim may have open: as many as whoever started it allows, and its container as many as it would have had
//! without that; and what happens when there are no more.

use std::sync::OnceLock;

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits;
use crate::poll::{Flags, Token};
use crate::report;
use crate::server::Shim;
use crate::timers::Timer;

/// What it was before, if it was another.
static INHERITED: OnceLock<Option<Rlimit>> = OnceLock::new();

/// Raises the soft limit to the hard one, once.
pub fn raise() {
    INHERITED.get_or_init(|| {
        let before = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: before.maximum, maximum: before.maximum };
        (before.current != before.maximum && setrlimit(Resource::Nofile, raised).is_ok()).then_some(before)
    });
}

/// The limit that what this process starts is to have; `None`: its own.
pub fn inherited() -> Option<Rlimit> {
    INHERITED.get().cloned().flatten()
}

/// Gives a process of the container's the limit that this one has inherited, unless it is to have one of its own.
pub fn inherit(process: &mut Process, inherited: Option<Rlimit>) {
    let Some(Rlimit { current: Some(soft), maximum }) = inherited else { return };
    let mut limits: Vec<PosixRlimit> = process.rlimits().clone().unwrap_or_default();
    if limits.iter().any(|limit| limit.typ() == PosixRlimitType::RlimitNofile) {
        return;
    }
    let own = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(soft)
        .hard(maximum.unwrap_or(u64::MAX))
        .build();
    if let Ok(own) = own {
        limits.push(own);
        process.set_rlimits(Some(limits));
    }
}

/// Whether an error of `accept` says that there are no descriptors, or no memory: it would say so again at once.
pub fn is_short(error: &std::io::Error) -> bool {
    let codes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

impl Shim {
    /// Nothing could be accepted. Said once in the life of a shim.
    pub fn cannot_accept(&mut self, error: &std::io::Error) {
        if !std::mem::replace(&mut self.was_short, true) {
            let id = self.assigned.as_ref().map(|assigned| assigned.id.as_str()).unwrap_or_default();
            let what = format!(
                "a connection cannot be accepted: {error}: it waits until there is room again (see LimitNOFILE of the daemon)"
            );
            report::error(id, &what);
        }
    }

    /// Stops looking at the shim's own socket for a while.
    pub fn pause_accepting(&mut self, error: &std::io::Error) {
        self.cannot_accept(error);
        if let Some(assigned) = &self.assigned {
            self.poll.remove(&assigned.listener);
            self.timers.set(limits::SHORT, Timer::Accept);
        }
    }

    pub fn accept_again(&mut self) {
        if let Some(assigned) = &self.assigned
            && self.poll.add(&assigned.listener, Token::Listener, Flags::IN).is_err()
        {
            self.timers.set(limits::SHORT, Timer::Accept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_what_was_inherited_unless_it_has_its_own() {
        let inherited = Some(Rlimit { current: Some(1024), maximum: Some(4096) });
        let of = |process: &Process| {
            let limits = process.rlimits().clone().unwrap_or_default();
            let files = limits.iter().filter(|limit| limit.typ() == PosixRlimitType::RlimitNofile);
            files.map(|limit| (limit.soft(), limit.hard())).collect::<Vec<_>>()
        };
        let mut process = Process::default();
        process.set_rlimits(None);
        inherit(&mut process, None);
        assert!(of(&process).is_empty());
        inherit(&mut process, inherited);
        assert_eq!(of(&process), [(1024, 4096)]);
        inherit(&mut process, Some(Rlimit { current: Some(7), maximum: Some(8) }));
        assert_eq!(of(&process), [(1024, 4096)]);
    }
}
