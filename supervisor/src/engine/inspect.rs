//! Everything about one container.

use super::Engine;
use super::config::Record;
use super::list::Summary;
use super::spec::{env, mounts, security::Security};
use super::state::Status;
use super::volumes::MountPoint;
use crate::error::Result;

/// What `inspect` shows.
#[derive(Clone, Debug)]
pub struct Inspected {
    pub summary: Summary,
    pub record: Record,
    pub networks: Vec<super::network::Attachment>,
    pub log_path: String,
    pub snapshotter: String,
    pub runtime: String,
    /// What of /proc and /sys is hidden, and what cannot be written.
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    /// Empty while no task exists.
    pub bundle: String,
    /// With HOME as far as it is known without looking into the container.
    pub process_env: Vec<String>,
    pub mounts: Vec<MountPoint>,
    /// Places where the image wants volumes.
    pub volumes: Vec<String>,
    /// Folder of its `hosts`, `hostname` and `resolv.conf`.
    pub files: String,
    /// Processes that were added and have not ended.
    pub execs: Vec<String>,
    /// Empty: none.
    pub apparmor: String,
}

impl Engine {
    pub fn inspect(&self, text: &str) -> Result<Inspected> {
        let entry = self.find(text)?;
        let record = entry.record();
        let bundle = self.config.state.join("tasks").join(self.namespace.as_str()).join(&entry.id);
        let security = Security::parse(&record.config)?;
        let bare = record.config.privileged || security.bare_system_paths;
        Ok(Inspected {
            masked_paths: if bare { Vec::new() } else { mounts::masked_paths() },
            readonly_paths: if bare { Vec::new() } else { mounts::readonly_paths() },
            summary: self.summary(&entry),
            log_path: self.log_path(&entry.id).display().to_string(),
            snapshotter: self.snapshotter_of(&record)?.name().to_owned(),
            runtime: self.runtime_for(&record.config.runtime)?,
            bundle: if record.state.status.is_live() { bundle.display().to_string() } else { String::new() },
            networks: self.attachments(&entry.id, &record),
            mounts: self.mount_points(&record),
            process_env: env::merge(&record.process_env, &[]),
            volumes: volumes(&record),
            files: self.folder(&entry.id).display().to_string(),
            execs: self.tasks.execs(&self.namespace, &entry.id),
            apparmor: security.apparmor,
            record,
        })
    }
}

/// What is mounted without a name and was not asked for is the image's.
fn volumes(record: &Record) -> Vec<String> {
    let asked = |target: &String| record.config.mounts.iter().any(|mount| mount.target == *target);
    let anonymous = record.mounts().iter().filter(|mount| mount.volume.anonymous);
    let places = anonymous.map(|mount| mount.target.clone()).filter(|target| !asked(target));
    record.volumes.iter().cloned().chain(places).collect()
}

impl Inspected {
    /// The exit code, once there is one.
    pub fn exit_code(&self) -> Option<u32> {
        let state = &self.record.state;
        (matches!(state.status, Status::Restarting | Status::Exited | Status::Dead)
            || !state.error.is_empty())
        .then_some(state.exit_code)
    }
}
