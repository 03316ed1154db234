//! Paths of the host that somebody named: each may be on a file system that does not answer.
//!
//! What always holds: whoever looks there holds no pod's and no container's turn, and of the daemon's threads no more than [`MOST`] may
//! wait there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Pods;
use super::config::{ContainerConfig, Mount, Seccomp};
use super::flight::Flight;
use crate::content::store::blocking;
use crate::error::{Error, Result};

/// Threads that look at paths of the host at once.
pub(super) const MOST: usize = 16;
// The others go on with everything else.
const _: () = assert!(MOST * 4 <= crate::BLOCKING_THREADS);
/// How long to wait for one of these threads.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many of them may copy checkpoints at once, which takes long: the others go on with all else.
pub(super) const COPIES: usize = MOST / 4;

impl Pods {
    /// Does what may wait for a file system of the host's.
    pub(super) async fn on_host<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let place = tokio::time::timeout(PATIENCE, self.host_threads.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(Error::ResourceExhausted {
                what: "paths of the host: file systems that they are on do not answer (look at network and FUSE mounts)"
                    .to_owned(),
                limit: "threads that wait for file systems of the host",
                max: MOST as u64,
            });
        };
        blocking(move || {
            // Whoever asked may be gone: the thread waits all the same.
            let _place = place;
            work()
        })
        .await
    }

    /// Copies a checkpoint from or to the host's file systems, when it is its turn.
    pub(super) async fn copy_on_host<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let place = self.host_copies.clone().acquire_owned().await;
        let place = place.map_err(|_| Error::Lost { what: "copying a checkpoint" })?;
        self.on_host(move || {
            let _place = place;
            work()
        })
        .await
    }

    /// Where a container's mounts come from, by their numbers. All else that it names of the host has answered, too, when this returns.
    pub(super) async fn look_at_host(
        &self,
        config: &ContainerConfig,
        flight: &Arc<Flight>,
    ) -> Result<HashMap<usize, String>> {
        let profile = matches!(config.security.seccomp, Seccomp::File(_));
        if config.mounts.is_empty() && config.devices.is_empty() && !profile {
            return Ok(HashMap::new());
        }
        let (config, flight) = (config.clone(), flight.clone());
        self.on_host(move || look(&config, &flight)).await
    }
}

fn look(config: &ContainerConfig, flight: &Flight) -> Result<HashMap<usize, String>> {
    let at = |path: &str| flight.at(format!("waiting for the host's path {path:?}"));
    let mut found = HashMap::new();
    for (number, mount) in config.mounts.iter().enumerate().filter(|(_, mount)| mount.image.is_none()) {
        at(&mount.host_path);
        found.insert(number, source(mount)?);
    }
    let devices = config.devices.iter().map(|device| &device.host_path);
    let profile = match &config.security.seccomp {
        Seccomp::File(path) => Some(path),
        _ => None,
    };
    for path in devices.chain(profile) {
        at(path);
        // What is wrong with it is said where it is used.
        let _ = std::fs::metadata(path);
    }
    Ok(found)
}

/// The path of the host, links followed: a folder is made where there is nothing.
fn source(mount: &Mount) -> Result<String> {
    let path = &mount.host_path;
    if !path.starts_with('/') {
        return Err(Error::invalid(format!("mount {path:?}"), "it is no absolute path of the host"));
    }
    match std::fs::canonicalize(path) {
        Ok(found) => Ok(found.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path)
                .map_err(|error| Error::io("making the folder of the host", path, error))?;
            Ok(path.clone())
        }
        Err(error) => Err(Error::io("looking for the folder of the host", path, error)),
    }
}
