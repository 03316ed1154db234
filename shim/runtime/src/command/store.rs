//! What is kept of containers between two commands: `ROOT/ID/` with `state.json`, a copy of `config.json`, and the gate.
//!
//! What always holds: the folder is 0700 and this user's, else nothing in it is believed; a file is there as a whole or not
//! at all; making the folder is what claims an id; who changes the container's life holds the folder's lock.

use super::error::{Error, Result};
use super::limits;
use longshore_runtime::cgroups::CgroupPaths;
use longshore_runtime::{CgroupRecord, Record, handover};
use oci_spec::runtime::Spec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const STATE: &str = "state.json";
const CONFIG: &str = "config.json";
/// Layout of the state file; another one is not read.
const LAYOUT: u32 = 1;
/// Folder of compiled seccomp programs; no container's id has this sign.
const SECCOMP: &str = "@seccomp";

/// Where state goes if the command line does not say.
pub fn default_root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()) {
        Some(folder) if !rustix::process::geteuid().is_root() => Path::new(&folder).join("longshore-runtime"),
        _ => "/run/longshore-runtime".into(),
    }
}

/// The folder of compiled seccomp programs below a root.
pub fn seccomp_cache(root: &Path) -> PathBuf {
    root.join(SECCOMP)
}

/// `state.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    layout: u32,
    pub id: String,
    pub oci_version: String,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    pub annotations: BTreeMap<String, String>,
    pub systemd_cgroup: bool,
    /// Whether `start` has hooks to run.
    pub has_poststart: bool,
    /// What has been made of cgroups for a container that is being made.
    #[serde(default)]
    pub cgroups: Option<CgroupRecord>,
    /// None as long as the container is being made.
    pub container: Option<Record>,
}

impl State {
    pub fn new(id: &str, bundle: PathBuf, spec: &Spec, systemd_cgroup: bool) -> State {
        let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
        State {
            layout: LAYOUT,
            id: id.into(),
            oci_version: spec.version().clone(),
            rootfs: bundle.join(root),
            bundle,
            created: super::time::now(super::time::Precision::Nanoseconds),
            annotations: spec.annotations().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(),
            systemd_cgroup,
            has_poststart: spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_ref()).is_some(),
            cgroups: None,
            container: None,
        }
    }

    /// The cgroups that it has, or is about to have.
    fn cgroups(&self) -> Option<&str> {
        let made = self.container.as_ref().map(|record| record.cgroups.as_str());
        made.or(self.cgroups.as_ref().map(|record| record.path.as_str()))
    }
}

/// The states of the specification, and `paused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// The folder of one container.
#[derive(Debug)]
pub struct Folder {
    pub id: String,
    pub path: PathBuf,
    dir: OwnedFd,
}

fn check_id(id: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    match id {
        "" => Err(Error::EmptyId),
        "." | ".." => Err(Error::InvalidId { id: id.into() }),
        id if id.len() > limits::ID || !id.chars().all(fine) => Err(Error::InvalidId { id: id.into() }),
        _ => Ok(()),
    }
}

/// Makes the folder of all containers if it is missing.
pub fn make_root(root: &Path) -> Result<&Path> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
    made.map(|()| root).map_err(Error::io("make the state folder", root))
}

/// Makes the folder of a new container, locked. The root must be there.
pub fn claim(root: &Path, id: &str) -> Result<Folder> {
    check_id(id)?;
    let path = root.join(id);
    let private = Mode::from_raw_mode(0o700);
    rustix::fs::mkdir(&path, private).map_err(|errno| match errno {
        Errno::EXIST => Error::Exists,
        errno => Error::io("make the state folder", &path)(errno),
    })?;
    let folder = open_folder(id, path)?;
    folder.lock()?;
    Ok(folder)
}

/// The folder of a container that is there.
pub fn open(root: &Path, id: &str) -> Result<Folder> {
    check_id(id)?;
    open_folder(id, root.join(id))
}

fn open_folder(id: &str, path: PathBuf) -> Result<Folder> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => Error::NotExist,
        Errno::NOTDIR | Errno::LOOP => Error::State { path: path.clone(), why: "it is no folder".into() },
        errno => Error::io("open the state folder", &path)(errno),
    })?;
    let folder = Folder { id: id.into(), path, dir };
    let stat = rustix::fs::fstat(&folder.dir).map_err(Error::io("look at the state folder", &folder.path))?;
    folder.check_owner(stat.st_uid, stat.st_mode)?;
    Ok(folder)
}

/// The ids of the containers below a root.
pub fn ids(root: &Path) -> Result<Vec<String>, std::io::Error> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().filter(|name| check_id(name).is_ok());
        if let Some(name) = name.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            ids.push(name);
        }
    }
    ids.sort();
    Ok(ids)
}

/// The folder of a container, locked, with what is kept of it.
pub fn locked(root: &Path, id: &str) -> Result<(Folder, State)> {
    let folder = open(root, id)?;
    folder.lock()?;
    let state = folder.read()?;
    Ok((folder, state))
}

/// Another container below this root that has these cgroups.
pub fn owner_of(root: &Path, cgroups: &str, but: &str) -> Option<String> {
    let trim = |path: &str| path.trim_matches('/').to_owned();
    let has = |id: &String| {
        let state = open(root, id).and_then(|folder| folder.read());
        state.is_ok_and(|state| state.cgroups().is_some_and(|other| trim(other) == trim(cgroups)))
    };
    ids(root).unwrap_or_default().into_iter().filter(|id| id != but).find(has)
}

impl Folder {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    fn damaged(&self, why: impl Into<String>) -> Error {
        Error::State { path: self.path.clone(), why: why.into() }
    }

    /// Nobody else may be able to put something here.
    fn check_owner(&self, uid: u32, mode: u32) -> Result<()> {
        if uid != rustix::process::geteuid().as_raw() {
            return Err(self.damaged(format!("it belongs to user {uid}")));
        }
        match mode & 0o022 {
            0 => Ok(()),
            _ => Err(self.damaged(format!("others may write to it (mode {:o})", mode & 0o7777))),
        }
    }

    /// Waits until no other command works on the container. The lock goes with this value.
    pub fn lock(&self) -> Result<()> {
        let deadline = Instant::now() + limits::LOCK;
        loop {
            match rustix::fs::flock(&self.dir, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::AGAIN) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2))
                }
                Err(Errno::AGAIN) => return Err(Error::Busy { seconds: limits::LOCK.as_secs() }),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::io("lock the state folder", &self.path)(errno)),
            }
        }
        // Deleted while we waited.
        match rustix::fs::fstat(&self.dir) {
            Ok(stat) if stat.st_nlink == 0 => Err(Error::NotExist),
            _ => Ok(()),
        }
    }

    pub fn unlock(&self) {
        let _ = rustix::fs::flock(&self.dir, FlockOperation::Unlock);
    }

    fn is_locked(&self) -> bool {
        match rustix::fs::flock(&self.dir, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                self.unlock();
                false
            }
            Err(_) => true,
        }
    }

    fn read_file(&self, name: &str, most: u64) -> Result<Vec<u8>> {
        let failed = |errno: Errno| match errno {
            Errno::NOENT => self.damaged(format!("{name} is missing")),
            Errno::LOOP => self.damaged(format!("{name} is a symbolic link")),
            errno => Error::io("read the container's state", self.path.join(name))(errno),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, name, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        self.check_owner(stat.st_uid, stat.st_mode)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.damaged(format!("{name} is no regular file")));
        }
        if stat.st_size as u64 > most {
            return Err(self.damaged(format!("{name} has {} bytes, more than {most}", stat.st_size)));
        }
        let mut bytes = Vec::with_capacity(stat.st_size as usize);
        let read = File::from(file).take(most).read_to_end(&mut bytes);
        read.map_err(Error::io("read the container's state", self.path.join(name)))?;
        Ok(bytes)
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let beside = format!("{name}.new");
        let failed =
            |source| Error::Io { doing: "keep the container's state in", path: self.path.join(name), source };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, &*beside, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(|errno| failed(errno.into()))?);
        file.write_all(bytes).map_err(failed)?;
        rustix::fs::renameat(&self.dir, &*beside, &self.dir, name).map_err(|errno| failed(errno.into()))
    }

    pub fn write(&self, state: &State) -> Result<()> {
        let bytes = serde_json::to_vec(state)
            .map_err(|source| Error::Json { path: self.path.join(STATE), source })?;
        self.write_file(STATE, &bytes)
    }

    /// Keeps what was made of cgroups for a container that does not exist yet. They must be nobody else's.
    pub fn note(&self, root: &Path, state: &State, made: &CgroupPaths) -> longshore_runtime::Result<()> {
        let record = CgroupRecord::of(made);
        let noted = State { cgroups: Some(record.clone()), ..state.clone() };
        self.write(&noted).map_err(|error| longshore_runtime::Error::Io {
            doing: "keep the container's state in",
            path: self.path.clone(),
            source: std::io::Error::other(error),
        })?;
        // New ones cannot be another container's.
        let owner = made.existed().then(|| owner_of(root, &record.path, &self.id)).flatten();
        owner.map_or(Ok(()), |owner| {
            Err(longshore_runtime::Error::InvalidSpec {
                field: "linux.cgroupsPath".into(),
                why: format!("container {owner:?} has this cgroup; delete it, or choose another cgroup"),
            })
        })
    }

    /// What is kept of the container, checked.
    pub fn read(&self) -> Result<State> {
        let bytes = match self.read_file(STATE, limits::STATE) {
            Err(_) if !self.has(STATE) => return Err(Error::NotExist),
            other => other?,
        };
        let state: State =
            serde_json::from_slice(&bytes).map_err(|error| self.damaged(format!("{STATE}: {error}")))?;
        if state.layout != LAYOUT {
            return Err(self.damaged(format!("{STATE} has layout {}, not {LAYOUT}", state.layout)));
        }
        if state.id != self.id {
            return Err(self.damaged(format!("{STATE} is of container {:?}", state.id)));
        }
        if state.container.as_ref().is_some_and(|container| !container.is_sound()) {
            return Err(self.damaged(format!("{STATE}: impossible values")));
        }
        Ok(state)
    }

    fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    pub fn write_config(&self, bytes: &[u8]) -> Result<()> {
        self.write_file(CONFIG, bytes)
    }

    /// The config with which the container was made.
    pub fn config(&self) -> Result<Spec> {
        let bytes = self.read_file(CONFIG, limits::CONFIG)?;
        longshore_runtime::load_spec(&bytes).map_err(|error| self.damaged(format!("{CONFIG}: {error}")))
    }

    /// In which state the container is.
    pub fn status(&self, state: &State) -> Result<Status> {
        let Some(record) = &state.container else {
            return Ok(if self.is_locked() { Status::Creating } else { Status::Stopped });
        };
        if record.process().is_none() {
            return Ok(Status::Stopped);
        }
        if record.open_cgroups()?.is_frozen() {
            return Ok(Status::Paused);
        }
        Ok(if handover::is_shut(self.fd()) { Status::Created } else { Status::Running })
    }

    /// Removes the folder and all in it.
    pub fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove the state folder", &self.path)(error))
            }
            _ => Ok(()),
        }
    }
}
