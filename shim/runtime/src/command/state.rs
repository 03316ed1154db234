//! `state`: what the specification calls a container's state, as JSON.

use super::args::{Args, Reach};
use super::error::{Error, Result};
use super::store::{self, Folder, State, Status};
use super::{Global, Verb};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

pub const VERB: Verb = Verb {
    name: "state",
    about: "show the state of a container",
    operands: "<container-id>",
    count: (1, 1),
    flags: &[],
    reach: Reach::Anywhere,
    run,
};

/// One container, as `state` and `list` show it.
#[derive(Serialize)]
pub struct Shown {
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    pub id: String,
    /// 0 once it has stopped.
    pub pid: i32,
    pub status: &'static str,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    pub owner: String,
}

impl Shown {
    pub fn of(folder: &Folder, state: State, owner: String) -> Result<Shown> {
        let status = folder.status(&state)?;
        let pid = state.container.as_ref().map_or(0, |record| record.pid);
        Ok(Shown {
            oci_version: state.oci_version,
            id: state.id,
            pid: if status == Status::Stopped { 0 } else { pid },
            status: status.name(),
            bundle: state.bundle,
            rootfs: state.rootfs,
            created: state.created,
            annotations: state.annotations,
            owner,
        })
    }
}

fn run(global: &Global, args: &Args) -> Result<i32> {
    let folder = store::open(&global.root, args.id()?)?;
    let shown = Shown::of(&folder, folder.read()?, String::new())?;
    print(&shown)?;
    Ok(0)
}

/// Prints a value as people read it.
pub fn print(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|source| Error::Json { path: "the output".into(), source })?;
    say(&text)
}

/// Prints a line; a reader that is gone is an error, not a panic.
pub fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Error::system("write the output"))
}
