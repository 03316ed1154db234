//! Containers of our own shim that another OCI runtime runs (`BinaryName` in runc's options): when their shim is gone, that
//! runtime must be told, which our shim's own `delete` command does.
//!
//! What always holds: a bundle without the shim's note of such a runtime costs one look.

#![forbid(unsafe_code)]

use super::super::Inner;
use super::super::bundle::Bundle;
use super::command::Subject;
use super::mounts;
use crate::namespaces::Namespace;

/// Where our shim notes which runtime it drives.
const NOTE: &str = "oci-runtime.json";

/// Has the runtime delete the container, and unmounts its root.
pub async fn clean_up(manager: &Inner, namespace: &Namespace, id: &str, bundle: &Bundle) {
    if !bundle.path().join(NOTE).exists() {
        return;
    }
    let subject = Subject { namespace, id, bundle: bundle.path() };
    if let Err(error) = manager.commands.delete(&manager.pool.by_protocol(), subject).await {
        tracing::error!(container = id, %error, "cannot clean up after a shim");
    }
    let folder = bundle.path().to_owned();
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || mounts::unmount_below(&folder)).await {
        tracing::error!(container = id, %error, "cannot unmount what a shim left");
    }
}
