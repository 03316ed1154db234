//! Connections of which nobody knows yet whether they may be here: they have sent no token.
//!
//! What always holds: there are never more than [`limits::STRANGERS`]; when one more comes, the one that has waited longest goes. They
//! take no place of those that have shown a token.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::limits;

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    strangers: BTreeMap<u64, CancellationToken>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Doors(Arc<Mutex<Waiting>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Stranger {
    doors: Doors,
    number: u64,
    /// Cancelled when it has to go.
    pub shown_out: CancellationToken,
}

impl Doors {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more has come.
    pub fn enter(&self) -> Stranger {
        let mut waiting = self.waiting();
        while waiting.strangers.len() >= limits::STRANGERS {
            let Some((_, oldest)) = waiting.strangers.pop_first() else { break };
            oldest.cancel();
        }
        let number = waiting.next;
        waiting.next += 1;
        let shown_out = CancellationToken::new();
        waiting.strangers.insert(number, shown_out.clone());
        Stranger { doors: self.clone(), number, shown_out }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.doors.waiting().strangers.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_waited_longest_goes_when_there_are_too_many() {
        let doors = Doors::default();
        let mut strangers: Vec<Stranger> = (0..limits::STRANGERS).map(|_| doors.enter()).collect();
        // It has shown its token.
        drop(strangers.remove(0));
        strangers.push(doors.enter());
        assert!(strangers.iter().all(|stranger| !stranger.shown_out.is_cancelled()));
        strangers.push(doors.enter());
        let gone: Vec<bool> = strangers.iter().map(|stranger| stranger.shown_out.is_cancelled()).collect();
        assert!(gone[0] && !gone[1..].contains(&true));
        drop(strangers);
        assert!(doors.waiting().strangers.is_empty());
    }
}
