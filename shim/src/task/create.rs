//! `Create`: from the bundle's `config.json` to a container whose first process waits at its gate.

use std::path::Path;

use longshore_proto::containerd::events::{TaskCreate, TaskIo};
use longshore_proto::containerd::task::v3::{CreateTaskRequest, CreateTaskResponse};
use longshore_proto::containerd::types::Mount;
use longshore_runtime::{Container, CreateOptions, RootfsMount};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use prost::Message;

use super::options::Options;
use crate::bundle;
use crate::error::{Error, Result};
use crate::events::What;
use crate::poll::{Flags, Token};
use crate::process::{INIT, Phase, Process};
use crate::server::{Shim, Task};
use crate::stdio::{Io, Paths};

impl Shim {
    pub fn create(&mut self, request: CreateTaskRequest) -> Result<CreateTaskResponse> {
        self.must_serve(&request.id)?;
        if self.task.is_some() {
            return Err(Error::Exists { what: "task", id: request.id });
        }
        if !request.checkpoint.is_empty() {
            return Err(Error::NotBuilt {
                what: "restoring from a checkpoint",
                why: "this shim has no CRIU",
            });
        }
        let assigned = self.assigned()?;
        if !request.bundle.is_empty() && Path::new(&request.bundle) != assigned.bundle {
            let why = format!("{:?} is not the bundle {:?} of this shim", request.bundle, assigned.bundle);
            return Err(Error::BadField { field: "bundle", why });
        }
        bundle::write(&assigned.folder, bundle::REQUEST, &request.encode_to_vec())?;
        let pid = self.create_container(&request)?;
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
            checkpoint: String::new(),
            pid,
        }));
        Ok(CreateTaskResponse { pid })
    }

    fn create_container(&mut self, request: &CreateTaskRequest) -> Result<u32> {
        let assigned = self.assigned()?;
        let options = Options::read(request.options.as_ref())?;
        let spec = read_spec(self, request)?;
        let paths = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let (io, child_stdio) = Io::open(&paths, options.attachable, options.owner)?;
        let cache = Some(options.own.seccomp_cache.as_str()).filter(|path| !path.is_empty());
        let mounts: Vec<RootfsMount> = request.rootfs.iter().map(rootfs_mount).collect();
        let mut container = Container::create(CreateOptions {
            id: &request.id,
            bundle: &assigned.bundle,
            spec: &spec,
            rootfs_mounts: &mounts,
            stdio: child_stdio,
            console_size: options.own.console.as_ref().and_then(super::resize_pty::size),
            seccomp_cache: cache.map(Path::new),
            no_pivot: options.no_pivot,
            no_new_keyring: options.no_new_keyring,
            systemd_cgroup: options.systemd_cgroup,
        })?;
        let mut process = Process::new(String::new(), paths, Phase::Created);
        process.pid = container.pid();
        process.io = io;
        process.stdin_once = options.own.stdin_once;
        let pid = process.wire_pid();
        if let Err(error) = self.adopt(&mut container, &mut process) {
            // Its zombie is reaped as one that nobody knows.
            let _ = container.delete();
            bundle::remove(&self.assigned()?.folder, bundle::INIT_PID);
            return Err(error);
        }
        for warning in container.warnings() {
            eprintln!("container {}: {warning}", request.id);
        }
        self.task = Some(Task {
            cgroup: container.cgroups().path().to_owned(),
            ooms: container.oom_kills(),
            container: Some(container),
            paused: false,
            shares_pids: shares_pids(&spec),
            oom_score: spec.process().as_ref().and_then(|process| process.oom_score_adj()),
        });
        self.processes.insert(INIT, process);
        self.resume_output(INIT);
        Ok(pid)
    }

    /// The last steps that can fail, after which the container is the shim's.
    fn adopt(&self, container: &mut Container, process: &mut Process) -> Result<()> {
        if let Some(terminal) = container.take_terminal() {
            process.io.adopt_terminal(terminal)?;
        }
        bundle::write(&self.assigned()?.folder, bundle::INIT_PID, process.pid.to_string().as_bytes())?;
        match container.oom_fd() {
            Some(oom) => self.poll.add(oom, Token::Oom, Flags::IN | Flags::PRI),
            None => Ok(()),
        }
    }
}

fn read_spec(shim: &Shim, request: &CreateTaskRequest) -> Result<Spec> {
    let text = bundle::read(&shim.assigned()?.folder, bundle::CONFIG)?;
    let mut spec: Spec = serde_json::from_slice(&text)
        .map_err(|source| Error::Json { what: "read config.json of the bundle", source })?;
    if let Some(process) = spec.process_mut() {
        // The runtime needs the two to agree; the request wins, as with containerd.
        process.set_terminal(Some(request.terminal));
        if let (None, Some(score)) = (process.oom_score_adj(), shim.inherited_oom_score) {
            // The shim's own protection is not the container's.
            process.set_oom_score_adj(Some(score));
        }
    }
    Ok(spec)
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
