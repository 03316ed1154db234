//! What can be told of a record that cannot be read as a whole: a newer daemon wrote it, or it is damaged. Its pod or container is kept
//! with that much, so that its name is not given away and what it has is not taken for nobody's.

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::pod::Pod;
use super::record::{self, ContainerRecord, PodRecord, PodState, State};
use crate::any::Any;
use crate::containers;
use crate::sandboxes::SandboxRecord;

/// Field by field: those that cannot be read are as if nothing had been said.
fn fields<T: Default + DeserializeOwned + Serialize>(value: &Value) -> T {
    let Value::Object(given) = value else { return T::default() };
    let readable = |key: &String, value: &Value| {
        let alone = Map::from_iter([(key.clone(), value.clone())]);
        serde_json::from_value::<T>(Value::Object(alone)).is_ok()
    };
    let kept: Map<String, Value> = given
        .iter()
        .filter(|(key, value)| readable(key, value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    serde_json::from_value(Value::Object(kept)).unwrap_or_default()
}

fn field<T: DeserializeOwned>(value: &Value, name: &str) -> Option<T> {
    serde_json::from_value(value.get(name)?.clone()).ok()
}

/// A pod of which nothing is made any more; what it has stays until it is stopped.
pub(super) fn pod(bytes: &[u8]) -> PodRecord {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    PodRecord {
        config: fields(&value["config"]),
        created_at: field(&value, "created_at").unwrap_or_else(Timestamp::now),
        state: match field(&value, "state") {
            Some(PodState::NotReady) => PodState::NotReady,
            _ => PodState::Unreadable,
        },
        network: fields(&value["network"]),
        pause: field(&value, "pause").unwrap_or_default(),
    }
}

/// The record of a pod of which not even the outermost layer can be read. `None`: it was no pod's.
pub(super) fn sandbox(id: &str, kept: &Value) -> Option<SandboxRecord> {
    let extension = kept.get("extensions").and_then(|all| all.get(record::POD));
    if kept.is_object() && extension.is_none() {
        return None;
    }
    let own: Option<Any> = extension.and_then(|own| serde_json::from_value(own.clone()).ok());
    let own = own.unwrap_or_default();
    let record = record::unpack(record::POD, id, &own).unwrap_or_else(|_| pod(&own.value));
    Some(Pod::new(id.to_owned(), record).sandbox().ok()?.record)
}

/// A container of which its task has to tell what it is.
pub(super) fn container(bytes: &[u8], stored: &containers::Container) -> ContainerRecord {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    ContainerRecord {
        pod: field(&value, "pod").unwrap_or_else(|| stored.sandbox_id.clone()),
        config: fields(&value["config"]),
        image_id: field(&value, "image_id").unwrap_or_default(),
        image_ref: field(&value, "image_ref").unwrap_or_else(|| stored.image.clone()),
        log_path: field(&value, "log_path").unwrap_or_default(),
        stop_signal: field(&value, "stop_signal").unwrap_or_else(|| "SIGTERM".to_owned()),
        cgroup: field(&value, "cgroup").unwrap_or_default(),
        by_systemd: field(&value, "by_systemd").unwrap_or_default(),
        user: field(&value, "user").unwrap_or_default(),
        created_at: field(&value, "created_at").unwrap_or_else(Timestamp::now),
        state: match field(&value, "state") {
            Some(State::Exited) => State::Exited,
            _ => State::Unknown,
        },
        started_at: field(&value, "started_at").unwrap_or_default(),
        end: field(&value, "end").unwrap_or_default(),
        pid: field(&value, "pid").unwrap_or_default(),
        restored: field(&value, "restored").unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::Runtime;

    #[test]
    fn a_newer_record_gives_what_an_older_daemon_understands() {
        let bytes = br#"{"config": {"name": {"name": "web", "namespace": "n", "uid": "u", "attempt": 0}, "hostname": "h",
            "labels": {"a": "b"}, "sysctls": 7, "invented": {"x": 1}}, "created_at": "2026-01-02T03:04:05Z", "state": "dreaming"}"#;
        let record = pod(bytes);
        assert_eq!(
            (record.config.name.to_string().as_str(), record.state),
            ("web_n_u_0", PodState::Unreadable)
        );
        assert_eq!(record.config.labels["a"], "b");
        assert!(record.config.sysctls.is_empty());
        assert_eq!(pod(b"\xff{").state, PodState::Unreadable);
    }

    #[tokio::test]
    async fn a_pod_whose_row_cannot_be_read_is_kept_and_holds_up_no_other() {
        use crate::metadata::{Db, Options, Reader, tables};
        use crate::namespaces::Namespace;
        use crate::sandboxes::SandboxStore;
        use std::sync::Arc;

        let folder = tempfile::tempdir().unwrap();
        let db = Arc::new(Db::open(&folder.path().join("metadata"), &Options::default()).unwrap());
        let namespace = Namespace::parse("k8s.io").unwrap();
        let store = SandboxStore::new(db.clone());
        let config = r#"{"config": {"name": {"name": "web", "namespace": "n", "uid": "u", "attempt": 0}},
            "created_at": "2026-01-02T03:04:05Z", "state": "ready"}"#;
        let good = Pod::new("good".to_owned(), serde_json::from_str(config).unwrap());
        store.create(&namespace, good.sandbox().unwrap()).await.unwrap();
        let rows = tables::SANDBOXES.view::<Value>();
        let with = |extension: &str| serde_json::json!({ "created_at": "at some time", "extensions": { extension: Any::new(record::POD, config) } });
        let damaged = [("bad", with(record::POD)), ("other", with("x")), ("none", Value::from("no record"))];
        for (id, row) in &damaged {
            db.write(|tx| tx.put(&rows, &namespace, id, row)).await.unwrap();
        }
        let aside = folder.path().join("unreadable");
        let read = || store.read_back(&namespace, &aside, sandbox).unwrap();
        // Where nothing can be written, they are kept as they are.
        std::fs::write(&aside, "no folder").unwrap();
        assert_eq!(read().len(), 3);
        assert_eq!(db.get(&rows, &namespace, "bad").unwrap().unwrap(), damaged[0].1);
        std::fs::remove_file(&aside).unwrap();
        let pods = read();
        assert_eq!(pods.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), ["bad", "good", "none"]);
        let states: Vec<PodState> = pods
            .iter()
            .map(|one| record::unpack::<PodRecord>(record::POD, &one.id, &one.record.extensions[record::POD]))
            .map(|record| record.unwrap().state)
            .collect();
        assert_eq!(states, [PodState::Ready, PodState::Ready, PodState::Unreadable]);
        let kept = std::fs::read(aside.join("sandbox-bad")).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&kept).unwrap(), damaged[0].1);
        assert_eq!(std::fs::read_dir(&aside).unwrap().count(), 2);
        assert_eq!(read(), pods);
        assert_eq!(db.get(&rows, &namespace, "other").unwrap().unwrap(), damaged[1].1, "it is no pod's");
        store.delete(&namespace, "none").await.unwrap();
        assert_eq!(read().len(), 2);
    }

    #[test]
    fn a_damaged_container_belongs_to_its_pod_still() {
        let runtime = Runtime { name: String::new(), options: None };
        let mut stored = containers::Container::new("c", runtime);
        stored.sandbox_id = "p".to_owned();
        let record =
            container(br#"{"config": {"name": "c", "attempt": "many"}, "state": "running"}"#, &stored);
        assert_eq!(
            (record.pod.as_str(), record.config.name.as_str(), record.state),
            ("p", "c", State::Unknown)
        );
    }
}
