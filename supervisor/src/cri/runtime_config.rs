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

    /// The range of a node's pods is the business of its network's plugins, or of `[network]` in the configuration.
    pub(super) async fn do_update_runtime_config(
        &self,
        request: wire::UpdateRuntimeConfigRequest,
    ) -> Result<wire::UpdateRuntimeConfigResponse> {
        let network = request.runtime_config.and_then(|config| config.network_config);
        if let Some(network) = network.filter(|network| !network.pod_cidr.is_empty()) {
            tracing::info!(
                "the node's pods are to be in {}; the network's own configuration decides",
                network.pod_cidr
            );
        }
        Ok(wire::UpdateRuntimeConfigResponse {})
    }
}
