use longshore_proto::runtime::v1 as wire;

use super::container_status::metadata;
use super::{Cri, Stream, in_batches, nanos, number, selects};
use crate::error::{Error, Result};
use crate::pods::record::State;
use crate::pods::stats::{ContainerSample, Sample};

impl Cri {
    pub(super) async fn do_container_stats(
        &self,
        request: wire::ContainerStatsRequest,
    ) -> Result<wire::ContainerStatsResponse> {
        let container = self.pods.container(&request.container_id)?;
        let samples = self.pods.container_samples(vec![container]).await;
        let stats = samples.first().map(|sample| self.stats(sample));
        let gone = || {
            Error::unavailable(
                format!("statistics of container {}", request.container_id),
                "it has just ended",
            )
        };
        Ok(wire::ContainerStatsResponse { stats: Some(stats.ok_or_else(gone)?) })
    }

    pub(super) async fn do_list_container_stats(
        &self,
        request: wire::ListContainerStatsRequest,
    ) -> Result<wire::ListContainerStatsResponse> {
        Ok(wire::ListContainerStatsResponse { stats: self.all_container_stats(request.filter).await })
    }

    pub(super) async fn do_stream_container_stats(
        &self,
        request: wire::StreamContainerStatsRequest,
    ) -> Result<Stream<wire::StreamContainerStatsResponse>> {
        let stats = self.all_container_stats(request.filter).await;
        Ok(in_batches(stats, |container_stats| wire::StreamContainerStatsResponse { container_stats }))
    }

    async fn all_container_stats(
        &self,
        filter: Option<wire::ContainerStatsFilter>,
    ) -> Vec<wire::ContainerStats> {
        let filter = filter.unwrap_or_default();
        let mut all = self.pods.all_containers();
        all.retain(|container| {
            container.state() == State::Running
                && container.id.starts_with(&filter.id)
                && container.pod.starts_with(&filter.pod_sandbox_id)
                && container.read(|record| selects(&filter.label_selector, &record.config.labels))
        });
        self.pods.container_samples(all).await.iter().map(|sample| self.stats(sample)).collect()
    }

    pub(super) fn stats(&self, of: &ContainerSample) -> wire::ContainerStats {
        let at = nanos(Some(of.sample.at));
        let attributes = of.container.read(|record| wire::ContainerAttributes {
            id: of.container.id.clone(),
            metadata: Some(metadata(&record.config)),
            labels: record.config.labels.clone().into_iter().collect(),
            annotations: record.config.annotations.clone().into_iter().collect(),
        });
        let writable = of.written.map(|written| wire::FilesystemUsage {
            timestamp: nanos(Some(written.at)),
            fs_id: Some(wire::FilesystemIdentifier { mountpoint: self.pods.snapshots_folder() }),
            used_bytes: number(written.bytes),
            inodes_used: number(written.inodes),
        });
        let swap = wire::SwapUsage {
            timestamp: at,
            swap_available_bytes: None,
            swap_usage_bytes: number(of.sample.memory.swap),
        };
        wire::ContainerStats {
            attributes: Some(attributes),
            cpu: Some(cpu(&of.sample)),
            memory: Some(memory(&of.sample)),
            writable_layer: writable,
            swap: Some(swap),
            io: None,
        }
    }
}

pub(super) fn cpu(sample: &Sample) -> wire::CpuUsage {
    wire::CpuUsage {
        timestamp: nanos(Some(sample.at)),
        usage_core_nano_seconds: number(sample.cpu_nanos),
        usage_nano_cores: sample.cpu_rate.and_then(number),
        psi: None,
    }
}

pub(super) fn memory(sample: &Sample) -> wire::MemoryUsage {
    let memory = &sample.memory;
    wire::MemoryUsage {
        timestamp: nanos(Some(sample.at)),
        working_set_bytes: number(memory.working_set),
        available_bytes: memory.available.and_then(number),
        usage_bytes: number(memory.usage),
        rss_bytes: number(memory.rss),
        page_faults: number(memory.page_faults),
        major_page_faults: number(memory.major_page_faults),
        psi: None,
    }
}
