//! Channels of a WebSocket: the first byte of each message is the number of the stream that the rest belongs to.
//!
//! What always holds: the number of channels is fixed when the connection opens; messages for others are thrown away, as kubelets do.

#![forbid(unsafe_code)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use crate::cri::streaming::ends::{Gone, Inlet, Outlet};
use crate::cri::streaming::limits;

/// The number that announces the end of another channel.
const END: u8 = 255;

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As they are, behind the channel's number.
    Binary,
    /// As base64 in text, behind the channel's number as a character from `0` on.
    Base64,
}

impl Codec {
    pub fn encode(self, channel: u8, bytes: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut message = BytesMut::with_capacity(bytes.len() + 1);
                message.put_u8(channel);
                message.put_slice(bytes);
                Message::Binary(message.freeze())
            }
            Self::Base64 => {
                let mut text = String::from(char::from(b'0'.saturating_add(channel)));
                STANDARD.encode_string(bytes, &mut text);
                Message::Text(text.into())
            }
        }
    }

    /// What a message says, if anything.
    pub fn decode(self, message: Bytes, ends: bool) -> Option<Said> {
        let (number, rest) = (*message.first()?, message.slice(1..));
        match self {
            Self::Binary if ends && number == END => match rest[..] {
                [channel] => Some(Said::End(channel)),
                _ => None,
            },
            Self::Binary => Some(Said::Data(number, rest)),
            Self::Base64 => {
                let bytes = STANDARD.decode(rest).ok()?;
                Some(Said::Data(number.checked_sub(b'0')?, bytes.into()))
            }
        }
    }
}

/// The content of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Data(u8, Bytes),
    End(u8),
}

/// What the writer is told to send.
pub(super) enum Out {
    Data { channel: u8, bytes: Bytes },
    Flush(oneshot::Sender<()>),
}

/// The direction of a channel to the client.
pub struct Writer {
    channel: u8,
    out: mpsc::Sender<Out>,
    gone: CancellationToken,
}

impl Writer {
    /// Sends bytes, also none: a message that says that the channel is there.
    pub async fn send(&self, mut bytes: Bytes) -> Result<(), Gone> {
        loop {
            let piece = bytes.split_to(bytes.len().min(limits::PIECE));
            let order = Out::Data { channel: self.channel, bytes: piece };
            tokio::select! {
                biased;
                () = self.gone.cancelled() => return Err(Gone),
                sent = self.out.send(order) => sent.map_err(|_| Gone)?,
            }
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    /// Ends when the client is gone.
    pub async fn dropped(&self) {
        self.gone.cancelled().await;
    }
}

/// The session's end of a connection.
pub struct Channels {
    pub(super) inlets: Vec<Option<Inlet>>,
    pub(super) out: mpsc::Sender<Out>,
    pub(super) gone: CancellationToken,
    pub(super) finished: CancellationToken,
}

impl Channels {
    /// A channel's two directions; the first can be had once.
    pub fn take(&mut self, channel: u8) -> (Option<Inlet>, Outlet) {
        let inlet = self.inlets.get_mut(usize::from(channel)).and_then(Option::take);
        (inlet, Outlet::Channel(Writer { channel, out: self.out.clone(), gone: self.gone.clone() }))
    }

    /// Cancelled when the client is gone.
    pub fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// Everything was said: waits until it is with the kernel, and lets the connection end.
    pub async fn finish(self) {
        let (told, flushed) = oneshot::channel();
        let flush = async {
            if self.out.send(Out::Flush(told)).await.is_ok() {
                let _ = flushed.await;
            }
        };
        tokio::select! {
            () = flush => {}
            () = self.gone.cancelled() => {}
        }
        self.finished.cancel();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_come_back_as_they_were() {
        for codec in [Codec::Binary, Codec::Base64] {
            let message = codec.encode(3, b"\0any \xff");
            assert_eq!(message.is_text(), codec == Codec::Base64);
            let said = codec.decode(message.into_data(), true);
            assert_eq!(said, Some(Said::Data(3, Bytes::from_static(b"\0any \xff"))));
        }
        assert_eq!(Codec::Binary.decode(Bytes::from_static(&[255, 0]), true), Some(Said::End(0)));
        assert_eq!(Codec::Binary.decode(Bytes::from_static(&[255]), true), None);
        assert_eq!(Codec::Binary.decode(Bytes::new(), true), None);
    }

    proptest! {
        #[test]
        fn no_message_makes_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), ends: bool) {
            for codec in [Codec::Binary, Codec::Base64] {
                let _ = codec.decode(Bytes::from(bytes.clone()), ends);
            }
        }
    }
}
