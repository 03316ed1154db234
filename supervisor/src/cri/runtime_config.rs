use longshore_proto::runtime::v1 as wire;

use super::Cri;
use crate::error::Result;

impl Cri {
    pub(super) async fn do_runtime_config(
        &self,
        _request: wire::RuntimeConfigRequest,
    ) -> Result<wire::RuntimeConfigResponse> {
        // As a kubelet would be set up: by systemd where that is what runs the host.
        let driver = if std::path::Path::new("/run/systemd/system").is_dir() {
            wire::CgroupDriver::Systemd
        } else {
            wire::CgroupDriver::Cgroupfs
        };
        let linux = wire::LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
        Ok(wire::RuntimeConfigResponse { linux: Some(linux) })
    }

    /// The subnets of a node's pods go to plugins that can be told them; the built-in network has those of its configuration.
    pub(super) async fn do_update_runtime_config(
        &self,
        request: wire::UpdateRuntimeConfigRequest,
    ) -> Result<wire::UpdateRuntimeConfigResponse> {
        let network = request.runtime_config.and_then(|config| config.network_config);
        if let Some(network) = network.filter(|network| !network.pod_cidr.is_empty()) {
            self.pods.set_pod_ranges(&network.pod_cidr).await?;
        }
        Ok(wire::UpdateRuntimeConfigResponse {})
    }
}
