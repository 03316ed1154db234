//! One pod as the daemon knows it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Pods;
use super::flight::Flight;
use super::record::{self, PodRecord, PodState};
use crate::any::Any;
use crate::containers::Runtime;
use crate::error::{Error, Result};
use crate::sandboxes::{Sandbox, SandboxRecord};

/// How long whoever wants to change a pod waits for who is at it already.
const PATIENCE: Duration = Duration::from_secs(100);

/// What is being done to a pod.
#[derive(Clone)]
pub(super) enum Doing {
    /// A container of it is made.
    Making(Arc<Flight>),
    Verb {
        what: &'static str,
        step: &'static str,
    },
}

impl Doing {
    pub(super) fn verb(what: &'static str) -> Doing {
        Doing::Verb { what, step: "beginning" }
    }
}

/// Nobody else changes the pod until this is dropped.
pub(super) struct Turn {
    pod: Arc<Pod>,
    _held: tokio::sync::OwnedMutexGuard<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.pod.doing() = None;
    }
}

pub struct Pod {
    pub id: String,
    /// Held by whoever changes it: stops, removes, makes containers in it.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// What who holds it does.
    doing: Mutex<Option<Doing>>,
    record: Mutex<PodRecord>,
}

impl Pod {
    pub(super) fn new(id: String, record: PodRecord) -> Arc<Pod> {
        Arc::new(Pod { id, turn: Arc::default(), doing: Mutex::default(), record: Mutex::new(record) })
    }

    pub fn read<T>(&self, look: impl FnOnce(&PodRecord) -> T) -> T {
        look(&self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn record(&self) -> PodRecord {
        self.read(PodRecord::clone)
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut PodRecord) -> T) -> T {
        change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn doing(&self) -> MutexGuard<'_, Option<Doing>> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else changes it; says what is being done to it when that takes too long.
    pub(super) async fn turn(self: &Arc<Self>, doing: Doing) -> Result<Turn> {
        self.turn_within(PATIENCE, doing).await
    }

    /// As [`Pod::turn`], for work that nobody waits for.
    pub(super) async fn turn_in_time(self: &Arc<Self>, doing: Doing) -> Turn {
        let held = self.turn.clone().lock_owned().await;
        *self.doing() = Some(doing);
        Turn { pod: self.clone(), _held: held }
    }

    async fn turn_within(self: &Arc<Self>, patience: Duration, doing: Doing) -> Result<Turn> {
        match tokio::time::timeout(patience, self.turn_in_time(doing)).await {
            Ok(turn) => Ok(turn),
            Err(_) => {
                let under_way = match self.doing().clone() {
                    Some(Doing::Making(flight)) => flight.progress(),
                    Some(Doing::Verb { what, step }) => format!("{what}, at the step: {step}"),
                    None => "others are waiting, too".to_owned(),
                };
                let why = format!("something else is being done to it ({under_way}); ask again");
                Err(Error::unavailable(format!("pod sandbox {}", self.id), why))
            }
        }
    }

    /// Says how far the verb is that has the turn.
    pub(super) fn at(&self, now: &'static str) {
        if let Some(Doing::Verb { step, .. }) = self.doing().as_mut() {
            *step = now;
        }
    }

    pub(super) fn check_ready(&self) -> Result<()> {
        if self.is_ready() {
            return Ok(());
        }
        Err(Error::precondition(format!("pod sandbox {}", self.id), "it is not ready"))
    }

    pub fn is_ready(&self) -> bool {
        self.state() == PodState::Ready
    }

    pub(super) fn state(&self) -> PodState {
        self.read(|record| record.state)
    }

    /// As containerd's clients see it.
    pub(super) fn sandbox(&self) -> Result<Sandbox> {
        let record = self.record();
        let extension: Any = record::pack(record::POD, &self.id, &record)?;
        Ok(Sandbox {
            id: self.id.clone(),
            record: SandboxRecord {
                labels: super::container::store_labels(&record.config.labels, "sandbox"),
                runtime: Runtime { name: crate::engine::RUNTIME.to_owned(), options: None },
                spec: None,
                extensions: [(record::POD.to_owned(), extension)].into(),
                sandboxer: "longshore.pods".to_owned(),
                created_at: record.created_at,
                updated_at: record.created_at,
            },
        })
    }
}

impl Pods {
    /// Keeps a new pod; durable when it returns.
    pub(super) async fn keep_pod(&self, pod: &Pod) -> Result<()> {
        self.sandboxes.create(&self.namespace, pod.sandbox()?).await.map(drop)
    }

    /// Keeps a pod's changes; durable when it returns.
    pub(super) async fn save_pod(&self, pod: &Pod) -> Result<()> {
        let fields = [format!("extensions.{}", record::POD)];
        self.sandboxes.update(&self.namespace, pod.sandbox()?, &fields).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::flight::{Claim, Names};
    use crate::pods::salvage;

    #[tokio::test]
    async fn who_waits_for_a_pod_too_long_learns_at_which_step_it_is() {
        let pod = Pod::new("p".to_owned(), salvage::pod(b"{}"));
        let wait = async || pod.turn_within(Duration::from_millis(20), Doing::verb("stopped")).await;
        let Claim::Mine(making) = Names::default().claim("c", "container c".into(), String::new()) else {
            panic!("it was free")
        };
        let turn = pod.turn(Doing::Making(making.flight())).await.unwrap();
        making.flight().at("making its snapshot");
        let error = wait().await.err().unwrap();
        assert_eq!(error.code(), tonic::Code::Unavailable);
        let text = error.to_string();
        assert!(text.contains("container c is being made, at the step: making its snapshot"), "{text}");
        drop(turn);
        let turn = wait().await.unwrap();
        pod.at("ending its containers");
        let text = wait().await.err().unwrap().to_string();
        assert!(text.contains("stopped, at the step: ending its containers"), "{text}");
        drop(turn);
        assert!(wait().await.is_ok());
    }
}
