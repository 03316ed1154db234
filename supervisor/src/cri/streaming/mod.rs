//! The streaming server of the CRI: exec, attach and port-forward, as kubelets, crictl and kubectl carry them.
//!
//! What always holds: everything of a client is bounded and ends with its connection; what clients send can end their own connection and
//! no other; the containers themselves are somebody else's (see [`Target`]).

#![forbid(unsafe_code)]

mod activity;
mod budget;
mod doors;
mod ends;
mod forward;
mod limits;
mod probe;
mod remote;
mod serve;
mod session;
mod size;
mod spdy;
mod status;
mod target;
#[cfg(test)]
mod tests;
mod tokens;
mod websocket;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use target::{Attach, Exec, PortForward, Process, Size, StdinEnd, Target};

use crate::config::Cri;
use crate::error::{Error, Result};
use budget::Budget;
use doors::Doors;
use tokens::{Granted, Tokens};

/// Until a connection is tried again that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// How long sessions may take to end with the daemon.
const STOP: Duration = Duration::from_secs(2);
/// Longest list of arguments of an exec in bytes, as the kernel takes.
const MAX_ARGS: usize = 2 * 1024 * 1024;

struct Shared {
    tokens: Tokens,
    doors: Doors,
    /// Of those that have shown a token.
    places: Arc<Semaphore>,
    budget: Budget,
    target: Arc<dyn Target>,
    idle: Duration,
    stop: CancellationToken,
    sessions: TaskTracker,
}

/// The server.
pub struct Streaming {
    shared: Arc<Shared>,
    /// What URLs begin with.
    base: String,
}

impl Streaming {
    /// Binds the configured address and serves it.
    pub fn open(config: &Cri, target: Arc<dyn Target>) -> Result<Arc<Self>> {
        let asked = SocketAddr::new(config.stream_address, config.stream_port);
        let failed =
            |source| Error::network("binding cri.stream_address, cri.stream_port", asked.to_string(), source);
        let listener = std::net::TcpListener::bind(asked).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let shared = Arc::new(Shared {
            tokens: Tokens::default(),
            doors: Doors::default(),
            places: Arc::new(Semaphore::new(config.stream_max_connections)),
            budget: Budget::default(),
            target,
            idle: Duration::from_secs(config.stream_idle_seconds),
            stop: CancellationToken::new(),
            sessions: TaskTracker::new(),
        });
        tokio::spawn(accept(shared.clone(), listener));
        Ok(Arc::new(Self { shared, base: format!("http://{}", reachable(bound)) }))
    }

    /// A URL to run a process at.
    pub fn exec(&self, exec: Exec) -> Result<String> {
        check("exec", &exec.container, &[exec.stdin, exec.stdout, exec.stderr], exec.tty)?;
        if exec.args.is_empty() {
            return Err(Error::invalid("exec", "cmd is empty"));
        }
        if exec.args.iter().map(|arg| arg.len() + 1).sum::<usize>() > MAX_ARGS {
            return Err(Error::invalid("exec", format!("cmd is longer than {MAX_ARGS} bytes")));
        }
        self.grant(Granted::Exec(exec))
    }

    /// A URL to join a container's first process at.
    pub fn attach(&self, attach: Attach) -> Result<String> {
        check("attach", &attach.container, &[attach.stdin, attach.stdout, attach.stderr], attach.tty)?;
        self.grant(Granted::Attach(attach))
    }

    /// A URL to forward ports of a pod at.
    pub fn port_forward(&self, forward: PortForward) -> Result<String> {
        if forward.pod.is_empty() {
            return Err(Error::invalid("port-forward", "pod_sandbox_id is missing"));
        }
        self.grant(Granted::PortForward(forward))
    }

    fn grant(&self, what: Granted) -> Result<String> {
        let verb = what.verb();
        Ok(format!("{}/{verb}/{}", self.base, self.shared.tokens.grant(what)?))
    }

    /// Ends all sessions. Processes of execs stay, as they do when a client goes.
    pub async fn shutdown(&self) {
        self.shared.stop.cancel();
        self.shared.sessions.close();
        let _ = tokio::time::timeout(STOP, self.shared.sessions.wait()).await;
    }
}

fn check(verb: &str, container: &str, streams: &[bool; 3], tty: bool) -> Result<()> {
    let why = match streams {
        _ if container.is_empty() => "container_id is missing",
        [_, _, true] if tty => "tty and stderr cannot both be set: a terminal has one output",
        [false, false, false] => "one of stdin, stdout and stderr must be set",
        _ => return Ok(()),
    };
    Err(Error::invalid(verb, why))
}

/// Where clients on this host find a server that is bound to every address.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let serve = async {
        loop {
            match listener.accept().await {
                Ok((socket, _)) => {
                    prepare(&socket);
                    let stranger = shared.doors.enter();
                    shared.sessions.spawn(serve::connection(shared.clone(), socket, stranger));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a streaming connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = serve => {}
        () = shared.stop.cancelled() => {}
    }
}

/// Whatever bytes as what clients send, for fuzzers: must end, without a panic.
pub fn fuzz(bytes: &[u8]) {
    let _ = spdy::frame::parse_all(bytes);
    for codec in [websocket::Codec::Binary, websocket::Codec::Base64] {
        let _ = codec.decode(bytes.to_vec().into(), true);
    }
    size::parse(bytes);
}

/// Keystrokes go out at once. A peer whose host has vanished is noticed within minutes: by being asked, or, when it owes answers, by the
/// kernel's own bound of retransmissions. No shorter one is set for that case (TCP_USER_TIMEOUT): a client that is there and does not read
/// for a while, such as a pager's, would meet it, too.
fn prepare(socket: &TcpStream) {
    use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepidle, set_tcp_keepintvl};
    let _ = socket.set_nodelay(true);
    let interval = Duration::from_secs(15);
    let _ = set_socket_keepalive(socket, true);
    let _ = set_tcp_keepidle(socket, interval);
    let _ = set_tcp_keepintvl(socket, interval);
}
