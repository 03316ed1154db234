use longshore_proto::runtime::v1 as wire;

use super::pod_sandbox_status::state;
use super::{Cri, Stream, convert, in_batches, nanos, selects};
use crate::error::Result;
use crate::pods::pod::Pod;

impl Cri {
    pub(super) async fn do_list_pod_sandbox(
        &self,
        request: wire::ListPodSandboxRequest,
    ) -> Result<wire::ListPodSandboxResponse> {
        Ok(wire::ListPodSandboxResponse { items: self.pod_list(request.filter) })
    }

    pub(super) async fn do_stream_pod_sandboxes(
        &self,
        request: wire::StreamPodSandboxesRequest,
    ) -> Result<Stream<wire::StreamPodSandboxesResponse>> {
        let pods = self.pod_list(request.filter);
        Ok(in_batches(pods, |pod_sandboxes| wire::StreamPodSandboxesResponse { pod_sandboxes }))
    }

    fn pod_list(&self, filter: Option<wire::PodSandboxFilter>) -> Vec<wire::PodSandbox> {
        let filter = filter.unwrap_or_default();
        let matches = |pod: &Pod| {
            pod.id.starts_with(&filter.id)
                && filter.state.is_none_or(|wanted| wanted.state() == pod.read(|record| state(record.state)))
                && pod.read(|record| selects(&filter.label_selector, &record.config.labels))
        };
        self.pods.all_pods().iter().filter(|pod| matches(pod)).map(|pod| item(pod)).collect()
    }
}

fn item(pod: &Pod) -> wire::PodSandbox {
    let record = pod.record();
    wire::PodSandbox {
        id: pod.id.clone(),
        metadata: Some(convert::pod_metadata(&record.config.name)),
        state: state(record.state).into(),
        created_at: nanos(Some(record.created_at)),
        labels: record.config.labels.into_iter().collect(),
        annotations: record.config.annotations.into_iter().collect(),
        runtime_handler: record.config.handler,
    }
}
