//! containerd.services.snapshots.v1.
//!
//! What always holds: a change that was answered survives a power cut, too, for the client goes on to store what refers to it.

use longshore_proto::containerd::services::snapshots::v1 as wire;
use longshore_proto::containerd::types;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{LIST_BATCH, STREAM_BUFFER, convert, lease, namespace, required};
use crate::error::Result as CoreResult;
use crate::filters::Filter;
use crate::labels::{from_hash, to_hash};
use crate::services::Services;
use crate::snapshots::{Commit, Info, Kind, Mount, Snapshotter};

pub struct Service(pub Services);

impl Service {
    fn snapshotter(&self, name: &str) -> CoreResult<Snapshotter> {
        self.0.snapshots.by_name(name)
    }
}

#[tonic::async_trait]
impl wire::snapshots_server::Snapshots for Service {
    type ListStream = ReceiverStream<Result<wire::ListSnapshotsResponse, Status>>;

    async fn prepare(
        &self,
        request: Request<wire::PrepareSnapshotRequest>,
    ) -> Result<Response<wire::PrepareSnapshotResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request)?);
        let asked = request.into_inner();
        let snapshotter = self.snapshotter(&asked.snapshotter)?;
        let labels = from_hash(asked.labels);
        let mounts =
            snapshotter.prepare(&namespace, &asked.key, &asked.parent, labels, lease.as_deref()).await?;
        snapshotter.flush().await?;
        Ok(Response::new(wire::PrepareSnapshotResponse { mounts: mounts_to_wire(mounts) }))
    }

    async fn view(
        &self,
        request: Request<wire::ViewSnapshotRequest>,
    ) -> Result<Response<wire::ViewSnapshotResponse>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request)?);
        let asked = request.into_inner();
        let snapshotter = self.snapshotter(&asked.snapshotter)?;
        let labels = from_hash(asked.labels);
        let mounts =
            snapshotter.view(&namespace, &asked.key, &asked.parent, labels, lease.as_deref()).await?;
        snapshotter.flush().await?;
        Ok(Response::new(wire::ViewSnapshotResponse { mounts: mounts_to_wire(mounts) }))
    }

    async fn mounts(
        &self,
        request: Request<wire::MountsRequest>,
    ) -> Result<Response<wire::MountsResponse>, Status> {
        let namespace = namespace(&request)?;
        let asked = request.get_ref();
        let mounts = self.snapshotter(&asked.snapshotter)?.mounts(&namespace, &asked.key).await?;
        Ok(Response::new(wire::MountsResponse { mounts: mounts_to_wire(mounts) }))
    }

    async fn commit(&self, request: Request<wire::CommitSnapshotRequest>) -> Result<Response<()>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request)?);
        let asked = request.into_inner();
        let snapshotter = self.snapshotter(&asked.snapshotter)?;
        let parent = (!asked.parent.is_empty()).then_some(asked.parent);
        let labels = from_hash(asked.labels);
        let commit = Commit { name: asked.name, key: asked.key, labels, parent, usage: None };
        snapshotter.commit(&namespace, commit, lease.as_deref()).await?;
        Ok(Response::new(()))
    }

    async fn remove(&self, request: Request<wire::RemoveSnapshotRequest>) -> Result<Response<()>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request)?);
        let asked = request.get_ref();
        let snapshotter = self.snapshotter(&asked.snapshotter)?;
        snapshotter.remove_leased(&namespace, &asked.key, lease.as_deref()).await?;
        snapshotter.flush().await?;
        self.0.gc.trigger();
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<wire::StatSnapshotRequest>,
    ) -> Result<Response<wire::StatSnapshotResponse>, Status> {
        let namespace = namespace(&request)?;
        let asked = request.get_ref();
        let info = self.snapshotter(&asked.snapshotter)?.stat(&namespace, &asked.key).await?;
        Ok(Response::new(wire::StatSnapshotResponse { info: Some(info_to_wire(info)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateSnapshotRequest>,
    ) -> Result<Response<wire::UpdateSnapshotResponse>, Status> {
        let namespace = namespace(&request)?;
        let asked = request.into_inner();
        let snapshotter = self.snapshotter(&asked.snapshotter)?;
        let info = required(asked.info, "snapshot info")?;
        let keys = convert::label_mask("snapshot", asked.update_mask)?;
        let labels = from_hash(info.labels);
        let info = snapshotter.update(&namespace, &info.name, labels, keys.as_deref()).await?;
        snapshotter.flush().await?;
        Ok(Response::new(wire::UpdateSnapshotResponse { info: Some(info_to_wire(info)) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let namespace = namespace(&request)?;
        let asked = request.get_ref();
        let filter = Filter::parse_all(&asked.filters)?;
        let mut infos = self.snapshotter(&asked.snapshotter)?.list(&namespace, &filter).await?.into_iter();
        let (sender, receiver) = tokio::sync::mpsc::channel(STREAM_BUFFER);
        tokio::spawn(async move {
            loop {
                let info: Vec<_> = infos.by_ref().take(LIST_BATCH).map(info_to_wire).collect();
                if info.is_empty() || sender.send(Ok(wire::ListSnapshotsResponse { info })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn usage(
        &self,
        request: Request<wire::UsageRequest>,
    ) -> Result<Response<wire::UsageResponse>, Status> {
        let namespace = namespace(&request)?;
        let asked = request.get_ref();
        let usage = self.snapshotter(&asked.snapshotter)?.usage(&namespace, &asked.key).await?;
        let (size, inodes) = (convert::size(usage.size), convert::size(usage.inodes));
        Ok(Response::new(wire::UsageResponse { size, inodes }))
    }

    async fn cleanup(&self, request: Request<wire::CleanupRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        self.snapshotter(&request.get_ref().snapshotter)?.cleanup(&namespace).await?;
        Ok(Response::new(()))
    }
}

fn mounts_to_wire(mounts: Vec<Mount>) -> Vec<types::Mount> {
    let convert = |mount: Mount| types::Mount {
        r#type: mount.kind,
        source: mount.source,
        target: mount.target,
        options: mount.options,
    };
    mounts.into_iter().map(convert).collect()
}

fn info_to_wire(info: Info) -> wire::Info {
    let kind = match info.kind {
        Kind::View => wire::Kind::View,
        Kind::Active => wire::Kind::Active,
        Kind::Committed => wire::Kind::Committed,
    };
    wire::Info {
        name: info.name,
        parent: info.parent.unwrap_or_default(),
        kind: kind.into(),
        created_at: Some(info.created.into()),
        updated_at: Some(info.updated.into()),
        labels: to_hash(&info.labels),
    }
}
