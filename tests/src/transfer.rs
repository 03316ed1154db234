//! containerd's Transfer and Streaming services from a test, as Go's client speaks them.

use std::path::Path;

use anyhow::{Context, Result};
use longshore_proto::containerd::services::content::v1 as content;
use longshore_proto::containerd::services::images::v1 as images;
use longshore_proto::containerd::services::leases::v1 as leases;
use longshore_proto::containerd::services::snapshots::v1 as snapshots;
use longshore_proto::containerd::services::streaming::v1 as streaming;
use longshore_proto::containerd::services::transfer::v1 as transfer;
use longshore_proto::containerd::types::Platform;
use longshore_proto::containerd::types::transfer as types;
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::api::InNamespace;
use crate::image::host_architecture;

type Service = InterceptedService<Channel, InNamespace>;

const WINDOW: i64 = 64 * 1024;

/// Clients of one daemon.
#[derive(Clone)]
pub struct Transfers {
    pub transfer: transfer::transfer_client::TransferClient<Service>,
    pub streaming: streaming::streaming_client::StreamingClient<Service>,
    pub images: images::images_client::ImagesClient<Service>,
    pub content: content::content_client::ContentClient<Service>,
    pub leases: leases::leases_client::LeasesClient<Service>,
    pub snapshots: snapshots::snapshots_client::SnapshotsClient<Service>,
}

/// A stream that the daemon has acknowledged.
pub struct Stream {
    pub to_daemon: mpsc::Sender<Any>,
    pub from_daemon: Streaming<Any>,
}

pub fn pack<M: Message>(name: &str, message: &M) -> Any {
    Any { type_url: format!("containerd.types.transfer.{name}"), value: message.encode_to_vec() }
}

/// The platform of this host.
pub fn host() -> Platform {
    platform(host_architecture())
}

pub fn platform(architecture: &str) -> Platform {
    Platform { os: "linux".into(), architecture: architecture.into(), ..Default::default() }
}

/// What `ctr images pull` asks for.
pub fn pull_store(name: &str) -> types::ImageStore {
    types::ImageStore {
        name: name.into(),
        platforms: vec![host()],
        all_metadata: true,
        unpacks: vec![types::UnpackConfiguration { platform: Some(host()), snapshotter: String::new() }],
        ..Default::default()
    }
}

/// What `ctr images import` asks for.
pub fn import_store(prefix: &str) -> types::ImageStore {
    let extra = types::ImageReference {
        name: prefix.into(),
        is_prefix: true,
        allow_overwrite: true,
        ..Default::default()
    };
    types::ImageStore { extra_references: vec![extra], all_metadata: false, ..pull_store("") }
}

pub fn named(name: &str) -> types::ImageStore {
    types::ImageStore { name: name.into(), ..Default::default() }
}

pub fn registry(reference: &str) -> types::OciRegistry {
    types::OciRegistry { reference: reference.into(), resolver: Some(types::RegistryResolver::default()) }
}

impl Transfers {
    pub async fn connect(socket: &Path) -> Result<Transfers> {
        let url = format!("unix://{}", socket.display());
        let channel = Endpoint::from_shared(url)?.connect().await.context("connecting to the daemon")?;
        let with = || InterceptedService::new(channel.clone(), InNamespace);
        Ok(Transfers {
            transfer: transfer::transfer_client::TransferClient::new(with()),
            streaming: streaming::streaming_client::StreamingClient::new(with()),
            images: images::images_client::ImagesClient::new(with()),
            content: content::content_client::ContentClient::new(with()),
            leases: leases::leases_client::LeasesClient::new(with()),
            snapshots: snapshots::snapshots_client::SnapshotsClient::new(with()),
        })
    }

    /// Opens a stream and waits until it may be used.
    pub async fn stream(&mut self, id: &str) -> Result<Stream, Status> {
        let (to_daemon, receiver) = mpsc::channel(4);
        let init = streaming::StreamInit { id: id.into() };
        let first = Any {
            type_url: "containerd.services.streaming.v1.StreamInit".into(),
            value: init.encode_to_vec(),
        };
        to_daemon.send(first).await.map_err(|_| Status::internal("no room for the first message"))?;
        let mut from_daemon = self.streaming.stream(ReceiverStream::new(receiver)).await?.into_inner();
        match from_daemon.next().await {
            Some(Ok(empty)) if empty.type_url == "google.protobuf.Empty" => {
                Ok(Stream { to_daemon, from_daemon })
            }
            Some(Ok(other)) => Err(Status::internal(format!("acknowledged with {}", other.type_url))),
            Some(Err(status)) => Err(status),
            None => Err(Status::internal("the stream ended")),
        }
    }

    /// One transfer; what it reports is returned with how it ended.
    pub async fn run(&mut self, source: Any, destination: Any) -> (Vec<types::Progress>, Result<(), Status>) {
        let id = format!("progress-{}", rand::random::<u64>());
        let mut stream = match self.stream(&id).await {
            Ok(stream) => stream,
            Err(status) => return (Vec::new(), Err(status)),
        };
        let collect = tokio::spawn(async move {
            let mut events = Vec::new();
            while let Some(Ok(any)) = stream.from_daemon.next().await {
                events.push(types::Progress::decode(any.value.as_slice()).expect("progress"));
            }
            events
        });
        let request = transfer::TransferRequest {
            source: Some(source),
            destination: Some(destination),
            options: Some(transfer::TransferOptions { progress_stream: id }),
        };
        let result = self.transfer.transfer(request).await.map(drop);
        (collect.await.expect("the events"), result)
    }

    pub async fn pull(&mut self, reference: &str) -> Result<(), Status> {
        let (from, to) = (registry(reference), pull_store(reference));
        self.run(pack("OCIRegistry", &from), pack("ImageStore", &to)).await.1
    }

    pub async fn push(&mut self, name: &str, reference: &str) -> Result<(), Status> {
        let (from, to) = (named(name), registry(reference));
        self.run(pack("ImageStore", &from), pack("OCIRegistry", &to)).await.1
    }

    /// Sends an archive as Go's client does; how it ends.
    pub async fn import(&mut self, archive: Vec<u8>, store: types::ImageStore) -> Result<(), Status> {
        self.import_as(archive, store, types::ImageImportStream::default()).await.1
    }

    pub async fn import_as(
        &mut self,
        archive: Vec<u8>,
        store: types::ImageStore,
        mut import: types::ImageImportStream,
    ) -> (Vec<types::Progress>, Result<(), Status>) {
        let id = format!("import-{}", rand::random::<u64>());
        let stream = match self.stream(&id).await {
            Ok(stream) => stream,
            Err(status) => return (Vec::new(), Err(status)),
        };
        tokio::spawn(send(stream, archive));
        import.stream = id;
        self.run(pack("ImageImportStream", &import), pack("ImageStore", &store)).await
    }

    pub async fn export(
        &mut self,
        names: &[&str],
        mut export: types::ImageExportStream,
    ) -> Result<Vec<u8>, Status> {
        let id = format!("export-{}", rand::random::<u64>());
        let stream = self.stream(&id).await?;
        let receiving = tokio::spawn(receive(stream));
        export.stream = id;
        let extra = |name: &&str| types::ImageReference { name: (*name).into(), ..Default::default() };
        let from =
            types::ImageStore { extra_references: names.iter().map(extra).collect(), ..Default::default() };
        let (_, result) = self.run(pack("ImageStore", &from), pack("ImageExportStream", &export)).await;
        let bytes = receiving.await.expect("the archive");
        result.map(|()| bytes)
    }

    pub async fn image_names(&mut self) -> Vec<String> {
        let list = self.images.list(images::ListImagesRequest::default()).await.expect("a list");
        list.into_inner().images.into_iter().map(|image| image.name).collect()
    }

    pub async fn image(&mut self, name: &str) -> Option<images::Image> {
        let answer = self.images.get(images::GetImageRequest { name: name.into() }).await.ok()?;
        answer.into_inner().image
    }

    /// Digests and labels of all blobs.
    pub async fn blobs(&mut self) -> Vec<content::Info> {
        let mut stream =
            self.content.list(content::ListContentRequest::default()).await.expect("a list").into_inner();
        let mut all = Vec::new();
        while let Some(Ok(answer)) = stream.next().await {
            all.extend(answer.info);
        }
        all
    }

    /// Leases and ingests that are left.
    pub async fn left_over(&mut self) -> (usize, usize) {
        let leases = self.leases.list(leases::ListRequest::default()).await.expect("leases");
        let ingests =
            self.content.list_statuses(content::ListStatusesRequest::default()).await.expect("ingests");
        (leases.into_inner().leases.len(), ingests.into_inner().statuses.len())
    }

    /// Deletes all images and waits until nothing is left of them.
    pub async fn delete_images(&mut self) {
        for name in self.image_names().await {
            let request = images::DeleteImageRequest { name, sync: true, target: None };
            match self.images.delete(request).await {
                Ok(_) => {}
                // It went with another one.
                Err(status) if status.code() == tonic::Code::NotFound => {}
                Err(status) => panic!("deleting an image: {status}"),
            }
        }
    }
}

/// Adds a lease to a request.
pub fn leased<T>(message: T, lease: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-lease", lease.parse().expect("a lease's id"));
    request
}

/// Sends as the window allows, then closes.
pub async fn send(mut stream: Stream, bytes: Vec<u8>) {
    let (mut at, mut allowed) = (0usize, 0i64);
    while at < bytes.len() {
        while allowed <= 0 {
            let Some(Ok(any)) = stream.from_daemon.next().await else { return };
            let update = types::WindowUpdate::decode(any.value.as_slice()).expect("a window");
            allowed += i64::from(update.update);
        }
        let count = (bytes.len() - at).min(32 * 1024).min(allowed as usize);
        let data = types::Data { data: bytes[at..at + count].to_vec() };
        if stream.to_daemon.send(pack("Data", &data)).await.is_err() {
            return;
        }
        at += count;
        allowed -= count as i64;
    }
    drop(stream.to_daemon);
    while let Some(Ok(_)) = stream.from_daemon.next().await {}
}

/// Receives until the daemon closes.
pub async fn receive(mut stream: Stream) -> Vec<u8> {
    let (mut window, mut bytes) = (0i64, Vec::new());
    loop {
        if window < WINDOW {
            let update = types::WindowUpdate { update: WINDOW as i32 };
            if stream.to_daemon.send(pack("WindowUpdate", &update)).await.is_ok() {
                window += WINDOW;
            }
        }
        let Some(Ok(any)) = stream.from_daemon.next().await else { return bytes };
        let data = types::Data::decode(any.value.as_slice()).expect("data").data;
        window -= data.len() as i64;
        assert!(window >= 0, "the daemon keeps to the window");
        bytes.extend_from_slice(&data);
    }
}
