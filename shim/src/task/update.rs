//! `Update`: changes the container's limits.

use longshore_proto::containerd::task::v3::UpdateTaskRequest;
use oci_spec::runtime::LinuxResources;

use crate::error::{Error, Result};
use crate::server::Shim;

impl Shim {
    pub fn update(&mut self, request: UpdateTaskRequest) -> Result<()> {
        let driver = self.driver(&request.id)?;
        let json = request.resources.as_ref().map(|any| any.value.as_slice()).unwrap_or_default();
        let resources: LinuxResources = serde_json::from_slice(json)
            .map_err(|source| Error::Json { what: "read the resources of an update", source })?;
        driver.update(&resources)
    }
}
