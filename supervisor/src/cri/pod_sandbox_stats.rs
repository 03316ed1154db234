use longshore_proto::runtime::v1 as wire;

use super::container_stats::{cpu, memory};
use super::{Cri, Stream, convert, in_batches, nanos, number, selects};
use crate::error::{Error, Result};
use crate::pods::stats::{Interface, PodSample};

impl Cri {
    pub(super) async fn do_pod_sandbox_stats(
        &self,
        request: wire::PodSandboxStatsRequest,
    ) -> Result<wire::PodSandboxStatsResponse> {
        let pod = self.pods.pod(&request.pod_sandbox_id)?;
        let samples = self.pods.pod_samples(vec![pod]).await;
        let stats = samples.first().map(|sample| self.pod_stats(sample));
        let gone = || {
            Error::unavailable(format!("statistics of pod {}", request.pod_sandbox_id), "it has just ended")
        };
        Ok(wire::PodSandboxStatsResponse { stats: Some(stats.ok_or_else(gone)?) })
    }

    pub(super) async fn do_list_pod_sandbox_stats(
        &self,
        request: wire::ListPodSandboxStatsRequest,
    ) -> Result<wire::ListPodSandboxStatsResponse> {
        Ok(wire::ListPodSandboxStatsResponse { stats: self.all_pod_stats(request.filter).await })
    }

    pub(super) async fn do_stream_pod_sandbox_stats(
        &self,
        request: wire::StreamPodSandboxStatsRequest,
    ) -> Result<Stream<wire::StreamPodSandboxStatsResponse>> {
        let stats = self.all_pod_stats(request.filter).await;
        Ok(in_batches(stats, |pod_sandbox_stats| wire::StreamPodSandboxStatsResponse { pod_sandbox_stats }))
    }

    async fn all_pod_stats(&self, filter: Option<wire::PodSandboxStatsFilter>) -> Vec<wire::PodSandboxStats> {
        let filter = filter.unwrap_or_default();
        let mut all = self.pods.all_pods();
        all.retain(|pod| {
            pod.is_ready()
                && pod.id.starts_with(&filter.id)
                && pod.read(|record| selects(&filter.label_selector, &record.config.labels))
        });
        self.pods.pod_samples(all).await.iter().map(|sample| self.pod_stats(sample)).collect()
    }

    fn pod_stats(&self, of: &PodSample) -> wire::PodSandboxStats {
        let at = nanos(Some(of.sample.at));
        let attributes = of.pod.read(|record| wire::PodSandboxAttributes {
            id: of.pod.id.clone(),
            metadata: Some(convert::pod_metadata(&record.config.name)),
            labels: record.config.labels.clone().into_iter().collect(),
            annotations: record.config.annotations.clone().into_iter().collect(),
        });
        let linux = wire::LinuxPodSandboxStats {
            cpu: Some(cpu(&of.sample)),
            memory: Some(memory(&of.sample)),
            network: network(at, &of.interfaces),
            process: Some(wire::ProcessUsage { timestamp: at, process_count: number(of.sample.processes) }),
            containers: of.containers.iter().map(|one| self.stats(one)).collect(),
            io: None,
        };
        wire::PodSandboxStats { attributes: Some(attributes), linux: Some(linux), windows: None }
    }
}

/// None for a pod without an interface of its own: a kubelet takes it for granted that network statistics have a default interface,
/// and ends with a fault where they have none.
fn network(at: i64, of: &[Interface]) -> Option<wire::NetworkUsage> {
    let default = of.iter().position(|one| one.name == "eth0").or((!of.is_empty()).then_some(0))?;
    let mut interfaces: Vec<_> = of.iter().map(interface).collect();
    Some(wire::NetworkUsage {
        timestamp: at,
        default_interface: Some(interfaces.remove(default)),
        interfaces,
    })
}

fn interface(of: &Interface) -> wire::NetworkInterfaceUsage {
    wire::NetworkInterfaceUsage {
        name: of.name.clone(),
        rx_bytes: number(of.rx_bytes),
        rx_errors: number(of.rx_errors),
        tx_bytes: number(of.tx_bytes),
        tx_errors: number(of.tx_errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<Interface> {
        names.iter().map(|name| Interface { name: (*name).to_owned(), ..Interface::default() }).collect()
    }

    #[test]
    fn network_statistics_always_have_a_default_interface() {
        assert_eq!(network(1, &[]), None, "a pod of the host's network");
        let told = |names: &[&str]| {
            let usage = network(1, &named(names)).unwrap();
            let others: Vec<_> = usage.interfaces.into_iter().map(|one| one.name).collect();
            (usage.default_interface.unwrap().name, others)
        };
        assert_eq!(told(&["net1", "eth0"]), ("eth0".to_owned(), vec!["net1".to_owned()]));
        assert_eq!(told(&["tap7"]), ("tap7".to_owned(), Vec::new()));
    }
}
