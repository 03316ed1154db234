//! The HTTP server: one request a connection, which a token names and which becomes a SPDY connection or a WebSocket.
//!
//! What always holds: nobody gets further than a 404 without a token, nor takes a place of those that have one; a connection has its place
//! among the bounded number until its session is over; a token is in no log.

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::doors::Stranger;
use super::probe::Probe;
use super::session::{self, Request as Session};
use super::tokens::Granted;
use super::websocket::handshake::{self, Accepted, Dialect, Subprotocol};
use super::{Shared, forward, limits, remote, spdy, websocket};

/// What SPDY is called in `Upgrade`.
const SPDY: &str = "SPDY/3.1";
static PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
static ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

type Answer = Response<Full<Bytes>>;

/// What a connection has for as long as it lasts.
struct Place {
    _permit: OwnedSemaphorePermit,
    probe: Option<Probe>,
}

/// Serves one connection, up to the session that it becomes.
pub async fn connection(shared: Arc<Shared>, socket: TcpStream, stranger: Stranger) {
    let shown_out = stranger.shown_out.clone();
    let probe = Probe::of(&socket);
    let entrance = std::sync::Mutex::new(Some(Entrance { stranger, probe }));
    let service = service_fn(|request| {
        let entrance = entrance.lock().ok().and_then(|mut entrance| entrance.take());
        let shared = &shared;
        async move { Ok::<_, Infallible>(answer(shared, entrance, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::REQUEST_TIME)
        .max_buf_size(limits::REQUEST)
        .max_headers(limits::REQUEST_HEADERS)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    let served = tokio::select! {
        served = timeout(2 * limits::HANDSHAKE, served) => served,
        () = shown_out.cancelled() => return,
        () = shared.stop.cancelled() => return,
    };
    if let Ok(Err(error)) = served {
        tracing::debug!(%error, "a streaming request");
    }
}

/// What a connection has before its request.
struct Entrance {
    stranger: Stranger,
    probe: Option<Probe>,
}

async fn answer(shared: &Arc<Shared>, entrance: Option<Entrance>, request: Request<Incoming>) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::POST) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET and POST are served here");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
        return answer;
    }
    let granted = match request.uri().path().trim_start_matches('/').split_once('/') {
        Some((verb, token)) => shared.tokens.redeem(verb, token),
        None => None,
    };
    let (Some(granted), Some(Entrance { stranger, probe })) = (granted, entrance) else {
        return text(
            StatusCode::NOT_FOUND,
            "no such streaming request: its URL can be used once, within a minute; ask the runtime for another",
        );
    };
    drop(stranger);
    let Ok(Ok(permit)) = timeout(limits::PLACE, shared.places.clone().acquire_owned()).await else {
        return text(
            StatusCode::SERVICE_UNAVAILABLE,
            "all places of streaming connections are taken (cri.stream_max_connections): try again later",
        );
    };
    let place = Place { _permit: permit, probe };
    if handshake::asks_for(request.headers(), "websocket") {
        websocket(shared, place, granted, request)
    } else if handshake::asks_for(request.headers(), SPDY) {
        spdy(shared, place, granted, request)
    } else {
        text(
            StatusCode::BAD_REQUEST,
            "an upgrade to SPDY/3.1 or to a WebSocket is needed: Connection and Upgrade do not ask for one",
        )
    }
}

fn text(status: StatusCode, message: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(message.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn switching(to: &'static str) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(to));
    answer
}

/// What a granted request becomes.
enum Work {
    Session(Session),
    Forward { pod: Arc<str>, ports: Vec<u16> },
}

impl From<Granted> for Work {
    fn from(granted: Granted) -> Self {
        match granted {
            Granted::Exec(exec) => Self::Session(Session::Exec(exec)),
            Granted::Attach(attach) => Self::Session(Session::Attach(attach)),
            Granted::PortForward(forward) => Self::Forward { pod: forward.pod.into(), ports: forward.ports },
        }
    }
}

fn spdy(shared: &Arc<Shared>, place: Place, granted: Granted, request: Request<Incoming>) -> Answer {
    let work = Work::from(granted);
    let known = match work {
        Work::Session(_) => remote::PROTOCOLS,
        Work::Forward { .. } => forward::PROTOCOLS,
    };
    let mut asked = handshake::words(request.headers(), &PROTOCOL_VERSION).peekable();
    if asked.peek().is_none() {
        return text(StatusCode::BAD_REQUEST, "X-Stream-Protocol-Version is missing");
    }
    let found = asked.find_map(|word| known.iter().find(|name| **name == word));
    drop(asked);
    let Some(protocol) = found else {
        let mut answer =
            text(StatusCode::FORBIDDEN, "no version of X-Stream-Protocol-Version is spoken here");
        for name in known {
            answer.headers_mut().append(&ACCEPTED_VERSIONS, HeaderValue::from_static(name));
        }
        return answer;
    };
    let mut answer = switching(SPDY);
    answer.headers_mut().insert(&PROTOCOL_VERSION, HeaderValue::from_static(protocol));
    upgrade(shared, place, request, move |shared, io, probe| async move {
        over_spdy(&shared, io, probe, work, protocol).await;
    });
    answer
}

fn websocket(shared: &Arc<Shared>, place: Place, granted: Granted, request: Request<Incoming>) -> Answer {
    let work = Work::from(granted);
    let known = match work {
        Work::Session(_) => handshake::REMOTE,
        Work::Forward { .. } => handshake::FORWARD,
    };
    let Accepted { accept, name, subprotocol } = match handshake::accept(request.headers(), known) {
        Ok(accepted) => accepted,
        Err(error) => {
            let mut answer = text(StatusCode::BAD_REQUEST, error.to_string());
            for (name, _) in known {
                answer.headers_mut().append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
            }
            return answer;
        }
    };
    if let (Work::Forward { ports, .. }, Subprotocol::Channels(_)) = (&work, subprotocol)
        && (ports.is_empty() || ports.len() > limits::PORTS)
    {
        let why = "a WebSocket forwards the 1 to 64 ports that its request to the runtime named; SPDY/3.1 names them later";
        return text(StatusCode::BAD_REQUEST, why);
    }
    let mut answer = switching("websocket");
    let Ok(accept) = HeaderValue::from_str(&accept) else {
        return text(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key cannot be answered");
    };
    answer.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(name) = name {
        answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    upgrade(shared, place, request, move |shared, io, probe| async move {
        match subprotocol {
            Subprotocol::Channels(dialect) => over_channels(&shared, io, probe, work, dialect).await,
            Subprotocol::Tunnel(protocol) => {
                let (inner, outer) = websocket::tunnel(io, shared.budget.share());
                tokio::join!(outer, over_spdy(&shared, inner, probe, work, protocol));
            }
        }
    });
    answer
}

type Io = TokioIo<Upgraded>;

/// Runs a session on the connection once it is upgraded, until its end or the daemon's.
fn upgrade<F, S>(shared: &Arc<Shared>, place: Place, request: Request<Incoming>, session: F)
where
    F: FnOnce(Arc<Shared>, Io, Option<Probe>) -> S + Send + 'static,
    S: Future<Output = ()> + Send,
{
    let upgraded = hyper::upgrade::on(request);
    let shared = shared.clone();
    let sessions = shared.sessions.clone();
    sessions.spawn(async move {
        let Place { _permit, probe } = place;
        let io = match timeout(limits::HANDSHAKE, upgraded).await {
            Ok(Ok(io)) => TokioIo::new(io),
            Ok(Err(error)) => return tracing::debug!(%error, "upgrading a streaming connection"),
            Err(_) => return,
        };
        let stop = shared.stop.clone();
        tokio::select! {
            () = session(shared, io, probe) => {}
            () = stop.cancelled() => {}
        }
    });
}

async fn over_spdy<T>(shared: &Shared, io: T, probe: Option<Probe>, work: Work, protocol: &str)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite,
{
    let (mut connection, driver) = spdy::open(io, probe, shared.budget.share(), shared.idle);
    let session = async move {
        match work {
            Work::Session(request) => {
                let version = remote::Version::of(protocol);
                if let Some(streams) = remote::gather(&mut connection, request.wanted(), version).await {
                    session::run(&*shared.target, &request, streams).await;
                }
            }
            Work::Forward { pod, .. } => {
                forward::streams(&mut connection, shared.target.clone(), pod, shared.budget.share()).await;
            }
        }
        connection.finish().await;
    };
    let (ended, ()) = tokio::join!(driver.run(), session);
    if let Err(end) = ended {
        tracing::debug!(%end, "a SPDY connection");
    }
}

async fn over_channels<T>(shared: &Shared, io: T, probe: Option<Probe>, work: Work, dialect: Dialect)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let reads = match &work {
        Work::Session(request) => remote::reads(request.wanted()).to_vec(),
        Work::Forward { ports, .. } => forward::reads(ports),
    };
    let (mut channels, driver) =
        websocket::open(io, probe, shared.budget.share(), dialect, &reads, shared.idle);
    let session = async move {
        match work {
            Work::Session(request) => {
                let form = if dialect.json { super::status::Form::Json } else { super::status::Form::Text };
                if let Some(streams) = remote::channels(&mut channels, request.wanted(), form).await {
                    session::run(&*shared.target, &request, streams).await;
                }
            }
            Work::Forward { pod, ports } => {
                let share = shared.budget.share();
                forward::channels(&mut channels, shared.target.clone(), pod, &ports, share).await;
            }
        }
        channels.finish().await;
    };
    let (ended, ()) = tokio::join!(driver.run(), session);
    if let Err(end) = ended {
        tracing::debug!(%end, "a streaming WebSocket");
    }
}
