//! The gRPC front: one file per service, each a thin translation between the wire and the daemon's own types.
//!
//! What always holds: wire types stop here; requests have passed the layers (namespace, limits, trace).

mod containers;
mod content;
pub mod convert;
mod diff;
mod encoded;
mod engine;
mod events;
pub mod forward;
mod images;
mod introspection;
pub mod layers;
mod leases;
mod mounts;
mod namespaces;
mod reflection;
mod routes;
mod sandboxes;
pub mod server;
mod snapshots;
mod streaming;
pub mod tasks;
mod transfer;
mod version;

use std::sync::Arc;

use longshore_proto::containerd::services as wire;
use longshore_proto::longshore::engine::v1 as daily;
use longshore_proto::runtime::v1 as kube;
use tonic::{Request, Status};

use crate::cri::Cri;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::namespaces::Namespace;
use crate::services::Services;
use routes::Routes;

pub use version::{REVISION, VERSION};

/// Entries that a streamed list sends in one message.
const LIST_BATCH: usize = 100;
/// Messages that wait for a client to read them, in a streamed answer.
const STREAM_BUFFER: usize = 4;

/// Sets the message limits of a generated server.
macro_rules! limited {
    ($server:expr, $services:expr) => {{
        let max = $services.config.grpc.max_message_bytes;
        $server.max_decoding_message_size(max).max_encoding_message_size(max)
    }};
}

/// Every service, on one socket.
pub async fn routes(services: &Services, engine: &Arc<Engine>, cri: Cri) -> Routes {
    let (s, e) = (|| services.clone(), || Arc::clone(engine));
    let (health, health_server) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let mut routes = Routes::default();
    routes
        .add(health_server)
        .add(reflection::Reflection::default())
        .add(wire::version::v1::version_server::VersionServer::new(version::Service))
        .add(wire::introspection::v1::introspection_server::IntrospectionServer::new(introspection::Service(
            s(),
        )))
        .add(limited!(
            wire::namespaces::v1::namespaces_server::NamespacesServer::new(namespaces::Service(s())),
            services
        ))
        .add(limited!(wire::content::v1::content_server::ContentServer::new(content::Service(s())), services))
        .add(limited!(wire::images::v1::images_server::ImagesServer::new(images::Service(s())), services))
        .add(limited!(
            wire::snapshots::v1::snapshots_server::SnapshotsServer::new(snapshots::Service(s())),
            services
        ))
        .add(limited!(wire::diff::v1::diff_server::DiffServer::new(diff::Service(s())), services))
        .add(limited!(wire::mounts::v1::mounts_server::MountsServer::new(mounts::Service(s())), services))
        .add(limited!(
            wire::containers::v1::containers_server::ContainersServer::new(containers::Service(s())),
            services
        ))
        .add(limited!(
            wire::sandbox::v1::controller_server::ControllerServer::new(sandboxes::Controller(s())),
            services
        ))
        .add(limited!(wire::sandbox::v1::store_server::StoreServer::new(sandboxes::Store(s())), services))
        .add(limited!(wire::leases::v1::leases_server::LeasesServer::new(leases::Service(s())), services))
        .add(events::Front::new(
            services,
            limited!(wire::events::v1::events_server::EventsServer::new(events::Service(s())), services),
        ))
        .add(limited!(
            wire::tasks::v1::tasks_server::TasksServer::new(tasks::TasksService::new(services)),
            services
        ))
        .add(limited!(
            wire::streaming::v1::streaming_server::StreamingServer::new(streaming::Service(s())),
            services
        ))
        .add(limited!(
            wire::transfer::v1::transfer_server::TransferServer::new(transfer::Service(s())),
            services
        ))
        .add(limited!(
            daily::containers_server::ContainersServer::new(engine::ContainersService::new(e())),
            services
        ))
        .add(limited!(
            daily::networks_server::NetworksServer::new(engine::NetworksService::new(e())),
            services
        ))
        .add(limited!(daily::images_server::ImagesServer::new(engine::ImagesService::new(e())), services))
        .add(limited!(daily::system_server::SystemServer::new(engine::SystemService::new(e())), services))
        .add(limited!(daily::volumes_server::VolumesServer::new(engine::VolumesService::new(e())), services));
    routes
        .add(limited!(kube::runtime_service_server::RuntimeServiceServer::new(cri.clone()), services))
        .add(limited!(kube::image_service_server::ImageServiceServer::new(cri), services));
    containers::encoded(&mut routes, services);
    content::encoded(&mut routes, services);
    images::encoded(&mut routes, services);
    routes
}

/// The request's namespace; FailedPrecondition if it named none.
pub fn namespace<T>(request: &Request<T>) -> Result<Namespace> {
    request.extensions().get::<Namespace>().cloned().ok_or_else(|| {
        Error::precondition("request", "names no namespace: the header containerd-namespace is required")
    })
}

/// The lease that holds what the request makes, if it named one.
pub fn lease<T>(request: &Request<T>) -> Result<Option<String>, Status> {
    match request.metadata().get("containerd-lease") {
        None => Ok(None),
        Some(value) => match value.to_str() {
            Ok("") => Ok(None),
            Ok(id) => Ok(Some(id.to_owned())),
            Err(_) => Err(Error::invalid("header containerd-lease", "is not ASCII").into()),
        },
    }
}

/// The field a request cannot do without.
pub fn required<T>(field: Option<T>, what: &'static str) -> Result<T, Status> {
    field.ok_or_else(|| Error::invalid(what, "is missing").into())
}
