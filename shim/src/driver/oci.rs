//! How another OCI runtime is called: the arguments that are the same for every verb, its log, and its time limit.
//!
//! What always holds: a command that takes too long is killed and reaped; its failure is told in its own words.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{env, io};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::limits;

/// Where runc's shim keeps runc's state if its options do not say.
const ROOT: &str = "/run/containerd/runc";
/// In the bundle: what the last command had to say.
const LOG: &str = "oci-log.json";
/// In the bundle: how the runtime is called, for `delete` after the shim's death.
const RECORD: &str = "oci-runtime.json";

/// Another OCI runtime.
#[derive(Clone, Debug)]
pub struct Oci {
    /// As in the options; looked up on PATH.
    name: String,
    binary: PathBuf,
    root: PathBuf,
    systemd_cgroup: bool,
    /// Where criu is looked for first.
    criu: Option<PathBuf>,
    bundle: PathBuf,
}

impl Oci {
    /// Looks the binary up; `root` is empty for the usual place, and each namespace has its own folder in it.
    pub fn new(
        name: &str,
        root: &str,
        namespace: &str,
        systemd_cgroup: bool,
        criu: &str,
        bundle: &Path,
    ) -> Result<Self> {
        let root = if root.is_empty() { ROOT } else { root };
        Ok(Self {
            name: name.to_owned(),
            binary: find(name)?,
            root: Path::new(root).join(namespace),
            systemd_cgroup,
            criu: Some(PathBuf::from(criu)).filter(|path| path.is_absolute()),
            bundle: bundle.to_owned(),
        })
    }

    /// Whether there is a runtime of this name.
    pub fn is_there(name: &str) -> bool {
        find(name).is_ok()
    }

    pub fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// Notes in the bundle how this runtime is called.
    pub fn record(&self) -> Result<()> {
        let path = self.bundle.join(RECORD);
        let record = json!({
            "name": self.name, "binary": self.binary, "root": self.root,
            "systemdCgroup": self.systemd_cgroup, "criu": self.criu,
        });
        fs::write(&path, record.to_string()).map_err(|source| Error::Io { doing: "write", path, source })
    }

    /// What was noted; `None` if the bundle's container is our own runtime's.
    pub fn recorded(bundle: &Path) -> Option<Self> {
        let text = fs::read(bundle.join(RECORD)).ok()?;
        let record: Value = serde_json::from_slice(&text).ok()?;
        let path = |key: &str| record[key].as_str().map(PathBuf::from);
        Some(Self {
            name: record["name"].as_str()?.to_owned(),
            binary: path("binary")?,
            root: path("root")?,
            systemd_cgroup: record["systemdCgroup"].as_bool().unwrap_or(false),
            criu: path("criu"),
            bundle: bundle.to_owned(),
        })
    }

    /// Forgets what was noted, once the container is deleted.
    pub fn forget(&self) {
        let _ = fs::remove_file(self.bundle.join(RECORD));
        let _ = fs::remove_file(self.bundle.join(LOG));
    }

    /// A command up to its verb.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--root").arg(&self.root).arg("--log").arg(self.bundle.join(LOG));
        command.args(["--log-format", "json"]);
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command
            .arg(verb)
            .current_dir(&self.bundle)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(folder) = self.criu.as_ref().and_then(|criu| criu.parent()) {
            let path = env::var_os("PATH").unwrap_or_default();
            let folders = std::iter::once(folder.to_owned()).chain(env::split_paths(&path));
            if let Ok(joined) = env::join_paths(folders) {
                command.env("PATH", joined);
            }
        }
        command
    }

    /// Runs a verb with these arguments, without stdio.
    pub fn run<S: AsRef<OsStr>>(&self, verb: &'static str, args: &[S], limit: Duration) -> Result<()> {
        let mut command = self.command(verb);
        command.args(args);
        self.finish(verb, command, limit)
    }

    /// Runs a command that is ready.
    pub fn finish(&self, verb: &'static str, mut command: Command, limit: Duration) -> Result<()> {
        let log = self.bundle.join(LOG);
        let _ = fs::remove_file(&log);
        let failed = |why: String| Error::Command { runtime: self.name.clone(), verb, why };
        let mut child =
            command.spawn().map_err(|source| failed(format!("exec: {:?}: {source}", self.name)))?;
        // The other ends of its stdio are not ours to keep.
        drop(command);
        match wait(&mut child, limit) {
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => Err(failed(last_words(&log).unwrap_or_else(|| status.to_string()))),
            Ok(None) => Err(failed(format!("took longer than {} s and was killed", limit.as_secs()))),
            Err(source) => Err(failed(source.to_string())),
        }
    }

    /// What a verb says on its stdout.
    pub fn ask(&self, verb: &'static str) -> Result<Vec<u8>> {
        let failed = |why: String| Error::Command { runtime: self.name.clone(), verb, why };
        let mut command = Command::new(&self.binary);
        command.arg(verb).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|source| failed(source.to_string()))?;
        let mut text = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout
                .take(limits::RUNTIME_TEXT)
                .read_to_end(&mut text)
                .map_err(|source| failed(source.to_string()))?;
        }
        match wait(&mut child, limits::RUNTIME_COMMAND) {
            Ok(Some(status)) if status.success() => Ok(text),
            Ok(Some(status)) => Err(failed(status.to_string())),
            Ok(None) => Err(failed("took too long".into())),
            Err(source) => Err(failed(source.to_string())),
        }
    }
}

/// Waits for a child; `None` if its time was up, and it was killed.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            Ok(_) => return child.wait().map(Some),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The last error in a runtime's log, which has a JSON object on each line.
fn last_words(log: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(log).ok()?.take(limits::RUNTIME_TEXT).read_to_string(&mut text).ok()?;
    let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut errors = entries.filter(|entry| entry["level"] == "error" || entry["level"] == "fatal");
    errors.next_back()?["msg"].as_str().map(|message| message.trim().to_owned())
}

fn find(name: &str) -> Result<PathBuf> {
    let missing = |why: &str| Error::BadField { field: "BinaryName", why: format!("exec: {name:?}: {why}") };
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match path.is_absolute() && path.is_file() {
            true => Ok(path),
            false => Err(missing("no such file; a path must be absolute")),
        };
    }
    let path = env::var_os("PATH")
        .unwrap_or_else(|| OsString::from("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
    let found = env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| missing("executable file not found in $PATH"))
}

/// Whether criu works on this host; otherwise [`Error::NotBuilt`] with its reason.
pub fn say_criu() -> Result<()> {
    let refused = |why: String| Error::NotBuilt { what: "checkpointing on this host", why };
    let mut command = Command::new("criu");
    command.arg("check").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| refused(format!("criu cannot be started: {source}")))?;
    let mut text = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(limits::RUNTIME_TEXT).read_to_string(&mut text);
    }
    match wait(&mut child, limits::RUNTIME_COMMAND) {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(_)) => {
            let told: Vec<&str> = text.lines().map(str::trim).filter(|line| line.contains("Error")).collect();
            let told = if told.is_empty() { text.trim().to_owned() } else { told.join("; ") };
            Err(refused(format!("criu check says: {told}")))
        }
        Ok(None) => Err(refused("criu check took too long".into())),
        Err(source) => Err(refused(format!("criu check: {source}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_binary_is_named_as_clients_expect() {
        let error = find("no-such-runtime").unwrap_err().to_string();
        assert!(error.contains("exec: \"no-such-runtime\": executable file not found in $PATH"), "{error}");
        assert!(find("./relative").is_err());
    }

    #[test]
    fn what_was_noted_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Oci::recorded(dir.path()).is_none());
        let oci = Oci::new("sh", "/run/r", "blue", true, "/opt/criu", dir.path()).unwrap();
        oci.record().unwrap();
        let again = Oci::recorded(dir.path()).unwrap();
        assert_eq!((again.root, again.systemd_cgroup), (PathBuf::from("/run/r/blue"), true));
        oci.forget();
        assert!(Oci::recorded(dir.path()).is_none());
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let oci = Oci::new("sleep", "", "n", false, "", dir.path()).unwrap();
        let mut command = Command::new("sleep");
        command.arg("60");
        let error = oci.finish("create", command, Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("took longer"), "{error}");
    }
}
