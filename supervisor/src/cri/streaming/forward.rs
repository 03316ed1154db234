//! Port-forward: pairs of streams, one for a connection's data and one for what went wrong with it.
//!
//! What always holds: each pair is carried by itself; the end of either direction reaches the other side as an end, and what is on its
//! way arrives before it; when the connection to the client ends, all of its pairs do.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::activity::Activity;
use super::budget::Share;
use super::ends::{Inlet, Outlet};
use super::limits;
use super::spdy::{Connection, Stream};
use super::target::Target;
use super::websocket::Channels;

/// The name of the SPDY subprotocol.
pub const PROTOCOLS: &[&str] = &["portforward.k8s.io"];

/// Half of a pair waits for the other. It is accepted already: clients open the second stream when the first one is.
struct Half {
    port: u16,
    is_data: bool,
    inlet: Inlet,
    outlet: Outlet,
    until: Instant,
}

/// Carries the pairs that a client opens, until it is gone.
pub async fn streams(connection: &mut Connection, target: Arc<dyn Target>, pod: Arc<str>, share: Share) {
    let mut pairs = JoinSet::new();
    let mut halves: HashMap<String, Half> = HashMap::new();
    loop {
        let until = halves.values().map(|half| half.until).min();
        let stream = tokio::select! {
            stream = connection.next() => stream,
            Some(_) = pairs.join_next(), if !pairs.is_empty() => continue,
            () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                drop_late(&mut halves).await;
                continue;
            }
        };
        let Some(stream) = stream else { return };
        let Some(Named { request, port, is_data }) = named(&stream) else {
            stream.refuse().await;
            continue;
        };
        let refused = match halves.get(&request) {
            Some(first) => first.is_data == is_data,
            None => halves.len() >= limits::STREAMS,
        };
        if refused {
            stream.refuse().await;
            continue;
        }
        let other = halves.remove(&request);
        let Ok((inlet, outlet)) = stream.accept().await else { return };
        let half = Half { port, is_data, inlet, outlet, until: Instant::now() + limits::CREATION };
        let Some(first) = other else {
            halves.insert(request, half);
            continue;
        };
        let (data, error) = if is_data { (half, first) } else { (first, half) };
        let (target, pod, share) = (target.clone(), pod.clone(), share.clone());
        pairs.spawn(async move {
            let forward = Forward { target: &*target, pod: &pod, port: data.port, share: &share };
            forward.pair(data.inlet, &data.outlet, &error.outlet).await;
        });
    }
}

async fn drop_late(halves: &mut HashMap<String, Half>) {
    let now = Instant::now();
    let late: Vec<Half> = halves.extract_if(|_, half| half.until <= now).map(|(_, half)| half).collect();
    for half in late {
        if !half.is_data {
            let text = format!("forwarding port {}: its data stream did not come in time", half.port);
            let _ = half.outlet.send(text.into()).await;
        }
        half.outlet.finish().await;
    }
}

struct Named {
    request: String,
    port: u16,
    is_data: bool,
}

/// Which half of which pair a stream is. Old clients name no pair: they open the error stream, and then the data stream.
fn named(stream: &Stream) -> Option<Named> {
    let port = stream.headers.get("port").parse().ok().filter(|port| *port != 0)?;
    let is_data = match stream.headers.get("streamtype") {
        "data" => true,
        "error" => false,
        _ => return None,
    };
    let request = match stream.headers.get("requestid") {
        "" if is_data => stream.id.saturating_sub(2).to_string(),
        "" => stream.id.to_string(),
        named => named.to_owned(),
    };
    Some(Named { request, port, is_data })
}

/// Which of a WebSocket's channels the client writes to: data and error of each port.
pub fn reads(ports: &[u16]) -> Vec<bool> {
    ports.iter().flat_map(|_| [true, false]).collect()
}

/// Carries the ports of a WebSocket until all of them have ended. Each channel begins with its port, least byte first.
pub async fn channels(
    channels: &mut Channels,
    target: Arc<dyn Target>,
    pod: Arc<str>,
    ports: &[u16],
    share: Share,
) {
    let mut pairs = JoinSet::new();
    for (number, port) in (0u8..).step_by(2).zip(ports.iter().copied()) {
        let (inlet, outlet) = channels.take(number);
        let (_, error) = channels.take(number + 1);
        let (target, pod, share) = (target.clone(), pod.clone(), share.clone());
        pairs.spawn(async move {
            let Some(inlet) = inlet else { return };
            let name = Bytes::copy_from_slice(&port.to_le_bytes());
            for out in [&outlet, &error] {
                if out.send(name.clone()).await.is_err() {
                    return;
                }
            }
            let forward = Forward { target: &*target, pod: &pod, port, share: &share };
            forward.pair(inlet, &outlet, &error).await;
        });
    }
    let gone = channels.gone();
    let all = async { while pairs.join_next().await.is_some() {} };
    tokio::select! {
        () = all => {}
        () = gone.cancelled() => {}
    }
}

/// One connection to a port.
struct Forward<'a> {
    target: &'a dyn Target,
    pod: &'a str,
    port: u16,
    /// Room for what comes from the pod.
    share: &'a Share,
}

impl Forward<'_> {
    /// From beginning to end.
    async fn pair(self, inlet: Inlet, outlet: &Outlet, error: &Outlet) {
        let Self { target, pod, port, share } = self;
        let connected = tokio::select! {
            connected = target.connect(pod, port) => connected,
            () = outlet.dropped() => return,
        };
        let ended = match connected {
            Ok(socket) => carry(socket, inlet, outlet, share).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.for_people()),
        };
        if let Err(why) = ended {
            tracing::debug!(pod, port, why, "forwarding a port");
            let text = format!("error forwarding port {port} to pod {pod}: {why}");
            let _ = error.send(text.into()).await;
        }
        outlet.finish().await;
        error.finish().await;
    }
}

async fn carry(socket: TcpStream, inlet: Inlet, outlet: &Outlet, share: &Share) -> std::io::Result<()> {
    let _ = socket.set_nodelay(true);
    let (read, write) = socket.into_split();
    // Of the client's direction.
    let activity = Activity::new(match outlet {
        Outlet::Stream(_) => limits::HALF_CLOSED,
        Outlet::Channel(_) => limits::HALF_CLOSED_CHANNEL,
    });
    let (inwards, outwards) = (send_all(inlet, write, &activity), receive_all(read, outlet, share));
    tokio::pin!(inwards, outwards);
    tokio::select! {
        () = outlet.dropped() => Ok(()),
        () = &mut inwards => {
            // The client's direction has ended: the pod may answer for as long as it likes.
            tokio::select! {
                () = outlet.dropped() => Ok(()),
                received = &mut outwards => received,
            }
        }
        received = &mut outwards => {
            outlet.finish().await;
            // The client hears of the end, and most end their own direction at once; one that still sends something may go on.
            activity.tick();
            tokio::select! {
                () = outlet.dropped() => {}
                () = &mut inwards => {}
                () = activity.idle() => {}
            }
            received
        }
    }
}

/// From the client to the pod.
async fn send_all(mut inlet: Inlet, mut write: OwnedWriteHalf, activity: &Activity) {
    while let Some(bytes) = inlet.next().await {
        activity.tick();
        if write.write_all(&bytes).await.is_err() {
            // The pod takes no more; what it said before is still to be read.
            while inlet.next().await.is_some() {}
            return;
        }
        activity.tick();
    }
    let _ = write.shutdown().await;
}

/// From the pod to the client. What the client does not take counts against what all connections have.
async fn receive_all(read: OwnedReadHalf, outlet: &Outlet, share: &Share) -> std::io::Result<()> {
    loop {
        read.readable().await?;
        let _held = share.take(limits::PIECE).await;
        let mut piece = BytesMut::with_capacity(limits::PIECE);
        match read.try_read_buf(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        if outlet.send(piece.freeze()).await.is_err() {
            return Ok(());
        }
    }
}
