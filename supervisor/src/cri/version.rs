use longshore_proto::runtime::v1 as wire;

use super::Cri;
use crate::error::Result;

/// The version of the interface's own versions.
const KUBE_VERSION: &str = "0.1.0";

impl Cri {
    pub(super) async fn do_version(&self, _request: wire::VersionRequest) -> Result<wire::VersionResponse> {
        Ok(wire::VersionResponse {
            version: KUBE_VERSION.to_owned(),
            runtime_name: "longshore".to_owned(),
            runtime_version: crate::api::VERSION.to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }
}
