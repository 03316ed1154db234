//! Drives a SPDY connection: reads frames and gives them to the streams, writes what the streams say, until one side ends it.
//!
//! What always holds: the reader waits for nothing but room for what it has read, and notices meanwhile that the peer hung up: until the
//! connection holds all that it may, a stream that nobody reads holds up no other; a frame is written whole; when the driver returns,
//! nothing of the connection is left.

#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::FusedFuture;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter,
};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::connection::{Connection, Out, Shared, Stream};
use super::frame::{self, Broken, Control, HEAD, Head, Reset};
use super::headers::{Deflater, Inflater};
use crate::cri::streaming::activity::Activity;
use crate::cri::streaming::budget::{Held, Piece, Share};
use crate::cri::streaming::ends::Gone;
use crate::cri::streaming::limits;
use crate::cri::streaming::probe::Probe;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    #[error("the peer went away")]
    Gone,
    #[error("nothing was said for too long")]
    Idle,
    #[error("the peer sent {0}")]
    Broken(#[from] Broken),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Gone> for End {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// Does a connection's I/O; see [`open`].
pub struct Driver<T> {
    io: T,
    probe: Option<Probe>,
    share: Share,
    activity: Activity,
    shared: Arc<Shared>,
    orders: mpsc::Receiver<Out>,
    arrivals: mpsc::Sender<Stream>,
}

/// The two ends of a connection that was upgraded to SPDY: the session's, and the one that must run beside it.
pub fn open<T>(io: T, probe: Option<Probe>, share: Share, idle: Duration) -> (Connection, Driver<T>)
where
    T: AsyncRead + AsyncWrite,
{
    let (out, orders) = mpsc::channel(limits::OUT);
    let (arrive, arrivals) = mpsc::channel(limits::ARRIVALS);
    let shared = Arc::new(Shared::new(out));
    let connection = Connection { shared: shared.clone(), arrivals };
    let activity = Activity::new(idle);
    (connection, Driver { io, probe, share, activity, shared, orders, arrivals: arrive })
}

impl<T: AsyncRead + AsyncWrite> Driver<T> {
    /// Ends when the peer is gone, or when the session has finished and the peer has had time to see it.
    pub async fn run(self) -> Result<(), End> {
        let Self { io, probe, share, activity, shared, orders, arrivals } = self;
        let (read, write) = tokio::io::split(io);
        let writing = write_all(BufWriter::with_capacity(limits::PIECE, write), orders, &activity).fuse();
        let mut reader = Reader { shared: &shared, arrivals, probe, share, activity: &activity };
        let reading = async {
            match reader.read_all(BufReader::with_capacity(16 * 1024, read)).await {
                Ok(never) => match never {},
                Err(end) => end,
            }
        }
        .fuse();
        tokio::pin!(writing, reading);
        let end = tokio::select! {
            end = &mut reading => end,
            written = &mut writing => written.err().map_or(End::Gone, End::Io),
            () = activity.idle() => End::Idle,
            () = shared.finished.cancelled() => {
                // The peer closes when it has understood; it is told to by GOAWAY only after a while, since some clients
                // throw away what they have not shown when they get one.
                tokio::select! {
                    _ = &mut reading => {}
                    _ = &mut writing => {}
                    () = tokio::time::sleep(limits::LINGER) => {}
                }
                End::Gone
            }
        };
        let finished = shared.finished.is_cancelled();
        shared.over();
        let clean = !matches!(end, End::Broken(_));
        if !matches!(end, End::Gone | End::Io(_)) || finished {
            let last = shared.table().last;
            let told = shared.out.try_send(Out::GoAway { last, clean }).is_ok();
            if told && !writing.is_terminated() {
                let _ = timeout(limits::GOODBYE, &mut writing).await;
            }
            // What is unread when a connection is closed makes the kernel throw away what the peer has not read.
            if told && !reading.is_terminated() {
                let _ = timeout(limits::GOODBYE, &mut reading).await;
            }
        }
        if finished { Ok(()) } else { Err(end) }
    }
}

struct Reader<'a> {
    shared: &'a Arc<Shared>,
    arrivals: mpsc::Sender<Stream>,
    probe: Option<Probe>,
    share: Share,
    activity: &'a Activity,
}

impl Reader<'_> {
    async fn read_all(
        &mut self,
        mut read: impl AsyncBufRead + Unpin,
    ) -> Result<std::convert::Infallible, End> {
        let mut inflater = Inflater::default();
        loop {
            let mut head = [0; HEAD];
            match read.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(End::Gone),
                Err(error) => return Err(error.into()),
            }
            self.activity.tick();
            match Head::parse(head)? {
                Head::Data { stream, fin, length } => self.data(&mut read, stream, fin, length).await?,
                Head::Control { kind, flags, length } => {
                    let mut payload = vec![0; length];
                    read.read_exact(&mut payload).await?;
                    self.control(Control::parse(kind, flags, &payload, &mut inflater)?).await?;
                }
            }
        }
    }

    async fn data(
        &self,
        read: &mut (impl AsyncBufRead + Unpin),
        stream: u32,
        fin: bool,
        length: usize,
    ) -> Result<(), End> {
        let inlet = {
            let table = self.shared.table();
            if stream == 0 || stream > table.last {
                return Err(Broken::NoSuchStream(stream).into());
            }
            table.streams.get(&stream).and_then(|entry| entry.inlet.clone())
        };
        let mut left = length;
        while left > 0 {
            let count = read.fill_buf().await?.len().min(left).min(limits::PIECE);
            if count == 0 {
                return Err(End::Gone);
            }
            self.activity.tick();
            // A stream that nobody reads any more gives its room back when it is forgotten, so this is not waited for in vain.
            let held = match &inlet {
                Some(inlet) if !inlet.is_closed() => Some((inlet, self.room(count).await?)),
                _ => None,
            };
            let taken = match held {
                Some((inlet, held)) => {
                    let buffered = read.fill_buf().await?;
                    let bytes = Bytes::copy_from_slice(buffered.get(..count).unwrap_or(buffered));
                    inlet.send(Piece { bytes, held }).await.is_ok()
                }
                None => false,
            };
            read.consume(count);
            left -= count;
            if !taken {
                self.shared.consumed(count).await?;
            }
        }
        if fin {
            self.shared.ended(stream);
        }
        Ok(())
    }

    /// Waits for room for so many bytes.
    async fn room(&self, count: usize) -> Result<Held, End> {
        let take = self.share.take(count);
        tokio::pin!(take);
        loop {
            tokio::select! {
                biased;
                held = &mut take => return held.ok_or(End::Gone),
                () = self.shared.gone.cancelled() => return Err(End::Gone),
                () = tokio::time::sleep(limits::PROBE) => {
                    if self.probe.as_ref().is_some_and(Probe::hung_up) {
                        return Err(End::Gone);
                    }
                }
            }
        }
    }

    async fn control(&mut self, control: Control) -> Result<(), End> {
        match control {
            Control::Open { stream, fin, headers } => self.opened(stream, fin, headers).await?,
            Control::Reset { stream } => self.shared.reset(stream),
            Control::Settings { initial_window: Some(value) } => self.shared.initial_window(value)?,
            // Even numbers would be answers to ours, of which there are none.
            Control::Ping(id) if !id.is_multiple_of(2) => self.shared.send(Out::Ping(id)).await?,
            Control::GoAway => return Err(End::Gone),
            Control::Headers { stream, fin: true } | Control::Reply { stream, fin: true } => {
                self.shared.ended(stream);
            }
            Control::Window { stream, delta } => self.shared.granted(stream, delta)?,
            Control::Reply { .. }
            | Control::Headers { .. }
            | Control::Settings { initial_window: None }
            | Control::Ping(_)
            | Control::Unknown => {}
        }
        Ok(())
    }

    async fn opened(&mut self, id: u32, fin: bool, headers: super::headers::Headers) -> Result<(), End> {
        let refused = match self.shared.opened(id, fin, headers)? {
            None => true,
            Some(stream) => self.arrivals.try_send(stream).is_err(),
        };
        if refused {
            self.shared.reset(id);
            self.shared.send(Out::Reset { stream: id, why: Reset::Refused }).await?;
        }
        Ok(())
    }
}

/// Ends after a GOAWAY, or with an error.
async fn write_all(
    mut write: BufWriter<impl AsyncWrite + Unpin>,
    mut orders: mpsc::Receiver<Out>,
    activity: &Activity,
) -> io::Result<()> {
    let mut deflater = Deflater::new().map_err(io::Error::other)?;
    loop {
        let order = match orders.try_recv() {
            Ok(order) => order,
            Err(_) => {
                write.flush().await?;
                let Some(order) = orders.recv().await else { return Ok(()) };
                order
            }
        };
        activity.tick();
        match order {
            Out::Reply { stream } => {
                let reply = frame::reply(stream, &mut deflater).map_err(io::Error::other)?;
                write.write_all(&reply).await?;
            }
            Out::Data { stream, fin, bytes } => {
                write.write_all(&frame::data(stream, fin, bytes.len())).await?;
                write.write_all(&bytes).await?;
            }
            Out::Reset { stream, why } => write.write_all(&frame::reset(stream, why)).await?,
            Out::Ping(id) => write.write_all(&frame::ping(id)).await?,
            Out::Window { stream, delta } => write.write_all(&frame::window(stream, delta)).await?,
            Out::Flush(told) => {
                write.flush().await?;
                let _ = told.send(());
            }
            Out::GoAway { last, clean } => {
                write.write_all(&frame::go_away(last, clean)).await?;
                return write.shutdown().await;
            }
        }
    }
}
