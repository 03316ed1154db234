//! Bytes over a stream: `Data` one way, `WindowUpdate` the other.
//!
//! What always holds: no more is on its way than the receiver has allowed; a stream that breaks off is an error, never an end.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use longshore_proto::containerd::types::transfer as wire;
use prost::Message;
use tokio::sync::mpsc;

use crate::any::Any;
use crate::pipe::{Reader, Writer};
use crate::streams::Stream;

const DATA: &str = "containerd.types.transfer.Data";
const WINDOW_UPDATE: &str = "containerd.types.transfer.WindowUpdate";
/// Of one message, in bytes.
const PIECE: usize = 32 * 1024;
/// What the other side may send beyond what was taken, in bytes; it is allowed as much again when less is left.
const WINDOW: i64 = 64 * 1024;
/// How long is waited for a client to say that it has got everything.
const ACKNOWLEDGED: Duration = Duration::from_secs(5);

/// What follows the last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Closed,
    /// A tar may be followed by zeroes. So many follow that the receiver must ask for more, by which it says that it has got the
    /// archive: whoever ends with the request, as `ctr` does, has written it by then.
    Padded,
}

/// What the client sends, for a thread that may block.
pub fn reader(stream: Stream) -> Reader {
    let (sender, reader) = Reader::new();
    tokio::spawn(receive(stream, sender));
    reader
}

async fn receive(mut stream: Stream, pieces: mpsc::Sender<io::Result<Bytes>>) {
    let mut allowed = 0i64;
    loop {
        if allowed < WINDOW {
            let update = wire::WindowUpdate { update: WINDOW as i32 };
            if stream.to_client.send(Any::pack(WINDOW_UPDATE, &update)).await.is_ok() {
                allowed += WINDOW;
            }
        }
        let received = tokio::select! {
            received = stream.from_client.recv() => received,
            // The reader wants no more.
            () = pieces.closed() => return,
        };
        let piece = match received {
            None => return,
            Some(Err(broken)) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, broken.0)),
            Some(Ok(any)) => data(&any),
        };
        let piece = piece.and_then(|piece| {
            allowed -= piece.len() as i64;
            if allowed < 0 {
                let why = format!("the client sent {} bytes more than its window", -allowed);
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            Ok(piece)
        });
        let failed = piece.is_err();
        if pieces.send(piece).await.is_err() || failed {
            return;
        }
    }
}

fn data(any: &Any) -> io::Result<Bytes> {
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    if !any.is(DATA) {
        return Err(bad(format!("the client sent {:?} where {DATA} was expected", any.type_url)));
    }
    let data = wire::Data::decode(any.value.clone()).map_err(|error| bad(error.to_string()))?;
    Ok(data.data.into())
}

/// What goes to a client, from a thread that may block; what [`send`] takes from.
pub fn writer() -> (Writer, mpsc::Receiver<Bytes>) {
    Writer::new(PIECE)
}

/// Sends pieces as the client's window allows, until there are no more, and ends the stream. `false`: the client is gone.
pub async fn send(stream: Stream, mut pieces: mpsc::Receiver<Bytes>, end: End) -> bool {
    let mut sending = Sending { stream, allowed: 0, granted: 0, sent: 0 };
    while let Some(mut piece) = pieces.recv().await {
        while !piece.is_empty() {
            let next = piece.split_to(piece.len().min(PIECE));
            if !sending.piece(next).await {
                return false;
            }
        }
    }
    if end == End::Padded { sending.pad().await } else { true }
}

struct Sending {
    stream: Stream,
    /// What may be sent now.
    allowed: i64,
    /// All that the client has ever allowed.
    granted: i64,
    sent: i64,
}

impl Sending {
    async fn piece(&mut self, mut piece: Bytes) -> bool {
        while !piece.is_empty() {
            while self.allowed <= 0 {
                if !self.window().await {
                    return false;
                }
            }
            let count = piece.len().min(usize::try_from(self.allowed).unwrap_or(usize::MAX));
            let data = wire::Data { data: piece.split_to(count).to_vec() };
            if self.stream.to_client.send(Any::pack(DATA, &data)).await.is_err() {
                return false;
            }
            self.allowed -= count as i64;
            self.sent += count as i64;
        }
        true
    }

    // Waits for the client to allow more.
    async fn window(&mut self) -> bool {
        match self.stream.from_client.recv().await {
            Some(Ok(any)) if any.is(WINDOW_UPDATE) => {
                let update = wire::WindowUpdate::decode(any.value).unwrap_or_default().update;
                let update = i64::from(update.max(0));
                self.allowed = self.allowed.saturating_add(update);
                self.granted = self.granted.saturating_add(update);
                true
            }
            Some(Ok(any)) => {
                tracing::debug!("a client sent {:?} where {WINDOW_UPDATE} was expected", any.type_url);
                true
            }
            Some(Err(_)) | None => false,
        }
    }

    // A client allows one window more whenever less than one is left. When it has allowed two beyond the multiple of a window that
    // holds all data, it has taken all of that, and something after it.
    async fn pad(&mut self) -> bool {
        let whole = (self.sent + WINDOW - 1) / WINDOW * WINDOW;
        let block = vec![0; 512];
        let padding = tokio::time::timeout(ACKNOWLEDGED, async {
            while self.sent <= whole {
                if !self.piece(block.clone().into()).await {
                    return false;
                }
            }
            while self.granted < whole + 2 * WINDOW {
                if !self.window().await {
                    // It has closed its side, or is gone: either way it is done.
                    return true;
                }
            }
            true
        });
        // A client with another idea of windows gets its archive as well.
        padding.await.unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{Received, Streams};
    use std::sync::Arc;

    fn stream() -> (crate::streams::Served, Stream) {
        let streams = Arc::new(Streams::default());
        let namespace = crate::namespaces::Namespace::parse("n").unwrap();
        let served = streams.open(&namespace, "s").unwrap();
        let stream = streams.take(&namespace, "s").unwrap();
        (served, stream)
    }

    fn packed(bytes: &[u8]) -> Received {
        Ok(Any::pack(DATA, &wire::Data { data: bytes.to_vec() }))
    }

    async fn all(mut reader: Reader) -> io::Result<Vec<u8>> {
        use std::io::Read;
        tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn what_is_sent_in_order_is_read_and_a_broken_stream_is_no_end() {
        let (mut served, whole) = stream();
        let read = tokio::spawn(all(reader(whole)));
        let window = served.from_daemon.recv().await.unwrap();
        assert!(window.is(WINDOW_UPDATE));
        served.to_daemon.send(packed(b"ab")).await.unwrap();
        served.to_daemon.send(packed(b"c")).await.unwrap();
        drop(served);
        assert_eq!(read.await.unwrap().unwrap(), b"abc");

        let (served, broken) = stream();
        let read = tokio::spawn(all(reader(broken)));
        served.to_daemon.send(packed(b"ab")).await.unwrap();
        served.to_daemon.send(Err(crate::streams::Broken("gone".into()))).await.unwrap();
        assert!(read.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn more_than_the_window_is_refused() {
        let (served, stream) = stream();
        let read = tokio::spawn(all(reader(stream)));
        served.to_daemon.send(packed(&vec![0; 3 * WINDOW as usize])).await.unwrap();
        let error = read.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("window"), "{error}");
    }

    // As Go's client receives.
    async fn client(mut served: crate::streams::Served) -> Vec<u8> {
        let (mut window, mut bytes) = (0i64, Vec::new());
        loop {
            if window < WINDOW {
                let update = Any::pack(WINDOW_UPDATE, &wire::WindowUpdate { update: WINDOW as i32 });
                if served.to_daemon.send(Ok(update)).await.is_ok() {
                    window += WINDOW;
                }
            }
            let Some(any) = served.from_daemon.recv().await else { return bytes };
            let piece = data(&any).unwrap();
            assert!(piece.len() <= PIECE);
            window -= piece.len() as i64;
            bytes.extend_from_slice(&piece);
        }
    }

    #[tokio::test]
    async fn an_archive_is_acknowledged_before_the_end() {
        for size in [0, 512, 65_536, 65_536 - 512, 300_032] {
            let (served, stream) = stream();
            let reading = tokio::spawn(client(served));
            let (sender, pieces) = mpsc::channel(4);
            let sending = tokio::spawn(send(stream, pieces, End::Padded));
            for piece in vec![7u8; size].chunks(40_000) {
                sender.send(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            drop(sender);
            let begun = std::time::Instant::now();
            assert!(sending.await.unwrap());
            assert!(begun.elapsed() < ACKNOWLEDGED, "{size}: it was acknowledged");
            let bytes = reading.await.unwrap();
            assert!(bytes[..size].iter().all(|byte| *byte == 7));
            assert!(bytes[size..].iter().all(|byte| *byte == 0), "{size}: only zeroes follow");
            assert!(bytes.len() - size <= 2 * WINDOW as usize, "{size}: {}", bytes.len());
        }
    }
}
