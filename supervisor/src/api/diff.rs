//! containerd.services.diff.v1.

use longshore_proto::containerd::services::diff::v1 as wire;
use longshore_proto::containerd::types;
use tonic::{Request, Response, Status};

use super::{convert, namespace, required};
use crate::diff::{self, Durability};
use crate::error::Error;
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

    async fn diff(&self, _: Request<wire::DiffRequest>) -> Result<Response<wire::DiffResponse>, Status> {
        Err(Error::Unimplemented { what: "Diff.Diff (making a layer from a snapshot)".to_owned() }.into())
    }
}

fn from_wire(mount: types::Mount) -> Mount {
    Mount { kind: mount.r#type, source: mount.source, target: mount.target, options: mount.options }
}
