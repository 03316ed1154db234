//! A transfer's progress, on a stream of the client's.

use std::sync::Arc;
use std::time::Duration;

use longshore_proto::containerd::types::transfer as wire;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::any::Any;
use crate::api::convert;
use crate::images::track::{Event, Tracker};
use crate::streams::Stream;

const PROGRESS: &str = "containerd.types.transfer.Progress";
/// How long a client that does not read keeps its transfer from ending.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Reporter(Stream);

/// A report under way.
pub struct Reporting {
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Reporter {
    pub fn new(stream: Stream) -> Reporter {
        Reporter(stream)
    }

    pub fn start(self, tracker: &Arc<Tracker>) -> Reporting {
        let tracker = Arc::clone(tracker);
        let (end, ended) = watch::channel(false);
        let task = tokio::spawn(async move {
            let (sender, mut events) = mpsc::channel(1);
            let stream = self.0;
            let forward = async {
                while let Some(event) = events.recv().await {
                    if stream.to_client.send(to_wire(event)).await.is_err() {
                        return;
                    }
                }
            };
            let report = async {
                tracker.report(&sender, ended).await;
                drop(sender);
            };
            tokio::join!(forward, report);
        });
        Reporting { end, task }
    }
}

impl Reporting {
    /// Says what is still to be said, and ends the stream.
    pub async fn finish(mut self) {
        self.end.send_replace(true);
        if tokio::time::timeout(PATIENCE, &mut self.task).await.is_err() {
            tracing::debug!("a client does not read the progress of its transfer");
            self.task.abort();
        }
    }
}

fn to_wire(event: Event) -> Any {
    let progress = wire::Progress {
        event: event.event,
        name: event.name,
        parents: event.parents,
        progress: convert::size(event.progress),
        total: convert::size(event.total),
        desc: event.descriptor.map(convert::descriptor),
    };
    Any::pack(PROGRESS, &progress)
}
