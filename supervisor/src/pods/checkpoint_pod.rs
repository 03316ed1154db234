//! A pod's containers as they are at one moment, as a folder from which the pod can be made again (restore_pod.rs). They go on running.
//!
//! The folder that the caller names is given one entry, `pod`: `manifest.json`, `config.json` (what the pod was made from), and
//! `containers/N`, each laid out as the archive of one container's checkpoint is (checkpoint.rs).
//!
//! What always holds: `pod` is there as a whole and on the disk, or not at all; no container stays frozen, whatever fails; a daemon that
//! died meanwhile leaves a note, by which the next one thaws them and removes what was half written.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tonic::Code;

use super::Pods;
use super::checkpoint::{Folder, put};
use super::container::Container;
use super::flight::as_text;
use super::joined::Wanted;
use super::pod::{Doing, Pod};
use super::record::State;
use super::saved::{self, Kept, Manifest};
use crate::content::store::blocking;
use crate::error::{Error, Result};
use crate::tasks::{ProcessId, Status};

/// How long it is tried to thaw a container, and the pause between two tries: a dump that an earlier daemon has asked for goes first,
/// and criu has ten minutes for it.
const THAW: Duration = Duration::from_secs(700);
const THAW_PAUSE: Duration = Duration::from_millis(250);

/// What a daemon that dies meanwhile leaves to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Note {
    /// Containers that may be frozen, and the folder that is being written.
    Checkpoint { folder: PathBuf, containers: Vec<String> },
    /// The pod is to be removed.
    Restore,
}

/// A note that is removed when it is dropped.
pub(super) struct UnderWay(PathBuf);

impl UnderWay {
    /// The next daemon is to do it.
    pub(super) fn leave(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(note = %self.0.display(), %error, "a note of work on a pod is left");
        }
    }
}

impl Pods {
    fn notes(&self) -> PathBuf {
        self.config.root.join("checkpoints/under-way")
    }

    /// Notes what is begun; durable when it returns.
    pub(super) async fn note(&self, pod: &str, note: Note) -> Result<UnderWay> {
        let (folder, pod) = (self.notes(), pod.to_owned());
        blocking(move || {
            make(&folder)?;
            let path = folder.join(&pod);
            let json = serde_json::to_vec(&note).map_err(unwritable(&path))?;
            let _ = fs::remove_file(&path);
            let note = UnderWay(path);
            put(&folder, &pod, &json)?;
            sync(&note.0)?;
            sync(&folder)?;
            Ok(note)
        })
        .await
    }

    /// Ends what a daemon that died has begun.
    pub(super) fn take_up_notes(self: &Arc<Self>) {
        for entry in fs::read_dir(self.notes()).into_iter().flatten().flatten() {
            let Ok(pod) = entry.file_name().into_string() else { continue };
            let read = fs::read(entry.path()).map_err(|error| error.to_string());
            let note = read.and_then(|json| serde_json::from_slice(&json).map_err(|error| error.to_string()));
            let over = UnderWay(entry.path());
            let note: Note = match note {
                Ok(note) => note,
                Err(error) => {
                    tracing::warn!(%pod, %error, "a note of work on a pod cannot be read");
                    continue;
                }
            };
            let pods = self.clone();
            self.background.spawn(async move {
                match note {
                    Note::Checkpoint { folder, containers } => {
                        tracing::info!(%pod, "a checkpoint that was not made to its end is taken back");
                        let found = containers.iter().filter_map(|id| pods.container(id).ok());
                        join_all(found.map(|container| pods.thaw(container))).await;
                        let _ = blocking(move || Ok(fs::remove_dir_all(folder))).await;
                    }
                    Note::Restore => {
                        tracing::info!(%pod, "a pod that was not restored to its end is removed");
                        if let Err(error) = pods.remove_pod(&pod).await {
                            tracing::warn!(%pod, %error, "it cannot be removed");
                        }
                    }
                }
                drop(over);
            });
        }
    }

    /// Writes the state of running containers of a pod, all of one moment, into the empty folder `output`.
    pub async fn checkpoint_pod(
        self: &Arc<Self>,
        id: &str,
        output: &str,
        containers: &[String],
    ) -> Result<()> {
        let pod = self.pod(id)?;
        let chosen = self.choose(&pod, containers)?;
        let output = PathBuf::from(output);
        if !output.is_absolute() {
            let why = "it is no absolute path of a folder";
            return Err(Error::invalid(format!("output path {:?}", output.display()), why));
        }
        let asked = as_text("pod", &pod.id, &(&output, containers))?;
        let what = format!("a checkpoint of pod sandbox {}", pod.id);
        let (pods, id) = (self.clone(), pod.id.clone());
        let work = |wanted| async move {
            let place = output.clone();
            pods.on_host(move || must_be_empty(&place)).await?;
            let _turn = pod.turn(Doing::verb("a checkpoint of it is made")).await?;
            pods.write_pod(&pod, &chosen, &output, &wanted).await
        };
        self.checkpoints.run(&self.background, (&id, asked), &what, work).await
    }

    fn choose(&self, pod: &Pod, ids: &[String]) -> Result<Vec<Arc<Container>>> {
        if ids.is_empty() {
            return Err(Error::invalid(
                "container ids",
                "there are none: name the containers that are to be in it",
            ));
        }
        let mut seen = HashSet::new();
        let mut chosen = Vec::new();
        for id in ids {
            let container = self.running(id)?;
            let of_it = |why: &str| Error::invalid(format!("container {}", container.id), why);
            if container.pod != pod.id {
                return Err(of_it("it is in another pod"));
            }
            if !seen.insert(container.id.clone()) {
                return Err(of_it("it is named twice"));
            }
            chosen.push(container);
        }
        // A checkpoint knows them by their names.
        let names: HashSet<String> =
            chosen.iter().map(|one| one.read(|record| record.config.name.clone())).collect();
        if names.len() != chosen.len() {
            return Err(Error::invalid("container ids", "two of the containers have the same name"));
        }
        Ok(chosen)
    }

    /// Whether they can be frozen, and are nobody else's to thaw.
    fn must_run(&self, pod: &Pod, chosen: &[Arc<Container>]) -> Result<()> {
        let refuse = |what: String, why: &str| Err(Error::precondition(what, why));
        if !pod.is_ready() {
            return refuse(format!("pod sandbox {}", pod.id), "it is not ready");
        }
        if pod.read(|record| record.config.namespaces.users.is_some()) {
            let what = format!("a checkpoint of pod sandbox {}, which has users of its own,", pod.id);
            return Err(Error::Unimplemented { what });
        }
        for container in chosen {
            let what = || format!("container {}", container.id);
            let task = self.tasks.get(&self.namespace, &container.id, ProcessId::Init)?;
            match (container.state(), task.status) {
                (State::Running, Status::Running) => {}
                (State::Running, Status::Paused) => {
                    return refuse(what(), "somebody has paused it: resume it first");
                }
                _ => return refuse(what(), "it does not run"),
            }
        }
        Ok(())
    }

    async fn write_pod(
        self: &Arc<Self>,
        pod: &Pod,
        chosen: &[Arc<Container>],
        output: &Path,
        wanted: &Wanted,
    ) -> Result<()> {
        wanted.check("a checkpoint")?;
        self.must_run(pod, chosen)?;
        let beside =
            output.join(format!(".{}.{}", saved::POD, crate::hex::encode(&rand::random::<[u8; 4]>())));
        let ids = chosen.iter().map(|container| container.id.clone()).collect();
        let making = beside.clone();
        let _note = self.note(&pod.id, Note::Checkpoint { folder: beside.clone(), containers: ids }).await?;
        blocking(move || make_new(&making)).await?;
        let folder = Folder::at(beside);
        let captured = match self.freeze(chosen).await {
            Ok(()) => self.capture(chosen, folder.path(), wanted).await,
            Err(error) => Err(error),
        };
        let thawed = join_all(chosen.iter().map(|container| self.thaw(container.clone()))).await;
        captured.and(thawed.into_iter().collect::<Result<()>>())?;
        let manifest = manifest(pod, chosen);
        let config = pod.read(|record| record.config.clone());
        let (output, wanted) = (output.to_owned(), wanted.clone());
        // The folder is removed there, too, if it comes to nothing.
        blocking(move || {
            let json = serde_json::to_vec_pretty(&config).map_err(unwritable(folder.path()))?;
            put(folder.path(), saved::CONFIG, &json)?;
            let json = serde_json::to_vec_pretty(&manifest).map_err(unwritable(folder.path()))?;
            put(folder.path(), saved::MANIFEST, &json)?;
            sync_all(folder.path())?;
            wanted.check("a checkpoint")?;
            let place = output.join(saved::POD);
            fs::rename(folder.path(), &place)
                .map_err(|error| Error::io("putting in place", &place, error))?;
            folder.keep();
            sync(&output)
        })
        .await
    }

    async fn freeze(&self, chosen: &[Arc<Container>]) -> Result<()> {
        let pauses = chosen.iter().map(|container| self.tasks.pause(&self.namespace, &container.id));
        join_all(pauses).await.into_iter().collect()
    }

    async fn capture(&self, chosen: &[Arc<Container>], folder: &Path, wanted: &Wanted) -> Result<()> {
        for (number, container) in chosen.iter().enumerate() {
            wanted.check("a checkpoint")?;
            self.gather(container, &folder.join(saved::container_folder(number))).await?;
        }
        Ok(())
    }

    /// Has a container run again; one that runs, or has ended, is left alone.
    async fn thaw(&self, container: Arc<Container>) -> Result<()> {
        let deadline = Instant::now() + THAW;
        loop {
            let Err(error) = self.tasks.resume(&self.namespace, &container.id).await else { return Ok(()) };
            // A freeze that was not answered in time may have been done all the same.
            let answered = !matches!(error.code(), Code::DeadlineExceeded | Code::Unavailable);
            let task = self.tasks.get(&self.namespace, &container.id, ProcessId::Init);
            let frozen = task.is_ok_and(|task| matches!(task.status, Status::Paused | Status::Unknown));
            if answered && !frozen || !container.state().may_run() {
                return Ok(());
            }
            if Instant::now() > deadline {
                tracing::error!(container = %container.id, %error, "a container that was frozen for a checkpoint cannot be thawed");
                return Err(error);
            }
            tokio::time::sleep(THAW_PAUSE).await;
        }
    }
}

fn manifest(pod: &Pod, chosen: &[Arc<Container>]) -> Manifest {
    let containers = chosen.iter().map(|container| {
        container.read(|record| Kept {
            name: record.config.name.clone(),
            id: container.id.clone(),
            image: record.config.image.image.clone(),
            image_id: record.image_id.clone(),
        })
    });
    Manifest {
        version: saved::VERSION,
        runtime: crate::engine::RUNTIME.to_owned(),
        created_at: Timestamp::now(),
        pod: pod.id.clone(),
        handler: pod.read(|record| record.config.handler.clone()),
        containers: containers.collect(),
    }
}

fn unwritable(path: &Path) -> impl Fn(serde_json::Error) -> Error + use<> {
    let path = path.to_owned();
    move |error| Error::io("writing", path.clone(), error.into())
}

fn make(folder: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| Error::io("making the folder", folder, error))
}

fn make_new(folder: &Path) -> Result<()> {
    let made = DirBuilder::new().mode(0o700).create(folder);
    made.map_err(|error| Error::io("making the folder", folder, error))
}

fn must_be_empty(folder: &Path) -> Result<()> {
    let refuse = |why: &str| Err(Error::invalid(format!("output path {:?}", folder.display()), why));
    match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return refuse("there is no such folder");
        }
        Err(error) => return Err(Error::io("looking at", folder, error)),
        Ok(found) if !found.is_dir() => return refuse("it is no folder"),
        Ok(_) => {}
    }
    match fs::read_dir(folder).map_err(|error| Error::io("listing", folder, error))?.next() {
        None => Ok(()),
        Some(_) => refuse("it is not empty: a checkpoint is written to an empty folder"),
    }
}

fn sync(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| Error::io("syncing", path, error))
}

/// Everything in a folder of our own, and the folder.
fn sync_all(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|error| Error::io("listing", folder, error))? {
        let entry = entry.map_err(|error| Error::io("listing", folder, error))?;
        let path = entry.path();
        match entry.file_type().map_err(|error| Error::io("looking at", &path, error))? {
            kind if kind.is_dir() => sync_all(&path)?,
            kind if kind.is_file() => sync(&path)?,
            _ => {}
        }
    }
    sync(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_written_to_an_empty_folder_only() {
        let folder = tempfile::tempdir().unwrap();
        must_be_empty(folder.path()).unwrap();
        assert!(
            must_be_empty(&folder.path().join("none")).unwrap_err().to_string().contains("no such folder")
        );
        std::os::unix::fs::symlink(folder.path(), folder.path().join("link")).unwrap();
        assert!(must_be_empty(&folder.path().join("link")).unwrap_err().to_string().contains("no folder"));
        assert!(must_be_empty(folder.path()).unwrap_err().to_string().contains("not empty"));
    }
}
