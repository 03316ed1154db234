//! `--pid-file`: the process id in digits, there as a whole or not at all.

use super::error::{Error, Result};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub fn write(path: &Path, pid: i32) -> Result<()> {
    let name = path.file_name().ok_or(Error::Config("--pid-file must name a file"))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let beside = path.with_file_name(hidden);
    let failed = |source| Error::Io { doing: "write the pid file", path: path.into(), source };
    // Nobody's link is followed, and no file of somebody else's overwritten.
    let _ = fs::remove_file(&beside);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o644).open(&beside).map_err(failed)?;
    file.write_all(pid.to_string().as_bytes()).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}
