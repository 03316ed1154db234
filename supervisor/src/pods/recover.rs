//! After a start of the daemon: what the records of pods say and what is there are made to agree, and what a crash left
//! without an owner is removed.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use futures::StreamExt;

use super::Pods;
use super::config::Sharing;
use super::container::Container;
use super::create::LABEL;
use super::namespaces::Files;
use super::pod::{Doing, Pod};
use super::record::{self, PodNetwork, PodState, State};
use super::salvage;
use crate::error::Result;
use crate::filters::Filter;
use crate::network::sandbox::Owner;
use crate::tasks::{KillScope, ProcessId, ProcessInfo, Status};

/// How long a task that nobody owns may take to end when it is killed.
const KILLED: std::time::Duration = std::time::Duration::from_secs(10);

/// Containers that are settled at once.
const AT_ONCE: usize = 16;

impl Pods {
    /// Reads the records, and says whose addresses and ports are taken. Before networks are looked through for what nobody owns.
    pub fn read_back(&self) -> Result<()> {
        let everything = Filter::default();
        let aside = self.config.root.join("unreadable");
        for sandbox in self.sandboxes.read_back(&self.namespace, &aside, salvage::sandbox)? {
            let Some(extension) = sandbox.record.extensions.get(record::POD) else { continue };
            let read = record::unpack(record::POD, &sandbox.id, extension);
            let record: record::PodRecord = read.unwrap_or_else(|error| {
                tracing::error!(pod = %sandbox.id, %error, "a pod's record cannot be read: it is kept as it is, not ready");
                salvage::pod(&extension.value)
            });
            self.pod_names.insert(&record.config.name.to_string(), &sandbox.id);
            let pod = Pod::new(sandbox.id.clone(), record);
            if !pod.state().is_over() && self.is_there(&pod) {
                pod.read(|record| {
                    let owner = Owner { container: pod.id.clone(), name: record.config.name.to_string() };
                    let network = &record.network;
                    self.networks.is_there(&owner, &network.endpoints);
                    self.networks.firewall.recovered(&pod.id, &network.published, &network.endpoints);
                });
            }
            self.table().pods.insert(sandbox.id, pod);
        }
        for stored in self.containers.list(&self.namespace, &everything)? {
            let Some(extension) = stored.extensions.get(record::CONTAINER) else { continue };
            let read = record::unpack(record::CONTAINER, &stored.id, extension);
            let record: record::ContainerRecord = read.unwrap_or_else(|error| {
                tracing::error!(container = %stored.id, %error, "a container's record cannot be read as a whole");
                salvage::container(&extension.value, &stored)
            });
            let name = format!("{}_{}_{}", record.config.name, record.pod, record.config.attempt);
            self.container_names.insert(&name, &stored.id);
            let spec = stored.spec.map(|spec| spec.value).unwrap_or_default();
            self.table().containers.insert(stored.id.clone(), Container::new(stored.id, spec, record));
        }
        Ok(())
    }

    /// Whether a pod's namespaces are still held: not after the host was started anew.
    fn is_there(&self, pod: &Pod) -> bool {
        let folder = self.folder(&pod.id);
        if pod.read(|record| record.config.namespaces.network == Sharing::Node) {
            return folder.is_dir();
        }
        let device = |path: &std::path::Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
        let network = device(&Files::of(&folder).network());
        network.is_some() && network != device(&folder)
    }

    /// Settles states, and removes what nothing owns. Runs before the socket is opened.
    pub async fn recover(self: &Arc<Self>) -> Result<()> {
        let tasks = self.tasks.list(&self.namespace);
        futures::stream::iter(self.all_containers())
            .for_each_concurrent(AT_ONCE, |container| {
                let task = tasks.iter().find(|task| task.container_id == container.id);
                async move { self.settle(&container, task).await }
            })
            .await;
        for pod in self.all_pods() {
            let is_lost = match pod.state() {
                PodState::Ready => !self.is_there(&pod) || self.lost_its_pause(&pod),
                // The daemon that stopped it did not come to the end.
                PodState::Stopping => true,
                PodState::NotReady | PodState::Unreadable => false,
            };
            if is_lost {
                self.stop_later(pod);
            }
        }
        self.discard_tasks(&tasks);
        self.remove_folders();
        self.remove_snapshots().await?;
        self.sweep_saved();
        self.take_up_notes();
        self.detach_lost();
        self.watch_tasks();
        Ok(())
    }

    fn stop_later(self: &Arc<Self>, pod: Arc<Pod>) {
        let pods = self.clone();
        self.background.spawn(async move {
            let why = "it is being stopped, since what it had is gone";
            let _turn = pod.turn_in_time(Doing::verb(why)).await;
            if let Err(error) = pods.stop_turned(&pod).await {
                tracing::warn!(pod = %pod.id, %error, "a pod that is gone cannot be stopped yet");
            }
        });
    }

    async fn settle(self: &Arc<Self>, container: &Arc<Container>, task: Option<&ProcessInfo>) {
        let state = container.state();
        let runs = task.filter(|task| matches!(task.status, Status::Running | Status::Paused));
        let exit = task.and_then(|task| task.exit);
        match (state, runs) {
            (State::Exited, _) => {
                if task.is_some() {
                    self.delete_task(&container.id).await;
                }
            }
            (_, Some(task)) => {
                container.change(|record| {
                    record.state = State::Running;
                    record.pid = task.pid;
                    record.started_at.get_or_insert_with(jiff::Timestamp::now);
                });
                self.take_over_execs(&container.id);
            }
            // It may run: also one whose start the last daemon did not live to record.
            (_, None) if task.is_some_and(|task| task.status == Status::Unknown) => {
                container.change(|record| record.state = State::Unknown);
                self.look_again(container.clone());
            }
            (State::Running | State::Unknown, None) => self.conclude(container, exit).await,
            // Its start was recorded by the shim alone.
            (State::Created, None) if exit.is_some() => self.conclude(container, exit).await,
            (State::Created, None) => {
                // One that was about to go on from a checkpoint has processes.
                if task.is_some() {
                    self.discard_task(&container.id).await;
                }
            }
        }
    }

    /// Ends the first processes of pods that were never recorded.
    fn discard_tasks(self: &Arc<Self>, tasks: &[ProcessInfo]) {
        for task in tasks {
            let id = task.container_id.clone();
            let is_ours = self.folder(&id).is_dir();
            if !is_ours || self.pod(&id).is_ok() || self.containers.get(&self.namespace, &id).is_ok() {
                continue;
            }
            tracing::warn!(pod = %id, "ending the first process of a pod that was not made");
            let pods = self.clone();
            self.background.spawn(async move { pods.discard_task(&id).await });
        }
    }

    pub(super) async fn discard_task(&self, id: &str) {
        let kill = crate::engine::signals::KILL.unsigned_abs();
        let process = ProcessId::Init;
        if self.tasks.kill(&self.namespace, id, process, kill, KillScope::All).await.is_ok() {
            let _ = tokio::time::timeout(KILLED, self.tasks.wait(&self.namespace, id, process)).await;
        }
        self.delete_task(id).await;
    }

    /// Folders of pods that were not recorded, with what is held there. Plugins and processes may take their time, and the socket
    /// does not wait for them: a plugin may need a pod of this daemon's.
    fn remove_folders(self: &Arc<Self>) {
        let entries = std::fs::read_dir(self.folders()).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        for id in names.filter(|id| self.pod(id).is_err()).collect::<Vec<_>>() {
            tracing::info!(pod = %id, "removing what is left of a pod");
            let pods = self.clone();
            self.background.spawn(async move {
                if let Err(error) = pods.clear_pod(&id, &PodNetwork::default()).await {
                    tracing::warn!(pod = %id, %error, "cannot remove what is left of a pod");
                }
            });
        }
    }

    async fn remove_snapshots(&self) -> Result<()> {
        let snapshotter = self.engine.snapshotter()?;
        let listed = snapshotter.list(&self.namespace, &Filter::default()).await?;
        for info in listed {
            let Some(owner) = info.labels.get(LABEL) else { continue };
            // One whose record cannot be read may be there all the same.
            if !self.containers.get(&self.namespace, owner).is_err_and(|error| error.is_not_found()) {
                continue;
            }
            tracing::info!(container = %info.name, "removing what is left of a container");
            if let Err(error) = snapshotter.remove(&self.namespace, &info.name).await {
                tracing::warn!(container = %info.name, %error, "cannot remove what is left of a container");
            }
        }
        Ok(())
    }

    /// Takes back attachments of pods that are gone; plugins may take their time, and nothing waits for these.
    fn detach_lost(self: &Arc<Self>) {
        let kept = match self.cni.kept() {
            Ok(kept) => kept,
            Err(error) => return tracing::warn!("CNI attachments cannot be looked at: {error}"),
        };
        let live: HashSet<String> =
            self.all_pods().iter().filter(|pod| !pod.state().is_over()).map(|pod| pod.id.clone()).collect();
        for (pod, interface) in kept {
            if !live.contains(&pod) {
                self.detach_later(pod, interface);
                continue;
            }
            let pods = self.clone();
            self.background.spawn(async move {
                if let Err(error) = pods.cni.check(&pod, &interface).await {
                    tracing::warn!(%pod, "its CNI network is not as it should be: {error}");
                }
            });
        }
        self.collect_later();
    }
}
