//! What a container may be asked for and this version does not do: refused by name, never ignored.

use super::config::{ContainerConfig, MountKind, NetworkMode};
use crate::error::{Error, Result};

/// Refuses the first wish that would not be fulfilled.
pub fn check(config: &ContainerConfig) -> Result<()> {
    let limits = &config.limits;
    let namespaces = [&config.ipc_mode, &config.pid_mode, &config.uts_mode, &config.userns_mode];
    let wishes = [
        ("CNI networks", matches!(config.network, NetworkMode::Cni(_))),
        ("published ports", config.publish_all || !config.publish.is_empty()),
        ("exposed ports", !config.expose.is_empty()),
        ("dns", !(config.dns.is_empty() && config.dns_search.is_empty() && config.dns_options.is_empty())),
        ("restart policies", config.restart != Default::default()),
        ("health checks", config.health != Default::default()),
        ("init", config.init == Some(true)),
        ("log drivers and options", !config.log.driver.is_empty() || !config.log.options.is_empty()),
        ("volumes", config.mounts.iter().any(|mount| mount.kind != MountKind::Bind)),
        ("mount options", config.mounts.iter().any(|mount| mount.bind.non_recursive)),
        ("mount options", config.mounts.iter().any(|mount| !mount.bind.propagation.is_empty())),
        ("mount options", config.mounts.iter().any(|mount| !mount.bind.recursive_read_only.is_empty())),
        ("volumes of other containers", !config.volumes_from.is_empty()),
        ("volume drivers", !config.volume_driver.is_empty()),
        ("devices", !config.devices.is_empty() || !config.device_cgroup_rules.is_empty()),
        ("more groups", !config.group_add.is_empty()),
        ("namespace modes", namespaces.iter().any(|mode| !mode.is_empty())),
        ("namespace modes", !config.cgroupns_mode.is_empty()),
        ("cgroup parents", !config.cgroup_parent.is_empty()),
        ("security options", !config.security_opt.is_empty()),
        ("sysctls", !config.sysctls.is_empty()),
        ("ulimits", !config.ulimits.is_empty()),
        ("the size of /dev/shm", config.shm_size != 0),
        ("runtimes", !config.runtime.is_empty()),
        ("annotations", !config.annotations.is_empty()),
        ("the score of the OOM killer", config.oom_score_adj != 0),
        ("storage options", !config.storage_opt.is_empty()),
        ("domain names", !config.domainname.is_empty()),
        (
            "limits other than memory, cpus and pids",
            *limits
                != super::config::Limits {
                    memory: limits.memory,
                    nano_cpus: limits.nano_cpus,
                    pids: limits.pids,
                    ..Default::default()
                },
        ),
    ];
    match wishes.iter().find(|(_, wished)| *wished) {
        None => Ok(()),
        Some((what, _)) => Err(Error::invalid(*what, "not built yet in this version")),
    }
}
