//! The path of `longshore run`: create, join and start in one go. Nothing on it waits for the disk before the process
//! runs; what has to be durable before it is acknowledged is written while the process starts.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::Instrument;

use super::Engine;
use super::create::{Create, Created, Progress};
use super::start::{Join, StartFailure};
use crate::error::{Error, Result};
use crate::tasks::AttachStream;

/// What became of a run.
pub struct Run {
    pub created: Created,
    /// The stream of those who asked to join, or why the container, which exists, could not be started.
    pub started: Result<Option<AttachStream>, StartFailure>,
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
        let making = self.make(&request, &progress).instrument(span.clone()).await?;
        if join.is_none() {
            making.entry.change(|record| record.stdin_once = false);
        }
        drop(progress);
        let engine = self.clone();
        // From the record on nothing depends on the client any more: it may go away at any moment.
        let work = async move {
            let warnings = making.warnings.clone();
            let turn = making.entry.turn.clone().lock_owned().await;
            let (entry, bundle) = making.record()?;
            let record = entry.record();
            let sync = async {
                if record.config.auto_remove && join.is_some() { Ok(()) } else { engine.db.sync().await }
            };
            let (started, synced) = tokio::join!(engine.launch(&entry, &record, bundle, join), sync);
            let created = Created { name: record.name.clone(), entry: entry.clone(), warnings };
            let started = match started {
                Ok(stream) => Ok(stream),
                Err(error) => Err(engine.failed_run(&created, &error).await),
            };
            drop(turn);
            synced?;
            Ok(Run { created, started })
        };
        self.background
            .spawn(work.instrument(span))
            .await
            .unwrap_or(Err(Error::Lost { what: "running a container" }))
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
