//! A real containerd of a test's own: its own root, state, socket and cgroup parent, with our shim on its PATH; gone
//! without a trace when dropped.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Output, PATIENCE, answering, program, run};
use crate::registry::Registry;
use crate::{image, leaks};

/// Names a folder with another containerd's `containerd` and `ctr`, to run the same tests with.
pub const HEAD: &str = "LONGSHORE_CONTAINERD_HEAD";

/// Our shim, under its own name.
pub const OURS: &str = "io.containerd.longshore.v1";
/// Our shim too, under the name for which `ctr` takes runc's options.
pub const RUNC: &str = "io.containerd.runc.v2";

/// Parts that need what a test host may lack, or that would touch what is not theirs.
const DISABLED: &str = r#"["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
    "io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.zfs"]"#;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// How the daemon is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// As the host is.
    Plain,
    /// In a mount namespace without the unified cgroup hierarchy: a pure v1 host, as crun wants it.
    OnlyV1,
}

/// A program of the host's.
fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.exists())
}

/// A running containerd.
pub struct Containerd {
    folder: tempfile::TempDir,
    cgroup_parent: String,
    host: Host,
    daemon: PathBuf,
    ctr: PathBuf,
    child: Option<Child>,
}

impl Containerd {
    /// The host's own.
    pub fn debian() -> Containerd {
        Containerd::start(Path::new("containerd"), Path::new("ctr"), Host::Plain, "")
            .expect("containerd starts")
    }

    /// The one in [`HEAD`], or the host's own.
    pub fn any() -> Containerd {
        match std::env::var_os(HEAD).map(PathBuf::from) {
            Some(folder) => {
                Containerd::start(&folder.join("containerd"), &folder.join("ctr"), Host::Plain, "")
                    .expect("containerd starts")
            }
            None => Containerd::debian(),
        }
    }

    /// [`Containerd::any`] with its own shim for runc-compatible runtimes.
    pub fn with_its_own_shim() -> Containerd {
        let folder = std::env::var_os(HEAD).map(PathBuf::from);
        let program = |name: &str| folder.as_ref().map_or_else(|| name.into(), |folder| folder.join(name));
        let shim = match folder.is_some() {
            true => program("containerd-shim-runc-v2"),
            false => which("containerd-shim-runc-v2").expect("containerd's shim"),
        };
        Containerd::start_with(&program("containerd"), &program("ctr"), Host::Plain, "", &shim)
            .expect("containerd starts")
    }

    /// `config` is more TOML.
    pub fn start(daemon: &Path, ctr: &Path, host: Host, config: &str) -> Result<Containerd> {
        Containerd::start_with(daemon, ctr, host, config, &program("containerd-shim-longshore-v1"))
    }

    /// `runc_shim` serves `io.containerd.runc.v2`.
    fn start_with(
        daemon: &Path,
        ctr: &Path,
        host: Host,
        config: &str,
        runc_shim: &Path,
    ) -> Result<Containerd> {
        let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir()?;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let cgroup_parent = format!("{}{}-c{number}", leaks::PREFIX, std::process::id());
        let mut containerd =
            Containerd { folder, cgroup_parent, host, daemon: daemon.into(), ctr: ctr.into(), child: None };
        let bin = containerd.path().join("bin");
        fs::create_dir(&bin)?;
        let ours = program("containerd-shim-longshore-v1");
        std::os::unix::fs::symlink(ours, bin.join("containerd-shim-longshore-v1"))?;
        std::os::unix::fs::symlink(runc_shim, bin.join("containerd-shim-runc-v2"))?;
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = {DISABLED}\n{config}\n[grpc]\naddress = {:?}\n[debug]\nlevel = \"debug\"\n",
            containerd.path().join("root"),
            containerd.state(),
            containerd.socket(),
        );
        fs::write(containerd.path().join("config.toml"), text)?;
        containerd.launch()?;
        Ok(containerd)
    }

    /// Whether it is the host's own, and not a newer one.
    pub fn is_debians(&self) -> bool {
        self.ctr == Path::new("ctr")
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn cgroup_parent(&self) -> &str {
        &self.cgroup_parent
    }

    fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("c.sock")
    }

    /// The folder of bundles of the namespace `default`.
    pub fn bundles(&self) -> PathBuf {
        self.state().join("io.containerd.runtime.v2.task/default")
    }

    pub fn bundle(&self, id: &str) -> PathBuf {
        self.bundles().join(id)
    }

    /// The number in a file of a bundle, such as `shim.pid`.
    #[track_caller]
    pub fn pid(&self, id: &str, file: &str) -> i32 {
        let text = fs::read_to_string(self.bundle(id).join(file)).expect("a file with a process id");
        text.trim().parse().expect("a process id")
    }

    /// Starts the daemon and waits until it answers.
    pub fn launch(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.path().join("log"))?;
        let mut command = match self.host {
            Host::Plain => Command::new(&self.daemon),
            Host::OnlyV1 => {
                let mut command = Command::new("unshare");
                let script = "umount /sys/fs/cgroup/unified; exec \"$0\" \"$@\"";
                command.args(["--mount", "sh", "-c", script]).arg(&self.daemon);
                command
            }
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            std::iter::once(self.path().join("bin")).chain(std::env::split_paths(&path)),
        )?;
        command.arg("--config").arg(self.path().join("config.toml")).env("PATH", path).env(leaks::MARK, "1");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting containerd")?;
        let answers = || self.ctr(&["version"]).code == 0;
        self.child = Some(answering(child, "containerd", answers, || self.log())?);
        Ok(())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// Ends the daemon as a power cut would end its process.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn ctr_command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(&self.ctr);
        command.arg("--address").arg(self.socket()).args(args).env(leaks::MARK, "1");
        command
    }

    /// Runs its `ctr …` to the end.
    #[track_caller]
    pub fn ctr<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        run(&mut self.ctr_command(args)).expect("ctr runs")
    }

    /// The command of `ctr run` with everything that keeps it in this daemon's own folders; `more` are further flags.
    pub fn run_command(
        &self,
        runtime: &str,
        id: &str,
        more: &[&str],
        image: &str,
        program: &[&str],
    ) -> Command {
        let cgroup = format!("/{}/{id}", self.cgroup_parent);
        let fifos = self.path().join("fifos").display().to_string();
        let flags = ["run", "--runtime", runtime, "--cgroup", &cgroup, "--fifo-dir", &fifos];
        let args: Vec<&str> = flags
            .into_iter()
            .chain(more.iter().copied())
            .chain([image, id])
            .chain(program.iter().copied())
            .collect();
        self.ctr_command(&args)
    }

    #[track_caller]
    pub fn run(&self, runtime: &str, id: &str, more: &[&str], image: &str, program: &[&str]) -> Output {
        run(&mut self.run_command(runtime, id, more, image, program)).expect("ctr runs")
    }

    /// Runs `ctr tasks exec`.
    #[track_caller]
    pub fn exec(&self, id: &str, exec_id: &str, program: &[&str]) -> Output {
        let fifos = self.path().join("fifos").display().to_string();
        let flags = ["tasks", "exec", "--fifo-dir", &fifos, "--exec-id", exec_id, id];
        let args: Vec<&str> = flags.into_iter().chain(program.iter().copied()).collect();
        self.ctr(&args)
    }

    /// What `ctr tasks ls` says of a container; empty: nothing.
    #[track_caller]
    pub fn status(&self, id: &str) -> String {
        let list = self.ctr(&["tasks", "ls"]).ok().stdout;
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(id));
        line.and_then(|line| line.split_whitespace().nth(2)).unwrap_or_default().to_owned()
    }

    /// Pulls busybox from a registry.
    pub fn pull_busybox(&self, registry: &Registry) -> Result<String> {
        registry.put("library/busybox", "latest", &image::busybox()?.build()?);
        let name = registry.reference("library/busybox:latest");
        let local: &[&str] = if self.is_debians() { &[] } else { &["--local"] };
        let args: Vec<&str> =
            ["images", "pull", "--plain-http"].iter().chain(local).copied().chain([name.as_str()]).collect();
        self.ctr(&args).ok();
        Ok(name)
    }

    /// Whether a process lives; one that nobody has reaped does not.
    pub fn lives(pid: i32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    /// The cgroups of a container that exist.
    pub fn cgroups(&self, id: &str) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let all = hierarchies.map(|hierarchy| hierarchy.path().join(&self.cgroup_parent).join(id));
        all.filter(|path| path.is_dir()).collect()
    }

    fn clean(&mut self) -> Result<()> {
        if self.child.is_none() {
            self.launch()?;
        }
        let tasks = self.ctr(&["tasks", "ls", "-q"]).stdout;
        for id in tasks.split_whitespace() {
            self.ctr(&["tasks", "rm", "--force", id]);
        }
        let containers = self.ctr(&["containers", "ls", "-q"]).stdout;
        for id in containers.split_whitespace() {
            self.ctr(&["containers", "rm", id]);
        }
        let Some(mut child) = self.child.take() else { return Ok(()) };
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("containerd did not stop:\n{}", self.log());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(())
    }

    fn shims(&self) -> Vec<i32> {
        let sandboxes = self.state().join("io.containerd.sandbox.controller.v1.shim/default");
        let folders = [self.bundles(), sandboxes];
        let bundles = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
        let texts = bundles.filter_map(|bundle| fs::read_to_string(bundle.path().join("shim.pid")).ok());
        texts.filter_map(|text| text.trim().parse().ok()).collect()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let cleaned = self.clean();
        self.kill();
        let left = leaks::sweep(self.path(), &self.cgroup_parent, &self.shims());
        if std::thread::panicking() {
            eprintln!("--- containerd's log\n{}", self.log());
            return;
        }
        if let Err(error) = cleaned {
            panic!("stopping containerd: {error:#}");
        }
        assert!(left.is_empty(), "left behind: {left:#?}\n{}", self.log());
    }
}
