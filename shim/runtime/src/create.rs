//! Making a container: everything is planned and prepared first, then one `clone3`, then the child runs its steps while
//! the parent answers what it asks.

use crate::capabilities::Origin;
use crate::cgroups::{CgroupPaths, Manager, Placeholder};
use crate::container::{Gate, SeccompProgram};
use crate::devices::{self, Making};
use crate::hooks::{self, About, HookList, Moment};
use crate::idmapped::IdMaps;
use crate::init::channel::{self, Channel, Report};
use crate::init::{self, Console, Listener, Missing, Pivot, Plan, Request, Step};
use crate::namespaces::{self, Namespaces};
use crate::net_devices::{Moved, NetDevices};
use crate::patience::{self, Heard, Patience};
use crate::rootfs::Place;
use crate::seccomp_agent::Agent;
use crate::sys::mount::{MountAttr, Reach};
use crate::sys::process::{self as sys, Exit, Reap};
use crate::{
    Container, CreateOptions, Error, Process, Result, intel_rdt, mounts, process, rootfs, scheduling, seccomp,
};
use oci_spec::runtime::{Linux, Process as ProcessSpec, Spec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::path::PathBuf;
use std::time::Duration;

/// How long a process whose namespaces are gone may take to end.
const GOING: Duration = Duration::from_millis(200);

fn invalid(field: &str, why: impl Into<String>) -> Error {
    Error::InvalidSpec { field: field.into(), why: why.into() }
}

pub(crate) fn create(options: CreateOptions<'_>) -> Result<Container> {
    let (linux, process) = check(&options)?;
    // The child starts as a copy of this process: nobody in the container may look into it (CVE-2016-9962, CVE-2019-5736).
    let _ = sys::prctl(libc::PR_SET_DUMPABLE, 0);
    let namespaces = Namespaces::plan(linux)?;
    let namespace_flags = namespaces.flags();
    let about =
        About { id: options.id, bundle: options.bundle, annotations: options.spec.annotations().as_ref() };
    let (seccomp, agent) = plan_seccomp(linux, options.seccomp_cache, &about)?;
    let hooks = Hooks::prepare(&options)?;
    let devices = NetDevices::plan(linux, &namespaces)?;
    let rdt = intel_rdt::plan(linux, options.id)?;
    let manager = if options.systemd_cgroup { Manager::Systemd } else { Manager::Files };
    let (cgroups, placeholder) = CgroupPaths::create(options.spec, options.id, manager)?;
    let cgroups = Undo { cgroups: Some(cgroups), placeholder };
    if let Some(note) = options.note_cgroups {
        note(cgroups.get()?)?;
    }
    cgroups.get()?.enable_usual_controllers()?;
    let mut warnings = cgroups.get()?.limit_new(linux.resources().as_ref())?;
    let rootless = crate::rootless::is_rootless();
    let mut builder = Builder {
        options,
        linux,
        process,
        namespaces,
        seccomp,
        agent,
        devices,
        rdt,
        hooks,
        rootless,
        birthplace: None,
        namespace_flags,
    };
    builder.choose_birth();
    builder.build(cgroups, &mut warnings).map(|mut container| {
        container.warnings = warnings;
        container
    })
}

fn plan_seccomp(
    linux: &Linux,
    cache: Option<&std::path::Path>,
    about: &About<'_>,
) -> Result<(Option<Step>, Option<Agent>)> {
    let Some(profile) = linux.seccomp() else { return Ok((None, None)) };
    let agent = Agent::of(profile, about)?;
    let listener = if agent.is_some() { Listener::Parent } else { Listener::None };
    Ok((Some(seccomp::plan(profile, cache, listener)?), agent))
}

/// Cgroups that are removed again unless the container comes to be.
struct Undo {
    cgroups: Option<CgroupPaths>,
    /// Goes first: cgroups with a process in them cannot be removed.
    placeholder: Option<Placeholder>,
}

impl Undo {
    fn get(&self) -> Result<&CgroupPaths> {
        self.cgroups.as_ref().ok_or(Error::NotRunning)
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        drop(self.placeholder.take());
        if let Some(cgroups) = &self.cgroups {
            let _ = cgroups.remove();
        }
    }
}

/// Refuses what cannot be, and what is not built, before anything is made.
fn check<'a>(options: &CreateOptions<'a>) -> Result<(&'a Linux, &'a ProcessSpec)> {
    let spec: &'a Spec = options.spec;
    let version = spec.version();
    if !version.is_empty() && !version.starts_with("1.") {
        return Err(invalid("ociVersion", format!("{version:?} is not 1.x")));
    }
    let linux = spec.linux().as_ref().ok_or_else(|| invalid("linux", "is missing"))?;
    let process = spec.process().as_ref().ok_or_else(|| invalid("process", "is missing"))?;
    Ok((linux, process))
}

/// The hooks of every moment.
struct Hooks {
    runtime: Vec<HookList>,
    create_container: Option<HookList>,
    start_container: Option<HookList>,
    poststart: Option<HookList>,
    poststop: Option<HookList>,
}

impl Hooks {
    fn prepare(options: &CreateOptions<'_>) -> Result<Hooks> {
        let about = About {
            id: options.id,
            bundle: options.bundle,
            annotations: options.spec.annotations().as_ref(),
        };
        let spec = options.spec.hooks().as_ref();
        #[allow(deprecated)]
        let prestart = spec.and_then(|hooks| hooks.prestart().as_ref());
        let prestart = hooks::prepare(Moment::Prestart, prestart, &about)?;
        let of = |moment| {
            let list = spec.and_then(|hooks| match moment {
                Moment::CreateRuntime => hooks.create_runtime().as_ref(),
                Moment::CreateContainer => hooks.create_container().as_ref(),
                Moment::StartContainer => hooks.start_container().as_ref(),
                Moment::Poststart => hooks.poststart().as_ref(),
                _ => hooks.poststop().as_ref(),
            });
            hooks::prepare(moment, list, &about)
        };
        Ok(Hooks {
            runtime: prestart.into_iter().chain(of(Moment::CreateRuntime)?).collect(),
            create_container: of(Moment::CreateContainer)?,
            start_container: of(Moment::StartContainer)?,
            poststart: of(Moment::Poststart)?,
            poststop: of(Moment::Poststop)?,
        })
    }
}

/// Everything that a container is made from.
struct Builder<'a> {
    options: CreateOptions<'a>,
    linux: &'a Linux,
    process: &'a ProcessSpec,
    namespaces: Namespaces,
    seccomp: Option<Step>,
    agent: Option<Agent>,
    devices: NetDevices,
    rdt: Option<intel_rdt::Plan>,
    hooks: Hooks,
    /// Whether this process is root of a user namespace only.
    rootless: bool,
    /// The pid namespace of others in which the process is born when everything else is done.
    birthplace: Option<(OwnedFd, PathBuf)>,
    /// Flags of all namespaces that are not the host's.
    namespace_flags: i32,
}

impl Builder<'_> {
    /// Those who are in a joined pid namespace should not see a process that still has the host's files. Hooks are told the
    /// process's id before they are gone; and in a user namespace the process cannot be looked into by them anyway.
    fn choose_birth(&mut self) {
        let hooks = !self.hooks.runtime.is_empty() || self.hooks.create_container.is_some();
        let works = self.namespaces.pids_to_join().is_some_and(crate::procfs::can_be_of);
        if works && !hooks && !self.in_user_namespace() {
            self.birthplace = self.namespaces.take_pids();
        }
    }

    fn build(mut self, mut cgroups: Undo, warnings: &mut Vec<String>) -> Result<Container> {
        let born_late = self.birthplace.is_some();
        let new_keyring = !self.options.no_new_keyring;
        let personality = scheduling::personality(self.linux)?;
        let memory_policy = scheduling::memory_policy(self.linux)?;
        let steps = self.plan_container(cgroups.get()?)?;
        let context = process::Context {
            process: self.process,
            stdio: std::mem::replace(&mut self.options.stdio, crate::Stdio::Terminal),
            console_size: self.options.console_size,
            console: Console::Bind,
            seccomp: self.seccomp.take(),
            keyring: keyring(self.options.id, new_keyring)?,
            personality,
            memory_policy: memory_policy.as_ref(),
            working_directory: Missing::Create,
            origin: self.origin(),
            after_stdio: self.plan_read_only()?,
            hand_over: self.options.hand_over.take(),
            preserve_fds: self.options.preserve_fds,
            init: self.options.init.take(),
            last: self.hooks.start_container.take().map(Step::Hooks),
        };
        let mut plan = process::plan(steps, context, warnings)?;
        plan.keep_over_birth();
        let (channel, child) = self.spawn(&mut plan, cgroups.get()?)?;
        let mut setup = Setup::new(channel, child, plan, self.agent.clone(), "creating");
        let (adjusted, is_gone) = match &setup.child {
            Some(child) if !born_late => {
                let adjusted = self.adjust(child.pid, warnings);
                // Its namespaces go a moment before it does.
                let is_gone = adjusted.is_err() && patience::ends_within(child.pidfd.as_fd(), GOING);
                (adjusted, is_gone)
            }
            // It may be gone by now: its child is adjusted.
            _ => (Ok(Adjusted::default()), false),
        };
        if is_gone {
            // It has failed by itself, and its own reason says more than that it is not there.
            setup.converse(|_, _| Ok(()))?;
        }
        let mut adjusted = adjusted?;
        let oom = cgroups.get()?.watch_oom()?;
        setup.converse(|report, pid| match report {
            Report::JoinCgroup => cgroups.get()?.attach(pid),
            Report::MapIds => namespaces::write_id_maps(pid, self.linux),
            Report::SetClocks => namespaces::write_time_offsets(pid, self.linux),
            Report::RunHooks => self.hooks.runtime.iter().try_for_each(|hooks| hooks.run(pid)),
            Report::Born => {
                adjusted = self.adjust(pid, warnings)?;
                Ok(())
            }
            _ => Ok(()),
        })?;
        // The container's own process is in the cgroups now.
        drop(cgroups.placeholder.take());
        let seccomp = setup.seccomp();
        let mount_namespace = setup.hold_mount_namespace();
        let rdt = adjusted.keep();
        Ok(Container {
            init: setup.finish()?,
            id: self.options.id.into(),
            warnings: Vec::new(),
            cgroups: cgroups.cgroups.take().ok_or(Error::NotRunning)?.into(),
            oom,
            namespaces: self.namespace_flags,
            seccomp,
            personality,
            memory_policy,
            rdt,
            new_keyring,
            restored: false,
            _mount_namespace: mount_namespace,
            poststart: self.hooks.poststart.take(),
            poststop: self.hooks.poststop.take(),
        })
    }

    /// Whether the container's root is root of a user namespace only.
    fn in_user_namespace(&self) -> bool {
        self.namespaces.has_user() || self.rootless
    }

    fn origin(&self) -> Origin {
        if self.in_user_namespace() { Origin::UserNamespace } else { Origin::Runtime }
    }

    /// Everything up to and including the pivot.
    fn plan_container(&mut self, cgroups: &CgroupPaths) -> Result<Vec<Step>> {
        let spec = self.options.spec;
        // Asked before the joined ones are taken out.
        let place = if self.namespaces.has(libc::CLONE_NEWNS) { Place::Path } else { Place::Nowhere };
        let mut steps = Vec::with_capacity(96);
        if self.birthplace.is_none() {
            steps.push(Step::NewSession);
        }
        steps.extend(cgroups.plan_joins()?);
        if self.birthplace.is_none() {
            process::plan_early(self.process, &mut steps)?;
        }
        let mut settings = Vec::new();
        self.namespaces.plan_settings(spec, self.linux, &mut settings)?;
        self.namespaces.plan_joins(&mut steps);
        if self.namespaces.new & libc::CLONE_NEWNET != 0 {
            steps.push(Step::LoopbackUp);
        }
        if self.namespaces.new & libc::CLONE_NEWCGROUP != 0 {
            steps.push(Step::Unshare { flags: libc::CLONE_NEWCGROUP });
        }
        let root = spec.root().as_ref().ok_or_else(|| invalid("root", "is missing"))?;
        let path = self.root_path(root.path());
        rootfs::plan(&path, self.options.rootfs_mounts, self.linux, place, &mut steps)?;
        if self.namespaces.new & libc::CLONE_NEWTIME != 0 {
            // Its clocks can be set as long as nobody is in it: the process enters it by execve.
            steps.extend([Step::Unshare { flags: libc::CLONE_NEWTIME }, Step::Ask(Request::SetClocks)]);
        }
        if self.namespaces.new & libc::CLONE_NEWUSER != 0 {
            steps.push(Step::Ask(Request::MapIds));
        }
        if self.in_user_namespace() {
            steps.push(Step::BecomeRoot);
        }
        steps.extend(settings);
        self.plan_mounts(cgroups, &mut steps)?;
        if !self.hooks.runtime.is_empty() {
            steps.push(Step::Ask(Request::RunHooks));
        }
        steps.extend(self.hooks.create_container.take().map(Step::Hooks));
        steps.push(Step::PivotRoot(match (place, self.options.no_pivot) {
            (Place::Nowhere, _) => Pivot::Chroot,
            (Place::Path, true) => Pivot::MoveAndChroot,
            (Place::Path, false) => Pivot::Swap,
        }));
        self.plan_birth(&mut steps)?;
        Ok(steps)
    }

    /// The process that was set up so far makes the one that stays.
    fn plan_birth(&mut self, steps: &mut Vec<Step>) -> Result<()> {
        let Some((fd, path)) = self.birthplace.take() else { return Ok(()) };
        steps.extend([
            Step::JoinNamespaces { fd, flags: libc::CLONE_NEWPID, what: format!("the namespace {path:?}") },
            Step::BeBorn { first: 3 + self.options.preserve_fds, keep: Vec::new() },
            Step::NewSession,
        ]);
        process::plan_early(self.process, steps)
    }

    fn root_path(&self, path: &std::path::Path) -> PathBuf {
        self.options.bundle.join(path)
    }

    fn plan_mounts(&self, cgroups: &CgroupPaths, steps: &mut Vec<Step>) -> Result<()> {
        let spec_mounts = self.options.spec.mounts().as_deref().unwrap_or_default();
        let id_maps = IdMaps::of(&self.namespaces, self.linux)?;
        let context = mounts::Context {
            cgroups,
            id_maps: &id_maps,
            rootless: self.rootless.then_some(self.namespaces.new),
            bundle: self.options.bundle,
            pids: self.birthplace.as_ref().map(|(fd, _)| fd.as_fd()),
            mount_label: self.linux.mount_label().as_deref(),
        };
        for (index, mount) in spec_mounts.iter().enumerate() {
            mounts::plan(index, mount, &context, steps)?;
        }
        let making = if self.in_user_namespace() { Making::Binds } else { Making::Nodes };
        devices::plan(spec_mounts, self.linux.devices().as_deref().unwrap_or_default(), making, steps)?;
        // Made now if it is missing, while the root can be written to.
        let cwd = self.process.cwd().to_string_lossy();
        steps.push(Step::MakeWorkingDirectory { path: mounts::in_root(&cwd)? });
        for path in self.linux.readonly_paths().iter().flatten() {
            steps.push(Step::ReadOnly { path: mounts::in_root(path)? });
        }
        for path in self.linux.masked_paths().iter().flatten() {
            steps.push(Step::Mask { path: mounts::in_root(path)? });
        }
        Ok(())
    }

    /// What becomes read-only once everything has been put in place.
    fn plan_read_only(&self) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        mounts::plan_late_read_only(self.options.spec.mounts().as_deref().unwrap_or_default(), &mut steps)?;
        let read_only = self.options.spec.root().as_ref().and_then(|root| root.readonly()) == Some(true);
        let at_root = |attr| Step::SetAttributes { path: c".".to_owned(), reach: Reach::One, attr };
        if read_only {
            steps.push(at_root(MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() }));
        }
        steps.extend(rootfs::final_propagation(self.linux).map(at_root));
        Ok(steps)
    }

    fn spawn(&self, plan: &mut Plan, cgroups: &CgroupPaths) -> Result<(Channel, sys::Child)> {
        let ends = || {
            channel::pair().map_err(|errno| Error::System {
                doing: "make a channel to the container's init",
                source: errno.into(),
            })
        };
        // A cgroup namespace has the cgroups of the moment as its root, so it is made after joining them; a time namespace
        // would be entered at once.
        let flags = self.namespaces.new & !(libc::CLONE_NEWCGROUP | libc::CLONE_NEWTIME);
        let group = cgroups.v2_to_be_born_in().map(|group| group.dir());
        channel::with_child(ends, |ours, theirs| {
            let run = || init::run(plan, theirs, ours.fd());
            self.namespaces.spawn(flags as u32 as u64, group, run)
        })
    }

    /// What the parent can do for the child while the child is busy.
    fn adjust(&self, pid: i32, warnings: &mut Vec<String>) -> Result<Adjusted> {
        if let Some(value) = self.process.oom_score_adj() {
            set_oom_score(pid, value, warnings)?;
        }
        Ok(Adjusted {
            devices: self.devices.move_to(pid)?,
            rdt: self.rdt.as_ref().map(|plan| plan.enter(pid)).transpose()?,
        })
    }
}

/// What is undone if the container does not come to be.
#[derive(Default)]
struct Adjusted {
    devices: Option<Moved>,
    rdt: Option<intel_rdt::Group>,
}

impl Adjusted {
    fn keep(self) -> Option<intel_rdt::Group> {
        if let Some(devices) = self.devices {
            devices.keep();
        }
        self.rdt.map(intel_rdt::Group::keep)
    }
}

/// Sets `oom_score_adj`. A host that does not allow a lower value than the inherited one keeps that, with a warning.
pub(crate) fn set_oom_score(pid: i32, value: i32, warnings: &mut Vec<String>) -> Result<()> {
    let path = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
    match std::fs::write(&path, value.to_string()) {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {
            warnings.push(format!(
                "process.oomScoreAdj: this host does not allow {value} (no CAP_SYS_RESOURCE); left as it was"
            ));
            Ok(())
        }
        // Ended already; what it has to say is more useful.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(()),
        Err(source) => Err(Error::Io { doing: "set the OOM score", path, source }),
    }
}

/// The session keyring's name.
pub(crate) fn keyring(id: &str, new: bool) -> Result<Option<CString>> {
    let name = new.then(|| CString::new(format!("_ses.{id}")));
    name.transpose().map_err(|_| invalid("id", "contains a NUL byte"))
}

/// A child that is being set up. Dropped before it is finished, it is killed and reaped.
pub(crate) struct Setup {
    pub(crate) channel: Option<Channel>,
    pub(crate) child: Option<sys::Child>,
    pub(crate) plan: Option<Plan>,
    pub(crate) terminal: Option<OwnedFd>,
    agent: Option<Agent>,
    /// The container's state in the words of the specification, for the agent.
    status: &'static str,
    /// How long it may take, where others could make it take for ever.
    patience: Option<Duration>,
}

impl Setup {
    pub(crate) fn new(
        channel: Channel,
        child: sys::Child,
        plan: Plan,
        agent: Option<Agent>,
        status: &'static str,
    ) -> Setup {
        Setup {
            channel: Some(channel),
            child: Some(child),
            plan: Some(plan),
            terminal: None,
            agent,
            status,
            patience: None,
        }
    }

    /// Bounds the time until the process waits at its gate, and from there until it is its program.
    pub(crate) fn within(mut self, patience: Option<Duration>) -> Setup {
        self.patience = patience;
        self
    }

    /// Serves the child until it waits at its gate.
    pub(crate) fn converse(&mut self, mut serve: impl FnMut(Report, i32) -> Result<()>) -> Result<()> {
        let system = |errno: Errno| Error::System {
            doing: "talk to the process that is being set up",
            source: errno.into(),
        };
        let patience = Patience::new(self.patience);
        loop {
            let (Some(channel), Some(child)) = (&self.channel, &self.child) else {
                return Err(Error::NotRunning);
            };
            let pid = child.pid;
            match patience.wait(channel, child.pidfd.as_fd(), pid)? {
                Heard::Something => {}
                Heard::Exit => return Err(self.died()),
            }
            match channel.receive() {
                Ok(Some((Report::Ready, _))) => return Ok(()),
                Ok(Some((Report::Terminal, fd))) => self.terminal = fd,
                Ok(Some((Report::Born, pidfd))) => {
                    let pid = self.go_on_with(pidfd)?;
                    serve(Report::Born, pid)?;
                    self.channel.as_ref().map_or(Ok(()), Channel::answer).map_err(system)?;
                }
                Ok(Some((Report::Listener(number), _))) => {
                    self.hand_over(number)?;
                    channel.answer().map_err(system)?;
                }
                Ok(Some((Report::Failed(failure), _))) => {
                    return Err(self.plan.as_ref().map_or(Error::NotRunning, |plan| plan.error(failure)));
                }
                Ok(Some((report, _))) => {
                    serve(report, pid)?;
                    channel.answer().map_err(system)?;
                }
                Ok(None) | Err(Errno::CONNRESET) => return Err(self.died()),
                Err(errno) => return Err(system(errno)),
            }
        }
    }

    /// The process made another one for what is left to do, and ends.
    fn go_on_with(&mut self, pidfd: Option<OwnedFd>) -> Result<i32> {
        let system = |errno: Errno| Error::System {
            doing: "meet the process that was born in the container",
            source: errno.into(),
        };
        let pidfd = pidfd.ok_or(Error::NotRunning)?;
        let pid = sys::pid_of(pidfd.as_fd()).map_err(system)?;
        if let Some(first) = self.child.replace(sys::Child { pid, pidfd }) {
            sys::wait(first.pidfd.as_fd(), Reap::Take).map_err(system)?;
        }
        Ok(pid)
    }

    fn hand_over(&self, listener: i32) -> Result<()> {
        match (&self.agent, &self.child) {
            (Some(agent), Some(child)) => {
                agent.hand_over(listener, child.pidfd.as_fd(), child.pid, self.status)
            }
            _ => Err(Error::NotRunning),
        }
    }

    /// The child is gone without a word.
    fn died(&mut self) -> Error {
        let how = match self.child.take().map(|child| sys::wait(child.pidfd.as_fd(), Reap::Take)) {
            Some(Ok(Exit::Signal(signal))) => format!("signal {signal}"),
            Some(Ok(Exit::Code(code))) => format!("exit code {code}"),
            _ => "unknown".into(),
        };
        Error::InitDied { how }
    }

    /// Takes the seccomp program out of the plan: the child has its copy.
    fn seccomp(&mut self) -> Option<SeccompProgram> {
        self.plan.as_mut()?.steps.iter_mut().find_map(|step| match step {
            Step::Seccomp { program, flags, listener } => Some(SeccompProgram {
                program: std::mem::take(program),
                flags: *flags,
                listener: *listener,
                agent: self.agent.take(),
            }),
            _ => None,
        })
    }

    /// A descriptor of the child's mount namespace; nice to have only.
    fn hold_mount_namespace(&self) -> Option<OwnedFd> {
        let path = format!("/proc/{}/ns/mnt", self.child.as_ref()?.pid);
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
    }

    /// The child waits at its gate.
    pub(crate) fn finish(mut self) -> Result<Process> {
        let gone = Error::NotRunning;
        let (Some(child), Some(mut plan), Some(channel)) =
            (self.child.take(), self.plan.take(), self.channel.take())
        else {
            return Err(gone);
        };
        plan.forget_done();
        let gate = Some(Gate { channel, plan, patience: self.patience });
        Ok(Process { pid: child.pid, pidfd: child.pidfd, terminal: self.terminal.take(), gate })
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let _ = sys::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
            // One that the kernel holds (a dead network file system) is left to whoever reaps for this process.
            if patience::ends_soon(child.pidfd.as_fd()) {
                let _ = sys::wait(child.pidfd.as_fd(), Reap::Take);
            }
        }
    }
}
