//! A dockerd of a test's own, which runs its containers by our daemon.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Daemon, Output, PATIENCE, run};
use crate::{Containerd, leaks};

/// Which dockerd it is, and who keeps its images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edition {
    /// The distribution's, with a graph driver of its own.
    Distribution,
    /// The one that `LONGSHORE_NEWER_DOCKERD` named at build time, with a graph driver of its own, and the host's runc,
    /// which may not know time namespaces yet.
    Newer,
    /// The same, with images and snapshots in our daemon, and our own runtime.
    NewerImageStore,
}

impl Edition {
    fn program(self) -> &'static str {
        match self {
            Edition::Distribution => "dockerd",
            Edition::Newer | Edition::NewerImageStore => {
                option_env!("LONGSHORE_NEWER_DOCKERD").unwrap_or_default()
            }
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Edition::Distribution => &[],
            Edition::Newer => &[
                "--feature=containerd-snapshotter=false",
                "--feature=time-namespaces=false",
                "--storage-driver=overlay2",
            ],
            Edition::NewerImageStore => {
                &["--feature=containerd-snapshotter=true", "--default-runtime=io.containerd.longshore.v1"]
            }
        }
    }
}

/// Which networks it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Networks {
    /// None but the host's.
    None,
    /// Its bridges, addresses and firewall, in a network namespace of its own.
    Own,
}

/// Where a dockerd lives, and on whose socket.
struct Place<'a> {
    folder: &'a Path,
    containerd: &'a Path,
    cgroup_parent: &'a str,
}

/// A running dockerd; gone with its containers when dropped. Drop it before its [`Daemon`].
pub struct Dockerd {
    folder: PathBuf,
    cgroup_parent: String,
    child: Child,
}

impl Dockerd {
    /// Starts it below the daemon's folder and waits until it answers.
    ///
    /// # Errors
    /// It ends or does not answer; the end of its log is in the message.
    pub fn start(daemon: &Daemon, edition: Edition, networks: Networks, more: &[&str]) -> Result<Dockerd> {
        let place = Place {
            folder: daemon.path(),
            containerd: &daemon.socket(),
            cgroup_parent: daemon.cgroup_parent(),
        };
        Dockerd::start_at(place, edition, networks, more)
    }

    /// On the socket of a real containerd.
    ///
    /// # Errors
    /// As for [`Dockerd::start`].
    pub fn start_on(containerd: &Containerd, networks: Networks, more: &[&str]) -> Result<Dockerd> {
        let place = Place {
            folder: containerd.path(),
            containerd: &containerd.socket(),
            cgroup_parent: containerd.cgroup_parent(),
        };
        Dockerd::start_at(place, Edition::Distribution, networks, more)
    }

    fn start_at(place: Place<'_>, edition: Edition, networks: Networks, more: &[&str]) -> Result<Dockerd> {
        let folder = place.folder.join("docker");
        fs::create_dir_all(&folder)?;
        let mut command = match networks {
            Networks::None => Command::new(edition.program()),
            Networks::Own => {
                let mut command = Command::new("unshare");
                let script = "ip link set lo up && exec \"$0\" \"$@\"";
                command.args(["--net", "sh", "-c", script, edition.program()]);
                command
            }
        };
        let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
        command
            .arg(option("containerd", place.containerd))
            .arg(option("data-root", &folder.join("data")))
            .arg(option("exec-root", &folder.join("exec")))
            .arg(option("pidfile", &folder.join("pid")))
            .arg(option("config-file", &folder.join("daemon.json")))
            .arg(format!("--host=unix://{}", folder.join("docker.sock").display()))
            .arg(format!("--cgroup-parent=/{}", place.cgroup_parent));
        if networks == Networks::None {
            command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        }
        fs::write(folder.join("daemon.json"), "{}")?;
        let log = fs::File::options().create(true).append(true).open(folder.join("log"))?;
        command.args(edition.options()).args(more).env(leaks::MARK, "1");
        // docker-compose asks for the version that its file format came with.
        command.env("DOCKER_MIN_API_VERSION", "1.24");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("starting dockerd")?;
        let mut dockerd = Dockerd { folder, cgroup_parent: place.cgroup_parent.to_owned(), child };
        dockerd.wait_until_it_answers()?;
        Ok(dockerd)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).is_err() || self.docker(&["version"]).code != 0 {
            if let Some(status) = self.child.try_wait()? {
                bail!("dockerd ended with {status}:\n{}", self.log());
            }
            if Instant::now() > deadline {
                bail!("dockerd does not answer:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The process, whose network namespace is the networks' own if it has one.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("docker.sock")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// A program that speaks to this dockerd: `docker` or `docker-compose`.
    pub fn client<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", &self.folder)
            .env("DOCKER_BUILDKIT", "0")
            .env(leaks::MARK, "1");
        command
    }

    /// Runs `docker …` to its end.
    #[track_caller]
    pub fn docker<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        run(&mut self.client("docker", args)).expect("docker runs")
    }

    fn clean(&mut self) {
        for id in self.docker(&["ps", "-a", "-q"]).stdout.split_whitespace() {
            self.docker(&["rm", "-f", "-v", id]);
        }
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The one mount that dockerd keeps for the host's network namespace; mostly it takes it away itself.
        let _ =
            nix::mount::umount2(&self.folder.join("exec/netns/default"), nix::mount::MntFlags::MNT_DETACH);
        leaks::remove_group(&self.cgroup_parent, "buildkit");
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.clean();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(60).collect();
            eprintln!("--- dockerd's log");
            lines.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
