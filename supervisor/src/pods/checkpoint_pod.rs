//! A pod's containers as they are at one moment, as a folder from which the pod can be made again (restore_pod.rs). They go on running.
//!
//! The folder that the caller names is given one entry, `pod`: `manifest.json`, `config.json` (what the pod was made from), and
//! `containers/N`, each laid out as the archive of one container's checkpoint is (checkpoint.rs).
//!
//! What always holds: `pod` is there as a whole and on the disk, or not at all; no container stays frozen, whatever fails; a daemon that
//! ends meanwhile leaves a note, by which the next one thaws them; while any is frozen nothing is written but below the daemon's own folder.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tonic::Code;

use super::Pods;
use super::checkpoint::{Folder, make, note_draft, put};
use super::container::Container;
use super::flight::as_text;
use super::joined::Wanted;
use super::output::Output;
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

/// What it is called in errors.
const A_CHECKPOINT: &str = "a checkpoint";

/// What a daemon that ends meanwhile leaves to do.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Note {
    /// Containers that may be frozen.
    Checkpoint { containers: Vec<String> },
    /// The pod is to be removed.
    Restore,
}

/// A note. It stays, whatever becomes of this, until what it says is done: a daemon that stops drops what is under way.
#[must_use = "it is taken up by the next start"]
pub(super) struct UnderWay(PathBuf);

impl UnderWay {
    /// There is nothing left to do; durable when it returns.
    pub(super) async fn done(self) -> Result<()> {
        blocking(move || {
            let removed = fs::remove_file(&self.0);
            removed.map_err(|error| Error::io("removing the note", &self.0, error))?;
            self.0.parent().map_or(Ok(()), sync)
        })
        .await
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
            // Of its own: one that is taken up late is about what it was written for.
            let name = format!("{pod}.{}", crate::hex::encode(&rand::random::<[u8; 8]>()));
            let path = folder.join(&name);
            let json = serde_json::to_vec(&note).map_err(unwritable(&path))?;
            let written = put(&folder, &name, &json).and_then(|()| sync(&path)).and_then(|()| sync(&folder));
            match written {
                Ok(()) => Ok(UnderWay(path)),
                Err(error) => {
                    let _ = fs::remove_file(&path);
                    Err(error)
                }
            }
        })
        .await
    }

    /// The notes that there are, and the pods that they are about.
    fn read_notes(&self) -> Vec<(String, Note, UnderWay)> {
        let entries = fs::read_dir(self.notes()).into_iter().flatten().flatten();
        let read = entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let pod = name.split('.').next().unwrap_or(&name).to_owned();
            let text = fs::read(entry.path()).map_err(|error| error.to_string());
            match text.and_then(|json| serde_json::from_slice(&json).map_err(|error| error.to_string())) {
                Ok(note) => Some((pod, note, UnderWay(entry.path()))),
                Err(error) => {
                    tracing::warn!(note = %entry.path().display(), %error, "a note of work on a pod cannot be read");
                    None
                }
            }
        });
        read.collect()
    }

    /// Whether a pod is to be removed, since its restore did not come to its end.
    pub(super) fn is_half_restored(&self, pod: &str) -> bool {
        self.read_notes().iter().any(|(of, note, _)| of == pod && *note == Note::Restore)
    }

    /// Ends what a daemon before this one has begun.
    pub(super) fn take_up_notes(self: &Arc<Self>) {
        for (pod, note, under_way) in self.read_notes() {
            let pods = self.clone();
            self.background.spawn(async move {
                let ended = match note {
                    Note::Checkpoint { containers } => {
                        tracing::info!(%pod, "a checkpoint that was not made to its end is taken back");
                        pods.thaw_again(&pod, &containers).await
                    }
                    Note::Restore => {
                        tracing::info!(%pod, "a pod that was not restored to its end is removed");
                        pods.remove_pod(&pod).await
                    }
                };
                let over = match ended {
                    Ok(()) => under_way.done().await,
                    Err(error) => Err(error),
                };
                if let Err(error) = over {
                    tracing::warn!(%pod, %error, "the next start tries it again");
                }
            });
        }
    }

    async fn thaw_again(self: &Arc<Self>, pod: &str, containers: &[String]) -> Result<()> {
        // Nobody's newer freeze is undone.
        let _turn = match self.pod(pod) {
            Ok(pod) => Some(pod.turn_in_time(Doing::verb("what a checkpoint froze is thawed")).await),
            Err(_) => None,
        };
        let found: Vec<_> = containers.iter().filter_map(|id| self.container(id).ok()).collect();
        self.thaw_all(&found).await
    }

    async fn thaw_all(&self, containers: &[Arc<Container>]) -> Result<()> {
        let all = join_all(containers.iter().map(|container| self.thaw(container.clone()))).await;
        all.into_iter().collect()
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
        let work = |wanted: Wanted| async move {
            let output = wanted.wait(A_CHECKPOINT, pods.on_host(move || Output::open(&output))).await?;
            let turn = pod.turn(Doing::verb("a checkpoint of it is made")).await?;
            let written = pods.write_pod(&pod, &chosen, &wanted).await;
            // Wherever it is to go, the pod and what runs in it wait for that no more.
            drop(turn);
            pods.put_in_place(written?, output, &wanted).await
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

    /// Gathers what a checkpoint has, below the daemon's own folder.
    async fn write_pod(
        self: &Arc<Self>,
        pod: &Pod,
        chosen: &[Arc<Container>],
        wanted: &Wanted,
    ) -> Result<Folder> {
        wanted.check(A_CHECKPOINT)?;
        self.must_run(pod, chosen)?;
        let folder = self.workplace();
        let making = folder.path().to_owned();
        blocking(move || make(&making)).await?;
        let ids = chosen.iter().map(|container| container.id.clone()).collect();
        let note = self.note(&pod.id, Note::Checkpoint { containers: ids }).await?;
        // Of its own: they are thawed also if it panics.
        let work = {
            let (pods, chosen) = (self.clone(), chosen.to_vec());
            let (path, wanted) = (folder.path().to_owned(), wanted.clone());
            async move {
                pods.freeze(&chosen).await?;
                pods.capture(&chosen, &path, &wanted).await
            }
        };
        let captured = self.background.spawn(work).await;
        self.thaw_all(chosen).await?;
        if let Err(error) = note.done().await {
            // They run; the next start finds that.
            tracing::warn!(pod = %pod.id, %error, "a note of a checkpoint is left");
        }
        let captured = captured.unwrap_or(Err(Error::Lost { what: "making a checkpoint" }));
        let (manifest, config) = (manifest(pod, chosen), pod.read(|record| record.config.clone()));
        blocking(move || {
            let described = captured.and_then(|()| {
                let json = serde_json::to_vec_pretty(&config).map_err(unwritable(folder.path()))?;
                put(folder.path(), saved::CONFIG, &json)?;
                let json = serde_json::to_vec_pretty(&manifest).map_err(unwritable(folder.path()))?;
                put(folder.path(), saved::MANIFEST, &json)
            });
            match described {
                Ok(()) => Ok(folder),
                Err(error) => {
                    folder.remove();
                    Err(error)
                }
            }
        })
        .await
    }

    /// Copies what was gathered to where it was asked for.
    async fn put_in_place(&self, folder: Folder, output: Output, wanted: &Wanted) -> Result<()> {
        let still = wanted.clone();
        let work = move || {
            let draft = output.draft();
            let copied = note_draft(&folder, &draft).and_then(|note| {
                let copied = output.put(folder.path(), &draft, &still);
                let _ = fs::remove_file(note);
                copied
            });
            folder.remove();
            copied
        };
        wanted.wait(A_CHECKPOINT, self.copy_on_host(work)).await
    }

    async fn freeze(&self, chosen: &[Arc<Container>]) -> Result<()> {
        let pauses = chosen.iter().map(|container| self.tasks.pause(&self.namespace, &container.id));
        join_all(pauses).await.into_iter().collect()
    }

    async fn capture(&self, chosen: &[Arc<Container>], folder: &Path, wanted: &Wanted) -> Result<()> {
        for (number, container) in chosen.iter().enumerate() {
            wanted.check(A_CHECKPOINT)?;
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

fn sync(path: &Path) -> Result<()> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| Error::io("syncing", path, error))
}
