//! The words for what a step does and for how it failed. Runs in the parent only.

use super::channel::{Failure, How};
use super::{Listener, Plan, Program, Step};
use crate::Error;
use crate::error::errno_text;
use std::ffi::CStr;

impl Plan {
    /// The error for a failure that the child reported.
    pub(crate) fn error(&self, failure: Failure) -> Error {
        let Some(step) = self.steps.get(failure.step as usize) else {
            return Error::Init { doing: "set up the process".into(), errno: failure.errno, hint: "" };
        };
        match step {
            Step::FindProgram => self.program.not_found(failure.errno),
            Step::Execute => not_executable(&self.program.name, failure.errno),
            Step::Hooks(hooks) => hooks.error(crate::hooks::HookFailure {
                index: failure.detail,
                how: failure.how,
                value: failure.errno,
            }),
            step => Error::Init { doing: doing(step), errno: failure.errno, hint: hint(step, &failure) },
        }
    }
}

impl Program {
    fn not_found(&self, errno: i32) -> Error {
        let name = &self.name;
        let message = match errno {
            libc::ENOENT if name.contains('/') => {
                format!("exec: {name:?}: stat {name}: no such file or directory")
            }
            libc::ENOENT => format!("exec: {name:?}: executable file not found in $PATH"),
            libc::ENOTDIR => format!("exec: {name:?}: stat {name}: not a directory"),
            errno => format!("exec: {name:?}: {}", errno_text(errno)),
        };
        Error::Exec { path: name.clone(), errno, message }
    }
}

/// The error of a program that `execve` refused.
pub(crate) fn not_executable(name: &str, errno: i32) -> Error {
    let message = format!("exec {name}: {}", errno_text(errno));
    Error::Exec { path: name.into(), errno, message }
}

fn show(text: &CStr) -> std::borrow::Cow<'_, str> {
    text.to_string_lossy()
}

fn inside(text: &CStr) -> String {
    format!("/{}", show(text).trim_start_matches('.'))
}

pub(crate) fn doing(step: &Step) -> String {
    match step {
        Step::NewSession => "start a session".into(),
        Step::JoinCgroup { controllers, .. } => format!("join the {controllers} cgroup"),
        Step::JoinNamespaces { what, .. } => format!("join {what}"),
        Step::Unshare { flags } => format!("make new namespaces (flags {flags:#x})"),
        Step::Ask(_) | Step::Wait(_) => "wait for the runtime".into(),
        Step::BecomeRoot => "become root of the user namespace (is container id 0 mapped?)".into(),
        Step::LoopbackUp => "bring the loopback interface up".into(),
        Step::Hostname(name) => format!("set the host name {:?}", show(name)),
        Step::Domainname(name) => format!("set the domain name {:?}", show(name)),
        Step::BeBorn { .. } => "clone the process into the container".into(),
        Step::Procfs(_) => "use the runtime's procfs".into(),
        Step::OwnProcfs => "make a procfs of the runtime's own in the container".into(),
        Step::WriteProc { path, value } => format!("write {:?} to /proc/{}", show(value), show(path)),
        Step::OpenLabel { path } => format!("open /proc/{}", show(path)),
        Step::SetLabel { value } => format!("set the security label {:?}", show(value)),
        Step::Propagation { flags } => format!("set the propagation of the mount tree (flags {flags:#x})"),
        Step::AttachRoot { at: Some(at), .. } => format!("mount the rootfs at {:?}", show(at)),
        Step::AttachRoot { at: None, .. } => "use the rootfs".into(),
        Step::ChangeRoot(_) => "change to the container's root".into(),
        Step::Mount(mount) => format!("mount {} at {:?}", mount.shown, inside(&mount.target)),
        Step::Remount { path, .. } => format!("remount {:?}", inside(path)),
        Step::SetAttributes { path, .. } => format!("change the mount attributes of {:?}", inside(path)),
        Step::MakeWorkingDirectory { path } => format!("make the folder {:?}", inside(path)),
        Step::Device { path, .. } => format!("make the device {:?}", inside(path)),
        Step::Symlink { path, target, .. } => {
            format!("make the link {:?} to {:?}", inside(path), show(target))
        }
        Step::Mask { path } => format!("mask {:?}", inside(path)),
        Step::ReadOnly { path } => format!("make {:?} read-only", inside(path)),
        Step::Hooks(hooks) => format!("run {} hooks", hooks.moment.field()),
        Step::PivotRoot(_) => "pivot_root into the rootfs".into(),
        Step::Terminal { .. } => "open a terminal at \"/dev/pts/ptmx\"".into(),
        Step::Stdio { .. } => "set up stdin, stdout and stderr".into(),
        Step::CloseFds { .. } => "close inherited file descriptors".into(),
        Step::Keyring(name) => format!("start the session keyring {:?}", show(name)),
        Step::Rlimit { name, soft, hard, .. } => format!("set rlimit {name} to soft {soft}, hard {hard}"),
        Step::Umask(mask) => format!("set the umask {mask:04o}"),
        Step::Personality(persona) => format!("set the personality {persona:#x}"),
        Step::Scheduler(attr) => format!("set the scheduling policy {}", attr.policy),
        Step::IoPriority(value) => format!("set the I/O priority {value:#x}"),
        Step::Affinity(_) => "set the CPU affinity".into(),
        Step::MemoryPolicy { mode, .. } => format!("set linux.memoryPolicy (mode {mode:#x})"),
        Step::NoNewPrivileges => "set no_new_privs".into(),
        Step::Seccomp { program, .. } => format!("load the seccomp program ({} instructions)", program.len()),
        Step::BoundingSet { .. } => "drop capabilities from the bounding set".into(),
        Step::User { uid, gid, groups } if groups.len() > 32 => {
            format!("become user {uid}:{gid} with {} groups", groups.len())
        }
        Step::User { uid, gid, groups } => format!("become user {uid}:{gid} with groups {groups:?}"),
        Step::Capabilities { .. } => "set the capabilities".into(),
        Step::WorkingDirectory { shown, .. } => format!("chdir to cwd ({shown:?}) set in config.json failed"),
        Step::Home { .. } => "find the home directory".into(),
        Step::FindProgram => "find the program".into(),
        Step::Execute => "execute the program".into(),
    }
}

/// What the user can do about it, where that is known.
fn hint(step: &Step, failure: &Failure) -> &'static str {
    let errno = failure.errno;
    match step {
        Step::Rlimit { .. } if errno == libc::EPERM => {
            "; the runtime lacks CAP_SYS_RESOURCE, so a limit cannot be raised above the hard limit that it inherited"
        }
        Step::Device { .. } if failure.how == How::Suspicious => {
            "; the rootfs has something else of that name, which is not safe to use"
        }
        Step::Mask { .. } if failure.how == How::Suspicious => {
            "; the host's /dev/null is not the null device"
        }
        Step::Terminal { .. } if errno == libc::ENOENT => "; a terminal needs a devpts mount at /dev/pts",
        Step::Terminal { .. } if failure.how == How::Suspicious => {
            "; /dev/pts/ptmx is not the device of a devpts mount"
        }
        Step::Terminal { .. } if errno == libc::ELOOP => "; /dev must not be a symbolic link in the rootfs",
        Step::Mount(_) | Step::Device { .. } | Step::Symlink { .. } if errno == libc::ELOOP => {
            "; a symbolic link in the rootfs leads there, which is not safe to follow"
        }
        Step::Mount(_) if errno == libc::ENOTDIR => "; the target in the rootfs must be a folder",
        Step::Remount { .. } if errno == libc::EINVAL => {
            "; an earlier mount must be there, and its file system must know the options"
        }
        Step::Scheduler(_) if matches!(errno, libc::EPERM | libc::EBUSY) => {
            "; real-time and deadline policies need CAP_SYS_NICE, and deadlines a cpuset with whole scheduling domains"
        }
        Step::Scheduler(_) if errno == libc::EOPNOTSUPP => {
            "; this kernel is built without CONFIG_UCLAMP_TASK, so utilisation cannot be clamped"
        }
        Step::MemoryPolicy { .. } if errno == libc::ENOSYS => "; this kernel is built without CONFIG_NUMA",
        Step::MemoryPolicy { .. } if errno == libc::EINVAL => {
            "; the host or the container's cpuset lacks those memory nodes, or the kernel that mode"
        }
        Step::Seccomp { listener: Listener::Parent, .. } if errno == libc::EBUSY => {
            "; this process has a supervisor already, and there can be one only"
        }
        Step::Unshare { flags: libc::CLONE_NEWTIME } => "; linux.namespaces asks for a time namespace",
        Step::Propagation { .. } | Step::AttachRoot { .. } if errno == libc::EPERM => {
            "; the runtime needs CAP_SYS_ADMIN over the container's mount namespace"
        }
        Step::JoinCgroup { .. } if errno == libc::ENOSPC => "; its cpuset has no processor or memory node",
        _ => "",
    }
}
