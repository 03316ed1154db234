//! How another OCI runtime is called: the arguments that are the same for every verb, and its log.
//!
//! What always holds: several commands may run at once, for each has its own files.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::order::{Hears, Leaves, Order, Scratch, as_it_is};
use crate::error::{Error, Result};
use crate::limits;

/// Where runc's shim keeps runc's state if its options do not say.
const ROOT: &str = "/run/containerd/runc";
/// In the bundle, with a number: what a command has to say.
const LOG: &str = "oci-log";
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
    }

    /// A command up to its verb.
    pub fn order(&self, verb: &'static str) -> Order {
        let log = Scratch::new(self.scratch(LOG, "json"));
        let mut command = Command::new(&self.binary);
        command.arg("--root").arg(&self.root).arg("--log").arg(log.path());
        command.args(["--log-format", "json"]);
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command.arg(verb).current_dir(&self.bundle).stdin(Stdio::null()).stdout(Stdio::null());
        if let Some(folder) = self.criu.as_ref().and_then(|criu| criu.parent()) {
            let path = env::var_os("PATH").unwrap_or_default();
            let folders = std::iter::once(folder.to_owned()).chain(env::split_paths(&path));
            if let Ok(joined) = env::join_paths(folders) {
                command.env("PATH", joined);
            }
        }
        Order { log: Some(log), ..self.plain(verb, command, Hears::Stderr) }
    }

    /// A path in the bundle that no other command of this process uses.
    pub fn scratch(&self, name: &str, kind: &str) -> PathBuf {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        self.bundle.join(format!("{name}-{process}-{number}.{kind}"))
    }

    /// Deletes a container with whatever still runs in it; one that is not there is fine.
    pub fn delete(&self, id: &str) -> Order {
        let mut order = self.order("delete");
        order.command.args(["--force", id]);
        order.judge = |error| match error {
            Error::Command { why, .. } if why.contains("does not exist") => Ok(()),
            other => Err(other),
        };
        order
    }

    /// What a verb says on its stdout.
    pub fn ask(&self, verb: &'static str) -> Result<Vec<u8>> {
        let mut command = Command::new(&self.binary);
        command.arg(verb).stdin(Stdio::null()).stderr(Stdio::null());
        self.plain(verb, command, Hears::Stdout).run()
    }

    fn plain(&self, verb: &'static str, command: Command, hears: Hears) -> Order {
        Order {
            command,
            verb,
            hears,
            limit: limits::RUNTIME_COMMAND,
            leaves: Leaves::Nothing,
            judge: as_it_is,
            runtime: self.name.clone(),
            log: None,
            files: Vec::new(),
        }
    }
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
}
