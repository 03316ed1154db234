//! The container's cgroups: made, limited, read, frozen and removed by files, on v1, v2 and hybrid hosts.
//!
//! A cgroup is named by its path below the root of each hierarchy (`/longshore/ID`), as in `linux.cgroupsPath`. What
//! always holds: a cgroup that is open is reached through its descriptor, so one of the same name that came later is
//! never mistaken for it; only removal goes by name, and that fails while a process is in it.

mod blkio;
mod devices;
mod freeze;
mod host;
mod kill;
mod limits;
mod mount;
mod oom;
mod read;
mod stats;

pub(crate) use mount::plan_mount;
pub(crate) use oom::OomWatch;
pub use stats::{BlkioEntry, BlkioStats, CpuStats, HugetlbStats, MemoryEntry, MemoryStats, PidsStats, Stats};

use crate::init::Step;
use crate::{Error, Result};
use host::HostHierarchy;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode as FileMode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// How often a cgroup is made whose parent vanishes.
const MAKE_TRIES: u32 = 10;

/// How this host arranges its cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One hierarchy for each controller, or for a few.
    V1,
    /// One unified hierarchy.
    V2,
    /// v1 hierarchies, and a unified one with what they leave over.
    Hybrid,
}

/// The mode of this host; `V1` if it cannot be told.
pub fn mode() -> Mode {
    host::detect().map_or(Mode::V1, |host| host.mode)
}

/// One container's cgroup in every hierarchy of the host.
#[derive(Debug)]
pub struct CgroupPaths {
    path: String,
    mode: Mode,
    groups: Vec<Group>,
}

/// The cgroup in one hierarchy.
#[derive(Debug)]
pub(crate) struct Group {
    /// As in `/proc/self/cgroup`: `cpu,cpuacct`, `name=systemd`, and empty for v2.
    pub(crate) controllers: String,
    root: PathBuf,
    dir: OwnedFd,
}

impl Group {
    pub(crate) fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|c| c == controller)
    }
}

impl CgroupPaths {
    /// The cgroups with this path, for reading and cleaning up; those that do not exist are left out.
    pub fn open(cgroups_path: &str) -> Result<CgroupPaths> {
        let path = relative(cgroups_path)?;
        let host = host::detect()?;
        let mut groups = Vec::with_capacity(host.hierarchies.len());
        for hierarchy in host.hierarchies {
            let full = hierarchy.root.join(&path);
            match open_dir(&full) {
                Ok(dir) => {
                    groups.push(Group { controllers: hierarchy.controllers, root: hierarchy.root, dir })
                }
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(io("open the cgroup", full, errno)),
            }
        }
        Ok(CgroupPaths { path, mode: host.mode, groups })
    }

    /// The cgroups that a process is in, for reading only; a hierarchy in which it is where this process is, too, is left
    /// out. They belong to whoever made them: never remove them through this.
    pub fn of_process(pid: i32) -> Result<CgroupPaths> {
        let host = host::detect()?;
        let (theirs, ours) = (paths_of(&format!("/proc/{pid}/cgroup"))?, paths_of("/proc/self/cgroup")?);
        let mut found = CgroupPaths { path: String::new(), mode: host.mode, groups: Vec::new() };
        for hierarchy in host.hierarchies {
            let same = |(controllers, _): &&(String, String)| *controllers == hierarchy.controllers;
            let Some((_, path)) = theirs.iter().find(same) else { continue };
            if ours.iter().find(same).is_some_and(|(_, own)| own == path) {
                continue;
            }
            let path = crate::paths::clean(path);
            if let Ok(dir) = open_dir(&hierarchy.root.join(&path)) {
                found.groups.push(Group { controllers: hierarchy.controllers, root: hierarchy.root, dir });
                found.path = path;
            }
        }
        Ok(found)
    }

    /// Goes on with a cgroup below, in the hierarchy of one controller; without a name in the unified one.
    pub(crate) fn go_below(&mut self, controller: &str, path: &str) -> Result<()> {
        let group = self.groups.iter_mut().find(|group| match controller {
            "" => group.is_v2(),
            name => group.has(name),
        });
        let group = group.ok_or_else(|| Error::InvalidSpec {
            field: "--cgroup".into(),
            why: match controller {
                "" => "this host has no unified hierarchy: say CONTROLLER:PATH".into(),
                name => format!("this host has no hierarchy for {name:?}"),
            },
        })?;
        let below = crate::paths::clean(path);
        let below = if below.is_empty() { "." } else { below.as_str() };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let beneath = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
        group.dir = rustix::fs::openat2(&group.dir, below, flags, FileMode::empty(), beneath)
            .map_err(|errno| io("open the cgroup", group.root.join(&self.path).join(below), errno))?;
        Ok(())
    }

    /// Moves a process into them.
    pub fn join(&self, pid: i32) -> Result<()> {
        for group in &self.groups {
            write_at(group, "cgroup.procs", &pid.to_string()).map_err(|errno| Error::Cgroup {
                path: group.root.join(&self.path).join("cgroup.procs"),
                value: pid.to_string(),
                source: errno.into(),
            })?;
        }
        Ok(())
    }

    /// See [`crate::Container::oom_fd`]; `None` where it cannot be watched.
    pub fn oom_fd(&self) -> Option<OwnedFd> {
        self.watch_oom().ok().flatten().map(|watch| watch.0)
    }

    /// Makes the cgroups; none may exist with processes in it. A failure leaves none behind that it made.
    pub(crate) fn create(cgroups_path: &str) -> Result<CgroupPaths> {
        let host = host::detect()?;
        let path = relative(cgroups_path)?;
        let mut made =
            CgroupPaths { path, mode: host.mode, groups: Vec::with_capacity(host.hierarchies.len()) };
        for hierarchy in host.hierarchies {
            match create_one(hierarchy, &made.path) {
                Ok(group) => made.groups.push(group),
                Err(error) => {
                    let _ = made.remove();
                    return Err(error);
                }
            }
        }
        Ok(made)
    }

    /// The path below each hierarchy's root.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The v1 cgroup that has a controller.
    pub(crate) fn v1(&self, controller: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.has(controller))
    }

    /// The cgroup of the unified hierarchy.
    pub(crate) fn v2(&self) -> Option<&Group> {
        self.groups.iter().find(|group| group.is_v2())
    }

    /// The steps by which a process moves itself into the v1 cgroups; v2's it is born in.
    pub(crate) fn plan_joins(&self) -> Result<Vec<Step>> {
        let v1 = self.groups.iter().filter(|group| !group.is_v2());
        v1.map(|group| {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let tasks = rustix::fs::openat(group.dir(), c"tasks", flags, FileMode::empty())
                .map_err(|errno| io("open the cgroup", group.root.join(&self.path).join("tasks"), errno))?;
            Ok(Step::JoinCgroup { tasks, controllers: group.controllers.clone() })
        })
        .collect()
    }

    /// Whether any process is left in them.
    pub fn is_populated(&self) -> Result<bool> {
        Ok(!self.pids()?.is_empty())
    }

    /// The hierarchies in which they exist: `memory`, `cpu,cpuacct`, `name=systemd`, and an empty name for v2.
    pub fn hierarchies(&self) -> Vec<&str> {
        self.groups.iter().map(|group| group.controllers.as_str()).collect()
    }

    /// Removes them and cgroups below them; not there is success. Fails if a process is left in one.
    pub fn remove(&self) -> Result<()> {
        let mut first = Ok(());
        for group in &self.groups {
            let full = group.root.join(&self.path);
            if let Err(errno) = kill::remove_tree(group.dir(), &full)
                && first.is_ok()
            {
                first = Err(io("remove the cgroup", full, errno));
            }
        }
        first
    }
}

/// Where cgroups go if the config does not say.
const DEFAULT_PARENT: &str = "/longshore";

/// Where the cgroups of a container with this config are.
pub fn path_of(spec: &oci_spec::runtime::Spec, id: &str) -> String {
    let path = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_deref())
        .and_then(|path| path.to_str());
    match path.filter(|path| !path.is_empty()) {
        Some(path) => path.to_owned(),
        None => format!("{DEFAULT_PARENT}/{id}"),
    }
}

/// Kills every process in the cgroups of a container whose shim is gone, and removes them. Not there is success.
pub fn remove_orphan(cgroups_path: &str) -> Result<()> {
    let cgroups = CgroupPaths::open(cgroups_path)?;
    cgroups.kill_all(libc::SIGKILL)?;
    cgroups.remove()
}

/// The lines of a `/proc/PID/cgroup` file: controllers and path.
fn paths_of(file: &str) -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::Io {
        doing: "read the cgroups of a process from",
        path: file.into(),
        source,
    })?;
    let parts = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
    });
    Ok(parts.collect())
}

/// A cgroup's path relative to the root of its hierarchy. The root itself is no container's.
fn relative(cgroups_path: &str) -> Result<String> {
    let invalid = |why: &str| Error::InvalidSpec { field: "linux.cgroupsPath".into(), why: why.into() };
    if cgroups_path.split('/').any(|part| part == "..") {
        return Err(invalid("must not contain \"..\""));
    }
    if cgroups_path.contains(':') && !cgroups_path.starts_with('/') {
        return Err(Error::NotBuilt {
            feature: format!("linux.cgroupsPath {cgroups_path:?} (a systemd slice)"),
        });
    }
    match crate::paths::clean(cgroups_path) {
        path if path.is_empty() => Err(invalid("must name a cgroup below the root")),
        path => Ok(path),
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())
}

fn io(doing: &'static str, path: PathBuf, errno: Errno) -> Error {
    Error::Io { doing, path, source: errno.into() }
}

fn create_one(hierarchy: HostHierarchy, path: &str) -> Result<Group> {
    let full = hierarchy.root.join(path);
    let existed = make(&hierarchy, path, &full)? == Made::Before;
    let dir = open_dir(&full).map_err(|errno| io("open the cgroup", full.clone(), errno))?;
    let group = Group { controllers: hierarchy.controllers, root: hierarchy.root, dir };
    if existed && !read::pids_of(group.dir())?.is_empty() {
        return Err(Error::InvalidSpec {
            field: "linux.cgroupsPath".into(),
            why: format!("{full:?} exists and has processes in it; choose another, or end them"),
        });
    }
    if group.has("cpuset") {
        limits::inherit_cpuset(&group.root, &full)?;
    }
    Ok(group)
}

/// Whether a cgroup is new.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    Now,
    Before,
}

/// Makes a cgroup and what is above it. Somebody may remove an empty parent at any moment: then once more.
fn make(hierarchy: &HostHierarchy, path: &str, full: &Path) -> Result<Made> {
    for _ in 1..MAKE_TRIES {
        match rustix::fs::mkdir(full, FileMode::from_raw_mode(0o755)) {
            Ok(()) => return Ok(Made::Now),
            Err(Errno::EXIST) => return Ok(Made::Before),
            Err(Errno::NOENT) => create_parents(hierarchy, path)?,
            Err(errno) => return Err(io("make the cgroup", full.into(), errno)),
        }
    }
    Err(io("make the cgroup", full.into(), Errno::NOENT))
}

/// Makes the folders above a cgroup. Those of the cpuset controller hand their processors down to what is made below.
fn create_parents(hierarchy: &HostHierarchy, path: &str) -> Result<()> {
    let mut at = hierarchy.root.clone();
    let parts: Vec<&str> = path.split('/').collect();
    for part in &parts[..parts.len() - 1] {
        at.push(part);
        match rustix::fs::mkdir(&at, FileMode::from_raw_mode(0o755)) {
            Ok(()) if hierarchy.controllers.split(',').any(|c| c == "cpuset") => {
                limits::inherit_cpuset(&hierarchy.root, &at)?;
                write_path(&at.join("cgroup.clone_children"), "1")?;
            }
            Ok(()) | Err(Errno::EXIST) => {}
            // Removed above us meanwhile: the caller tries again.
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(io("make the cgroup", at, errno)),
        }
    }
    Ok(())
}

/// Writes a control file by its path.
fn write_path(path: &Path, value: &str) -> Result<()> {
    std::fs::write(path, value).map_err(|source| Error::Cgroup {
        path: path.into(),
        value: value.into(),
        source,
    })
}

/// Writes a control file of an open cgroup.
fn write_at(group: &Group, file: &str, value: &str) -> Result<(), Errno> {
    let fd = rustix::fs::openat(group.dir(), file, OFlags::WRONLY | OFlags::CLOEXEC, FileMode::empty())?;
    rustix::io::write(&fd, value.as_bytes()).map(drop)
}
