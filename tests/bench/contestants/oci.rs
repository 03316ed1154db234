//! Bare OCI runtimes on a prepared bundle: no image, no snapshot, no daemon, no supervision.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Contestant, Network, call, empty, installed};
use crate::arena::Arena;
use crate::measure::Call;
use crate::place::Place;

pub struct Runtime {
    name: &'static str,
    program: PathBuf,
    folder: PathBuf,
    place: Place,
}

impl Runtime {
    /// crun 1.8 refuses hosts with both cgroup versions, so it gets a view of this one without v2.
    pub fn crun(arena: &Arena) -> Result<Self> {
        Self::new(arena, "crun", Place::v1)
    }

    pub fn runc(arena: &Arena) -> Result<Self> {
        Self::new(arena, "runc", Place::host)
    }

    fn new(arena: &Arena, name: &'static str, place: impl FnOnce() -> Result<Place>) -> Result<Self> {
        let program = installed(name)?;
        let folder = arena.path().join(name);
        let place = place()?;
        empty(&place, &folder)?;
        let spec = spec(&program, &folder)?;
        bundle(&folder.join("true"), &spec, &arena.rootfs, &["/bin/true"])?;
        bundle(&folder.join("sleep"), &spec, &arena.rootfs, &["/bin/sleep", "36000"])?;
        Ok(Self { name, program, folder, place })
    }

    fn command(&self) -> Call {
        call(&self.program, self.name).args(["--root"]).path(&self.folder.join("state"))
    }
}

impl Contestant for Runtime {
    fn name(&self) -> &'static str {
        self.name
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn run(&self, network: Network, id: &str) -> Option<Call> {
        let call = self.command().args(["run", "--bundle"]).path(&self.folder.join("true")).args([id]);
        (network == Network::None).then_some(call)
    }

    fn start(&self, id: &str) -> Option<Call> {
        Some(self.command().args(["run", "--detach", "--bundle"]).path(&self.folder.join("sleep")).args([id]))
    }

    fn remove(&self, ids: &[String]) -> Vec<Call> {
        ids.iter().map(|id| self.command().args(["delete", "--force", id])).collect()
    }
}

/// What the runtime itself proposes.
fn spec(program: &Path, folder: &Path) -> Result<Value> {
    let output = std::process::Command::new(program).arg("spec").current_dir(folder).output()?;
    ensure!(
        output.status.success(),
        "{} spec: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let path = folder.join("config.json");
    serde_json::from_slice(&std::fs::read(&path)?).with_context(|| format!("reading {}", path.display()))
}

fn bundle(folder: &Path, spec: &Value, rootfs: &Path, args: &[&str]) -> Result<()> {
    let mut spec = spec.clone();
    spec["process"]["args"] = json!(args);
    spec["process"]["terminal"] = json!(false);
    spec["root"] = json!({"path": rootfs, "readonly": true});
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("config.json"), serde_json::to_vec(&spec)?)?;
    Ok(())
}
