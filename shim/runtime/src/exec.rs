//! One more process in a running container.
//!
//! What always holds: whoever shares the container's process ids sees it only when it has nothing of the host any more. A
//! first process joins the cgroups and namespaces where nobody of the container can see it, and makes the one that
//! stays.

use crate::capabilities::Origin;
use crate::cgroups::CgroupPaths;
use crate::create::{Setup, keyring, set_oom_score};
use crate::init::channel::{self, Report};
use crate::init::{self, Console, Missing, Plan, Step};
use crate::scheduling::ExecAffinity;
use crate::seccomp_agent::Agent;
use crate::sys::process as sys;
use crate::{Container, Error, ExecOptions, Process, Result, patience, process};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::sync::Arc;
use std::time::Duration;

/// How long a process may take from its birth to its gate, and from there to its program: others in the container could hold
/// it up, and with it whoever made it.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn exec(container: &mut Container, options: ExecOptions<'_>) -> Result<Process> {
    let making = Making::of(container, options)?;
    let rdt = container.rdt.as_ref();
    let join = |pid| rdt.map_or(Ok(()), |group| group.add(pid));
    let (process, mut warnings) = making.make(container.init.pidfd.as_fd(), join)?;
    container.warnings.append(&mut warnings);
    Ok(process)
}

/// One more process of a container, which is not made yet: that may take as long as others in the container hold it up, and is
/// to be done by a thread of the caller's, who keeps the container meanwhile.
pub struct Addition {
    making: Making,
    /// The container's first process.
    init: OwnedFd,
}

impl Addition {
    pub(crate) fn of(container: &Container, options: ExecOptions<'_>) -> Result<Addition> {
        let making = Making::of(container, options)?;
        let init = container.init.pidfd.try_clone();
        let init =
            init.map_err(|source| Error::System { doing: "duplicate the container's pidfd", source })?;
        Ok(Addition { making, init })
    }

    /// As [`Container::exec`], with what could not be done as asked.
    ///
    /// # Errors
    /// As [`Container::exec`].
    pub fn run(self) -> Result<(Process, Vec<String>)> {
        self.making.make(self.init.as_fd(), |_| Ok(()))
    }
}

/// Everything that a process is made from but its container.
struct Making {
    plan: Plan,
    affinity: ExecAffinity,
    cgroups: Arc<CgroupPaths>,
    agent: Option<Agent>,
    oom_score: Option<i32>,
    /// Whether the process that stays is made by the first one.
    is_born_inside: bool,
    patience: Option<Duration>,
    warnings: Vec<String>,
}

impl Making {
    fn of(container: &Container, options: ExecOptions<'_>) -> Result<Making> {
        if !options.ignore_paused && container.cgroups.is_frozen() {
            return Err(Error::WrongState { operation: "exec in", state: "paused" });
        }
        let mut warnings = Vec::new();
        let oom_score = options.process.oom_score_adj();
        let affinity = ExecAffinity::of(options.process)?;
        // Who goes on in a paused container waits for its end.
        let patience = (!options.ignore_paused).then_some(PATIENCE);
        let plan = plan(container, options, &affinity, &mut warnings)?;
        Ok(Making {
            plan,
            affinity,
            cgroups: container.cgroups.clone(),
            agent: container.seccomp.as_ref().and_then(|seccomp| seccomp.agent.clone()),
            oom_score,
            is_born_inside: container.namespaces & libc::CLONE_NEWPID != 0,
            patience,
            warnings,
        })
    }

    /// `init` is the pidfd of the container's first process.
    fn make(self, init: BorrowedFd<'_>, join: impl Fn(i32) -> Result<()>) -> Result<(Process, Vec<String>)> {
        let Making { mut plan, affinity, cgroups, agent, oom_score, is_born_inside, .. } = self;
        let mut warnings = self.warnings;
        let system = |doing| move |errno: Errno| Error::System { doing, source: errno.into() };
        let ends = || channel::pair().map_err(system("make a channel to the process"));
        let group = cgroups.v2_to_be_born_in().map(|group| group.dir());
        let (ours, child) = channel::with_child(ends, |ours, theirs| {
            affinity.spawn(|| {
                sys::spawn(0, group, || init::run(&mut plan, theirs, ours.fd()))
                    .map_err(system("clone the process"))
            })
        })?;
        let mut adjust = |pid| {
            if let Some(value) = oom_score {
                set_oom_score(pid, value, &mut warnings)?;
            }
            join(pid)
        };
        if !is_born_inside {
            adjust(child.pid)?;
        }
        let mut setup = Setup::new(ours, child, plan, agent, "running").within(self.patience);
        let ready = setup.converse(|report, pid| match report {
            Report::JoinCgroup => cgroups.attach(pid),
            Report::Born => adjust(pid),
            _ => Ok(()),
        });
        if let Err(error) = ready {
            // A container that ended meanwhile has no namespaces to join.
            return Err(match patience::has_ended(init) {
                true => Error::NotRunning,
                false => error,
            });
        }
        Ok((setup.finish()?, warnings))
    }
}

fn plan(
    container: &Container,
    options: ExecOptions<'_>,
    affinity: &ExecAffinity,
    warnings: &mut Vec<String>,
) -> Result<Plan> {
    let mut steps = Vec::with_capacity(32);
    let preserve_fds = options.preserve_fds;
    steps.extend(container.cgroups.plan_joins()?);
    affinity.plan(&mut steps);
    let user_namespace = container.namespaces & libc::CLONE_NEWUSER != 0 || crate::rootless::is_rootless();
    for flags in join_order(container.namespaces) {
        let pidfd = container.init.pidfd.try_clone();
        let fd =
            pidfd.map_err(|source| Error::System { doing: "duplicate the container's pidfd", source })?;
        steps.push(Step::JoinNamespaces { fd, flags, what: "the container's namespaces".into() });
    }
    if container.namespaces & libc::CLONE_NEWNS == 0 {
        steps.push(Step::ChangeRoot(root_of(container)?));
    }
    if container.namespaces & libc::CLONE_NEWPID != 0 {
        steps.push(Step::BeBorn { first: 3 + preserve_fds, keep: Vec::new() });
    }
    steps.push(Step::NewSession);
    process::plan_early(options.process, &mut steps)?;
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
        preserve_fds,
        init: None,
        last: None,
    };
    let mut plan = process::plan(steps, context, warnings)?;
    plan.keep_over_birth();
    Ok(plan)
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
