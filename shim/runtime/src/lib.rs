//! The OCI runtime as a library: from a `config.json` to a running container, and back to nothing.
//!
//! What always holds here:
//! - Several threads of the caller may make containers and processes at a time; the caller is the parent of every process
//!   that the runtime makes, and reaps them.
//! - Between `clone3` and `execve` the child allocates nothing: it runs a list of steps that was prepared before, and
//!   reports a failure as numbers, which the parent turns into text.
//! - The container's file systems are mounted in the container's own mount namespace only, so they cannot outlive it.
//! - A failing `create` leaves no process, mount or cgroup behind.
//! - Every path below a rootfs is resolved inside that rootfs (`paths`).
#![deny(unsafe_code)]

mod capabilities;
pub mod cgroups;
mod checkpoint;
mod config;
mod container;
mod create;
mod criu;
mod criu_service;
mod delete;
mod devices;
mod error;
mod exec;
mod features;
#[doc(hidden)]
pub mod fuzz;
pub mod handover;
mod hooks;
mod idmapped;
mod init;
mod intel_rdt;
mod kill;
mod legacy_mount;
mod mount_options;
mod mounts;
mod namespaces;
mod net_devices;
mod options;
mod paths;
mod patience;
mod process;
mod procfs;
mod record;
mod restore;
mod restored;
mod rootfs;
pub mod rootless;
mod scheduling;
mod seccomp;
mod seccomp_agent;
mod start;
mod sys;

pub use checkpoint::{Checkpoint, CheckpointOptions};
pub use config::{load_process, load_spec};
pub use container::{Container, Process};
pub use criu::Parent as ParentImage;
pub use error::{Error, Result};
pub use exec::Addition;
pub use features::features;
pub use hooks::{run_poststart, run_poststop};
pub use idmapped::{Unpeopled, make_unpeopled};
pub use options::{CreateOptions, ExecOptions, FirstProgram, NoteCgroups, RootfsMount, Stdio};
pub use patience::ends_within;
pub use record::{CgroupRecord, Record, signal};
pub use restore::RestoreOptions;
pub use rootfs::mount_on_host;
pub use seccomp::libseccomp_version;
pub use start::Opening;

/// The version of the runtime specification that this crate speaks.
pub(crate) const SPEC_VERSION: &str = "1.3.0";
