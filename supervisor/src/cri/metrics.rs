//! Metrics of pods and containers by name, as a node's own exporter had them.

use longshore_proto::runtime::v1 as wire;
use wire::MetricType::{Counter, Gauge};

use super::{Cri, Stream, in_batches, nanos, number};
use crate::error::Result;
use crate::pods::config::Resources;
use crate::pods::record::State;
use crate::pods::stats::{ContainerSample, Disk, Interface, Open, PodSample, Sample};

const SECOND: u64 = 1_000_000_000;

/// What every metric says of whom it is about.
const LABELS: [&str; 6] = ["id", "name", "image", "container", "pod", "namespace"];

/// A container, or a pod as a whole, with all that metrics are made from.
struct About<'a> {
    sample: &'a Sample,
    open: Open,
    disk: Disk,
    resources: Resources,
    /// Bytes and inodes of its own layer.
    writable: (u64, u64),
    /// In seconds since 1970.
    started: u64,
}

/// A metric of one number.
struct Plain {
    name: &'static str,
    help: &'static str,
    kind: wire::MetricType,
    of: fn(&About<'_>) -> u64,
}

const fn plain(
    kind: wire::MetricType,
    name: &'static str,
    help: &'static str,
    of: fn(&About<'_>) -> u64,
) -> Plain {
    Plain { name, help, kind, of }
}

fn positive(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

const PLAIN: [Plain; 33] = [
    plain(Counter, "container_cpu_usage_seconds_total", "CPU time in seconds.", |a| {
        a.sample.cpu_nanos / SECOND
    }),
    plain(Counter, "container_cpu_user_seconds_total", "User CPU time in seconds.", |a| {
        a.sample.cpu_user / SECOND
    }),
    plain(Counter, "container_cpu_system_seconds_total", "System CPU time in seconds.", |a| {
        a.sample.cpu_system / SECOND
    }),
    plain(Counter, "container_cpu_cfs_periods_total", "Enforcement periods that have elapsed.", |a| {
        a.sample.cpu_periods
    }),
    plain(Counter, "container_cpu_cfs_throttled_periods_total", "Periods in which it was throttled.", |a| {
        a.sample.cpu_throttled
    }),
    plain(Counter, "container_cpu_cfs_throttled_seconds_total", "Seconds for which it was throttled.", |a| {
        a.sample.cpu_throttled_nanos / SECOND
    }),
    plain(Gauge, "container_memory_usage_bytes", "Memory in use, caches included.", |a| {
        a.sample.memory.usage
    }),
    plain(Gauge, "container_memory_working_set_bytes", "Memory that cannot be had back at once.", |a| {
        a.sample.memory.working_set
    }),
    plain(Gauge, "container_memory_rss", "Anonymous memory in bytes.", |a| a.sample.memory.rss),
    plain(Gauge, "container_memory_cache", "Pages of files in bytes.", |a| a.sample.memory.cache),
    plain(Gauge, "container_memory_mapped_file", "Mapped files in bytes.", |a| a.sample.memory.mapped),
    plain(Gauge, "container_memory_swap", "Swap in use in bytes.", |a| a.sample.memory.swap),
    plain(Gauge, "container_memory_max_usage_bytes", "Most memory that was in use.", |a| a.sample.memory.max),
    plain(Gauge, "container_memory_kernel_usage", "Memory of the kernel's for it, in bytes.", |a| {
        a.sample.memory.kernel
    }),
    plain(Counter, "container_memory_failcnt", "Times at which the limit was reached.", |a| {
        a.sample.memory.failures
    }),
    plain(Counter, "container_oom_events_total", "Processes that were killed for want of memory.", |a| {
        a.sample.memory.oom_kills
    }),
    plain(Gauge, "container_processes", "Processes.", |a| a.open.processes),
    plain(Gauge, "container_threads", "Threads.", |a| a.sample.processes),
    plain(Gauge, "container_threads_max", "Most threads; 0: no limit.", |a| a.sample.max_processes),
    plain(Gauge, "container_file_descriptors", "Open descriptors.", |a| a.open.descriptors),
    plain(Gauge, "container_sockets", "Open sockets.", |a| a.open.sockets),
    plain(Gauge, "container_fs_usage_bytes", "Bytes in its own layer.", |a| a.writable.0),
    plain(Gauge, "container_fs_limit_bytes", "Bytes that the file system holds.", |a| a.disk.bytes),
    plain(Gauge, "container_fs_inodes_total", "Inodes of the file system.", |a| a.disk.inodes),
    plain(Gauge, "container_fs_inodes_free", "Inodes of the file system that are free.", |a| {
        a.disk.inodes_free
    }),
    plain(Gauge, "container_last_seen", "When it was last seen, in seconds since 1970.", |a| {
        positive(a.sample.at.as_second())
    }),
    plain(Gauge, "container_start_time_seconds", "When it was started, in seconds since 1970.", |a| {
        a.started
    }),
    plain(Gauge, "container_spec_cpu_period", "Scheduling period in microseconds.", |a| {
        positive(a.resources.cpu_period)
    }),
    plain(Gauge, "container_spec_cpu_quota", "CPU time in a period in microseconds; 0: no limit.", |a| {
        positive(a.resources.cpu_quota)
    }),
    plain(Gauge, "container_spec_cpu_shares", "Share of CPU time.", |a| positive(a.resources.cpu_shares)),
    plain(Gauge, "container_spec_memory_limit_bytes", "Limit of memory; 0: none.", |a| {
        a.sample.memory.limit.unwrap_or_else(|| positive(a.resources.memory))
    }),
    plain(Gauge, "container_spec_memory_swap_limit_bytes", "Limit of memory and swap; 0: none.", |a| {
        positive(a.resources.memory_swap)
    }),
    plain(
        Gauge,
        "container_spec_memory_reservation_limit_bytes",
        "Memory that is kept for it; 0: none.",
        |a| {
            let reserved = a.resources.unified.get("memory.low");
            reserved.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        },
    ),
];

/// Name, help, and the counter itself, of one interface of a pod.
type OfInterface = (&'static str, &'static str, fn(&Interface) -> u64);

const INTERFACE: [OfInterface; 8] = [
    ("container_network_receive_bytes_total", "Bytes received.", |i| i.rx_bytes),
    ("container_network_receive_packets_total", "Packets received.", |i| i.rx_packets),
    ("container_network_receive_packets_dropped_total", "Packets dropped while receiving.", |i| i.rx_dropped),
    ("container_network_receive_errors_total", "Errors while receiving.", |i| i.rx_errors),
    ("container_network_transmit_bytes_total", "Bytes sent.", |i| i.tx_bytes),
    ("container_network_transmit_packets_total", "Packets sent.", |i| i.tx_packets),
    ("container_network_transmit_packets_dropped_total", "Packets dropped while sending.", |i| i.tx_dropped),
    ("container_network_transmit_errors_total", "Errors while sending.", |i| i.tx_errors),
];

const DEVICE: [&str; 3] = ["major", "minor", "operation"];
const FAILURES: (&str, &str) = ("container_memory_failures_total", "Page faults.");
const OPEN_FILES: (&str, &str) = ("container_ulimits_soft", "Soft limits of its first process.");
const PAGES: (&str, &str) = ("container_hugetlb_usage_bytes", "Huge pages in use, in bytes.");
const MOST_PAGES: (&str, &str) =
    ("container_hugetlb_max_usage_bytes", "Most huge pages that were in use, in bytes.");
const BLOCKS: (&str, &str) =
    ("container_blkio_device_usage_total", "Bytes read from and written to a device.");
const DISK: [(&str, &str); 4] = [
    ("container_fs_reads_bytes_total", "Bytes read."),
    ("container_fs_reads_total", "Reads."),
    ("container_fs_writes_bytes_total", "Bytes written."),
    ("container_fs_writes_total", "Writes."),
];

impl Cri {
    pub(super) async fn do_list_metric_descriptors(
        &self,
        _request: wire::ListMetricDescriptorsRequest,
    ) -> Result<wire::ListMetricDescriptorsResponse> {
        Ok(wire::ListMetricDescriptorsResponse { descriptors: descriptors() })
    }

    pub(super) async fn do_list_pod_sandbox_metrics(
        &self,
        _request: wire::ListPodSandboxMetricsRequest,
    ) -> Result<wire::ListPodSandboxMetricsResponse> {
        Ok(wire::ListPodSandboxMetricsResponse { pod_metrics: self.all_metrics().await })
    }

    pub(super) async fn do_stream_pod_sandbox_metrics(
        &self,
        _request: wire::StreamPodSandboxMetricsRequest,
    ) -> Result<Stream<wire::StreamPodSandboxMetricsResponse>> {
        let all = self.all_metrics().await;
        Ok(in_batches(all, |pod_sandbox_metrics| wire::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }))
    }

    async fn all_metrics(&self) -> Vec<wire::PodSandboxMetrics> {
        let mut pods = self.pods.all_pods();
        pods.retain(|pod| pod.is_ready());
        let mut all = Vec::new();
        for sample in self.pods.pod_samples(pods).await {
            all.push(self.of_pod(&sample).await);
        }
        all
    }

    async fn of_pod(&self, of: &PodSample) -> wire::PodSandboxMetrics {
        let disk = self.pods.disk();
        let name = of.pod.read(|record| record.config.name.clone());
        let labels =
            [&of.pod.id, &name.to_string(), "", "POD", &name.name, &name.namespace].map(str::to_owned);
        let about = About {
            sample: &of.sample,
            open: Open::default(),
            disk,
            resources: of.pod.read(|record| record.config.resources.clone()).unwrap_or_default(),
            writable: (0, 0),
            started: of.pod.read(|record| positive(record.created_at.as_second())),
        };
        let mut writer = Writer::new(&labels, &of.sample);
        writer.all(&about);
        for interface in &of.interfaces {
            for (metric, _, value) in INTERFACE {
                writer.add(metric, Counter, &[&interface.name], value(interface));
            }
        }
        let mut containers = Vec::new();
        for one in &of.containers {
            containers.push(self.of_container(one, &labels, disk).await);
        }
        wire::PodSandboxMetrics {
            pod_sandbox_id: of.pod.id.clone(),
            metrics: writer.metrics,
            container_metrics: containers,
        }
    }

    async fn of_container(
        &self,
        of: &ContainerSample,
        pod: &[String; 6],
        disk: Disk,
    ) -> wire::ContainerMetrics {
        let open = self.pods.open_files(&of.container).await;
        let record = of.container.record();
        let [_, pod_name, _, _, short, namespace] = pod;
        let name = format!("{}_{pod_name}_{}", record.config.name, record.config.attempt);
        let labels = [&of.container.id, &name, &record.image_ref, &record.config.name, short, namespace]
            .map(String::clone);
        let runs = record.started_at.filter(|_| record.state == State::Running);
        let about = About {
            sample: &of.sample,
            open,
            disk,
            resources: record.config.resources,
            writable: of.written.map_or((0, 0), |written| (written.bytes, written.inodes)),
            started: runs.map_or(0, |at| positive(at.as_second())),
        };
        let mut writer = Writer::new(&labels, &of.sample);
        writer.all(&about);
        wire::ContainerMetrics { container_id: of.container.id.clone(), metrics: writer.metrics }
    }
}

fn descriptors() -> Vec<wire::MetricDescriptor> {
    let descriptor = |(name, help): (&str, &str), more: &[&str]| wire::MetricDescriptor {
        name: name.to_owned(),
        help: help.to_owned(),
        label_keys: LABELS.iter().chain(more).map(|&label| label.to_owned()).collect(),
    };
    let mut all: Vec<_> = PLAIN.iter().map(|one| descriptor((one.name, one.help), &[])).collect();
    all.extend(INTERFACE.iter().map(|(name, help, _)| descriptor((name, help), &["interface"])));
    all.extend(DISK.into_iter().chain([BLOCKS]).map(|metric| descriptor(metric, &DEVICE)));
    all.extend([PAGES, MOST_PAGES].map(|metric| descriptor(metric, &["pagesize"])));
    all.push(descriptor(FAILURES, &["failure_type", "scope"]));
    all.push(descriptor(OPEN_FILES, &["ulimit"]));
    all
}

/// Metrics of one container or pod.
struct Writer<'a> {
    labels: &'a [String; 6],
    at: i64,
    metrics: Vec<wire::Metric>,
}

impl<'a> Writer<'a> {
    fn new(labels: &'a [String; 6], sample: &Sample) -> Self {
        Self { labels, at: nanos(Some(sample.at)), metrics: Vec::new() }
    }

    fn add(&mut self, name: &str, kind: wire::MetricType, more: &[&str], value: u64) {
        let more = more.iter().map(|&label| label.to_owned());
        self.metrics.push(wire::Metric {
            name: name.to_owned(),
            timestamp: self.at,
            metric_type: kind.into(),
            label_values: self.labels.iter().cloned().chain(more).collect(),
            value: number(value),
        });
    }

    fn all(&mut self, about: &About<'_>) {
        for one in &PLAIN {
            self.add(one.name, one.kind, &[], (one.of)(about));
        }
        let memory = &about.sample.memory;
        for (kind, value) in [("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)] {
            self.add(FAILURES.0, Counter, &[kind, "hierarchy"], value);
        }
        if about.open.processes > 0 {
            self.add(OPEN_FILES.0, Gauge, &["max_open_files"], about.open.files_limit);
        }
        for (size, bytes, most) in &about.sample.huge_pages {
            self.add(PAGES.0, Gauge, &[size], *bytes);
            self.add(MOST_PAGES.0, Gauge, &[size], *most);
        }
        let [read_bytes, reads, written_bytes, writes] = DISK.map(|(name, _)| name);
        for (major, minor, op, bytes, times) in &about.sample.disk {
            let (major, minor) = (major.to_string(), minor.to_string());
            let more = [major.as_str(), minor.as_str(), op.as_str()];
            let (of_bytes, of_times) =
                if op == "read" { (read_bytes, reads) } else { (written_bytes, writes) };
            self.add(of_bytes, Counter, &more, *bytes);
            self.add(of_times, Counter, &more, *times);
            self.add(BLOCKS.0, Counter, &more, *bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn every_metric_is_described_and_has_its_labels() {
        let described: HashMap<String, usize> =
            descriptors().into_iter().map(|one| (one.name, one.label_keys.len())).collect();
        assert_eq!(described.len(), descriptors().len(), "a name is described twice");
        let sample = Sample {
            disk: vec![(8, 0, "read".into(), 1, 1), (8, 0, "write".into(), 1, 1)],
            huge_pages: vec![("2MB".into(), 0, 0)],
            ..Sample::default()
        };
        let about = About {
            sample: &sample,
            open: Open { processes: 1, ..Open::default() },
            disk: Disk::default(),
            resources: Resources::default(),
            writable: (0, 0),
            started: 0,
        };
        let labels = std::array::from_fn(|_| String::new());
        let mut writer = Writer::new(&labels, &sample);
        writer.all(&about);
        let interface = Interface::default();
        for (name, _, value) in INTERFACE {
            writer.add(name, Counter, &["eth0"], value(&interface));
        }
        for metric in &writer.metrics {
            assert_eq!(described.get(&metric.name), Some(&metric.label_values.len()), "{}", metric.name);
        }
        for name in described.keys() {
            assert!(writer.metrics.iter().any(|metric| metric.name == *name), "{name} is never told");
        }
    }
}
