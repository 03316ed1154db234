//! What the container's first moments consist of: a list of steps that the parent prepares and the child runs.
//!
//! What always holds: the child only reads the prepared list; it allocates nothing, and tells the parent about a failure
//! by the number of the step and the kernel's errno. The parent owns the words ([`describe`]).

pub(crate) mod channel;
mod copy_up;
mod credentials;
pub(crate) mod describe;
mod mounting;
mod program;
pub(crate) use mounting::{clone_tree, configure};
pub(crate) use program::HOME_SLOT;
mod run;
mod terminal;

pub(crate) use run::run;

use crate::handover::Handover;
use crate::hooks::HookList;
use crate::paths::{Kind, Links};
use crate::sys::cstrings::CStrings;
use crate::sys::mount::{MountAttr, Reach};
use crate::sys::process::SchedAttr;
use crate::sys::seccomp::Instruction;
use rustix::fd::OwnedFd;
use std::ffi::CString;

/// Everything the child does, in order.
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) program: Program,
    pub(crate) own: Own,
}

/// The descriptors that a plan's child has from its parent besides the channel. All others are those of other containers,
/// whose ends nobody would hear of while the child has copies.
pub(crate) struct Own {
    /// All below, because the caller said so.
    first: u32,
    /// In ascending order.
    keep: Vec<i32>,
}

impl Plan {
    /// A plan whose child keeps descriptors below `first`.
    pub(crate) fn new(steps: Vec<Step>, program: Program, first: u32) -> Plan {
        use rustix::fd::AsRawFd;
        let init = program.init.as_ref().map(|init| init.file.as_raw_fd());
        let mut keep: Vec<i32> = steps.iter().flat_map(Step::fds).chain(init).collect();
        keep.sort_unstable();
        Plan { steps, program, own: Own { first, keep } }
    }

    /// Lets what later steps need outlive the birth of the process that does them.
    pub(crate) fn keep_over_birth(&mut self) {
        let needed: Vec<i32> = self.steps.iter().flat_map(Step::needs).collect();
        for step in &mut self.steps {
            if let Step::BeBorn { keep, .. } = step {
                keep.clone_from(&needed);
            }
        }
    }

    /// Lets go of the steps that the child has behind it, and with them of the parent's copies of descriptors.
    pub(crate) fn forget_done(&mut self) {
        let gate = self.steps.iter().position(Step::is_gate).unwrap_or(0);
        for step in &mut self.steps[..gate] {
            *step = Step::NewSession;
        }
    }
}

/// One thing that the child does.
pub(crate) enum Step {
    /// Becomes the leader of its own session.
    NewSession,
    /// Moves itself to a v1 cgroup by writing `0` to its `tasks` file: a thread that moves itself does not wait for an
    /// RCU grace period, unlike any write to `cgroup.procs`, and the child is one thread.
    JoinCgroup {
        tasks: OwnedFd,
        controllers: String,
    },
    /// Joins the namespaces behind a namespace file or pidfd.
    JoinNamespaces {
        fd: OwnedFd,
        flags: i32,
        what: String,
    },
    /// Makes the process that does the rest, now that everything is joined: those who share its process ids find nothing of
    /// the host in it, neither its files nor descriptors from `first` on that are not to be kept.
    BeBorn {
        first: u32,
        keep: Vec<i32>,
    },
    /// Makes further new namespaces.
    Unshare {
        flags: i32,
    },
    /// Tells the parent something and waits for its answer.
    Ask(Request),
    /// Becomes user and group 0 of the user namespace that it is in.
    BecomeRoot,
    /// Brings the loopback interface up.
    LoopbackUp,
    Hostname(CString),
    Domainname(CString),
    /// Remembers a procfs of the runtime's own for the next two kinds of steps.
    Procfs(OwnedFd),
    /// Makes it where the process is, and remembers it alike.
    OwnProcfs,
    /// Writes a file of that procfs.
    WriteProc {
        path: CString,
        value: CString,
    },
    /// Opens a file of that procfs that [`Step::SetLabel`] writes later.
    OpenLabel {
        path: CString,
    },
    /// Sets the security label for the next program.
    SetLabel {
        value: CString,
    },
    /// Changes the propagation of `/` and all below.
    Propagation {
        flags: u64,
    },
    /// Attaches the rootfs at this path of the host, if there is one, and remembers it as the root of later steps.
    AttachRoot {
        tree: OwnedFd,
        at: Option<CString>,
    },
    /// Makes the folder the process's root.
    ChangeRoot(OwnedFd),
    /// Mounts something inside the root.
    Mount(Mount),
    /// Changes what is mounted at a path inside the root: its file system, if there are parameters for it, and the mount.
    Remount {
        path: CString,
        links: Links,
        parameters: Option<Parameters>,
        attr: MountAttr,
    },
    /// Changes mount attributes at a path inside the root.
    SetAttributes {
        path: CString,
        reach: Reach,
        attr: MountAttr,
    },
    /// Makes a device node inside the root.
    Device {
        path: CString,
        mode: u32,
        dev: u64,
        uid: u32,
        gid: u32,
    },
    /// Makes a symbolic link inside the root.
    Symlink {
        path: CString,
        target: CString,
        existing: Existing,
    },
    /// Hides a path inside the root under an empty folder or `/dev/null`.
    Mask {
        path: CString,
    },
    /// Makes a path inside the root read-only with all that is below.
    ReadOnly {
        path: CString,
    },
    /// Runs hooks as children of the container's init.
    Hooks(HookList),
    /// Makes the root the process's root and lets go of the host's files.
    PivotRoot(Pivot),
    /// Opens a terminal of the container's devpts, hands its master side to the parent and uses it as stdio.
    Terminal {
        columns: u16,
        rows: u16,
        uid: u32,
        console: Console,
    },
    /// Uses three descriptors of the parent as stdio and gives them to the container's user.
    Stdio {
        fds: [OwnedFd; 3],
        uid: u32,
    },
    /// Closes every descriptor from `first` on, except the channel to the parent and those to be kept.
    CloseFds {
        first: u32,
        keep: Vec<i32>,
    },
    Keyring(CString),
    Rlimit {
        resource: u32,
        name: &'static str,
        soft: u64,
        hard: u64,
    },
    Umask(u32),
    Personality(u64),
    Scheduler(SchedAttr),
    IoPriority(i32),
    Affinity(Box<rustix::thread::CpuSet>),
    /// NUMA policy: mode with flags, nodes as a bit mask.
    MemoryPolicy {
        mode: i32,
        nodes: Vec<libc::c_ulong>,
    },
    NoNewPrivileges,
    Seccomp {
        program: Vec<Instruction>,
        flags: u32,
        listener: Listener,
    },
    /// Drops what is not in this mask from the bounding set.
    BoundingSet {
        keep: u64,
    },
    /// Switches to the container's user, keeping capabilities for the next step.
    User {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
    },
    Capabilities {
        effective: u64,
        permitted: u64,
        inheritable: u64,
        ambient: u64,
    },
    /// Makes the working directory inside the root if it is missing; what stands in the way is for
    /// [`Step::WorkingDirectory`] to report.
    MakeWorkingDirectory {
        path: CString,
    },
    /// Enters the working directory inside the root.
    WorkingDirectory {
        path: CString,
        shown: String,
        missing: Missing,
    },
    /// Fills in `HOME` from the container's passwd file.
    Home {
        uid: u32,
    },
    /// Looks for the program inside the root.
    FindProgram,
    /// Tells the parent that everything is ready, and waits at a gate that anybody with access to it may open.
    Wait(Handover),
    /// Executes the program.
    Execute,
}

impl Step {
    /// Every descriptor of the parent that is in it.
    fn fds(&self) -> Vec<i32> {
        use rustix::fd::AsRawFd;
        match self {
            Step::JoinCgroup { tasks: fd, .. }
            | Step::JoinNamespaces { fd, .. }
            | Step::Procfs(fd)
            | Step::AttachRoot { tree: fd, .. }
            | Step::ChangeRoot(fd)
            | Step::Mount(Mount { source: Source::Tree(fd), .. }) => vec![fd.as_raw_fd()],
            Step::Stdio { .. } | Step::Wait(_) => self.needs(),
            Step::NewSession
            | Step::BeBorn { .. }
            | Step::Unshare { .. }
            | Step::Ask(_)
            | Step::BecomeRoot
            | Step::LoopbackUp
            | Step::Hostname(_)
            | Step::Domainname(_)
            | Step::OwnProcfs
            | Step::WriteProc { .. }
            | Step::OpenLabel { .. }
            | Step::SetLabel { .. }
            | Step::Propagation { .. }
            | Step::Mount(Mount { source: Source::New { .. }, .. })
            | Step::Remount { .. }
            | Step::SetAttributes { .. }
            | Step::Device { .. }
            | Step::Symlink { .. }
            | Step::Mask { .. }
            | Step::ReadOnly { .. }
            | Step::Hooks(_)
            | Step::PivotRoot(_)
            | Step::Terminal { .. }
            | Step::CloseFds { .. }
            | Step::Keyring(_)
            | Step::Rlimit { .. }
            | Step::Umask(_)
            | Step::Personality(_)
            | Step::Scheduler(_)
            | Step::IoPriority(_)
            | Step::Affinity(_)
            | Step::MemoryPolicy { .. }
            | Step::NoNewPrivileges
            | Step::Seccomp { .. }
            | Step::BoundingSet { .. }
            | Step::User { .. }
            | Step::Capabilities { .. }
            | Step::MakeWorkingDirectory { .. }
            | Step::WorkingDirectory { .. }
            | Step::Home { .. }
            | Step::FindProgram
            | Step::Execute => Vec::new(),
        }
    }

    /// Descriptors of the parent that it needs after a birth.
    fn needs(&self) -> Vec<i32> {
        use rustix::fd::AsRawFd;
        match self {
            Step::Stdio { fds, .. } => fds.iter().map(AsRawFd::as_raw_fd).collect(),
            Step::Wait(handover) => handover.fds().to_vec(),
            _ => Vec::new(),
        }
    }

    /// Whether everything before it belongs to `create`, and everything after it to `start`.
    pub(crate) fn is_gate(&self) -> bool {
        matches!(self, Step::Ask(Request::Gate) | Step::Wait(_))
    }
}

/// What the child asks of the parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Move the process to the container's cgroups.
    JoinCgroup,
    /// Write the id maps of the new user namespace.
    MapIds,
    /// Write the clock offsets of the new time namespace.
    SetClocks,
    /// Run the hooks that run in the host's namespaces.
    RunHooks,
    /// Everything is ready: open the gate when the container is started.
    Gate,
}

/// What a symbolic link does about a name that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    Keep,
    Replace,
}

/// How the root becomes the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pivot {
    /// By `pivot_root`; the host's mounts are unmounted.
    Swap,
    /// Move the root over `/` and `chroot`.
    MoveAndChroot,
    /// Only `chroot`: the root is attached nowhere.
    Chroot,
}

/// Whether a working directory is made if it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Create,
    Fail,
}

/// Whether the terminal is also bound to `/dev/console`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Console {
    Bind,
    No,
}

/// Whether a seccomp program has a supervisor, to whom the parent hands the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    None,
    Parent,
}

/// What a new file system has in the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// What the kernel gives it.
    Empty,
    /// The mode of the folder that it hides.
    Mode,
    /// Copies of what it hides.
    Contents,
    ModeAndContents,
}

/// Keys and values for `fsconfig`.
pub(crate) type Parameters = Vec<(CString, Option<CString>)>;

/// A mount inside the root.
pub(crate) struct Mount {
    pub(crate) source: Source,
    /// Relative to the root.
    pub(crate) target: CString,
    pub(crate) kind: Kind,
    pub(crate) links: Links,
    /// Attributes of the mount itself.
    pub(crate) attr: MountAttr,
    /// Attributes of the mount and all below it.
    pub(crate) recursive: MountAttr,
    pub(crate) start: Start,
    /// For error texts: type and source as the config has them.
    pub(crate) shown: String,
}

/// Where a mount's files come from.
pub(crate) enum Source {
    /// A mount that the parent has prepared.
    Tree(OwnedFd),
    /// A file system that must be made in the container's namespaces.
    New { kind: CString, parameters: Parameters },
}

/// The program to execute and what it gets.
pub(crate) struct Program {
    /// As in `process.args[0]`.
    pub(crate) name: String,
    /// Where to look, in order.
    pub(crate) candidates: Vec<CString>,
    pub(crate) argv: CStrings,
    pub(crate) envp: CStrings,
    pub(crate) init: Option<Init>,
}

/// What becomes the first process in the program's place.
pub(crate) struct Init {
    pub(crate) file: OwnedFd,
    pub(crate) argv: CStrings,
    /// Whether it does not run the program either.
    pub(crate) alone: bool,
}
