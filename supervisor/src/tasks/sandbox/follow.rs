//! Following a sandbox: its end by Wait, its shim's end by the connection.

use std::sync::Arc;
use std::time::Duration;

use longshore_proto::containerd::runtime::sandbox::v1 as api;

use super::super::client::{Connection, Failure};
use super::super::foreign::follow as shim;
use super::super::limits;
use super::super::types::Exit;
use super::super::wire;
use super::{Sandbox, Shared, end};

/// Follows the shim until it is gone or the sandbox is taken down; a connection that ends is made anew while somebody listens.
pub fn follow(shared: &Arc<Shared>, sandbox: Arc<Sandbox>) {
    let shared = shared.clone();
    tokio::spawn(async move {
        let ended = sandbox.ended.clone();
        tokio::select! {
            () = ended.cancelled() => return,
            () = until_the_shim_is_gone(&sandbox) => {}
        }
        let _turn = sandbox.turn.lock().await;
        if !sandbox.ended.is_cancelled() {
            tracing::warn!(sandbox = sandbox.id, namespace = %sandbox.namespace, "the shim of a sandbox is gone");
            end::take_down(&shared, &sandbox).await;
        }
    });
}

async fn until_the_shim_is_gone(sandbox: &Sandbox) {
    let mut pause = Duration::from_millis(50);
    loop {
        let control = sandbox.control.borrow().clone();
        let Some(control) = control else { return };
        control.closed().await;
        loop {
            tokio::time::sleep(pause).await;
            match shim::connect(&sandbox.address).await {
                Ok(socket) => match Connection::speaking(socket, control.dialect()) {
                    Ok(again) => {
                        sandbox.control.send_replace(Some(again));
                        break;
                    }
                    Err(error) => tracing::warn!(sandbox = sandbox.id, %error, "cannot take up a connection"),
                },
                Err(error) if shim::is_gone(&error) => return,
                Err(error) => tracing::warn!(sandbox = sandbox.id, %error, "cannot reconnect to a shim"),
            }
            pause = (pause * 2).min(Duration::from_secs(30));
        }
    }
}

/// Follows a sandbox that was started until it ended.
pub fn follow_end(shared: &Arc<Shared>, sandbox: Arc<Sandbox>) {
    let shared = shared.clone();
    tokio::spawn(async move {
        let ended = sandbox.ended.clone();
        tokio::select! {
            () = ended.cancelled() => {}
            exit = end_of(&sandbox) => if let Some(exit) = exit {
                shared.ended(&sandbox, exit);
            },
        }
    });
}

async fn end_of(sandbox: &Sandbox) -> Option<Exit> {
    let request = api::WaitSandboxRequest { sandbox_id: sandbox.id.clone() };
    loop {
        let answer: Result<api::WaitSandboxResponse, Failure> =
            sandbox.call("WaitSandbox", &request, limits::FOREVER).await;
        match answer {
            Ok(answer) => {
                let at = wire::timestamp(answer.exited_at.as_ref());
                return Some(Exit { status: answer.exit_status, at, oom_killed: false });
            }
            // It cannot say; the end of the shim is the end of the sandbox.
            Err(Failure::Refused(error)) => {
                tracing::debug!(sandbox = sandbox.id, %error, "its shim does not wait");
                return None;
            }
            Err(failure) => {
                tracing::debug!(sandbox = sandbox.id, %failure, "waiting for a sandbox was interrupted");
                tokio::time::sleep(limits::RECONNECT).await;
            }
        }
    }
}
