use longshore_proto::runtime::v1 as wire;

use super::container_status::{metadata, state};
use super::{Cri, Stream, convert, in_batches, nanos, selects};
use crate::error::Result;
use crate::pods::container::Container;

impl Cri {
    pub(super) async fn do_list_containers(
        &self,
        request: wire::ListContainersRequest,
    ) -> Result<wire::ListContainersResponse> {
        Ok(wire::ListContainersResponse { containers: self.container_list(request.filter) })
    }

    pub(super) async fn do_stream_containers(
        &self,
        request: wire::StreamContainersRequest,
    ) -> Result<Stream<wire::StreamContainersResponse>> {
        let containers = self.container_list(request.filter);
        Ok(in_batches(containers, |containers| wire::StreamContainersResponse { containers }))
    }

    fn container_list(&self, filter: Option<wire::ContainerFilter>) -> Vec<wire::Container> {
        let filter = filter.unwrap_or_default();
        let matches = |one: &Container| {
            one.id.starts_with(&filter.id)
                && one.pod.starts_with(&filter.pod_sandbox_id)
                && filter.state.is_none_or(|wanted| wanted.state() == state(one.state()))
                && one.read(|record| selects(&filter.label_selector, &record.config.labels))
        };
        self.pods.all_containers().iter().filter(|one| matches(one)).map(|one| item(one)).collect()
    }
}

fn item(container: &Container) -> wire::Container {
    let record = container.record();
    wire::Container {
        id: container.id.clone(),
        pod_sandbox_id: container.pod.clone(),
        metadata: Some(metadata(&record.config)),
        image: Some(convert::image_spec(&record.config.image)),
        image_ref: record.image_ref,
        state: state(record.state).into(),
        created_at: nanos(Some(record.created_at)),
        labels: record.config.labels.into_iter().collect(),
        annotations: record.config.annotations.into_iter().collect(),
        image_id: record.image_id,
    }
}
