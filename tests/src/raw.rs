//! gRPC calls whose messages are bytes, sensible or not; and what a process takes of the host.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

pub async fn channel(socket: &Path) -> Result<Channel> {
    let url = format!("unix://{}", socket.display());
    Endpoint::from_shared(url)?.connect().await.context("connecting to the daemon")
}

/// Calls a method with one message; what it answers until it ends, or until `patience` is over (a stream that goes on).
pub async fn call(
    channel: &Channel,
    path: &str,
    namespace: &str,
    message: impl Into<Bytes>,
    patience: Duration,
) -> Result<Vec<Bytes>, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(64 << 20);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(tokio_stream::once(message.into()));
    if !namespace.is_empty() {
        let value = namespace.parse().map_err(|_| Status::internal("a namespace that is no header"))?;
        request.metadata_mut().insert("containerd-namespace", value);
    }
    let path: PathAndQuery = path.parse().map_err(|_| Status::internal("a method that is no path"))?;
    let mut answers = Vec::new();
    let gather = async {
        let mut stream = grpc.streaming(request, path, Plain).await?.into_inner();
        while let Some(answer) = stream.message().await? {
            answers.push(answer);
        }
        Ok(())
    };
    match tokio::time::timeout(patience, gather).await {
        Ok(outcome) => outcome.map(|()| answers),
        Err(_) => Ok(answers),
    }
}

/// What a process has of the host.
#[derive(Clone, Copy, Debug)]
pub struct Footprint {
    /// KiB.
    pub resident: u64,
    pub threads: u64,
    pub files: usize,
}

pub fn footprint(pid: u32) -> Footprint {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let number = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    Footprint { resident: number("VmRSS:"), threads: number("Threads:"), files }
}
