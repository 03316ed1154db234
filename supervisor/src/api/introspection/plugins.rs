//! What this daemon is made of, under the types and ids by which containerd's clients look for it.

pub const CONTENT: &str = "io.containerd.content.v1";
pub const DIFFER: &str = "io.containerd.differ.v1";
pub const METADATA: &str = "io.containerd.metadata.v1";
pub const RUNTIME: &str = "io.containerd.runtime.v2";
pub const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
/// `ctr install` asks it where programs go that images bring for the daemon.
pub const OPT: (&str, &str) = ("io.containerd.internal.v1", "opt");
pub const RESTART: (&str, &str) = ("io.containerd.monitor.container.v1", "restart");

const EVENT: &str = "io.containerd.event.v1";
const GRPC: &str = "io.containerd.grpc.v1";
const MOUNT_MANAGER: &str = "io.containerd.mount-manager.v1";
const STREAMING: &str = "io.containerd.streaming.v1";
const TRANSFER: &str = "io.containerd.transfer.v1";
const LEASE: &str = "io.containerd.lease.v1";
const SANDBOX_CONTROLLER: &str = "io.containerd.sandbox.controller.v1";
const SANDBOX_STORE: &str = "io.containerd.sandbox.store.v1";
const SERVER: &str = "io.containerd.server.v1";
const SERVICE: &str = "io.containerd.service.v1";
const SHIM: &str = "io.containerd.shim.v1";
const WARNING: &str = "io.containerd.warning.v1";

pub struct BuiltIn {
    pub kind: &'static str,
    pub id: &'static str,
    /// Types of what it builds on.
    pub requires: &'static [&'static str],
}

const fn plugin(kind: &'static str, id: &'static str, requires: &'static [&'static str]) -> BuiltIn {
    BuiltIn { kind, id, requires }
}

pub const BUILT_IN: &[BuiltIn] = &[
    plugin(CONTENT, "content", &[]),
    plugin(EVENT, "exchange", &[]),
    plugin(METADATA, "sled", &[CONTENT, SNAPSHOTTER, EVENT]),
    plugin("io.containerd.gc.v1", "scheduler", &[METADATA]),
    plugin(LEASE, "manager", &[METADATA]),
    plugin(OPT.0, OPT.1, &[]),
    plugin(DIFFER, "walking", &[METADATA]),
    plugin(SNAPSHOTTER, "overlayfs", &[]),
    plugin(SNAPSHOTTER, "native", &[]),
    plugin(MOUNT_MANAGER, "bolt", &[METADATA]),
    plugin(STREAMING, "manager", &[METADATA]),
    plugin(TRANSFER, "local", &[LEASE, METADATA, DIFFER]),
    plugin(SHIM, "manager", &[METADATA, EVENT]),
    plugin(RUNTIME, "task", &[SHIM, METADATA, EVENT]),
    plugin(RESTART.0, RESTART.1, &[EVENT, METADATA]),
    plugin(SANDBOX_STORE, "local", &[METADATA]),
    plugin(SANDBOX_CONTROLLER, "shim", &[SHIM, EVENT]),
    plugin(WARNING, "deprecations", &[]),
    plugin(SERVICE, "containers-service", &[METADATA, EVENT]),
    plugin(SERVICE, "content-service", &[METADATA]),
    plugin(SERVICE, "diff-service", &[DIFFER]),
    plugin(SERVICE, "images-service", &[METADATA, "io.containerd.gc.v1", WARNING]),
    plugin(SERVICE, "introspection-service", &[WARNING]),
    plugin(SERVICE, "namespaces-service", &[METADATA, EVENT]),
    plugin(SERVICE, "snapshots-service", &[METADATA]),
    plugin(SERVICE, "tasks-service", &[RUNTIME, METADATA, WARNING]),
    plugin(GRPC, "containers", &[SERVICE]),
    plugin(GRPC, "content", &[SERVICE]),
    plugin(GRPC, "diff", &[SERVICE]),
    plugin(GRPC, "events", &[EVENT]),
    plugin(GRPC, "healthcheck", &[]),
    plugin(GRPC, "images", &[SERVICE]),
    plugin(GRPC, "introspection", &[SERVICE]),
    plugin(GRPC, "leases", &[LEASE]),
    plugin(GRPC, "mounts", &[MOUNT_MANAGER]),
    plugin(GRPC, "namespaces", &[SERVICE]),
    plugin(GRPC, "sandbox-controllers", &[SANDBOX_CONTROLLER, EVENT]),
    plugin(GRPC, "sandboxes", &[SANDBOX_STORE]),
    plugin(GRPC, "snapshots", &[SERVICE]),
    plugin(GRPC, "streaming", &[STREAMING]),
    plugin(GRPC, "tasks", &[SERVICE]),
    plugin(GRPC, "transfer", &[TRANSFER, STREAMING]),
    plugin(GRPC, "version", &[]),
    plugin(SERVER, "grpc", &[GRPC]),
    plugin(SERVER, "ttrpc", &[EVENT]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plugin_is_there_once_and_so_is_what_it_builds_on() {
        for (index, built_in) in BUILT_IN.iter().enumerate() {
            let same = |other: &&BuiltIn| (other.kind, other.id) == (built_in.kind, built_in.id);
            assert!(!BUILT_IN[..index].iter().any(|other| same(&other)), "{} {}", built_in.kind, built_in.id);
            for required in built_in.requires {
                assert!(BUILT_IN.iter().any(|other| other.kind == *required), "{required}");
            }
        }
    }
}
