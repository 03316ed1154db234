//! A longshore-snapshotter of a test's own, gone when dropped.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{PATIENCE, answering, program};
use crate::leaks;

/// The running plugin.
pub struct Snapshotter {
    folder: tempfile::TempDir,
    driver: &'static str,
    child: Option<Child>,
}

impl Snapshotter {
    pub fn start(driver: &'static str) -> Snapshotter {
        let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
        let mut snapshotter = Snapshotter { folder, driver, child: None };
        snapshotter.launch().expect("the plugin starts");
        snapshotter
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("s.sock")
    }

    /// A table of a daemon's configuration that names it.
    pub fn config(&self, name: &str) -> String {
        format!("[proxy_plugins.{name}]\ntype = \"snapshot\"\naddress = {:?}\n", self.socket())
    }

    pub fn launch(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.path().join("log"))?;
        let child = Command::new(program("longshore-snapshotter"))
            .arg("--root")
            .arg(self.path().join("root"))
            .arg("--address")
            .arg(self.socket())
            .args(["--driver", self.driver, "--log-level", "debug"])
            .env(leaks::MARK, "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting longshore-snapshotter")?;
        let answers = || UnixStream::connect(self.socket()).is_ok();
        self.child = Some(answering(child, "longshore-snapshotter", answers, || self.log())?);
        Ok(())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// Ends it as a power cut would end its process.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to stop, and waits; its exit code.
    pub fn stop(&mut self) -> Result<Option<i32>> {
        let Some(mut child) = self.child.take() else { return Ok(None) };
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("longshore-snapshotter did not stop:\n{}", self.log());
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Snapshotter {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- longshore-snapshotter's log\n{}", self.log());
        }
    }
}
