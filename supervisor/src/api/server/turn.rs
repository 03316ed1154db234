//! Requests begin in the task of their connection, and go on in one of their own only if they have to wait.
//!
//! Most requests are answered from memory: their answers are there when all that arrived together have begun, and leave together.
//! A task for each would cost more than the answer.
//!
//! What always holds: a turn begins requests for [`TURN`] at most, so that a connection that asks for much holds up no other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// How long requests begin in one turn; the others begin in tasks of their own.
const TURN: Duration = Duration::from_millis(1);

type Request = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Requests of one connection that have arrived and not begun.
#[derive(Clone, Default)]
pub struct Arrivals(Arc<Mutex<Vec<Request>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Arrivals {
    fn execute(&self, request: F) {
        self.lock().push(Box::pin(request));
    }
}

impl Arrivals {
    /// Begins what has arrived; whether anything had.
    pub fn begin(&self) -> bool {
        let arrived = std::mem::take(&mut *self.lock());
        let any = !arrived.is_empty();
        let began = Instant::now();
        for mut request in arrived {
            if began.elapsed() > TURN {
                tokio::spawn(request);
                continue;
            }
            // Whoever has to wait is asked again by his own task, which is the one to be woken.
            let mut context = Context::from_waker(Waker::noop());
            let begun = catch_unwind(AssertUnwindSafe(|| request.as_mut().poll(&mut context)));
            match begun {
                Ok(answered) if answered.is_ready() => {}
                Ok(_) => drop(tokio::spawn(request)),
                // The panic was told of; the other requests of the connection are not to blame.
                Err(_) => drop(catch_unwind(AssertUnwindSafe(|| drop(request)))),
            }
        }
        any
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Request>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::Executor;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn what_waits_goes_on_by_itself_and_what_panics_harms_nobody() {
        let arrivals = Arrivals::default();
        let answered = Arc::new(AtomicUsize::new(0));
        let count = || {
            let answered = Arc::clone(&answered);
            move || answered.fetch_add(1, Ordering::Relaxed)
        };
        let (at_once, later, after) = (count(), count(), count());
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        arrivals.execute(async move {
            at_once();
        });
        arrivals.execute(async move {
            let _ = gone.await;
            later();
        });
        arrivals.execute(async { panic!("a request that panics, on purpose") });
        // To tell of a panic may take longer than a turn: this one begins now or in a task of its own.
        let (beyond, done) = tokio::sync::oneshot::channel();
        arrivals.execute(async move {
            after();
            let _ = beyond.send(());
        });
        assert!(arrivals.begin());
        assert!(answered.load(Ordering::Relaxed) >= 1);
        done.await.unwrap();
        assert_eq!(answered.load(Ordering::Relaxed), 2);
        go.send(()).unwrap();
        while answered.load(Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
        assert!(!arrivals.begin());
    }

    #[tokio::test]
    async fn a_turn_that_was_long_leaves_the_rest_to_others() {
        let arrivals = Arrivals::default();
        let answered = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&answered);
        arrivals.execute(async { std::thread::sleep(TURN * 2) });
        arrivals.execute(async move {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert!(arrivals.begin());
        assert_eq!(answered.load(Ordering::Relaxed), 0);
        while answered.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    }
}
