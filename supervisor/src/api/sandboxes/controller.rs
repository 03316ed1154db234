//! containerd.services.sandbox.v1.Controller: the one sandboxer there is, `shim`.

use std::time::Duration;

use longshore_proto::containerd::services::sandbox::v1 as wire;
use longshore_proto::containerd::types;
use tonic::{Request, Response, Status};

use super::from_wire;
use crate::api::{convert, namespace, required};
use crate::error::{Error, Result as CoreResult};
use crate::namespaces::Namespace;
use crate::services::Services;
use crate::tasks::RootfsMount;
use crate::tasks::sandbox::{CreateSandbox, Endpoint};

/// The sandboxer that has a runtime's shim hold the sandbox.
const SHIM: &str = "shim";
/// Longest time that a client may give a sandbox to stop.
const MAX_STOP: Duration = Duration::from_secs(24 * 60 * 60);

pub struct Controller(pub Services);

/// Refuses sandboxers that do not exist.
fn check_sandboxer(name: &str) -> CoreResult<()> {
    match name {
        SHIM => Ok(()),
        "" => Err(Error::invalid("sandboxer", "must be named")),
        _ => Err(Error::not_found("sandboxer", name)),
    }
}

impl Controller {
    /// What is asked for; a request that brings no sandbox means the recorded one.
    fn wanted(
        &self,
        namespace: &Namespace,
        asked: wire::ControllerCreateRequest,
    ) -> CoreResult<CreateSandbox> {
        let sandbox = match asked.sandbox {
            Some(sandbox) => from_wire(sandbox),
            None => self.0.sandboxes.get(namespace, &asked.sandbox_id)?,
        };
        let id = if asked.sandbox_id.is_empty() { sandbox.id.clone() } else { asked.sandbox_id };
        if id != sandbox.id {
            return Err(Error::invalid(
                format!("sandbox \"{id}\""),
                format!("is called {:?} within", sandbox.id),
            ));
        }
        let mount = |mount: types::Mount| RootfsMount {
            kind: mount.r#type,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        };
        Ok(CreateSandbox {
            id,
            runtime: sandbox.record.runtime.name,
            runtime_options: sandbox.record.runtime.options,
            spec: sandbox.record.spec,
            options: asked.options.map(Into::into),
            rootfs: asked.rootfs.into_iter().map(mount).collect(),
            netns: asked.netns_path,
            annotations: asked.annotations.into_iter().collect(),
        })
    }
}

fn address(endpoint: Option<Endpoint>) -> (String, u32) {
    endpoint.map(|endpoint| (endpoint.address, endpoint.api)).unwrap_or_default()
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl wire::controller_server::Controller for Controller {
    async fn create(
        &self,
        request: Request<wire::ControllerCreateRequest>,
    ) -> Reply<wire::ControllerCreateResponse> {
        let namespace = namespace(&request)?;
        let asked = request.into_inner();
        check_sandboxer(&asked.sandboxer)?;
        let wanted = self.wanted(&namespace, asked)?;
        let sandbox_id = wanted.id.clone();
        self.0.sandbox_shims.create(&namespace, wanted).await?;
        Ok(Response::new(wire::ControllerCreateResponse { sandbox_id }))
    }

    async fn start(
        &self,
        request: Request<wire::ControllerStartRequest>,
    ) -> Reply<wire::ControllerStartResponse> {
        let namespace = namespace(&request)?;
        let asked = request.into_inner();
        check_sandboxer(&asked.sandboxer)?;
        let started = self.0.sandbox_shims.start(&namespace, &asked.sandbox_id).await?;
        let (address, version) = address(Some(started.endpoint));
        Ok(Response::new(wire::ControllerStartResponse {
            sandbox_id: asked.sandbox_id,
            pid: started.pid,
            created_at: started.created_at.map(convert::timestamp),
            labels: Default::default(),
            address,
            version,
            spec: started.spec.map(Into::into),
        }))
    }

    async fn platform(
        &self,
        request: Request<wire::ControllerPlatformRequest>,
    ) -> Reply<wire::ControllerPlatformResponse> {
        let namespace = namespace(&request)?;
        let asked = request.into_inner();
        check_sandboxer(&asked.sandboxer)?;
        let platform = self.0.sandbox_shims.platform(&namespace, &asked.sandbox_id).await?;
        let platform = types::Platform {
            os: platform.os,
            architecture: platform.architecture,
            variant: platform.variant,
            ..Default::default()
        };
        Ok(Response::new(wire::ControllerPlatformResponse { platform: Some(platform) }))
    }

    async fn stop(
        &self,
        request: Request<wire::ControllerStopRequest>,
    ) -> Reply<wire::ControllerStopResponse> {
        let namespace = namespace(&request)?;
        let asked = request.into_inner();
        check_sandboxer(&asked.sandboxer)?;
        let timeout = Duration::from_secs(asked.timeout_secs.into()).min(MAX_STOP);
        self.0.sandbox_shims.stop(&namespace, &asked.sandbox_id, timeout).await?;
        Ok(Response::new(wire::ControllerStopResponse {}))
    }

    async fn wait(
        &self,
        request: Request<wire::ControllerWaitRequest>,
    ) -> Reply<wire::ControllerWaitResponse> {
        let namespace = namespace(&request)?;
        let asked = request.into_inner();
        check_sandboxer(&asked.sandboxer)?;
        let exit = self.0.sandbox_shims.wait(&namespace, &asked.sandbox_id).await?;
        let exited_at = Some(convert::timestamp(exit.at));
        Ok(Response::new(wire::ControllerWaitResponse { exit_status: exit.status, exited_at }))
    }

    async fn status(
        &self,
        request: Request<wire::ControllerStatusRequest>,
    ) -> Reply<wire::ControllerStatusResponse> {
        let namespace = namespace(&request)?;
        let asked = request.into_inner();
        check_sandboxer(&asked.sandboxer)?;
        let status = self.0.sandbox_shims.status(&namespace, &asked.sandbox_id, asked.verbose).await?;
        let (address, version) = address(status.endpoint);
        Ok(Response::new(wire::ControllerStatusResponse {
            sandbox_id: asked.sandbox_id,
            pid: status.pid,
            state: status.state,
            info: status.info.into_iter().collect(),
            created_at: status.created_at.map(convert::timestamp),
            exited_at: status.exited_at.map(convert::timestamp),
            extra: status.extra.map(Into::into),
            address,
            version,
        }))
    }

    async fn shutdown(
        &self,
        request: Request<wire::ControllerShutdownRequest>,
    ) -> Reply<wire::ControllerShutdownResponse> {
        let namespace = namespace(&request)?;
        let asked = request.into_inner();
        check_sandboxer(&asked.sandboxer)?;
        self.0.sandbox_shims.shutdown(&namespace, &asked.sandbox_id).await?;
        Ok(Response::new(wire::ControllerShutdownResponse {}))
    }

    async fn metrics(
        &self,
        request: Request<wire::ControllerMetricsRequest>,
    ) -> Reply<wire::ControllerMetricsResponse> {
        let namespace = namespace(&request)?;
        let asked = request.into_inner();
        check_sandboxer(&asked.sandboxer)?;
        let metrics = self.0.sandbox_shims.metrics(&namespace, &asked.sandbox_id).await?;
        let metrics = types::Metric {
            timestamp: metrics.at.map(convert::timestamp),
            id: metrics.id,
            data: metrics.data.map(Into::into),
        };
        Ok(Response::new(wire::ControllerMetricsResponse { metrics: Some(metrics) }))
    }

    async fn update(
        &self,
        request: Request<wire::ControllerUpdateRequest>,
    ) -> Reply<wire::ControllerUpdateResponse> {
        let namespace = namespace(&request)?;
        let asked = request.into_inner();
        check_sandboxer(&asked.sandboxer)?;
        required(asked.sandbox, "sandbox")?;
        self.0.sandbox_shims.update(&namespace, &asked.sandbox_id)?;
        Ok(Response::new(wire::ControllerUpdateResponse {}))
    }
}
