//! The two directions of a stream, whatever carries it: bytes that come from a client, and bytes that go to it.
//!
//! What always holds: both are bounded: whoever is too fast waits.

#![forbid(unsafe_code)]

use bytes::Bytes;
use tokio::sync::mpsc;

use super::budget::Piece;
use super::{spdy, websocket};

/// The client is gone, or wants nothing more of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// Bytes from the client.
pub struct Inlet {
    receiver: mpsc::Receiver<Piece>,
    credit: Option<spdy::Credit>,
}

impl Inlet {
    pub fn new(receiver: mpsc::Receiver<Piece>, credit: Option<spdy::Credit>) -> Self {
        Self { receiver, credit }
    }

    /// The next bytes; `None` at the stream's end, or when the client is gone.
    pub async fn next(&mut self) -> Option<Bytes> {
        let Piece { bytes, held } = self.receiver.recv().await?;
        drop(held);
        if let Some(credit) = &mut self.credit {
            credit.took(bytes.len()).await;
        }
        Some(bytes)
    }
}

/// Bytes to the client.
pub enum Outlet {
    Stream(spdy::Writer),
    Channel(websocket::Writer),
}

impl Outlet {
    pub async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        match self {
            Self::Stream(writer) => writer.send(bytes).await,
            Self::Channel(writer) => writer.send(bytes).await,
        }
    }

    /// Ends this direction, after what was sent. WebSocket's channels have no end of their own: the connection's is theirs.
    pub async fn finish(&self) {
        if let Self::Stream(writer) = self {
            writer.finish().await;
        }
    }

    /// Ends when the client has reset the stream or is gone.
    pub async fn dropped(&self) {
        match self {
            Self::Stream(writer) => writer.dropped().await,
            Self::Channel(writer) => writer.dropped().await,
        }
    }
}
