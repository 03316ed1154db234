//! The host's Docker Engine in a network namespace of its own, so that its bridge and its firewall rules are not this host's.

use std::path::PathBuf;

use anyhow::Result;
use longshore_tests::image;
use longshore_tests::registry::Registry;

use super::{Companions, Contestant, Daemon, LARGE, Network, SMALL, call, empty, group, installed};
use crate::arena::Arena;
use crate::measure::Call;
use crate::place::Place;

const NAME: &str = "docker";

pub struct Docker {
    programs: [PathBuf; 2],
    folder: PathBuf,
    /// On that network's loopback.
    registry: Option<Registry>,
    daemon: Option<Daemon>,
    place: Place,
}

impl Docker {
    pub fn new(arena: &Arena) -> Result<Self> {
        let programs = [installed("dockerd")?, installed("docker")?];
        let folder = arena.path().join(NAME);
        let place = Place::network(&arena.path().join("docker-host"))?;
        let registry = place.run(Registry::start)??;
        registry.put("bench/busybox", "latest", &image::busybox()?.build()?);
        let mut peer = Self { programs, folder, registry: Some(registry), daemon: None, place };
        peer.restart()?;
        Ok(peer)
    }

    fn reference(&self, name: &str) -> String {
        self.registry.as_ref().map(|registry| registry.reference(name)).unwrap_or_default()
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("docker.sock")
    }

    fn docker(&self) -> Call {
        let address = format!("unix://{}", self.socket().display());
        let config = self.folder.join("client");
        call(&self.programs[1], NAME).args(["--config"]).path(&config).args(["--host", &address])
    }
}

impl Contestant for Docker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn run(&self, network: Network, _id: &str) -> Option<Call> {
        let network: &[&str] = if network == Network::None { &["--network", "none"] } else { &[] };
        let image = self.reference(SMALL);
        Some(self.docker().args(["run", "--rm"]).args(network).args([image.as_str(), "/bin/true"]))
    }

    fn start(&self, id: &str) -> Option<Call> {
        let image = self.reference(SMALL);
        Some(self.docker().args(["run", "-d", "--network", "none", "--name", id, &image, "sleep", "36000"]))
    }

    fn remove(&self, ids: &[String]) -> Vec<Call> {
        vec![self.docker().args(["rm", "-f"]).args(ids)]
    }

    fn pull(&self) -> Option<Call> {
        Some(self.docker().args(["pull", "-q", &self.reference(LARGE)]))
    }

    fn registry(&self) -> Option<&Registry> {
        self.registry.as_ref()
    }

    fn restart(&mut self) -> Result<()> {
        self.daemon = None;
        empty(&self.place, &self.folder)?;
        let path = |name: &str| self.folder.join(name);
        let address = format!("unix://{}", self.socket().display());
        let daemon = call(&self.programs[0], NAME)
            .args(["--host", &address, "--log-level", "warn", "--storage-driver", "overlay2"])
            .args([
                "--exec-opt",
                "native.cgroupdriver=cgroupfs",
                "--cgroup-parent",
                &format!("/{}", group(NAME)),
            ])
            .args(["--data-root"])
            .path(&path("data"))
            .args(["--exec-root"])
            .path(&path("exec"))
            .args(["--pidfile"])
            .path(&path("pid"));
        self.daemon = Some(Daemon::start(&self.place, daemon, &self.folder, self.socket())?);
        // The socket is there before the daemon is ready; its first answer is not.
        self.docker().args(["info"]).time().map(drop)
    }

    fn prepare(&mut self) -> Result<()> {
        self.docker().args(["pull", "-q", &self.reference(SMALL)]).time().map(drop)
    }

    fn has_daemon(&self) -> bool {
        true
    }

    fn companions(&self) -> Companions {
        Companions::Named("containerd-shim")
    }

    fn end(&mut self) {
        self.daemon = None;
        self.registry = None;
    }
}
