//! Which namespaces a container gets, and everything that depends on having its own: id maps, host name, sysctls.

use crate::init::{Step, channel};
use crate::sys::process as sys;
use crate::{Error, Result};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Spec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// Largest text of an id map that the kernel takes, in bytes (one page).
const MAP_MAX: usize = 4096;

/// The container's namespaces: flags as in clone(2).
pub(crate) struct Namespaces {
    /// Made new.
    pub(crate) new: i32,
    /// Joined by path: descriptor, flag, path.
    joined: Vec<(OwnedFd, i32, PathBuf)>,
}

/// Every kind of namespace.
pub(crate) const ALL: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWTIME;

fn flag(kind: LinuxNamespaceType) -> i32 {
    match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => libc::CLONE_NEWTIME,
    }
}

/// The name of such a namespace below `/proc/PID/ns`.
pub(crate) fn file_of(flag: i32) -> &'static str {
    match flag {
        libc::CLONE_NEWNS => "mnt",
        libc::CLONE_NEWCGROUP => "cgroup",
        libc::CLONE_NEWUTS => "uts",
        libc::CLONE_NEWIPC => "ipc",
        libc::CLONE_NEWUSER => "user",
        libc::CLONE_NEWPID => "pid",
        libc::CLONE_NEWNET => "net",
        _ => "time",
    }
}

fn invalid(field: &str, why: impl Into<String>) -> Error {
    Error::InvalidSpec { field: field.into(), why: why.into() }
}

impl Namespaces {
    /// Reads them from the config and opens those that are joined. A namespace of the config that is the runtime's own
    /// anyway needs no joining.
    pub(crate) fn plan(linux: &Linux) -> Result<Namespaces> {
        let mut namespaces = Namespaces { new: 0, joined: Vec::new() };
        let mut seen = 0;
        for namespace in linux.namespaces().as_deref().unwrap_or_default() {
            let flag = flag(namespace.typ());
            if seen & flag != 0 {
                return Err(invalid("linux.namespaces", format!("{:?} is listed twice", namespace.typ())));
            }
            seen |= flag;
            match namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
                None => namespaces.new |= flag,
                Some(path) => {
                    let fd = open(path)?;
                    check_kind(fd.as_fd(), flag, path)?;
                    namespaces.joined.push((fd, flag, path.into()));
                }
            }
        }
        if namespaces.is_hosts(libc::CLONE_NEWNS, "mnt") {
            let why = "the runtime's own mount namespace cannot be joined: the container's mounts would be the host's";
            return Err(invalid("linux.namespaces", why));
        }
        if namespaces.is_hosts(libc::CLONE_NEWUSER, "user") {
            namespaces.joined.retain(|(_, flag, _)| *flag != libc::CLONE_NEWUSER);
        }
        namespaces.check(linux)?;
        Ok(namespaces)
    }

    fn check(&self, linux: &Linux) -> Result<()> {
        self.check_clocks(linux)?;
        self.check_mounts()?;
        let (uid, gid) = maps(linux);
        match (self.new & libc::CLONE_NEWUSER != 0, self.user_to_join()) {
            (true, _) if uid.is_empty() || gid.is_empty() => {
                Err(invalid("linux.uidMappings", "a new user namespace needs uidMappings and gidMappings"))
            }
            (false, None) if !uid.is_empty() || !gid.is_empty() => {
                Err(invalid("linux.uidMappings", "id mappings need a user namespace"))
            }
            (false, Some(fd)) if !uid.is_empty() || !gid.is_empty() => check_maps_of(fd, uid, gid),
            _ => Ok(()),
        }
    }

    /// Without a mount namespace the container's mounts are nobody's: a tree that is attached nowhere.
    fn check_mounts(&self) -> Result<()> {
        /// Mounts can be attached to such a tree since this version.
        const NEEDED: (u32, u32) = (6, 15);
        match self.has(libc::CLONE_NEWNS) {
            true => Ok(()),
            false if self.has_user() => {
                Err(invalid("linux.namespaces", "a user namespace needs a mount namespace beside it"))
            }
            false if kernel_version() < NEEDED => Err(invalid(
                "linux.namespaces",
                "a container without a mount namespace needs Linux 6.15 or later",
            )),
            false => Ok(()),
        }
    }

    fn check_clocks(&self, linux: &Linux) -> Result<()> {
        /// `execve` moves a process to its time namespace since this version.
        const NEEDED: (u32, u32) = (6, 1);
        let offsets = linux.time_offsets().iter().flatten().count();
        if offsets > 0 && self.new & libc::CLONE_NEWTIME == 0 {
            return Err(invalid("linux.timeOffsets", "need a new time namespace in linux.namespaces"));
        }
        if self.new & libc::CLONE_NEWTIME == 0 {
            return Ok(());
        }
        if !Path::new("/proc/self/ns/time").exists() || kernel_version() < NEEDED {
            let why = "a time namespace needs Linux 6.1 or later, built with CONFIG_TIME_NS";
            return Err(invalid("linux.namespaces", why));
        }
        Ok(())
    }

    /// One of each kind, all of them new.
    pub(crate) fn all_new() -> Namespaces {
        Namespaces { new: ALL, joined: Vec::new() }
    }

    /// Whether the container has one of its own, new or joined.
    pub(crate) fn has(&self, flag: i32) -> bool {
        self.new & flag != 0 || self.joins(flag)
    }

    fn joins(&self, flag: i32) -> bool {
        self.joined.iter().any(|(_, joined, _)| *joined == flag)
    }

    /// Flags of all namespaces that are not the host's.
    pub(crate) fn flags(&self) -> i32 {
        self.joined.iter().fold(self.new, |flags, (_, flag, _)| flags | flag)
    }

    /// Whether the container's processes live in a user namespace that is not the runtime's.
    pub(crate) fn has_user(&self) -> bool {
        self.has(libc::CLONE_NEWUSER)
    }

    /// The user namespace to be joined.
    pub(crate) fn user_to_join(&self) -> Option<BorrowedFd<'_>> {
        self.to_join(libc::CLONE_NEWUSER)
    }

    /// The network namespace to be joined.
    pub(crate) fn network_to_join(&self) -> Option<BorrowedFd<'_>> {
        self.to_join(libc::CLONE_NEWNET)
    }

    /// The pid namespace to be joined.
    pub(crate) fn pids_to_join(&self) -> Option<BorrowedFd<'_>> {
        self.to_join(libc::CLONE_NEWPID)
    }

    /// Takes the joined pid namespace out: the process is born there by a step of its own.
    pub(crate) fn take_pids(&mut self) -> Option<(OwnedFd, PathBuf)> {
        let at = self.joined.iter().position(|(_, flag, _)| *flag == libc::CLONE_NEWPID)?;
        let (fd, _, path) = self.joined.remove(at);
        Some((fd, path))
    }

    fn to_join(&self, flag: i32) -> Option<BorrowedFd<'_>> {
        self.joined.iter().find(|(_, joined, _)| *joined == flag).map(|(fd, ..)| fd.as_fd())
    }

    /// Clones the container's first process into its namespaces. `flags` are those to be made.
    ///
    /// Namespaces are joined with the runtime's privileges, so before the process is in its user namespace, which lacks
    /// them: a helper joins, and clones the process as its sibling.
    pub(crate) fn spawn(
        &self,
        flags: u64,
        group: Option<BorrowedFd<'_>>,
        run: impl FnOnce() -> i32,
    ) -> Result<sys::Child> {
        let clone = |errno: rustix::io::Errno| Error::System {
            doing: "clone the container's init",
            source: errno.into(),
        };
        match self.to_join(libc::CLONE_NEWPID) {
            _ if self.joins_before_user() => self.spawn_by_helper(flags, group, run),
            Some(pid) => born_in(pid, || sys::spawn(flags, group, run).map_err(clone)),
            None => sys::spawn(flags, group, run).map_err(clone),
        }
    }

    fn joins_before_user(&self) -> bool {
        self.has_user() && !self.joined.is_empty()
    }

    fn spawn_by_helper(
        &self,
        flags: u64,
        group: Option<BorrowedFd<'_>>,
        run: impl FnOnce() -> i32,
    ) -> Result<sys::Child> {
        let system = |doing| move |errno: rustix::io::Errno| Error::System { doing, source: errno.into() };
        // The descriptor table is shared with the helper, which puts the process's pidfd in the place of this one.
        let slot = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(system("open /"))?;
        let not_user = |entry: &&(OwnedFd, i32, PathBuf)| entry.1 != libc::CLONE_NEWUSER;
        let joins =
            || self.joined.iter().filter(not_user).chain(self.joined.iter().filter(|entry| !not_user(entry)));
        let helper = sys::spawn(libc::CLONE_FILES as u64, None, || {
            let run = || {
                for (fd, flag, _) in joins() {
                    sys::setns(fd.as_fd(), *flag)?;
                }
                let child = sys::spawn_sibling(flags, group, run)?;
                sys::replace(child.pidfd, slot.as_fd())
            };
            run().map_or_else(|errno| errno.raw_os_error() & 0xff, |()| 0)
        })
        .map_err(system("fork a helper to join namespaces"))?;
        let exit = sys::wait(helper.pidfd.as_fd(), sys::Reap::Take);
        match exit.map_err(system("wait for the helper that joins namespaces"))? {
            sys::Exit::Code(0) => {
                let pid = sys::pid_of(slot.as_fd()).map_err(system("read the init's process id"))?;
                Ok(sys::Child { pid, pidfd: slot })
            }
            sys::Exit::Code(errno) => {
                let paths: Vec<_> = joins().map(|(_, _, path)| path.display().to_string()).collect();
                Err(Error::Init {
                    doing: format!("join the namespaces {} and clone the init", paths.join(", ")),
                    errno,
                    hint: "",
                })
            }
            sys::Exit::Signal(signal) => Err(Error::InitDied { how: format!("signal {signal}") }),
        }
    }

    /// The steps that join namespaces, apart from those that [`Namespaces::spawn`] joins.
    pub(crate) fn plan_joins(&mut self, steps: &mut Vec<Step>) {
        if self.joins_before_user() {
            return;
        }
        let (pid, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.joined)
            .into_iter()
            .partition(|(_, flag, _)| *flag == libc::CLONE_NEWPID);
        self.joined = pid;
        for (fd, flags, path) in others {
            steps.push(Step::JoinNamespaces { fd, flags, what: format!("the namespace {path:?}") });
        }
    }

    /// The steps that set the host name and the sysctls. Must be called before [`Namespaces::plan_joins`].
    pub(crate) fn plan_settings(&self, spec: &Spec, linux: &Linux, steps: &mut Vec<Step>) -> Result<()> {
        for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
            let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else { continue };
            if !self.has(libc::CLONE_NEWUTS) {
                return Err(invalid(field, "needs a uts namespace in linux.namespaces"));
            }
            let name = CString::new(name).map_err(|_| invalid(field, "contains a NUL byte"))?;
            steps.push(if field == "hostname" { Step::Hostname(name) } else { Step::Domainname(name) });
        }
        for (key, value) in linux.sysctl().iter().flatten() {
            steps.push(self.sysctl(key, value)?);
        }
        Ok(())
    }

    /// Only sysctls that belong to one of the container's own namespaces may be set (CVE-2022-0811).
    fn sysctl(&self, key: &str, value: &str) -> Result<Step> {
        const IPC: &[&str] = &[
            "kernel/msgmax",
            "kernel/msgmnb",
            "kernel/msgmni",
            "kernel/sem",
            "kernel/shmall",
            "kernel/shmmax",
            "kernel/shmmni",
            "kernel/shm_rmid_forced",
        ];
        let field = format!("linux.sysctl[{key:?}]");
        let path = sysctl_path(key).ok_or_else(|| invalid(&field, "is no name of a sysctl"))?;
        let needs = if IPC.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
            (libc::CLONE_NEWIPC, "ipc")
        } else if path.starts_with("net/") {
            (libc::CLONE_NEWNET, "network")
        } else if path == "kernel/domainname" {
            (libc::CLONE_NEWUTS, "uts")
        } else {
            return Err(invalid(&field, "does not belong to a namespace; set it on the host"));
        };
        if !self.has(needs.0) || self.is_hosts(needs.0, needs.1) {
            return Err(invalid(&field, format!("needs a {} namespace of the container's own", needs.1)));
        }
        if value.contains('\n') || value.contains('\0') {
            return Err(invalid(&field, "the value must be one line"));
        }
        let text = |text: String| CString::new(text).map_err(|_| invalid(&field, "contains a NUL byte"));
        Ok(Step::WriteProc { path: text(format!("sys/{path}"))?, value: text(value.to_owned())? })
    }

    /// Whether a joined namespace is the runtime's own after all.
    fn is_hosts(&self, flag: i32, name: &str) -> bool {
        let Some((fd, ..)) = self.joined.iter().find(|(_, joined, _)| *joined == flag) else { return false };
        let file = if name == "network" { "net" } else { name };
        let own = rustix::fs::stat(format!("/proc/self/ns/{file}"));
        match (rustix::fs::fstat(fd), own) {
            (Ok(joined), Ok(own)) => (joined.st_dev, joined.st_ino) == (own.st_dev, own.st_ino),
            _ => true,
        }
    }
}

/// `net.ipv4.ip_forward` or `net/ipv4/conf/eth0.100/forwarding` as a path below `/proc/sys`.
fn sysctl_path(key: &str) -> Option<String> {
    let first = key.find(['.', '/'])?;
    let path = if key.as_bytes()[first] == b'.' {
        key.chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect()
    } else {
        key.to_owned()
    };
    let fine = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.chars().all(|c| c.is_ascii_graphic() && c != '+')
    };
    path.split('/').all(fine).then_some(path)
}

/// The id maps of the container's user namespace; empty where there are none.
fn maps(linux: &Linux) -> (&[LinuxIdMapping], &[LinuxIdMapping]) {
    (linux.uid_mappings().as_deref().unwrap_or_default(), linux.gid_mappings().as_deref().unwrap_or_default())
}

fn open(path: &Path) -> Result<OwnedFd> {
    // A FIFO of that name must not hold anybody up.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| Error::Io {
        doing: "open the namespace",
        path: path.into(),
        source: errno.into(),
    })
}

/// The file must be a namespace of the kind that the config says.
fn check_kind(fd: BorrowedFd<'_>, flag: i32, path: &Path) -> Result<()> {
    match sys::namespace_kind(fd) {
        Ok(kind) if kind == flag => Ok(()),
        Ok(_) => Err(invalid("linux.namespaces", format!("{path:?} is a namespace of another type"))),
        Err(_) => Err(invalid("linux.namespaces", format!("{path:?} is no namespace"))),
    }
}

fn kernel_version() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// A config may name both a user namespace and its maps; then they must agree.
fn check_maps_of(user: BorrowedFd<'_>, uid: &[LinuxIdMapping], gid: &[LinuxIdMapping]) -> Result<()> {
    let system = |doing| move |errno: rustix::io::Errno| Error::System { doing, source: errno.into() };
    let ends = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(system("make a pipe"));
    let (wait, visitor) = channel::with_child(ends, |_, ready| {
        let visit = || {
            let _ = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
            match sys::setns(user, libc::CLONE_NEWUSER).and_then(|()| rustix::io::write(ready, b"1")) {
                Err(_) => 1,
                Ok(_) => loop {
                    sys::pause();
                },
            }
        };
        sys::spawn(0, None, visit).map_err(system("fork a visitor to the user namespace"))
    })?;
    let compare = || {
        let mut byte = [0];
        if !matches!(rustix::io::read(&wait, &mut byte), Ok(1)) {
            return Err(invalid("linux.namespaces", "the user namespace cannot be joined"));
        }
        for (file, field, map) in
            [("uid_map", "linux.uidMappings", uid), ("gid_map", "linux.gidMappings", gid)]
        {
            let path = PathBuf::from(format!("/proc/{}/{file}", visitor.pid));
            let text = std::fs::read_to_string(&path).map_err(|source| Error::Io {
                doing: "read the id map",
                path,
                source,
            })?;
            let numbers = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            let mut has: Vec<_> = text.lines().map(numbers).collect();
            let mut wants: Vec<_> = map_text(map).lines().map(numbers).collect();
            has.sort();
            wants.sort();
            if has != wants {
                let why =
                    "differs from the map of the user namespace in linux.namespaces; leave one of them out";
                return Err(invalid(field, why));
            }
        }
        Ok(())
    };
    let verdict = compare();
    let _ = sys::pidfd_send_signal(visitor.pidfd.as_fd(), libc::SIGKILL);
    let _ = sys::wait(visitor.pidfd.as_fd(), sys::Reap::Take);
    verdict
}

/// Writes the id maps of a child that has just made its user namespace.
pub(crate) fn write_id_maps(pid: i32, linux: &Linux) -> Result<()> {
    let (uid, gid) = maps(linux);
    write_maps(pid, uid, gid)
}

fn map_text(map: &[LinuxIdMapping]) -> String {
    map.iter().map(|m| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size())).collect()
}

/// Writes the id maps of a process that is alone in its new user namespace.
pub(crate) fn write_maps(pid: i32, uid: &[LinuxIdMapping], gid: &[LinuxIdMapping]) -> Result<()> {
    for (file, field, map) in [("uid_map", "linux.uidMappings", uid), ("gid_map", "linux.gidMappings", gid)] {
        let text = map_text(map);
        if text.len() >= MAP_MAX {
            let why = format!("the map takes {} bytes; the kernel's limit is {MAP_MAX}", text.len());
            return Err(invalid(field, why));
        }
        let path = Path::new("/proc").join(pid.to_string()).join(file);
        std::fs::write(&path, text).map_err(|source| Error::Io {
            doing: "write the id map",
            path,
            source,
        })?;
    }
    Ok(())
}

/// Writes the clock offsets of a child that has just made its time namespace and is not in it yet.
pub(crate) fn write_time_offsets(pid: i32, linux: &Linux) -> Result<()> {
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            let why = format!("{clock:?} is no clock of a time namespace; they are monotonic and boottime");
            return Err(invalid("linux.timeOffsets", why));
        }
        let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
        let path = Path::new("/proc").join(pid.to_string()).join("timens_offsets");
        std::fs::write(&path, format!("{clock} {seconds} {nanoseconds}\n")).map_err(|source| {
            invalid("linux.timeOffsets", format!("{clock} {seconds} s {nanoseconds} ns: {source}"))
        })?;
    }
    Ok(())
}

/// Runs `spawn` so that the child is born in another pid namespace, without an intermediate process: children's pid
/// namespace is a property of the parent that can be set back.
pub(crate) fn born_in<T>(pid_namespace: BorrowedFd<'_>, spawn: impl FnOnce() -> Result<T>) -> Result<T> {
    let system = |doing| move |errno: rustix::io::Errno| Error::System { doing, source: errno.into() };
    let own = rustix::fs::open(c"/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(system("open the runtime's pid namespace"))?;
    match sys::setns(pid_namespace, libc::CLONE_NEWPID) {
        Err(rustix::io::Errno::SRCH) => return Err(Error::NotRunning),
        other => other.map_err(system("join the pid namespace"))?,
    }
    let result = spawn();
    match sys::setns(own.as_fd(), libc::CLONE_NEWPID) {
        // In a user namespace of its own it has no way back, and makes no further processes that would care.
        Err(rustix::io::Errno::PERM) if crate::rootless::is_rootless() => {}
        other => other.map_err(system("return to the runtime's pid namespace"))?,
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names_become_paths() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward").unwrap(), "net/ipv4/ip_forward");
        assert_eq!(
            sysctl_path("net/ipv4/conf/eth0.100/forwarding").unwrap(),
            "net/ipv4/conf/eth0.100/forwarding"
        );
        assert_eq!(
            sysctl_path("net.ipv4.conf.eth0/100.forwarding").unwrap(),
            "net/ipv4/conf/eth0.100/forwarding"
        );
        assert!(sysctl_path("net/../kernel/core_pattern").is_none());
        assert!(sysctl_path("kernel.shm_rmid_forced+kernel.core_pattern").is_none());
        assert!(sysctl_path("nodots").is_none());
    }

    #[test]
    fn cve_2022_0811_sysctls_outside_namespaces_are_refused() {
        let namespaces = Namespaces {
            new: libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET,
            joined: Vec::new(),
        };
        assert!(namespaces.sysctl("kernel.core_pattern", "|/evil").is_err());
        assert!(namespaces.sysctl("kernel.shm_rmid_forced", "1").is_ok());
        assert!(namespaces.sysctl("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x\n").is_err());
        assert!(namespaces.sysctl("kernel.domainname", "x").is_err());
    }
}
