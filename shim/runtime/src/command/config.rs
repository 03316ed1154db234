//! config.json of a bundle and process.json of an exec, read with bounds and checked as far as callers expect texts.

use super::error::{Error, Result};
use super::limits;
use oci_spec::runtime::{Process, Spec};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A bundle's folder and its config.
pub struct Bundle {
    pub path: PathBuf,
    pub spec: Spec,
    /// The file as it is.
    pub bytes: Vec<u8>,
}

/// Reads the bundle at a path, or in the working directory.
pub fn bundle(path: Option<&str>) -> Result<Bundle> {
    let given = Path::new(path.unwrap_or("."));
    let path = given.canonicalize().map_err(Error::io("open the bundle", given))?;
    let file = path.join("config.json");
    let bytes = match read(&file) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NoConfig { bundle: path });
        }
        other => other?,
    };
    let spec = longshore_runtime::load_spec(&bytes)?;
    check_process(spec.process().as_ref())?;
    Ok(Bundle { path, spec, bytes })
}

/// Reads a file up to the bound.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(limits::CONFIG + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    match bytes.len() as u64 > limits::CONFIG {
        true => Err(Error::io("read", path)(std::io::Error::from_raw_os_error(libc::EFBIG))),
        false => Ok(bytes),
    }
}

/// Parses a JSON file.
pub fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json { path: path.into(), source })
}

/// What every process needs.
pub fn check_process(process: Option<&Process>) -> Result<()> {
    let process = process.ok_or(Error::Config("process property must not be empty"))?;
    if process.cwd().as_os_str().is_empty() {
        return Err(Error::Config("Cwd property must not be empty"));
    }
    if !process.cwd().is_absolute() {
        return Err(Error::Config("Cwd must be an absolute path"));
    }
    match process.args().as_deref().unwrap_or_default().is_empty() {
        true => Err(Error::Config("args must not be empty")),
        false => Ok(()),
    }
}

/// Whether the first process of a bundle wants a terminal.
pub fn bundle_wants_terminal(path: Option<&str>) -> Result<bool> {
    Ok(wants_terminal(bundle(path)?.spec.process().as_ref()))
}

/// Whether a process wants a terminal.
pub fn wants_terminal(process: Option<&Process>) -> bool {
    process.and_then(Process::terminal).unwrap_or(false)
}
