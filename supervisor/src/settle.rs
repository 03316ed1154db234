//! After work that needs much memory (the start, a pull, starting containers) the daemon settles: it gives back what it does
//! not need to be idle.
//!
//! What always holds: it settles once after such work, when none has ended for [`QUIET`]; a daemon that answers small requests,
//! or does nothing, does nothing here. Pages of code go once, after the start: those that requests run stay mapped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::content::store::blocking;
use crate::{code, malloc};

/// How long no such work may end before.
const QUIET: Duration = Duration::from_millis(500);

#[derive(Default)]
struct Ends {
    count: AtomicU64,
    any: Notify,
}

/// Is told when such work ends.
#[derive(Clone)]
pub struct Settle(Arc<Ends>);

impl Settle {
    /// Settles in the background, for the first time after the start that is ending now.
    pub fn start() -> Self {
        let settle = Self(Arc::default());
        settle.ended();
        tokio::spawn(run(Arc::clone(&settle.0)));
        settle
    }

    /// Such work has ended.
    pub fn ended(&self) {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.any.notify_one();
    }
}

async fn run(ends: Arc<Ends>) {
    let mut starting = true;
    loop {
        ends.any.notified().await;
        loop {
            let before = ends.count.load(Ordering::Relaxed);
            tokio::time::sleep(QUIET).await;
            if ends.count.load(Ordering::Relaxed) == before {
                break;
            }
        }
        let after_start = std::mem::take(&mut starting);
        let give_back = move || {
            malloc::trim();
            if after_start {
                code::unmap();
            }
            Ok(())
        };
        if let Err(error) = blocking(give_back).await {
            tracing::debug!("nothing was given back: {error}");
        }
    }
}
