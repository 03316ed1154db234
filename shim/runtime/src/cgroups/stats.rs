//! Resource use of a container, in the units of the kernel's files, for v1 and v2 alike.

use super::Mode;

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
