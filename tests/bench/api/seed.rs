//! The same records for every daemon, made through the API.

use anyhow::{Context, Result};
use longshore_proto::containerd::services as wire;
use longshore_proto::containerd::types::Descriptor;
use prost_types::Any;
use serde_json::{Value, json};
use sha2::Digest;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::Target;

pub const NAMESPACE: &str = "bench-api";
pub const CONTAINERS: usize = 100;
pub const IMAGES: usize = 50;
pub const BLOBS: usize = 500;

type Api = InterceptedService<Channel, fn(Request<()>) -> Result<Request<()>, Status>>;

fn in_namespace(mut request: Request<()>) -> Result<Request<()>, Status> {
    request.metadata_mut().insert("containerd-namespace", AsciiMetadataValue::from_static(NAMESPACE));
    Ok(request)
}

pub fn container(number: usize) -> String {
    format!("container-{number:04}")
}

fn blob(number: usize) -> Vec<u8> {
    format!("blob {number}").into_bytes()
}

pub fn digest(number: usize) -> String {
    let hash = sha2::Sha256::digest(blob(number));
    format!("sha256:{}", hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// A specification of the size that clients make: about 4 KiB.
fn spec() -> Result<Any> {
    let capabilities: Vec<String> = (0..14).map(|number| format!("CAP_NUMBER_{number}")).collect();
    let environment: Vec<String> =
        (0..10).map(|number| format!("VARIABLE_{number}=/usr/local/value/{number}")).collect();
    let mount = |number: usize| {
        json!({ "destination": format!("/sys/fs/mount/{number}"), "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "noexec", "nodev", "ro", "size=65536k"] })
    };
    let mounts: Vec<Value> = (0..12).map(mount).collect();
    let paths: Vec<String> = (0..12).map(|number| format!("/proc/masked/path/{number}")).collect();
    let spec = json!({
        "ociVersion": "1.1.0",
        "process": {
            "user": { "uid": 0, "gid": 0 }, "args": ["/bin/sh", "-c", "exec \"$@\""], "env": environment, "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }], "noNewPrivileges": true
        },
        "root": { "path": "rootfs" }, "mounts": mounts,
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] }, "cgroupsPath": "/bench/container",
            "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "network" }],
            "maskedPaths": paths, "readonlyPaths": paths
        }
    });
    let type_url = "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned();
    Ok(Any { type_url, value: serde_json::to_vec(&spec)? })
}

pub fn run(target: &Target) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let url = format!("unix://{}", target.socket.display());
        let channel = Endpoint::from_shared(url)?.connect().await?;
        let api: Api = InterceptedService::new(channel, in_namespace);
        containers(api.clone()).await.context("containers")?;
        images(api.clone()).await.context("images")?;
        blobs(api).await.context("content")
    })
}

async fn containers(api: Api) -> Result<()> {
    use wire::containers::v1::{Container, CreateContainerRequest, container::Runtime};
    let mut client = wire::containers::v1::containers_client::ContainersClient::new(api);
    for number in 0..CONTAINERS {
        let labels = (0..5).map(|label| (format!("io.example.label/{label}"), format!("value of {label}")));
        let container = Container {
            id: container(number),
            labels: labels.collect(),
            image: format!("docker.io/library/image:{number}"),
            runtime: Some(Runtime { name: "io.containerd.runc.v2".into(), options: None }),
            spec: Some(spec()?),
            ..Default::default()
        };
        client.create(CreateContainerRequest { container: Some(container) }).await?;
    }
    Ok(())
}

async fn images(api: Api) -> Result<()> {
    use wire::images::v1::{CreateImageRequest, Image};
    let mut client = wire::images::v1::images_client::ImagesClient::new(api);
    for number in 0..IMAGES {
        let target = Descriptor {
            media_type: "application/vnd.oci.image.index.v1+json".into(),
            digest: digest(number),
            size: 1000,
            ..Default::default()
        };
        let labels = [("containerd.io/distribution.source.docker.io".to_owned(), "library/image".to_owned())];
        let image = Image {
            name: format!("docker.io/library/image:{number:04}"),
            labels: labels.into(),
            target: Some(target),
            ..Default::default()
        };
        client.create(CreateImageRequest { image: Some(image), ..Default::default() }).await?;
    }
    Ok(())
}

async fn blobs(api: Api) -> Result<()> {
    use wire::content::v1::{WriteAction, WriteContentRequest};
    let mut client = wire::content::v1::content_client::ContentClient::new(api);
    for number in 0..BLOBS {
        let data = blob(number);
        let mut labels: std::collections::HashMap<_, _> = (0..4)
            .map(|label| (format!("containerd.io/gc.ref.content.l.{label}"), digest(number + label + 1)))
            .collect();
        labels.insert("containerd.io/gc.root".into(), "bench".into());
        let request = WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: format!("blob-{number}"),
            total: data.len() as i64,
            expected: digest(number),
            data,
            labels,
            ..Default::default()
        };
        let mut answers = client.write(tokio_stream::iter([request])).await?.into_inner();
        while answers.message().await?.is_some() {}
    }
    Ok(())
}
