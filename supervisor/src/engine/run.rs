//! The path of `longshore run`: create, join and start in one go. Nothing on it waits for the disk before the process
//! runs; what has to be durable before it is acknowledged is written while the process starts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::Instrument;

use super::Engine;
use super::create::{Create, Created, Progress, Purpose};
use super::registry::Entry;
use super::start::{Join, Joined, StartFailure};
use super::state::Status;
use crate::error::{Error, Result};

/// A container that is removed at its exit and still runs after this long is worth a write to the disk.
const SHORT_RUN: Duration = Duration::from_millis(50);

/// What became of a run.
pub struct Run {
    pub created: Created,
    /// The stream of those who asked to join, or why the container, which exists, could not be started.
    pub started: Result<Option<Joined>, StartFailure>,
}

impl Engine {
    /// Makes a container and starts it. Without `join` it is durable when this returns; one that is removed at its
    /// exit and has a client attached is not waited for.
    pub async fn run(
        self: &Arc<Self>,
        request: Create,
        join: Option<Join>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Run> {
        let span = tracing::debug_span!("run");
        let mut making =
            Box::pin(self.make(&request, &progress, Purpose::Run)).instrument(span.clone()).await?;
        if join.is_none() {
            making.entry.change(|record| record.stdin_once = false);
        }
        drop(progress);
        let engine = self.clone();
        // From the record on nothing depends on the client any more: it may go away at any moment.
        let work = async move {
            let warnings = making.warnings.clone();
            let turn = making.entry.turn.clone().lock_owned().await;
            let failed = making.failed.take();
            let (entry, bundle) = making.record()?;
            let record = entry.record();
            let fleeting = record.config.auto_remove && join.is_some();
            let sync = async { if fleeting { Ok(()) } else { engine.sync().await } };
            let launch = async {
                match failed {
                    Some(error) => Err(error),
                    None => engine.launch(&entry, &record, bundle, join).await,
                }
            };
            let (started, synced) = tokio::join!(launch, sync);
            let created = Created { name: record.name.clone(), entry: entry.clone(), warnings };
            let started = match started {
                Ok(stream) => Ok(stream),
                Err(error) => Err(engine.failed_run(&created, &error).await),
            };
            drop(turn);
            synced?;
            if fleeting && started.is_ok() {
                engine.background.spawn(engine.clone().sync_if_it_lasts(entry));
            }
            Ok(Run { created, started })
        };
        self.carry("running a container", work.instrument(span)).await
    }

    /// Without its record, a daemon that died in the meantime would take the container for a leftover.
    async fn sync_if_it_lasts(self: Arc<Self>, entry: Arc<Entry>) {
        tokio::time::sleep(SHORT_RUN).await;
        if entry.status() == Status::Running
            && let Err(error) = self.sync().await
        {
            tracing::warn!("the record of container {} is not on disk yet: {error}", entry.id);
        }
    }

    async fn failed_run(self: &Arc<Self>, created: &Created, error: &Error) -> StartFailure {
        let failure = StartFailure::from(error);
        self.note_failure(&created.entry, error).await;
        if created.entry.read(|record| record.config.auto_remove) {
            self.erase(&created.entry);
        }
        failure
    }
}
