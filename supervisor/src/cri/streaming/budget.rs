//! How much of what came may wait for those who take it: so much of each connection's own in either direction, and beyond that a part of
//! what all connections have together.
//!
//! What always holds: whatever other connections hold, one of them can always have its own part; no connection holds more than
//! [`limits::CONNECTION`], and all together no more than their own parts and [`limits::WAITING`].

#![forbid(unsafe_code)]

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits;

/// What all connections have together.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

impl Default for Budget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(limits::WAITING)))
    }
}

impl Budget {
    /// For one direction of one more connection.
    pub fn share(&self) -> Share {
        Share {
            all: self.0.clone(),
            own: Arc::new(Semaphore::new(limits::OWN)),
            most: Arc::new(Semaphore::new(limits::CONNECTION)),
        }
    }
}

/// What one connection may hold.
#[derive(Clone, Debug)]
pub struct Share {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    most: Arc<Semaphore>,
}

/// The room of bytes that wait; dropped when they were taken.
#[derive(Debug)]
pub struct Held {
    _most: OwnedSemaphorePermit,
    _part: OwnedSemaphorePermit,
}

/// Bytes that wait.
#[derive(Debug)]
pub struct Piece {
    pub bytes: Bytes,
    pub held: Held,
}

impl Share {
    /// Waits until so many bytes, at most [`limits::PIECE`], may wait. `None`: never any more.
    pub async fn take(&self, count: usize) -> Option<Held> {
        // What a piece costs besides its bytes, so that many small ones are not free.
        let count = u32::try_from(count.min(limits::PIECE) + limits::PIECE_COST).ok()?;
        let most = self.most.clone().acquire_many_owned(count).await.ok()?;
        let part = tokio::select! {
            biased;
            own = self.own.clone().acquire_many_owned(count) => own,
            common = self.all.clone().acquire_many_owned(count) => common,
        };
        Some(Held { _most: most, _part: part.ok()? })
    }

    /// Room of what all have together, if there is so much now.
    pub fn try_common(&self, count: usize) -> Option<OwnedSemaphorePermit> {
        self.all.clone().try_acquire_many_owned(u32::try_from(count).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn what_others_hold_takes_nothing_of_a_connections_own_part() {
        let budget = Budget::default();
        let mut greedy = Vec::new();
        let mut connections = 0;
        loop {
            let share = budget.share();
            let before = greedy.len();
            while let Some(held) = share.take(limits::PIECE).now_or_never() {
                greedy.push(held.unwrap());
            }
            connections += 1;
            let bytes = (greedy.len() - before) * limits::PIECE;
            assert!(bytes <= limits::CONNECTION);
            if bytes <= limits::OWN {
                break;
            }
        }
        assert!(greedy.len() * limits::PIECE <= limits::WAITING + connections * limits::OWN);
        let modest = budget.share();
        let held = modest.take(limits::PIECE).now_or_never().unwrap();
        assert!(modest.take(limits::PIECE).now_or_never().is_none());
        drop(held);
        assert!(modest.take(limits::PIECE).now_or_never().is_some());
    }

    #[test]
    fn pieces_of_one_byte_are_bounded_by_what_they_cost() {
        let share = Budget::default().share();
        let mut held = Vec::new();
        while let Some(piece) = share.take(1).now_or_never() {
            held.push(piece);
        }
        assert!(held.len() <= limits::INLET, "{}", held.len());
    }
}
