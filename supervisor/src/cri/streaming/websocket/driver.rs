//! Drives a WebSocket: gives messages to the channels, sends what the channels say, until one side ends it.
//!
//! What always holds: neither direction waits for the other; when the driver returns, nothing of the connection is left.

#![forbid(unsafe_code)]

use std::time::Duration;

use bytes::Bytes;
use futures::future::FusedFuture;
use futures::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::channels::{Channels, Codec, Out, Said};
use super::handshake::Dialect;
use super::meter::{Meter, Metered};
use crate::cri::streaming::activity::Activity;
use crate::cri::streaming::budget::{Held, Piece, Share};
use crate::cri::streaming::ends::Inlet;
use crate::cri::streaming::limits;
use crate::cri::streaming::probe::Probe;

/// A WebSocket that was opened by [`super::handshake`].
pub async fn accepted<T>(io: T, meter: Meter) -> WebSocketStream<Metered<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(limits::PIECE)
        .max_write_buffer_size(4 * limits::PIECE)
        .max_message_size(Some(limits::MESSAGE))
        .max_frame_size(Some(limits::MESSAGE));
    WebSocketStream::from_raw_socket(Metered { io, meter }, Role::Server, Some(config)).await
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("the peer went away")]
    Gone,
    #[error("nothing was said for too long")]
    Idle,
    #[error("{0}")]
    WebSocket(#[from] Box<Error>),
}

/// Does a connection's I/O; see [`open`].
pub struct Driver<T> {
    io: T,
    probe: Option<Probe>,
    share: Share,
    activity: Activity,
    dialect: Dialect,
    senders: Vec<Option<mpsc::Sender<Piece>>>,
    orders: mpsc::Receiver<Out>,
    gone: CancellationToken,
    finished: CancellationToken,
}

/// The two ends of a WebSocket with as many channels as `reads` is long, of which the client may write to those that are set.
pub fn open<T>(
    io: T,
    probe: Option<Probe>,
    share: Share,
    dialect: Dialect,
    reads: &[bool],
    idle: Duration,
) -> (Channels, Driver<T>) {
    let (out, orders) = mpsc::channel(limits::OUT);
    let (mut senders, mut inlets) = (Vec::new(), Vec::new());
    for read in reads {
        let (sender, receiver) = mpsc::channel(limits::INLET);
        senders.push(read.then_some(sender));
        inlets.push(read.then(|| Inlet::new(receiver, None)));
    }
    let (gone, finished) = (CancellationToken::new(), CancellationToken::new());
    let channels = Channels { inlets, out, gone: gone.clone(), finished: finished.clone() };
    let activity = Activity::new(idle);
    (channels, Driver { io, probe, share, activity, dialect, senders, orders, gone, finished })
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    /// Ends when the client is gone, or when the session has finished and the client was told.
    pub async fn run(self) -> Result<(), End> {
        let Self { io, probe, share, activity, dialect, senders, orders, gone, finished } = self;
        let meter = Meter::new(share.clone());
        let (mut sink, stream) = accepted(io, meter.clone()).await.split();
        let end = {
            let reader = Reader { senders, dialect, probe, share, meter, activity: &activity };
            let reading = reader.read_all(stream).fuse();
            tokio::pin!(reading);
            let end = {
                let writing = write_all(&mut sink, orders, dialect.codec, &activity);
                tokio::pin!(writing);
                tokio::select! {
                    end = &mut reading => end,
                    end = &mut writing => end,
                    () = activity.idle() => End::Idle,
                    () = finished.cancelled() => End::Gone,
                }
            };
            gone.cancel();
            // Clients take the channels' content for complete when the connection closes in order.
            let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            let closed = timeout(limits::GOODBYE, sink.send(Message::Close(Some(close)))).await;
            if matches!(closed, Ok(Ok(()))) && !reading.is_terminated() {
                let _ = timeout(limits::LINGER, &mut reading).await;
            }
            end
        };
        if finished.is_cancelled() { Ok(()) } else { Err(end) }
    }
}

struct Reader<'a> {
    senders: Vec<Option<mpsc::Sender<Piece>>>,
    dialect: Dialect,
    probe: Option<Probe>,
    share: Share,
    meter: Meter,
    activity: &'a Activity,
}

impl Reader<'_> {
    async fn read_all(mut self, mut stream: impl Stream<Item = Result<Message, Error>> + Unpin) -> End {
        loop {
            let message = match stream.next().await {
                None | Some(Err(Error::ConnectionClosed)) => return End::Gone,
                Some(Err(error)) => return Box::new(error).into(),
                Some(Ok(message)) => message,
            };
            self.activity.tick();
            let content = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                Message::Ping(bytes) | Message::Pong(bytes) => {
                    self.meter.passed(bytes.len());
                    continue;
                }
                // The end of the stream follows once it is answered.
                Message::Close(_) | Message::Frame(_) => continue,
            };
            match self.dialect.codec.decode(content, self.dialect.ends) {
                Some(Said::Data(channel, bytes)) => {
                    let delivered = self.deliver(channel, bytes).await;
                    if !delivered {
                        return End::Gone;
                    }
                }
                Some(Said::End(channel)) => {
                    if let Some(sender) = self.senders.get_mut(usize::from(channel)) {
                        *sender = None;
                    }
                }
                None => {}
            }
            self.meter.taken();
        }
    }

    /// Waits for room in a channel. False: the client hung up meanwhile.
    async fn deliver(&self, channel: u8, mut bytes: Bytes) -> bool {
        let Some(Some(sender)) = self.senders.get(usize::from(channel)) else { return true };
        let is_short = bytes.len() <= limits::PIECE;
        while !bytes.is_empty() && !sender.is_closed() {
            let piece = bytes.split_to(bytes.len().min(limits::PIECE));
            let Some(held) = self.room(piece.len()).await else { return false };
            // Of its own, so that a piece that waits does not keep the whole message.
            let piece = if is_short { piece } else { Bytes::copy_from_slice(&piece) };
            if sender.send(Piece { bytes: piece, held }).await.is_err() {
                return true;
            }
        }
        true
    }

    /// Waits for room for so many bytes. `None`: the client hung up meanwhile.
    async fn room(&self, count: usize) -> Option<Held> {
        let take = self.share.take(count);
        tokio::pin!(take);
        loop {
            tokio::select! {
                biased;
                held = &mut take => return held,
                () = tokio::time::sleep(limits::PROBE) => {
                    if self.probe.as_ref().is_some_and(Probe::hung_up) {
                        return None;
                    }
                }
            }
        }
    }
}

async fn write_all(
    sink: &mut (impl Sink<Message, Error = Error> + Unpin),
    mut orders: mpsc::Receiver<Out>,
    codec: Codec,
    activity: &Activity,
) -> End {
    loop {
        let order = match orders.try_recv() {
            Ok(order) => order,
            Err(_) => {
                if let Err(error) = sink.flush().await {
                    return Box::new(error).into();
                }
                let Some(order) = orders.recv().await else { return End::Gone };
                order
            }
        };
        activity.tick();
        let done = match order {
            Out::Data { channel, bytes } => sink.feed(codec.encode(channel, &bytes)).await,
            Out::Flush(told) => sink.flush().await.map(|()| {
                let _ = told.send(());
            }),
        };
        if let Err(error) = done {
            return Box::new(error).into();
        }
    }
}
