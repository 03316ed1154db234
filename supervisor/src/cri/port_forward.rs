use longshore_proto::runtime::v1 as wire;

use super::Cri;
use super::streaming::PortForward;
use crate::error::{Error, Result};

impl Cri {
    pub(super) async fn do_port_forward(
        &self,
        request: wire::PortForwardRequest,
    ) -> Result<wire::PortForwardResponse> {
        self.pods.ready_pod(&request.pod_sandbox_id)?;
        let pod = self.pods.pod(&request.pod_sandbox_id)?.id.clone();
        let port = |port: &i32| u16::try_from(*port).ok().filter(|port| *port != 0);
        let ports = request.port.iter().map(port).collect::<Option<Vec<_>>>();
        let ports = ports.ok_or_else(|| Error::invalid("port", "must be 1 to 65535"))?;
        let url = self.streaming.port_forward(PortForward { pod, ports })?;
        Ok(wire::PortForwardResponse { url })
    }
}
