//! Which namespaces a container has of its own, which it shares with the host, and which with another container.
//! What is joined is held open by the daemon, and looked up at every start.

use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType};

use crate::engine::config::{ContainerConfig, NetworkMode};
use crate::error::{Error, Result};

/// How a container sees System V's and POSIX's shared memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ipc {
    /// Its own; `/dev/shm` included.
    Private,
    /// Its own, which others may join.
    Shareable,
    /// Its own, without `/dev/shm`.
    NoShm,
    Host,
    /// Another container's, by name or id.
    Container(String),
}

/// How a container sees processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pid {
    Private,
    Host,
    /// Another container's, by name or id.
    Container(String),
}

/// Namespaces of others that are joined, by the paths where they are found for as long as they are held open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joins {
    pub ipc: Option<String>,
    pub pid: Option<String>,
}

impl Ipc {
    pub fn parse(text: &str) -> Result<Ipc> {
        Ok(match text {
            "" | "private" => Ipc::Private,
            "shareable" => Ipc::Shareable,
            "none" => Ipc::NoShm,
            "host" => Ipc::Host,
            other => match other.strip_prefix("container:") {
                Some(name) if !name.is_empty() => Ipc::Container(name.to_owned()),
                _ => return Err(invalid("IPC", text, "private, shareable, none, host and container:NAME")),
            },
        })
    }
}

impl Pid {
    pub fn parse(text: &str) -> Result<Pid> {
        Ok(match text {
            "" => Pid::Private,
            "host" => Pid::Host,
            other => match other.strip_prefix("container:") {
                Some(name) if !name.is_empty() => Pid::Container(name.to_owned()),
                _ => return Err(invalid("PID", text, "host and container:NAME")),
            },
        })
    }
}

fn invalid(what: &str, mode: &str, known: &str) -> Error {
    Error::invalid(format!("invalid {what} mode: {mode}"), format!("{known} are known"))
}

/// Checks the modes by themselves and against what else was asked for.
pub fn check(config: &ContainerConfig) -> Result<()> {
    Ipc::parse(&config.ipc_mode)?;
    Pid::parse(&config.pid_mode)?;
    for (mode, what) in [(&config.uts_mode, "UTS"), (&config.userns_mode, "USER")] {
        if !matches!(mode.as_str(), "" | "host") {
            return Err(invalid(what, mode, "host and nothing"));
        }
    }
    if !matches!(config.cgroupns_mode.as_str(), "" | "private" | "host") {
        return Err(invalid("CGROUP", &config.cgroupns_mode, "private and host"));
    }
    let conflict = |why: &str| Err(Error::invalid("conflicting options", why));
    if config.uts_mode == "host" && !config.hostname.is_empty() {
        return conflict("hostname and the UTS mode");
    }
    if config.uts_mode == "host" && !config.domainname.is_empty() {
        return conflict("domainname and the UTS mode");
    }
    if let NetworkMode::Container(_) = config.network
        && !config.hostname.is_empty()
    {
        return conflict("hostname and the network mode");
    }
    Ok(())
}

/// All but the network's, which is whatever `network` says.
pub fn namespaces(
    config: &ContainerConfig,
    joins: &Joins,
    network: Option<LinuxNamespace>,
) -> Result<Vec<LinuxNamespace>> {
    let mut all = vec![own(LinuxNamespaceType::Mount)?];
    if config.uts_mode != "host" {
        all.push(own(LinuxNamespaceType::Uts)?);
    }
    match Pid::parse(&config.pid_mode)? {
        Pid::Host => {}
        Pid::Private => all.push(own(LinuxNamespaceType::Pid)?),
        Pid::Container(name) => all.push(joined(LinuxNamespaceType::Pid, joins.pid.as_ref(), &name)?),
    }
    match Ipc::parse(&config.ipc_mode)? {
        Ipc::Host => {}
        Ipc::Container(name) => all.push(joined(LinuxNamespaceType::Ipc, joins.ipc.as_ref(), &name)?),
        Ipc::Private | Ipc::Shareable | Ipc::NoShm => all.push(own(LinuxNamespaceType::Ipc)?),
    }
    all.extend(network);
    let cgroup = match config.cgroupns_mode.as_str() {
        "private" => true,
        "host" => false,
        _ => !config.privileged,
    };
    if cgroup {
        all.push(own(LinuxNamespaceType::Cgroup)?);
    }
    Ok(all)
}

/// One that the runtime makes.
pub fn own(kind: LinuxNamespaceType) -> Result<LinuxNamespace> {
    LinuxNamespaceBuilder::default().typ(kind).build().map_err(Error::oci)
}

/// One that is there.
pub fn at(kind: LinuxNamespaceType, path: impl Into<std::path::PathBuf>) -> Result<LinuxNamespace> {
    LinuxNamespaceBuilder::default().typ(kind).path(path).build().map_err(Error::oci)
}

fn joined(kind: LinuxNamespaceType, path: Option<&String>, name: &str) -> Result<LinuxNamespace> {
    at(kind, path.ok_or_else(|| Error::not_found("container", name))?)
}

/// Checks kernel parameters: those of a namespace that the container shares with the host are the host's.
pub fn check_sysctls(config: &ContainerConfig) -> Result<()> {
    const OF_IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let ipc = matches!(Ipc::parse(&config.ipc_mode)?, Ipc::Host | Ipc::Container(_));
    for name in config.sysctls.keys() {
        let refuse = |why: &str| Err(Error::invalid(format!("sysctl \"{name}\" not allowed"), why));
        let of_ipc = OF_IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.");
        if name.contains("..") || name.contains(['/', '\0']) {
            return refuse("it is not the name of a kernel parameter");
        }
        if name.starts_with("net.") {
            match config.network {
                NetworkMode::Host => return refuse("in host network namespace"),
                NetworkMode::Container(_) => return refuse("in another container's network namespace"),
                _ => {}
            }
        } else if of_ipc && ipc {
            return refuse("in a shared ipc namespace");
        } else if !of_ipc && (name != "kernel.domainname" || config.uts_mode == "host") {
            return refuse("it is not in a separate kernel namespace");
        }
    }
    Ok(())
}

/// Kernel parameters of a network namespace of the container's own, as docker sets them: every group may ping, and every user may
/// have the ports below 1024, which are the container's alone.
const OF_NETWORKS: [(&str, &str); 2] =
    [("net.ipv4.ping_group_range", "0 2147483647"), ("net.ipv4.ip_unprivileged_port_start", "0")];

/// What is set: what was asked for, and what every network namespace has unless that says otherwise.
pub fn sysctls(config: &ContainerConfig) -> HashMap<String, String> {
    let own_network = !matches!(config.network, NetworkMode::Host | NetworkMode::Container(_));
    let defaults = OF_NETWORKS.iter().filter(|_| own_network && can_set_networks());
    let pairs = defaults.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let asked = config.sysctls.iter().map(|(name, value)| (name.clone(), value.clone()));
    pairs.chain(asked).collect()
}

/// Whether this kernel has them, and the daemon all groups: in a user namespace it may not.
fn can_set_networks() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let there = |name: &str| Path::new("/proc/sys").join(name.replace('.', "/")).exists();
        let groups = std::fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
        let mut words = groups.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        let all = words.next() == Some(0) && words.nth(1).is_some_and(|count| count > i32::MAX as u64);
        all && OF_NETWORKS.iter().all(|(name, _)| there(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(config: &ContainerConfig, joins: Joins) -> Vec<(LinuxNamespaceType, Option<String>)> {
        let all = namespaces(config, &joins, None).unwrap();
        let path = |ns: &LinuxNamespace| ns.path().as_ref().map(|path| path.display().to_string());
        all.iter().map(|namespace| (namespace.typ(), path(namespace))).collect()
    }

    #[test]
    fn modes_decide_what_is_shared() {
        use LinuxNamespaceType::{Cgroup, Ipc, Mount, Pid, Uts};
        let plain = kinds(&ContainerConfig::default(), Joins::default());
        assert_eq!(plain.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [Mount, Uts, Pid, Ipc, Cgroup]);
        let host = ContainerConfig {
            ipc_mode: "host".into(),
            pid_mode: "host".into(),
            uts_mode: "host".into(),
            cgroupns_mode: "host".into(),
            ..Default::default()
        };
        assert_eq!(kinds(&host, Joins::default()), [(Mount, None)]);
        let other = ContainerConfig {
            ipc_mode: "container:a".into(),
            pid_mode: "container:b".into(),
            privileged: true,
            ..Default::default()
        };
        let all = kinds(&other, Joins { ipc: Some("/proc/7/fd/1".into()), pid: Some("/proc/7/fd/2".into()) });
        assert!(all.contains(&(Ipc, Some("/proc/7/fd/1".into()))));
        assert!(all.contains(&(Pid, Some("/proc/7/fd/2".into()))));
        assert!(!all.iter().any(|(kind, _)| *kind == Cgroup), "a privileged one sees the host's");
    }

    #[test]
    fn a_network_of_its_own_has_dockers_parameters() {
        let port = "net.ipv4.ip_unprivileged_port_start";
        let asked =
            ContainerConfig { sysctls: [(port.to_owned(), "99".to_owned())].into(), ..Default::default() };
        let all = sysctls(&asked);
        assert_eq!(all[port], "99");
        assert_eq!(all.contains_key("net.ipv4.ping_group_range"), can_set_networks());
        for network in [NetworkMode::Host, NetworkMode::Container("x".into())] {
            assert!(sysctls(&ContainerConfig { network, ..Default::default() }).is_empty());
        }
    }

    #[test]
    fn docker_s_words() {
        let refused = |config: ContainerConfig| check(&config).unwrap_err().for_people();
        let ipc = ContainerConfig { ipc_mode: "x".into(), ..Default::default() };
        assert!(refused(ipc).starts_with("invalid IPC mode: x"));
        let uts = ContainerConfig { uts_mode: "host".into(), hostname: "h".into(), ..Default::default() };
        assert_eq!(refused(uts), "conflicting options: hostname and the UTS mode");
    }

    #[test]
    fn parameters_of_the_host_are_refused() {
        let sysctl = |name: &str, network: NetworkMode, ipc: &str| {
            let sysctls = [(name.to_owned(), "1".to_owned())].into();
            check_sysctls(&ContainerConfig { sysctls, network, ipc_mode: ipc.into(), ..Default::default() })
        };
        sysctl("net.core.somaxconn", NetworkMode::Default, "").unwrap();
        sysctl("kernel.shmmax", NetworkMode::Host, "").unwrap();
        for (name, network, ipc) in [
            ("net.core.somaxconn", NetworkMode::Host, ""),
            ("kernel.shmmax", NetworkMode::Default, "host"),
            ("fs.mqueue.msg_max", NetworkMode::Default, "container:x"),
            ("kernel.panic", NetworkMode::Default, ""),
            ("net.../../kernel.panic", NetworkMode::Default, ""),
        ] {
            assert!(sysctl(name, network, ipc).is_err(), "{name}");
        }
    }
}
