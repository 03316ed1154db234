//! Making a pod again from a checkpoint (checkpoint_pod.rs): a new pod as [`Pods::run`] makes one, with containers that have what the saved
//! ones had changed of their images. The saved processes go on when their containers are started.
//!
//! What always holds: a restore that fails, or that nobody waits for any more, leaves nothing; what a daemon that died was restoring, the
//! next one removes. The checkpoint is copied: whatever becomes of it later, the containers can be started.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::Spec;

use super::Pods;
use super::checkpoint_pod::Note;
use super::config::{ContainerConfig, PodConfig};
use super::flight::{Claim, Flight, as_text};
use super::joined::Wanted;
use super::record::State;
use super::run::is_the_same;
use super::saved::{Saved, SavedContainer};
use crate::content::store::blocking;
use crate::engine::names::new_id;
use crate::error::{Error, Result};
use crate::snapshots::Mount;
use crate::tasks::{CreateTask, ProcessId};

/// How long criu may take to look at the host.
const CHECK: Duration = Duration::from_secs(60);

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Its id.
    pub pod: String,
    /// Names and ids.
    pub containers: Vec<(String, String)>,
}

impl Pods {
    /// Where the images are that containers are to be started from.
    fn saved_images(&self) -> PathBuf {
        self.config.root.join("checkpoints/saved")
    }

    pub(super) fn saved_folder(&self, container: &str) -> PathBuf {
        self.saved_images().join(container)
    }

    /// Removes the images that a container was to be started from, if there are any.
    pub(super) fn forget_saved(&self, container: &str) {
        let folder = self.saved_folder(container);
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "cannot remove the images of a checkpoint");
        }
    }

    /// Removes those of containers that are no more.
    pub(super) fn sweep_saved(&self) {
        let entries = std::fs::read_dir(self.saved_images()).into_iter().flatten().flatten();
        for id in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            if self.containers.get(&self.namespace, &id).is_err() {
                self.forget_saved(&id);
            }
        }
    }

    /// Makes a pod and its containers from the checkpoint in the folder `path`. They are to be started one by one.
    pub async fn restore_pod(
        self: &Arc<Self>,
        path: &str,
        config: PodConfig,
        containers: Vec<ContainerConfig>,
    ) -> Result<Restored> {
        self.check_pod(&config)?;
        let mut names = HashSet::new();
        for container in &containers {
            if container.name.is_empty() || !names.insert(container.name.as_str()) {
                let why = "each has to have a name of its own";
                return Err(Error::invalid(format!("container {:?}", container.name), why));
            }
        }
        if containers.is_empty() {
            return Err(Error::invalid("container configurations", "there are none"));
        }
        if config.namespaces.users.is_some() {
            return Err(Error::Unimplemented { what: "restoring a pod that has users of its own".into() });
        }
        let name = config.name.to_string();
        let asked = as_text("pod", &name, &(path, &config, &containers))?;
        let what = format!("a restore of pod {name}");
        let (pods, path, of_work) = (self.clone(), PathBuf::from(path), asked.clone());
        let work = |wanted| async move { pods.make_again(path, config, containers, of_work, wanted).await };
        self.restores.run(&self.background, (&name, asked), &what, work).await
    }

    async fn make_again(
        self: &Arc<Self>,
        path: PathBuf,
        config: PodConfig,
        containers: Vec<ContainerConfig>,
        asked: String,
        wanted: Wanted,
    ) -> Result<Restored> {
        let name = config.name.to_string();
        let what = format!("pod {name}");
        match self.pod_names.claim(&name, what.clone(), asked) {
            Claim::Join(_) => Err(Error::unavailable(what, "a pod of this name is being made: ask again")),
            Claim::Made(id) => self.made_before(&id, &config, &containers),
            Claim::Mine(reservation) => {
                let flight = reservation.flight();
                let restored = Box::pin(self.restore_as(path, config, containers, &flight, &wanted)).await;
                match restored {
                    Ok(restored) => {
                        reservation.settle(Ok(restored.pod.clone()));
                        Ok(restored)
                    }
                    Err(error) => {
                        let error = Arc::new(error);
                        reservation.settle(Err(Error::Shared(error.clone())));
                        Err(Error::Shared(error))
                    }
                }
            }
        }
    }

    /// The same was asked for before, and its answer got lost.
    fn made_before(&self, id: &str, config: &PodConfig, wanted: &[ContainerConfig]) -> Result<Restored> {
        let pod = self.pod(id)?;
        let taken = || Error::already_exists("pod sandbox", format!("{} (its id is {id})", config.name));
        if !pod.is_ready() || !pod.read(|record| is_the_same(&record.config, config)) {
            return Err(taken());
        }
        let all = self.containers_of(id);
        let find = |config: &ContainerConfig| {
            let mut all = all.iter();
            let same = |record: &super::record::ContainerRecord| {
                record.restored && record.state == State::Created && record.config == *config
            };
            let found = all.find(|one| one.read(same))?;
            Some((config.name.clone(), found.id.clone()))
        };
        let containers: Option<Vec<_>> = wanted.iter().map(find).collect();
        let containers = containers.filter(|found| found.len() == all.len()).ok_or_else(taken)?;
        Ok(Restored { pod: id.to_owned(), containers })
    }

    async fn restore_as(
        self: &Arc<Self>,
        path: PathBuf,
        config: PodConfig,
        containers: Vec<ContainerConfig>,
        flight: &Flight,
        wanted: &Wanted,
    ) -> Result<Restored> {
        flight.at("reading its checkpoint");
        let (pod_config, of_saved) = (config.clone(), containers.clone());
        let saved = self.on_host(move || Saved::open(&path)?.containers(&pod_config, &of_saved)).await?;
        flight.at("asking criu whether it works");
        criu_works().await?;
        wanted.check("a restore")?;
        let id = new_id();
        let note = self.note(&id, Note::Restore).await?;
        self.make_pod(id.clone(), config, flight).await?;
        let made = self.make_containers(&id, containers, saved, flight, wanted).await;
        match made {
            Ok(containers) => Ok(Restored { pod: id, containers }),
            Err(error) => {
                flight.at("undoing what failed");
                if let Err(left) = self.remove_pod(&id).await {
                    tracing::warn!(pod = %id, error = %left, "something is left of a pod that was not restored; the next start removes it");
                    note.leave();
                }
                Err(error)
            }
        }
    }

    async fn make_containers(
        self: &Arc<Self>,
        pod: &str,
        containers: Vec<ContainerConfig>,
        saved: Vec<SavedContainer>,
        flight: &Flight,
        wanted: &Wanted,
    ) -> Result<Vec<(String, String)>> {
        flight.at("making its containers");
        let mut made = Vec::new();
        for (config, saved) in containers.into_iter().zip(saved) {
            wanted.check("a restore")?;
            let name = config.name.clone();
            made.push((name, self.create_from(pod, config, Some(Arc::new(saved))).await?));
        }
        wanted.check("a restore")?;
        Ok(made)
    }

    /// Gives a container in the making what was saved of it.
    pub(super) async fn take_saved(
        &self,
        id: &str,
        saved: Arc<SavedContainer>,
        (spec, mounts): (&[u8], Vec<Mount>),
    ) -> Result<()> {
        let (folder, spec) = (self.saved_folder(id), spec.to_vec());
        blocking(move || {
            let spec: Spec = serde_json::from_slice(&spec).map_err(|source| Error::Record {
                table: "spec",
                key: saved.kept.name.clone(),
                source: source.into(),
            })?;
            saved.check(&spec)?;
            saved.apply_changes(&mounts)?;
            saved.copy_images(&folder)
        })
        .await
    }

    /// Has the saved processes of a container go on; its first one's pid.
    pub(super) async fn start_saved(&self, id: &str, task: CreateTask) -> Result<u32> {
        self.tasks.create(&self.namespace, id, task).await?;
        match self.tasks.start(&self.namespace, id, ProcessId::Init).await {
            Ok(pid) => {
                self.forget_saved(id);
                Ok(pid)
            }
            Err(error) => {
                self.discard_task(id).await;
                Err(error)
            }
        }
    }
}

/// Refuses with criu's own reason where it does not work.
async fn criu_works() -> Result<()> {
    let refuse = |why: String| Error::Unimplemented {
        what: format!("restoring from a checkpoint on this host ({why}), which"),
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = tokio::process::Command::new("criu");
    command.arg("check").env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let ended = tokio::time::timeout(CHECK, command.output()).await;
    let said = match ended {
        Ok(Ok(said)) => said,
        Ok(Err(error)) => return Err(refuse(format!("criu cannot be run: {error}"))),
        Err(_) => return Err(refuse(format!("criu check took longer than {} s", CHECK.as_secs()))),
    };
    if said.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&said.stderr);
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| line.contains("Error")).take(8).collect();
    Err(refuse(format!("criu check says: {}", lines.join("; "))))
}
