//! containerd.services.diff.v1.

use longshore_proto::containerd::services::diff::v1 as wire;
use longshore_proto::containerd::types;
use tonic::{Request, Response, Status};

use super::{convert, lease, namespace};
use crate::diff::{self, Differ, Durability, Wanted};
use crate::error::{Error, Result as CoreResult};
use crate::labels::from_hash;
use crate::namespaces::Namespace;
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
        let mut outcome = Err(no_differ());
        for differ in self.0.differs.iter() {
            outcome = match differ {
                Differ::Walking => self.apply_here(&namespace, asked.clone()).await,
                Differ::Remote(remote) => remote.apply(&namespace, asked.clone()).await,
            };
            if !diff::passes_on(&outcome) {
                break;
            }
        }
        Ok(Response::new(outcome?))
    }

    async fn diff(
        &self,
        request: Request<wire::DiffRequest>,
    ) -> Result<Response<wire::DiffResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request)?);
        let asked = request.into_inner();
        let mut outcome = Err(no_differ());
        for differ in self.0.differs.iter() {
            outcome = match differ {
                Differ::Walking => self.diff_here(&namespace, asked.clone(), lease.clone()).await,
                Differ::Remote(remote) => remote.diff(&namespace, asked.clone()).await,
            };
            if !diff::passes_on(&outcome) {
                break;
            }
        }
        Ok(Response::new(outcome?))
    }
}

impl Service {
    async fn apply_here(
        &self,
        namespace: &Namespace,
        asked: wire::ApplyRequest,
    ) -> CoreResult<wire::ApplyResponse> {
        if let Some(kind) = asked.payloads.keys().next() {
            return Err(Error::Unimplemented { what: format!("a payload for {kind:?} (stream processors)") });
        }
        let diff = asked.diff.ok_or_else(|| Error::invalid("diff", "is missing"))?;
        let diff = convert::from_descriptor(diff)?;
        let mounts = asked.mounts.into_iter().map(from_wire).collect();
        let mounts = self.0.mounts.borrow(namespace, mounts).await?;
        let durability = if asked.sync_fs { Durability::Now } else { Durability::Later };
        let applied = diff::apply(&self.0.content, namespace, &diff, mounts.list(), durability).await;
        mounts.give_back().await?;
        let applied = applied?;
        Ok(wire::ApplyResponse { applied: Some(convert::descriptor(applied)) })
    }

    async fn diff_here(
        &self,
        namespace: &Namespace,
        asked: wire::DiffRequest,
        lease: Option<String>,
    ) -> CoreResult<wire::DiffResponse> {
        let borrow = async |mounts: Vec<types::Mount>| {
            let mounts = mounts.into_iter().map(from_wire).collect();
            self.0.mounts.borrow(namespace, mounts).await
        };
        let (left, right) = (borrow(asked.left).await?, borrow(asked.right).await?);
        let wanted = Wanted {
            media_type: asked.media_type,
            reference: asked.r#ref,
            labels: from_hash(asked.labels),
            newest: asked.source_date_epoch.map(convert::from_timestamp).transpose()?,
            lease,
        };
        let sides = (left.list(), right.list());
        let made = diff::make(&self.0.content, namespace, sides, wanted).await;
        left.give_back().await?;
        right.give_back().await?;
        let made = made?;
        Ok(wire::DiffResponse { diff: Some(convert::descriptor(made)) })
    }
}

fn no_differ() -> Error {
    Error::Unimplemented { what: "a differ for this (diff.order)".to_owned() }
}

fn from_wire(mount: types::Mount) -> Mount {
    Mount { kind: mount.r#type, source: mount.source, target: mount.target, options: mount.options }
}
