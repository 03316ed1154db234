//! One pull under way, and all who wait for it.
//!
//! What always holds: a pull that nobody waits for any more is cancelled and cleans up after itself; one that somebody waits for
//! goes on, whoever else leaves.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{mpsc, watch};

use super::progress::{Progress, PullEvent, UnderWay};
use super::{PullError, PullRequest, Pulled, Puller};
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

type Key = (Namespace, PullRequest);
type Outcome = Option<std::result::Result<Pulled, Arc<PullError>>>;

/// The pulls that somebody waits for.
#[derive(Default)]
pub struct Flights(Mutex<HashMap<Key, Weak<Flight>>>);

pub struct Flight {
    progress: Arc<Progress>,
    outcome: watch::Receiver<Outcome>,
    /// Dropped with the last who waits.
    _cancel: watch::Sender<()>,
}

impl Flights {
    /// Joins the pull of this image, or begins it.
    pub fn join(&self, puller: &Arc<Puller>, namespace: &Namespace, request: PullRequest) -> Arc<Flight> {
        let key = (namespace.clone(), request);
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = flights.get(&key).and_then(Weak::upgrade)
            && flight.outcome.borrow().is_none()
        {
            return flight;
        }
        let flight = begin(puller, &key);
        flights.insert(key, Arc::downgrade(&flight));
        flight
    }

    /// Those of this namespace that are under way, the oldest first.
    pub fn under_way(&self, namespace: &Namespace) -> Vec<UnderWay> {
        let flights: Vec<Arc<Flight>> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter()
                .filter(|((of, _), _)| of == namespace)
                .filter_map(|(_, flight)| flight.upgrade())
                .collect()
        };
        let running = flights.iter().filter(|flight| flight.outcome.borrow().is_none());
        let mut all: Vec<UnderWay> = running.map(|flight| flight.progress.under_way()).collect();
        all.sort_by(|a, b| (a.since, &a.reference).cmp(&(b.since, &b.reference)));
        all
    }
}

fn begin(puller: &Arc<Puller>, (namespace, request): &Key) -> Arc<Flight> {
    let progress = Arc::new(Progress::new(request.reference.canonical()));
    let (report, outcome) = watch::channel(None);
    let (cancel, mut cancelled) = watch::channel(());
    let (puller, namespace, request, seen) =
        (puller.clone(), namespace.clone(), request.clone(), progress.clone());
    tokio::spawn(async move {
        let abandoned = async {
            // Nothing is ever sent: an error means that nobody waits.
            while cancelled.changed().await.is_ok() {}
        };
        let result = puller.run(&namespace, &request, &seen, abandoned).await;
        report.send_replace(Some(result.map_err(Arc::new)));
    });
    Arc::new(Flight { progress, outcome, _cancel: cancel })
}

impl Flight {
    /// Waits for the end of the pull and reports how it goes.
    pub async fn wait(self: Arc<Self>, watcher: Option<mpsc::Sender<PullEvent>>) -> Result<Pulled> {
        let (end, ended) = watch::channel(false);
        let mut outcome = self.outcome.clone();
        let result = async {
            let outcome = outcome.wait_for(Option::is_some).await;
            let result = outcome.ok().and_then(|outcome| outcome.clone());
            end.send_replace(true);
            result
        };
        let report = async {
            if let Some(watcher) = watcher {
                self.progress.report(&watcher, ended).await;
            }
        };
        match tokio::join!(result, report).0 {
            Some(Ok(pulled)) => Ok(pulled),
            Some(Err(error)) => Err(Error::from(error)),
            None => Err(Error::Lost { what: "the pull" }),
        }
    }
}
