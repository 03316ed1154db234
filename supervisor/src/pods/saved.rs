//! A pod's checkpoint as it is found in a folder (checkpoint_pod.rs says how it is laid out).
//!
//! What always holds: no mistake in the folder hurts anything but the restore (whoever fills it on purpose has to be trusted as root is: criu
//! does what its images say): no link is followed, nothing but regular files is opened, nothing is read
//! beyond its bound, nothing of it is changed, and what is taken from it is copied before it is used. It is compared
//! with what is asked for.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use jiff::Timestamp;
use oci_spec::runtime::Spec;
use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::checkpoint::{make, put};
use super::config::{ContainerConfig, PodConfig};
use super::joined::Wanted;
use super::output::copy_wanted;
use crate::error::{Error, Result};
use crate::images::detached;
use crate::images::unpack::{self, Compression, Form, Limits, Options};
use crate::snapshots::Mount;
use crate::trees::open_regular;

/// The one entry of the folder that a caller names, and what is in it.
pub(super) const POD: &str = "pod";
pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const CONFIG: &str = "config.json";

/// Of this layout.
pub(super) const VERSION: u32 = 1;

/// Bytes of a file of JSON.
const JSON: u64 = 4 << 20;
/// Containers of a pod.
const CONTAINERS: usize = 256;
/// Files that criu has written of one container.
const IMAGES: usize = 100_000;
/// What of a container's folder is used.
const IMAGES_OF: &str = "checkpoint";
const CHANGES: &str = "rootfs-diff.tar";
const SPEC: &str = "spec.dump";
/// The part of a file system, as one of so many, that a copy leaves free.
const RESERVE: u64 = 20;
/// Bytes of what the first process's stdio was, which is read as a whole.
const DESCRIPTORS: (&[u8], u64) = (b"descriptors.json", 64 << 10);

/// Where the files of the container with this number are, below `pod`.
pub(super) fn container_folder(number: usize) -> String {
    format!("containers/{number}")
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub version: u32,
    pub runtime: String,
    pub created_at: Timestamp,
    /// Id of the pod.
    pub pod: String,
    pub handler: String,
    pub containers: Vec<Kept>,
}

/// One container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub name: String,
    pub id: String,
    /// As it was named.
    pub image: String,
    /// Digest of its config.
    pub image_id: String,
}

pub(super) struct Saved {
    manifest: Manifest,
    config: PodConfig,
    folder: OwnedFd,
    path: PathBuf,
}

/// What was saved of one container.
pub(super) struct SavedContainer {
    pub kept: Kept,
    folder: OwnedFd,
    /// Where it was found: said in errors.
    path: PathBuf,
    /// Where it is.
    place: PathBuf,
}

fn refuse(path: &Path, why: impl Into<String>) -> Error {
    Error::invalid(format!("checkpoint {}", path.display()), why)
}

impl Saved {
    /// Opens the folder that a checkpoint was written to. Blocks.
    pub(super) fn open(path: &Path) -> Result<Saved> {
        if !path.is_absolute() {
            return Err(refuse(path, "it is no absolute path of a folder"));
        }
        let root = open_folder(rustix::fs::CWD, path, path)?;
        let path = path.join(POD);
        let folder = open_folder(&root, Path::new(POD), &path)?;
        // The version is looked at first: what is newer may look otherwise.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let text = read(&folder, MANIFEST, &path)?;
        let Versioned { version } = parse(&text, &path.join(MANIFEST))?;
        if version != VERSION {
            let why = format!("it has version {version}, and only {VERSION} is known");
            return Err(refuse(&path, why));
        }
        let manifest: Manifest = parse(&text, &path.join(MANIFEST))?;
        let config = parse(&read(&folder, CONFIG, &path)?, &path.join(CONFIG))?;
        let count = manifest.containers.len();
        if count == 0 || count > CONTAINERS {
            return Err(refuse(
                &path,
                format!("it has {count} containers, and 1 to {CONTAINERS} are possible"),
            ));
        }
        let names: HashSet<&str> = manifest.containers.iter().map(|kept| kept.name.as_str()).collect();
        if names.len() != count || names.contains("") {
            return Err(refuse(&path, "its containers have no names of their own"));
        }
        Ok(Saved { manifest, config, folder, path })
    }

    /// What was saved of each of these containers, which have to be all that it has. Blocks.
    pub(super) fn containers(
        &self,
        pod: &PodConfig,
        wanted: &[ContainerConfig],
    ) -> Result<Vec<SavedContainer>> {
        if self.manifest.runtime != crate::engine::RUNTIME {
            let why = format!("it was made by runtime {:?}, and this is another", self.manifest.runtime);
            return Err(refuse(&self.path, why));
        }
        let (old, new) = (&self.config.namespaces, &pod.namespaces);
        for (what, same) in [
            ("network", old.network == new.network),
            ("processes", old.pid == new.pid),
            ("IPC", old.ipc == new.ipc),
            ("users", old.users == new.users),
        ] {
            if !same {
                let why = format!("its pod shared {what} otherwise than the one that is asked for");
                return Err(refuse(&self.path, why));
            }
        }
        let kept: BTreeSet<&str> = self.manifest.containers.iter().map(|kept| kept.name.as_str()).collect();
        let asked: BTreeSet<&str> = wanted.iter().map(|config| config.name.as_str()).collect();
        if kept != asked {
            let list = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
            let why = format!("it has the containers {}, and asked for are {}", list(kept), list(asked));
            return Err(refuse(&self.path, why));
        }
        let all = self.path.join("containers");
        let folders = open_folder(&self.folder, Path::new("containers"), &all)?;
        wanted
            .iter()
            .map(|config| {
                let mut numbered = self.manifest.containers.iter().enumerate();
                let found = numbered.find(|(_, kept)| kept.name == config.name);
                let (number, kept) = found.ok_or_else(|| refuse(&self.path, "a container is missing"))?;
                let path = all.join(number.to_string());
                let folder = open_folder(&folders, Path::new(&number.to_string()), &path)?;
                Ok(SavedContainer { kept: kept.clone(), folder, place: path.clone(), path })
            })
            .collect()
    }
}

impl SavedContainer {
    /// Refuses a container that is to be something else than what was saved.
    pub(super) fn check(&self, spec: &Spec) -> Result<()> {
        let old: Spec = parse(&read(&self.folder, SPEC, &self.path)?, &self.path.join(SPEC))?;
        match differing(&old, spec) {
            None => Ok(()),
            Some(what) => {
                let why = format!("its container {} had other {what} than the one asked for", self.kept.name);
                Err(refuse(&self.path, why))
            }
        }
    }

    /// Applies what the container had changed of its image. Blocks.
    pub(super) fn apply_changes(&self, mounts: &[Mount]) -> Result<()> {
        let name = CHANGES;
        let file = File::from(regular(&self.folder, name.as_bytes(), &self.path)?);
        let size =
            file.metadata().map_err(|error| Error::io("looking at", self.path.join(name), error))?.len();
        let root = detached::open(mounts)?;
        let (form, compression, limits) = (Form::Merged, Compression::Plain, Limits::default());
        let cancel = AtomicBool::new(false);
        let options = Options { form, compression, compressed: size, limits, cancel: &cancel };
        unpack::apply_layer(file.take(size), root.as_fd(), options)
            .map(drop)
            .map_err(|source| refuse(&self.path.join(name), source.to_string()))
    }

    /// Copies all that is used of it to a new folder of the daemon's own, as long as somebody waits for it. Blocks.
    pub(super) fn copy(&self, into: &Path, wanted: &Wanted) -> Result<SavedContainer> {
        let from = self.path.join(IMAGES_OF);
        let images = open_folder(&self.folder, Path::new(IMAGES_OF), &from)?;
        let listed = list_images(&images, &from)?;
        let tar = File::from(regular(&self.folder, CHANGES.as_bytes(), &self.path)?);
        let size = |error| Error::io("looking at", self.path.join(CHANGES), error);
        let size = tar.metadata().map_err(size)?.len();
        let spec = read(&self.folder, SPEC, &self.path)?;
        let of_images = into.join(IMAGES_OF);
        make_anew(&of_images)?;
        let total = listed.iter().fold(size, |total, (_, size)| total.saturating_add(*size));
        check_room(total, into)?;
        put(into, SPEC, &spec)?;
        copy(&self.folder, CHANGES.as_bytes(), size, (&self.path, into), wanted)?;
        for (name, size) in &listed {
            copy(&images, name, *size, (&from, &of_images), wanted)?;
        }
        let folder = open_folder(rustix::fs::CWD, into, into)?;
        Ok(SavedContainer {
            kept: self.kept.clone(),
            folder,
            path: self.path.clone(),
            place: into.to_owned(),
        })
    }

    /// Moves what criu has written, which has been copied, to another folder of the daemon's. Blocks.
    pub(super) fn move_images(&self, into: &Path) -> Result<()> {
        make_anew(into)?;
        let from = self.place.join(IMAGES_OF);
        fs::rename(&from, into).map_err(|error| Error::io("moving the images of", &self.place, error))
    }
}

/// Names and sizes of what criu has written.
fn list_images(folder: &OwnedFd, path: &Path) -> Result<Vec<(Vec<u8>, u64)>> {
    let listed = |errno: Errno| Error::io("listing", path, errno.into());
    let mut files = Vec::new();
    for entry in Dir::read_from(folder).map_err(listed)? {
        let entry = entry.map_err(listed)?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if files.len() >= IMAGES {
            return Err(refuse(path, format!("it has more than {IMAGES} files")));
        }
        let file = File::from(regular(folder, name, path)?);
        let size = file.metadata().map_err(|error| Error::io("looking at", path, error))?.len();
        if name == DESCRIPTORS.0 && size > DESCRIPTORS.1 {
            return Err(refuse(path, format!("its descriptors.json has {size} bytes")));
        }
        files.push((name.to_vec(), size));
    }
    if files.is_empty() {
        return Err(refuse(path, "nothing is in it"));
    }
    Ok(files)
}

/// Whether so much can be written there, and others find room afterwards. Files with holes take none where they are, and would here.
fn check_room(bytes: u64, into: &Path) -> Result<()> {
    let room = rustix::fs::statvfs(into).map_err(|errno| Error::io("looking at", into, errno.into()))?;
    let reserve = room.f_blocks / RESERVE;
    if bytes > room.f_bavail.saturating_sub(reserve).saturating_mul(room.f_frsize) {
        return Err(Error::DiskFull { doing: "copying a checkpoint to", path: into.to_owned() });
    }
    Ok(())
}

fn copy(
    folder: &OwnedFd,
    name: &[u8],
    size: u64,
    (from, into): (&Path, &Path),
    wanted: &Wanted,
) -> Result<()> {
    let file = File::from(regular(folder, name, from)?).take(size);
    let path = into.join(OsStr::from_bytes(name));
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let copied = match made {
        Ok(mut made) => copy_wanted(file, &mut made, wanted, "a restore")?,
        Err(error) => Err(error),
    };
    match copied {
        Ok(copied) if copied == size => Ok(()),
        Ok(_) => Err(refuse(&from.join(OsStr::from_bytes(name)), "it became shorter meanwhile")),
        Err(error) => Err(Error::io("copying to", path, error)),
    }
}

fn make_anew(folder: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(folder);
    make(folder)
}

fn open_folder(parent: impl AsFd, name: &Path, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => refuse(path, "there is no such folder"),
        Errno::NOTDIR | Errno::LOOP => refuse(path, "it is no folder"),
        errno => Error::io("opening", path, errno.into()),
    })
}

fn regular(folder: &OwnedFd, name: &[u8], path: &Path) -> Result<OwnedFd> {
    let shown = path.join(String::from_utf8_lossy(name).as_ref());
    match open_regular(folder, name) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(refuse(&shown, "it is no regular file")),
        Err(Errno::NOENT) => Err(refuse(&shown, "it is missing")),
        Err(errno) => Err(Error::io("opening", shown, errno.into())),
    }
}

fn read(folder: &OwnedFd, name: &str, path: &Path) -> Result<Vec<u8>> {
    let file = File::from(regular(folder, name.as_bytes(), path)?);
    let mut text = Vec::new();
    let shown = path.join(name);
    file.take(JSON + 1).read_to_end(&mut text).map_err(|error| Error::io("reading", &shown, error))?;
    if text.len() as u64 > JSON {
        return Err(refuse(&shown, format!("it has more than {JSON} bytes")));
    }
    Ok(text)
}

fn parse<T: serde::de::DeserializeOwned>(text: &[u8], path: &Path) -> Result<T> {
    serde_json::from_slice(text).map_err(|error| refuse(path, format!("it cannot be read: {error}")))
}

/// The first thing in which a process, or what is around it, differs from what was saved.
fn differing(old: &Spec, new: &Spec) -> Option<&'static str> {
    // It follows the pod's name.
    let plain = |spec: &Spec| {
        let process = spec.process().clone().unwrap_or_default();
        let env: BTreeSet<String> = process.env().clone().unwrap_or_default().into_iter().collect();
        let env: Vec<String> = env.into_iter().filter(|one| !one.starts_with("HOSTNAME=")).collect();
        let groups: BTreeSet<u32> =
            process.user().additional_gids().clone().unwrap_or_default().into_iter().collect();
        (process, env, groups)
    };
    let ((old_process, old_env, old_groups), (process, env, groups)) = (plain(old), plain(new));
    let (old_user, user) = (old_process.user(), process.user());
    // Where they come from follows the pod; what they are, and what can be done with them, does not.
    let mounts = |spec: &Spec| -> BTreeSet<(PathBuf, Option<String>, BTreeSet<String>)> {
        let options = |mount: &oci_spec::runtime::Mount| mount.options().iter().flatten().cloned().collect();
        let all = spec.mounts().iter().flatten();
        all.map(|mount| (mount.destination().clone(), mount.typ().clone(), options(mount))).collect()
    };
    let read_only_root =
        |spec: &Spec| spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or_default();
    let hidden = |spec: &Spec| -> [BTreeSet<String>; 2] {
        let Some(linux) = spec.linux() else { return Default::default() };
        let set = |paths: &Option<Vec<String>>| paths.iter().flatten().cloned().collect();
        [set(linux.masked_paths()), set(linux.readonly_paths())]
    };
    let namespaces = |spec: &Spec| -> BTreeSet<(String, bool)> {
        let all = spec.linux().as_ref().and_then(|linux| linux.namespaces().clone()).unwrap_or_default();
        all.iter().map(|one| (one.typ().to_string(), one.path().is_some())).collect()
    };
    let all = [
        ("arguments", old_process.args() == process.args()),
        ("environment variables", old_env == env),
        ("working directory", old_process.cwd() == process.cwd()),
        ("user or groups", (old_user.uid(), old_user.gid(), old_groups) == (user.uid(), user.gid(), groups)),
        ("terminal", old_process.terminal().unwrap_or_default() == process.terminal().unwrap_or_default()),
        ("mounts or options of them", mounts(old) == mounts(new)),
        ("a read-only root", read_only_root(old) == read_only_root(new)),
        ("masked or read-only paths", hidden(old) == hidden(new)),
        ("namespaces", namespaces(old) == namespaces(new)),
    ];
    all.into_iter().find(|(_, same)| !same).map(|(what, _)| what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::sync::Arc;

    fn manifest(names: &[&str]) -> Manifest {
        let kept = |name: &&str| Kept {
            name: (*name).to_owned(),
            id: "id".to_owned(),
            image: "image".to_owned(),
            image_id: "sha256:0".to_owned(),
        };
        Manifest {
            version: VERSION,
            runtime: crate::engine::RUNTIME.to_owned(),
            created_at: Timestamp::now(),
            pod: "pod".to_owned(),
            handler: String::new(),
            containers: names.iter().map(kept).collect(),
        }
    }

    /// A checkpoint of one container.
    fn made(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let pod = folder.path().join(POD);
        fs::create_dir_all(pod.join("containers/0/checkpoint")).unwrap();
        fs::write(pod.join(MANIFEST), serde_json::to_vec(&manifest(names)).unwrap()).unwrap();
        fs::write(pod.join(CONFIG), serde_json::to_vec(&PodConfig::default()).unwrap()).unwrap();
        fs::write(pod.join("containers/0/checkpoint/inventory.img"), "x").unwrap();
        fs::write(pod.join("containers/0/rootfs-diff.tar"), "changes").unwrap();
        fs::write(pod.join("containers/0/spec.dump"), "{}").unwrap();
        folder
    }

    fn config(name: &str) -> ContainerConfig {
        ContainerConfig { name: name.to_owned(), ..ContainerConfig::default() }
    }

    fn why<T>(result: Result<T>) -> String {
        result.err().expect("it is refused").to_string()
    }

    #[test]
    fn a_checkpoint_that_was_tampered_with_is_refused() {
        let check = |names: &[&str], change: &dyn Fn(&Path)| {
            let folder = made(names);
            change(&folder.path().join(POD));
            why(Saved::open(folder.path()))
        };
        assert!(why(Saved::open(Path::new("relative"))).contains("absolute"));
        assert!(why(Saved::open(Path::new("/nonexistent/here"))).contains("no such folder"));
        assert!(check(&[], &|_| {}).contains("0 containers"));
        assert!(check(&["a", "a"], &|_| {}).contains("names of their own"));
        assert!(check(&[""], &|_| {}).contains("names of their own"));
        let many: Vec<String> = (0..300).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(check(&many, &|_| {}).contains("300 containers"));
        let text = |text: &'static str| move |pod: &Path| fs::write(pod.join(MANIFEST), text).unwrap();
        assert!(check(&["a"], &text("{")).contains("cannot be read"));
        assert!(check(&["a"], &text(r#"{"version": 2, "more": []}"#)).contains("version 2"));
        let large = |pod: &Path| fs::write(pod.join(MANIFEST), vec![b' '; (JSON + 1) as usize]).unwrap();
        assert!(check(&["a"], &large).contains("more than"));
        let link = |name: &'static str| {
            move |pod: &Path| {
                fs::rename(pod.join(name), pod.join("elsewhere")).unwrap();
                symlink(pod.join("elsewhere"), pod.join(name)).unwrap();
            }
        };
        assert!(check(&["a"], &link(MANIFEST)).contains("no regular file"));
        assert!(check(&["a"], &link(CONFIG)).contains("no regular file"));
        assert!(check(&["a"], &|pod| fs::remove_file(pod.join(CONFIG)).unwrap()).contains("missing"));
        let folder = made(&["a"]);
        fs::rename(folder.path().join(POD), folder.path().join("other")).unwrap();
        symlink("other", folder.path().join(POD)).unwrap();
        assert!(why(Saved::open(folder.path())).contains("no folder"));
    }

    #[test]
    fn containers_are_those_asked_for_and_their_files_plain() {
        let folder = made(&["a"]);
        let saved = Saved::open(folder.path()).unwrap();
        let pod = PodConfig::default();
        assert!(why(saved.containers(&pod, &[config("b")])).contains("asked for are b"));
        assert!(why(saved.containers(&pod, &[config("a"), config("b")])).contains("a, b"));
        let mut other = PodConfig::default();
        other.namespaces.network = super::super::config::Sharing::Node;
        assert!(why(saved.containers(&other, &[config("a")])).contains("network"));
        let found = saved.containers(&pod, &[config("a")]).unwrap().remove(0);
        let into = folder.path().join("into");
        let waits = Arc::new(());
        let wanted = Wanted::by(&waits);
        let copy = || found.copy(&into, &wanted);
        let own = copy().unwrap();
        assert_eq!(fs::read(into.join("rootfs-diff.tar")).unwrap(), b"changes");
        // Nothing is taken from where it came from any more.
        let moved = folder.path().join("saved/id");
        own.move_images(&moved).unwrap();
        assert_eq!(fs::read(moved.join("inventory.img")).unwrap(), b"x");
        fs::remove_dir_all(&into).unwrap();
        let given_up = Arc::new(());
        let unwanted = Wanted::by(&given_up);
        drop(given_up);
        assert!(matches!(found.copy(&into, &unwanted), Err(Error::Canceled { .. })));
        let images = folder.path().join("pod/containers/0/checkpoint");
        symlink("/etc/passwd", images.join("pages-1.img")).unwrap();
        assert!(why(copy()).contains("pages-1.img: it is no regular file"));
        fs::remove_file(images.join("pages-1.img")).unwrap();
        fs::create_dir(images.join("deeper")).unwrap();
        assert!(why(copy()).contains("no regular file"));
        fs::remove_dir(images.join("deeper")).unwrap();
        File::create(images.join("pages-1.img")).unwrap().set_len(1 << 43).unwrap();
        assert!(matches!(copy(), Err(Error::DiskFull { .. })));
        fs::remove_file(images.join("pages-1.img")).unwrap();
        File::create(images.join("descriptors.json")).unwrap().set_len(1 << 20).unwrap();
        assert!(why(copy()).contains("descriptors.json"));
        fs::remove_dir_all(&images).unwrap();
        symlink("/etc", &images).unwrap();
        assert!(why(copy()).contains("no folder"));
        fs::remove_file(&images).unwrap();
        fs::create_dir(&images).unwrap();
        assert!(why(copy()).contains("nothing is in it"));
        fs::remove_dir_all(folder.path().join("pod/containers/0")).unwrap();
        assert!(why(saved.containers(&pod, &[config("a")])).contains("no such folder"));
    }

    #[test]
    fn another_process_than_the_saved_one_is_told() {
        let spec = |env: &str, uid: u32| -> Spec {
            serde_json::from_value(serde_json::json!({
                "ociVersion": "1.0.2",
                "process": { "cwd": "/", "args": ["sh"], "env": ["HOSTNAME=x", env], "user": { "uid": uid, "gid": 0 } },
                "root": { "path": "rootfs", "readonly": false },
                "mounts": [{ "destination": "/proc", "type": "proc", "source": env, "options": ["rw"] }],
                "linux": { "maskedPaths": ["/proc/keys"], "readonlyPaths": [], "namespaces": [{ "type": "network", "path": format!("/run/{env}") }] },
            }))
            .unwrap()
        };
        assert_eq!(differing(&spec("A=1", 0), &spec("A=1", 0)), None);
        assert_eq!(differing(&spec("A=1", 0), &spec("A=2", 0)), Some("environment variables"));
        assert_eq!(differing(&spec("A=1", 0), &spec("A=1", 1)), Some("user or groups"));
        let with = |key: &str, value: serde_json::Value| -> Spec {
            let mut json = serde_json::to_value(spec("A=1", 0)).unwrap();
            *json.pointer_mut(key).unwrap() = value;
            serde_json::from_value(json).unwrap()
        };
        for (key, value, what) in [
            ("/mounts/0/options", serde_json::json!(["ro"]), "mounts or options of them"),
            ("/mounts/0/type", serde_json::json!("tmpfs"), "mounts or options of them"),
            ("/root/readonly", serde_json::json!(true), "a read-only root"),
            ("/linux/maskedPaths", serde_json::json!([]), "masked or read-only paths"),
            ("/linux/readonlyPaths", serde_json::json!(["/proc/sys"]), "masked or read-only paths"),
        ] {
            assert_eq!(differing(&spec("A=1", 0), &with(key, value)), Some(what), "{key}");
        }
    }
}
