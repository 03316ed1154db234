//! Namespaces that a pod's containers share, held by files: each is mounted in the pod's folder, where it stays until it is
//! unmounted, whoever lives.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use super::config::{Map, PodConfig, Sharing, UserMaps};
use super::users;
use crate::error::{Error, Result};

/// Where a pod's namespaces are.
#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// Of the pod that has this folder.
    pub fn of(pod: &Path) -> Files {
        Files { folder: pod.join("ns") }
    }

    pub fn network(&self) -> PathBuf {
        self.folder.join("net")
    }

    pub fn ipc(&self) -> PathBuf {
        self.folder.join("ipc")
    }

    pub fn uts(&self) -> PathBuf {
        self.folder.join("uts")
    }

    /// Of a pod that has users of its own.
    pub fn user(&self) -> PathBuf {
        self.folder.join("user")
    }

    /// Holds the namespace at `source` by a file.
    pub fn hold(&self, source: &str, place: &Path) -> Result<()> {
        std::fs::create_dir_all(&self.folder)
            .map_err(|error| Error::io("making the folder", &self.folder, error))?;
        File::create(place).map_err(|error| Error::io("making", place, error))?;
        mount_bind(source, place).map_err(|error| Error::io("holding a namespace at", place, error.into()))
    }

    /// Lets go of all of them. Those that are not there are gone already.
    pub fn release(&self) -> Result<()> {
        let mut first = Ok(());
        for place in [self.network(), self.ipc(), self.uts(), self.user()] {
            // Not mounted is as good.
            let _ = unmount(&place, UnmountFlags::DETACH);
            match std::fs::remove_file(&place) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound && first.is_ok() => {
                    first = Err(Error::io("letting go of the namespace", &place, error));
                }
                _ => {}
            }
        }
        first
    }
}

/// What a pod has of its own.
pub struct Wanted {
    pub ipc: bool,
    /// The host's name in it; `None`: it has the host's.
    pub hostname: Option<String>,
    /// Whether the network's is held already.
    pub network: bool,
    pub sysctls: Map,
    /// Whose they are, if they are held already since they belong to the pod's own users.
    pub users: Option<UserMaps>,
}

impl Wanted {
    pub fn of(config: &PodConfig) -> Wanted {
        let own_network = config.namespaces.network != Sharing::Node;
        Wanted {
            ipc: config.namespaces.ipc != Sharing::Node,
            hostname: own_network.then(|| hostname(config)),
            network: own_network,
            sysctls: sysctls(config),
            users: config.namespaces.users.clone(),
        }
    }
}

/// What is asked for, and what everybody may do in a network namespace of one's own: ping, and open ports below 1024.
fn sysctls(config: &PodConfig) -> Map {
    let mut all = Map::new();
    if config.namespaces.network != Sharing::Node {
        all.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
    }
    all.extend(config.sysctls.clone());
    all
}

/// The name that a pod's containers have.
pub fn hostname(config: &PodConfig) -> String {
    if !config.hostname.is_empty() {
        return config.hostname.clone();
    }
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    own.trim().to_owned()
}

/// Makes what a pod wants, in a thread that ends afterwards.
pub fn make(files: Files, wanted: Wanted) -> Result<()> {
    let made = std::thread::Builder::new()
        .name("pod".into())
        .stack_size(128 * 1024)
        .spawn(move || within(&files, &wanted))
        .map_err(|error| Error::io("starting a thread for", "namespaces of a pod", error))?;
    made.join().unwrap_or(Err(Error::Lost { what: "making a pod's namespaces" }))
}

fn within(files: &Files, wanted: &Wanted) -> Result<()> {
    let failed = |doing: &'static str| {
        move |error: nix::errno::Errno| Error::io(doing, "namespaces of a pod", error.into())
    };
    let enter = |path: PathBuf, kind: CloneFlags| {
        let namespace = File::open(&path).map_err(|error| Error::io("opening", &path, error))?;
        setns(&namespace, kind).map_err(failed("entering"))
    };
    let own_names = wanted.hostname.is_some();
    if wanted.users.is_some() {
        if wanted.ipc {
            enter(files.ipc(), CloneFlags::CLONE_NEWIPC)?;
        }
        if own_names {
            enter(files.uts(), CloneFlags::CLONE_NEWUTS)?;
        }
    } else {
        let mut flags = CloneFlags::empty();
        flags.set(CloneFlags::CLONE_NEWIPC, wanted.ipc);
        flags.set(CloneFlags::CLONE_NEWUTS, own_names);
        unshare(flags).map_err(failed("making"))?;
    }
    if let Some(hostname) = &wanted.hostname {
        nix::unistd::sethostname(hostname).map_err(failed("naming the host in"))?;
    }
    if wanted.network {
        enter(files.network(), CloneFlags::CLONE_NEWNET)?;
    }
    let (of_network, others): (Map, Map) =
        wanted.sysctls.clone().into_iter().partition(|(name, _)| name.starts_with("net"));
    set(&of_network)?;
    if wanted.users.is_some() && others.is_empty() {
        return Ok(());
    }
    if let Some(users) = &wanted.users {
        // Of the others the kernel asks whether one is the root that they belong to, and not for privileges.
        return users::as_root(users, || set(&others));
    }
    set(&others)?;
    if wanted.ipc {
        files.hold("/proc/thread-self/ns/ipc", &files.ipc())?;
    }
    if own_names {
        files.hold("/proc/thread-self/ns/uts", &files.uts())?;
    }
    Ok(())
}

fn set(sysctls: &Map) -> Result<()> {
    for (name, value) in sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        std::fs::write(&path, value).map_err(|error| Error::io("setting a pod's", &path, error))?;
    }
    Ok(())
}

/// Does something in a network namespace, in a thread that ends afterwards: nothing that waits for others.
pub fn enter_network<T: Send + 'static>(
    network: PathBuf,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let thread = std::thread::Builder::new().name("pod".into()).stack_size(128 * 1024);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::io("entering the network of", path, error)
    };
    let path = network.clone();
    let entered = thread.spawn(move || {
        let file = File::open(&network)?;
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        work()
    });
    let entered = entered.map_err(failed(&path))?.join();
    entered.unwrap_or(Err(std::io::ErrorKind::Other.into())).map_err(failed(&path))
}

/// Refuses sysctls that are not those of a namespace which the pod has of its own.
pub fn check_sysctls(config: &PodConfig) -> Result<()> {
    let own_ipc = config.namespaces.ipc != Sharing::Node;
    let own_network = config.namespaces.network != Sharing::Node;
    for name in config.sysctls.keys() {
        let dotted = name.replace('/', ".");
        let of_ipc = ["kernel.msg", "kernel.shm", "fs.mqueue."].iter().any(|begin| dotted.starts_with(begin))
            || dotted == "kernel.sem";
        let of_network = dotted.starts_with("net.");
        let why = if dotted.contains("..") || dotted.contains('\0') {
            "it is no name of a sysctl"
        } else if of_ipc && !own_ipc {
            "the pod shares the host's IPC namespace"
        } else if of_network && !own_network {
            "the pod shares the host's network"
        } else if !of_ipc && !of_network {
            "it belongs to no namespace: set it on the node"
        } else {
            continue;
        };
        return Err(Error::invalid(format!("sysctl {name:?}"), why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sysctls_of_the_pod_s_own_namespaces_are_taken() {
        let config = |name: &str, network| {
            let mut config = PodConfig::default();
            config.sysctls.insert(name.to_owned(), "1".to_owned());
            config.namespaces.network = network;
            check_sysctls(&config)
        };
        assert!(config("net.ipv4.ip_forward", Sharing::Pod).is_ok());
        assert!(config("kernel.shm_rmid_forced", Sharing::Pod).is_ok());
        assert!(config("net.ipv4.ip_forward", Sharing::Node).is_err());
        assert!(config("vm.swappiness", Sharing::Pod).is_err());
        assert!(config("net.../../kernel/x", Sharing::Pod).is_err());
    }
}
