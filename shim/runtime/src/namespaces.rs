//! Which namespaces a container gets, and everything that depends on having its own: id maps, host name, sysctls.

use crate::init::Step;
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

fn invalid(field: &str, why: impl Into<String>) -> Error {
    Error::InvalidSpec { field: field.into(), why: why.into() }
}

impl Namespaces {
    /// Reads them from the config and opens those that are joined.
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
                    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
                    let fd = fd.map_err(|errno| Error::Io {
                        doing: "open the namespace",
                        path: path.into(),
                        source: errno.into(),
                    })?;
                    namespaces.joined.push((fd, flag, path.into()));
                }
            }
        }
        namespaces.check(linux)?;
        Ok(namespaces)
    }

    fn check(&self, linux: &Linux) -> Result<()> {
        if self.has(libc::CLONE_NEWTIME)
            || linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty())
        {
            return Err(Error::NotBuilt { feature: "linux.namespaces: time".into() });
        }
        if self.new & libc::CLONE_NEWNS == 0 {
            return Err(match self.has(libc::CLONE_NEWNS) {
                true => {
                    Error::NotBuilt { feature: "linux.namespaces: joining a mount namespace by path".into() }
                }
                false => {
                    Error::NotBuilt { feature: "a container without a mount namespace of its own".into() }
                }
            });
        }
        let maps = [linux.uid_mappings(), linux.gid_mappings()];
        let mapped = |map: &Option<Vec<LinuxIdMapping>>| map.as_ref().is_some_and(|map| !map.is_empty());
        if self.new & libc::CLONE_NEWUSER != 0 && !maps.iter().all(|map| mapped(map)) {
            return Err(invalid(
                "linux.uidMappings",
                "a new user namespace needs uidMappings and gidMappings",
            ));
        }
        if !self.has(libc::CLONE_NEWUSER) && maps.iter().any(|map| mapped(map)) {
            return Err(invalid("linux.uidMappings", "id mappings need a user namespace"));
        }
        if self.joins(libc::CLONE_NEWUSER) {
            return Err(Error::NotBuilt {
                feature: "linux.namespaces: joining a user namespace by path".into(),
            });
        }
        Ok(())
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

    /// The pid namespace to be born in, if it is joined.
    pub(crate) fn pid_to_join(&self) -> Option<BorrowedFd<'_>> {
        self.joined.iter().find(|(_, flag, _)| *flag == libc::CLONE_NEWPID).map(|(fd, ..)| fd.as_fd())
    }

    /// The steps that join namespaces, apart from the pid namespace.
    pub(crate) fn plan_joins(&mut self, steps: &mut Vec<Step>) {
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
        Ok(Step::WriteProc { path: text(format!("/proc/sys/{path}"))?, value: text(value.to_owned())? })
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

/// Writes the id maps of a child that has just made its user namespace.
pub(crate) fn write_id_maps(pid: i32, linux: &Linux) -> Result<()> {
    for (file, field, map) in [
        ("uid_map", "linux.uidMappings", linux.uid_mappings()),
        ("gid_map", "linux.gidMappings", linux.gid_mappings()),
    ] {
        let lines =
            map.iter().flatten().map(|m| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size()));
        let text: String = lines.collect();
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
    sys::setns(own.as_fd(), libc::CLONE_NEWPID).map_err(system("return to the runtime's pid namespace"))?;
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
