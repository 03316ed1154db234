//! What a session sees of a SPDY connection: streams that the peer opens, and their two directions.
//!
//! What always holds: each direction of a stream is ended once; what is sent goes out in the order of the calls, of all streams together.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::frame::{Broken, INITIAL_WINDOW, MAX_WINDOW, Reset};
use super::headers::Headers;
use crate::cri::streaming::budget::Piece;
use crate::cri::streaming::ends::{Gone, Inlet, Outlet};
use crate::cri::streaming::limits;

/// What the writer is told to send.
pub(super) enum Out {
    Reply {
        stream: u32,
    },
    Data {
        stream: u32,
        fin: bool,
        bytes: Bytes,
    },
    Reset {
        stream: u32,
        why: Reset,
    },
    Ping(u32),
    Window {
        stream: u32,
        delta: u32,
    },
    /// Answered when everything before it is with the kernel.
    Flush(oneshot::Sender<()>),
    /// The last one.
    GoAway {
        last: u32,
        clean: bool,
    },
}

/// One stream's state.
pub(super) struct Entry {
    /// Where its data goes; none after the peer's end.
    pub inlet: Option<mpsc::Sender<Piece>>,
    /// Credit that the peer gave.
    window: i64,
    /// Our direction is ended.
    finished: bool,
    /// The peer wants nothing of it any more.
    reset: CancellationToken,
}

pub(super) struct Table {
    pub streams: HashMap<u32, Entry>,
    /// Highest number that the peer used.
    pub last: u32,
    window: i64,
    initial_window: i64,
    /// The peer has spoken of windows: it is held to them.
    windows: bool,
}

pub(super) struct Shared {
    table: Mutex<Table>,
    pub out: mpsc::Sender<Out>,
    /// The peer is gone, or the connection is over.
    pub gone: CancellationToken,
    /// The session has said everything.
    pub finished: CancellationToken,
    /// Told when credit grows.
    credit: Notify,
    /// Bytes taken in all streams of which the peer was not told.
    consumed: AtomicU32,
}

impl Shared {
    pub fn new(out: mpsc::Sender<Out>) -> Self {
        Self {
            table: Mutex::new(Table {
                streams: HashMap::new(),
                last: 0,
                window: INITIAL_WINDOW.into(),
                initial_window: INITIAL_WINDOW.into(),
                windows: false,
            }),
            out,
            gone: CancellationToken::new(),
            finished: CancellationToken::new(),
            credit: Notify::new(),
            consumed: AtomicU32::new(0),
        }
    }

    pub fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn send(&self, out: Out) -> Result<(), Gone> {
        tokio::select! {
            biased;
            () = self.gone.cancelled() => Err(Gone),
            sent = self.out.send(out) => sent.map_err(|_| Gone),
        }
    }

    /// The peer opens a stream. `None`: it may not; it is told so by the caller.
    pub fn opened(self: &Arc<Self>, id: u32, fin: bool, headers: Headers) -> Result<Option<Stream>, Broken> {
        let mut table = self.table();
        if id.is_multiple_of(2) || id <= table.last {
            return Err(Broken::StreamNumber(id));
        }
        table.last = id;
        if table.streams.len() >= limits::STREAMS {
            return Ok(None);
        }
        let (sender, receiver) = mpsc::channel(limits::INLET);
        let reset = CancellationToken::new();
        let window = table.initial_window;
        let inlet = (!fin).then_some(sender);
        table.streams.insert(id, Entry { inlet, window, finished: false, reset: reset.clone() });
        let credit = Credit { shared: self.clone(), stream: id, consumed: 0 };
        Ok(Some(Stream {
            id,
            headers,
            inlet: Inlet::new(receiver, Some(credit)),
            writer: Writer { shared: self.clone(), id, reset },
        }))
    }

    /// The peer ends its direction.
    pub fn ended(&self, id: u32) {
        let mut table = self.table();
        if let Some(entry) = table.streams.get_mut(&id) {
            entry.inlet = None;
            if entry.finished {
                table.streams.remove(&id);
            }
        }
    }

    /// The peer wants nothing of a stream any more.
    pub fn reset(&self, id: u32) {
        if let Some(entry) = self.table().streams.remove(&id) {
            entry.reset.cancel();
        }
        self.credit.notify_waiters();
    }

    /// The peer gives credit; 0: for the connection.
    pub fn granted(&self, id: u32, delta: u32) -> Result<(), Broken> {
        let mut table = self.table();
        table.windows = true;
        let window = match id {
            0 => Some(&mut table.window),
            id => table.streams.get_mut(&id).map(|entry| &mut entry.window),
        };
        if let Some(window) = window {
            *window += i64::from(delta);
            if *window > MAX_WINDOW {
                return Err(Broken::Window);
            }
        }
        drop(table);
        self.credit.notify_waiters();
        Ok(())
    }

    /// The peer says what new streams begin with; those that there are are moved by the difference.
    pub fn initial_window(&self, value: u32) -> Result<(), Broken> {
        let mut table = self.table();
        table.windows = true;
        let delta = i64::from(value) - table.initial_window;
        table.initial_window = value.into();
        for entry in table.streams.values_mut() {
            entry.window += delta;
            if entry.window > MAX_WINDOW {
                return Err(Broken::Window);
            }
        }
        drop(table);
        self.credit.notify_waiters();
        Ok(())
    }

    /// Bytes were taken, or thrown away: the connection's window opens again.
    pub async fn consumed(&self, count: usize) -> Result<(), Gone> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let before = self.consumed.fetch_add(count, Ordering::AcqRel);
        if before.saturating_add(count) < INITIAL_WINDOW / 2 {
            return Ok(());
        }
        match self.consumed.swap(0, Ordering::AcqRel) {
            0 => Ok(()),
            delta => self.send(Out::Window { stream: 0, delta }).await,
        }
    }

    /// Everything of the connection ends.
    pub fn over(&self) {
        self.gone.cancel();
        self.table().streams.clear();
        self.credit.notify_waiters();
    }
}

/// Credit that a stream gives back for what was taken from it.
pub struct Credit {
    shared: Arc<Shared>,
    stream: u32,
    consumed: u32,
}

impl Credit {
    pub async fn took(&mut self, count: usize) {
        self.consumed = self.consumed.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        if self.consumed >= INITIAL_WINDOW / 2 {
            let delta = std::mem::take(&mut self.consumed);
            // A stream that the peer has ended needs none.
            if self.shared.table().streams.get(&self.stream).is_some_and(|entry| entry.inlet.is_some()) {
                let _ = self.shared.send(Out::Window { stream: self.stream, delta }).await;
            }
        }
        let _ = self.shared.consumed(count).await;
    }
}

/// A stream that the peer opened; it waits for [`Stream::accept`] or [`Stream::refuse`].
pub struct Stream {
    pub id: u32,
    pub headers: Headers,
    inlet: Inlet,
    writer: Writer,
}

impl Stream {
    pub async fn accept(self) -> Result<(Inlet, Outlet), Gone> {
        self.writer.shared.send(Out::Reply { stream: self.id }).await?;
        Ok((self.inlet, Outlet::Stream(self.writer)))
    }

    pub async fn refuse(self) {
        self.writer.reset(Reset::Refused).await;
    }
}

/// The direction of a stream to the peer.
pub struct Writer {
    shared: Arc<Shared>,
    id: u32,
    reset: CancellationToken,
}

impl Writer {
    /// Sends bytes; waits while the peer does not take them.
    pub async fn send(&self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let length = self.credit(bytes.len().min(limits::PIECE)).await?;
            let piece = bytes.split_to(length);
            self.shared.send(Out::Data { stream: self.id, fin: false, bytes: piece }).await?;
        }
        Ok(())
    }

    /// Waits for credit for up to `want` bytes, and uses it.
    async fn credit(&self, want: usize) -> Result<usize, Gone> {
        loop {
            let grown = self.shared.credit.notified();
            tokio::pin!(grown);
            grown.as_mut().enable();
            if let Some(length) = self.take_credit(want)? {
                return Ok(length);
            }
            tokio::select! {
                () = grown => {}
                () = self.shared.gone.cancelled() => return Err(Gone),
            }
        }
    }

    fn take_credit(&self, want: usize) -> Result<Option<usize>, Gone> {
        let mut table = self.shared.table();
        let Table { streams, window, windows, .. } = &mut *table;
        let entry = streams.get_mut(&self.id).ok_or(Gone)?;
        let want = i64::try_from(want).unwrap_or(i64::MAX);
        // Counted in any case: the peer may speak of windows later.
        let length = if *windows { want.min(*window).min(entry.window) } else { want };
        if length <= 0 {
            return Ok(None);
        }
        *window -= length;
        entry.window -= length;
        Ok(usize::try_from(length).ok())
    }

    /// Ends this direction; what was sent before arrives before it.
    pub async fn finish(&self) {
        {
            let mut table = self.shared.table();
            let Some(entry) = table.streams.get_mut(&self.id) else { return };
            if std::mem::replace(&mut entry.finished, true) {
                return;
            }
            if entry.inlet.is_none() {
                table.streams.remove(&self.id);
            }
        }
        let _ = self.shared.send(Out::Data { stream: self.id, fin: true, bytes: Bytes::new() }).await;
    }

    /// Ends both directions at once.
    pub async fn reset(&self, why: Reset) {
        if self.shared.table().streams.remove(&self.id).is_some() {
            let _ = self.shared.send(Out::Reset { stream: self.id, why }).await;
        }
    }

    /// Ends when the peer resets the stream or is gone.
    pub async fn dropped(&self) {
        tokio::select! {
            () = self.reset.cancelled() => {}
            () = self.shared.gone.cancelled() => {}
        }
    }
}

/// The session's end of a connection.
pub struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) arrivals: mpsc::Receiver<Stream>,
}

impl Connection {
    /// The next stream that the peer opens; `None` when it is gone.
    pub async fn next(&mut self) -> Option<Stream> {
        tokio::select! {
            biased;
            () = self.shared.gone.cancelled() => None,
            stream = self.arrivals.recv() => stream,
        }
    }

    /// Cancelled when the peer is gone.
    pub fn gone(&self) -> CancellationToken {
        self.shared.gone.clone()
    }

    /// Everything was said: waits until it is with the kernel, and lets the connection end.
    pub async fn finish(self) {
        let (told, flushed) = oneshot::channel();
        if self.shared.send(Out::Flush(told)).await.is_ok() {
            tokio::select! {
                _ = flushed => {}
                () = self.shared.gone.cancelled() => {}
            }
        }
        self.shared.finished.cancel();
    }
}
