//! What a transfer holds while it runs: a lease of its own.
//!
//! What always holds: the lease ends with [`Held::end`], after a day, or when the daemon starts again.

#![forbid(unsafe_code)]

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::pull::PURPOSE;
use crate::error::Result;
use crate::gc::Collector;
use crate::labels::Labels;
use crate::leases::{Leases, Resource};
use crate::namespaces::Namespace;

/// The lease's life in case nobody ends it.
const LIFE: SignedDuration = SignedDuration::from_hours(24);

/// See the module.
pub struct Held {
    leases: Arc<Leases>,
    gc: Arc<Collector>,
    namespace: Namespace,
    id: String,
}

impl Held {
    pub async fn begin(leases: &Arc<Leases>, gc: &Arc<Collector>, namespace: &Namespace) -> Result<Held> {
        let expire = Timestamp::now().checked_add(LIFE).unwrap_or(Timestamp::MAX);
        let labels = Labels::from([(PURPOSE.to_owned(), "transfer".to_owned())]);
        let id = leases.create(namespace, None, labels, Some(expire)).await?.id;
        Ok(Held { leases: leases.clone(), gc: gc.clone(), namespace: namespace.clone(), id })
    }

    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    pub fn lease(&self) -> &str {
        &self.id
    }

    pub async fn hold(&self, resource: &Resource) -> Result<()> {
        self.leases.add(&self.namespace, &self.id, resource).await
    }

    /// Gives what is held to a client's lease as well.
    pub async fn share(&self, lease: &str) -> Result<()> {
        for resource in self.leases.resources(&self.namespace, &self.id)? {
            self.leases.add(&self.namespace, lease, &resource).await?;
        }
        Ok(())
    }

    pub async fn end(self) {
        if let Err(error) = self.leases.delete(&self.namespace, &self.id).await {
            tracing::warn!("ending the lease of a transfer: {error}");
        }
        self.gc.trigger();
    }
}
