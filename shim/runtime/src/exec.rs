//! One more process in a running container: born in its pid namespace, moved to its cgroups, then to its namespaces.

use crate::capabilities::Origin;
use crate::create::{Setup, keyring, set_oom_score};
use crate::init::channel::{self, Report};
use crate::init::{self, Console, Missing, Plan, Step};
use crate::namespaces::born_in;
use crate::scheduling::ExecAffinity;
use crate::sys::process as sys;
use crate::{Container, Error, ExecOptions, Process, Result, process};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};

pub(crate) fn exec(container: &mut Container, options: ExecOptions<'_>) -> Result<Process> {
    if !options.ignore_paused && container.cgroups.is_frozen() {
        return Err(Error::WrongState { operation: "exec in", state: "paused" });
    }
    let mut warnings = Vec::new();
    let process = options.process;
    let affinity = ExecAffinity::of(process)?;
    let mut plan = plan(container, options, &affinity, &mut warnings)?;
    let (ours, theirs) = channel::pair()
        .map_err(|errno| Error::System { doing: "make a channel to the process", source: errno.into() })?;
    let group = container.cgroups.v2_to_be_born_in().map(|group| group.dir());
    let mut spawn = || {
        sys::spawn(0, group, || init::run(&mut plan, &theirs, ours.fd()))
            .map_err(|errno| Error::System { doing: "clone the process", source: errno.into() })
    };
    let child = affinity.spawn(|| match container.namespaces & libc::CLONE_NEWPID {
        0 => spawn(),
        _ => born_in(container.init.pidfd.as_fd(), spawn),
    })?;
    drop(theirs);
    let pid = child.pid;
    let agent = container.seccomp.as_ref().and_then(|seccomp| seccomp.agent.clone());
    let mut setup = Setup::new(ours, child, plan, agent, "running");
    if let Some(value) = process.oom_score_adj() {
        set_oom_score(pid, value, &mut warnings)?;
    }
    if let Some(group) = &container.rdt {
        group.add(pid)?;
    }
    let cgroups = &container.cgroups;
    setup.converse(|report, pid| match report {
        Report::JoinCgroup => cgroups.attach(pid),
        _ => Ok(()),
    })?;
    container.warnings.append(&mut warnings);
    setup.finish()
}

fn plan(
    container: &Container,
    options: ExecOptions<'_>,
    affinity: &ExecAffinity,
    warnings: &mut Vec<String>,
) -> Result<Plan> {
    let mut steps = Vec::with_capacity(32);
    steps.push(Step::NewSession);
    steps.extend(container.cgroups.plan_joins()?);
    affinity.plan(&mut steps);
    process::plan_early(options.process, &mut steps)?;
    let user_namespace = container.namespaces & libc::CLONE_NEWUSER != 0 || crate::rootless::is_rootless();
    for flags in join_order(container.namespaces & !libc::CLONE_NEWPID) {
        let pidfd = container.init.pidfd.try_clone();
        let fd =
            pidfd.map_err(|source| Error::System { doing: "duplicate the container's pidfd", source })?;
        steps.push(Step::JoinNamespaces { fd, flags, what: "the container's namespaces".into() });
    }
    if container.namespaces & libc::CLONE_NEWNS == 0 {
        steps.push(Step::ChangeRoot(root_of(container)?));
    }
    if user_namespace {
        steps.push(Step::BecomeRoot);
    }
    let seccomp = container.seccomp.as_ref().map(|seccomp| Step::Seccomp {
        program: seccomp.program.clone(),
        flags: seccomp.flags,
        listener: seccomp.listener,
    });
    let context = process::Context {
        process: options.process,
        stdio: options.stdio,
        console_size: options.console_size,
        console: Console::No,
        seccomp,
        keyring: keyring(&container.id, container.new_keyring)?,
        personality: container.personality,
        memory_policy: container.memory_policy.as_ref(),
        working_directory: Missing::Fail,
        origin: if user_namespace { Origin::UserNamespace } else { Origin::Runtime },
        after_stdio: Vec::new(),
        hand_over: None,
        preserve_fds: options.preserve_fds,
        last: None,
    };
    process::plan(steps, context, warnings)
}

/// The root of a container that has the host's mount namespace.
fn root_of(container: &Container) -> Result<OwnedFd> {
    let path = format!("/proc/{}/root", container.init.pid);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| Error::Io {
        doing: "open the container's root",
        path: path.into(),
        source: errno.into(),
    })?;
    // It was this container's if the first process, which is asked by its descriptor, still lives.
    container.init.kill(0).map(|()| root)
}

/// The user namespace comes last where the runtime has privileges that the container's user namespace lacks: others may
/// belong to the host or to a pod. Without them it is what gives the right to join the others.
fn join_order(flags: i32) -> impl Iterator<Item = i32> {
    let privileged = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
    let (first, second) = match privileged && flags & libc::CLONE_NEWUSER != 0 {
        true => (flags & !libc::CLONE_NEWUSER, libc::CLONE_NEWUSER),
        false => (flags, 0),
    };
    [first, second].into_iter().filter(|flags| *flags != 0)
}
