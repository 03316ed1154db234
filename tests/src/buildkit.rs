//! A buildkitd of a test's own whose worker is our daemon: images, snapshots, and the steps of builds as containers.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::api::NAMESPACE;
use crate::daemon::{Daemon, Output, PATIENCE, answering, run};
use crate::leaks;

/// A running buildkitd; ended when dropped. Drop it before its [`Daemon`].
pub struct Buildkit {
    folder: PathBuf,
    cgroup_parent: String,
    child: Option<Child>,
}

/// One of BuildKit's programs, in the folder that `LONGSHORE_BUILDKIT` named at build time.
fn program(name: &str) -> PathBuf {
    Path::new(option_env!("LONGSHORE_BUILDKIT").unwrap_or_default()).join(name)
}

impl Buildkit {
    /// Starts it below the daemon's folder and waits until it answers.
    ///
    /// # Errors
    /// It ends or does not answer; its log is in the message.
    pub fn start(daemon: &Daemon) -> Result<Buildkit> {
        let folder = daemon.path().join("buildkit");
        fs::create_dir_all(&folder)?;
        let config = format!(
            "root = \"{root}\"\n[grpc]\naddress = [\"unix://{socket}\"]\n[otel]\nsocketPath = \"{otel}\"\n[worker.oci]\nenabled = false\n\
            [worker.containerd]\nenabled = true\naddress = \"{daemon}\"\nnamespace = \"{NAMESPACE}\"\n\
            networkMode = \"host\"\ndefaultCgroupParent = \"/{parent}\"\n",
            root = folder.join("root").display(),
            socket = folder.join("buildkitd.sock").display(),
            otel = folder.join("otel.sock").display(),
            daemon = daemon.socket().display(),
            parent = daemon.cgroup_parent(),
        );
        fs::write(folder.join("buildkitd.toml"), config)?;
        let log = fs::File::options().create(true).append(true).open(folder.join("log"))?;
        let child = Command::new(program("buildkitd"))
            .arg("--config")
            .arg(folder.join("buildkitd.toml"))
            .env(leaks::MARK, "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting buildkitd")?;
        let mut buildkit = Buildkit { folder, cgroup_parent: daemon.cgroup_parent().to_owned(), child: None };
        let answers = || {
            UnixStream::connect(buildkit.folder.join("buildkitd.sock")).is_ok()
                && buildkit.buildctl(&["debug", "workers"]).code == 0
        };
        buildkit.child = Some(answering(child, "buildkitd", answers, || buildkit.log())?);
        Ok(buildkit)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Runs `buildctl …` to its end.
    #[track_caller]
    pub fn buildctl(&self, args: &[&str]) -> Output {
        let address = format!("unix://{}", self.folder.join("buildkitd.sock").display());
        run(Command::new(program("buildctl")).arg("--addr").arg(address).args(args)).expect("buildctl runs")
    }

    /// Builds the Dockerfile in a folder; `output` says what becomes of the result. The progress is on stderr.
    #[track_caller]
    pub fn build(&self, context: &Path, output: &str) -> Output {
        let local = |name: &str| format!("{name}={}", context.display());
        let (context, dockerfile) = (local("context"), local("dockerfile"));
        let words = ["build", "--progress=plain", "--frontend=dockerfile.v0", "--local", &context];
        self.buildctl(&[&words[..], &["--local", &dockerfile, "--output", output]].concat())
    }
}

impl Drop for Buildkit {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
        leaks::remove_group(&self.cgroup_parent, "buildkit");
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(60).collect();
            eprintln!("--- buildkitd's log");
            lines.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}
