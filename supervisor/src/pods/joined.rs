//! Long work on pods that is done once, however many ask for it, and is given up when nobody who asked waits any more.
//!
//! What always holds: at most one such work goes on for a key; whoever waits is told its outcome, or that it took too long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::error::{Error, Result};

/// How long a caller waits.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long what is given up may take to come to its end: longer than one dump may.
const END: Duration = Duration::from_secs(700);

type Outcome<T> = Result<T, Arc<Error>>;

/// How often it is looked whether anybody waits for what may hang.
const LOOK: Duration = Duration::from_millis(250);

/// Whether anybody still waits for a work.
#[derive(Clone)]
pub(super) struct Wanted(Weak<()>);

impl Wanted {
    #[cfg(test)]
    pub(super) fn by(who: &Arc<()>) -> Wanted {
        Wanted(Arc::downgrade(who))
    }

    /// Waits for `work`, and leaves it alone as soon as nobody wants it any more.
    pub(super) async fn wait<T>(&self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(LOOK, &mut work).await {
                Ok(done) => return done,
                Err(_) => self.check(what)?,
            }
        }
    }

    /// An error if nobody does.
    pub(super) fn check(&self, what: &str) -> Result<()> {
        match self.0.strong_count() {
            0 => Err(Error::Canceled { what: format!("{what}, which nobody waits for any more") }),
            _ => Ok(()),
        }
    }
}

struct Work<T> {
    asked: String,
    wanted: Weak<()>,
    done: watch::Receiver<Option<Outcome<T>>>,
}

/// What one who asked has of a work: it is wanted while this is there.
struct Part<T> {
    wanted: Arc<()>,
    done: watch::Receiver<Option<Outcome<T>>>,
}

/// The works of one kind.
pub(super) struct Joined<T>(Mutex<HashMap<String, Work<T>>>);

impl<T> Default for Joined<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// Frees a key, whatever becomes of the work.
struct Place<T> {
    all: Arc<Joined<T>>,
    key: String,
}

impl<T> Drop for Place<T> {
    fn drop(&mut self) {
        self.all.table().remove(&self.key);
    }
}

impl<T> Joined<T> {
    fn table(&self) -> MutexGuard<'_, HashMap<String, Work<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone + Send + Sync + 'static> Joined<T> {
    /// Begins a work for `key`, or joins the one under way if the same is `asked`, and waits for its end. `what` is said in errors.
    pub(super) async fn run<F>(
        self: &Arc<Self>,
        tracker: &TaskTracker,
        (key, asked): (&str, String),
        what: &str,
        work: impl FnOnce(Wanted) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let Part { wanted, mut done } = self.take_part(tracker, (key, asked), what, work)?;
        let late = tokio::time::timeout(PATIENCE, done.wait_for(Option::is_some)).await.is_err();
        if late {
            // Nothing is returned before it has been taken back.
            drop(wanted);
            let _ = tokio::time::timeout(END, done.wait_for(Option::is_some)).await;
            return Err(Error::Timeout { what: what.to_owned(), seconds: PATIENCE.as_secs() });
        }
        let outcome = done.borrow().clone();
        match outcome {
            Some(outcome) => outcome.map_err(Error::Shared),
            None => Err(Error::Lost { what: "work on a pod" }),
        }
    }

    fn take_part<F>(
        self: &Arc<Self>,
        tracker: &TaskTracker,
        (key, asked): (&str, String),
        what: &str,
        work: impl FnOnce(Wanted) -> F,
    ) -> Result<Part<T>>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut table = self.table();
        if let Some(under_way) = table.get(key) {
            let Some(wanted) = under_way.wanted.upgrade() else {
                let why =
                    "an earlier one that nobody waits for any more is being brought to its end: ask again";
                return Err(Error::unavailable(what, why));
            };
            if under_way.asked != asked {
                let why = "another one is under way: ask again when it has ended";
                return Err(Error::unavailable(what, why));
            }
            return Ok(Part { wanted, done: under_way.done.clone() });
        }
        let wanted = Arc::new(());
        let (tell, done) = watch::channel(None);
        let place = Place { all: self.clone(), key: key.to_owned() };
        let work = work(Wanted(Arc::downgrade(&wanted)));
        tracker.spawn(async move {
            let outcome = work.await.map_err(Arc::new);
            // Whoever asks from here on asks for a new one.
            drop(place);
            tell.send_replace(Some(outcome));
        });
        let entry = Work { asked, wanted: Arc::downgrade(&wanted), done: done.clone() };
        table.insert(key.to_owned(), entry);
        Ok(Part { wanted, done })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn the_same_is_done_once_and_given_up_when_nobody_waits() {
        let (all, tracker) = (Arc::new(Joined::<u32>::default()), TaskTracker::new());
        let (tell, told) = oneshot::channel::<()>();
        let first = all.run(&tracker, ("pod", "a".to_owned()), "a checkpoint", |wanted| async move {
            let _ = told.await;
            wanted.check("a checkpoint")?;
            Ok(1)
        });
        let second = all.run(&tracker, ("pod", "a".to_owned()), "a checkpoint", |_| async { Ok(2) });
        let other = async {
            let error = all.run(&tracker, ("pod", "b".to_owned()), "a checkpoint", |_| async { Ok(3) }).await;
            assert!(matches!(error, Err(Error::Unavailable { .. })));
            let _ = tell.send(());
        };
        let (first, second, ()) = tokio::join!(first, second, other);
        assert_eq!((first.unwrap(), second.unwrap()), (1, 1));

        let (tell, told) = oneshot::channel::<()>();
        let (say, said) = oneshot::channel();
        let alone = all.run(&tracker, ("pod", "a".to_owned()), "a checkpoint", |wanted| async move {
            let _ = told.await;
            let _ = say.send(wanted.check("a checkpoint").is_err());
            Ok(4)
        });
        assert!(tokio::time::timeout(Duration::from_millis(10), alone).await.is_err());
        let again = all.run(&tracker, ("pod", "a".to_owned()), "a checkpoint", |_| async { Ok(5) }).await;
        assert!(matches!(again, Err(Error::Unavailable { .. })), "{again:?}");
        let _ = tell.send(());
        assert!(said.await.unwrap(), "it is told that nobody waits");

        let waits = Arc::new(());
        let wanted = Wanted::by(&waits);
        assert_eq!(wanted.wait("x", async { Ok(6) }).await.unwrap(), 6);
        drop(waits);
        let left = wanted.wait("x", std::future::pending::<Result<u32>>()).await;
        assert!(matches!(left, Err(Error::Canceled { .. })), "what hangs is left alone");
    }
}
