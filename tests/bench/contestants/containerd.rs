//! The host's containerd, driven by its ctr, with a root, state and socket of its own.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use longshore_tests::registry::Registry;

use super::{Companions, Contestant, Daemon, LARGE, Network, SMALL, call, empty, group, installed, shared};
use crate::arena::Arena;
use crate::measure::Call;
use crate::options::Options;
use crate::place::Place;

const NAME: &str = "ctr";

pub struct Containerd {
    programs: [PathBuf; 2],
    folder: PathBuf,
    place: Place,
    registry: Arc<Registry>,
    daemon: Option<Daemon>,
}

impl Containerd {
    pub fn new(arena: &Arena, options: &Options) -> Result<Self> {
        let daemon = options.containerd.clone().map_or_else(|| installed("containerd"), Ok)?;
        let programs = [daemon, installed("ctr")?];
        installed("containerd-shim-runc-v2")?;
        let folder = arena.path().join("containerd");
        let mut peer =
            Self { programs, folder, place: Place::host()?, registry: shared(arena), daemon: None };
        peer.restart()?;
        Ok(peer)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    /// Containers' cgroups are below one with the namespace's name.
    fn ctr(&self) -> Call {
        call(&self.programs[1], NAME)
            .args(["--address"])
            .path(&self.socket())
            .args(["--namespace", &group(NAME)])
    }
}

impl Contestant for Containerd {
    fn name(&self) -> &'static str {
        NAME
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn run(&self, network: Network, id: &str) -> Option<Call> {
        let call = self.ctr().args(["run", "--rm", &self.registry.reference(SMALL), id, "/bin/true"]);
        (network == Network::None).then_some(call)
    }

    fn start(&self, id: &str) -> Option<Call> {
        Some(self.ctr().args(["run", "--detach", &self.registry.reference(SMALL), id, "/bin/sleep", "36000"]))
    }

    fn remove(&self, ids: &[String]) -> Vec<Call> {
        vec![
            self.ctr().args(["tasks", "rm", "--force"]).args(ids),
            self.ctr().args(["containers", "rm"]).args(ids),
        ]
    }

    fn pull(&self) -> Option<Call> {
        Some(self.ctr().args(["images", "pull", "--plain-http", &self.registry.reference(LARGE)]))
    }

    fn registry(&self) -> Option<&Registry> {
        Some(&self.registry)
    }

    fn restart(&mut self) -> Result<()> {
        self.daemon = None;
        empty(&self.place, &self.folder)?;
        let folder = self.folder.display();
        let config = format!(
            "version = 2\nroot = \"{folder}/root\"\nstate = \"{folder}/state\"\n[grpc]\naddress = \"{folder}/containerd.sock\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{folder}/opt\"\n"
        );
        let path = self.folder.join("config.toml");
        std::fs::write(&path, config)?;
        let daemon = call(&self.programs[0], NAME).args(["--log-level", "warn", "--config"]).path(&path);
        self.daemon = Some(Daemon::start(&self.place, daemon, &self.folder, self.socket())?);
        Ok(())
    }

    fn prepare(&mut self) -> Result<()> {
        let reference = self.registry.reference(SMALL);
        self.ctr().args(["images", "pull", "--plain-http", &reference]).time().map(drop)
    }

    fn has_daemon(&self) -> bool {
        true
    }

    fn api(&self) -> Option<(PathBuf, i32)> {
        Some((self.socket(), self.daemon.as_ref()?.pid()?))
    }

    fn companions(&self) -> Companions {
        Companions::Named("containerd-shim")
    }

    fn end(&mut self) {
        self.daemon = None;
    }
}
