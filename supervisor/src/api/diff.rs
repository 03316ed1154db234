//! containerd.services.diff.v1.

use longshore_proto::containerd::services::diff::v1 as wire;
use longshore_proto::containerd::types;
use tonic::{Request, Response, Status};

use super::{convert, lease, namespace, required};
use crate::diff::{self, Durability, Wanted};
use crate::error::Error;
use crate::labels::from_hash;
use crate::services::Services;
use crate::snapshots::Mount;

pub struct Service(pub Services);

#[tonic::async_trait]
impl wire::diff_server::Diff for Service {
    async fn apply(
        &self,
        request: Request<wire::ApplyRequest>,
    ) -> Result<Response<wire::ApplyResponse>, Status> {
        let namespace = namespace(&request)?;
        let asked = request.into_inner();
        if let Some(kind) = asked.payloads.keys().next() {
            return Err(
                Error::Unimplemented { what: format!("a payload for {kind:?} (stream processors)") }.into()
            );
        }
        let diff = convert::from_descriptor(required(asked.diff, "diff")?)?;
        let mounts = asked.mounts.into_iter().map(from_wire).collect();
        let durability = if asked.sync_fs { Durability::Now } else { Durability::Later };
        let applied = diff::apply(&self.0.content, &namespace, &diff, mounts, durability).await?;
        Ok(Response::new(wire::ApplyResponse { applied: Some(convert::descriptor(applied)) }))
    }

    async fn diff(&self, request: Request<wire::DiffRequest>) -> Result<Response<wire::DiffResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request)?);
        let asked = request.into_inner();
        let mounts = |mounts: Vec<types::Mount>| mounts.into_iter().map(from_wire).collect();
        let newest = asked.source_date_epoch.map(convert::from_timestamp).transpose()?;
        let wanted = Wanted {
            media_type: asked.media_type,
            reference: asked.r#ref,
            labels: from_hash(asked.labels),
            newest,
            lease,
        };
        let sides = (mounts(asked.left), mounts(asked.right));
        let made = diff::make(&self.0.content, &namespace, sides, wanted).await?;
        Ok(Response::new(wire::DiffResponse { diff: Some(convert::descriptor(made)) }))
    }
}

fn from_wire(mount: types::Mount) -> Mount {
    Mount { kind: mount.r#type, source: mount.source, target: mount.target, options: mount.options }
}
