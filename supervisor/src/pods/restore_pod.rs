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
use super::checkpoint::Folder;
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

    /// Removes the images that a restored container was to be started from, if they are still there.
    pub(super) async fn forget_saved(&self, container: &str) {
        let folder = self.saved_folder(container);
        let removed = blocking(move || match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("removing the images of a checkpoint", folder, error))
            }
            _ => Ok(()),
        });
        if let Err(error) = removed.await {
            tracing::warn!(container, %error, "the next start tries it again");
        }
    }

    /// Removes those of containers that are no more; nothing waits for it. Before any other container can be made.
    pub(super) fn sweep_saved(self: &Arc<Self>) {
        let entries = std::fs::read_dir(self.saved_images()).into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().into_string().ok());
        // One whose record cannot be read may be there all the same.
        let is_gone = |id: &String| {
            let found = self.containers.get(&self.namespace, id);
            found.is_err_and(|error| error.is_not_found())
        };
        let gone: Vec<String> = ids.filter(is_gone).collect();
        let pods = self.clone();
        self.background.spawn(async move {
            for id in gone {
                pods.forget_saved(&id).await;
            }
        });
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
                let (flight, id) = (reservation.flight(), new_id());
                let work = self.restore_as(&id, path, config, containers, &flight, &wanted);
                match Box::pin(work).await {
                    Ok(restored) => {
                        reservation.settle(Ok(id));
                        Ok(restored)
                    }
                    Err(error) => {
                        let error = Arc::new(error);
                        // What could not be undone has its name until it is gone.
                        let left = self.pod(&id).map(|_| id);
                        reservation.settle(left.map_err(|_| Error::Shared(error.clone())));
                        Err(Error::Shared(error))
                    }
                }
            }
        }
    }

    /// The same was asked for before, and its answer got lost.
    fn made_before(&self, id: &str, config: &PodConfig, wanted: &[ContainerConfig]) -> Result<Restored> {
        let pod = self.pod(id)?;
        if self.is_half_restored(id) {
            let what = format!("pod sandbox {} (its id is {id})", config.name);
            return Err(Error::unavailable(what, "its restore failed, and it is to be removed: ask again"));
        }
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
        id: &str,
        path: PathBuf,
        config: PodConfig,
        containers: Vec<ContainerConfig>,
        flight: &Flight,
        wanted: &Wanted,
    ) -> Result<Restored> {
        flight.at("asking criu whether it works");
        criu_works().await?;
        flight.at("copying its checkpoint");
        let (folder, saved) = self.copy_saved(path, &config, &containers, wanted).await?;
        wanted.check("a restore")?;
        let note = self.note(id, Note::Restore).await?;
        let made = match self.make_pod(id.to_owned(), config, flight).await {
            Ok(_) => self.make_containers(id, containers, saved, flight, wanted).await,
            Err(error) => Err(error),
        };
        // What was needed of it is where it belongs.
        blocking(move || {
            folder.remove();
            Ok(())
        })
        .await?;
        let error = match made {
            Ok(containers) => match note.done().await {
                Ok(()) => return Ok(Restored { pod: id.to_owned(), containers }),
                // The next start would remove it: it must not be used.
                Err(error) => {
                    flight.at("undoing what failed");
                    let _ = self.remove_pod(id).await;
                    return Err(error);
                }
            },
            Err(error) => error,
        };
        flight.at("undoing what failed");
        let undone = match self.remove_pod(id).await {
            Ok(()) => note.done().await,
            Err(left) => Err(left),
        };
        if let Err(left) = undone {
            tracing::warn!(pod = %id, error = %left, "something is left of a pod that was not restored; the next start removes it");
        }
        Err(error)
    }

    /// Copies what was saved of these containers to a folder of the daemon's own, while nothing else waits for it.
    async fn copy_saved(
        &self,
        path: PathBuf,
        config: &PodConfig,
        containers: &[ContainerConfig],
        wanted: &Wanted,
    ) -> Result<(Folder, Vec<SavedContainer>)> {
        let (config, containers) = (config.clone(), containers.to_vec());
        let (folder, still) = (self.workplace(), wanted.clone());
        let work = move || {
            let copied = Saved::open(&path)
                .and_then(|saved| saved.containers(&config, &containers))
                .and_then(|found| {
                    let own = |(number, one): (usize, &SavedContainer)| {
                        one.copy(&folder.path().join(number.to_string()), &still)
                    };
                    found.iter().enumerate().map(own).collect::<Result<Vec<_>>>()
                });
            match copied {
                Ok(copied) => Ok((folder, copied)),
                Err(error) => {
                    folder.remove();
                    Err(error)
                }
            }
        };
        wanted.wait("a restore", self.copy_on_host(work)).await
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
            made.push((name, self.create_saved(pod, config, Arc::new(saved)).await?));
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
            saved.move_images(&folder)
        })
        .await
    }

    /// Has the saved processes of a container go on; its first one's pid.
    pub(super) async fn start_saved(&self, id: &str, task: CreateTask) -> Result<u32> {
        self.tasks.create(&self.namespace, id, task).await?;
        match self.tasks.start(&self.namespace, id, ProcessId::Init).await {
            Ok(pid) => {
                self.forget_saved(id).await;
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
