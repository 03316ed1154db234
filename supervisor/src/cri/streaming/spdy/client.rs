//! A small SPDY client, for tests: what Kubernetes' clients do, and what they never would.

#![forbid(unsafe_code)]

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{self, Control, HEAD, Head};
use super::headers::{Deflater, Headers, Inflater};

/// What the server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Control(Control),
    Data { stream: u32, fin: bool, bytes: Vec<u8> },
}

/// One connection that was upgraded already.
pub struct Client<T> {
    pub io: T,
    deflater: Deflater,
    inflater: Inflater,
    next: u32,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    pub fn new(io: T) -> Self {
        Self { io, deflater: Deflater::new().unwrap(), inflater: Inflater::default(), next: 1 }
    }

    /// Opens a stream without waiting for the reply.
    pub async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let frame = frame::open(id, &Headers::of(headers), &mut self.deflater);
        self.io.write_all(&frame).await.unwrap();
        id
    }

    pub async fn data(&mut self, stream: u32, fin: bool, bytes: &[u8]) {
        self.raw(&frame::data(stream, fin, bytes.len())).await;
        self.raw(bytes).await;
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// The next frame; `None` at the connection's end.
    pub async fn event(&mut self) -> Option<Event> {
        let mut head = [0; HEAD];
        self.io.read_exact(&mut head).await.ok()?;
        Some(match Head::parse(head).unwrap() {
            Head::Data { stream, fin, length } => {
                Event::Data { stream, fin, bytes: self.payload(length).await? }
            }
            Head::Control { kind, flags, length } => {
                let payload = self.payload(length).await?;
                Event::Control(Control::parse(kind, flags, &payload, &mut self.inflater).unwrap())
            }
        })
    }

    async fn payload(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut payload = vec![0; length];
        self.io.read_exact(&mut payload).await.ok()?;
        Some(payload)
    }

    /// Everything of one stream until the server ends it.
    pub async fn drain(&mut self, streams: &[u32]) -> Vec<Vec<u8>> {
        let mut drained = vec![Vec::new(); streams.len()];
        let mut open = streams.len();
        while open > 0 {
            match self.event().await {
                Some(Event::Data { stream, fin, bytes }) => {
                    let Some(at) = streams.iter().position(|id| *id == stream) else { continue };
                    drained[at].extend(bytes);
                    open -= usize::from(fin);
                }
                Some(Event::Control(Control::Reset { .. } | Control::GoAway)) | None => {
                    panic!("cut off: {drained:?}")
                }
                Some(Event::Control(_)) => {}
            }
        }
        drained
    }
}
