//! The OCI runtime as a library: from a `config.json` to a running container, and back to nothing.
//!
//! What always holds here:
//! - The caller is single-threaded when it calls [`Container::create`] and [`Container::exec`], and it is the parent of
//!   every process that the runtime makes: the caller reaps them.
//! - Between `clone3` and `execve` the child allocates nothing: it runs a list of steps that was prepared before, and
//!   reports a failure as numbers, which the parent turns into text.
//! - The container's file systems are mounted in the container's own mount namespace only, so they cannot outlive it.
//! - A failing `create` leaves no process, mount or cgroup behind.
//! - Every path below a rootfs is resolved inside that rootfs (`paths`).
#![deny(unsafe_code)]

mod capabilities;
pub mod cgroups;
mod container;
mod create;
mod delete;
mod devices;
mod error;
mod exec;
mod features;
pub mod handover;
mod hooks;
mod init;
mod kill;
mod legacy_mount;
mod mounts;
mod namespaces;
mod options;
mod paths;
mod process;
mod record;
mod rootfs;
mod seccomp;
mod start;
mod sys;

pub use container::{Container, Process};
pub use error::{Error, Result};
pub use features::features;
pub use hooks::{run_poststart, run_poststop};
pub use options::{CreateOptions, ExecOptions, RootfsMount, Stdio};
pub use record::{Record, signal};
pub use rootfs::mount_on_host;
pub use seccomp::libseccomp_version;
