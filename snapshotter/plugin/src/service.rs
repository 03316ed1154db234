//! containerd.services.snapshots.v1 over one driver. Whatever name the caller knows the driver by is fine.
//!
//! What always holds: a change that was answered survives a power cut, too: the caller goes on to store what refers to it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use longshore_proto::containerd::services::snapshots::v1 as wire;
use longshore_proto::containerd::types;
use longshore_snapshotter::{Commit, Info, Kind, LabelChange, Labels, Mount, Snapshotter};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::errors::status;

/// Entries that a list sends in one message, and messages that wait for the client to read them.
const LIST_BATCH: usize = 100;
const LIST_BUFFER: usize = 4;
/// Labels of one snapshot, and a label's key and value together in bytes.
const MAX_LABELS: usize = 1024;
const MAX_LABEL: usize = 4096;

pub struct Service(pub Arc<dyn Snapshotter>);

impl Service {
    async fn call<R: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Snapshotter) -> longshore_snapshotter::Result<R> + Send + 'static,
    ) -> Result<R, Status> {
        let driver = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || call(&*driver)).await;
        done.map_err(|_| Status::internal("the call ended before it answered"))?.map_err(status)
    }

    async fn create(
        &self,
        kind: Kind,
        key: String,
        parent: String,
        labels: HashMap<String, String>,
    ) -> Result<Vec<types::Mount>, Status> {
        let labels = checked(labels)?;
        let mounts = self
            .call(move |driver| {
                let parent = (!parent.is_empty()).then_some(parent.as_str());
                let mounts = match kind {
                    Kind::View => driver.view(&key, parent, labels),
                    Kind::Active | Kind::Committed => driver.prepare(&key, parent, labels),
                }?;
                driver.flush()?;
                Ok(mounts)
            })
            .await?;
        Ok(to_wire(mounts))
    }
}

#[tonic::async_trait]
impl wire::snapshots_server::Snapshots for Service {
    type ListStream = ReceiverStream<Result<wire::ListSnapshotsResponse, Status>>;

    async fn prepare(
        &self,
        request: Request<wire::PrepareSnapshotRequest>,
    ) -> Result<Response<wire::PrepareSnapshotResponse>, Status> {
        let asked = request.into_inner();
        let mounts = self.create(Kind::Active, asked.key, asked.parent, asked.labels).await?;
        Ok(Response::new(wire::PrepareSnapshotResponse { mounts }))
    }

    async fn view(
        &self,
        request: Request<wire::ViewSnapshotRequest>,
    ) -> Result<Response<wire::ViewSnapshotResponse>, Status> {
        let asked = request.into_inner();
        let mounts = self.create(Kind::View, asked.key, asked.parent, asked.labels).await?;
        Ok(Response::new(wire::ViewSnapshotResponse { mounts }))
    }

    async fn mounts(
        &self,
        request: Request<wire::MountsRequest>,
    ) -> Result<Response<wire::MountsResponse>, Status> {
        let key = request.into_inner().key;
        let mounts = to_wire(self.call(move |driver| driver.mounts(&key)).await?);
        Ok(Response::new(wire::MountsResponse { mounts }))
    }

    async fn commit(&self, request: Request<wire::CommitSnapshotRequest>) -> Result<Response<()>, Status> {
        let asked = request.into_inner();
        let labels = checked(asked.labels)?;
        self.call(move |driver| {
            let parent = (!asked.parent.is_empty()).then_some(asked.parent.as_str());
            driver.commit_all(&[Commit { name: &asked.name, key: &asked.key, labels, parent, usage: None }])
        })
        .await?;
        Ok(Response::new(()))
    }

    async fn remove(&self, request: Request<wire::RemoveSnapshotRequest>) -> Result<Response<()>, Status> {
        let key = request.into_inner().key;
        self.call(move |driver| {
            driver.remove(&key)?;
            driver.flush()
        })
        .await?;
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<wire::StatSnapshotRequest>,
    ) -> Result<Response<wire::StatSnapshotResponse>, Status> {
        let info = self.0.stat(&request.get_ref().key).map_err(status)?;
        Ok(Response::new(wire::StatSnapshotResponse { info: Some(info_to_wire(info)) }))
    }

    async fn update(
        &self,
        request: Request<wire::UpdateSnapshotRequest>,
    ) -> Result<Response<wire::UpdateSnapshotResponse>, Status> {
        let asked = request.into_inner();
        let info = asked.info.ok_or_else(|| Status::invalid_argument("snapshot info is missing"))?;
        let change = change(info.labels, asked.update_mask.map(|mask| mask.paths).unwrap_or_default())?;
        let updated = self
            .call(move |driver| {
                let updated = driver.update(&info.name, change)?;
                driver.flush()?;
                Ok(updated)
            })
            .await?;
        Ok(Response::new(wire::UpdateSnapshotResponse { info: Some(info_to_wire(updated)) }))
    }

    async fn list(
        &self,
        request: Request<wire::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        if !request.get_ref().filters.is_empty() {
            return Err(Status::unimplemented("filters: this plugin lists everything, choose from that"));
        }
        let infos = self
            .call(|driver| {
                let mut infos = Vec::new();
                driver.walk(&mut |info| {
                    infos.push(info.clone());
                    ControlFlow::Continue(())
                });
                Ok(infos)
            })
            .await?;
        let (sender, receiver) = tokio::sync::mpsc::channel(LIST_BUFFER);
        tokio::spawn(async move {
            let mut infos = infos.into_iter();
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
        let key = request.into_inner().key;
        let usage = self.call(move |driver| driver.usage(&key)).await?;
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Ok(Response::new(wire::UsageResponse { size: number(usage.size), inodes: number(usage.inodes) }))
    }

    async fn cleanup(&self, _: Request<wire::CleanupRequest>) -> Result<Response<()>, Status> {
        self.call(|driver| driver.cleanup()).await?;
        Ok(Response::new(()))
    }
}

/// Refuses labels over the limits.
fn checked(labels: HashMap<String, String>) -> Result<Labels, Status> {
    if labels.len() > MAX_LABELS {
        let message = format!("{} labels, and the limit of one snapshot is {MAX_LABELS}", labels.len());
        return Err(Status::resource_exhausted(message));
    }
    if let Some((key, _)) = labels.iter().find(|(key, value)| key.len() + value.len() > MAX_LABEL) {
        let shown: String = key.chars().take(64).collect();
        let message = format!("label {shown:?}: key and value are longer than {MAX_LABEL} bytes");
        return Err(Status::invalid_argument(format!("{message}: invalid argument")));
    }
    Ok(labels.into_iter().collect())
}

/// What an update's mask asks for: `labels`, or `labels.KEY` each.
fn change(labels: HashMap<String, String>, paths: Vec<String>) -> Result<LabelChange, Status> {
    let labels = checked(labels)?;
    if paths.is_empty() || paths.iter().any(|path| path == "labels") {
        return Ok(LabelChange::Replace(labels));
    }
    let mut merged = Labels::new();
    for path in paths {
        let Some(key) = path.strip_prefix("labels.") else {
            let message = format!("a snapshot has no field {path:?} that can be updated: invalid argument");
            return Err(Status::invalid_argument(message));
        };
        merged.insert(key.to_owned(), labels.get(key).cloned().unwrap_or_default());
    }
    Ok(LabelChange::Merge(merged))
}

fn to_wire(mounts: Vec<Mount>) -> Vec<types::Mount> {
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
        labels: info.labels.into_iter().collect(),
    }
}
