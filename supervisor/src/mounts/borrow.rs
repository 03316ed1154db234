//! Mounts for the daemon's own use: what mount(2) does not know is activated for a while.
//!
//! What always holds: what was activated goes by [`Borrowed::give_back`]; if that is never called, with the next collection, for nothing refers
//! to it.

use std::sync::Arc;

use super::{MountManager, Wanted, needs_activation};
use crate::error::Result;
use crate::namespaces::Namespace;
use crate::snapshots::Mount;

/// Mounts that can be made as they are.
pub struct Borrowed {
    mounts: Vec<Mount>,
    activation: Option<(Arc<MountManager>, Namespace, String)>,
}

impl MountManager {
    /// Activates what of `mounts` needs it.
    pub async fn borrow(self: &Arc<Self>, namespace: &Namespace, mounts: Vec<Mount>) -> Result<Borrowed> {
        if !needs_activation(&mounts, &[]) {
            return Ok(Borrowed { mounts, activation: None });
        }
        let name = format!("borrowed-{}", crate::hex::encode(&rand::random::<[u8; 8]>()));
        let wanted = Wanted { mounts, temporary: true, ..Wanted::default() };
        let mounts = self.activate(namespace, &name, wanted).await?.system;
        Ok(Borrowed { mounts, activation: Some((Arc::clone(self), namespace.clone(), name)) })
    }
}

impl Borrowed {
    pub fn list(&self) -> Vec<Mount> {
        self.mounts.clone()
    }

    pub async fn give_back(self) -> Result<()> {
        match self.activation {
            Some((manager, namespace, name)) => manager.deactivate(&namespace, &name).await,
            None => Ok(()),
        }
    }
}
