//! Who works on which snapshot right now, and which ones the collector has condemned.
//!
//! What always holds: no key is claimed and condemned at the same time, and none is condemned that was claimed since
//! the collector looked: it may be another snapshot now, or labelled otherwise.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Keys that one collection remembers as used since it looked; beyond them it condemns nothing.
const MAX_USED: usize = 100_000;

#[derive(Default)]
pub struct Claims {
    state: Mutex<State>,
    reprieved: Notify,
}

#[derive(Default)]
struct State {
    claimed: HashMap<String, usize>,
    condemned: BTreeSet<String>,
    used: Used,
}

/// What was claimed since the collector looked.
#[derive(Default)]
enum Used {
    /// It is not at work.
    #[default]
    Idle,
    Since(HashSet<String>),
    TooMany,
}

impl Used {
    fn add(&mut self, key: &str) {
        if let Self::Since(keys) = self {
            keys.insert(key.to_owned());
            if keys.len() > MAX_USED {
                *self = Self::TooMany;
            }
        }
    }

    fn may_be_condemned(&self, key: &str) -> bool {
        matches!(self, Self::Since(keys) if !keys.contains(key))
    }
}

/// Keys that the collector leaves alone until this is dropped.
#[must_use]
pub struct Hold {
    claims: Arc<Claims>,
    keys: Vec<String>,
}

impl Claims {
    /// Claims keys, existing or not; waits for the end of the collection that has condemned one of them.
    pub async fn claim(self: &Arc<Self>, keys: impl IntoIterator<Item = String>) -> Hold {
        let keys: Vec<String> = keys.into_iter().collect();
        loop {
            let reprieved = self.reprieved.notified();
            tokio::pin!(reprieved);
            reprieved.as_mut().enable();
            if self.try_claim(&keys) {
                return Hold { claims: Arc::clone(self), keys };
            }
            reprieved.await;
        }
    }

    fn try_claim(&self, keys: &[String]) -> bool {
        let mut state = self.lock();
        if keys.iter().any(|key| state.condemned.contains(key)) {
            return false;
        }
        for key in keys {
            *state.claimed.entry(key.clone()).or_default() += 1;
            state.used.add(key);
        }
        true
    }

    /// The collector is about to look: from now on is remembered what is used. What an earlier collection condemned and
    /// did not come to remove is free again.
    pub fn look(&self) {
        let mut state = self.lock();
        state.used = Used::Since(state.claimed.keys().cloned().collect());
        state.condemned.clear();
        drop(state);
        self.reprieved.notify_waiters();
    }

    /// Condemns a key that nobody has claimed since the collector looked.
    pub fn condemn(&self, key: String) -> bool {
        let mut state = self.lock();
        let free = !state.claimed.contains_key(&key) && state.used.may_be_condemned(&key);
        free && state.condemned.insert(key)
    }

    /// Ends the condemnation of keys, removed or not.
    pub fn reprieve<'a>(&self, keys: impl Iterator<Item = &'a str>) {
        let mut state = self.lock();
        for key in keys {
            state.condemned.remove(key);
        }
        drop(state);
        self.reprieved.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.claims.lock();
        for key in &self.keys {
            if let Some(count) = state.claimed.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    state.claimed.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_claimed_cannot_be_condemned_and_the_other_way_round() {
        let claims = Arc::new(Claims::default());
        let hold = claims.claim(["a".to_owned(), "b".to_owned()]).await;
        assert!(!claims.condemn("c".to_owned()), "nobody looked");
        claims.look();
        assert!(!claims.condemn("a".to_owned()));
        drop(hold);
        assert!(!claims.condemn("a".to_owned()), "it was in use when the collector looked");
        claims.look();
        drop(claims.claim(["b".to_owned()]).await);
        assert!(!claims.condemn("b".to_owned()), "it was used since");
        assert!(claims.condemn("a".to_owned()));
        let waiting = tokio::spawn({
            let claims = Arc::clone(&claims);
            async move { claims.claim(["a".to_owned()]).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        claims.reprieve(["a"].into_iter());
        drop(waiting.await.unwrap());
        assert!(claims.lock().claimed.is_empty());
    }
}
