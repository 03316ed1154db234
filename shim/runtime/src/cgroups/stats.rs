//! Resource use of a container, in the units of the kernel's files, for v1 and v2 alike.

use super::{CgroupPaths, Group, Mode, read};
use crate::Result;

/// Resource use of one container. What the host does not count is `None` or empty.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Which of containerd's two metrics types fits: `V2` only on pure v2 hosts.
    pub mode: Mode,
    /// Number of tasks.
    pub pids: Option<PidsStats>,
    /// Processor time.
    pub cpu: Option<CpuStats>,
    /// Memory.
    pub memory: Option<MemoryStats>,
    /// Block devices.
    pub blkio: BlkioStats,
    /// Huge pages, one entry a page size.
    pub hugetlb: Vec<HugetlbStats>,
}

/// Number of tasks.
#[derive(Clone, Copy, Debug, Default)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// At most; 0 means no limit, as in containerd's metrics.
    pub limit: u64,
}

/// Processor time, in nanoseconds on both versions.
#[derive(Clone, Debug, Default)]
pub struct CpuStats {
    /// Total time used.
    pub total: u64,
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub kernel: u64,
    /// For each processor (v1 only).
    pub per_cpu: Vec<u64>,
    /// Bandwidth periods that have passed.
    pub periods: u64,
    /// Of those, throttled.
    pub throttled_periods: u64,
    /// Time spent throttled.
    pub throttled_time: u64,
    /// Burst periods (v2).
    pub bursts: u64,
    /// Burst time (v2).
    pub burst_time: u64,
}

/// One counter of memory with its bounds, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryEntry {
    /// `u64::MAX` (v2) or the kernel's huge page-counter maximum (v1) when there is none.
    pub limit: u64,
    /// Now.
    pub usage: u64,
    /// Highest so far.
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryStats {
    /// Memory.
    pub usage: MemoryEntry,
    /// v1: memory and swap together; v2: swap alone.
    pub swap: Option<MemoryEntry>,
    /// v1: kernel memory.
    pub kernel: Option<MemoryEntry>,
    /// v1: kernel memory of TCP buffers.
    pub kernel_tcp: Option<MemoryEntry>,
    /// `memory.stat` as it is: name and value.
    pub stat: Vec<(String, u64)>,
    /// v1: `oom_kill_disable`, `under_oom`, `oom_kill` of `memory.oom_control`; v2: `memory.events`.
    pub events: Vec<(String, u64)>,
}

impl MemoryStats {
    /// A value of `memory.stat`; 0 if this kernel does not have it.
    pub fn get(&self, name: &str) -> u64 {
        find(&self.stat, name)
    }

    /// A value of `events`; 0 if this kernel does not have it.
    pub fn event(&self, name: &str) -> u64 {
        find(&self.events, name)
    }
}

fn find(table: &[(String, u64)], name: &str) -> u64 {
    table.iter().find(|(n, _)| n == name).map_or(0, |(_, v)| *v)
}

/// Block devices: the tables of v1; on v2 `io_service_bytes` and `io_serviced` are filled from `io.stat` with the
/// operations `Read` and `Write`.
#[derive(Clone, Debug, Default)]
pub struct BlkioStats {
    /// Bytes.
    pub io_service_bytes: Vec<BlkioEntry>,
    /// Operations.
    pub io_serviced: Vec<BlkioEntry>,
    /// Operations waiting.
    pub io_queued: Vec<BlkioEntry>,
    /// Nanoseconds in service.
    pub io_service_time: Vec<BlkioEntry>,
    /// Nanoseconds waiting.
    pub io_wait_time: Vec<BlkioEntry>,
    /// Merged operations.
    pub io_merged: Vec<BlkioEntry>,
    /// Milliseconds of device time.
    pub io_time: Vec<BlkioEntry>,
    /// Sectors.
    pub sectors: Vec<BlkioEntry>,
}

/// One row of a block device table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkioEntry {
    /// Device number.
    pub major: u64,
    /// Device number.
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total`, or empty.
    pub op: String,
    /// The value.
    pub value: u64,
}

/// Huge pages of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugetlbStats {
    /// `2MB`, `1GB`, …
    pub page_size: String,
    /// Bytes now.
    pub usage: u64,
    /// Highest so far (v1) or the limit (v2).
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

impl CgroupPaths {
    /// Resource use now.
    pub fn stats(&self) -> Result<Stats> {
        let mode = self.mode();
        let v2 = self.v2().filter(|_| mode == Mode::V2);
        let find = |controller| self.v1(controller).or(v2);
        Ok(Stats {
            mode,
            pids: find("pids").and_then(pids),
            cpu: match v2 {
                Some(group) => cpu_v2(group),
                None => self.v1("cpuacct").map(|usage| cpu_v1(usage, self.v1("cpu"))),
            },
            memory: find("memory")
                .map(|group| if group.is_v2() { memory_v2(group) } else { memory_v1(group) }),
            blkio: match (self.v1("blkio"), v2) {
                (Some(group), _) => blkio_v1(group),
                (None, Some(group)) => blkio_v2(group),
                (None, None) => BlkioStats::default(),
            },
            hugetlb: self.v1("hugetlb").or(self.v2()).map_or_else(Vec::new, hugetlb),
        })
    }
}

fn number(group: &Group, file: &str) -> u64 {
    read::number_at(group.dir(), file).unwrap_or(0)
}

fn pids(group: &Group) -> Option<PidsStats> {
    let current = read::number_at(group.dir(), "pids.current")?;
    let limit = read::number_at(group.dir(), "pids.max").filter(|limit| *limit != u64::MAX).unwrap_or(0);
    Some(PidsStats { current, limit })
}

fn cpu_v1(usage: &Group, bandwidth: Option<&Group>) -> CpuStats {
    let per_cpu = read::text_at(usage.dir(), "cpuacct.usage_percpu").unwrap_or_default();
    let throttling = bandwidth.map_or_else(Vec::new, |group| read::table_at(group.dir(), "cpu.stat"));
    CpuStats {
        total: number(usage, "cpuacct.usage"),
        user: number(usage, "cpuacct.usage_user"),
        kernel: number(usage, "cpuacct.usage_sys"),
        per_cpu: per_cpu.split_whitespace().filter_map(|n| n.parse().ok()).collect(),
        periods: find(&throttling, "nr_periods"),
        throttled_periods: find(&throttling, "nr_throttled"),
        throttled_time: find(&throttling, "throttled_time"),
        bursts: find(&throttling, "nr_bursts"),
        burst_time: find(&throttling, "burst_time"),
    }
}

fn cpu_v2(group: &Group) -> Option<CpuStats> {
    let table = read::table_at(group.dir(), "cpu.stat");
    let nanoseconds = |name| find(&table, name).saturating_mul(1000);
    (!table.is_empty()).then(|| CpuStats {
        total: nanoseconds("usage_usec"),
        user: nanoseconds("user_usec"),
        kernel: nanoseconds("system_usec"),
        per_cpu: Vec::new(),
        periods: find(&table, "nr_periods"),
        throttled_periods: find(&table, "nr_throttled"),
        throttled_time: nanoseconds("throttled_usec"),
        bursts: find(&table, "nr_bursts"),
        burst_time: nanoseconds("burst_usec"),
    })
}

fn memory_v1(group: &Group) -> MemoryStats {
    let entry = |prefix: &str| {
        let file = |name: &str| format!("{prefix}.{name}");
        let usage = read::number_at(group.dir(), &file("usage_in_bytes"))?;
        Some(MemoryEntry {
            limit: number(group, &file("limit_in_bytes")),
            usage,
            max: number(group, &file("max_usage_in_bytes")),
            failcnt: number(group, &file("failcnt")),
        })
    };
    MemoryStats {
        usage: entry("memory").unwrap_or_default(),
        swap: entry("memory.memsw"),
        kernel: entry("memory.kmem"),
        kernel_tcp: entry("memory.kmem.tcp"),
        stat: read::table_at(group.dir(), "memory.stat"),
        events: read::table_at(group.dir(), "memory.oom_control"),
    }
}

fn memory_v2(group: &Group) -> MemoryStats {
    let entry = |prefix: &str, failed: u64| {
        let file = |name: &str| format!("{prefix}.{name}");
        let usage = read::number_at(group.dir(), &file("current"))?;
        Some(MemoryEntry {
            limit: number(group, &file("max")),
            usage,
            max: number(group, &file("peak")),
            failcnt: failed,
        })
    };
    let events = read::table_at(group.dir(), "memory.events");
    MemoryStats {
        usage: entry("memory", find(&events, "max")).unwrap_or_default(),
        swap: entry("memory.swap", find(&read::table_at(group.dir(), "memory.swap.events"), "max")),
        kernel: None,
        kernel_tcp: None,
        stat: read::table_at(group.dir(), "memory.stat"),
        events,
    }
}

fn blkio_v1(group: &Group) -> BlkioStats {
    let table = |names: &[&str]| {
        let texts = names.iter().filter_map(|name| read::text_at(group.dir(), name).ok());
        texts.map(|text| blkio_table(&text)).find(|table| !table.is_empty()).unwrap_or_default()
    };
    BlkioStats {
        io_service_bytes: table(&[
            "blkio.bfq.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes",
        ]),
        io_serviced: table(&[
            "blkio.bfq.io_serviced_recursive",
            "blkio.throttle.io_serviced_recursive",
            "blkio.throttle.io_serviced",
        ]),
        io_queued: table(&["blkio.bfq.io_queued_recursive"]),
        io_service_time: table(&["blkio.bfq.io_service_time_recursive"]),
        io_wait_time: table(&["blkio.bfq.io_wait_time_recursive"]),
        io_merged: table(&["blkio.bfq.io_merged_recursive"]),
        io_time: table(&["blkio.bfq.time_recursive"]),
        sectors: table(&["blkio.bfq.sectors_recursive"]),
    }
}

/// Lines of `major:minor operation value` or `major:minor value`; the sum over all devices has no device.
fn blkio_table(text: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let (first, second) = (words.next()?, words.next());
            let (op, value) = second.map_or(("", first), |value| (first, value));
            Some(BlkioEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                op: op.into(),
                value: value.parse().ok()?,
            })
        })
        .collect()
}

fn blkio_v2(group: &Group) -> BlkioStats {
    let mut stats = BlkioStats::default();
    for line in read::text_at(group.dir(), "io.stat").unwrap_or_default().lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            let entry = |op: &str| BlkioEntry { major, minor, op: op.into(), value };
            match key {
                "rbytes" => stats.io_service_bytes.push(entry("Read")),
                "wbytes" => stats.io_service_bytes.push(entry("Write")),
                "rios" => stats.io_serviced.push(entry("Read")),
                "wios" => stats.io_serviced.push(entry("Write")),
                _ => {}
            }
        }
    }
    stats
}

fn hugetlb(group: &Group) -> Vec<HugetlbStats> {
    let sizes = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    sizes
        .filter_map(|entry| {
            let kilobytes: u64 =
                entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let page_size = match kilobytes {
                kb if kb >= 1 << 20 => format!("{}GB", kb >> 20),
                kb if kb >= 1 << 10 => format!("{}MB", kb >> 10),
                kb => format!("{kb}KB"),
            };
            let names = if group.is_v2() {
                ["current", "max", "events"]
            } else {
                ["usage_in_bytes", "max_usage_in_bytes", "failcnt"]
            };
            let file = |name: &str| format!("hugetlb.{page_size}.{name}");
            let usage = read::number_at(group.dir(), &file(names[0]))?;
            let failcnt = match group.is_v2() {
                true => find(&read::table_at(group.dir(), &file(names[2])), "max"),
                false => number(group, &file(names[2])),
            };
            Some(HugetlbStats { usage, max: number(group, &file(names[1])), failcnt, page_size })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_tables_have_rows_with_and_without_operation() {
        let rows = blkio_table("8:0 Read 4096\n8:0 77\nTotal 4096\n");
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].op.as_str(), rows[0].value), ("Read", 4096));
        assert_eq!((rows[1].op.as_str(), rows[1].value), ("", 77));
    }
}
