//! Ways from outside into a pod's network.
//!
//! What always holds: only the socket is made within; nothing of the daemon's waits for a server in a pod but who asked for it, and what is
//! dropped ends.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Pods;
use super::config::Sharing;
use super::namespaces::{Files, enter_network};
use crate::content::store::blocking;
use crate::error::{Error, Result};

/// How long a server within may take to answer.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a server is tried at one address before the other one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// One for each kind of address, of the namespace in which they were made; none where the host has no IPv6.
struct Sockets {
    v4: TcpSocket,
    v6: Option<TcpSocket>,
}

impl Sockets {
    fn new() -> io::Result<Self> {
        Ok(Self { v4: TcpSocket::new_v4()?, v6: TcpSocket::new_v6().ok() })
    }

    /// Connects to a port of the loopback interface, by either address.
    async fn connect(self, port: u16) -> io::Result<TcpStream> {
        let refused = Notify::new();
        let first = async {
            let connected = self.v4.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
            refused.notify_one();
            connected
        };
        let Some(v6) = self.v6 else { return first.await };
        let second = async {
            let _ = timeout(HEAD_START, refused.notified()).await;
            v6.connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await
        };
        match select(pin!(first), pin!(second)).await {
            Either::Left((Ok(stream), _)) | Either::Right((Ok(stream), _)) => Ok(stream),
            Either::Left((Err(error), second)) => second.await.map_err(|_| error),
            Either::Right((Err(_), first)) => first.await,
        }
    }
}

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
        let failed = |error: io::Error| {
            Error::unavailable(format!("port {port} of pod sandbox {}", pod.id), error.to_string())
        };
        let sockets = if pod.read(|record| record.config.namespaces.network == Sharing::Node) {
            Sockets::new().map_err(failed)?
        } else {
            let network = Files::of(&self.folder(&pod.id)).network();
            blocking(move || enter_network(network, Sockets::new)).await?
        };
        let connected = timeout(CONNECT, sockets.connect(port)).await;
        connected.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_server_is_found_at_either_address() {
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = v4.local_addr().unwrap().port();
        assert!(Sockets::new().unwrap().connect(port).await.unwrap().peer_addr().unwrap().is_ipv4());
        drop(v4);
        assert!(Sockets::new().unwrap().connect(port).await.is_err());
        // Hosts without IPv6 have nothing more to show.
        if let Ok(v6) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await {
            let port = v6.local_addr().unwrap().port();
            assert!(Sockets::new().unwrap().connect(port).await.unwrap().peer_addr().unwrap().is_ipv6());
        }
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_at_one_address_is_found_at_the_other() {
        let Ok(v6) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await else { return };
        let port = v6.local_addr().unwrap().port();
        let Ok(full) = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else { return };
        nix::sys::socket::listen(&full, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        // Fills the queue, so that further ones are not answered.
        let _filling: Vec<_> = (0..4)
            .map(|_| {
                let socket = TcpSocket::new_v4().unwrap();
                tokio::spawn(socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let begun = std::time::Instant::now();
        let stream = Sockets::new().unwrap().connect(port).await.unwrap();
        assert!(stream.peer_addr().unwrap().is_ipv6() && begun.elapsed() >= HEAD_START);
    }
}
