//! A container's state as one archive, for whoever wants to look into it: what criu wrote, what the container has changed of its image, its log,
//! and how it was made. The container goes on running.
//!
//! The archive is laid out as those of other runtimes are (`checkpoint/`, `config.dump`, `spec.dump`, `status.dump`, `status`,
//! `rootfs-diff.tar`, `container.log`, `dump.log`), so that tools which read them read this one.
//!
//! What always holds: at the asked-for place there is a whole archive or what was there before; what is made on the way is removed.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use longshore_proto::containerd::runc::v1::CheckpointOptions;
use serde_json::{Value, json};

use super::Pods;
use super::container::Container;
use super::create::LABEL;
use super::record::ContainerRecord;
use crate::any::Any;
use crate::content::store::blocking;
use crate::diff::{self, Wanted};
use crate::engine::names::new_id;
use crate::error::{Error, Result};
use crate::images::held::Held;
use crate::labels::Labels;
use crate::mounts::shifts_owners;
use crate::snapshots::Mount;

/// How long it may take if nobody says.
const PATIENCE: Duration = Duration::from_secs(600);

/// A folder that is removed when it is dropped, by a thread: that takes its time.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Where the note is that says where something is made outside of the daemon's own folders.
    pub(super) fn draft_note(&self) -> PathBuf {
        self.0.with_extension(DRAFT)
    }

    /// Removes it. Blocks.
    pub(super) fn remove(mut self) {
        remove(&std::mem::take(&mut self.0));
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let folder = std::mem::take(&mut self.0);
        if folder.as_os_str().is_empty() {
            return;
        }
        let shown = folder.display().to_string();
        if let Err(error) = std::thread::Builder::new().spawn(move || remove(&folder)) {
            tracing::warn!(folder = %shown, %error, "what a checkpoint was made of is left; the next start removes it");
        }
    }
}

fn remove(folder: &Path) {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "what a checkpoint was made of is left; the next start removes it");
        }
        _ => {}
    }
}

impl Pods {
    /// Where archives are put together.
    fn checkpoints(&self) -> PathBuf {
        self.config.root.join("checkpoints/pods")
    }

    /// A place there that nothing else has.
    pub(super) fn workplace(&self) -> Folder {
        Folder(self.checkpoints().join(new_id()))
    }

    /// Removes what a daemon that died was making.
    pub(super) fn forget_checkpoints(&self) {
        forget(&self.checkpoints());
    }

    /// Writes a running container's state to an archive at `place`. If it takes longer than `timeout` (zero: ten minutes) the call fails;
    /// what is under way is brought to its end, and comes to nothing.
    pub async fn checkpoint(self: &Arc<Self>, id: &str, place: &str, timeout: Duration) -> Result<()> {
        let container = self.running(id)?;
        let place = PathBuf::from(place);
        if !place.is_absolute() || place.file_name().is_none() {
            let why = "it is no absolute path of a file";
            return Err(Error::invalid(format!("location {:?}", place.display()), why));
        }
        let patience = if timeout.is_zero() { PATIENCE } else { timeout };
        let (pods, folder) = (self.clone(), self.workplace());
        let (wanted, what) = (Arc::new(()), format!("a checkpoint of container {}", container.id));
        let still = Arc::downgrade(&wanted);
        let work = self.background.spawn(async move {
            let gathered = pods.gather(&container, &folder.0).await;
            // The folder is removed there, too.
            blocking(move || {
                let packed = match gathered.map(|()| still.upgrade()) {
                    Ok(Some(_)) => pack(&folder, &place),
                    // Whoever asked was told that it failed.
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                };
                folder.remove();
                packed
            })
            .await
        });
        let made = tokio::time::timeout(patience, work).await;
        drop(wanted);
        match made {
            Ok(made) => made.unwrap_or(Err(Error::Lost { what: "making a checkpoint" })),
            Err(_) => Err(Error::Timeout { what, seconds: patience.as_secs() }),
        }
    }

    /// All that an archive has of a container.
    pub(super) async fn gather(&self, container: &Container, folder: &Path) -> Result<()> {
        let images = folder.join("checkpoint");
        make(&images)?;
        // Its log is not among what it writes of the container; both folders are criu's alone.
        let work = folder.join("work");
        let options = CheckpointOptions { work_path: work.display().to_string(), ..Default::default() };
        let options = Any::pack("containerd.runc.v1.CheckpointOptions", &options);
        self.tasks.checkpoint(&self.namespace, &container.id, &images, Some(options)).await?;
        self.add_changes(container, folder).await?;
        let log = self.open_log(container).await?;
        let (record, spec) = (container.record(), container.spec.clone());
        let (id, folder) = (container.id.clone(), folder.to_owned());
        blocking(move || {
            keep_logs(&work, &folder)?;
            put(&folder, "config.dump", config(&id, &record).to_string().as_bytes())?;
            put(&folder, "status.dump", status(&id, &record).to_string().as_bytes())?;
            put(&folder, "status", times(&record).to_string().as_bytes())?;
            put(&folder, "spec.dump", &spec)?;
            add_log(&folder, log)
        })
        .await
    }

    /// What the container has changed of its image, as a layer.
    async fn add_changes(&self, container: &Container, folder: &Path) -> Result<()> {
        let snapshotter = self.engine.snapshotter()?;
        let mut above = snapshotter.mounts(&self.namespace, &container.id).await?;
        // The layer's owners are those that the host sees.
        above.iter_mut().for_each(|mount| mount.options.retain(|option| !shifts_owners(option)));
        let info = snapshotter.stat(&self.namespace, &container.id).await?;
        let key = format!("checkpoint-{}", new_id());
        // A daemon that starts removes what a crash leaves: nobody has this container.
        let labels = Labels::from([(LABEL.to_owned(), key.clone())]);
        let _hold = snapshotter.hold(&self.namespace, &key).await;
        let parent = info.parent.unwrap_or_default();
        let below = snapshotter.view(&self.namespace, &key, &parent, labels, None).await?;
        let held = Held::begin(&self.leases, &self.gc, &self.namespace).await;
        let made = match &held {
            Ok(held) => self.write_changes((below, above), held.lease(), folder).await,
            Err(_) => Ok(()),
        };
        if let Err(error) = snapshotter.remove(&self.namespace, &key).await {
            tracing::warn!(snapshot = %key, %error, "a view could not be removed; the next start does it");
        }
        held?.end().await;
        made
    }
}

impl Pods {
    async fn write_changes(&self, sides: (Vec<Mount>, Vec<Mount>), lease: &str, folder: &Path) -> Result<()> {
        let media_type = diff::PLAIN_LAYER.to_owned();
        let wanted = Wanted { media_type, lease: Some(lease.to_owned()), ..Wanted::default() };
        let layer = diff::make(&self.content, &self.namespace, sides, wanted).await?;
        let blob = self.content.reader(&self.namespace, &layer.digest).await?;
        let path = folder.join("rootfs-diff.tar");
        blocking(move || {
            let copied = io::copy(&mut blob.into_reader(), &mut create(&path)?);
            copied.map(drop).map_err(|error| Error::io("copying the changes to", &path, error))
        })
        .await
    }
}

/// What is in the archive of how the container was made.
fn config(id: &str, record: &ContainerRecord) -> Value {
    json!({
        "id": id,
        "name": record.config.name,
        "rootfsImage": record.config.image.image,
        "rootfsImageRef": record.image_ref,
        "rootfsImageName": record.config.image.user_specified,
        "runtime": crate::engine::RUNTIME,
        "createdTime": record.created_at,
        "checkpointedTime": Timestamp::now(),
        "restored": false,
    })
}

/// Nanoseconds since the beginning of 1970; 0: never.
fn nanos(at: Option<Timestamp>) -> i64 {
    at.map_or(0, |at| i64::try_from(at.as_nanosecond()).unwrap_or(0))
}

/// What is in the archive of how it is, in CRI's words.
fn status(id: &str, record: &ContainerRecord) -> Value {
    json!({
        "id": id,
        "metadata": { "name": record.config.name, "attempt": record.config.attempt },
        "state": 1,
        "created_at": nanos(Some(record.created_at)),
        "started_at": nanos(record.started_at),
        "image": { "image": record.config.image.image },
        "image_ref": record.image_ref,
        "image_id": record.image_id,
        "labels": record.config.labels,
        "annotations": record.config.annotations,
        "log_path": record.log_path,
    })
}

/// The same in containerd's own words.
fn times(record: &ContainerRecord) -> Value {
    json!({
        "Version": "v1",
        "CreatedAt": nanos(Some(record.created_at)),
        "StartedAt": nanos(record.started_at),
        "FinishedAt": 0,
        "ExitCode": 0,
        "Pid": record.pid,
        "Reason": "",
        "Message": "",
    })
}

/// A folder that is the daemon's alone, with those above it.
pub(super) fn make(folder: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| Error::io("making the folder", folder, error))
}

fn create(path: &Path) -> Result<File> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| Error::io("making", path, error))
}

pub(super) fn put(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    io::Write::write_all(&mut create(&path)?, bytes).map_err(|error| Error::io("writing", &path, error))
}

/// What criu has said goes beside what it has written.
fn keep_logs(work: &Path, folder: &Path) -> Result<()> {
    for name in ["dump.log", "stats-dump"] {
        match fs::rename(work.join(name), folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("keeping", work.join(name), error));
            }
            _ => {}
        }
    }
    fs::remove_dir_all(work).map_err(|error| Error::io("removing", work, error))
}

/// A copy of the container's log, if it has one that is a file.
fn add_log(folder: &Path, log: Option<File>) -> Result<()> {
    let Some(file) = log else { return Ok(()) };
    let path = folder.join("container.log");
    let mut made = create(&path)?;
    let copy = || {
        // What is said from now on is not waited for.
        let length = file.metadata()?.len();
        io::copy(&mut io::Read::take(file, length), &mut made).map(drop)
    };
    copy().map_err(|error| Error::io("copying the log to", &path, error))
}

/// How the file is named, beside a folder in which something is gathered, that says where its archive is being written.
const DRAFT: &str = "draft";

/// Removes what is left below the folder where archives are put together, and drafts of archives wherever they are.
fn forget(checkpoints: &Path) {
    let entries = fs::read_dir(checkpoints).into_iter().flatten().flatten();
    let notes =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == DRAFT));
    let drafts: Vec<PathBuf> = notes
        .filter_map(|note| fs::read(note).ok())
        .map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
        .filter(|draft| draft.is_absolute())
        .collect();
    if !drafts.is_empty() {
        // They may be on a file system that does not answer.
        std::thread::spawn(move || {
            drafts.iter().for_each(|draft| {
                let _ = fs::remove_file(draft).or_else(|_| fs::remove_dir_all(draft));
            })
        });
    }
    let _ = fs::remove_dir_all(checkpoints);
}

/// Has the next daemon remove what is made at `draft`, if this one does not live to remove the file that is named.
pub(super) fn note_draft(folder: &Folder, draft: &Path) -> Result<PathBuf> {
    let note = folder.draft_note();
    fs::write(&note, draft.as_os_str().as_bytes()).map_err(|error| Error::io("writing", &note, error))?;
    Ok(note)
}

/// Packs what was gathered; the archive is in its place when it is whole and on disk.
fn pack(folder: &Folder, place: &Path) -> Result<()> {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let beside = place.with_file_name(format!(".{name}.{}", crate::hex::encode(&rand::random::<[u8; 4]>())));
    let fail = |error| Error::io("writing the archive", place, error);
    let note = note_draft(folder, &beside)?;
    let packed = crate::folders::replace(place, &beside, |file| {
        let mut builder = tar::Builder::new(file);
        builder.follow_symlinks(false);
        builder.append_dir_all("", folder.path())?;
        builder.finish()
    });
    let _ = fs::remove_file(&note);
    packed.map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_archive_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let (from, place) = (folder.path().join("from"), folder.path().join("to.tar"));
        fs::create_dir_all(from.join("checkpoint")).unwrap();
        put(&from, "checkpoint/pages-1.img", b"pages").unwrap();
        put(&from, "config.dump", b"{}").unwrap();
        fs::write(folder.path().join("log"), "a line").unwrap();
        add_log(&from, File::open(folder.path().join("log")).ok()).unwrap();
        add_log(&from, None).unwrap();
        fs::write(&place, "an older one").unwrap();
        let gathered = Folder(from);
        pack(&gathered, &place).unwrap();
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o600);
        let mut archive = tar::Archive::new(File::open(&place).unwrap());
        let entries = archive.entries().unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        names.sort();
        assert_eq!(
            names
                .iter()
                .map(|name| name.trim_end_matches('/'))
                .filter(|name| !name.is_empty())
                .collect::<Vec<_>>(),
            ["checkpoint", "checkpoint/pages-1.img", "config.dump", "container.log"]
        );
        assert!(pack(&Folder(folder.path().join("none")), &place).is_err());
        assert!(File::open(&place).is_ok());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing is left beside it");
    }

    #[test]
    fn a_daemon_that_was_killed_leaves_no_draft_behind_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let of_pod = folder.path().join(".pod.0123");
        fs::create_dir_all(of_pod.join("containers")).unwrap();
        let (making, draft) = (folder.path().join("pods"), folder.path().join(".to.tar.0123"));
        fs::create_dir_all(making.join("a")).unwrap();
        fs::write(making.join("a.draft"), draft.as_os_str().as_bytes()).unwrap();
        fs::write(making.join("b.draft"), b"relative").unwrap();
        fs::write(making.join("c.draft"), of_pod.as_os_str().as_bytes()).unwrap();
        fs::write(&draft, "half").unwrap();
        forget(&making);
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while draft.exists() || of_pod.exists() {
            assert!(std::time::Instant::now() < until, "the draft is left");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!making.exists());
        forget(&making);
    }
}
