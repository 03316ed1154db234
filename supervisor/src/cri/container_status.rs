use std::collections::HashMap;

use longshore_proto::runtime::v1 as wire;
use serde_json::json;

use super::{Cri, convert, nanos};
use crate::error::Result;
use crate::images::reference::Reference;
use crate::pods::config::{ContainerConfig, Image};
use crate::pods::container::Container;
use crate::pods::record::State;

impl Cri {
    pub(super) async fn do_container_status(
        &self,
        request: wire::ContainerStatusRequest,
    ) -> Result<wire::ContainerStatusResponse> {
        let container = self.pods.container(&request.container_id)?;
        let mut info = HashMap::new();
        if request.verbose {
            let spec: serde_json::Value = serde_json::from_slice(&container.spec).unwrap_or_default();
            let text = container.read(|record| {
                json!({
                    "sandboxID": record.pod, "pid": record.pid, "config": record.config, "runtimeSpec": spec,
                })
                .to_string()
            });
            info.insert("info".to_owned(), text);
        }
        let mut status = status(&container);
        if let Some(image) = status.image.as_mut().filter(|image| is_id(&image.image)) {
            // The kubelet makes containers by their image's id, and shows to its users what stands here.
            if let Some(tag) = self.pods.tag_of(&status.image_id).await {
                image.image = tag;
            }
        }
        Ok(wire::ContainerStatusResponse { status: Some(status), info })
    }

    /// Of all containers of a pod, newest first: of several runs of one container, a kubelet that listens to events takes the first
    /// for the last one.
    pub(super) fn statuses(&self, pod: &str) -> Vec<wire::ContainerStatus> {
        self.pods.containers_of(pod).iter().rev().map(|one| status(one)).collect()
    }
}

pub(super) fn state(state: State) -> wire::ContainerState {
    match state {
        State::Created => wire::ContainerState::ContainerCreated,
        State::Running => wire::ContainerState::ContainerRunning,
        State::Exited => wire::ContainerState::ContainerExited,
        State::Unknown => wire::ContainerState::ContainerUnknown,
    }
}

pub(super) fn metadata(config: &ContainerConfig) -> wire::ContainerMetadata {
    wire::ContainerMetadata { name: config.name.clone(), attempt: config.attempt }
}

fn is_id(image: &str) -> bool {
    let digits = image.strip_prefix("sha256:").unwrap_or(image);
    digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// By the name that its user gave it where the container was made by the image's id.
fn shown_image(image: &Image) -> wire::ImageSpec {
    let mut shown = convert::image_spec(image);
    if is_id(&image.image)
        && let Ok(reference) = Reference::parse(&image.user_specified)
    {
        shown.image = reference.canonical();
    }
    shown
}

fn status(container: &Container) -> wire::ContainerStatus {
    let record = container.record();
    let user = wire::LinuxContainerUser {
        uid: record.user.uid.into(),
        gid: record.user.gid.into(),
        supplemental_groups: record.user.groups.iter().map(|gid| i64::from(*gid)).collect(),
    };
    let resources = convert::resources_to_wire(&record.config.resources);
    let end = record.end.clone().unwrap_or_default();
    let ended = record.state == State::Exited;
    wire::ContainerStatus {
        id: container.id.clone(),
        metadata: Some(metadata(&record.config)),
        state: state(record.state).into(),
        created_at: nanos(Some(record.created_at)),
        started_at: nanos(record.started_at),
        finished_at: if ended { nanos(Some(end.at)) } else { 0 },
        exit_code: end.code,
        image: Some(shown_image(&record.config.image)),
        image_ref: record.image_ref,
        reason: end.reason,
        message: end.message,
        labels: record.config.labels.clone().into_iter().collect(),
        annotations: record.config.annotations.clone().into_iter().collect(),
        mounts: record.config.mounts.iter().map(convert::mount_to_wire).collect(),
        log_path: record.log_path,
        resources: Some(wire::ContainerResources { linux: Some(resources), windows: None }),
        image_id: record.image_id,
        user: Some(wire::ContainerUser { linux: Some(user) }),
        stop_signal: convert::signal(&record.stop_signal).into(),
    }
}
