use longshore_proto::runtime::v1 as wire;
use tokio::sync::broadcast::error::RecvError;

use super::pod_sandbox_status::pod_status;
use super::{BUFFER, Cri, Stream, nanos};
use crate::error::{Error, Result};
use crate::pods::events::{Event, Happened};

impl Cri {
    pub(super) async fn do_get_container_events(
        &self,
        _request: wire::GetEventsRequest,
    ) -> Result<Stream<wire::ContainerEventResponse>> {
        let mut events = self.pods.events.subscribe();
        let (out, receiver) = tokio::sync::mpsc::channel(BUFFER);
        let cri = self.clone();
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    // The client has gone.
                    () = out.closed() => return,
                };
                let message = match event {
                    Ok(event) => Ok(cri.event(&event)),
                    // Who lists again afterwards has missed nothing.
                    Err(RecvError::Lagged(missed)) => Err(Error::unavailable(
                        "events of containers",
                        format!("{missed} were not read in time: list, and subscribe again"),
                    )
                    .into()),
                    Err(RecvError::Closed) => return,
                };
                let last = message.is_err();
                if out.send(message).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Stream::new(receiver))
    }

    /// With the pod as it is now.
    fn event(&self, event: &Event) -> wire::ContainerEventResponse {
        let kind = match event.what {
            Happened::Created => wire::ContainerEventType::ContainerCreatedEvent,
            Happened::Started => wire::ContainerEventType::ContainerStartedEvent,
            Happened::Stopped => wire::ContainerEventType::ContainerStoppedEvent,
            Happened::Deleted => wire::ContainerEventType::ContainerDeletedEvent,
        };
        wire::ContainerEventResponse {
            container_id: event.id.clone(),
            container_event_type: kind.into(),
            created_at: nanos(Some(event.at)),
            pod_sandbox_status: event.sandbox.as_deref().map(pod_status),
            containers_statuses: self.statuses(&event.pod),
        }
    }
}
