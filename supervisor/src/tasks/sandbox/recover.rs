//! Finding sandboxes again after the daemon was away.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::bundle::{Bundle, tasks_folder};
use super::super::client::{Connection, Dialect};
use super::super::foreign::{Address, ForeignRecord, TaskApi, bundle, delete, follow as shim, log};
use super::super::limits;
use super::super::recover::folders;
use super::super::types::Exit;
use super::{Sandbox, Sandboxes, Shared, end, follow};
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

impl Sandboxes {
    /// Finds the sandboxes that were there before this daemon; how many live. Called once, before requests are served.
    ///
    /// # Errors
    /// The folder of bundles cannot be read.
    pub async fn recover(&self) -> Result<usize> {
        let folder = tasks_folder(&self.inner.state());
        let mut found = Vec::new();
        let at = |source| Error::io("reading the sandboxes in", &folder, source);
        for (name, path) in folders(&folder).map_err(at)? {
            let Ok(namespace) = Namespace::parse(&name) else { continue };
            for (id, path) in folders(&path).map_err(at)? {
                found.push((namespace.clone(), id, path));
            }
        }
        let alive = futures::stream::iter(found)
            .map(|(namespace, id, path)| one(&self.inner, namespace, id, path))
            .buffer_unordered(limits::RECOVER_AT_ONCE)
            .filter(|alive| std::future::ready(*alive))
            .count()
            .await;
        bundle::sweep_work(&self.inner.state(), &self.inner.root());
        Ok(alive)
    }
}

/// Whether it lives.
async fn one(shared: &Arc<Shared>, namespace: Namespace, id: String, path: PathBuf) -> bool {
    let bundle = Bundle::at(path);
    let record = bundle.record().and_then(|record| record.foreign);
    let acknowledged = bundle.is_acknowledged();
    let Some(record) = record.filter(|record| acknowledged && !record.address.is_empty()) else {
        tracing::info!(sandbox = id, "removed a sandbox that was never finished");
        let record = bundle.record().and_then(|record| record.foreign).unwrap_or_default();
        delete::clean_up_unstarted(&shared.manager, &record.runtime(), &namespace, &id, &bundle).await;
        let _ = tokio::task::spawn_blocking(move || bundle::remove(&bundle)).await;
        return false;
    };
    let sandbox = restored(namespace, id, bundle, &record);
    shared.insert(sandbox.clone());
    let control = match shim::connect(&sandbox.address).await {
        Ok(socket) => {
            let namespace = Some(sandbox.namespace.as_str().into());
            Connection::speaking(socket, Dialect { task: sandbox.api.service(), namespace })
        }
        Err(error) => Err(error),
    };
    match control {
        Ok(control) => {
            sandbox.control.send_replace(Some(control));
            if let Err(error) = log::drain(&sandbox.bundle, &sandbox.id, sandbox.ended.clone()) {
                tracing::warn!(sandbox = sandbox.id, %error, "cannot read the log of a shim");
            }
            follow::follow(shared, sandbox.clone());
            if sandbox.was_started() && sandbox.exit.borrow().is_none() {
                follow::follow_end(shared, sandbox);
            }
            true
        }
        Err(error) => {
            tracing::warn!(sandbox = sandbox.id, %error, "the shim of a sandbox is gone");
            end::take_down(shared, &sandbox).await;
            false
        }
    }
}

fn restored(namespace: Namespace, id: String, bundle: Bundle, record: &ForeignRecord) -> Arc<Sandbox> {
    let sandbox = Sandbox {
        namespace,
        id,
        bundle,
        runtime: record.runtime(),
        address: Address::restored(record.address.clone()),
        api: TaskApi::from_number(record.api).unwrap_or(TaskApi::V2),
        control: watch::Sender::new(None),
        exit: watch::Sender::new(None),
        started: AtomicBool::new(false),
        turn: tokio::sync::Mutex::default(),
        ended: CancellationToken::new(),
    };
    let known: Option<Exit> = sandbox.known_end();
    // An end that was published is not published again.
    sandbox.started.store(sandbox.was_started() && known.is_none(), std::sync::atomic::Ordering::Release);
    sandbox.exit.send_replace(known);
    Arc::new(sandbox)
}
