//! After a start of the daemon: what the records say and what the task manager found are made to agree, and what a crash
//! left without an owner is removed. Runs before the socket is opened.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::Engine;
use super::image_mounts::OWNER;
use super::registry::Entry;
use super::state::{Exit, Status};
use crate::content::store::blocking;
use crate::error::{Error, Result};
use crate::tasks::{self, ProcessInfo};

/// How long the start waits for a snapshotter's list.
const LIST_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Exit code of a container whose end left no record: as if it had been killed.
const LOST: u32 = 137;

impl Engine {
    /// Reads the containers, settles their states, removes what nothing owns.
    pub async fn recover(self: &Arc<Self>) -> Result<()> {
        self.recover_volumes().await?;
        let mut kept = HashSet::new();
        let all = self.containers.list(&self.namespace, &crate::filters::Filter::default())?;
        let foreign: HashSet<String> = all.iter().map(|container| container.id.clone()).collect();
        for container in &all {
            match self.read_back(container) {
                Ok(Some(record)) => {
                    kept.insert(container.id.clone());
                    self.registry.insert(Entry::new(container.id.clone(), record));
                }
                Ok(None) => {}
                Err(error) => {
                    // Its files are kept for whoever can read the record.
                    kept.insert(container.id.clone());
                    tracing::error!(container = %container.id, %error, "a container's record cannot be read");
                }
            }
        }
        self.note_volumes().await?;
        let tasks = self.tasks.list(&self.namespace);
        for entry in self.registry.all() {
            let task = tasks.iter().find(|task| task.container_id == entry.id);
            self.settle(&entry, task).await;
            self.reap_execs(&entry);
        }
        let rebuilt = self.db.rebuilt();
        for task in tasks.iter().filter(|task| !foreign.contains(&task.container_id)) {
            if rebuilt.is_some() {
                tracing::warn!(container = %task.container_id, pid = task.pid, "a task runs that no container owns");
                continue;
            }
            tracing::warn!(container = %task.container_id, "removing a task that no container owns");
            self.discard_task(&task.container_id).await;
        }
        self.recover_networks().await;
        self.drop_old_shm(|id| self.registry.get(id).is_some_and(|entry| entry.status().is_live()));
        if rebuilt.is_none() {
            self.remove_orphans(&kept).await?;
        }
        self.settle_mounts().await?;
        self.watch_tasks();
        self.recovered.send_replace(true);
        match rebuilt {
            Some(mark) => tracing::error!(
                "the metadata store was rebuilt from an older export: nothing is removed or started by itself before {} \
                 is removed and longshored started again",
                mark.display()
            ),
            None => self.start_wanted(),
        }
        Ok(())
    }

    async fn settle(self: &Arc<Self>, entry: &Arc<Entry>, task: Option<&ProcessInfo>) {
        let status = entry.status();
        let running =
            task.filter(|task| matches!(task.status, tasks::Status::Running | tasks::Status::Paused));
        match (status, running) {
            // A removal that was interrupted is finished.
            (Status::Removing | Status::Dead, _) => self.finish_removal(entry).await,
            (_, Some(task)) => {
                entry.change(|record| {
                    let state = &mut record.state;
                    if !state.status.is_live() {
                        // A start that came after the last wish to stop, as far as that is on disk.
                        state.stop_asked = false;
                        state.run += 1;
                        state.started_at = Some(Timestamp::now());
                        state.finished_at = None;
                    }
                    state.pid = task.pid;
                    state.status =
                        if task.status == tasks::Status::Paused { Status::Paused } else { Status::Running };
                    if state.health.is_none() {
                        super::health::begin(state, &record.config.health);
                    }
                });
                self.watch_health(entry);
            }
            (Status::Running | Status::Paused, None) => {
                let exit = task.and_then(|task| task.exit).map(Exit::from);
                let exit = exit.unwrap_or(Exit { code: LOST, oom_killed: false, at: Timestamp::now() });
                let _turn = entry.turn.clone().lock_owned().await;
                self.conclude(entry, exit).await;
            }
            // Its start was recorded by the shim alone.
            (Status::Created | Status::Exited | Status::Restarting, None) => {
                match task.and_then(|task| task.exit) {
                    // Recorded already, but for its task.
                    Some(exit) if entry.state().finished_at == Some(exit.at) => {
                        self.delete_task(&entry.id).await;
                        self.resume_restart(entry).await;
                    }
                    Some(exit) => {
                        let _turn = entry.turn.clone().lock_owned().await;
                        entry.change(|record| {
                            record.state.stop_asked = false;
                            record.state.run += 1;
                            record.state.status = Status::Running;
                        });
                        self.conclude(entry, exit.into()).await;
                    }
                    None => {
                        if task.is_some() {
                            self.delete_task(&entry.id).await;
                        }
                        self.resume_restart(entry).await;
                    }
                }
            }
        }
    }

    /// Goes on with a pause before a restart that the daemon's end cut short.
    async fn resume_restart(self: &Arc<Self>, entry: &Arc<Entry>) {
        let state = entry.state();
        if state.status != Status::Restarting {
            return;
        }
        if state.stop_asked || self.db.rebuilt().is_some() {
            self.give_up_restart(entry).await;
        } else {
            self.restart_later(entry, state.backoff_ms);
        }
    }

    async fn finish_removal(self: &Arc<Self>, entry: &Arc<Entry>) {
        entry.change(|record| record.state.status = Status::Exited);
        if let Err(error) = self.remove_entry(entry).await {
            tracing::warn!(container = %entry.id, %error, "the removal of a container cannot be finished yet");
        }
    }

    async fn discard_task(&self, id: &str) {
        let process = tasks::ProcessId::Init;
        let kill = self.tasks.kill(&self.namespace, id, process, 9, tasks::KillScope::All).await;
        if kill.is_ok() {
            let wait = self.tasks.wait(&self.namespace, id, process);
            let _ = tokio::time::timeout(std::time::Duration::from_secs(10), wait).await;
        }
        self.delete_task(id).await;
    }

    /// Folders and snapshots of containers that are not recorded.
    async fn remove_orphans(&self, kept: &HashSet<String>) -> Result<()> {
        let folders = self.folders();
        let found = blocking(move || {
            let mut names = Vec::new();
            let entries =
                std::fs::read_dir(&folders).map_err(|source| Error::io("listing", &folders, source))?;
            for entry in entries.flatten() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
            Ok(names)
        })
        .await?;
        let default = self.snapshotter()?;
        let others = self.snapshots.others(&default);
        let everything = crate::filters::Filter::default();
        let mut listed = Vec::new();
        for snapshotter in std::iter::once(&default).chain(&others) {
            let list = snapshotter.list(&self.namespace, &everything);
            // A plugin that is away keeps what is left of containers until a later start.
            match tokio::time::timeout(LIST_PATIENCE, list).await {
                Ok(Ok(infos)) => listed.extend(infos),
                Ok(Err(error)) => tracing::warn!("not looked for what is left of containers: {error}"),
                Err(_) => tracing::warn!(
                    "not looked for what is left of containers: snapshotter {} gave no list within {} s",
                    snapshotter.name(),
                    LIST_PATIENCE.as_secs()
                ),
            }
        }
        let mut orphans: HashSet<String> = found.into_iter().filter(|id| !kept.contains(id)).collect();
        let mut views = Vec::new();
        for info in listed {
            match info.labels.get(OWNER) {
                Some(id) if kept.contains(id) => {}
                Some(id) if *id == info.name => drop(orphans.insert(info.name)),
                // Of an image, for a container whose folder is lost.
                Some(_) => views.push(info.name),
                None => {}
            }
        }
        for id in orphans {
            tracing::info!(container = %id, "removing what is left of a container");
            if let Err(error) = self.remove_remains(&id).await {
                tracing::warn!(container = %id, %error, "cannot remove what is left of a container");
            }
        }
        for view in views {
            if let Err(error) = self.remove_snapshot(&view).await {
                tracing::warn!(snapshot = %view, %error, "cannot remove a view of an image that no container has");
            }
        }
        Ok(())
    }
}
