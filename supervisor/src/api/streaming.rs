//! containerd.services.streaming.v1: a client's stream, until a request of the same client takes it.
//!
//! What always holds: a client that opens a stream and says nothing, or whose stream nobody takes, is told so after a bounded time.

use std::sync::Arc;
use std::time::Duration;

use longshore_proto::containerd::services::streaming::v1 as wire;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{STREAM_BUFFER, namespace};
use crate::any::Any;
use crate::error::Error;
use crate::namespaces::Namespace;
use crate::services::Services;
use crate::streams::{Broken, Served, Streams, WAIT};

pub struct Service(pub Services);

const INIT: &str = "containerd.services.streaming.v1.StreamInit";
const EMPTY: &str = "google.protobuf.Empty";
/// How long the first message may take.
const FIRST: Duration = Duration::from_secs(30);

type Answers = mpsc::Sender<Result<prost_types::Any, Status>>;

#[tonic::async_trait]
impl wire::streaming_server::Streaming for Service {
    type StreamStream = ReceiverStream<Result<prost_types::Any, Status>>;

    async fn stream(
        &self,
        request: Request<Streaming<prost_types::Any>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let namespace = namespace(&request)?;
        let (answers, receiver) = mpsc::channel(STREAM_BUFFER);
        let streams = Arc::clone(&self.0.streams);
        let requests = request.into_inner();
        tokio::spawn(async move {
            if let Err(status) = run(&streams, &namespace, requests, &answers).await {
                // The client may be gone: then nobody is there to be told.
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn run(
    streams: &Arc<Streams>,
    namespace: &Namespace,
    mut requests: Streaming<prost_types::Any>,
    answers: &Answers,
) -> Result<(), Status> {
    let first = match tokio::time::timeout(FIRST, requests.next()).await {
        Ok(Some(first)) => Any::from(first?),
        Ok(None) => return Ok(()),
        Err(_) => {
            let what = "the first message of a stream".to_owned();
            return Err(Error::Timeout { what, seconds: FIRST.as_secs() }.into());
        }
    };
    if !first.is(INIT) {
        let why = format!("must be {INIT}, not {:?}", first.type_url.chars().take(100).collect::<String>());
        return Err(Error::invalid("the first message of a stream", why).into());
    }
    let init: wire::StreamInit = prost::Message::decode(first.value)
        .map_err(|error| Error::invalid("the first message of a stream", error.to_string()))?;
    let served = streams.open(namespace, &init.id)?;
    tracing::debug!(stream = init.id, "a stream waits");
    let empty = prost_types::Any { type_url: EMPTY.to_owned(), value: Vec::new() };
    if answers.send(Ok(empty)).await.is_err() {
        return Ok(());
    }
    serve(streams, &init.id, served, requests, answers).await
}

async fn serve(
    streams: &Streams,
    id: &str,
    mut served: Served,
    mut requests: Streaming<prost_types::Any>,
    answers: &Answers,
) -> Result<(), Status> {
    let waited = tokio::time::sleep(WAIT);
    tokio::pin!(waited);
    let mut may_expire = true;
    let mut to_daemon = Some(served.to_daemon.clone());
    loop {
        let sender = to_daemon.clone();
        let incoming = async {
            let Some(sender) = sender else { return std::future::pending().await };
            // No message is taken before there is room for it.
            match sender.reserve_owned().await {
                Ok(room) => (Some(room), requests.next().await),
                Err(_) => (None, None),
            }
        };
        tokio::select! {
            said = served.from_daemon.recv() => match said {
                Some(any) => {
                    if answers.send(Ok(any.into())).await.is_err() {
                        break;
                    }
                }
                // The daemon is done with it.
                None => return Ok(()),
            },
            received = incoming => match received {
                (Some(room), Some(Ok(any))) => drop(room.send(Ok(any.into()))),
                (Some(room), Some(Err(status))) => {
                    room.send(Err(Broken(status.message().to_owned())));
                    return Ok(());
                }
                // Ended in order, or no longer wanted; what the daemon has to say still goes out.
                _ => forget(&mut to_daemon, &mut served),
            },
            () = answers.closed() => break,
            () = &mut waited, if may_expire => {
                may_expire = false;
                if streams.expire(&served) {
                    let what = format!("stream {id:?}: no request has used it");
                    return Err(Error::Timeout { what, seconds: WAIT.as_secs() }.into());
                }
            }
        }
    }
    if let Some(sender) = to_daemon {
        let _ = sender.send(Err(Broken("the client went away".to_owned()))).await;
    }
    Ok(())
}

// The last sender of the direction goes, which the daemon's end sees as the end.
fn forget(to_daemon: &mut Option<mpsc::Sender<crate::streams::Received>>, served: &mut Served) {
    *to_daemon = None;
    served.to_daemon = mpsc::channel(1).0;
}
