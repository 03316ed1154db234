//! What the loop must do at a later time. A timer that fires looks whether its reason still holds, so none needs to be
//! taken back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Why to wake up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Output of a process that has exited was awaited long enough.
    Drain(u32),
    /// A write to a full disk may work now.
    Retry(u32),
    /// The caller of a deferred call has given up.
    Deadline { connection: u32, stream: u32 },
    /// Nothing has happened for a while: give memory back.
    Idle,
    /// Look whether anybody still needs this shim.
    Lonely,
    /// The last answers were sent, or will never be.
    Leave,
    /// Events that a daemon has not got are sent again.
    Publish,
    /// The logging program of a process must end now.
    Logger(u32),
    /// The time of the command with this number is up.
    Command(u32),
    /// Questions for names that were passed on, and connections for them, are looked after.
    Dns,
    /// Connections are accepted again, after descriptors were short.
    Accept,
    /// The same for what goes through ports of the host.
    Ports,
    /// A sandbox was told to stop, and its containers have had their time.
    Sandbox,
}

/// All timers of the shim.
#[derive(Default)]
pub struct Timers {
    pending: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    pub fn set(&mut self, after: Duration, timer: Timer) {
        if let Some(at) = Instant::now().checked_add(after) {
            self.pending.insert((at, timer));
        }
    }

    /// Whether this one is still to come.
    pub fn is_set(&self, timer: Timer) -> bool {
        self.pending.iter().any(|(_, pending)| *pending == timer)
    }

    /// As [`Timers::set`], in place of the one that is set already.
    pub fn reset(&mut self, after: Duration, timer: Timer) {
        self.pending.retain(|(_, pending)| *pending != timer);
        self.set(after, timer);
    }

    /// How long the loop may sleep.
    pub fn timeout(&self) -> Option<Duration> {
        let (at, _) = self.pending.first()?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// The next timer whose time has come.
    pub fn due(&mut self) -> Option<Timer> {
        let (at, timer) = *self.pending.first()?;
        if at > Instant::now() {
            return None;
        }
        self.pending.pop_first();
        Some(timer)
    }
}
