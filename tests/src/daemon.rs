//! A longshored of a test's own: its own root, state, socket and cgroup parent, gone without a trace when dropped.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::leaks;

/// How long anything in the harness waits before it calls a test failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where cargo put the workspace's programs: beside this test program.
pub fn program(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("LONGSHORE_BIN_DIR") {
        return Path::new(&folder).join(name);
    }
    let mut folder = std::env::current_exe().expect("the path of this program");
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    folder.join(name)
}

/// What a command left.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    fn of(output: std::process::Output) -> Output {
        use std::os::unix::process::ExitStatusExt;
        let status = output.status;
        Output {
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails the test, showing everything, unless the command ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Output {
        assert_eq!(self.code, code, "exit code\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn ok(self) -> Output {
        self.expect(0)
    }

    /// The standard output without the white space around it.
    pub fn line(&self) -> &str {
        self.stdout.trim()
    }
}

/// Runs a command to its end, with nothing on stdin; kills it by its id after [`PATIENCE`] times four.
pub fn run(command: &mut Command) -> Result<Output> {
    let shown = format!("{command:?}");
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {shown}"))?;
    finish(child).with_context(|| shown)
}

/// Waits for a child whose output is piped.
pub fn finish(mut child: Child) -> Result<Output> {
    let mut stdout = child.stdout.take();
    let mut stderr = child.stderr.take();
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            bytes
        })
    };
    let out = read(stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let err = read(stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let deadline = Instant::now() + PATIENCE * 4;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("did not end within {:?}", PATIENCE * 4);
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let stdout = out.join().unwrap_or_default();
    let stderr = err.join().unwrap_or_default();
    Ok(Output::of(std::process::Output { status, stdout, stderr }))
}

/// Waits until a server that was started answers; one that does not is ended, and its log told.
pub fn answering(
    mut child: Child,
    name: &str,
    answers: impl Fn() -> bool,
    log: impl Fn() -> String,
) -> Result<Child> {
    let deadline = Instant::now() + PATIENCE;
    while !answers() {
        if let Some(status) = child.try_wait()? {
            bail!("{name} ended with {status}:\n{}", log());
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("{name} does not answer:\n{}", log());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(child)
}

/// Waits until `condition` holds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Of each daemon's own: the name of its default bridge, and 4096 addresses of 10.64.0.0 to 10.255.255.255.
#[derive(Debug)]
struct Addresses {
    bridge: String,
    config: String,
    /// Nobody else on this host has them while this is bound.
    _claim: UnixListener,
}

impl Addresses {
    fn new(number: u32) -> Addresses {
        let first = std::process::id().wrapping_add(number.wrapping_mul(977));
        let claim = |slot: u32| {
            // Podman's own network, 10.88.0.0/16, stays on a host where it once ran.
            let is_podmans = slot / 16 == 88 - 64;
            if is_podmans {
                return None;
            }
            let name = SocketAddr::from_abstract_name(format!("longshore-test-addresses-{slot}")).ok()?;
            Some((slot, UnixListener::bind_addr(&name).ok()?))
        };
        let claimed = (0..3072).find_map(|more| claim(first.wrapping_add(more) % 3072));
        let (slot, claim) = claimed.expect("addresses that no other test has");
        let at = |offset: u32| std::net::Ipv4Addr::from(0x0a40_0000 + slot * 4096 + offset);
        let bridge = format!("lst{slot:04x}");
        let config = format!(
            "bridge = \"{bridge}\"\nsubnet = \"{}/24\"\npools = [{{ base = \"{}/21\", size = 26 }}]\n",
            at(1),
            at(2048)
        );
        Addresses { bridge, config, _claim: claim }
    }
}

/// A running daemon.
pub struct Daemon {
    folder: tempfile::TempDir,
    cgroup_parent: String,
    child: Option<Child>,
    mounted: bool,
    addresses: Addresses,
}

/// What differs from an ordinary test daemon.
#[derive(Default)]
pub struct Settings {
    /// More TOML for the config file.
    pub config: String,
    /// Put root and state on a tmpfs of this many bytes.
    pub tmpfs: Option<u64>,
    /// A shell script that the daemon and its shims find as `criu`.
    pub criu: Option<&'static str>,
}

impl Daemon {
    pub fn start() -> Daemon {
        Daemon::with(Settings::default()).expect("a daemon starts")
    }

    pub fn with(settings: Settings) -> Result<Daemon> {
        ensure!(nix::unistd::geteuid().is_root(), "these tests need root");
        let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir()?;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let cgroup_parent = format!("longshore-test-{}-{number}", std::process::id());
        let addresses = Addresses::new(number);
        let mut daemon = Daemon { folder, cgroup_parent, child: None, mounted: false, addresses };
        if let Some(size) = settings.tmpfs {
            nix::mount::mount(
                Some("tmpfs"),
                daemon.path(),
                Some("tmpfs"),
                nix::mount::MsFlags::empty(),
                Some(format!("size={size},mode=0700").as_str()),
            )
            .context("mounting a tmpfs for the daemon")?;
            daemon.mounted = true;
        }
        if let Some(script) = settings.criu {
            fs::create_dir(daemon.programs())?;
            let path = daemon.programs().join("criu");
            fs::write(&path, script)?;
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        let has_runtime = settings.config.contains("[runtime]");
        let parent = format!("cgroup_parent = \"{}\"\n", daemon.cgroup_parent);
        let config = if has_runtime {
            settings.config.replacen("[runtime]\n", &format!("[runtime]\n{parent}"), 1)
        } else {
            format!("{}\n[runtime]\n{parent}", settings.config)
        };
        let own = &daemon.addresses.config;
        let config = if config.contains("[network]\n") {
            config.replacen("[network]\n", &format!("[network]\n{own}"), 1)
        } else {
            format!("{config}\n[network]\n{own}")
        };
        fs::write(daemon.path().join("config.toml"), config)?;
        daemon.launch()?;
        Ok(daemon)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("longshore.sock")
    }

    pub fn log(&self) -> PathBuf {
        self.path().join("daemon.log")
    }

    pub fn cgroup_parent(&self) -> &str {
        &self.cgroup_parent
    }

    /// Name of the default network's interface.
    pub fn bridge(&self) -> &str {
        &self.addresses.bridge
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Programs that are found before the host's.
    fn programs(&self) -> PathBuf {
        self.path().join("bin")
    }

    /// The command that starts this daemon.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program("longshored"));
        command
            .arg("--config")
            .arg(self.path().join("config.toml"))
            .arg("--root")
            .arg(self.root())
            .arg("--state")
            .arg(self.state())
            .arg("--address")
            .arg(self.socket())
            .args(["--log-level", "debug"])
            .env(leaks::MARK, "1")
            .stdin(Stdio::null());
        if self.programs().is_dir() {
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", self.programs().display()));
        }
        command
    }

    /// Starts the daemon and waits until it answers.
    pub fn launch(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.log())?;
        let child =
            self.command().stdout(log.try_clone()?).stderr(log).spawn().context("starting longshored")?;
        let pid = child.id();
        let answers = || UnixStream::connect(self.socket()).is_ok_and(|stream| is_served_by(&stream, pid));
        self.child = Some(answering(child, "longshored", answers, || self.log_text())?);
        Ok(())
    }

    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Ends the daemon as a power cut would end its process.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the daemon to stop, and waits.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("longshored did not stop within {PATIENCE:?} of SIGTERM:\n{}", self.log_text());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// `longshore …`, against this daemon.
    pub fn ctl_command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(program("longshore"));
        command.arg("-H").arg(format!("unix://{}", self.socket().display())).args(args).env(leaks::MARK, "1");
        command
    }

    /// Runs `longshore …` to its end.
    #[track_caller]
    pub fn ctl<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        run(&mut self.ctl_command(args)).expect("longshore runs")
    }

    /// `ctr …` of the host's containerd package, against this daemon.
    #[track_caller]
    pub fn ctr<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket()).args(args).env(leaks::MARK, "1");
        run(&mut command).expect("ctr runs")
    }

    /// Process ids of this daemon's shims, from the bundles.
    pub fn shims(&self) -> Vec<i32> {
        let mut found = Vec::new();
        for namespace in entries(&self.state().join("tasks")) {
            for bundle in entries(&namespace) {
                let pid = fs::read_to_string(bundle.join("shim.pid")).unwrap_or_default();
                found.extend(pid.trim().parse::<i32>());
            }
        }
        // Containers of one pod have one.
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Process ids of shims that this daemon started: those of its bundles, and those that wait for one.
    pub fn shim_processes(&self) -> Vec<i32> {
        let homes = [self.state().join("tasks"), self.state().join("shims")];
        let mine = self.pid().map(|pid| pid.to_string()).unwrap_or_default();
        let is_mine = |process: &Path| {
            let program = fs::read_link(process.join("exe")).unwrap_or_default();
            if !program.to_string_lossy().contains("containerd-shim-longshore") {
                return false;
            }
            let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
            let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
            let folder = fs::read_link(process.join("cwd")).unwrap_or_default();
            parent == Some(mine.as_str()) || homes.iter().any(|home| folder.starts_with(home))
        };
        let processes = entries(Path::new("/proc")).into_iter().filter(|process| is_mine(process));
        processes.filter_map(|process| process.file_name()?.to_str()?.parse().ok()).collect()
    }

    /// Names of the cgroups that its containers have.
    pub fn cgroups(&self) -> std::collections::BTreeSet<String> {
        let hierarchies = entries(Path::new("/sys/fs/cgroup"));
        let parents = hierarchies.iter().map(|hierarchy| hierarchy.join(&self.cgroup_parent));
        let pure = Path::new("/sys/fs/cgroup").join(&self.cgroup_parent);
        parents
            .chain([pure])
            .flat_map(|parent| entries(&parent))
            .filter(|group| group.is_dir())
            .filter_map(|group| Some(group.file_name()?.to_str()?.to_owned()))
            .filter(|name| !name.contains('.') && !name.starts_with("cgroup"))
            .collect()
    }

    /// Where something is mounted in this daemon's folder.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        points.filter(|point| point.starts_with(self.path()) && point != self.path()).collect()
    }

    /// Ends everything that this daemon has; the names of the interfaces that may not be there after it.
    fn clean(&mut self, interfaces: &mut Vec<String>) -> Result<()> {
        if self.child.is_none() {
            self.launch()?;
        }
        let networks = self.ctl(&["network", "ls", "-q"]);
        interfaces.extend(networks.stdout.split_whitespace().map(|id| format!("ls-{id}")));
        let ids = self.ctl(&["ps", "-a", "-q", "--no-trunc"]);
        for id in ids.stdout.split_whitespace() {
            self.ctl(&["rm", "-f", id]);
        }
        self.stop()
    }
}

/// A program that a killed daemon was just starting has that one's socket for a moment longer.
fn is_served_by(stream: &UnixStream, pid: u32) -> bool {
    let server = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials);
    server.is_ok_and(|server| u32::try_from(server.pid()) == Ok(pid))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|dir| dir.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut interfaces = vec![self.addresses.bridge.clone()];
        let cleaned = self.clean(&mut interfaces);
        self.kill();
        // What a failed test leaves is removed by the ids and names that this daemon owned.
        let mut left = leaks::sweep(self.path(), &self.cgroup_parent, &self.shims());
        left.extend(leaks::sweep_interfaces(&interfaces));
        if self.mounted {
            let _ = nix::mount::umount2(self.folder.path(), nix::mount::MntFlags::MNT_DETACH);
        }
        if std::thread::panicking() {
            eprintln!("--- longshored's log\n{}", tail(&self.log_text()));
            return;
        }
        if let Err(error) = cleaned {
            panic!("stopping the daemon: {error:#}\n{}", tail(&self.log_text()));
        }
        assert!(left.is_empty(), "left behind by the daemon: {left:#?}\n{}", tail(&self.log_text()));
    }
}

fn tail(log: &str) -> &str {
    let start = log.len().saturating_sub(16 * 1024);
    let start = (start..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len());
    &log[start..]
}
