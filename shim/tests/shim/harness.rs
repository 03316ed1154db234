//! A shim of the pool with a bundle of its own, as the daemon would start it; everything is gone when it is dropped.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use longshore_proto::containerd::events as ev;
use longshore_proto::containerd::task::v3 as task;
use longshore_proto::longshore::shim::v1 as shim;
use longshore_proto::ttrpc::CallError;
use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};

use crate::client::{Client, SHIM};

pub const ID: &str = "c1";

/// The shim: where it was built, or on PATH if the tests were taken elsewhere.
pub fn program() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_containerd-shim-longshore-v1"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut known = std::env::split_paths(&path).map(|folder| folder.join("containerd-shim-longshore-v1"));
    if built.exists() { built } else { known.find(|path| path.exists()).unwrap_or(built) }
}

/// Starts the shim binary with one end of a socket as descriptor 3.
pub fn spawn(binary: &Path) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let fd = theirs.as_raw_fd();
    let mut command = Command::new(binary);
    command.arg("pool").stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: only async-signal-safe calls between fork and exec: dup2, fcntl.
    unsafe {
        command.pre_exec(move || {
            if fd == 3 {
                libc::fcntl(3, libc::F_SETFD, 0);
            } else if libc::dup2(fd, 3) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = command.spawn().unwrap();
    (child, ours)
}

/// A busybox tree that all tests share, read only by custom.
fn rootfs() -> &'static Path {
    static ROOTFS: OnceLock<PathBuf> = OnceLock::new();
    ROOTFS.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shim-rootfs");
        let ready = root.join("ready-1");
        if ready.exists() {
            return root;
        }
        fs::create_dir_all(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let draft = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for folder in ["bin", "dev", "proc", "sys", "tmp", "etc", "root"] {
            fs::create_dir(draft.path().join(folder)).unwrap();
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let busybox = busybox.expect("these tests need Debian's busybox-static");
        fs::copy(busybox, draft.path().join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "echo", "true", "false", "sleep", "yes", "head", "stty", "seq", "kill", "id", "dd",
            "wc", "setsid", "md5sum", "tail",
        ] {
            std::os::unix::fs::symlink("busybox", draft.path().join("bin").join(applet)).unwrap();
        }
        fs::write(draft.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        fs::write(draft.path().join("ready-1"), "").unwrap();
        // Whoever comes first wins; the others use what is there.
        let _ = fs::rename(draft.path(), &root);
        root
    })
}

/// What a test wants of its container.
#[derive(Default)]
pub struct Want {
    pub args: Vec<String>,
    pub terminal: bool,
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub options: Option<shim::CreateOptions>,
    /// Changes `config.json`.
    pub adjust: Option<fn(&mut Value)>,
}

impl Want {
    /// `sh -c script` with attachable stdio and no log.
    pub fn sh(script: &str) -> Self {
        Self {
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            options: Some(shim::CreateOptions { open_stdin: true, ..Default::default() }),
            ..Self::default()
        }
    }
}

/// One container and its shim.
pub struct Shim {
    /// The shim, or who started it.
    pub child: Child,
    pub client: Client,
    pub bundle: PathBuf,
    pub dir: tempfile::TempDir,
    pub cgroup: String,
    has_left: bool,
}

impl Shim {
    /// A waiting shim with an empty bundle.
    pub fn new() -> Self {
        Self::with_binary(&program())
    }

    pub fn with_binary(binary: &Path) -> Self {
        let (child, socket) = spawn(binary);
        Self::with_child(child, socket)
    }

    /// A shim that this child is, or has started.
    pub fn with_child(child: Child, socket: UnixStream) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("longshore-test-").tempdir().unwrap();
        let bundle = dir.path().join("bundle");
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("/longshore-test-shim-{}-{number}", std::process::id());
        Self { child, client: Client::new(socket), bundle, dir, cgroup, has_left: false }
    }

    pub fn assign(&mut self) -> Result<shim::AssignResponse, CallError> {
        let bundle = self.bundle.to_str().unwrap().to_owned();
        let request =
            shim::AssignRequest { namespace: "test".to_owned(), id: ID.to_owned(), bundle, shared: false };
        self.client.call(SHIM, "Assign", &request)
    }

    pub fn write_config(&self, want: &Want) {
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": want.terminal, "user": {"uid": 0, "gid": 0}, "args": want.args, "cwd": "/",
                "env": ["PATH=/bin"],
                "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
            },
            "root": {"path": rootfs(), "readonly": true},
            "hostname": "test",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            ],
            "linux": {
                "cgroupsPath": format!("{}/{ID}", self.cgroup),
                "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            },
        });
        if let Some(adjust) = want.adjust {
            adjust(&mut config);
        }
        fs::write(self.bundle.join("config.json"), config.to_string()).unwrap();
    }

    pub fn create_request(&self, want: &Want) -> task::CreateTaskRequest {
        let options = want.options.as_ref().map(|options| Any {
            type_url: "longshore.shim.v1.CreateOptions".to_owned(),
            value: options.encode_to_vec(),
        });
        task::CreateTaskRequest {
            id: ID.to_owned(),
            bundle: self.bundle.to_str().unwrap().to_owned(),
            terminal: want.terminal,
            stdin: want.stdin.clone(),
            stdout: want.stdout.clone(),
            stderr: want.stderr.clone(),
            options,
            ..Default::default()
        }
    }

    pub fn create(&mut self, want: &Want) -> Result<task::CreateTaskResponse, CallError> {
        self.write_config(want);
        let request = self.create_request(want);
        self.client.task("Create", &request)
    }

    /// A shim whose container waits at its gate.
    pub fn created(want: &Want) -> Self {
        let mut shim = Self::new();
        shim.assign().unwrap();
        shim.create(want).unwrap();
        shim
    }

    pub fn start(&mut self) -> Result<task::StartResponse, CallError> {
        self.start_exec("")
    }

    pub fn start_exec(&mut self, exec_id: &str) -> Result<task::StartResponse, CallError> {
        self.client.task("Start", &task::StartRequest { id: ID.to_owned(), exec_id: exec_id.to_owned() })
    }

    pub fn exec(&mut self, exec_id: &str, script: &str, terminal: bool) -> Result<(), CallError> {
        let process = json!({
            "terminal": terminal, "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", script], "cwd": "/",
            "env": ["PATH=/bin"],
        });
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
            value: process.to_string().into_bytes(),
        };
        let request = task::ExecProcessRequest {
            id: ID.to_owned(),
            exec_id: exec_id.to_owned(),
            terminal,
            spec: Some(spec),
            ..Default::default()
        };
        self.client.task("Exec", &request)
    }

    pub fn wait(&mut self, exec_id: &str) -> Result<task::WaitResponse, CallError> {
        self.client.task("Wait", &task::WaitRequest { id: ID.to_owned(), exec_id: exec_id.to_owned() })
    }

    pub fn state(&mut self, exec_id: &str) -> Result<task::StateResponse, CallError> {
        self.client.task("State", &task::StateRequest { id: ID.to_owned(), exec_id: exec_id.to_owned() })
    }

    pub fn kill(&mut self, exec_id: &str, signal: i32) -> Result<(), CallError> {
        let signal = u32::try_from(signal).unwrap();
        let request =
            task::KillRequest { id: ID.to_owned(), exec_id: exec_id.to_owned(), signal, all: false };
        self.client.task("Kill", &request)
    }

    pub fn delete(&mut self, exec_id: &str) -> Result<task::DeleteResponse, CallError> {
        self.client.task("Delete", &task::DeleteRequest { id: ID.to_owned(), exec_id: exec_id.to_owned() })
    }

    /// Another connection, through the bundle's socket.
    pub fn connect(&self) -> Client {
        // The path may be too long for the kernel, as the daemon's may.
        let folder = fs::File::open(&self.bundle).unwrap();
        let path = format!("/proc/self/fd/{}/shim.sock", folder.as_raw_fd());
        Client::new(UnixStream::connect(path).unwrap())
    }

    pub fn record(&self, name: &str) -> Option<shim::ExitRecord> {
        let bytes = fs::read(self.bundle.join("exit").join(name)).ok()?;
        Some(shim::ExitRecord::decode(bytes.as_slice()).unwrap())
    }

    /// Deletes the container and shuts the shim down; both must work.
    pub fn finish(mut self) {
        self.delete("").unwrap();
        self.shut_down();
    }

    pub fn shut_down(&mut self) {
        let request = task::ShutdownRequest { id: ID.to_owned(), now: false };
        self.client.task::<_, ()>("Shutdown", &request).unwrap();
        assert!(
            wait_until(Duration::from_secs(5), || self.child.try_wait().unwrap().is_some()),
            "the shim stays"
        );
        assert!(!self.bundle.join("shim.sock").exists());
        self.has_left = true;
        assert_eq!(self.left_over(), Vec::<PathBuf>::new(), "cgroups are left");
    }

    /// Cgroups of this container that are still there.
    pub fn left_over(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
        roots.extend(fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path()));
        for root in roots {
            let path = root.join(format!("{}/{ID}", self.cgroup).trim_start_matches('/'));
            if path.exists() {
                found.push(path);
            }
        }
        found
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if !self.has_left {
            // Of a pod's containers each has a bundle.
            for bundle in fs::read_dir(self.dir.path()).unwrap().flatten() {
                if let Ok(pid) = fs::read_to_string(bundle.path().join("init.pid"))
                    && let Some(pid) = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw)
                    && !bundle.path().join("exit/init").exists()
                {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
            if let Ok(pid) = fs::read_to_string(self.bundle.join("shim.pid"))
                && let Some(pid) = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw)
                && pid != rustix::process::Pid::from_child(&self.child)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        for path in self.left_over() {
            wait_until(Duration::from_secs(2), || fs::remove_dir(&path).is_ok());
        }
        for entry in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            remove_tree(&entry.path().join(self.cgroup.trim_start_matches('/')));
        }
    }
}

/// Removes a cgroup and those below, as far as nobody is in them.
fn remove_tree(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

pub fn wait_until(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// The exit event in an event.
pub fn exit_of(event: &shim::Event) -> Option<ev::TaskExit> {
    let any = event.event.as_ref()?;
    (any.type_url == "containerd.events.TaskExit")
        .then(|| ev::TaskExit::decode(any.value.as_slice()).unwrap())
}

/// A value of /proc/PID/smaps_rollup or status, in KiB.
pub fn memory(pid: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Processor time that a process has used, in ticks of 10 ms.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
