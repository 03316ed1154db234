//! The end of a sandbox: its shim is told to leave, and what it leaves behind is removed.

use std::sync::Arc;

use jiff::Timestamp;
use longshore_proto::containerd::runtime::sandbox::v1 as api;
use longshore_proto::longshore::shim::v1::ExitRecord;
use longshore_proto::ttrpc::Code;

use super::super::client::Failure;
use super::super::foreign::{bundle, delete};
use super::super::types::Exit;
use super::super::{carried_through, limits, wire};
use super::{Sandbox, Sandboxes, Shared};
use crate::error::Result;
use crate::namespaces::Namespace;

/// What a sandbox ended with whose shim cannot say: as if killed by SIGKILL.
const LOST: u32 = 137;
/// Marks a sandbox that was started.
const STARTED: &str = "started";

impl Sandboxes {
    /// Takes a sandbox down with everything in it; goes on even if the caller does not wait.
    ///
    /// # Errors
    /// NotFound; the shim refuses.
    pub async fn shutdown(&self, namespace: &Namespace, id: &str) -> Result<()> {
        let (shared, sandbox) = (self.inner.clone(), self.inner.find(namespace, id)?);
        carried_through("the shutdown of a sandbox", async move {
            let _turn = sandbox.turn.lock().await;
            // Another may have been faster.
            shared.find(&sandbox.namespace, &sandbox.id)?;
            let request = api::ShutdownSandboxRequest { sandbox_id: sandbox.id.clone() };
            let asked: Result<api::ShutdownSandboxResponse, Failure> =
                sandbox.call("ShutdownSandbox", &request, limits::DELETE).await;
            match asked {
                Ok(_) => wait_for_the_shim(&sandbox).await,
                Err(Failure::Closed(_)) => {}
                Err(Failure::Refused(error)) if error.code == Code::NotFound => {}
                Err(failure) => return Err(wire::failure(&sandbox.id, "shut the sandbox down", &failure)),
            }
            take_down(&shared, &sandbox).await;
            Ok(())
        })
        .await
    }
}

/// A shim that was told to leave does so soon, or is killed later.
pub async fn wait_for_the_shim(sandbox: &Sandbox) {
    let control = sandbox.control.borrow().clone();
    if let Some(control) = control
        && tokio::time::timeout(limits::SHIM_EXIT, control.closed()).await.is_err()
    {
        tracing::warn!(sandbox = sandbox.id, "its shim did not leave");
    }
}

/// Removes a sandbox and whatever is left of it.
pub async fn take_down(shared: &Arc<Shared>, sandbox: &Sandbox) {
    sandbox.ended.cancel();
    sandbox.control.send_replace(None);
    let (manager, runtime) = (&shared.manager, &sandbox.runtime);
    delete::clean_up_unstarted(manager, runtime, &sandbox.namespace, &sandbox.id, &sandbox.bundle).await;
    if let Some(path) = sandbox.address.path() {
        // A shim that was killed could not remove it.
        let _ = std::fs::remove_file(path);
    }
    shared.ended(sandbox, Exit { status: LOST, at: Timestamp::now(), oom_killed: false });
    let bundle = sandbox.bundle.clone();
    let _ = tokio::task::spawn_blocking(move || bundle::remove(&bundle)).await;
    shared.release(&sandbox.namespace, &sandbox.id);
}

impl Sandbox {
    /// Notes, for the daemon after this one, that the end is worth an event.
    pub(super) fn note_start(&self) {
        let path = self.bundle.path().join(STARTED);
        if let Err(error) = std::fs::write(&path, b"") {
            tracing::warn!(sandbox = self.id, %error, "cannot note that the sandbox was started");
        }
    }

    pub(super) fn was_started(&self) -> bool {
        self.bundle.path().join(STARTED).exists()
    }

    /// Notes that the end was published.
    pub(super) fn note_end(&self, exit: Exit) {
        let record = ExitRecord {
            container_id: self.id.clone(),
            exit_status: exit.status,
            exited_at: Some(wire::wire_timestamp(exit.at)),
            ..ExitRecord::default()
        };
        if let Err(error) = self.bundle.write_exit_record(&record) {
            tracing::debug!(sandbox = self.id, %error, "cannot note the end of the sandbox");
        }
    }

    /// The end that was published.
    pub(super) fn known_end(&self) -> Option<Exit> {
        self.bundle.exit_record("").as_ref().map(wire::exit)
    }
}
