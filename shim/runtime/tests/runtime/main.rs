//! The runtime against the real kernel, as root: each test makes containers from a busybox rootfs of its own, and checks in
//! the end that no process, mount or cgroup is left.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attacks;
mod bundle;
mod cgroups;
mod checkpoint;
mod exec;
mod fields;
mod hooks;
mod lifecycle;
mod mounts;
mod namespaces;
mod process;
mod races;
mod rootless;
mod seccomp;
mod security;
mod systemd;
mod v2;
