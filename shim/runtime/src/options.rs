//! What a caller hands to the runtime: plain data, borrowed for the length of one call.

use crate::handover::Handover;
use oci_spec::runtime::{Process as ProcessSpec, Spec};
use std::os::fd::OwnedFd;
use std::path::Path;

/// One container to be made.
pub struct CreateOptions<'a> {
    /// Name of the container: appears in hooks' state, the keyring and, without `linux.cgroupsPath`, the cgroup.
    pub id: &'a str,
    /// The bundle folder; a relative `root.path` starts here, and hooks are told of it.
    pub bundle: &'a Path,
    /// The parsed `config.json`.
    pub spec: &'a Spec,
    /// Mounted over `root.path` inside the container's own mount namespace, in this order. Empty: `root.path` as it is.
    pub rootfs_mounts: &'a [RootfsMount],
    /// Where the first process reads and writes. Must be [`Stdio::Terminal`] exactly if `process.terminal` is true.
    pub stdio: Stdio,
    /// Initial terminal size as (columns, rows); wins over `process.consoleSize`.
    pub console_size: Option<(u16, u16)>,
    /// Folder of compiled seccomp programs shared by containers; made with mode 0700 if missing. `None`: no cache.
    pub seccomp_cache: Option<&'a Path>,
    /// Use `chroot` after moving the rootfs to `/` instead of `pivot_root` (for a root on the initial ramfs).
    pub no_pivot: bool,
    /// Stay in the caller's session keyring.
    pub no_new_keyring: bool,
    /// The first process waits at this gate rather than for [`crate::Container::start`], and outlives its creator.
    pub hand_over: Option<Handover>,
    /// So many open descriptors above stdio stay open in the program; all of them must be.
    pub preserve_fds: u32,
    /// What becomes the first process in the place of the process's own program.
    pub init: Option<FirstProgram>,
    /// Have systemd make the cgroups; `linux.cgroupsPath` is `slice:prefix:name` then, or empty.
    pub systemd_cgroup: bool,
    /// Called once the cgroups are made, before any process: who may be killed half-way keeps a [`crate::CgroupRecord`] of
    /// them. Its failure is the creation's.
    pub note_cgroups: Option<NoteCgroups<'a>>,
}

/// A program for the first process: a file that is sealed, or that no container can write to.
pub enum FirstProgram {
    /// It runs the process's own: it is given `NAME -- ` and the process's command line, and that program is looked for as
    /// ever.
    Runs(OwnedFd),
    /// It is all there is: it is given `NAME`, and nothing of the rootfs is looked for or run.
    Alone(OwnedFd),
}

/// What wants to know of new cgroups.
pub type NoteCgroups<'a> = &'a dyn Fn(&crate::cgroups::CgroupPaths) -> crate::Result<()>;

/// A mount as snapshotters describe it (containerd's `types.Mount`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootfsMount {
    /// `overlay`, `bind`, or any file system type.
    pub kind: String,
    /// Device or folder.
    pub source: String,
    /// Below the rootfs; normally empty.
    pub target: String,
    /// Options in the syntax of fstab, unknown ones passed to the file system.
    pub options: Vec<String>,
}

/// Where a process reads and writes.
pub enum Stdio {
    /// Three open files. Each becomes the process's fd 0, 1 and 2; the originals are closed once the process exists.
    Fds { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
    /// A new pseudo terminal of the container's own devpts; its master side is taken with `take_terminal`.
    Terminal,
}

/// One more process in a running container.
pub struct ExecOptions<'a> {
    /// The `process` part of a config. Its `capabilities`, `apparmorProfile`, … are used as they are: the caller has
    /// merged what should be inherited from the container's own.
    pub process: &'a ProcessSpec,
    /// As in [`CreateOptions::stdio`].
    pub stdio: Stdio,
    /// As in [`CreateOptions::console_size`].
    pub console_size: Option<(u16, u16)>,
    /// Also start the process although the container is paused (it then waits until the container is resumed).
    pub ignore_paused: bool,
    /// As in [`CreateOptions::preserve_fds`].
    pub preserve_fds: u32,
}
