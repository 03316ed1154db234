//! Removing a container: its task, its record, then its files. From the moment that its record is gone it is gone; what a
//! crash leaves after that is removed at the next start.

use std::sync::Arc;

use super::Engine;
use super::conflict::Conflict;
use super::registry::Entry;
use super::state::{Refused, Status};
use crate::error::{Error, Result};

/// What to do with a container that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    Refuse,
    Kill,
}

/// What becomes of volumes that were made for the container, without a name of the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    Kept,
    Removed,
}

impl Engine {
    /// Returns when nothing of the container is left.
    pub async fn remove(self: &Arc<Self>, text: &str, running: Running, anonymous: Anonymous) -> Result<()> {
        let entry = self.find(text)?;
        let engine = self.clone();
        let work = async move {
            if running == Running::Kill && entry.status().is_up() {
                engine.kill_for_good(&entry).await?;
            }
            engine.remove_entry(&entry).await?;
            if anonymous == Anonymous::Removed {
                let volumes = anonymous_volumes(&entry);
                engine.remove_anonymous(&volumes).await;
            }
            Ok(())
        };
        self.carry("removing a container", work).await
    }

    /// A container that is gone has no volumes; the result are those that had no name.
    pub(super) fn give_back(&self, entry: &Entry) -> Vec<String> {
        let record = entry.record();
        self.release_volumes(&entry.id, &record);
        anonymous_volumes(entry)
    }

    pub(super) async fn remove_entry(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<()> {
        let turn = entry.turn.clone().lock_owned().await;
        // Somebody was faster: `--rm` at its exit, or another rm. It is gone, as was asked.
        if entry.watch().borrow().removed {
            return Ok(());
        }
        entry.change(|record| record.state.removing()).map_err(|why| refusal(entry, why))?;
        let (engine, entry) = (self.clone(), entry.clone());
        let work = async move {
            let _turn = turn;
            let removed = engine.take_apart(&entry).await;
            if let Err(error) = &removed {
                entry.change(|record| record.state.removal_failed(&error.to_string()));
                engine.save_state_soon(&entry);
            }
            removed
        };
        // Carried through even if the client goes away.
        self.carry("removing a container", work).await
    }

    async fn take_apart(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<()> {
        match self.tasks.delete(&self.namespace, &entry.id).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        self.db.write(|tx| self.drop_record(tx, &entry.id)).await?;
        self.registry.remove(entry);
        self.containers.deleted(&self.namespace, &entry.id);
        self.happened(entry, "destroy", &[]);
        self.give_back(entry);
        let removed = self.remove_remains(&entry.id).await;
        entry.removed();
        removed
    }
}

fn anonymous_volumes(entry: &Entry) -> Vec<String> {
    entry.read(|record| {
        let mounts = record.mounts().iter().filter(|mount| mount.volume.anonymous);
        mounts.map(|mount| mount.source.clone()).collect()
    })
}

fn refusal(entry: &Entry, why: Refused) -> Error {
    let conflict = match why {
        Refused::Running => Conflict::RemoveLive { name: entry.name(), state: "running" },
        Refused::Paused => Conflict::RemoveLive { name: entry.name(), state: "paused" },
        Refused::Restarting => Conflict::RemoveLive { name: entry.name(), state: "restarting" },
        _ if entry.status() == Status::Removing => Conflict::RemovalInProgress { id: entry.id.clone() },
        why => Conflict::State { id: entry.id.clone(), why },
    };
    conflict.into()
}
