//! Answers that are put together from messages which are encoded already: records are kept as clients are sent them.
//!
//! What always holds: an answer is one message, whose only field is number 1, once or repeated; it is in pieces of at most about
//! [`PIECE`] bytes unless one of its parts is longer, so that no long answer is ever in one piece of memory.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame};
use prost::Message;
use tonic::body::Body;
use tonic::{Request, Status};

/// Bytes from which on a piece is full.
const PIECE: usize = 32 * 1024;
/// What comes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Field 1, with a length.
const TAG: u8 = 0x0a;

/// An answer in the making.
pub struct Encoded {
    /// The first begins with the prefix, which is filled in at the end.
    pieces: Vec<Vec<u8>>,
    /// Of the message.
    length: usize,
}

impl Default for Encoded {
    fn default() -> Self {
        Self { pieces: vec![vec![0; PREFIX]], length: 0 }
    }
}

impl Encoded {
    /// An answer of one part.
    pub fn one(message: Vec<u8>) -> Self {
        let mut answer = Self::default();
        answer.add(message);
        answer
    }

    /// Bytes of the message so far.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Adds a part.
    pub fn add(&mut self, message: Vec<u8>) {
        let head = 1 + prost::length_delimiter_len(message.len());
        self.length += head + message.len();
        let is_long = message.len() >= PIECE;
        let Some(last) = self.pieces.last_mut() else { return };
        if last.capacity() - last.len() < head + message.len() {
            let room = if is_long { head } else { (PIECE + head + message.len()).saturating_sub(last.len()) };
            last.reserve_exact(room.max(head));
        }
        last.push(TAG);
        prost::encoding::encode_varint(message.len() as u64, last);
        if is_long {
            self.pieces.push(message);
            self.pieces.push(Vec::new());
        } else {
            last.extend_from_slice(&message);
            if last.len() >= PIECE {
                self.pieces.push(Vec::new());
            }
        }
    }

    fn into_response(mut self) -> http::Response<Body> {
        // A message of more than 4 GiB is over every limit.
        let length = u32::try_from(self.length).unwrap_or(u32::MAX);
        if let Some(first) = self.pieces.first_mut() {
            first[1..PREFIX].copy_from_slice(&length.to_be_bytes());
        }
        let pieces = self.pieces.into_iter().filter(|piece| !piece.is_empty()).map(Bytes::from);
        let mut response = http::Response::new(Body::new(Pieces { pieces: pieces.collect(), ended: false }));
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
        response
    }
}

/// The answer's body: its pieces, and that all went well.
struct Pieces {
    pieces: VecDeque<Bytes>,
    ended: bool,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if std::mem::replace(&mut self.ended, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// Answers a request of one message, which has arrived.
pub async fn unary<Q, F>(
    request: http::Request<Body>,
    answer: impl FnOnce(Request<Q>) -> F,
) -> http::Response<Body>
where
    Q: Message + Default,
    F: Future<Output = Result<Encoded, Status>>,
{
    let (parts, body) = request.into_parts();
    let asked = match decode(body).await {
        Ok(message) => Request::from_http(http::Request::from_parts(parts, message)),
        Err(status) => return status.into_http(),
    };
    answer(asked).await.map_or_else(Status::into_http, Encoded::into_response)
}

async fn decode<Q: Message + Default>(mut body: Body) -> Result<Q, Status> {
    let mut bytes = Bytes::new();
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let Ok(data) = frame?.into_data() else { continue };
        bytes = if bytes.is_empty() { data } else { [bytes, data].concat().into() };
    }
    if bytes.len() < PREFIX {
        return Err(Status::internal("the request has no message"));
    }
    let (is_compressed, length) = (bytes.get_u8() != 0, bytes.get_u32() as usize);
    if is_compressed {
        return Err(Status::unimplemented("the request is compressed, which nobody said it may be"));
    }
    if bytes.len() != length {
        let why = format!("the request says that its message has {length} bytes, and has {}", bytes.len());
        return Err(Status::internal(why));
    }
    Q::decode(bytes).map_err(|error| Status::internal(format!("malformed request: {error}")))
}

#[cfg(test)]
mod tests {
    use longshore_proto::containerd::services::containers::v1 as wire;

    use super::*;

    async fn bytes(mut body: Body) -> (Vec<Bytes>, Option<HeaderMap>) {
        let (mut pieces, mut trailers) = (Vec::new(), None);
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            match frame.unwrap().into_data() {
                Ok(data) => pieces.push(data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        (pieces, trailers)
    }

    #[tokio::test]
    async fn parts_of_any_length_are_the_message_they_would_be_if_it_were_encoded_as_a_whole() {
        for lengths in [&[][..], &[0], &[5], &[10_000; 9], &[40_000, 3, 40_000], &[31_000, 31_000, 1]] {
            let containers: Vec<wire::Container> = lengths
                .iter()
                .map(|length| wire::Container { image: "x".repeat(*length), ..Default::default() })
                .collect();
            let mut answer = Encoded::default();
            containers.iter().for_each(|container| answer.add(container.encode_to_vec()));
            let whole = wire::ListContainersResponse { containers }.encode_to_vec();
            assert_eq!(answer.length(), whole.len());
            let (pieces, trailers) = bytes(answer.into_response().into_body()).await;
            assert!(pieces.iter().all(|piece| piece.len() < 2 * PIECE));
            let sent = pieces.concat();
            assert_eq!(
                sent[..PREFIX],
                [&[0][..], &u32::try_from(whole.len()).unwrap().to_be_bytes()].concat()
            );
            assert_eq!(sent[PREFIX..], whole);
            assert_eq!(trailers.unwrap().get("grpc-status").unwrap(), "0");
        }
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let body = |bytes: &'static [u8]| {
            Body::new(Pieces { pieces: [Bytes::from_static(bytes)].into(), ended: false })
        };
        let decoded = decode::<wire::GetContainerRequest>(body(b"\0\0\0\0\x03\x0a\x01a")).await;
        assert_eq!(decoded.unwrap().id, "a");
        for bytes in
            [&b"\0\0"[..], b"\x01\0\0\0\x03\x0a\x01a", b"\0\0\0\0\x04\x0a\x01a", b"\0\0\0\0\x03\x0a\x09a"]
        {
            assert!(decode::<wire::GetContainerRequest>(body(bytes)).await.is_err(), "{bytes:?}");
        }
    }
}
