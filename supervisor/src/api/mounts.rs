//! containerd.services.mounts.v1.

use longshore_proto::containerd::services::mounts::v1 as wire;
use longshore_proto::containerd::types;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{STREAM_BUFFER, convert, lease, namespace, required};
use crate::filters::Filter;
use crate::labels::{from_hash, to_hash};
use crate::mounts::{Activation, ActiveMount, Wanted};
use crate::services::Services;
use crate::snapshots::Mount;

pub struct Service(pub Services);

#[tonic::async_trait]
impl wire::mounts_server::Mounts for Service {
    type ListStream = ReceiverStream<Result<wire::ListMessage, Status>>;

    async fn activate(
        &self,
        request: Request<wire::ActivateRequest>,
    ) -> Result<Response<wire::ActivateResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request)?);
        let asked = request.into_inner();
        let wanted = Wanted {
            mounts: asked.mounts.into_iter().map(mount_from_wire).collect(),
            labels: from_hash(asked.labels),
            temporary: asked.temporary,
            allowed: Vec::new(),
            lease,
        };
        let activation = self.0.mounts.activate(&namespace, &asked.name, wanted).await?;
        Ok(Response::new(wire::ActivateResponse { info: Some(to_wire(activation)) }))
    }

    async fn deactivate(&self, request: Request<wire::DeactivateRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        self.0.mounts.deactivate(&namespace, &request.get_ref().name).await?;
        Ok(Response::new(()))
    }

    async fn info(
        &self,
        request: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoResponse>, Status> {
        let activation = self.0.mounts.info(&namespace(&request)?, &request.get_ref().name)?;
        Ok(Response::new(wire::InfoResponse { info: Some(to_wire(activation)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        let namespace = namespace(&request)?;
        let asked = request.into_inner();
        let info = required(asked.info, "mount info")?;
        let keys = convert::label_mask("mount", asked.update_mask)?;
        let labels = from_hash(info.labels);
        let activation = self.0.mounts.update(&namespace, &info.name, labels, keys.as_deref()).await?;
        Ok(Response::new(wire::UpdateResponse { info: Some(to_wire(activation)) }))
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let filter = Filter::parse_all(&request.get_ref().filters)?;
        let found = self.0.mounts.list(&namespace(&request)?, &filter)?;
        let (sender, receiver) = tokio::sync::mpsc::channel(STREAM_BUFFER);
        tokio::spawn(async move {
            for activation in found {
                let message = wire::ListMessage { info: Some(to_wire(activation)) };
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn to_wire(activation: Activation) -> types::ActivationInfo {
    types::ActivationInfo {
        name: activation.name,
        active: activation.active.into_iter().map(active_to_wire).collect(),
        system: activation.system.into_iter().map(mount_to_wire).collect(),
        labels: to_hash(&activation.labels),
    }
}

fn active_to_wire(active: ActiveMount) -> types::ActiveMount {
    types::ActiveMount {
        mount: Some(mount_to_wire(active.mount.into())),
        mounted_at: Some(convert::timestamp(active.mounted_at)),
        mount_point: active.mount_point,
        data: Default::default(),
    }
}

fn mount_from_wire(mount: types::Mount) -> Mount {
    Mount { kind: mount.r#type, source: mount.source, target: mount.target, options: mount.options }
}

fn mount_to_wire(mount: Mount) -> types::Mount {
    types::Mount { r#type: mount.kind, source: mount.source, target: mount.target, options: mount.options }
}
