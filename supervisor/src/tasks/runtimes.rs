//! Runtimes by name: which shim runs a container that asks for a runtime.
//!
//! What always holds: a name that is configured means what is configured; otherwise our own names, containerd's default
//! runtime and no name at all are our shim, and every other name or absolute path is a shim binary that must exist.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};

use crate::config::NamedRuntime;
use crate::error::{Error, Result};

/// Our shim's name.
pub const OWN_RUNTIME: &str = "io.containerd.longshore.v1";

/// What our shim stands in for unless it is configured otherwise.
const STANDS_IN_FOR: [&str; 3] = ["", OWN_RUNTIME, "io.containerd.runc.v2"];

/// Who runs a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Our shim, from the pool.
    Own,
    /// Another one's, started by the shim v2 protocol.
    Foreign(ForeignRuntime),
}

/// A shim that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRuntime {
    /// As the container names it.
    pub name: String,
    /// The shim's binary.
    pub binary: PathBuf,
    /// `NAME=value` pairs that it is given besides the daemon's environment.
    pub env: Vec<String>,
}

/// The runtimes of this daemon.
#[derive(Clone, Debug, Default)]
pub struct Runtimes {
    configured: BTreeMap<String, NamedRuntime>,
    /// Where shims are looked for, too: what clients have installed.
    installed: PathBuf,
}

impl Runtimes {
    pub fn new(configured: &BTreeMap<String, NamedRuntime>, installed: &Path) -> Self {
        Self { configured: configured.clone(), installed: installed.to_owned() }
    }

    /// The runtime of this name, or at this absolute path.
    ///
    /// # Errors
    /// The name is malformed, or no shim binary is there for it.
    pub fn find(&self, name: &str) -> Result<Runtime> {
        let Some(configured) = self.configured.get(name) else {
            if STANDS_IN_FOR.contains(&name) {
                return Ok(Runtime::Own);
            }
            return self.foreign(name, name, Vec::new());
        };
        if let Some(path) = &configured.path {
            return self.foreign(name, &path.to_string_lossy(), configured.env.clone());
        }
        let kind = configured.kind.as_deref().unwrap_or(name);
        if kind == OWN_RUNTIME {
            return Ok(Runtime::Own);
        }
        self.foreign(name, kind, configured.env.clone())
    }

    fn foreign(&self, name: &str, found_by: &str, env: Vec<String>) -> Result<Runtime> {
        let binary = self.binary(found_by)?;
        Ok(Runtime::Foreign(ForeignRuntime { name: name.to_owned(), binary, env }))
    }

    fn binary(&self, name: &str) -> Result<PathBuf> {
        let path = Path::new(name);
        if path.is_absolute() {
            if path.is_file() {
                return Ok(path.to_owned());
            }
            return Err(Error::not_found("runtime binary", name));
        }
        let Some(file) = file_name(name) else {
            let why =
                "is neither a name such as io.containerd.runc.v2 nor the absolute path of a shim binary";
            return Err(Error::invalid(format!("runtime name {name:?}"), why));
        };
        let on_path = env::var_os("PATH").unwrap_or_default();
        let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
        let folders = env::split_paths(&on_path).collect::<Vec<_>>().into_iter();
        let folders = folders.chain([self.installed.clone()]).chain(beside);
        folders.map(|folder| folder.join(&file)).find(|path| path.is_file()).ok_or_else(|| {
            let wanted = format!("{file} of runtime {name} (on PATH, installed, or beside the daemon)");
            Error::not_found("runtime binary", wanted)
        })
    }
}

/// `containerd-shim-NAME-vN` for `….NAME.vN`.
fn file_name(runtime: &str) -> Option<String> {
    let sane = |part: &&str| !part.is_empty() && !part.contains(['/', '\0']);
    let (rest, version) = runtime.rsplit_once('.')?;
    let name = rest.rsplit('.').next().filter(sane)?;
    Some(version).filter(sane)?;
    (!rest.starts_with('.') && !rest.contains('/')).then(|| format!("containerd-shim-{name}-{version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_binaries_as_containerd_reads_them() {
        assert_eq!(file_name("io.containerd.runc.v2").unwrap(), "containerd-shim-runc-v2");
        assert_eq!(file_name("runsc.v1").unwrap(), "containerd-shim-runsc-v1");
        for bad in ["runc", "", ".", "a.", ".v2", "./a.v2", "a/b.v2", "io..v2"] {
            assert!(file_name(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn our_shim_runs_what_is_not_configured_otherwise() {
        let named = |path: Option<&str>, kind: Option<&str>| NamedRuntime {
            path: path.map(PathBuf::from),
            kind: kind.map(str::to_owned),
            env: vec!["A=b".into()],
        };
        let plain = Runtimes::default();
        for name in STANDS_IN_FOR {
            assert_eq!(plain.find(name).unwrap(), Runtime::Own, "{name}");
        }
        let missing = plain.find("io.containerd.no-such-thing.v9").unwrap_err();
        assert!(missing.to_string().contains("containerd-shim-no-such-thing-v9"), "{missing}");
        assert!(plain.find("/no/such/binary").unwrap_err().is_not_found());
        assert_eq!(plain.find("words").unwrap_err().code(), tonic::Code::InvalidArgument);

        let runtimes = BTreeMap::from([
            ("io.containerd.runc.v2".to_owned(), named(Some("/bin/true"), None)),
            ("crun".to_owned(), named(None, Some(OWN_RUNTIME))),
        ]);
        let configured = Runtimes::new(&runtimes, Path::new("/nonexistent"));
        let Runtime::Foreign(found) = configured.find("io.containerd.runc.v2").unwrap() else {
            panic!("the configured binary is used");
        };
        assert_eq!((found.binary.as_path(), found.env.len()), (Path::new("/bin/true"), 1));
        assert_eq!(configured.find("crun").unwrap(), Runtime::Own);
        assert_eq!(configured.find(OWN_RUNTIME).unwrap(), Runtime::Own);
    }
}
