//! Cleaning up after a shim that is gone: whatever still runs in its container's cgroups is killed and the cgroups are
//! removed.
//!
//! What always holds: a cgroup that another task of this daemon names too is left alone, and so are the root and
//! what the daemon cannot name. Where a spec names none, they are where the shim has noted, or where it usually makes them.

#![forbid(unsafe_code)]

use std::path::{Component, Path};

use super::bundle::Bundle;
use super::{Inner, Slot};

/// Where a container's cgroups are, by its spec; empty if it does not say.
pub fn cgroups_path(spec: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Linux {
        cgroups_path: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Spec {
        linux: Option<Linux>,
    }
    // A spec that cannot be read is refused by the shim, with the reason.
    serde_json::from_slice::<Spec>(spec).ok().and_then(|s| s.linux?.cgroups_path).unwrap_or_default()
}

/// As [`remove`], for a shim that removes its cgroups itself: what it left, if that can be told.
pub(super) async fn remove_quietly(manager: &Inner, id: &str, cgroups_path: &str) {
    if names_a_cgroup(cgroups_path) && !manager.others_use(cgroups_path, id) {
        remove(manager, id, cgroups_path, None).await;
    }
}

/// Kills and removes what is left of a container without a shim.
pub(super) async fn remove(manager: &Inner, id: &str, cgroups_path: &str, bundle: Option<&Bundle>) {
    let Some(path) = whereabouts(manager, id, cgroups_path, bundle) else {
        tracing::warn!(
            container = id,
            cgroups_path,
            "left alone: these cgroups are not this container's only"
        );
        return;
    };
    let removed = tokio::task::spawn_blocking(move || longshore_runtime::cgroups::remove_orphan(&path)).await;
    match removed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(container = id, cgroups_path, %error, "cannot remove the cgroups of a lost container");
        }
        Err(error) => tracing::error!(container = id, %error, "removing cgroups failed"),
    }
}

/// Where this container's cgroups are, and nobody else's.
fn whereabouts(manager: &Inner, id: &str, cgroups_path: &str, bundle: Option<&Bundle>) -> Option<String> {
    // A unit of systemd has one container.
    if let Some(record) = bundle.and_then(Bundle::cgroups_record) {
        return Some(record);
    }
    named(id, cgroups_path, bundle).filter(|path| !manager.others_use(path, id))
}

/// Where they are by the spec, or, if it does not say, where a container that was made has them.
fn named(id: &str, cgroups_path: &str, bundle: Option<&Bundle>) -> Option<String> {
    let path = match cgroups_path {
        "" if bundle.is_some_and(Bundle::has_init) => longshore_runtime::cgroups::usual_path(id),
        path => path.to_owned(),
    };
    names_a_cgroup(&path).then_some(path)
}

fn names_a_cgroup(path: &str) -> bool {
    let mut components = Path::new(path).components();
    components.clone().any(|c| matches!(c, Component::Normal(_)))
        && components.all(|c| matches!(c, Component::Normal(_) | Component::RootDir))
}

impl Inner {
    fn others_use(&self, cgroups_path: &str, id: &str) -> bool {
        let slots = self.slots();
        slots.values().flatten().any(|(other, slot)| match slot {
            Slot::Task(task) | Slot::Making(task) => other != id && task.cgroups_path == cgroups_path,
            Slot::Reserved => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_spec_names_is_an_orphan() {
        assert_eq!(cgroups_path(br#"{"linux":{"cgroupsPath":"/default/x"}}"#), "/default/x");
        assert_eq!(cgroups_path(b"{}"), "");
        assert_eq!(cgroups_path(b"not json"), "");
        let folder = tempfile::tempdir().expect("a folder");
        let bundle = Bundle::at(folder.path().to_owned());
        assert_eq!(named("x", "/a/x", Some(&bundle)).as_deref(), Some("/a/x"));
        assert_eq!(named("x", "", Some(&bundle)), None, "nothing was made");
        std::fs::write(folder.path().join("init.pid"), "1").expect("written");
        assert_eq!(named("x", "", Some(&bundle)).as_deref(), Some("/longshore/x"));
        assert_eq!(bundle.cgroups_record(), None);
        std::fs::write(folder.path().join("cgroups"), "systemd:system:a.slice:x.scope/a.slice/x.scope")
            .expect("written");
        assert!(bundle.cgroups_record().is_some_and(|record| record.starts_with("systemd:")));
        assert!(names_a_cgroup("/default/x"));
        assert!(names_a_cgroup("x"));
        for no in ["", "/", "//", ".", "/..", "/a/../.."] {
            assert!(!names_a_cgroup(no), "{no:?}");
        }
    }
}
