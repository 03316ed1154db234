//! What one pull holds while it runs, and gives back however it ends.
//!
//! What always holds: what a pull has fetched or unpacked belongs to its lease from before it exists; no thread of the
//! pull runs any more, and no uncommitted snapshot of it is left, when [`Session::end`] returns.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::{SignedDuration, Timestamp};
use tokio_util::task::TaskTracker;

use super::{PullError, Puller};
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::namespaces::Namespace;
use crate::snapshots::{Mount, Snapshotter};

/// The lease's life in case nobody ends it.
const LEASE_LIFE: SignedDuration = SignedDuration::from_hours(24);
const TARGET_LABEL: &str = "containerd.io/snapshot.ref";

/// How a pull went, for what it leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// What an earlier, interrupted pull had fetched of it is the image's now.
    Complete,
    /// What was fetched stays for a while, for another attempt.
    Interrupted,
    /// Nothing stays.
    Failed,
}

impl Ending {
    pub fn of<T>(result: &std::result::Result<T, PullError>) -> Ending {
        match result {
            Ok(_) => Ending::Complete,
            Err(error) if error.may_be_resumed() => Ending::Interrupted,
            Err(_) => Ending::Failed,
        }
    }
}

pub struct Session {
    puller: Arc<Puller>,
    pub namespace: Namespace,
    pub snapshotter: Snapshotter,
    pub lease: String,
    pub tracker: TaskTracker,
    /// Flags of threads that work for the pull.
    cancels: Mutex<Vec<Arc<AtomicBool>>>,
    prepared: Mutex<BTreeSet<String>>,
}

impl Session {
    pub async fn begin(
        puller: &Arc<Puller>,
        namespace: &Namespace,
        snapshotter: Snapshotter,
    ) -> Result<Session> {
        let expire = Timestamp::now().checked_add(LEASE_LIFE).unwrap_or(Timestamp::MAX);
        let labels = Labels::from([(super::PURPOSE.to_owned(), "pull".to_owned())]);
        let lease = puller.leases.create(namespace, None, labels, Some(expire)).await?.id;
        Ok(Session {
            puller: puller.clone(),
            namespace: namespace.clone(),
            snapshotter,
            lease,
            tracker: TaskTracker::new(),
            cancels: Mutex::default(),
            prepared: Mutex::default(),
        })
    }

    /// A flag that is set when the session ends.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        let flag = Arc::new(AtomicBool::new(false));
        self.cancels.lock().unwrap_or_else(PoisonError::into_inner).push(flag.clone());
        flag
    }

    /// Prepares a snapshot for the layer whose chain is `chain_id`. AlreadyExists if that is committed.
    pub async fn prepare(&self, chain_id: &str, parent: &str) -> Result<(String, Vec<Mount>)> {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
        let random = crate::hex::encode(&rand::random::<[u8; 4]>());
        let key = format!("extract-{nanos}-{random} {chain_id}");
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        let labels = Labels::from([(TARGET_LABEL.to_owned(), chain_id.to_owned())]);
        let made = self.snapshotter.prepare(&self.namespace, &key, parent, labels, Some(&self.lease)).await;
        match made {
            Ok(mounts) => Ok((key, mounts)),
            Err(error) => {
                self.committed(&key);
                Err(error)
            }
        }
    }

    /// The snapshot of that key is not ours to remove any more.
    pub fn committed(&self, key: &str) {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    pub async fn remove(&self, key: &str) {
        self.committed(key);
        match self.snapshotter.remove(&self.namespace, key).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => tracing::warn!("removing the unfinished snapshot {key}: {error}"),
        }
    }

    /// Ends all work and gives back what is not needed.
    pub async fn end(&self, ending: Ending) {
        for cancel in self.cancels.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            cancel.store(true, Ordering::Relaxed);
        }
        self.tracker.close();
        self.tracker.wait().await;
        let prepared = std::mem::take(&mut *self.prepared.lock().unwrap_or_else(PoisonError::into_inner));
        for key in &prepared {
            self.remove(key).await;
        }
        let (leases, namespace) = (&self.puller.leases, &self.namespace);
        let kept = async {
            let held = leases.resources(namespace, &self.lease)?;
            match ending {
                Ending::Complete => self.puller.forget_resumed(namespace, &held).await,
                Ending::Interrupted => self.puller.keep_for_resuming(namespace, held).await,
                Ending::Failed => Ok(()),
            }
        };
        if let Err(error) = kept.await {
            tracing::warn!("handing over what a pull has fetched: {error}");
        }
        if let Err(error) = leases.delete(namespace, &self.lease).await {
            tracing::warn!("ending the lease of a pull: {error}");
        }
        self.puller.gc.trigger();
    }
}
