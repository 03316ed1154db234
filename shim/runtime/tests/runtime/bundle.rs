//! A bundle in a temporary folder, and containers made from it.

use longshore_runtime::{
    Container, CreateOptions, Error, ExecOptions, Process, RootfsMount, Stdio, cgroups::CgroupPaths,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// Longest time that a process of a test may take.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

const APPLETS: &[&str] = &[
    "sh", "true", "false", "cat", "echo", "id", "ls", "mount", "sleep", "hostname", "ifconfig", "env", "pwd",
    "ps", "touch", "mkdir", "ln", "stat", "readlink", "kill", "dd", "head", "grep", "wc", "tty", "stty",
    "umask", "dmesg", "chmod", "rm", "setsid", "tail", "seq", "nproc", "test", "mknod", "timeout", "tr",
    "sort", "cut", "sed", "df",
];

/// How a process ended, and what it wrote.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

pub struct Bundle {
    pub dir: tempfile::TempDir,
    pub id: String,
    pub spec: Value,
    pub rootfs_mounts: Vec<RootfsMount>,
    pub seccomp_cache: Option<PathBuf>,
    pub no_pivot: bool,
    pub systemd: bool,
}

/// A container whose first process writes to files of the test.
pub struct Running {
    pub container: Option<Container>,
    pub stdout: File,
    pub stderr: File,
}

fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Bundle {
    /// A bundle that runs `sh -c script` with all usual namespaces.
    pub fn new(script: &str) -> Bundle {
        let dir = tempfile::Builder::new().prefix("longshore-test-").tempdir().unwrap();
        let root = dir.path().join("rootfs");
        for folder in ["bin", "dev", "proc", "sys", "tmp", "etc", "root"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let id = format!("longshore-test-{}", unique());
        let spec = spec(&id, script);
        Bundle {
            dir,
            id,
            spec,
            rootfs_mounts: Vec::new(),
            seccomp_cache: None,
            no_pivot: false,
            systemd: false,
        }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub fn cgroups_path(&self) -> String {
        format!("/{}/container", self.id)
    }

    pub fn args(&mut self, args: &[&str]) -> &mut Self {
        self.spec["process"]["args"] = json!(args);
        self
    }

    pub fn add_mount(&mut self, mount: Value) -> &mut Self {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    pub fn remove_mount(&mut self, destination: &str) -> &mut Self {
        self.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != destination);
        self
    }

    pub fn remove_namespace(&mut self, kind: &str) -> &mut Self {
        self.spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|namespace| namespace["type"] != kind);
        self
    }

    pub fn create_with(&self, stdio: Stdio) -> Result<Container, Error> {
        let mut spec = serde_json::from_value(self.spec.clone()).unwrap();
        // For an ordinary user; root goes on as it is.
        longshore_runtime::rootless::enter_new(&mut spec)?;
        Container::create(CreateOptions {
            id: &self.id,
            bundle: self.dir.path(),
            spec: &spec,
            rootfs_mounts: &self.rootfs_mounts,
            stdio,
            console_size: None,
            seccomp_cache: self.seccomp_cache.as_deref(),
            no_pivot: self.no_pivot,
            no_new_keyring: false,
            hand_over: None,
            preserve_fds: 0,
            init: None,
            systemd_cgroup: self.systemd,
            note_cgroups: None,
        })
    }

    pub fn create(&self) -> Result<Running, Error> {
        let (stdio, stdout, stderr) = files();
        Ok(Running { container: Some(self.create_with(stdio)?), stdout, stderr })
    }

    /// Creates and starts.
    pub fn start(&self) -> Running {
        let mut running = self.create().unwrap_or_else(|error| panic!("create: {error}"));
        running.container().start().unwrap_or_else(|error| panic!("start: {error}"));
        running
    }

    /// Runs to completion.
    pub fn run(&self) -> Outcome {
        self.start().finish()
    }

    /// Runs to completion, expects success, and answers what was written to stdout without the last newline.
    pub fn output(&self) -> String {
        let outcome = self.run();
        assert_eq!(outcome.code, 0, "{outcome:?}");
        outcome.stdout.trim_end().to_owned()
    }

    /// The error of a create or start that must fail.
    pub fn failure(&self) -> Error {
        let mut running = match self.create() {
            Err(error) => return error,
            Ok(running) => running,
        };
        match running.container().start() {
            Err(error) => {
                running.finish();
                error
            }
            Ok(()) => panic!("runs, but must not: {:?}", running.finish()),
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = longshore_runtime::cgroups::remove_orphan(&format!("/{}", self.id));
            return;
        }
        let left = CgroupPaths::open(&self.cgroups_path()).unwrap();
        assert!(left.hierarchies().is_empty(), "cgroups are left: {:?}", left.hierarchies());
        // The folder above was made on the way.
        longshore_runtime::cgroups::remove_orphan(&format!("/{}", self.id)).unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.path().to_str().unwrap();
        assert!(!mounts.contains(dir), "a mount is left below {dir}");
    }
}

impl Running {
    pub fn container(&mut self) -> &mut Container {
        self.container.as_mut().unwrap()
    }

    /// Waits for the first process, deletes the container.
    pub fn finish(mut self) -> Outcome {
        let container = self.container.take().unwrap();
        let code = wait(container.pid(), container.pidfd());
        container.delete().unwrap_or_else(|error| panic!("delete: {error}"));
        Outcome { code, stdout: text(&mut self.stdout), stderr: text(&mut self.stderr) }
    }

    /// Kills it, waits, deletes.
    pub fn kill(self) -> Outcome {
        self.container.as_ref().unwrap().kill(libc::SIGKILL).unwrap();
        self.finish()
    }

    /// What the first process has written so far.
    pub fn stdout(&mut self) -> String {
        text(&mut self.stdout)
    }

    /// Waits until the first process has written something that contains `needle`.
    pub fn wait_for_output(&mut self, needle: &str) -> String {
        for _ in 0..6000 {
            let stdout = self.stdout();
            if stdout.contains(needle) {
                return stdout;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("never wrote {needle:?}: {:?} {:?}", self.stdout(), text(&mut self.stderr));
    }

    /// One more process, which waits at its gate.
    pub fn exec_waiting(&mut self, process: Value) -> Result<(Process, File, File), Error> {
        let (stdio, stdout, stderr) = files();
        let process = serde_json::from_value(process).unwrap();
        let options = ExecOptions {
            process: &process,
            stdio,
            console_size: None,
            ignore_paused: false,
            preserve_fds: 0,
        };
        Ok((self.container().exec(options)?, stdout, stderr))
    }

    pub fn exec_process(&mut self, process: Value) -> Result<(Process, File, File), Error> {
        let (mut process, stdout, stderr) = self.exec_waiting(process)?;
        if let Err(error) = process.start() {
            wait(process.pid(), process.pidfd());
            return Err(error);
        }
        Ok((process, stdout, stderr))
    }

    /// Runs one more process to completion.
    pub fn exec(&mut self, process: Value) -> Result<Outcome, Error> {
        let (process, mut stdout, mut stderr) = self.exec_process(process)?;
        let code = wait(process.pid(), process.pidfd());
        Ok(Outcome { code, stdout: text(&mut stdout), stderr: text(&mut stderr) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(container) = self.container.take() {
            let (pid, pidfd) = (container.pid(), container.pidfd().try_clone_to_owned().unwrap());
            let _ = container.delete();
            wait(pid, pidfd.as_fd());
        }
    }
}

/// Stdio of files: empty stdin, and two that the test reads.
pub fn files() -> (Stdio, File, File) {
    let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let stdin: OwnedFd = File::open("/dev/null").unwrap().into();
    let stdio = Stdio::Fds {
        stdin,
        stdout: out.try_clone().unwrap().into(),
        stderr: err.try_clone().unwrap().into(),
    };
    (stdio, out, err)
}

fn text(file: &mut File) -> String {
    let mut text = String::new();
    // Through the file system, as the offset is shared with the container.
    let mut own = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file))).unwrap();
    own.rewind().unwrap();
    own.read_to_string(&mut text).unwrap();
    text
}

/// Waits for a child and reaps it; 128 + n for signal n.
pub fn wait(pid: i32, pidfd: BorrowedFd<'_>) -> i32 {
    let ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&PATIENCE)).unwrap();
    assert_eq!(ready, 1, "process {pid} does not end");
    let pid = rustix::process::Pid::from_raw(pid);
    let status = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).unwrap().unwrap().1;
    status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
}

/// A further process that runs `sh -c script` as root without capabilities.
pub fn shell(script: &str) -> Value {
    json!({ "args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 } })
}

pub const DEFAULT_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

fn spec(id: &str, script: &str) -> Value {
    let caps = json!(DEFAULT_CAPABILITIES);
    json!({
        "ociVersion": "1.2.0",
        "hostname": "testhost",
        "root": { "path": "rootfs" },
        "process": {
            "args": ["/bin/sh", "-c", script],
            "cwd": "/",
            "env": ["PATH=/bin", "HOME=/root"],
            "user": { "uid": 0, "gid": 0 },
            "noNewPrivileges": true,
            "capabilities": { "bounding": caps, "effective": caps, "permitted": caps }
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] }
        ],
        "linux": {
            "cgroupsPath": format!("/{id}/container"),
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "mount" }, { "type": "network" }, { "type": "uts" }, { "type": "pid" }, { "type": "ipc" }, { "type": "cgroup" }
            ],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/no-such-file"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
