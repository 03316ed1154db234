//! HTTP/2 on the socket: who connects is served in a task of his own until he leaves or the daemon stops.
//!
//! What always holds: the bounds of [`listen`](crate::listen) are on connections, those here on what one connection may have
//! under way; after a stop nothing new is taken, and what is under way is answered.

mod bell;
mod connection;
mod line;
mod turn;

use std::sync::Arc;

use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_util::task::TaskTracker;

use super::layers::Layers;
use crate::listen::Socket;

/// Serves until it is told to stop, and then until the last connection ended.
pub async fn serve(mut socket: Socket, layers: Arc<Layers>, stop: watch::Receiver<bool>) {
    let connections = TaskTracker::new();
    let mut stopping = stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = socket.next() => accepted,
            // An error means that the sender is gone, which is as good as a stop.
            _ = stopping.wait_for(|&stop| stop) => break,
        };
        match accepted {
            Some(Ok(connection)) => {
                connections.spawn(connection::serve(connection, Arc::clone(&layers), stop.clone()));
            }
            Some(Err(error)) => tracing::debug!("a connection was lost while it was accepted: {error}"),
            None => break,
        }
    }
    drop(socket);
    connections.close();
    connections.wait().await;
}
