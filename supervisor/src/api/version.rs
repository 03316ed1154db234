//! containerd.services.version.v1.

use longshore_proto::containerd::services::version::v1::{VersionResponse, version_server::Version};
use tonic::{Request, Response, Status};

pub struct Service;

/// The version that clients see. dockerd and nerdctl compare it with containerd's: the API is that of 2.x.
pub const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"), "-longshore");
/// The commit that was built, where the build knows it.
pub const REVISION: &str = match option_env!("LONGSHORE_REVISION") {
    Some(revision) => revision,
    None => "",
};

#[tonic::async_trait]
impl Version for Service {
    async fn version(&self, _: Request<()>) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse { version: VERSION.into(), revision: REVISION.into() }))
    }
}
