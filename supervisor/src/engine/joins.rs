//! Namespaces of other containers that a container joins: who they are now. Asked at every start, because a process id
//! is only good for one run.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::Engine;
use super::config::ContainerConfig;
use super::conflict::Conflict;
use super::process::{FirstProcess, path_of};
use super::registry::Entry;
use super::spec::namespaces::{Ipc, Joins, Pid};
use super::state::Status;
use crate::error::Result;

impl Engine {
    /// Namespaces that the container joins, which `held` keeps open, and the folder of its shared memory if it has one with others.
    pub(super) fn joins(
        &self,
        id: &str,
        config: &ContainerConfig,
        held: &mut Vec<OwnedFd>,
    ) -> Result<(Joins, Option<PathBuf>)> {
        let mut joins = Joins::default();
        let mut hold = |donor: &Entry, kind: &str| -> Result<String> {
            let namespace = FirstProcess::of(donor.state().pid, &donor.id)?.namespace(kind)?;
            let path = path_of(&namespace);
            held.push(namespace);
            Ok(path)
        };
        let mut shm = None;
        match Ipc::parse(&config.ipc_mode)? {
            Ipc::Shareable => shm = Some(self.make_shm(id, config.shm_size)?),
            Ipc::Container(name) => {
                let donor = self.donor(&name, "IPC")?;
                let folder = self.shm_folder(&donor.id);
                if !folder.is_dir() {
                    let why =
                        "non-shareable IPC (hint: use IpcMode:shareable for the donor container)".into();
                    return Err(Conflict::Join { what: "IPC", name, why }.into());
                }
                joins.ipc = Some(hold(&donor, "ipc")?);
                shm = Some(folder);
            }
            Ipc::Private | Ipc::NoShm | Ipc::Host => {}
        }
        if let Pid::Container(name) = Pid::parse(&config.pid_mode)? {
            let donor = self.donor(&name, "PID namespace")?;
            joins.pid = Some(hold(&donor, "pid")?);
        }
        Ok((joins, shm))
    }

    /// A container that runs.
    fn donor(&self, name: &str, what: &'static str) -> Result<Arc<Entry>> {
        let refuse = |why: String| Conflict::Join { what, name: name.to_owned(), why }.into();
        let entry = match self.find(name) {
            Ok(entry) => entry,
            Err(error) => return Err(refuse(error.for_people())),
        };
        match entry.status() {
            Status::Running | Status::Paused if entry.state().pid != 0 => Ok(entry),
            _ => Err(refuse(format!("container {} is not running", entry.id))),
        }
    }
}
