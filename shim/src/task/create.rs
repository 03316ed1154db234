//! `Create`: from the bundle's `config.json` to a container whose first process waits at its gate.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use longshore_proto::containerd::events::{TaskCreate, TaskIo};
use longshore_proto::containerd::task::v3::{CreateTaskRequest, CreateTaskResponse};
use longshore_proto::containerd::types::Mount;
use longshore_runtime::{Container, CreateOptions, RootfsMount, Stdio};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::options::Options;
use super::state_folder;
use crate::driver::{Command, Driver, Making, Oci, say_criu};
use crate::error::{Error, Result};
use crate::events::What;
use crate::poll::{Flags, Token};
use crate::process::{Phase, Process};
use crate::rootfs::{self, HostRootfs};
use crate::server::{Origin, Place, Shim, Task};
use crate::stdio::{Identity, Io, Paths};
use crate::{bundle, limits, names, report};

/// A container that was made, before it is the shim's.
struct Made {
    driver: Driver,
    terminal: Option<OwnedFd>,
    rootfs: Option<HostRootfs>,
}

impl Shim {
    pub fn create(&mut self, request: CreateTaskRequest) -> Result<CreateTaskResponse> {
        if self.tasks.contains_key(&request.id) {
            return Err(Error::Exists { what: "task", id: request.id });
        }
        let place = self.place_of(&request)?;
        let pid = self.create_container(&request, place)?;
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
        Ok(CreateTaskResponse { pid })
    }

    /// Where the container is: in the bundle that this shim was assigned, or, in a pod of a foreign daemon, in its own.
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
        if self.tasks.len() >= limits::CONTAINERS {
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

    fn create_container(&mut self, request: &CreateTaskRequest, place: Rc<Place>) -> Result<u32> {
        let options = Options::read(request.options.as_ref())?;
        let spec = self.read_spec(request, &place)?;
        join_cgroup(&options.runc.shim_cgroup)?;
        let paths = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let namespace = &self.assigned()?.namespace;
        let identity = Identity { id: &request.id, namespace };
        let (io, child_stdio) = Io::open(&paths, options.attachable, options.owner, &identity)?;
        let mut made = match other_runtime(&options) {
            None => self.create_by_library(request, &place, &options, &spec, child_stdio)?,
            Some(name) => self.create_by_command(request, &place, &options, name, child_stdio)?,
        };
        let mut process = Process::new(request.id.as_str().into(), String::new(), paths, Phase::Created);
        process.pid = made.driver.pid();
        process.io = io;
        process.stdin_once = options.own.stdin_once;
        let pid = process.wire_pid();
        let serial = self.take_serial();
        let state = match self.adopt(request, &options, &place, serial, &mut made, &mut process) {
            Ok(state) => state,
            Err(error) => {
                self.undo(made, &place);
                return Err(error);
            }
        };
        self.tasks.insert(
            request.id.clone(),
            Task {
                place,
                init: serial,
                cgroup: match &made.driver {
                    Driver::Library(container) => container.cgroups().path().to_owned(),
                    Driver::Command(_) => String::new(),
                },
                ooms: made.driver.oom_kills(),
                driver: Some(made.driver),
                rootfs: made.rootfs,
                state,
                owner: options.owner,
                criu_work: options.runc.criu_work_path,
                paused: false,
                shares_pids: shares_pids(&spec),
                oom_score: spec.process().as_ref().and_then(|process| process.oom_score_adj()),
            },
        );
        self.processes.insert(serial, process);
        self.resume_output(serial);
        Ok(pid)
    }

    fn create_by_library(
        &self,
        request: &CreateTaskRequest,
        place: &Place,
        options: &Options,
        spec: &Spec,
        stdio: Stdio,
    ) -> Result<Made> {
        if !request.checkpoint.is_empty() {
            say_criu()?;
            return Err(Error::NotBuilt {
                what: "restoring a container with this shim's own runtime",
                why: "criu works on this host, but its use is built for other OCI runtimes only; set BinaryName \
                      (for example runc) in the runtime's options"
                    .into(),
            });
        }
        let mut mounts: Vec<RootfsMount> = request.rootfs.iter().map(rootfs_mount).collect();
        let foreign = self.assigned()?.origin != Origin::Pool;
        let rootfs = match foreign && rootfs::is_looked_at(spec) {
            true => HostRootfs::mount(&place.bundle, &std::mem::take(&mut mounts))?,
            false => None,
        };
        let cache = Some(options.own.seccomp_cache.as_str()).filter(|path| !path.is_empty());
        let created = Container::create(CreateOptions {
            id: &request.id,
            bundle: &place.bundle,
            spec,
            rootfs_mounts: &mounts,
            stdio,
            console_size: options.own.console.as_ref().and_then(super::resize_pty::size),
            seccomp_cache: cache.map(Path::new),
            no_pivot: options.runc.no_pivot_root,
            no_new_keyring: options.runc.no_new_keyring,
            systemd_cgroup: options.systemd_cgroup,
        });
        let mut container = match created {
            Ok(container) => container,
            Err(error) => {
                let _ = rootfs.as_ref().map(HostRootfs::unmount);
                return Err(error.into());
            }
        };
        for warning in container.warnings() {
            report::warn(&request.id, warning);
        }
        Ok(Made { terminal: container.take_terminal(), driver: Driver::Library(Box::new(container)), rootfs })
    }

    fn create_by_command(
        &self,
        request: &CreateTaskRequest,
        place: &Place,
        options: &Options,
        name: &str,
        stdio: Stdio,
    ) -> Result<Made> {
        let runc = &options.runc;
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
            parent_checkpoint: request.parent_checkpoint.clone(),
            criu_work: runc.criu_work_path.clone(),
        };
        match Command::create(oci, making) {
            Ok((command, terminal)) => {
                Ok(Made { driver: Driver::Command(Box::new(command)), terminal, rootfs })
            }
            Err(error) => {
                let _ = rootfs.as_ref().map(HostRootfs::unmount);
                Err(error)
            }
        }
    }

    /// The last steps that can fail, after which the container is the shim's.
    fn adopt(
        &self,
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
        if let Some(oom) = made.driver.oom_fd() {
            self.poll.add(oom, Token::Oom(serial), Flags::IN | Flags::PRI)?;
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

    /// Takes back a container that could not be adopted. Its zombie is reaped as one that nobody knows.
    fn undo(&self, made: Made, place: &Place) {
        if let Some(oom) = made.driver.oom_fd() {
            self.poll.remove(oom);
        }
        let _ = made.driver.delete();
        let _ = made.rootfs.as_ref().map(HostRootfs::unmount);
        bundle::remove(&place.folder, bundle::INIT_PID);
    }

    fn read_spec(&self, request: &CreateTaskRequest, place: &Place) -> Result<Spec> {
        let text = bundle::read(&place.folder, bundle::CONFIG)?;
        let mut spec: Spec = serde_json::from_slice(&text)
            .map_err(|source| Error::Json { what: "read config.json of the bundle", source })?;
        if let Some(process) = spec.process_mut() {
            // The runtime needs the two to agree; the request wins, as with containerd.
            process.set_terminal(Some(request.terminal));
            if let (None, Some(score)) = (process.oom_score_adj(), self.inherited_oom_score) {
                // The shim's own protection is not the container's.
                process.set_oom_score_adj(Some(score));
            }
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
