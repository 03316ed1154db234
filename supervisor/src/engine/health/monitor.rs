//! Probing a container for as long as a run of it lasts.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Check, HealthStatus, Report};
use crate::engine::Engine;
use crate::engine::registry::Entry;
use crate::engine::state::Status;
use crate::engine::stop::Stop;

impl Engine {
    /// Begins to probe the run that is under way, if the container has a check.
    pub(in crate::engine) fn watch_health(self: &Arc<Self>, entry: &Arc<Entry>) {
        let Some(check) = entry.read(Check::of) else { return };
        let (engine, entry) = (self.clone(), entry.clone());
        let run = entry.read(|record| record.state.run);
        tokio::spawn(async move {
            let mut phase = entry.watch();
            tokio::select! {
                () = engine.probe_on_and_on(&entry, run, &check) => {}
                _ = phase.wait_for(|now| now.removed || now.ended >= run) => {}
            }
        });
    }

    async fn probe_on_and_on(self: &Arc<Self>, entry: &Arc<Entry>, run: u64, check: &Check) {
        let mut phase = entry.watch();
        loop {
            let pause = check.pause(&entry.state(), Timestamp::now());
            tokio::time::sleep(pause).await;
            // A frozen container is asked nothing.
            if phase.wait_for(|now| now.status == Status::Running).await.is_err() {
                return;
            }
            let report = self.probe(entry, check).await;
            self.note_report(entry, run, check, report).await;
        }
    }

    async fn note_report(self: &Arc<Self>, entry: &Arc<Entry>, run: u64, check: &Check, report: Report) {
        let changed = entry.change(|record| {
            let state = &mut record.state;
            if state.run != run || !state.status.is_live() {
                return None;
            }
            let started_at = state.started_at;
            state.health.as_mut().and_then(|health| health.take(report, check, started_at))
        });
        self.save_state_soon(entry);
        let Some(status) = changed else { return };
        self.happened(entry, format!("health_status: {}", status.as_str()), &[]);
        if status == HealthStatus::Unhealthy && entry.read(|record| record.config.restart.on_unhealthy) {
            tracing::info!(container = %entry.id, "restarting an unhealthy container");
            // Nobody's wish to stop: the policy decides what follows.
            let how = Stop { signal: String::new(), timeout: None };
            if let Err(error) = self.stop_run(entry, &how).await {
                tracing::warn!(container = %entry.id, %error, "an unhealthy container could not be stopped");
            }
        }
    }
}
