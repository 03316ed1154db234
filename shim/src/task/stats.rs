//! `Stats`: resource use, as containerd's metrics of cgroups v1 or v2.

use longshore_proto::containerd::task::v3::{StatsRequest, StatsResponse};
use longshore_proto::io::containerd::cgroups::{v1, v2};
use longshore_runtime::cgroups::{self, MemoryStats, Mode, Stats};
use prost::Message;
use prost_types::Any;

use crate::error::Result;
use crate::server::Shim;

impl Shim {
    pub fn stats(&mut self, request: StatsRequest) -> Result<StatsResponse> {
        let stats = self.driver(&request.id)?.stats()?;
        let (name, value) = match stats.mode {
            Mode::V2 => ("io.containerd.cgroups.v2.Metrics", metrics_v2(&stats).encode_to_vec()),
            Mode::V1 | Mode::Hybrid => {
                ("io.containerd.cgroups.v1.Metrics", metrics_v1(&stats).encode_to_vec())
            }
        };
        Ok(StatsResponse { stats: Some(Any { type_url: name.to_owned(), value }) })
    }
}

fn metrics_v1(stats: &Stats) -> v1::Metrics {
    v1::Metrics {
        pids: stats.pids.map(|pids| v1::PidsStat { current: pids.current, limit: pids.limit }),
        cpu: stats.cpu.as_ref().map(|cpu| v1::CpuStat {
            usage: Some(v1::CpuUsage {
                total: cpu.total,
                kernel: cpu.kernel,
                user: cpu.user,
                per_cpu: cpu.per_cpu.clone(),
            }),
            throttling: Some(v1::Throttle {
                periods: cpu.periods,
                throttled_periods: cpu.throttled_periods,
                throttled_time: cpu.throttled_time,
            }),
        }),
        memory: stats.memory.as_ref().map(memory_v1),
        memory_oom_control: stats.memory.as_ref().map(|memory| v1::MemoryOomControl {
            oom_kill_disable: memory.event("oom_kill_disable"),
            under_oom: memory.event("under_oom"),
            oom_kill: memory.event("oom_kill"),
        }),
        blkio: Some(blkio_v1(&stats.blkio)),
        hugetlb: stats
            .hugetlb
            .iter()
            .map(|page| v1::HugetlbStat {
                usage: page.usage,
                max: page.max,
                failcnt: page.failcnt,
                pagesize: page.page_size.clone(),
            })
            .collect(),
        ..v1::Metrics::default()
    }
}

fn entry_v1(entry: cgroups::MemoryEntry) -> v1::MemoryEntry {
    v1::MemoryEntry { limit: entry.limit, usage: entry.usage, max: entry.max, failcnt: entry.failcnt }
}

fn memory_v1(memory: &MemoryStats) -> v1::MemoryStat {
    let get = |name| memory.get(name);
    v1::MemoryStat {
        cache: get("cache"),
        rss: get("rss"),
        rss_huge: get("rss_huge"),
        mapped_file: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        pg_pg_in: get("pgpgin"),
        pg_pg_out: get("pgpgout"),
        pg_fault: get("pgfault"),
        pg_maj_fault: get("pgmajfault"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        hierarchical_memory_limit: get("hierarchical_memory_limit"),
        hierarchical_swap_limit: get("hierarchical_memsw_limit"),
        total_cache: get("total_cache"),
        total_rss: get("total_rss"),
        total_rss_huge: get("total_rss_huge"),
        total_mapped_file: get("total_mapped_file"),
        total_dirty: get("total_dirty"),
        total_writeback: get("total_writeback"),
        total_pg_pg_in: get("total_pgpgin"),
        total_pg_pg_out: get("total_pgpgout"),
        total_pg_fault: get("total_pgfault"),
        total_pg_maj_fault: get("total_pgmajfault"),
        total_inactive_anon: get("total_inactive_anon"),
        total_active_anon: get("total_active_anon"),
        total_inactive_file: get("total_inactive_file"),
        total_active_file: get("total_active_file"),
        total_unevictable: get("total_unevictable"),
        usage: Some(entry_v1(memory.usage)),
        swap: memory.swap.map(entry_v1),
        kernel: memory.kernel.map(entry_v1),
        kernel_tcp: memory.kernel_tcp.map(entry_v1),
    }
}

fn blkio_v1(blkio: &cgroups::BlkioStats) -> v1::BlkIoStat {
    let table = |entries: &[cgroups::BlkioEntry]| {
        let row = |entry: &cgroups::BlkioEntry| v1::BlkIoEntry {
            op: entry.op.clone(),
            device: String::new(),
            major: entry.major,
            minor: entry.minor,
            value: entry.value,
        };
        entries.iter().map(row).collect()
    };
    v1::BlkIoStat {
        io_service_bytes_recursive: table(&blkio.io_service_bytes),
        io_serviced_recursive: table(&blkio.io_serviced),
        io_queued_recursive: table(&blkio.io_queued),
        io_service_time_recursive: table(&blkio.io_service_time),
        io_wait_time_recursive: table(&blkio.io_wait_time),
        io_merged_recursive: table(&blkio.io_merged),
        io_time_recursive: table(&blkio.io_time),
        sectors_recursive: table(&blkio.sectors),
    }
}

fn metrics_v2(stats: &Stats) -> v2::Metrics {
    let micros = |nanos: u64| nanos / 1000;
    v2::Metrics {
        pids: stats.pids.map(|pids| v2::PidsStat { current: pids.current, limit: pids.limit }),
        cpu: stats.cpu.as_ref().map(|cpu| v2::CpuStat {
            usage_usec: micros(cpu.total),
            user_usec: micros(cpu.user),
            system_usec: micros(cpu.kernel),
            nr_periods: cpu.periods,
            nr_throttled: cpu.throttled_periods,
            throttled_usec: micros(cpu.throttled_time),
            nr_bursts: cpu.bursts,
            burst_usec: micros(cpu.burst_time),
            ..v2::CpuStat::default()
        }),
        memory: stats.memory.as_ref().map(memory_v2),
        memory_events: stats.memory.as_ref().map(|memory| v2::MemoryEvents {
            low: memory.event("low"),
            high: memory.event("high"),
            max: memory.event("max"),
            oom: memory.event("oom"),
            oom_kill: memory.event("oom_kill"),
            oom_group_kill: memory.event("oom_group_kill"),
        }),
        io: Some(v2::IoStat { usage: io_v2(&stats.blkio), psi: None }),
        hugetlb: stats
            .hugetlb
            .iter()
            .map(|page| v2::HugeTlbStat {
                current: page.usage,
                max: page.max,
                pagesize: page.page_size.clone(),
                failcnt: page.failcnt,
            })
            .collect(),
        ..v2::Metrics::default()
    }
}

#[allow(deprecated)]
fn memory_v2(memory: &MemoryStats) -> v2::MemoryStat {
    let get = |name| memory.get(name);
    let swap = memory.swap.unwrap_or_default();
    v2::MemoryStat {
        anon: get("anon"),
        file: get("file"),
        kernel_stack: get("kernel_stack"),
        slab: get("slab"),
        sock: get("sock"),
        shmem: get("shmem"),
        file_mapped: get("file_mapped"),
        file_dirty: get("file_dirty"),
        file_writeback: get("file_writeback"),
        anon_thp: get("anon_thp"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        slab_reclaimable: get("slab_reclaimable"),
        slab_unreclaimable: get("slab_unreclaimable"),
        pgfault: get("pgfault"),
        pgmajfault: get("pgmajfault"),
        workingset_refault: get("workingset_refault"),
        workingset_activate: get("workingset_activate"),
        workingset_nodereclaim: get("workingset_nodereclaim"),
        pgrefill: get("pgrefill"),
        pgscan: get("pgscan"),
        pgsteal: get("pgsteal"),
        pgactivate: get("pgactivate"),
        pgdeactivate: get("pgdeactivate"),
        pglazyfree: get("pglazyfree"),
        pglazyfreed: get("pglazyfreed"),
        thp_fault_alloc: get("thp_fault_alloc"),
        thp_collapse_alloc: get("thp_collapse_alloc"),
        usage: memory.usage.usage,
        usage_limit: memory.usage.limit,
        swap_usage: swap.usage,
        swap_limit: swap.limit,
        max_usage: memory.usage.max,
        swap_max_usage: swap.max,
        psi: None,
        workingset_refault_anon: get("workingset_refault_anon"),
        workingset_refault_file: get("workingset_refault_file"),
        workingset_activate_anon: get("workingset_activate_anon"),
        workingset_activate_file: get("workingset_activate_file"),
    }
}

fn io_v2(blkio: &cgroups::BlkioStats) -> Vec<v2::IoEntry> {
    let mut devices: Vec<v2::IoEntry> = Vec::new();
    let mut add = |entry: &cgroups::BlkioEntry, is_bytes: bool| {
        let same = |io: &v2::IoEntry| (io.major, io.minor) == (entry.major, entry.minor);
        let at = devices.iter().position(same).unwrap_or_else(|| {
            devices.push(v2::IoEntry { major: entry.major, minor: entry.minor, ..v2::IoEntry::default() });
            devices.len() - 1
        });
        let Some(io) = devices.get_mut(at) else { return };
        match (entry.op.as_str(), is_bytes) {
            ("Read", true) => io.rbytes = entry.value,
            ("Write", true) => io.wbytes = entry.value,
            ("Read", false) => io.rios = entry.value,
            ("Write", false) => io.wios = entry.value,
            _ => {}
        }
    };
    blkio.io_service_bytes.iter().for_each(|entry| add(entry, true));
    blkio.io_serviced.iter().for_each(|entry| add(entry, false));
    devices
}
