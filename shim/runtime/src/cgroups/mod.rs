//! The container's cgroups: made, limited, read, frozen and removed by files, or by systemd, on v1, v2 and hybrid hosts.
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
mod systemd;

pub(crate) use mount::plan_mount;
pub(crate) use oom::OomWatch;
pub use stats::{BlkioEntry, BlkioStats, CpuStats, HugetlbStats, MemoryEntry, MemoryStats, PidsStats, Stats};
pub(crate) use systemd::Placeholder;

use crate::init::{Request, Step};
use crate::{Error, Result};
use host::HostHierarchy;
use oci_spec::runtime::Spec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode as FileMode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use systemd::Unit;

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
    /// Who made them, if it was systemd.
    unit: Option<Unit>,
    /// Whether one of them was there before.
    existed: bool,
}

/// How a new container's cgroups are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manager {
    Files,
    Systemd,
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
    /// The cgroups with this path, or of a container of which [`CgroupPaths::record`] was kept, for reading, changing and
    /// cleaning up; those that do not exist are left out.
    pub fn open(cgroups_path: &str) -> Result<CgroupPaths> {
        if let Some(record) = cgroups_path.strip_prefix(SYSTEMD_RECORD) {
            return CgroupPaths::reopen(record);
        }
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
        Ok(CgroupPaths { path, mode: host.mode, groups, unit: None, existed: true })
    }

    fn reopen(record: &str) -> Result<CgroupPaths> {
        let bad = || Error::InvalidSpec {
            field: "record of the cgroups".into(),
            why: format!("{record:?} is none that systemd made"),
        };
        let (unit, path) = record.split_once('/').ok_or_else(bad)?;
        let unit = Unit::from_record(unit).ok_or_else(bad)?;
        Ok(CgroupPaths { unit: Some(unit), ..CgroupPaths::open(&format!("/{path}"))? })
    }

    /// One word by which another process can open them, with whoever made them.
    pub fn record(&self) -> String {
        match &self.unit {
            Some(unit) => format!("{SYSTEMD_RECORD}{}/{}", unit.record(), self.path),
            None => self.path.clone(),
        }
    }

    /// The cgroups that a process is in, for reading only; a hierarchy in which it is where this process is, too, is left
    /// out. They belong to whoever made them: never remove them through this.
    pub fn of_process(pid: i32) -> Result<CgroupPaths> {
        let host = host::detect()?;
        let (theirs, ours) = (paths_of(&format!("/proc/{pid}/cgroup"))?, paths_of("/proc/self/cgroup")?);
        let mut found = CgroupPaths::none(host.mode);
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

    fn none(mode: Mode) -> CgroupPaths {
        CgroupPaths { path: String::new(), mode, groups: Vec::new(), unit: None, existed: true }
    }

    /// Whether they may be another container's, too: one of them was there when they were made, or all when they were opened.
    pub fn existed(&self) -> bool {
        self.existed
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

    /// Makes the cgroups of a new container; none may exist with processes in it. A failure leaves none behind that it
    /// made. What comes with systemd's must live until a process is in them.
    pub(crate) fn create(
        spec: &Spec,
        id: &str,
        manager: Manager,
    ) -> Result<(CgroupPaths, Option<Placeholder>)> {
        let host = host::detect()?;
        let mut made = CgroupPaths { existed: false, ..CgroupPaths::none(host.mode) };
        let mut placeholder = None;
        match manager {
            Manager::Files => made.path = relative(&path_of(spec, id, false))?,
            Manager::Systemd => {
                let unit = Unit::parse(&path_in(spec).unwrap_or_default(), id)?;
                made.path = unit.path()?;
                placeholder = Some(unit.start(spec, id, host.mode)?);
                made.unit = Some(unit);
            }
        }
        for hierarchy in host.hierarchies {
            match create_one(hierarchy, &made.path, manager) {
                Ok((group, before)) => {
                    made.groups.push(group);
                    made.existed |= before == Made::Before;
                }
                // An ordinary user has those that were given to him, or none.
                Err(error) if crate::rootless::does_without_cgroups() && is_refusal(&error) => {}
                Err(error) => {
                    drop(placeholder);
                    let _ = made.remove();
                    return Err(error);
                }
            }
        }
        Ok((made, placeholder))
    }

    /// Whether processes get into them by systemd only.
    pub(crate) fn joined_by_systemd(&self) -> bool {
        self.unit.as_ref().is_some_and(Unit::moves_processes)
    }

    /// Has systemd move a process into them.
    pub(crate) fn attach(&self, pid: i32) -> Result<()> {
        self.unit.as_ref().map_or(Ok(()), |unit| unit.attach(pid))
    }

    /// What a control file says where there is the unified hierarchy only; `None`: there is no such file.
    pub fn unified_file(&self, file: &str) -> Option<String> {
        let group = self.v2().filter(|_| self.mode == Mode::V2 && !file.contains('/'))?;
        read::text_at(group.dir(), file).ok()
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

    /// The one that a new process is born in.
    pub(crate) fn v2_to_be_born_in(&self) -> Option<&Group> {
        self.v2().filter(|_| !self.joined_by_systemd())
    }

    /// The steps by which a process moves itself into the v1 cgroups; v2's it is born in, or has systemd move it there.
    pub(crate) fn plan_joins(&self) -> Result<Vec<Step>> {
        if self.joined_by_systemd() {
            return Ok(vec![Step::Ask(Request::JoinCgroup)]);
        }
        let v1 = self.groups.iter().filter(|group| !group.is_v2());
        v1.map(|group| {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let tasks = rustix::fs::openat(group.dir(), c"tasks", flags, FileMode::empty())
                .map_err(|errno| io("open the cgroup", group.root.join(&self.path).join("tasks"), errno))?;
            Ok(Step::JoinCgroup { tasks, controllers: group.controllers.clone() })
        })
        .collect()
    }

    /// Controllers and folder of each.
    pub(crate) fn folders(&self) -> Vec<(String, PathBuf)> {
        self.groups.iter().map(|group| (group.controllers.clone(), group.root.join(&self.path))).collect()
    }

    /// The one by which processes are frozen.
    pub(crate) fn freezer_folder(&self) -> Option<PathBuf> {
        let group = self.v1("freezer").or_else(|| self.v2())?;
        Some(group.root.join(&self.path))
    }

    /// Whether any process is left in them.
    pub fn is_populated(&self) -> Result<bool> {
        Ok(!self.pids()?.is_empty())
    }

    /// The hierarchies in which they exist: `memory`, `cpu,cpuacct`, `name=systemd`, and an empty name for v2.
    pub fn hierarchies(&self) -> Vec<&str> {
        self.groups.iter().map(|group| group.controllers.as_str()).collect()
    }

    /// A number that no other cgroup has as long as the machine runs; none if there is no cgroup.
    pub fn identity(&self) -> Option<u64> {
        let best = ["freezer", "pids", "memory", "cpu"].iter().find_map(|controller| self.v1(controller));
        let group = best.or_else(|| self.v2()).or_else(|| self.groups.first())?;
        rustix::fs::fstat(group.dir()).ok().map(|stat| stat.st_ino)
    }

    /// Lets go of them: what is here is somebody else's.
    pub(crate) fn forget(self) -> CgroupPaths {
        CgroupPaths { groups: Vec::new(), unit: None, ..self }
    }

    /// Removes them and cgroups below them; not there is success. Fails if a process is left in one.
    pub fn remove(&self) -> Result<()> {
        let mut first = self.unit.as_ref().map_or(Ok(()), Unit::stop);
        let deadline = kill::removal_deadline();
        for group in &self.groups {
            let full = group.root.join(&self.path);
            if let Err(errno) = kill::remove_tree(group.dir(), &full, deadline)
                && first.is_ok()
            {
                first = Err(io("remove the cgroup", full, errno));
            }
            // The parent that we have made goes with the last one in it.
            if let Some((DEFAULT_PARENT_NAME, name)) = self.path.split_once('/')
                && !name.contains('/')
            {
                let _ = rustix::fs::rmdir(group.root.join(DEFAULT_PARENT_NAME));
            }
        }
        first
    }
}

/// Where cgroups go if the config does not say.
const DEFAULT_PARENT: &str = "/longshore";
const DEFAULT_PARENT_NAME: &str = "longshore";

/// Where the cgroups of a container with this config are.
pub fn path_of(spec: &Spec, id: &str, by_systemd: bool) -> String {
    match path_in(spec) {
        Some(path) => path,
        None if by_systemd => systemd::usual_path(id),
        None if crate::rootless::is_rootless() => format!("{}{DEFAULT_PARENT}-{id}", own_path()),
        None => usual_path(id),
    }
}

/// Where they are if the config does not say and files make them.
pub fn usual_path(id: &str) -> String {
    format!("{DEFAULT_PARENT}/{id}")
}

fn path_in(spec: &Spec) -> Option<String> {
    let path = spec.linux().as_ref()?.cgroups_path().as_deref()?.to_str()?;
    Some(path.to_owned()).filter(|path| !path.is_empty())
}

/// Where this process is in the unified hierarchy: below it an ordinary user may make cgroups, if at all.
fn own_path() -> String {
    let paths = paths_of("/proc/self/cgroup").unwrap_or_default();
    let own = paths.into_iter().find(|(controllers, _)| controllers.is_empty());
    own.map(|(_, path)| path).filter(|path| path != "/").unwrap_or_default()
}

/// Whether the kernel does not let us make the cgroup.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } | Error::Cgroup { source, .. }
        if matches!(source.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ENOENT)))
}

/// Before the record of cgroups that systemd made.
const SYSTEMD_RECORD: &str = "systemd:";

/// Kills every process in the cgroups of a container whose shim is gone, and removes them. Not there is success.
pub fn remove_orphan(cgroups_path: &str) -> Result<()> {
    let cgroups = if is_unit(cgroups_path) {
        let unit = Unit::parse(cgroups_path, "")?;
        let path = unit.path()?;
        CgroupPaths { unit: Some(unit), ..CgroupPaths::open(&path)? }
    } else {
        CgroupPaths::open(cgroups_path)?
    };
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
    if is_unit(cgroups_path) {
        return Err(invalid("is of the form slice:prefix:name, which needs the systemd cgroup driver"));
    }
    match crate::paths::clean(cgroups_path) {
        path if path.is_empty() => Err(invalid("must name a cgroup below the root")),
        path => Ok(path),
    }
}

/// Whether a path is of the form that means a unit of systemd.
fn is_unit(cgroups_path: &str) -> bool {
    !cgroups_path.starts_with('/')
        && !cgroups_path.starts_with(SYSTEMD_RECORD)
        && cgroups_path.matches(':').count() == 2
}

fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())
}

fn io(doing: &'static str, path: PathBuf, errno: Errno) -> Error {
    Error::Io { doing, path, source: errno.into() }
}

fn create_one(hierarchy: HostHierarchy, path: &str, manager: Manager) -> Result<(Group, Made)> {
    let full = hierarchy.root.join(path);
    let made = make(&hierarchy, path, &full)?;
    let dir = open_dir(&full).map_err(|errno| io("open the cgroup", full.clone(), errno))?;
    let group = Group { controllers: hierarchy.controllers, root: hierarchy.root, dir };
    if made == Made::Before && manager == Manager::Files && !read::pids_of(group.dir())?.is_empty() {
        return Err(Error::InvalidSpec {
            field: "linux.cgroupsPath".into(),
            why: format!("{full:?} exists and has processes in it; choose another, or end them"),
        });
    }
    if group.has("cpuset") {
        limits::inherit_cpuset(&group.root, &full)?;
    }
    Ok((group, made))
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
