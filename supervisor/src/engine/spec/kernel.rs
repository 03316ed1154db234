//! What this host's kernel can limit: looked at once, in the cgroup hierarchies that are mounted. What it cannot is
//! left out of a container's limits, and whoever asked is told so in docker's words.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::engine::config::Limits;

/// Where cgroups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Longest list of CPUs or memory nodes that is read.
const MAX_NODES: u32 = 65_536;

/// The kernel's abilities.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    memory: bool,
    swap: bool,
    swappiness: bool,
    reservation: bool,
    oom_kill_disable: bool,
    pids: bool,
    shares: bool,
    quota: bool,
    realtime: bool,
    weight: bool,
    weight_device: bool,
    throttle: bool,
    cpuset: bool,
    /// As the kernel writes them; empty where there is no cpuset controller.
    pub cpus: String,
    pub mems: String,
}

/// This host's.
pub fn kernel() -> &'static Kernel {
    static KERNEL: OnceLock<Kernel> = OnceLock::new();
    KERNEL.get_or_init(|| Kernel::at(Path::new(CGROUPS)))
}

impl Kernel {
    fn at(cgroups: &Path) -> Kernel {
        match std::fs::read_to_string(cgroups.join("cgroup.controllers")) {
            Ok(controllers) => Kernel::v2(cgroups, &controllers),
            Err(_) => Kernel::v1(cgroups),
        }
    }

    fn v1(cgroups: &Path) -> Kernel {
        let has = |controller: &str, file: &str| cgroups.join(controller).join(file).exists();
        let text = |file: &str| {
            std::fs::read_to_string(cgroups.join("cpuset").join(file)).unwrap_or_default().trim().to_owned()
        };
        Kernel {
            memory: has("memory", "memory.limit_in_bytes"),
            swap: has("memory", "memory.memsw.limit_in_bytes"),
            swappiness: has("memory", "memory.swappiness"),
            reservation: has("memory", "memory.soft_limit_in_bytes"),
            oom_kill_disable: has("memory", "memory.oom_control"),
            pids: cgroups.join("pids").is_dir(),
            shares: has("cpu", "cpu.shares"),
            quota: has("cpu", "cpu.cfs_quota_us"),
            realtime: has("cpu", "cpu.rt_period_us"),
            weight: has("blkio", "blkio.weight") || has("blkio", "blkio.bfq.weight"),
            weight_device: has("blkio", "blkio.weight_device") || has("blkio", "blkio.bfq.weight_device"),
            throttle: has("blkio", "blkio.throttle.read_bps_device"),
            cpuset: has("cpuset", "cpuset.cpus"),
            cpus: text("cpuset.cpus"),
            mems: text("cpuset.mems"),
        }
    }

    fn v2(cgroups: &Path, controllers: &str) -> Kernel {
        let has = |controller: &str| controllers.split_whitespace().any(|name| name == controller);
        let text =
            |file: &str| std::fs::read_to_string(cgroups.join(file)).unwrap_or_default().trim().to_owned();
        Kernel {
            memory: has("memory"),
            swap: has("memory"),
            reservation: has("memory"),
            pids: has("pids"),
            shares: has("cpu"),
            quota: has("cpu"),
            weight: has("io") && below(cgroups, &["io.weight", "io.bfq.weight"]),
            weight_device: has("io") && below(cgroups, &["io.weight", "io.bfq.weight"]),
            throttle: has("io"),
            cpuset: has("cpuset"),
            cpus: text("cpuset.cpus.effective"),
            mems: text("cpuset.mems.effective"),
            ..Kernel::default()
        }
    }

    /// Takes out of `limits` what this kernel does not know, and says what was taken.
    pub fn fit(&self, limits: &mut Limits) -> Vec<String> {
        let mut said = Vec::new();
        let mut cannot = |what: &str, consequence: &str| {
            said.push(format!(
                "Your kernel does not support {what} or the cgroup is not mounted. {consequence}"
            ));
        };
        if limits.memory.is_some() && !self.memory {
            limits.memory = None;
            limits.memory_swap = 0;
            cannot("memory limit capabilities", "Limitation discarded.");
        }
        if limits.memory.is_some() && limits.memory_swap != -1 && !self.swap {
            limits.memory_swap = -1;
            cannot("swap limit capabilities", "Memory limited without swap.");
        }
        if limits.memory_swappiness.is_some() && !self.swappiness {
            limits.memory_swappiness = None;
            cannot("memory swappiness capabilities", "Memory swappiness discarded.");
        }
        if limits.memory_reservation > 0 && !self.reservation {
            limits.memory_reservation = 0;
            cannot("memory soft limit capabilities", "Limitation discarded.");
        }
        if limits.pids.is_some() && !self.pids {
            limits.pids = None;
            cannot("PIDs limit capabilities", "PIDs limit discarded.");
        }
        if (limits.nano_cpus.is_some() || limits.cpu_quota > 0 || limits.cpu_period > 0) && !self.quota {
            (limits.nano_cpus, limits.cpu_quota, limits.cpu_period) = (None, 0, 0);
            cannot("CPU CFS scheduler", "CPU quota discarded.");
        }
        if limits.cpu_shares > 0 && !self.shares {
            limits.cpu_shares = 0;
            cannot("CPU shares", "Shares discarded.");
        }
        let asked = !limits.cpuset_cpus.is_empty() || !limits.cpuset_mems.is_empty();
        if asked && !self.cpuset {
            limits.cpuset_cpus.clear();
            limits.cpuset_mems.clear();
            cannot("cpuset", "Cpuset discarded.");
        }
        if limits.blkio_weight > 0 && !self.weight {
            limits.blkio_weight = 0;
            cannot("Block I/O weight", "Weight discarded.");
        }
        if !limits.blkio_weight_device.is_empty() && !self.weight_device {
            limits.blkio_weight_device.clear();
            cannot("Block I/O weight_device", "Weight-device discarded.");
        }
        for (rates, what) in [
            (&mut limits.device_read_bps, "BPS Block I/O read limit"),
            (&mut limits.device_write_bps, "BPS Block I/O write limit"),
            (&mut limits.device_read_iops, "IOPS Block read limit"),
            (&mut limits.device_write_iops, "IOPS Block write limit"),
        ] {
            if !rates.is_empty() && !self.throttle {
                rates.clear();
                cannot(what, "Limit discarded.");
            }
        }
        if limits.oom_kill_disable && !self.oom_kill_disable {
            limits.oom_kill_disable = false;
            said.push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".into());
        }
        if limits.oom_kill_disable && limits.memory.is_none() {
            said.push(
                "OOM killer is disabled for the container, but no memory limit is set, this can result in the \
                 system running out of resources."
                    .into(),
            );
        }
        said
    }

    /// Whether memory and swap can be limited together.
    pub fn has_swap(&self) -> bool {
        self.swap
    }

    /// Whether real-time scheduling can be limited: asked for in vain, it is an error.
    pub fn realtime(&self) -> bool {
        self.realtime
    }
}

/// Whether some cgroup below the root, which has no limits itself, has one of these files.
fn below(cgroups: &Path, files: &[&str]) -> bool {
    let groups = std::fs::read_dir(cgroups).into_iter().flatten().flatten();
    let mut folders = groups.map(|entry| entry.path()).filter(|path: &PathBuf| path.is_dir());
    folders.any(|folder| files.iter().any(|file| folder.join(file).exists()))
}

/// `0-3,7` as numbers; `None` if it is not such a list.
pub fn numbers(text: &str) -> Option<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last >= MAX_NODES {
            return None;
        }
        found.extend(first..=last);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_has_not_is_discarded_aloud() {
        let mut limits = Limits {
            memory: Some(64 << 20),
            memory_swappiness: Some(5),
            pids: Some(3),
            blkio_weight: 100,
            oom_kill_disable: true,
            ..Limits::default()
        };
        let said = Kernel { memory: true, ..Kernel::default() }.fit(&mut limits);
        assert_eq!(said.len(), 5, "{said:?}");
        assert!(said[0].ends_with("Memory limited without swap."), "{said:?}");
        assert_eq!((limits.memory, limits.memory_swap, limits.pids), (Some(64 << 20), -1, None));
        assert!(!limits.oom_kill_disable);
    }

    #[test]
    fn lists_of_numbers() {
        assert_eq!(numbers("0-2,7"), Some([0, 1, 2, 7].into()));
        assert_eq!(numbers(""), Some(BTreeSet::new()));
        for wrong in ["x", "1-", "3-1", "1,,2", "0-99999999"] {
            assert_eq!(numbers(wrong), None, "{wrong}");
        }
    }
}
