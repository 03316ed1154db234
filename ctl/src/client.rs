//! One HTTP/2 connection to the daemon's Unix socket, opened when the first request needs it. Requests share
//! it; there is no pool and no reconnecting: a command lives as long as its connection.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{self, Poll};

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use longshore_proto::longshore::engine::v1::containers_client::ContainersClient;
use longshore_proto::longshore::engine::v1::images_client::ImagesClient;
use longshore_proto::longshore::engine::v1::system_client::SystemClient;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;
use tonic::body::Body;

use crate::failure::Failure;

/// Where the daemon listens unless `-H` or LONGSHORE_HOST say otherwise.
pub const DEFAULT_HOST: &str = "unix:///run/longshore/longshore.sock";
/// Bytes of output under way on one stream before the daemon has to wait for us.
const STREAM_WINDOW: u32 = 1 << 20;
/// The longest message taken; a list of ten thousand containers is a tenth of it.
const MAX_MESSAGE: usize = 64 << 20;
/// The longest path that a socket address holds.
const MAX_SOCKET_PATH: usize = 107;

/// Everything a verb needs from outside.
pub struct Context {
    address: PathBuf,
    channel: OnceCell<Channel>,
}

impl Context {
    /// `host` is `unix://PATH` or an absolute path.
    pub fn new(host: &str) -> Result<Context, Failure> {
        let path = host.strip_prefix("unix://").unwrap_or(host);
        if !path.starts_with('/') {
            return Err(Failure::usage(format!(
                "invalid host '{host}': a Unix socket is expected, as in {DEFAULT_HOST}"
            )));
        }
        Ok(Context { address: PathBuf::from(path), channel: OnceCell::new() })
    }

    pub fn address(&self) -> &Path {
        &self.address
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

    pub async fn system(&self) -> Result<SystemClient<Channel>, Failure> {
        Ok(SystemClient::with_origin(self.channel().await?, Uri::from_static("http://localhost")))
    }

    async fn channel(&self) -> Result<Channel, Failure> {
        self.channel.get_or_try_init(|| Channel::open(&self.address)).await.cloned()
    }
}

/// A share of the connection.
#[derive(Clone)]
pub struct Channel {
    requests: http2::SendRequest<Body>,
}

impl Channel {
    async fn open(address: &Path) -> Result<Channel, Failure> {
        let unreachable = |source| Failure::Unreachable { address: address.to_owned(), source };
        let stream = connect(address).await.map_err(unreachable)?;
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(4 * STREAM_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(io::Error::other(error)))?;
        // Its end shows as an error of the requests that are under way.
        tokio::spawn(async { drop(connection.await) });
        Ok(Channel { requests })
    }
}

/// Connects also where the path is too long for a socket address: by way of its folder's descriptor.
async fn connect(address: &Path) -> io::Result<UnixStream> {
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
