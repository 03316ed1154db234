//! `Create`: from the bundle's `config.json` to a container whose first process waits at its gate.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use longshore_proto::containerd::events::{TaskCreate, TaskIo};
use longshore_proto::containerd::task::v3::{CreateTaskRequest, CreateTaskResponse};
use longshore_proto::containerd::types::Mount;
use longshore_runtime::{
    Container, CreateOptions, FirstProgram, ParentImage, RestoreOptions, RootfsMount, Stdio,
};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::options::Options;
use super::state_folder;
use crate::commands::Turn;
use crate::dispatch::Answer;
use crate::driver::{Command, Driver, Making, Oci, criu_check, criu_of};
use crate::error::{Error, Result};
use crate::events::What;
use crate::poll::{Flags, Token};
use crate::process::{Caller, Phase, Process};
use crate::rootfs::{self, HostRootfs};
use crate::server::{Origin, Place, Shim, Task};
use crate::stdio::{Identity, Io, Paths};
use crate::{bundle, files, limits, names, report};

/// A container that was made, before it is the shim's.
struct Made {
    driver: Driver,
    terminal: Option<OwnedFd>,
    rootfs: Option<HostRootfs>,
}

/// What is known of a container while it is made.
struct Draft {
    request: CreateTaskRequest,
    options: Options,
    place: Rc<Place>,
    shares_pids: bool,
    oom_score: Option<i32>,
    paths: Paths,
    io: Io,
}

/// The first process of a container.
#[derive(Clone, Copy)]
enum First {
    Program,
    /// An init that runs the program.
    Init,
    /// An init that runs nothing.
    Pause,
}

impl First {
    fn of(options: &longshore_proto::longshore::shim::v1::CreateOptions) -> Self {
        match options {
            options if options.pause => Self::Pause,
            options if options.init => Self::Init,
            _ => Self::Program,
        }
    }
}

/// Everything that our own runtime makes a container from.
struct LibraryMaking {
    id: String,
    bundle: PathBuf,
    spec: Spec,
    stdio: Stdio,
    mounts: Vec<RootfsMount>,
    /// Whether the rootfs is mounted on the host.
    on_host: bool,
    size: Option<(u16, u16)>,
    seccomp_cache: Option<PathBuf>,
    no_pivot: bool,
    no_new_keyring: bool,
    systemd_cgroup: bool,
    /// What is the first process, if not the program itself.
    init: First,
    criu: String,
    criu_work: Option<PathBuf>,
    checkpoint: PathBuf,
    parent_checkpoint: String,
}

/// What our own runtime has made.
struct MadeByLibrary {
    container: Box<Container>,
    terminal: Option<OwnedFd>,
    rootfs: Option<HostRootfs>,
}

impl From<MadeByLibrary> for Made {
    fn from(made: MadeByLibrary) -> Self {
        let MadeByLibrary { container, terminal, rootfs } = made;
        Self { driver: Driver::Library(container), terminal, rootfs }
    }
}

impl LibraryMaking {
    fn new(draft: &Draft, spec: Spec, stdio: Stdio, foreign: bool) -> Self {
        let Draft { request, options, place, .. } = draft;
        let filled = |path: &str| Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty());
        Self {
            id: request.id.clone(),
            bundle: place.bundle.clone(),
            on_host: foreign && rootfs::is_looked_at(&spec),
            spec,
            stdio,
            mounts: request.rootfs.iter().map(rootfs_mount).collect(),
            size: options.own.console.as_ref().and_then(super::resize_pty::size),
            seccomp_cache: filled(&options.own.seccomp_cache),
            no_pivot: options.runc.no_pivot_root,
            no_new_keyring: options.runc.no_new_keyring,
            systemd_cgroup: options.systemd_cgroup,
            init: First::of(&options.own),
            criu: options.runc.criu_path.clone(),
            criu_work: filled(&options.runc.criu_work_path),
            checkpoint: PathBuf::from(&request.checkpoint),
            parent_checkpoint: request.parent_checkpoint.clone(),
        }
    }

    fn create(mut self) -> Result<MadeByLibrary> {
        let init = match self.init {
            First::Program => None,
            First::Init => Some(FirstProgram::Runs(crate::init::sealed()?)),
            First::Pause => Some(FirstProgram::Alone(crate::init::sealed()?)),
        };
        let rootfs = match self.on_host {
            true => HostRootfs::mount(&self.bundle, &std::mem::take(&mut self.mounts))?,
            false => None,
        };
        let created = Container::create(CreateOptions {
            id: &self.id,
            bundle: &self.bundle,
            spec: &self.spec,
            rootfs_mounts: &self.mounts,
            stdio: self.stdio,
            console_size: self.size,
            seccomp_cache: self.seccomp_cache.as_deref(),
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            hand_over: None,
            preserve_fds: 0,
            init,
            systemd_cgroup: self.systemd_cgroup,
            note_cgroups: None,
        });
        let mut container = match created {
            Ok(container) => container,
            Err(error) => {
                let _ = rootfs.as_ref().map(HostRootfs::unmount);
                return Err(error.into());
            }
        };
        for warning in container.warnings() {
            report::warn(&self.id, warning);
        }
        Ok(MadeByLibrary { terminal: container.take_terminal(), container: Box::new(container), rootfs })
    }

    /// The restored processes stand still until the container is started, so that it has a process id meanwhile.
    fn restore(self) -> Result<MadeByLibrary> {
        let parent = match self.parent_checkpoint.as_str() {
            "" => ParentImage::None,
            path => ParentImage::At(Path::new(path)),
        };
        let mut container = Container::restore(RestoreOptions {
            criu: criu_of(&self.criu),
            id: &self.id,
            bundle: &self.bundle,
            spec: &self.spec,
            rootfs_mounts: &self.mounts,
            stdio: self.stdio,
            seccomp_cache: self.seccomp_cache.as_deref(),
            systemd_cgroup: self.systemd_cgroup,
            note_cgroups: None,
            image: &self.checkpoint,
            work: self.criu_work.as_deref().unwrap_or(&self.checkpoint),
            tcp_established: true,
            external_unix_sockets: true,
            shell_job: false,
            file_locks: true,
            auto_dedup: false,
            empty_namespaces: &[],
            parent,
            lazy_pages: false,
            lsm_profile: None,
            lsm_mount_context: None,
        })?;
        let terminal = container.take_terminal();
        Ok(MadeByLibrary { container: Box::new(container), terminal, rootfs: None })
    }
}

/// Whether somebody else's programs run while the container is made.
fn runs_hooks(spec: &Spec) -> bool {
    let Some(hooks) = spec.hooks() else { return false };
    #[allow(deprecated)]
    let prestart = hooks.prestart();
    [prestart, hooks.create_runtime(), hooks.create_container()]
        .into_iter()
        .flatten()
        .any(|list| !list.is_empty())
}

impl Shim {
    pub fn create(&mut self, caller: Caller, request: CreateTaskRequest) -> Result<Answer> {
        if self.tasks.contains_key(&request.id) || self.commands.makes(&request.id) {
            return Err(Error::Exists { what: "task", id: request.id });
        }
        let place = self.place_of(&request)?;
        if self.is_pods() {
            self.events.forget_of(&request.id);
        }
        let options = Options::read(request.options.as_ref())?;
        let spec = self.read_spec(&request, &place)?;
        join_cgroup(&options.runc.shim_cgroup)?;
        let paths = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let identity = Identity { id: &request.id, namespace: &self.assigned()?.namespace };
        let (mut io, stdio) = Io::open(&paths, options.attachable, options.owner, &identity)?;
        let logger = io.take_start();
        let oom_score = spec.process().as_ref().and_then(|process| process.oom_score_adj());
        let shares_pids = shares_pids(&spec);
        let draft = Draft { request, options, place, shares_pids, oom_score, paths, io };
        let Some(logger) = logger else { return self.create_with(caller, draft, spec, stdio) };
        let turn = Turn::Creation(draft.request.id.as_str().into());
        let answer = self.keep_open(caller);
        self.beside(
            turn,
            move || logger.wait(),
            move |shim, ready| {
                let made = ready.and_then(|()| shim.create_with(caller, draft, spec, stdio));
                shim.resolve(caller, made);
            },
        );
        Ok(answer)
    }

    /// Makes the container, whose stdio is there.
    fn create_with(&mut self, caller: Caller, draft: Draft, spec: Spec, stdio: Stdio) -> Result<Answer> {
        let other = other_runtime(&draft.options).map(str::to_owned);
        match other {
            None if !draft.request.checkpoint.is_empty() => {
                let turn = Turn::Creation(draft.request.id.as_str().into());
                let answer = self.keep_open(caller);
                let making = LibraryMaking::new(&draft, spec, stdio, self.is_foreign()?);
                // First, as its reason says more than a failing restore.
                self.launch(Box::new(criu_check()), turn.clone(), move |shim, works| match works {
                    Ok(()) => shim.beside(
                        turn,
                        || making.restore(),
                        move |shim, made| {
                            shim.take_over_if(caller, draft, made);
                        },
                    ),
                    Err(error) => shim.reply(caller, Err::<CreateTaskResponse, _>(error)),
                });
                Ok(answer)
            }
            None => {
                // What mounts are slow, or hooks, must not hold up other containers of the pod.
                let waits = self.is_pods() || runs_hooks(&spec);
                let making = LibraryMaking::new(&draft, spec, stdio, self.is_foreign()?);
                if waits {
                    let turn = Turn::Creation(draft.request.id.as_str().into());
                    let answer = self.keep_open(caller);
                    self.beside(
                        turn,
                        || making.create(),
                        move |shim, made| {
                            shim.take_over_if(caller, draft, made);
                        },
                    );
                    return Ok(answer);
                }
                let made = making.create()?;
                let answer = self.keep_open(caller);
                self.take_over(caller, draft, made.into());
                Ok(answer)
            }
            Some(name) => self.create_by_command(caller, draft, &name, stdio),
        }
    }

    fn is_foreign(&self) -> Result<bool> {
        Ok(matches!(self.assigned()?.origin, Origin::Foreign { .. }))
    }

    fn take_over_if(&mut self, caller: Caller, draft: Draft, made: Result<MadeByLibrary>) {
        match made {
            Ok(made) => self.take_over(caller, draft, made.into()),
            Err(error) => self.reply(caller, Err::<CreateTaskResponse, _>(error)),
        }
    }

    /// Makes the container the shim's, or takes it back.
    fn take_over(&mut self, caller: Caller, draft: Draft, mut made: Made) {
        let mut process =
            Process::new(draft.request.id.as_str().into(), String::new(), draft.paths, Phase::Created);
        process.pid = made.driver.pid();
        process.io = draft.io;
        process.stdin_once = draft.options.own.stdin_once;
        let pid = process.wire_pid();
        let serial = self.take_serial();
        let (options, place) = (draft.options, draft.place);
        let state = match self.adopt(&draft.request, &options, &place, serial, &mut made, &mut process) {
            Ok(state) => state,
            Err(error) => return self.undo(caller, &draft.request.id, made, place, error),
        };
        self.tasks.insert(
            draft.request.id.clone(),
            Task {
                place,
                init: serial,
                cgroup: match &made.driver {
                    Driver::Library(container) => container.cgroups().record(),
                    Driver::Command(_) => String::new(),
                },
                ooms: made.driver.oom_kills(),
                driver: Some(made.driver),
                rootfs: made.rootfs,
                state,
                owner: options.owner,
                criu_work: options.runc.criu_work_path,
                criu: options.runc.criu_path,
                paused: false,
                shares_pids: draft.shares_pids,
                oom_score: draft.oom_score,
            },
        );
        self.processes.insert(serial, process);
        self.resume_output(serial);
        self.tell_created(draft.request, pid);
        self.reply(caller, Ok(CreateTaskResponse { pid }));
    }

    fn tell_created(&mut self, request: CreateTaskRequest, pid: u32) {
        self.emit(&What::Create(TaskCreate {
            container_id: request.id,
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: Some(TaskIo {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
            }),
            checkpoint: request.checkpoint,
            pid,
        }));
    }

    /// Where the container is: in the bundle that this shim was assigned, or, in a pod, in its own.
    fn place_of(&self, request: &CreateTaskRequest) -> Result<Rc<Place>> {
        let assigned = self.assigned()?;
        let path = Path::new(&request.bundle);
        if assigned.origin == Origin::Pool {
            self.must_serve(&request.id)?;
            if !request.bundle.is_empty() && path != assigned.place.bundle {
                let ours = &assigned.place.bundle;
                let why = format!("{:?} is not the bundle {ours:?} of this shim", request.bundle);
                return Err(Error::BadField { field: "bundle", why });
            }
            return Ok(assigned.place.clone());
        }
        names::check("container id", &request.id)?;
        if self.tasks.len() + self.commands.makings() >= limits::CONTAINERS {
            return Err(Error::Limit { what: "containers in this shim", limit: limits::CONTAINERS });
        }
        if !path.is_absolute() {
            let why = format!("{:?} is not an absolute path", request.bundle);
            return Err(Error::BadField { field: "bundle", why });
        }
        let folder = bundle::open(path)?;
        bundle::make_exits(&folder)?;
        Ok(Rc::new(Place { bundle: path.into(), folder }))
    }

    fn create_by_command(
        &mut self,
        caller: Caller,
        draft: Draft,
        name: &str,
        stdio: Stdio,
    ) -> Result<Answer> {
        let Draft { request, options: Options { runc, .. }, place, .. } = &draft;
        let oci = Oci::new(
            name,
            &runc.root,
            &self.assigned()?.namespace,
            runc.systemd_cgroup,
            &runc.criu_path,
            &place.bundle,
        )?;
        let mounts: Vec<RootfsMount> = request.rootfs.iter().map(rootfs_mount).collect();
        let rootfs = HostRootfs::mount(&place.bundle, &mounts)?;
        let making = Making {
            id: request.id.clone(),
            stdio,
            no_pivot: runc.no_pivot_root,
            no_new_keyring: runc.no_new_keyring,
            checkpoint: request.checkpoint.clone(),
            criu_work: runc.criu_work_path.clone(),
        };
        let turn = Turn::Creation(request.id.as_str().into());
        let prepared =
            Command::create(oci, making).inspect_err(|_| drop(rootfs.as_ref().map(HostRootfs::unmount)))?;
        let (mut creation, step) = prepared;
        let answer = self.keep_open(caller);
        let go_on = move |shim: &mut Self, result: Result<()>| {
            let terminal = result.and_then(|()| creation.finish());
            let driver = Driver::Command(Box::new(creation.container));
            match terminal {
                Ok(terminal) => shim.take_over(caller, draft, Made { driver, terminal, rootfs }),
                Err(error) => {
                    let made = Made { driver, terminal: None, rootfs };
                    shim.undo(caller, &draft.request.id, made, draft.place, error);
                }
            }
        };
        self.go_through(step, turn, go_on);
        Ok(answer)
    }

    /// The last steps that can fail, after which the container is the shim's.
    fn adopt(
        &mut self,
        request: &CreateTaskRequest,
        options: &Options,
        place: &Place,
        serial: u32,
        made: &mut Made,
        process: &mut Process,
    ) -> Result<Option<PathBuf>> {
        if let Some(terminal) = made.terminal.take() {
            process.io.adopt_terminal(terminal)?;
        }
        bundle::write(&place.folder, bundle::INIT_PID, process.pid.to_string().as_bytes())?;
        if let Driver::Library(container) = &made.driver
            && options.systemd_cgroup
        {
            bundle::write(&place.folder, bundle::CGROUPS, container.cgroups().record().as_bytes())?;
        }
        if let Some(oom) = made.driver.oom_fd() {
            self.poll.add(oom, Token::Oom(serial), Flags::IN | Flags::PRI)?;
        }
        self.open_dns(process.pid, &options.own.dns)?;
        if !(self.is_pods() && options.own.ports.is_empty()) {
            self.hold_ports(&options.own.ports)?;
        }
        match &made.driver {
            Driver::Library(_) if !options.runc.root.is_empty() => {
                let namespace = &self.assigned()?.namespace;
                state_folder::make(&options.runc.root, namespace, &request.id, process.pid, &place.bundle)
                    .map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Takes back a container that could not be made or adopted, and then says why. Its zombie is reaped as one that nobody knows.
    fn undo(&mut self, caller: Caller, id: &str, made: Made, place: Rc<Place>, error: Error) {
        if let Some(oom) = made.driver.oom_fd() {
            self.poll.remove(oom);
        }
        self.leave_network();
        let rootfs = made.rootfs;
        let finish = move |shim: &mut Self, error: Error| {
            let _ = rootfs.as_ref().map(HostRootfs::unmount);
            bundle::remove(&place.folder, bundle::INIT_PID);
            shim.reply(caller, Err::<(), _>(error));
        };
        let turn = Turn::Creation(id.into());
        let command = match made.driver {
            // Its processes may not end at once, and its hooks run.
            Driver::Library(container) if self.is_pods() => {
                let id = id.to_owned();
                let delete = move || Ok(container.delete()?);
                return self.beside(turn, delete, move |shim, deleted: Result<Vec<String>>| {
                    if let Err(error) = deleted {
                        report::warn(&id, &error);
                    }
                    finish(shim, error);
                });
            }
            Driver::Library(container) => {
                let _ = container.delete();
                return finish(self, error);
            }
            Driver::Command(command) => command,
        };
        self.go_through(command.delete(), turn, move |shim, result| {
            // What could not be deleted is still noted, for `delete`.
            if result.is_ok() {
                command.forget();
            }
            finish(shim, error);
        });
    }

    fn read_spec(&self, request: &CreateTaskRequest, place: &Place) -> Result<Spec> {
        let text = bundle::read(&place.folder, bundle::CONFIG)?;
        let mut spec = longshore_runtime::load_spec(&text)?;
        if let Some(process) = spec.process_mut() {
            // The runtime needs the two to agree; the request wins, as with containerd.
            process.set_terminal(Some(request.terminal));
            if let (None, Some(score)) = (process.oom_score_adj(), self.inherited_oom_score) {
                // The shim's own protection is not the container's.
                process.set_oom_score_adj(Some(score));
            }
            files::inherit(process, files::inherited());
        }
        Ok(spec)
    }
}

/// The other OCI runtime that the options ask for: the one that they name; or runc, where it is there, if they say where
/// runc keeps its state, because whoever says so looks for it there, or calls runc on it.
fn other_runtime(options: &Options) -> Option<&str> {
    const RUNC: &str = "runc";
    match (options.runc.binary_name.as_str(), options.runc.root.as_str()) {
        ("", "") => None,
        ("", _) => Oci::is_there(RUNC).then_some(RUNC),
        (name, _) => Some(name),
    }
}

/// Moves this shim to the cgroup that runc's options name; it must exist.
pub fn join_cgroup(path: &str) -> Result<()> {
    if path.is_empty() {
        return Ok(());
    }
    let cgroups = longshore_runtime::cgroups::CgroupPaths::open(path)?;
    if cgroups.hierarchies().is_empty() {
        return Err(Error::BadField { field: "ShimCgroup", why: format!("there is no cgroup {path:?}") });
    }
    Ok(cgroups.join(i32::try_from(std::process::id()).unwrap_or(0))?)
}

/// Whether the processes share a pid namespace with others, so that they outlive the first one.
fn shares_pids(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    !namespaces
        .into_iter()
        .flatten()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none())
}

fn rootfs_mount(mount: &Mount) -> RootfsMount {
    RootfsMount {
        kind: mount.r#type.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}
