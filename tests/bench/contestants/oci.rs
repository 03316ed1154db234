//! Bare OCI runtimes on a prepared bundle: no image, no snapshot, no daemon, no supervision.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use longshore_tests::daemon::program;
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

    /// runc in crun's place.
    pub fn runc_v1(arena: &Arena) -> Result<Self> {
        Self::in_folder(arena, "runc", "runc-v1", installed("runc")?, Place::v1)
    }

    /// Our own, in crun's place.
    pub fn longshore(arena: &Arena) -> Result<Self> {
        Self::in_folder(
            arena,
            "longshore-runtime",
            "longshore-runtime",
            program("longshore-runtime"),
            Place::v1,
        )
    }

    fn new(arena: &Arena, name: &'static str, place: impl FnOnce() -> Result<Place>) -> Result<Self> {
        Self::in_folder(arena, name, name, installed(name)?, place)
    }

    fn in_folder(
        arena: &Arena,
        name: &'static str,
        folder: &str,
        program: PathBuf,
        place: impl FnOnce() -> Result<Place>,
    ) -> Result<Self> {
        let folder = arena.path().join(folder);
        let place = place()?;
        empty(&place, &folder)?;
        let spec = spec(&program, &folder)?;
        bundle(&folder.join("true"), &spec, &arena.rootfs, &["/bin/true"])?;
        bundle(&folder.join("sleep"), &spec, &arena.rootfs, &["/bin/sleep", "36000"])?;
        Ok(Self { name, program, folder, place })
    }

    /// The name in the report.
    pub fn label(&self) -> &'static str {
        self.name
    }

    /// The bundle of what [`Runtime::run_call`] runs.
    pub fn bundle_of_true(&self) -> PathBuf {
        self.folder.join("true")
    }

    /// Whether it works at all here.
    pub fn can_run(&self) -> Result<()> {
        self.time(self.run_call("first")).map(drop)
    }

    /// Runs a call where this runtime's are run.
    pub fn time(&self, call: Call) -> Result<Duration> {
        self.place.run(move || call.time())?
    }

    /// `run` of `true`.
    pub fn run_call(&self, id: &str) -> Call {
        self.command().args(["run", "--bundle"]).path(&self.folder.join("true")).args([id])
    }

    /// `exec` of `true`.
    pub fn exec_call(&self, id: &str) -> Call {
        self.command().args(["exec", id, "/bin/true"])
    }

    /// Starts a container that sleeps.
    pub fn sleeper(&self, id: &str) -> Result<()> {
        let call = self.command().args(["run", "--detach", "--bundle"]).path(&self.folder.join("sleep"));
        self.time(call.args([id])).map(drop)
    }

    /// Ends it.
    pub fn end_sleeper(&self, id: &str) {
        let _ = self.time(self.command().args(["delete", "--force", id]));
    }

    /// `run` of `true` with a memory limit in KiB.
    pub fn run_limited(&self, limit: u64, id: &str) -> Result<()> {
        let folder = self.folder.join(format!("limited-{limit}"));
        std::fs::create_dir_all(&folder)?;
        let text = std::fs::read(self.folder.join("true/config.json"))?;
        let mut spec: Value = serde_json::from_slice(&text)?;
        spec["linux"]["resources"]["memory"] = json!({"limit": limit << 10});
        std::fs::write(folder.join("config.json"), serde_json::to_vec(&spec)?)?;
        let outcome = self.time(self.command().args(["run", "--bundle"]).path(&folder).args([id]));
        if outcome.is_err() {
            self.end_sleeper(id);
        }
        outcome.map(drop)
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
fn spec(own: &Path, folder: &Path) -> Result<Value> {
    let output = std::process::Command::new(own).arg("spec").current_dir(folder).output()?;
    ensure!(output.status.success(), "{} spec: {}", own.display(), String::from_utf8_lossy(&output.stderr));
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
