//! One connection, in turns: what has arrived is read, its requests begin, and what they answered leaves.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;

use super::bell::Bell;
use super::line::Line;
use super::turn::Arrivals;
use crate::api::layers::Layers;
use crate::listen::Connection;

/// HTTP/2 windows in bytes: content is written in messages of a megabyte.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Calls on one connection: clients keep a wait open for every container they run.
const CALLS: u32 = 64 * 1024;
/// How long the last bytes of a connection may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves a connection until its end. After a stop it takes no further requests.
pub async fn serve(connection: Connection, layers: Arc<Layers>, mut stop: watch::Receiver<bool>) {
    let peer = connection.peer();
    let (line, arrivals) = (Line::new(connection), Arrivals::default());
    let service = service_fn(move |request| Arc::clone(&layers).answer(peer, request));
    let http = Builder::new(arrivals.clone())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(CALLS)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(line.clone()), service);
    let mut http = pin!(http);
    let mut stopping = pin!(stop.wait_for(|&stop| stop));
    let mut is_stopping = false;
    let bell = Arc::new(Bell::default());
    let ring = Waker::from(Arc::clone(&bell));
    let ended = poll_fn(|task| {
        let mut context = Context::from_waker(&ring);
        bell.begin(task.waker());
        loop {
            bell.look();
            if !is_stopping && stopping.as_mut().poll(&mut context).is_ready() {
                is_stopping = true;
                http.as_mut().graceful_shutdown();
            }
            let outcome = http.as_mut().poll(&mut context);
            let begun = arrivals.begin();
            if let Poll::Ready(outcome) = outcome {
                return Poll::Ready(outcome.map_err(|error| error.to_string()));
            }
            if !begun {
                break;
            }
        }
        // Whoever does not read is waited for.
        if let Poll::Ready(Err(error)) = line.poll_leave(&mut context) {
            return Poll::Ready(Err(error.to_string()));
        }
        if bell.end() {
            // Others get a turn first.
            task.waker().wake_by_ref();
        }
        Poll::Pending
    });
    if let Err(error) = ended.await {
        tracing::debug!(uid = peer.uid, pid = peer.pid, "a connection ended: {error}");
    }
    // Why a connection is ended is the last thing that its peer is told.
    let _ = tokio::time::timeout(LAST_WORDS, poll_fn(|context| line.poll_leave(context))).await;
}
