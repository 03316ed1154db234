//! Ways from outside into a pod's network.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

use super::Pods;
use super::config::Sharing;
use super::namespaces::{Files, enter_network};
use crate::content::store::blocking;
use crate::error::{Error, Result};

/// How long a server within may take to answer.
const CONNECT: Duration = Duration::from_secs(10);

impl Pods {
    /// A pod in which something can be reached.
    pub fn ready_pod(&self, id: &str) -> Result<()> {
        let pod = self.pod(id)?;
        if pod.is_ready() {
            return Ok(());
        }
        Err(Error::precondition(format!("pod sandbox {}", pod.id), "it is not ready"))
    }

    /// Connects to a port at the pod's own localhost.
    pub async fn connect(&self, id: &str, port: u16) -> Result<TcpStream> {
        self.ready_pod(id)?;
        let pod = self.pod(id)?;
        let failed = |error: std::io::Error| {
            Error::unavailable(format!("port {port} of pod sandbox {}", pod.id), error.to_string())
        };
        let connect = move || {
            let first =
                std::net::TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), CONNECT);
            first.or_else(|error| {
                let other = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
                std::net::TcpStream::connect_timeout(&other, CONNECT).map_err(|_| error)
            })
        };
        let stream = if pod.read(|record| record.config.namespaces.network == Sharing::Node) {
            blocking(move || connect().map_err(|error| Error::io("connecting to", "the host", error))).await
        } else {
            let network = Files::of(&self.folder(&pod.id)).network();
            blocking(move || enter_network(network, connect)).await
        };
        let stream = stream.map_err(|error| match error {
            Error::Io { source, .. } => failed(source),
            other => other,
        })?;
        stream.set_nonblocking(true).map_err(failed)?;
        TcpStream::from_std(stream).map_err(failed)
    }
}
