//! Fields of containerd's own events by name, for filters such as `event.container_id==x`.
//!
//! What always holds: an event of another type, or one that cannot be decoded, has no fields; that is no error.

use std::collections::HashMap;

use longshore_proto::containerd::events as wire;
use longshore_proto::containerd::services::images::v1 as images;
use prost::Message;

use crate::any::Any;

/// The field `path` of the event in `payload`, under the names of the interface.
pub fn of(payload: &Any, path: &[&str]) -> Option<String> {
    let name = payload.type_url.rsplit('/').next().unwrap_or_default();
    if let Some(name) = name.strip_prefix("containerd.services.images.v1.") {
        return image(name, payload, path);
    }
    let name = name.strip_prefix("containerd.events.")?;
    match name {
        _ if name.starts_with("Task") => task(name, payload, path),
        _ if name.starts_with("Container") => container(name, payload, path),
        _ if name.starts_with("Snapshot") => snapshot(name, payload, path),
        _ if name.starts_with("Namespace") => namespace(name, payload, path),
        _ if name.starts_with("Content") => content(name, payload, path),
        _ => None,
    }
}

fn decode<M: Message + Default>(payload: &Any) -> Option<M> {
    M::decode(payload.value.clone()).ok()
}

fn label(labels: &HashMap<String, String>, path: &[&str]) -> Option<String> {
    labels.get(&path.join(".")).cloned()
}

fn image(name: &str, payload: &Any, path: &[&str]) -> Option<String> {
    let (name, labels) = match name {
        "ImageCreate" => decode::<images::ImageCreate>(payload).map(|event| (event.name, event.labels))?,
        "ImageUpdate" => decode::<images::ImageUpdate>(payload).map(|event| (event.name, event.labels))?,
        "ImageDelete" => decode::<images::ImageDelete>(payload).map(|event| (event.name, HashMap::new()))?,
        _ => return None,
    };
    match path {
        ["name"] => Some(name),
        ["labels", key @ ..] => label(&labels, key),
        _ => None,
    }
}

/// All task events have a container id; execs and exits an id of their own.
fn task(name: &str, payload: &Any, path: &[&str]) -> Option<String> {
    let (container, id) = match name {
        "TaskCreate" => (decode::<wire::TaskCreate>(payload)?.container_id, None),
        "TaskStart" => (decode::<wire::TaskStart>(payload)?.container_id, None),
        "TaskDelete" => {
            decode::<wire::TaskDelete>(payload).map(|event| (event.container_id, Some(event.id)))?
        }
        "TaskExit" => decode::<wire::TaskExit>(payload).map(|event| (event.container_id, Some(event.id)))?,
        "TaskOOM" => (decode::<wire::TaskOom>(payload)?.container_id, None),
        "TaskExecAdded" => {
            decode::<wire::TaskExecAdded>(payload).map(|event| (event.container_id, Some(event.exec_id)))?
        }
        "TaskExecStarted" => {
            decode::<wire::TaskExecStarted>(payload).map(|event| (event.container_id, Some(event.exec_id)))?
        }
        "TaskPaused" => (decode::<wire::TaskPaused>(payload)?.container_id, None),
        "TaskResumed" => (decode::<wire::TaskResumed>(payload)?.container_id, None),
        "TaskCheckpointed" => (decode::<wire::TaskCheckpointed>(payload)?.container_id, None),
        _ => return None,
    };
    match path {
        ["container_id"] => Some(container),
        ["id"] if matches!(name, "TaskDelete" | "TaskExit") => id,
        ["exec_id"] if name.starts_with("TaskExec") => id,
        _ => None,
    }
}

fn container(name: &str, payload: &Any, path: &[&str]) -> Option<String> {
    match name {
        "ContainerCreate" => {
            let event: wire::ContainerCreate = decode(payload)?;
            match path {
                ["id"] => Some(event.id),
                ["image"] => Some(event.image),
                ["runtime", "name"] => event.runtime.map(|runtime| runtime.name),
                _ => None,
            }
        }
        "ContainerUpdate" => {
            let event: wire::ContainerUpdate = decode(payload)?;
            match path {
                ["id"] => Some(event.id),
                ["image"] => Some(event.image),
                ["snapshot_key"] => Some(event.snapshot_key),
                ["labels", key @ ..] => label(&event.labels, key),
                _ => None,
            }
        }
        "ContainerDelete" if path == ["id"] => decode::<wire::ContainerDelete>(payload).map(|event| event.id),
        _ => None,
    }
}

fn snapshot(name: &str, payload: &Any, path: &[&str]) -> Option<String> {
    match name {
        "SnapshotPrepare" => {
            let event: wire::SnapshotPrepare = decode(payload)?;
            match path {
                ["key"] => Some(event.key),
                ["parent"] => Some(event.parent),
                ["snapshotter"] => Some(event.snapshotter),
                _ => None,
            }
        }
        "SnapshotCommit" => {
            let event: wire::SnapshotCommit = decode(payload)?;
            match path {
                ["key"] => Some(event.key),
                ["name"] => Some(event.name),
                ["snapshotter"] => Some(event.snapshotter),
                _ => None,
            }
        }
        "SnapshotRemove" => {
            let event: wire::SnapshotRemove = decode(payload)?;
            match path {
                ["key"] => Some(event.key),
                ["snapshotter"] => Some(event.snapshotter),
                _ => None,
            }
        }
        _ => None,
    }
}

fn namespace(name: &str, payload: &Any, path: &[&str]) -> Option<String> {
    let (name, labels) = match name {
        "NamespaceCreate" => {
            decode::<wire::NamespaceCreate>(payload).map(|event| (event.name, event.labels))?
        }
        "NamespaceUpdate" => {
            decode::<wire::NamespaceUpdate>(payload).map(|event| (event.name, event.labels))?
        }
        "NamespaceDelete" => {
            decode::<wire::NamespaceDelete>(payload).map(|event| (event.name, HashMap::new()))?
        }
        _ => return None,
    };
    match path {
        ["name"] => Some(name),
        ["labels", key @ ..] => label(&labels, key),
        _ => None,
    }
}

fn content(name: &str, payload: &Any, path: &[&str]) -> Option<String> {
    match (name, path) {
        ("ContentCreate", ["digest"]) => decode::<wire::ContentCreate>(payload).map(|event| event.digest),
        ("ContentDelete", ["digest"]) => decode::<wire::ContentDelete>(payload).map(|event| event.digest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_known_events_are_found() {
        let event = wire::TaskExit { container_id: "c".into(), id: "e".into(), ..Default::default() };
        let payload = Any::pack("containerd.events.TaskExit", &event);
        assert_eq!(of(&payload, &["container_id"]).as_deref(), Some("c"));
        assert_eq!(of(&payload, &["id"]).as_deref(), Some("e"));
        assert_eq!(of(&payload, &["nothing"]), None);
        assert_eq!(of(&Any::new("x.Y", ""), &["id"]), None);
    }
}
