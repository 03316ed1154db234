//! The harness that the end-to-end, conformance, crash and bench suites share: images, registries, a daemon
//! of one's own, and the check that nothing of ours is left on the host.

pub mod api;
pub mod buildkit;
pub mod containerd;
pub mod cri;
pub mod ctr;
pub mod daemon;
pub mod debian;
pub mod docker;
pub mod docker_registry;
pub mod fixture;
pub mod h2;
pub mod host;
pub mod image;
pub mod kubelet;
pub mod leaks;
pub mod pty;
pub mod raw;
pub mod registry;
pub mod seccomp;
pub mod snapshotter;
pub mod tmux;
pub mod transfer;

pub use containerd::Containerd;
pub use daemon::{Daemon, Output};
pub use fixture::Fixture;
