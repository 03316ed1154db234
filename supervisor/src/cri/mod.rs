//! The Container Runtime Interface: what a kubelet asks of the daemon, translated to [`pods`](crate::pods). A file per verb.
//!
//! What always holds: wire types stop here, and nothing is kept here.

#![forbid(unsafe_code)]

mod attach;
mod checkpoint;
mod container_stats;
mod container_status;
mod convert;
mod create_container;
mod events;
mod exec;
mod exec_sync;
mod image_fs_info;
mod image_status;
mod list_containers;
mod list_images;
mod list_pod_sandbox;
mod metrics;
mod pod_sandbox_stats;
mod pod_sandbox_status;
mod port_forward;
mod pull_image;
mod remove_container;
mod remove_image;
mod remove_pod_sandbox;
mod reopen_container_log;
mod run_pod_sandbox;
mod runtime_config;
mod services;
mod start_container;
mod status;
mod stop_container;
mod stop_pod_sandbox;
pub mod streaming;
mod streams;
mod update_container_resources;
mod update_pod_sandbox_resources;
mod version;

use std::sync::Arc;

use longshore_proto::runtime::v1 as wire;
use tonic::{Response, Status};

use crate::config;
use crate::error::Error;
use crate::pods::Pods;
use streaming::Streaming;

/// Entries that a streamed list sends in one message.
const BATCH: usize = 100;

/// Messages that wait for a client to read them, in a streamed answer.
const BUFFER: usize = 16;

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = tokio_stream::wrappers::ReceiverStream<Result<T, Status>>;

/// Both services.
#[derive(Clone)]
pub struct Cri {
    pods: Arc<Pods>,
    streaming: Arc<Streaming>,
}

impl Cri {
    /// Serves streams, too, from now on.
    pub fn new(pods: Arc<Pods>, config: &config::Cri) -> Result<Self, Error> {
        let streaming = Streaming::open(config, Arc::new(streams::Streams(Arc::clone(&pods))))?;
        Ok(Self { pods, streaming })
    }

    /// Ends the streams of all clients.
    pub async fn shutdown(&self) {
        self.streaming.shutdown().await;
    }
}

/// The field a request cannot do without.
fn required<T>(field: Option<T>, what: &'static str) -> Result<T, Error> {
    field.ok_or_else(|| Error::invalid(what, "is missing"))
}

/// A list in pieces, each made to a message by `wrap`.
fn in_batches<T, M>(all: Vec<T>, wrap: impl Fn(Vec<T>) -> M + Send + 'static) -> Stream<M>
where
    T: Send + 'static,
    M: Send + 'static,
{
    let (out, receiver) = tokio::sync::mpsc::channel(BUFFER);
    tokio::spawn(async move {
        let mut rest = all.into_iter();
        loop {
            let batch: Vec<T> = rest.by_ref().take(BATCH).collect();
            if batch.is_empty() || out.send(Ok(wrap(batch))).await.is_err() {
                return;
            }
        }
    });
    Stream::new(receiver)
}

/// Nanoseconds since 1970; 0: never.
fn nanos(at: Option<jiff::Timestamp>) -> i64 {
    at.map_or(0, |at| i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX))
}

fn number(value: u64) -> Option<wire::UInt64Value> {
    Some(wire::UInt64Value { value })
}

/// Whether labels have all that a selector asks for.
fn selects(
    selector: &std::collections::HashMap<String, String>,
    labels: &std::collections::BTreeMap<String, String>,
) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
