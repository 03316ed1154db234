//! The verbs that are one request to the sandbox's shim each.

use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use longshore_proto::containerd::events as ev;
use longshore_proto::containerd::runtime::sandbox::v1 as api;
use longshore_proto::ttrpc::Code;

use super::super::client::Failure;
use super::super::types::Exit;
use super::super::{limits, wire};
use super::{SandboxMetrics, SandboxPlatform, SandboxStatus, Sandboxes, StartedSandbox, end, follow, time};
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

impl Sandboxes {
    /// Starts what was created; one that does not start is taken down.
    ///
    /// # Errors
    /// NotFound; whatever the shim says.
    pub async fn start(&self, namespace: &Namespace, id: &str) -> Result<StartedSandbox> {
        let sandbox = self.inner.find(namespace, id)?;
        let _turn = sandbox.turn.lock().await;
        let request = api::StartSandboxRequest { sandbox_id: id.to_owned() };
        let answer: Result<api::StartSandboxResponse> =
            sandbox.ask("start the sandbox", "StartSandbox", &request, limits::START).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let (shared, sandbox) = (self.inner.clone(), sandbox.clone());
                let _ = tokio::spawn(async move { end::take_down(&shared, &sandbox).await }).await;
                return Err(error);
            }
        };
        if !sandbox.started.swap(true, Ordering::AcqRel) {
            sandbox.note_start();
            let event = ev::SandboxStart { sandbox_id: id.to_owned() };
            self.inner.publish(namespace, "/sandboxes/start", "containerd.events.SandboxStart", &event);
            follow::follow_end(&self.inner, sandbox.clone());
        }
        Ok(StartedSandbox {
            pid: answer.pid,
            created_at: time(answer.created_at.as_ref()),
            spec: answer.spec.map(Into::into),
            endpoint: sandbox.endpoint(),
        })
    }

    /// What the sandbox's containers are to be made for.
    ///
    /// # Errors
    /// NotFound; whatever the shim says.
    pub async fn platform(&self, namespace: &Namespace, id: &str) -> Result<SandboxPlatform> {
        let sandbox = self.inner.find(namespace, id)?;
        let request = api::PlatformRequest { sandbox_id: id.to_owned() };
        let answer: api::PlatformResponse =
            sandbox.ask("ask for the platform", "Platform", &request, limits::REQUEST).await?;
        let platform = answer.platform.unwrap_or_default();
        Ok(SandboxPlatform {
            os: platform.os,
            architecture: platform.architecture,
            variant: platform.variant,
        })
    }

    /// Ends what runs in a sandbox, which keeps its shim. One that is not there is stopped already.
    ///
    /// # Errors
    /// Whatever the shim says; no answer within `timeout` and a while.
    pub async fn stop(&self, namespace: &Namespace, id: &str, timeout: Duration) -> Result<()> {
        let sandbox = match self.inner.find(namespace, id) {
            Err(error) if error.is_not_found() => return Ok(()),
            found => found?,
        };
        let _turn = sandbox.turn.lock().await;
        let timeout_secs = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
        let request = api::StopSandboxRequest { sandbox_id: id.to_owned(), timeout_secs };
        let limit = timeout.saturating_add(limits::DELETE);
        let stopped: Result<api::StopSandboxResponse, Failure> =
            sandbox.call("StopSandbox", &request, limit).await;
        match stopped {
            Ok(_) | Err(Failure::Closed(_)) => Ok(()),
            Err(Failure::Refused(error)) if matches!(error.code, Code::NotFound | Code::Unavailable) => {
                Ok(())
            }
            Err(failure) => Err(wire::failure(id, "stop the sandbox", &failure)),
        }
    }

    /// Waits for the sandbox's end.
    ///
    /// # Errors
    /// NotFound.
    pub async fn wait(&self, namespace: &Namespace, id: &str) -> Result<Exit> {
        let mut exit = self.inner.find(namespace, id)?.exit.subscribe();
        let known = exit.wait_for(Option::is_some).await.ok().and_then(|exit| *exit);
        known.ok_or_else(|| Error::not_found("sandbox", id))
    }

    /// How a sandbox is. One that is not there ended.
    ///
    /// # Errors
    /// Whatever the shim says.
    pub async fn status(&self, namespace: &Namespace, id: &str, verbose: bool) -> Result<SandboxStatus> {
        let sandbox = match self.inner.find(namespace, id) {
            Err(error) if error.is_not_found() => {
                return Ok(SandboxStatus { exited_at: Some(Timestamp::now()), ..SandboxStatus::default() });
            }
            found => found?,
        };
        let request = api::SandboxStatusRequest { sandbox_id: id.to_owned(), verbose };
        let answer: api::SandboxStatusResponse =
            sandbox.ask("ask how the sandbox is", "SandboxStatus", &request, limits::REQUEST).await?;
        Ok(SandboxStatus {
            pid: answer.pid,
            state: answer.state,
            info: answer.info.into_iter().collect(),
            created_at: time(answer.created_at.as_ref()),
            exited_at: time(answer.exited_at.as_ref()),
            extra: answer.extra.map(Into::into),
            endpoint: Some(sandbox.endpoint()),
        })
    }

    /// What a sandbox uses.
    ///
    /// # Errors
    /// NotFound; whatever the shim says.
    pub async fn metrics(&self, namespace: &Namespace, id: &str) -> Result<SandboxMetrics> {
        let sandbox = self.inner.find(namespace, id)?;
        let request = api::SandboxMetricsRequest { sandbox_id: id.to_owned() };
        let answer: api::SandboxMetricsResponse =
            sandbox.ask("measure the sandbox", "SandboxMetrics", &request, limits::REQUEST).await?;
        let metric = answer.metrics.unwrap_or_default();
        Ok(SandboxMetrics {
            at: time(metric.timestamp.as_ref()),
            id: metric.id,
            data: metric.data.map(Into::into),
        })
    }

    /// Whether there is such a sandbox: a change of its record means nothing to its shim.
    ///
    /// # Errors
    /// NotFound.
    pub fn update(&self, namespace: &Namespace, id: &str) -> Result<()> {
        self.inner.find(namespace, id).map(drop)
    }
}
