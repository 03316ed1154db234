//! Running the steps, in the child. Nothing here allocates.

use super::channel::{Channel, Failure, How, Report};
use super::{Listener, Own, Plan, Request, Step, credentials, mounting, program, terminal};
use crate::sys::{SysResult, net, process, seccomp};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// What steps leave for later steps.
#[derive(Default)]
pub(crate) struct Child {
    /// The container's root; none in an exec, whose root is `/` already.
    pub(super) root: Option<OwnedFd>,
    /// A procfs of the runtime's own.
    procfs: Option<OwnedFd>,
    /// The open file of the security label.
    label: Option<OwnedFd>,
    /// The empty folder that masks folders, once it is mounted somewhere.
    pub(super) empty: Option<OwnedFd>,
    /// The host's null device.
    pub(super) null: Option<OwnedFd>,
    /// Which of the program's candidates was found.
    pub(super) found: usize,
}

/// Why a step failed.
pub(super) struct Trouble {
    pub(super) errno: i32,
    pub(super) detail: u32,
    pub(super) how: How,
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Trouble {
        Trouble { errno: errno.raw_os_error(), detail: 0, how: How::Errno }
    }
}

impl Trouble {
    /// Something that an attacker may have put there.
    pub(super) fn suspicious(errno: Errno) -> Trouble {
        Trouble { errno: errno.raw_os_error(), detail: 0, how: How::Suspicious }
    }
}

/// Everything the child does; ends by becoming the program, or with an exit code.
pub(crate) fn run(plan: &mut Plan, channel: &Channel, parents_end: BorrowedFd<'_>) -> i32 {
    // Never dropped: what it holds was closed by number in between.
    let mut child = std::mem::ManuallyDrop::new(Child::default());
    // The child must not hold the parent's end, or it would never see that the parent is gone.
    let parents_end = parents_end.as_raw_fd() as u32;
    // Nobody in the container may look into it until it is its program (CVE-2016-9962, CVE-2019-5736).
    let start = process::prctl(libc::PR_SET_DUMPABLE, 0)
        .and_then(|_| process::close_range(parents_end, parents_end))
        .and_then(|()| close_foreign(&plan.own, channel))
        .and_then(|()| process::reset_signals());
    if let Err(errno) = start {
        return fail(channel, 0, errno.into());
    }
    rustix::process::umask(Mode::empty());
    let Plan { steps, program, .. } = plan;
    follow(&mut child, steps, 0, program, channel)
}

/// Does the steps from `first` on.
fn follow(
    child: &mut Child,
    steps: &[Step],
    first: usize,
    program: &mut program::Program,
    channel: &Channel,
) -> i32 {
    for (index, step) in steps.iter().enumerate().skip(first) {
        let done = match step {
            Step::BeBorn { first, keep } => {
                let rest = || {
                    child.forget();
                    follow(child, steps, index + 1, program, channel)
                };
                match bear(*first, keep, channel, rest) {
                    Ok(()) => return 0,
                    Err(errno) => Err(errno.into()),
                }
            }
            step => child.step(step, program, channel),
        };
        if let Err(trouble) = done {
            return fail_late(&steps[..index], channel, index, trouble);
        }
    }
    255
}

/// Makes the process that does the rest, as a child of the parent's, and introduces it. It begins when the parent knows it.
fn bear(first: u32, keep: &[i32], channel: &Channel, rest: impl FnOnce() -> i32) -> SysResult<()> {
    close_fds(first, keep, channel)?;
    let born = process::spawn_sibling(0, None, || match channel.await_answer() {
        Ok(()) => rest(),
        Err(_) => 1,
    })?;
    channel.send_with(Report::Born, born.pidfd.as_fd())
}

/// Tells whoever opened the gate, if it is behind, or else the parent.
fn fail_late(done: &[Step], channel: &Channel, step: usize, trouble: Trouble) -> i32 {
    let gate = done.iter().find_map(|step| match step {
        Step::Wait(handover) => Some(handover),
        _ => None,
    });
    let Some(gate) = gate else { return fail(channel, step, trouble) };
    let Trouble { errno, detail, how } = trouble;
    gate.report(Failure { step: step as u32, errno, detail, how });
    1
}

/// Tells the parent, if it still listens, and names the exit code.
fn fail(channel: &Channel, step: usize, trouble: Trouble) -> i32 {
    let Trouble { errno, detail, how } = trouble;
    let _ = channel.send(Report::Failed(Failure { step: step as u32, errno, detail, how }));
    1
}

impl Child {
    /// Lets go of descriptors that were closed by number, without closing their numbers again.
    fn forget(&mut self) {
        let _ = std::mem::ManuallyDrop::new(std::mem::take(self));
    }

    /// The root of the container for looking up paths: a descriptor before the pivot, `/` afterwards.
    pub(super) fn with_root<T>(
        &self,
        run: impl FnOnce(BorrowedFd<'_>) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        match &self.root {
            Some(root) => run(root.as_fd()),
            None => {
                let root = rustix::fs::open(
                    c"/",
                    OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                run(root.as_fd())
            }
        }
    }

    /// Opens a file of the runtime's own procfs for writing, and of nothing that is mounted in it (CVE-2025-52881).
    fn open_proc(&self, path: &std::ffi::CStr) -> SysResult<OwnedFd> {
        let root = self.procfs.as_ref().ok_or(Errno::BADF)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(root, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    fn step(
        &mut self,
        step: &Step,
        program: &mut program::Program,
        channel: &Channel,
    ) -> Result<(), Trouble> {
        match step {
            Step::NewSession => rustix::process::setsid().map(drop)?,
            Step::JoinCgroup { tasks, .. } => write_all(tasks.as_fd(), b"0")?,
            Step::JoinNamespaces { fd, flags, .. } => process::setns(fd.as_fd(), *flags)?,
            Step::Unshare { flags } => process::unshare(*flags)?,
            Step::Ask(request) => ask(*request, channel)?,
            Step::BecomeRoot => credentials::become_root()?,
            Step::LoopbackUp => net::loopback_up()?,
            Step::Hostname(name) => rustix::system::sethostname(name.to_bytes())?,
            Step::Domainname(name) => rustix::system::setdomainname(name.to_bytes())?,
            // Never among the steps of one process: see `follow`.
            Step::BeBorn { .. } => return Err(Errno::INVAL.into()),
            Step::OwnProcfs => self.procfs = Some(super::channel::above_stdio(crate::procfs::open()?)?),
            Step::Procfs(fd) => self.procfs = Some(rustix::io::fcntl_dupfd_cloexec(fd, 3)?),
            Step::WriteProc { path, value } => {
                write_all(self.open_proc(path)?.as_fd(), value.to_bytes())?;
            }
            Step::OpenLabel { path } => {
                self.label = Some(super::channel::above_stdio(self.open_proc(path)?)?);
            }
            Step::SetLabel { value } => {
                write_all(self.label.as_ref().ok_or(Errno::BADF)?.as_fd(), value.to_bytes())?
            }
            Step::Propagation { flags } => crate::sys::mount::set_propagation(c"/", *flags)?,
            Step::AttachRoot { tree, at } => {
                self.root = Some(mounting::attach_root(tree.as_fd(), at.as_deref())?)
            }
            Step::Mount(mount) => self.mount(mount)?,
            Step::Remount { path, links, parameters, attr } => {
                self.remount(path, *links, parameters.as_ref(), attr)?
            }
            Step::SetAttributes { path, reach, attr } => self.set_attributes(path, *reach, attr)?,
            Step::MakeWorkingDirectory { path } => self.make_working_directory(path),
            Step::Device { path, mode, dev, uid, gid } => self.device(path, *mode, *dev, *uid, *gid)?,
            Step::Symlink { path, target, existing } => self.symlink(path, target, *existing)?,
            Step::Mask { path } => self.mask(path)?,
            Step::ReadOnly { path } => self.read_only(path)?,
            Step::Hooks(hooks) => hooks.run_inside()?,
            Step::ChangeRoot(root) => mounting::change_root(root.as_fd())?,
            Step::PivotRoot(how) => self.pivot(*how)?,
            Step::Terminal { columns, rows, uid, console } => {
                self.terminal(terminal::Size { columns: *columns, rows: *rows }, *uid, *console, channel)?
            }
            Step::Stdio { fds, uid } => terminal::use_as_stdio(fds, *uid)?,
            Step::CloseFds { first, keep } => close_fds(*first, keep, channel)?,
            Step::Keyring(name) => credentials::new_keyring(name)?,
            Step::Rlimit { resource, soft, hard, .. } => process::set_rlimit(*resource, *soft, *hard)?,
            Step::Umask(mask) => drop(rustix::process::umask(Mode::from_raw_mode(*mask))),
            Step::Personality(persona) => process::personality(*persona)?,
            Step::Scheduler(attr) => process::set_scheduler(attr)?,
            Step::IoPriority(value) => process::set_io_priority(*value)?,
            Step::Affinity(cpus) => rustix::thread::sched_setaffinity(None, cpus)?,
            Step::MemoryPolicy { mode, nodes } => process::set_memory_policy(*mode, nodes)?,
            Step::NoNewPrivileges => process::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)?,
            Step::Seccomp { program, flags, listener: Listener::None } => seccomp::load(program, *flags)?,
            Step::Seccomp { program, flags, listener: Listener::Parent } => {
                supervised(program, *flags, channel)?
            }
            Step::BoundingSet { keep } => credentials::shrink_bounding_set(*keep)?,
            Step::User { uid, gid, groups } => credentials::become_user(*uid, *gid, groups)?,
            Step::Capabilities { effective, permitted, inheritable, ambient } => {
                credentials::set_capabilities(*effective, *permitted, *inheritable, *ambient)?
            }
            Step::WorkingDirectory { path, missing, .. } => self.enter(path, *missing)?,
            Step::Home { uid } => self.find_home(*uid, program)?,
            Step::FindProgram => self.find_program(program)?,
            Step::Wait(handover) => {
                channel.send(Report::Ready)?;
                handover.wait()?
            }
            Step::Execute => return Err(self.execute(program).into()),
        }
        Ok(())
    }
}

fn ask(request: Request, channel: &Channel) -> SysResult<()> {
    channel.send(match request {
        Request::JoinCgroup => Report::JoinCgroup,
        Request::MapIds => Report::MapIds,
        Request::SetClocks => Report::SetClocks,
        Request::RunHooks => Report::RunHooks,
        Request::Gate => Report::Ready,
    })?;
    match channel.await_answer() {
        // The parent is gone or gave up: nobody is left to report to.
        Err(_) => process::exit(1),
        Ok(()) => Ok(()),
    }
}

/// Closes everything from `first` on except the channel and what is to be kept, so that neither the program's path nor its
/// working directory can be reached through a descriptor of the host.
fn close_fds(first: u32, keep: &[i32], channel: &Channel) -> SysResult<()> {
    let mut from = first;
    loop {
        let kept = keep.iter().copied().chain([channel.fd().as_raw_fd()]);
        let Some(next) = kept.map(|fd| fd as u32).filter(|fd| *fd >= from).min() else {
            return process::close_range(from, u32::MAX);
        };
        if next > from {
            process::close_range(from, next - 1)?;
        }
        from = next + 1;
    }
}

/// Closes what is neither the plan's nor the channel: in one pass, as the plan's descriptors are in order.
fn close_foreign(own: &Own, channel: &Channel) -> SysResult<()> {
    let channel = channel.fd().as_raw_fd().unsigned_abs();
    let mut from = own.first;
    let mut close_up_to = |kept: u32| -> SysResult<()> {
        if kept > from {
            process::close_range(from, kept - 1)?;
        }
        from = from.max(kept + 1);
        Ok(())
    };
    let mut channel_is_next = true;
    for kept in own.keep.iter().map(|fd| fd.unsigned_abs()) {
        if channel_is_next && channel < kept {
            channel_is_next = false;
            close_up_to(channel)?;
        }
        close_up_to(kept)?;
    }
    if channel_is_next {
        close_up_to(channel)?;
    }
    process::close_range(from, u32::MAX)
}

/// Loads a program that has a supervisor and waits until the parent has handed the listener to it.
fn supervised(program: &[seccomp::Instruction], flags: u32, channel: &Channel) -> SysResult<()> {
    let listener = seccomp::load_with_listener(program, flags)? as u32;
    channel.write(Report::Listener(listener as i32))?;
    match channel.await_answer() {
        Err(_) => process::exit(1),
        Ok(()) => process::close_range(listener, listener),
    }
}

/// Control files take a value in one write or not at all.
fn write_all(fd: BorrowedFd<'_>, value: &[u8]) -> SysResult<()> {
    match rustix::io::write(fd, value)? {
        n if n == value.len() => Ok(()),
        _ => Err(Errno::IO),
    }
}

impl From<crate::hooks::HookFailure> for Trouble {
    fn from(failure: crate::hooks::HookFailure) -> Trouble {
        Trouble { errno: failure.value, detail: failure.index, how: failure.how }
    }
}
