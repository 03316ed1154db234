//! A byte stream in the binary messages of a WebSocket: what `kubectl port-forward` speaks SPDY through.
//!
//! What always holds: message boundaries mean nothing; the end of either side ends the tunnel, after what was on its way.

#![forbid(unsafe_code)]

use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::driver::accepted;
use super::meter::Meter;
use crate::cri::streaming::budget::Share;
use crate::cri::streaming::limits;

/// The inner end of a tunnel, and what must run beside its user.
pub fn tunnel<T>(io: T, share: Share) -> (DuplexStream, impl Future<Output = ()>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (inner, outer) = tokio::io::duplex(limits::PIECE);
    (inner, carry(io, outer, Meter::new(share)))
}

async fn carry<T: AsyncRead + AsyncWrite + Unpin>(io: T, outer: DuplexStream, meter: Meter) {
    let (mut sink, mut stream) = accepted(io, meter.clone()).await.split();
    let (mut read, mut write) = tokio::io::split(outer);
    let inwards = async {
        while let Some(Ok(message)) = stream.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(_) => return,
                Message::Ping(bytes) | Message::Pong(bytes) => {
                    meter.passed(bytes.len());
                    continue;
                }
                _ => continue,
            };
            if write.write_all(&bytes).await.is_err() {
                // The inner side has ended; the client's close is awaited by the other direction.
                return std::future::pending().await;
            }
            meter.taken();
        }
    };
    let outwards = async {
        loop {
            let mut piece = bytes::BytesMut::with_capacity(limits::PIECE);
            match read.read_buf(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            if sink.send(Message::Binary(piece.freeze())).await.is_err() {
                return;
            }
        }
        let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = timeout(limits::GOODBYE, sink.send(Message::Close(Some(close)))).await;
    };
    // Dropping the outer end tells the inner one.
    tokio::select! {
        () = inwards => {}
        () = outwards => {}
    }
}
