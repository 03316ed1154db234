//! Starting a container of a pod.

use std::sync::Arc;

use jiff::Timestamp;
use longshore_proto::longshore::shim::v1 as shim;

use super::Pods;
use super::container::Container;
use super::events::Happened;
use super::record::{ContainerRecord, End, State};
use crate::any::Any;
use crate::engine::process::{FirstProcess, path_of};
use crate::engine::start::StartFailure;
use crate::error::{Error, Result};
use crate::network::firewall;
use crate::tasks::{CreateTask, ProcessId, RootfsMount, TaskStdio};

/// Exit code of a container that did not start, whatever the reason: what Kubernetes' documents say of `StartError`.
const NEVER_RAN: i32 = 128;

impl Pods {
    /// Starts a container that was made. One that runs already is left alone.
    pub async fn start(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.container(id)?;
        // Where it holds nobody up who stops or removes it.
        let log_folder = match self.make_log_folder(&container).await {
            // Others hang on the host's file systems: it can be asked again.
            Err(error @ Error::ResourceExhausted { .. }) => return Err(error),
            answer => answer,
        };
        let turn = container.turn.clone().lock_owned().await;
        match container.state() {
            State::Created => {}
            // A call that is made again because its answer got lost.
            State::Running => return Ok(()),
            State::Exited | State::Unknown => {
                let why = "it ran already: a container is started once";
                return Err(Error::precondition(format!("container {}", container.id), why));
            }
        }
        let pod = self.pod(&container.pod)?;
        if !pod.is_ready() {
            let why = format!("its pod {} is not ready", pod.id);
            return Err(Error::precondition(format!("container {}", container.id), why));
        }
        let pods = self.clone();
        let work = async move {
            let _turn = turn;
            let started = match log_folder {
                Ok(()) => pods.launch(&container).await,
                Err(error) => Err(error),
            };
            match started {
                // A daemon before this one began it, and that is being taken back.
                Err(error) if error.is_already_exists() => {
                    let why = "what is left of an earlier attempt to start it is being removed; try again";
                    Err(Error::unavailable(format!("starting container {}", container.id), why))
                }
                Err(error) => {
                    pods.never_ran(&container, &error).await;
                    Err(error)
                }
                Ok(()) => Ok(()),
            }
        };
        self.background.spawn(work).await.unwrap_or(Err(Error::Lost { what: "starting a container" }))
    }

    async fn launch(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let record = container.record();
        let snapshotter = self.engine.snapshotter()?;
        let mounts = snapshotter.mounts(&self.namespace, &container.id).await?;
        let pod = self.pod(&container.pod)?;
        let handler = pod.read(|pod| pod.config.handler.clone());
        // Held until the container is in it: a number may be another process's by now.
        let processes = match self.process_to_join(&pod, &record.config)? {
            Some((owner, pid)) => Some(FirstProcess::of(pid, &owner)?.namespace("pid")?),
            None => None,
        };
        let task = CreateTask {
            spec: super::update::as_it_starts(
                container,
                &record,
                processes.as_ref().map(path_of).as_deref(),
            )?,
            rootfs: mounts.into_iter().map(RootfsMount::from).collect(),
            stdio: stdio(&record),
            options: Some(self.shim_options(container, &record)),
            runtime: handler,
            checkpoint: record.restored.then(|| self.saved_folder(&container.id)),
            join: None,
            group: Some(pod.id.clone()),
        };
        let pid = match record.restored {
            true => self.start_saved(&container.id, task).await?,
            false => self.tasks.create_attach_start(&self.namespace, &container.id, task, None).await?.pid,
        };
        container.change(|record| {
            record.state = State::Running;
            record.pid = pid;
            record.started_at = Some(Timestamp::now());
        });
        // It runs all the same: a daemon that finds it running knows that it was started.
        if let Err(error) = self.save_container(container).await {
            tracing::warn!(container = %container.id, %error, "its start is not recorded");
        }
        self.happened(&container.id, &container.pod, Happened::Started);
        // It may have ended before anybody watched it.
        let ended = self.tasks.get(&self.namespace, &container.id, ProcessId::Init);
        if ended.is_ok_and(|info| info.exit.is_some()) {
            self.end_soon(container.clone());
        }
        Ok(())
    }

    /// Keeps why a container did not start.
    async fn never_ran(&self, container: &Container, error: &Error) {
        let failure = StartFailure::from(error);
        container.change(|record| {
            record.state = State::Exited;
            record.end = Some(End {
                code: NEVER_RAN,
                at: Timestamp::now(),
                reason: "StartError".to_owned(),
                message: failure.message,
            });
        });
        container.ended.send_replace(true);
        if let Err(error) = self.save_container(container).await {
            tracing::warn!(container = %container.id, %error, "its failed start is not recorded");
        }
    }

    fn shim_options(&self, container: &Container, record: &ContainerRecord) -> Any {
        let options = shim::CreateOptions {
            seccomp_cache: self.engine.seccomp_cache().display().to_string(),
            open_stdin: record.config.stdin,
            stdin_once: record.config.stdin_once,
            systemd_cgroup: record.by_systemd,
            ports: self.ports_to_hold(container),
            ..shim::CreateOptions::default()
        };
        Any::pack("longshore.shim.v1.CreateOptions", &options)
    }

    /// Ports of the host that lead to the pod are held by its shim while any of its containers runs.
    fn ports_to_hold(&self, container: &Container) -> Vec<shim::HeldPort> {
        // By another shim, where a container has one of its own: an older daemon's, or one that does not answer.
        let elsewhere = |other: &Container| {
            other.state().may_run() && !self.tasks.is_in(&self.namespace, &other.id, &other.pod)
        };
        let others = self.containers_of(&container.pod);
        if others.iter().any(|other| other.id != container.id && elsewhere(other)) {
            return Vec::new();
        }
        let Ok(pod) = self.pod(&container.pod) else { return Vec::new() };
        pod.read(|record| firewall::held(&record.network.published, &record.network.endpoints))
    }

    /// The ports that an ended container's shim has held go to another's; where the two have one, it holds them already.
    pub(super) async fn hand_ports_over(&self, ended: &Container) {
        let Ok(pod) = self.pod(&ended.pod) else { return };
        let ports = pod.read(|record| firewall::held(&record.network.published, &record.network.endpoints));
        if ports.is_empty() {
            return;
        }
        let mut others = self.containers_of(&ended.pod).into_iter();
        let Some(heir) = others.find(|other| other.id != ended.id && other.state() == State::Running) else {
            return;
        };
        let request = shim::PublishRequest { ports, dns: String::new() };
        if let Err(error) = self.tasks.publish(&self.namespace, &heir.id, request).await {
            // Another one holds them, which is as good.
            tracing::debug!(container = %heir.id, %error, "ports of the pod are not held by it");
        }
    }
}

fn stdio(record: &ContainerRecord) -> TaskStdio {
    let stdout = super::logs::uri(&record.log_path, &record.config.log_path);
    TaskStdio { stdin: String::new(), stdout, stderr: String::new(), terminal: record.config.tty }
}
