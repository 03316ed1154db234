//! What follows when a container's process has ended: the exit is recorded before the task that told it is deleted,
//! then the task goes, and the container too if that was asked for. Whoever learns of an exit first does it, once.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_proto::containerd::events as wire;
use prost::Message;

use super::registry::Entry;
use super::state::Exit;
use super::{Engine, health, policy};
use crate::error::Error;
use crate::tasks::{self, ProcessId};

/// How long an end waits to be told for a signal that is being sent.
const TELLING: Duration = Duration::from_secs(1);

/// Exit code of a container whose end nobody saw.
const UNKNOWN: u32 = 255;

impl From<tasks::Exit> for Exit {
    fn from(exit: tasks::Exit) -> Exit {
        Exit { code: exit.status, oom_killed: exit.oom_killed, at: exit.at }
    }
}

impl Engine {
    /// Acts on exits for as long as the daemon lives. Events that were missed because there were too many are made
    /// up for by looking at every task.
    pub fn watch_tasks(self: &Arc<Self>) {
        let engine = self.clone();
        tokio::spawn(async move {
            loop {
                let filter = format!("namespace=={},topic~=^/(tasks|containers)/", engine.namespace);
                let mut events = match engine.bus.subscribe(&[filter]) {
                    Ok(events) => events,
                    Err(error) => {
                        tracing::error!(%error, "the engine cannot follow its tasks");
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                        continue;
                    }
                };
                engine.catch_up();
                while let Some(Ok(event)) = events.next().await {
                    engine.noticed(&event.topic, &event.payload.value);
                }
            }
        });
    }

    /// Ends the runs whose tasks have stopped.
    fn catch_up(self: &Arc<Self>) {
        for entry in self.registry.all() {
            if entry.status().is_live() {
                self.spawn_end(entry);
            }
        }
    }

    fn noticed(self: &Arc<Self>, topic: &str, payload: &[u8]) {
        match topic {
            "/tasks/exit" => {
                let Ok(event) = wire::TaskExit::decode(payload) else { return };
                if event.id == event.container_id
                    && let Some(entry) = self.registry.get(&event.container_id)
                {
                    self.spawn_end(entry);
                }
            }
            "/tasks/oom" => {
                let Ok(event) = wire::TaskOom::decode(payload) else { return };
                if let Some(entry) = self.registry.get(&event.container_id) {
                    self.happened(&entry, "oom", &[]);
                }
            }
            "/containers/delete" => {
                let Ok(event) = wire::ContainerDelete::decode(payload) else { return };
                // Deleted by a client of containerd's API: the engine follows.
                if let Some(entry) = self.registry.get(&event.id) {
                    self.spawn_follow_deletion(entry);
                }
            }
            _ => {}
        }
    }

    fn spawn_end(self: &Arc<Self>, entry: Arc<Entry>) {
        let engine = self.clone();
        self.background.spawn(async move { engine.run_ended(&entry, None).await });
    }

    fn spawn_follow_deletion(self: &Arc<Self>, entry: Arc<Entry>) {
        let engine = self.clone();
        self.background.spawn(async move {
            let _turn = entry.turn.clone().lock_owned().await;
            if engine.registry.get(&entry.id).is_some() && !entry.status().is_live() {
                engine.erase(&entry);
            }
        });
    }

    /// Does what follows an exit, unless that was done. `known` is the number of the run and its end. Returns when it is: the container can be started again, or is
    /// gone if it was to be removed.
    pub async fn run_ended(self: &Arc<Self>, entry: &Arc<Entry>, known: Option<(u64, Exit)>) {
        let _turn = entry.turn.clone().lock_owned().await;
        let state = entry.state();
        if !state.status.is_live() {
            return;
        }
        let exit = match known {
            Some((run, exit)) if run == state.run => exit,
            // The end of a run that others have dealt with: another one is under way.
            Some(_) => return,
            None => match self.tasks.get(&self.namespace, &entry.id, ProcessId::Init) {
                Ok(info) => match info.exit {
                    Some(exit) => exit.into(),
                    None => return,
                },
                Err(_) => Exit { code: UNKNOWN, oom_killed: false, at: Timestamp::now() },
            },
        };
        self.conclude(entry, exit).await;
    }

    /// The caller holds the turn and knows that a run has ended.
    pub(super) async fn conclude(self: &Arc<Self>, entry: &Arc<Entry>, exit: Exit) {
        let ran = entry.read(|record| {
            record
                .state
                .started_at
                .and_then(|started| Duration::try_from(exit.at.duration_since(started)).ok())
                .unwrap_or_default()
        });
        // What the store says of a container may be older than its removal.
        let doubtful = self.db.rebuilt().is_some() && !*self.recovered.borrow();
        let again = entry.change(|record| {
            let pause = policy::pause_after(&record.config.restart, &record.state, exit, ran);
            record.state.exited(exit);
            health::over(&mut record.state);
            pause.filter(|&pause| !doubtful && record.state.restarting(pause).is_ok())
        });
        self.drop_shm(&entry.id);
        // A signal whose shim has gone silent is not waited for.
        let _ = tokio::time::timeout(TELLING, entry.signalling.write()).await;
        self.happened(
            entry,
            "die",
            &[("exitCode", exit.code.to_string()), ("execDuration", ran.as_secs().to_string())],
        );
        self.leave_networks(entry);
        self.unmount_volumes(&entry.id, &entry.record()).await;
        self.leave_cni(entry).await;
        if entry.read(|record| record.config.auto_remove) && !entry.is_kept() {
            self.erase(entry);
            return;
        }
        if let Err(error) = self.save_state(entry).await {
            // The shim's record of the exit is kept, so that the next start of the daemon finds it.
            tracing::error!(container = %entry.id, %error, "an exit could not be recorded");
        } else {
            self.delete_task(&entry.id).await;
        }
        entry.ended();
        if let Some(pause) = again {
            self.restart_later(entry, pause);
        }
    }

    /// Deletes the task of a container whose exit is recorded.
    pub(super) async fn delete_task(&self, id: &str) {
        match self.tasks.delete(&self.namespace, id).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                tracing::error!(container = %id, %error, "the task of an exited container could not be deleted")
            }
        }
    }

    /// Makes a container that has no process disappear at once, and removes what it leaves behind in the background:
    /// a crash before that is done is made up for at the next start. The caller holds the turn.
    pub(super) fn erase(self: &Arc<Self>, entry: &Arc<Entry>) {
        if entry.change(|record| record.state.removing()).is_err() {
            return;
        }
        if let Err(error) = self.db.write_lazy(|tx| self.drop_record(tx, &entry.id)) {
            tracing::error!(container = %entry.id, %error, "a container could not be removed");
            entry.change(|record| record.state.removal_failed(&error.to_string()));
            // Its run is over all the same.
            entry.ended();
            return;
        }
        self.registry.remove(entry);
        self.containers.deleted(&self.namespace, &entry.id);
        self.happened(entry, "destroy", &[]);
        let mut anonymous = self.give_back(entry);
        if !entry.read(|record| record.config.auto_remove) {
            // A client of containerd's API removed the container, and knows of no volumes.
            anonymous.clear();
        }
        self.volumes.dismiss(&anonymous);
        entry.removed();
        let (engine, id) = (self.clone(), entry.id.clone());
        self.background.spawn(async move {
            engine.tear_down(&id).await;
            engine.remove_anonymous(&anonymous).await;
        });
    }

    /// Removes the task and all files of a container that is no longer recorded.
    pub(super) async fn tear_down(&self, id: &str) {
        self.delete_task(id).await;
        let removed: Result<(), Error> = self.remove_remains(id).await;
        if let Err(error) = removed {
            tracing::warn!(container = %id, %error, "a removed container left something; the next start tries again");
        }
    }
}
