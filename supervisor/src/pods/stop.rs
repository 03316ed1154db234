//! Stopping containers and pods.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Pods;
use super::container::Container;
use super::events::Happened;
use super::namespaces::Files;
use super::pod::{Doing, Pod};
use super::record::{PodNetwork, PodState};
use crate::content::store::blocking;
use crate::engine::signals;
use crate::error::{Error, Result};
use crate::tasks::{KillScope, ProcessId};

/// How long a container that was killed may take to be gone.
const KILLED: Duration = Duration::from_secs(60);

/// How long a shim that is unavailable is asked again: one that has died is noticed in a moment, and its task has ended then.
const NOTICED: Duration = Duration::from_secs(10);
const ASKED_AGAIN: Duration = Duration::from_millis(50);

/// What the containers of a pod get that is stopped under them.
const WITH_POD: Duration = Duration::ZERO;

/// Asks a shim, and again while it is unavailable.
pub(super) async fn until_available<F: Future<Output = Result<()>>>(ask: impl Fn() -> F) -> Result<()> {
    let until = Instant::now() + NOTICED;
    loop {
        match ask().await {
            Err(error) if error.code() == tonic::Code::Unavailable && Instant::now() < until => {
                tokio::time::sleep(ASKED_AGAIN).await;
            }
            answer => return answer,
        }
    }
}

impl Pods {
    /// Ends a container: by its signal, and after `grace` by force. One that is not there, or does not run, is stopped.
    pub async fn stop_container(self: &Arc<Self>, id: &str, grace: Duration) -> Result<()> {
        let container = match self.container(id) {
            Ok(container) => container,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let pods = self.clone();
        // What was begun is ended by force, even if nobody waits for it any more.
        let work = async move { pods.stop_one(&container, grace).await };
        self.background.spawn(work).await.unwrap_or(Err(Error::Lost { what: "stopping a container" }))
    }

    pub(super) async fn stop_one(
        self: &Arc<Self>,
        container: &Arc<Container>,
        grace: Duration,
    ) -> Result<()> {
        // Whoever starts it is not disturbed; after that it runs, or never does.
        drop(container.turn.lock().await);
        // One that does not answer may run all the same.
        if !container.state().may_run() {
            return Ok(());
        }
        if !grace.is_zero() {
            let signal = signals::parse(&container.read(|record| record.stop_signal.clone()))?;
            match self.signal(container, signal, KillScope::One).await {
                Ok(()) if self.is_over(container, grace).await => return Ok(()),
                Ok(()) => {}
                // Something else is being done to it; what follows is for no turn.
                Err(error) => {
                    tracing::warn!(container = %container.id, %error, "it cannot be asked to stop, and is killed");
                }
            }
        }
        self.signal(container, signals::KILL, KillScope::All).await?;
        if self.is_over(container, KILLED).await {
            return Ok(());
        }
        Err(Error::Timeout {
            what: format!("container {}: it was killed, and its processes are still there", container.id),
            seconds: KILLED.as_secs(),
        })
    }

    async fn signal(
        self: &Arc<Self>,
        container: &Arc<Container>,
        signal: i32,
        scope: KillScope,
    ) -> Result<()> {
        let signal = signal.unsigned_abs();
        let kill = || self.tasks.kill(&self.namespace, &container.id, ProcessId::Init, signal, scope);
        match until_available(kill).await {
            // It has ended meanwhile.
            Err(error) if error.is_not_found() || error.code() == tonic::Code::NotFound => {
                self.end_soon(container.clone());
                Ok(())
            }
            other => other,
        }
    }

    async fn is_over(&self, container: &Container, patience: Duration) -> bool {
        let mut ended = container.ended.subscribe();
        let waited = tokio::time::timeout(patience, ended.wait_for(|ended| *ended)).await;
        waited.is_ok()
    }

    /// Ends all containers of a pod and takes its network back. One that is not there is stopped.
    pub async fn stop_pod(self: &Arc<Self>, id: &str) -> Result<()> {
        let pod = match self.pod(id) {
            Ok(pod) => pod,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let turn = pod.turn(Doing::verb("it is being stopped")).await?;
        let pods = self.clone();
        let work = async move {
            let _turn = turn;
            pods.stop_turned(&pod).await
        };
        self.background.spawn(work).await.unwrap_or(Err(Error::Lost { what: "stopping a pod" }))
    }

    /// The caller holds the pod's turn. Every step may be done again.
    pub(super) async fn stop_turned(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        let before = pod.state();
        if !before.is_over() {
            // Nothing is made or started in it from here on.
            pod.change(|record| record.state = PodState::Stopping);
        }
        if matches!(before, PodState::Ready | PodState::Unreadable)
            && let Err(error) = self.save_pod(pod).await
        {
            // What follows may be what gives a full disk room again; that it is over has to be recorded.
            tracing::warn!(pod = %pod.id, %error, "it is not recorded that a pod is being stopped");
        }
        pod.at("ending its containers");
        let containers = self.containers_of(&pod.id);
        let stops = containers.iter().map(|container| self.stop_one(container, WITH_POD));
        futures::future::join_all(stops).await.into_iter().collect::<Result<()>>()?;
        pod.at("ending its first process");
        self.stop_pause(&pod.id).await?;
        if !before.is_over() {
            self.happened(&pod.id, &pod.id, Happened::Stopped);
        }
        pod.at("taking its network back");
        let folder = self.folder(&pod.id);
        let files = Files::of(&folder);
        let network = pod.read(|record| record.network.clone());
        self.leave_network(&pod.id, &network, &files).await;
        self.engine.drop_shm(&pod.id);
        blocking(move || {
            super::etc_files::release(&folder.join("etc"));
            files.release()
        })
        .await?;
        pod.at("recording that it is stopped");
        if before.is_over() && network == PodNetwork::default() {
            return Ok(());
        }
        pod.change(|record| (record.state, record.network) = (PodState::NotReady, PodNetwork::default()));
        let saved = self.save_pod(pod).await;
        if saved.is_err() {
            // To be done again.
            pod.change(|record| record.state = PodState::Stopping);
        }
        saved
    }
}
