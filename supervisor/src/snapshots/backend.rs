//! Where a snapshotter's snapshots are: in a driver of this process, or in a plugin.
//!
//! What always holds: keys, labels and errors are the namespace's own on this side, whatever the other side makes of them.

use std::ops::ControlFlow;
use std::sync::Arc;

use longshore_snapshotter::{Commit as DriverCommit, Snapshotter as Driver};

use super::keys::{self, internal, plain, present, translate};
use super::remote::Remote;
use super::{Commit, Info, Kind, LabelChange, Mount, UpperDir, Usage};
use crate::content::store::blocking;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::namespaces::Namespace;

pub enum Backend {
    Local(Arc<dyn Driver>),
    Remote(Remote),
}

impl Backend {
    pub async fn stat(&self, namespace: &Namespace, key: &str) -> Result<Info> {
        match self {
            Self::Local(driver) => {
                let info = driver.stat(&internal(namespace, key)).map_err(translate(namespace))?;
                Ok(present(namespace, info))
            }
            Self::Remote(remote) => remote.stat(namespace, key).await,
        }
    }

    /// The namespace's snapshots, in the order of their keys.
    pub async fn list(&self, namespace: &Namespace) -> Result<Vec<Info>> {
        match self {
            Self::Local(driver) => {
                let prefix = internal(namespace, "");
                let mut found = Vec::new();
                driver.walk(&mut |info| {
                    if info.name.starts_with(&prefix) {
                        found.push(present(namespace, info.clone()));
                    }
                    ControlFlow::Continue(())
                });
                Ok(found)
            }
            Self::Remote(remote) => remote.list(namespace).await,
        }
    }

    pub async fn mounts(&self, namespace: &Namespace, key: &str) -> Result<Vec<Mount>> {
        match self {
            Self::Local(driver) => driver.mounts(&internal(namespace, key)).map_err(translate(namespace)),
            Self::Remote(remote) => remote.mounts(namespace, key).await,
        }
    }

    /// Only of a driver of this process.
    pub fn upper_dir(&self, namespace: &Namespace, key: &str) -> Result<UpperDir> {
        match self {
            Self::Local(driver) => driver.upper_dir(&internal(namespace, key)).map_err(translate(namespace)),
            Self::Remote(_) => {
                let what = format!("snapshot \"{key}\": its own directory, in a plugin's snapshotter");
                Err(Error::Unimplemented { what })
            }
        }
    }

    /// What clients may expect of it: `rebase` says that a snapshot may be given its parent when it is committed.
    pub fn capabilities(&self) -> Vec<String> {
        match self {
            Self::Local(driver) => {
                let all = [("rebase", driver.can_rebase()), ("remap-ids", driver.can_remap())];
                all.into_iter().filter(|(_, can)| *can).map(|(name, _)| name.to_owned()).collect()
            }
            Self::Remote(remote) => remote.capabilities().to_vec(),
        }
    }

    /// Whether the daemon may write into a snapshot's own directory, and stack it afterwards.
    pub fn unpacks_aside(&self) -> bool {
        matches!(self, Self::Local(driver) if driver.can_rebase())
    }

    pub async fn usage(&self, namespace: &Namespace, key: &str) -> Result<Usage> {
        match self {
            Self::Local(driver) => {
                let full = internal(namespace, key);
                call(driver, namespace, move |driver| driver.usage(&full)).await
            }
            Self::Remote(remote) => remote.usage(namespace, key).await,
        }
    }

    /// Makes a view or an active snapshot; `parent` is empty for none.
    pub async fn create(
        &self,
        kind: Kind,
        namespace: &Namespace,
        key: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let driver = match self {
            Self::Local(driver) => driver,
            Self::Remote(remote) => return remote.create(kind, namespace, key, parent, labels).await,
        };
        let full = internal(namespace, key);
        let parent = (!parent.is_empty()).then(|| internal(namespace, parent));
        call(driver, namespace, move |driver| match kind {
            Kind::View => driver.view(&full, parent.as_deref(), labels),
            Kind::Active | Kind::Committed => driver.prepare(&full, parent.as_deref(), labels),
        })
        .await
    }

    /// Commits all or none; a plugin, which knows no such thing, one after the other.
    pub async fn commit_all(&self, namespace: &Namespace, commits: &[Commit]) -> Result<()> {
        let driver = match self {
            Self::Local(driver) => driver,
            Self::Remote(remote) => {
                for commit in commits {
                    remote.commit(namespace, commit).await?;
                }
                return Ok(());
            }
        };
        let inside: Vec<Commit> = commits.iter().map(|commit| keys::inside(namespace, commit)).collect();
        call(driver, namespace, move |driver| {
            let commits: Vec<_> = inside.iter().map(borrow).collect();
            driver.commit_all(&commits)
        })
        .await
    }

    pub async fn remove(&self, namespace: &Namespace, key: &str) -> Result<()> {
        match self {
            Self::Local(driver) => {
                let full = internal(namespace, key);
                call(driver, namespace, move |driver| driver.remove(&full)).await
            }
            Self::Remote(remote) => remote.remove(namespace, key).await,
        }
    }

    /// Sets the labels that `keys` names (without a value: takes them away), or all.
    pub async fn update(
        &self,
        namespace: &Namespace,
        key: &str,
        labels: Labels,
        keys: Option<&[String]>,
    ) -> Result<Info> {
        let driver = match self {
            Self::Local(driver) => driver,
            Self::Remote(remote) => return remote.update(namespace, key, labels, keys).await,
        };
        let change = match keys {
            None => LabelChange::Replace(labels.into_iter().filter(|(_, value)| !value.is_empty()).collect()),
            Some(keys) => {
                let value = |key: &String| labels.get(key).cloned().unwrap_or_default();
                LabelChange::Merge(keys.iter().map(|key| (key.clone(), value(key))).collect())
            }
        };
        let full = internal(namespace, key);
        let info = call(driver, namespace, move |driver| driver.update(&full, change)).await?;
        Ok(present(namespace, info))
    }

    /// A plugin answers only when it has done so itself.
    pub async fn flush(&self) -> Result<()> {
        match self {
            Self::Local(driver) => {
                let driver = Arc::clone(driver);
                blocking(move || driver.flush().map_err(plain)).await
            }
            Self::Remote(_) => Ok(()),
        }
    }

    pub async fn cleanup(&self, namespace: &Namespace) -> Result<()> {
        match self {
            Self::Local(driver) => {
                let driver = Arc::clone(driver);
                blocking(move || driver.cleanup().map_err(plain)).await
            }
            Self::Remote(remote) => remote.cleanup(namespace).await,
        }
    }
}

async fn call<R: Send + 'static>(
    driver: &Arc<dyn Driver>,
    namespace: &Namespace,
    call: impl FnOnce(&dyn Driver) -> longshore_snapshotter::Result<R> + Send + 'static,
) -> Result<R> {
    let (driver, namespace) = (Arc::clone(driver), namespace.clone());
    blocking(move || call(&*driver).map_err(translate(&namespace))).await
}

fn borrow(commit: &Commit) -> DriverCommit<'_> {
    DriverCommit {
        name: &commit.name,
        key: &commit.key,
        labels: commit.labels.clone(),
        parent: commit.parent.as_deref(),
        usage: commit.usage,
    }
}
