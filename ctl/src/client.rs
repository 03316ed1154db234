//! One HTTP/2 connection to the daemon, by its Unix socket or through `ssh`, opened when the first request needs it.
//! Requests share it; there is no pool. A verb that outlives the connection, as `logs -f` does, asks again and gets a new one.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::task::{self, Poll};

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use longshore_proto::longshore::engine::v1::containers_client::ContainersClient;
use longshore_proto::longshore::engine::v1::images_client::ImagesClient;
use longshore_proto::longshore::engine::v1::networks_client::NetworksClient;
use longshore_proto::longshore::engine::v1::system_client::SystemClient;
use longshore_proto::longshore::engine::v1::volumes_client::VolumesClient;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tonic::body::Body;

use crate::contexts::{Choice, Store};
use crate::endpoint::{Endpoint, Remote};
use crate::failure::Failure;
use crate::output::print;

/// Bytes of output under way on one stream before the daemon has to wait for us.
const STREAM_WINDOW: u32 = 1 << 20;
/// The longest message taken; a list of ten thousand containers is a tenth of it.
const MAX_MESSAGE: usize = 64 << 20;
/// The longest path that a socket address holds.
const MAX_SOCKET_PATH: usize = 107;

/// Seconds that `ssh` tries to reach a host.
const SSH_PATIENCE: u32 = 30;

/// Everything a verb needs from outside.
pub struct Context {
    store: Store,
    choice: Choice,
    channel: Mutex<Option<Channel>>,
}

impl Context {
    /// Which daemon it is comes out when one is needed: a verb on contexts works also where none can be told.
    pub fn new(store: Store, choice: Choice) -> Context {
        Context { store, choice, channel: Mutex::default() }
    }

    /// Where named contexts are kept.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What of the command line chooses the daemon.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// The name of the context that chose the daemon; none if `-H` did.
    pub fn name(&self) -> Result<Option<String>, Failure> {
        Ok(self.store.resolve(&self.choice)?.context)
    }

    /// Where the daemon is.
    pub fn endpoint(&self) -> Result<Endpoint, Failure> {
        Ok(self.store.resolve(&self.choice)?.endpoint)
    }

    pub async fn containers(&self) -> Result<ContainersClient<Channel>, Failure> {
        let client =
            ContainersClient::with_origin(self.channel().await?, Uri::from_static("http://localhost"));
        Ok(client.max_decoding_message_size(MAX_MESSAGE))
    }

    pub async fn images(&self) -> Result<ImagesClient<Channel>, Failure> {
        let client = ImagesClient::with_origin(self.channel().await?, Uri::from_static("http://localhost"));
        Ok(client.max_decoding_message_size(MAX_MESSAGE))
    }

    pub async fn networks(&self) -> Result<NetworksClient<Channel>, Failure> {
        let client = NetworksClient::with_origin(self.channel().await?, Uri::from_static("http://localhost"));
        Ok(client.max_decoding_message_size(MAX_MESSAGE))
    }

    pub async fn system(&self) -> Result<SystemClient<Channel>, Failure> {
        let client = SystemClient::with_origin(self.channel().await?, Uri::from_static("http://localhost"));
        Ok(client.max_decoding_message_size(MAX_MESSAGE))
    }

    pub async fn volumes(&self) -> Result<VolumesClient<Channel>, Failure> {
        let client = VolumesClient::with_origin(self.channel().await?, Uri::from_static("http://localhost"));
        Ok(client.max_decoding_message_size(MAX_MESSAGE))
    }

    async fn channel(&self) -> Result<Channel, Failure> {
        let mut held = self.channel.lock().await;
        if let Some(channel) = held.as_ref().filter(|channel| !channel.requests.is_closed()) {
            return Ok(channel.clone());
        }
        let endpoint = self.endpoint()?;
        print::debug(|| format!("connecting to {endpoint}"));
        let channel = Channel::open(&endpoint).await?;
        *held = Some(channel.clone());
        Ok(channel)
    }
}

/// A share of the connection.
#[derive(Clone)]
pub struct Channel {
    requests: http2::SendRequest<Body>,
}

impl Channel {
    async fn open(endpoint: &Endpoint) -> Result<Channel, Failure> {
        let unreachable = |source| Failure::Unreachable { endpoint: endpoint.clone(), source };
        match endpoint {
            Endpoint::Socket(path) => {
                Channel::over(connect(path).await.map_err(unreachable)?).await.map_err(unreachable)
            }
            Endpoint::Ssh(remote) => Channel::over(ssh(remote, endpoint)?).await.map_err(unreachable),
        }
    }

    async fn over(stream: UnixStream) -> io::Result<Channel> {
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(4 * STREAM_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // Its end shows as an error of the requests that are under way.
        tokio::spawn(async { drop(connection.await) });
        Ok(Channel { requests })
    }
}

/// One end of a pair of sockets whose other end `ssh` has for its stdin and stdout, with the other host's
/// `longshore system dial-stdio` behind it. It ends when we do; what it has to say it says on our stderr.
fn ssh(remote: &Remote, endpoint: &Endpoint) -> Result<UnixStream, Failure> {
    let failed = |error: io::Error| {
        Failure::message(format!("starting ssh, by which {endpoint} is reached: {error}: is ssh installed?"))
    };
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    let mut command = Command::new("ssh");
    command.arg("-T").arg("-o").arg(format!("ConnectTimeout={SSH_PATIENCE}"));
    if let Some(port) = remote.port {
        command.arg("-p").arg(port.to_string());
    }
    command.args(["--", &remote.destination, "longshore"]);
    if let Some(socket) = &remote.socket {
        command.arg("-H").arg(format!("unix://{socket}"));
    }
    command.args(["system", "dial-stdio"]);
    let stdout = OwnedFd::from(theirs.try_clone().map_err(failed)?);
    command.stdin(OwnedFd::from(theirs)).stdout(stdout);
    command.spawn().map_err(failed)?;
    UnixStream::from_std(ours).map_err(failed)
}

/// Connects also where the path is too long for a socket address: by way of its folder's descriptor.
pub async fn connect(address: &Path) -> io::Result<UnixStream> {
    if address.as_os_str().len() <= MAX_SOCKET_PATH {
        return UnixStream::connect(address).await;
    }
    use rustix::fs::{Mode, OFlags, open};
    use std::os::fd::AsRawFd;
    let folder =
        open(address.parent().unwrap_or(Path::new("/")), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let name = address.file_name().unwrap_or(OsStr::new(""));
    UnixStream::connect(Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name)).await
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.requests.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.requests.send_request(request))
    }
}
