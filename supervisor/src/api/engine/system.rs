//! The System service.

use std::sync::Arc;

use jiff::Timestamp;
use longshore_proto::longshore::engine::v1 as wire;
use longshore_proto::longshore::engine::v1::system_server::System;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::{Answer, STREAM_BUFFER, Stream, convert, status};
use crate::engine::history::Event;
use crate::engine::usage::Objects;
use crate::engine::{Engine, RUNTIME, system};

/// Version of the engine's API.
const API_VERSION: &str = "1.0";

/// The service.
#[derive(Clone)]
pub struct SystemService {
    engine: Arc<Engine>,
}

impl SystemService {
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

/// The architecture by the name that images use.
fn arch() -> String {
    crate::images::platform::Platform::host().architecture
}

#[tonic::async_trait]
impl System for SystemService {
    type EventsStream = Stream<wire::Event>;

    async fn version(&self, _: Request<wire::VersionRequest>) -> Answer<wire::VersionResponse> {
        Ok(Response::new(wire::VersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: option_env!("LONGSHORE_REVISION").unwrap_or_default().to_owned(),
            rust_version: env!("CARGO_PKG_RUST_VERSION").to_owned(),
            os: "linux".to_owned(),
            arch: arch(),
            kernel: system::kernel(),
            api_version: API_VERSION.to_owned(),
        }))
    }

    async fn info(&self, _: Request<wire::InfoRequest>) -> Answer<wire::InfoResponse> {
        let info = self.engine.info().await.map_err(status)?;
        Ok(Response::new(wire::InfoResponse {
            containers: info.containers,
            running: info.running,
            paused: info.paused,
            stopped: info.stopped,
            images: info.images,
            snapshotter: info.snapshotter,
            cgroups: info.cgroups.to_owned(),
            cgroup_driver: "cgroupfs".to_owned(),
            kernel: info.kernel,
            operating_system: info.operating_system,
            arch: arch(),
            cpus: info.cpus,
            memory_bytes: info.memory_bytes,
            name: info.name,
            root: info.root,
            state: info.state,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            insecure_registries: info.insecure_registries,
            warnings: info.warnings,
            runtimes: info.runtimes,
            id: info.id,
            os_version: info.os_version,
            logging_driver: info.logging_driver.to_owned(),
            log_drivers: info.log_drivers,
            default_runtime: RUNTIME.to_owned(),
            security_options: info.security_options,
            driver_status: info
                .driver_status
                .into_iter()
                .map(|(name, value)| wire::Pair { name: name.to_owned(), value })
                .collect(),
            mirrors: info.mirrors,
            ipv4_forwarding: info.ipv4_forwarding,
            swap_limit: info.swap_limit,
            system_time: Some(convert::timestamp(Timestamp::now())),
        }))
    }

    async fn disk_usage(&self, request: Request<wire::DiskUsageRequest>) -> Answer<wire::DiskUsageResponse> {
        let objects = if request.into_inner().objects { Objects::Shown } else { Objects::Left };
        let usage = self.engine.disk_usage(objects).await.map_err(status)?;
        let images = usage.images.into_iter().map(|image| wire::ImageUsage {
            summary: Some(super::images::summary(image.summary)),
            shared_size: bytes(image.shared),
        });
        let objects = usage.objects.into_iter().map(|object| wire::StoredObject {
            kind: object.kind.to_owned(),
            name: object.name,
            size: bytes(object.size),
            kept_by: object.kept_by,
        });
        Ok(Response::new(wire::DiskUsageResponse {
            images: images.collect(),
            layers_size: bytes(usage.layers),
            containers: usage.containers.into_iter().map(convert::summary).collect(),
            objects: objects.collect(),
            objects_left_out: usage.left_out,
        }))
    }

    async fn events(&self, request: Request<wire::EventsRequest>) -> Answer<Self::EventsStream> {
        let request = request.into_inner();
        let since = convert::from_timestamp(request.since)?;
        let until = convert::from_timestamp(request.until)?;
        let mut listener = self.engine.listen(since, &request.filters).map_err(status)?;
        let (out, receiver) = mpsc::channel(STREAM_BUFFER);
        tokio::spawn(async move {
            for past in std::mem::take(&mut listener.past) {
                if until.is_some_and(|until| past.time > until) || out.send(Ok(event(past))).await.is_err() {
                    return;
                }
            }
            let end = async {
                match until {
                    Some(until) => {
                        let left = until.duration_since(Timestamp::now());
                        tokio::time::sleep(left.try_into().unwrap_or_default()).await;
                    }
                    None => std::future::pending().await,
                }
            };
            let go_on = async {
                loop {
                    let next = listener.next().await;
                    let over = next.is_err();
                    let sent = out.send(next.map(event).map_err(status)).await;
                    if over || sent.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = end => {}
                () = go_on => {}
                () = out.closed() => {}
            }
        });
        Ok::<_, Status>(Response::new(Stream::new(receiver)))
    }
}

fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn event(event: Arc<Event>) -> wire::Event {
    let event = Arc::unwrap_or_clone(event);
    wire::Event {
        time: Some(convert::timestamp(event.time)),
        r#type: event.subject.as_str().to_owned(),
        action: event.action.into_owned(),
        actor: event.actor,
        attributes: event.attributes.into_iter().collect(),
    }
}
