//! Ourselves: the release daemon with a root, state, socket and cgroup of its own, driven by the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use longshore_tests::daemon::program;
use longshore_tests::registry::Registry;

use super::{Companions, Contestant, Daemon, LARGE, Network, SMALL, call, empty, group, shared};
use crate::arena::Arena;
use crate::measure::Call;
use crate::place::Place;

const NAME: &str = "longshore";

pub struct Longshore {
    folder: PathBuf,
    place: Place,
    registry: Arc<Registry>,
    daemon: Option<Daemon>,
}

/// The daemon with all that it has in `folder`, its configuration (`config.toml`) among it.
pub fn daemon(folder: &Path, owner: &str, socket: &Path) -> Call {
    call(&program("longshored"), owner)
        .args(["--log-level", "warn", "--config"])
        .path(&folder.join("config.toml"))
        .args(["--root"])
        .path(&folder.join("root"))
        .args(["--state"])
        .path(&folder.join("state"))
        .args(["--address"])
        .path(socket)
}

impl Longshore {
    pub fn new(arena: &Arena) -> Result<Self> {
        let folder = arena.path().join(NAME);
        let mut ours = Self { folder, place: Place::host()?, registry: shared(arena), daemon: None };
        ours.restart()?;
        ours.prepare()?;
        Ok(ours)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("longshore.sock")
    }

    fn ctl(&self) -> Call {
        let address = format!("unix://{}", self.socket().display());
        call(&program("longshore"), NAME).args(["-H", &address])
    }

    /// `longshore WORDS`.
    pub fn command(&self, words: &[&str]) -> Call {
        self.ctl().args(words)
    }

    /// `longshore run FLAGS` of the small image.
    pub fn container(&self, flags: &[&str], program: &[&str]) -> Call {
        let image = self.registry.reference(SMALL);
        self.ctl().args(["run"]).args(flags).args([image.as_str()]).args(program)
    }
}

impl Contestant for Longshore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn run(&self, network: Network, _id: &str) -> Option<Call> {
        let image = self.registry.reference(SMALL);
        let network: &[&str] = if network == Network::None { &["--network", "none"] } else { &[] };
        Some(self.ctl().args(["run", "--rm"]).args(network).args([image.as_str(), "/bin/true"]))
    }

    fn start(&self, id: &str) -> Option<Call> {
        let image = self.registry.reference(SMALL);
        Some(self.ctl().args(["run", "-d", "--network", "none", "--name", id, &image, "sleep", "36000"]))
    }

    fn remove(&self, ids: &[String]) -> Vec<Call> {
        vec![self.ctl().args(["rm", "-f"]).args(ids)]
    }

    fn pull(&self) -> Option<Call> {
        Some(self.ctl().args(["pull", "-q", &self.registry.reference(LARGE)]))
    }

    fn registry(&self) -> Option<&Registry> {
        Some(&self.registry)
    }

    fn restart(&mut self) -> Result<()> {
        self.daemon = None;
        empty(&self.place, &self.folder)?;
        let config = format!("[runtime]\ncgroup_parent = \"{}\"\n", group(NAME));
        std::fs::write(self.folder.join("config.toml"), config)?;
        let daemon = daemon(&self.folder, NAME, &self.socket());
        self.daemon = Some(Daemon::start(&self.place, daemon, &self.folder, self.socket())?);
        Ok(())
    }

    fn prepare(&mut self) -> Result<()> {
        self.ctl().args(["pull", "-q", &self.registry.reference(SMALL)]).time().map(drop)
    }

    fn has_daemon(&self) -> bool {
        true
    }

    fn api(&self) -> Option<(PathBuf, i32)> {
        Some((self.socket(), self.daemon.as_ref()?.pid()?))
    }

    fn companions(&self) -> Companions {
        self.daemon.as_ref().and_then(Daemon::pid).map_or(Companions::None, Companions::AllBut)
    }

    fn end(&mut self) {
        self.daemon = None;
    }
}
