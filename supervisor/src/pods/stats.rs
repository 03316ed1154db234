//! What containers and pods use.

use std::collections::{HashMap, HashSet};
use std::future::ready;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::Timestamp;
use longshore_runtime::cgroups::{CgroupPaths, Mode, Stats};

use super::Pods;
use super::config::Sharing;
use super::container::Container;
use super::namespaces::{Files, enter_network};
use super::pod::Pod;
use super::record::State;
use super::written::Written;
use crate::content::store::blocking;
use crate::error::{Error, Result};

/// Time between two samples below which the rate of the one before still counts.
const SHORTEST: Duration = Duration::from_millis(500);
/// What was not asked for in this time is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// Containers or pods that are looked at side by side.
const AT_ONCE: usize = 8;

/// How much of a CPU is used now, from one sample to the next.
#[derive(Default)]
pub struct Rates(Mutex<HashMap<String, Rate>>);

#[derive(Clone, Copy)]
struct Rate {
    at: Instant,
    nanos: u64,
    /// Thousand-millionths of a CPU; `None`: there was one sample only.
    rate: Option<u64>,
}

impl Rates {
    fn sampled(&self, id: &str, at: Instant, nanos: u64) -> Option<u64> {
        let mut rates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = match rates.get(id) {
            None => {
                rates.retain(|_, rate| at.saturating_duration_since(rate.at) < FORGOTTEN);
                None
            }
            Some(before) => {
                let passed = at.saturating_duration_since(before.at);
                if passed < SHORTEST {
                    return before.rate;
                }
                let used = u128::from(nanos.saturating_sub(before.nanos)) * 1_000_000_000;
                u64::try_from(used / passed.as_nanos()).ok()
            }
        };
        rates.insert(id.to_owned(), Rate { at, nanos, rate });
        rate
    }

    pub(super) fn forget(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// Bytes and pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub usage: u64,
    /// Without what can be had back at once.
    pub working_set: u64,
    /// Until the limit; `None`: there is none.
    pub available: Option<u64>,
    pub limit: Option<u64>,
    pub rss: u64,
    pub cache: u64,
    pub mapped: u64,
    pub max: u64,
    pub failures: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub swap: u64,
    pub kernel: u64,
    pub oom_kills: u64,
}

/// One cgroup's use at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    pub at: Timestamp,
    pub cpu_nanos: u64,
    pub cpu_user: u64,
    pub cpu_system: u64,
    /// Thousand-millionths of a CPU; `None`: not known yet.
    pub cpu_rate: Option<u64>,
    pub cpu_periods: u64,
    pub cpu_throttled: u64,
    pub cpu_throttled_nanos: u64,
    pub memory: Memory,
    pub processes: u64,
    pub max_processes: u64,
    /// By page size: bytes now, and most of them.
    pub huge_pages: Vec<(String, u64, u64)>,
    /// By device and direction: major, minor, `read` or `write`, bytes and operations.
    pub disk: Vec<(u64, u64, String, u64, u64)>,
}

/// What the processes of a container have open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open {
    pub processes: u64,
    pub descriptors: u64,
    pub sockets: u64,
    /// Files that one process may have open.
    pub files_limit: u64,
}

/// The file system of writable layers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk {
    pub bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// One container's.
#[derive(Clone)]
pub struct ContainerSample {
    pub container: Arc<Container>,
    pub sample: Sample,
    /// What it has written; `None`: not known yet.
    pub written: Option<Written>,
}

/// One interface's counters.
#[derive(Clone, Debug, Default)]
pub struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// One pod's.
#[derive(Clone)]
pub struct PodSample {
    pub pod: Arc<Pod>,
    pub sample: Sample,
    pub interfaces: Vec<Interface>,
    pub containers: Vec<ContainerSample>,
}

impl Pods {
    /// What these containers use, those that end meanwhile left out.
    pub async fn container_samples(
        self: &Arc<Self>,
        containers: Vec<Arc<Container>>,
    ) -> Vec<ContainerSample> {
        self.look_at_written(containers.iter().map(|container| container.id.clone()).collect()).await;
        let sample = async |container: Arc<Container>| {
            let sample = self.container_sample(&container).await;
            sample
                .inspect_err(|error| tracing::debug!(container = %container.id, %error, "no statistics"))
                .ok()
        };
        futures::stream::iter(containers.into_iter().map(sample))
            .buffered(AT_ONCE)
            .filter_map(ready)
            .collect()
            .await
    }

    /// What these pods use, those that end meanwhile left out.
    pub async fn pod_samples(self: &Arc<Self>, pods: Vec<Arc<Pod>>) -> Vec<PodSample> {
        let wanted: HashSet<&str> = pods.iter().map(|pod| pod.id.as_str()).collect();
        let containers = self.all_containers().into_iter().filter(|one| wanted.contains(one.pod.as_str()));
        let containers = containers.filter(|one| one.state() == State::Running).map(|one| one.id.clone());
        self.look_at_written(containers.collect()).await;
        let sample = async |pod: Arc<Pod>| {
            let sample = self.pod_sample(&pod).await;
            sample.inspect_err(|error| tracing::debug!(pod = %pod.id, %error, "no statistics")).ok()
        };
        futures::stream::iter(pods.into_iter().map(sample))
            .buffered(AT_ONCE)
            .filter_map(ready)
            .collect()
            .await
    }

    /// What a container uses; nothing of CPU and memory if it does not run.
    async fn container_sample(&self, container: &Arc<Container>) -> Result<ContainerSample> {
        let (runs, cgroup) = container.read(|record| (record.state == State::Running, record.cgroup.clone()));
        let mut sample = Sample { at: Timestamp::now(), ..Sample::default() };
        if runs {
            sample = read(cgroup).await?;
            sample.cpu_rate = self.rates.sampled(&container.id, Instant::now(), sample.cpu_nanos);
        }
        let written = self.written.known(&container.id);
        Ok(ContainerSample { container: container.clone(), sample, written })
    }

    /// What a pod uses: of its own cgroup where it has one, else the sum of its containers.
    async fn pod_sample(&self, pod: &Arc<Pod>) -> Result<PodSample> {
        let mut containers = Vec::new();
        for container in self.containers_of(&pod.id) {
            if container.state() != State::Running {
                continue;
            }
            match self.container_sample(&container).await {
                Ok(sample) => containers.push(sample),
                // It has just ended.
                Err(error) => tracing::debug!(container = %container.id, %error, "no statistics"),
            }
        }
        let parent = pod.read(|record| record.config.cgroup_parent.clone());
        let of_pod = match parent.as_str() {
            "" => None,
            parent if parent.trim_end_matches('/').ends_with(".slice") => None,
            parent => read(parent.to_owned()).await.ok(),
        };
        let mut sample = match of_pod {
            Some(sample) => sample,
            None => sum(containers.iter().map(|one| &one.sample)),
        };
        sample.cpu_rate = self.rates.sampled(&pod.id, Instant::now(), sample.cpu_nanos);
        let interfaces = if pod.is_ready() { self.interfaces(pod).await } else { Vec::new() };
        Ok(PodSample { pod: pod.clone(), sample, interfaces, containers })
    }

    async fn interfaces(&self, pod: &Pod) -> Vec<Interface> {
        if pod.read(|record| record.config.namespaces.network == Sharing::Node) {
            return Vec::new();
        }
        let network: PathBuf = Files::of(&self.folder(&pod.id)).network();
        let read = || std::fs::read_to_string("/proc/thread-self/net/dev");
        match blocking(move || enter_network(network, read)).await {
            Ok(text) => parse_interfaces(&text),
            Err(error) => {
                tracing::debug!(pod = %pod.id, %error, "no statistics of its network");
                Vec::new()
            }
        }
    }
}

impl Pods {
    /// What a running container's processes have open: it costs a look at each of them.
    pub async fn open_files(&self, container: &Arc<Container>) -> Open {
        let cgroup = container.read(|record| record.cgroup.clone());
        let counted = blocking(move || {
            let pids = CgroupPaths::open(&cgroup).and_then(|cgroups| cgroups.pids());
            Ok(count(&pids.unwrap_or_default()))
        });
        counted.await.unwrap_or_default()
    }

    /// The file system of writable layers.
    pub fn disk(&self) -> Disk {
        match rustix::fs::statvfs(&self.config.root) {
            Ok(stat) => Disk {
                bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
                inodes: stat.f_files,
                inodes_free: stat.f_ffree,
            },
            Err(_) => Disk::default(),
        }
    }
}

/// Processes that are looked at of one container.
const MAX_PROCESSES: usize = 1024;
/// Descriptors of one container of which is looked what they are; those beyond are counted at most.
const MAX_LOOKED_AT: u64 = 8192;
/// Descriptors that are counted one by one, where the kernel does not say how many there are.
const MAX_COUNTED: u64 = 65_536;

fn count(pids: &[i32]) -> Open {
    let mut open = Open { processes: pids.len() as u64, ..Open::default() };
    let (mut looked_at, mut counted) = (0, 0);
    for pid in pids.iter().take(MAX_PROCESSES) {
        let folder = format!("/proc/{pid}/fd");
        // Since Linux 6.2 the folder's size says how many there are; 0 before. The process may have ended.
        let told = std::fs::metadata(&folder).map_or(0, |about| about.len());
        open.descriptors += told;
        if looked_at >= MAX_LOOKED_AT && (told > 0 || counted >= MAX_COUNTED) {
            continue;
        }
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if told == 0 && counted < MAX_COUNTED {
                counted += 1;
                open.descriptors += 1;
            } else if looked_at >= MAX_LOOKED_AT {
                break;
            }
            if looked_at < MAX_LOOKED_AT {
                looked_at += 1;
                let is_socket = |target: PathBuf| target.to_string_lossy().starts_with("socket:");
                open.sockets += u64::from(std::fs::read_link(entry.path()).is_ok_and(is_socket));
            }
        }
    }
    let limits = pids.first().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/limits")).ok());
    let limits = limits.unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = files.and_then(|rest| rest.split_whitespace().next());
    open.files_limit = soft.and_then(|soft| soft.parse().ok()).unwrap_or(0);
    open
}

async fn read(cgroup: String) -> Result<Sample> {
    blocking(move || {
        let stats = CgroupPaths::open(&cgroup).and_then(|cgroups| cgroups.stats());
        let stats = stats.map_err(|error| {
            Error::unavailable(format!("statistics of cgroup {cgroup}"), error.to_string())
        })?;
        Ok(sample(&stats))
    })
    .await
}

fn sample(stats: &Stats) -> Sample {
    let mut sample = Sample { at: Timestamp::now(), ..Sample::default() };
    if let Some(cpu) = &stats.cpu {
        (sample.cpu_nanos, sample.cpu_user, sample.cpu_system) = (cpu.total, cpu.user, cpu.kernel);
        sample.cpu_periods = cpu.periods;
        sample.cpu_throttled = cpu.throttled_periods;
        sample.cpu_throttled_nanos = cpu.throttled_time;
    }
    if let Some(pids) = &stats.pids {
        (sample.processes, sample.max_processes) = (pids.current, pids.limit);
    }
    if let Some(memory) = &stats.memory {
        let v2 = stats.mode == Mode::V2;
        let get = |two: &str, one: &str| memory.get(if v2 { two } else { one });
        let usage = memory.usage.usage;
        let limit = Some(memory.usage.limit).filter(|limit| *limit > 0 && *limit < i64::MAX as u64 / 2);
        let working_set = usage.saturating_sub(get("inactive_file", "total_inactive_file"));
        sample.memory = Memory {
            usage,
            working_set,
            limit,
            available: limit.map(|limit| limit.saturating_sub(working_set)),
            rss: get("anon", "total_rss"),
            cache: get("file", "total_cache"),
            mapped: get("file_mapped", "total_mapped_file"),
            max: memory.usage.max,
            failures: memory.usage.failcnt,
            page_faults: get("pgfault", "total_pgfault"),
            major_page_faults: get("pgmajfault", "total_pgmajfault"),
            swap: match (&memory.swap, v2) {
                (Some(swap), true) => swap.usage,
                // Memory and swap together.
                (Some(swap), false) => swap.usage.saturating_sub(usage),
                (None, _) => 0,
            },
            kernel: memory.kernel.as_ref().map_or(0, |kernel| kernel.usage),
            oom_kills: memory.event("oom_kill"),
        };
    }
    sample.huge_pages =
        stats.hugetlb.iter().map(|pages| (pages.page_size.clone(), pages.usage, pages.max)).collect();
    for entry in &stats.blkio.io_service_bytes {
        let op = entry.op.to_ascii_lowercase();
        if matches!(op.as_str(), "read" | "write") {
            let same = |other: &&longshore_runtime::cgroups::BlkioEntry| {
                (other.major, other.minor) == (entry.major, entry.minor) && other.op.eq_ignore_ascii_case(&op)
            };
            let times = stats.blkio.io_serviced.iter().find(same).map_or(0, |entry| entry.value);
            sample.disk.push((entry.major, entry.minor, op, entry.value, times));
        }
    }
    sample
}

fn sum<'a>(all: impl Iterator<Item = &'a Sample>) -> Sample {
    let mut total = Sample { at: Timestamp::now(), ..Sample::default() };
    for one in all {
        total.cpu_nanos += one.cpu_nanos;
        total.cpu_user += one.cpu_user;
        total.cpu_system += one.cpu_system;
        total.processes += one.processes;
        let (sum, part) = (&mut total.memory, &one.memory);
        sum.usage += part.usage;
        sum.working_set += part.working_set;
        sum.rss += part.rss;
        sum.page_faults += part.page_faults;
        sum.major_page_faults += part.major_page_faults;
        sum.swap += part.swap;
    }
    total
}

/// `/proc/net/dev` without loopback.
fn parse_interfaces(text: &str) -> Vec<Interface> {
    let mut found = Vec::new();
    for line in text.lines().skip(2) {
        let Some((name, counters)) = line.split_once(':') else { continue };
        let name = name.trim();
        if name == "lo" {
            continue;
        }
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let at = |index: usize| counters.get(index).copied().unwrap_or(0);
        found.push(Interface {
            name: name.to_owned(),
            rx_bytes: at(0),
            rx_packets: at(1),
            rx_errors: at(2),
            rx_dropped: at(3),
            tx_bytes: at(8),
            tx_packets: at(9),
            tx_errors: at(10),
            tx_dropped: at(11),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_without_loopback() {
        let text = "Inter-|   Receive   |  Transmit\n face |bytes packets\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
                    eth0: 10 2 3 4 0 0 0 0 20 5 6 7 0 0 0 0\n";
        let found = parse_interfaces(text);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].rx_bytes, found[0].tx_bytes, found[0].tx_dropped), (10, 20, 7));
    }

    #[test]
    fn a_rate_is_told_from_two_samples() {
        let rates = Rates::default();
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        assert_eq!(rates.sampled("a", at(0), 0), None, "one sample says no rate");
        assert_eq!(rates.sampled("a", at(100), 1), None, "too soon");
        assert_eq!(rates.sampled("a", at(1000), 500_000_000), Some(500_000_000));
        assert_eq!(rates.sampled("a", at(1100), 600_000_000), Some(500_000_000), "too soon");
        assert_eq!(rates.sampled("b", at(700_000), 0), None);
        assert_eq!(rates.0.lock().unwrap().len(), 1, "nobody asked for the first any more");
    }

    #[test]
    fn own_descriptors_are_counted() {
        let _socket = std::os::unix::net::UnixStream::pair().unwrap();
        let open = count(&[std::process::id().cast_signed()]);
        assert!(open.descriptors >= 5 && open.sockets >= 2 && open.files_limit > 0, "{open:?}");
    }
}
