//! What follows when a container of a pod has ended: it is recorded, then its task goes.

use std::sync::Arc;

use jiff::Timestamp;
use longshore_proto::containerd::events as wire;
use prost::Message;

use super::Pods;
use super::container::Container;
use super::events::Happened;
use super::record::{End, State};
use super::stop::until_available;
use crate::error::Result;
use crate::tasks::{Exit, ProcessId, Status};

/// Exit code of a container whose end nobody saw.
const LOST: i32 = 255;

/// How often a container whose shim does not answer is looked at.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(2);

impl Pods {
    /// Acts on ends for as long as the daemon lives.
    pub(super) fn watch_tasks(self: &Arc<Self>) {
        let pods = self.clone();
        tokio::spawn(async move {
            loop {
                let filter = format!("namespace=={},topic~=^/tasks/exit", pods.namespace);
                let mut events = match pods.bus.subscribe(&[filter]) {
                    Ok(events) => events,
                    Err(error) => {
                        tracing::error!(%error, "pods cannot follow their tasks");
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                        continue;
                    }
                };
                // What was missed because there was too much of it.
                for container in pods.all_containers() {
                    if container.state().may_run() {
                        pods.end_soon(container);
                    }
                }
                for pod in pods.all_pods() {
                    if pod.is_ready() && pods.lost_its_pause(&pod) {
                        let own = pods.clone();
                        pods.background.spawn(async move { own.pause_ended(&pod).await });
                    }
                }
                while let Some(Ok(event)) = events.next().await {
                    pods.noticed(&event.payload.value);
                }
            }
        });
    }

    fn noticed(self: &Arc<Self>, payload: &[u8]) {
        let Ok(event) = wire::TaskExit::decode(payload) else { return };
        if event.id != event.container_id {
            return;
        }
        let found = self.table().containers.get(&event.container_id).cloned();
        if let Some(container) = found {
            self.end_soon(container);
        } else if let Ok(pod) = self.pod(&event.container_id)
            && pod.read(|record| record.pause)
        {
            let pods = self.clone();
            // Its processes have lost their namespace.
            self.background.spawn(async move { pods.pause_ended(&pod).await });
        }
    }

    pub(super) fn end_soon(self: &Arc<Self>, container: Arc<Container>) {
        let pods = self.clone();
        self.background.spawn(async move { pods.ended(&container).await });
    }

    /// Does what follows an end, unless that was done or it runs.
    async fn ended(self: &Arc<Self>, container: &Arc<Container>) {
        let _turn = container.turn.clone().lock_owned().await;
        if !container.state().may_run() {
            return;
        }
        match self.tasks.get(&self.namespace, &container.id, ProcessId::Init) {
            Ok(info) => match (info.exit, info.status) {
                (Some(exit), _) => self.conclude(container, Some(exit)).await,
                // Its shim answers again.
                (None, Status::Running | Status::Paused) => container.change(|record| {
                    record.state = State::Running;
                    record.pid = info.pid;
                }),
                // Nobody who would start it is left: it never ran.
                (None, Status::Created) => {
                    self.delete_task(&container.id).await;
                    container.change(|record| (record.state, record.pid) = (State::Created, 0));
                }
                (None, _) => {}
            },
            Err(_) => self.conclude(container, None).await,
        }
    }

    /// Looks again and again at a container whose shim does not answer, until it does or is gone.
    pub(super) fn look_again(self: &Arc<Self>, container: Arc<Container>) {
        let pods = self.clone();
        tokio::spawn(async move {
            while container.state() == State::Unknown && pods.container(&container.id).is_ok() {
                tokio::time::sleep(LOOK_AGAIN).await;
                pods.ended(&container).await;
            }
        });
    }

    /// The caller holds the turn and knows that it has ended.
    pub(super) async fn conclude(self: &Arc<Self>, container: &Arc<Container>, exit: Option<Exit>) {
        let end = match exit {
            Some(exit) => End {
                code: i32::try_from(exit.status).unwrap_or(LOST),
                at: exit.at,
                reason: reason(exit).to_owned(),
                message: String::new(),
            },
            None => End {
                code: LOST,
                at: Timestamp::now(),
                reason: "Unknown".to_owned(),
                message: "its end left no record".to_owned(),
            },
        };
        container.change(|record| {
            record.state = State::Exited;
            // It may have ended before anybody looked at the clock.
            record.started_at = record.started_at.map(|started| started.min(end.at));
            record.end = Some(end);
            record.pid = 0;
        });
        let saved = self.save_container(container).await;
        // It is over for everybody: neither a slow shim nor a full disk changes that.
        container.ended.send_replace(true);
        self.happened(&container.id, &container.pod, Happened::Stopped);
        if let Err(error) = saved
            && !error.is_not_found()
        {
            // Its task stays, and tells the next daemon.
            tracing::error!(container = %container.id, %error, "the end of a container is not recorded");
            return;
        }
        self.delete_task(&container.id).await;
        self.hand_ports_over(container).await;
    }

    /// Deletes an ended task; where its shim does not answer now, whoever removes the container does.
    pub(super) async fn delete_task(&self, id: &str) {
        match self.tasks.delete(&self.namespace, id).await {
            Err(error) if !error.is_not_found() => {
                tracing::warn!(container = %id, %error, "an ended task cannot be deleted yet");
            }
            _ => {}
        }
    }

    /// As [`Pods::delete_task`], for whoever then takes away what the task has: it waits a while for a shim.
    pub(super) async fn try_delete_task(&self, id: &str) -> Result<()> {
        let delete = || async { self.tasks.delete(&self.namespace, id).await.map(drop) };
        match until_available(delete).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

fn reason(exit: Exit) -> &'static str {
    match exit.status {
        _ if exit.oom_killed => "OOMKilled",
        0 => "Completed",
        _ => "Error",
    }
}
