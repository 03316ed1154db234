//! The host's podman with storage of its own, on crun and cgroup v1.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use longshore_tests::registry::Registry;

use super::{Companions, Contestant, LARGE, Network, SMALL, call, empty, group, installed, shared};
use crate::arena::Arena;
use crate::measure::Call;
use crate::place::Place;

const NAME: &str = "podman";

/// Low limits: a host without CAP_SYS_RESOURCE refuses podman's own.
const CONFIG: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
    [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";

pub struct Podman {
    program: PathBuf,
    folder: PathBuf,
    place: Place,
    registry: Arc<Registry>,
}

impl Podman {
    pub fn new(arena: &Arena) -> Result<Self> {
        let program = installed("podman")?;
        installed("conmon")?;
        installed("crun")?;
        let folder = arena.path().join(NAME);
        let mut peer = Self { program, folder, place: Place::v1()?, registry: shared(arena) };
        peer.restart()?;
        Ok(peer)
    }

    fn podman(&self) -> Call {
        let path = |name: &str| self.folder.join(name);
        call(&self.program, NAME)
            .env("CONTAINERS_CONF", &path("containers.conf").display().to_string())
            .env("CONTAINERS_STORAGE_CONF", &path("storage.conf").display().to_string())
            .args(["--root"])
            .path(&path("root"))
            .args(["--runroot"])
            .path(&path("run"))
            .args(["--tmpdir"])
            .path(&path("tmp"))
            .args(["--storage-driver", "overlay", "--runtime", "crun"])
    }

    fn in_place(&self, call: Call) -> Result<()> {
        self.place.run(move || call.time())?.map(drop)
    }
}

impl Contestant for Podman {
    fn name(&self) -> &'static str {
        NAME
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn run(&self, network: Network, _id: &str) -> Option<Call> {
        let parent = format!("/{}", group(NAME));
        let image = self.registry.reference(SMALL);
        let flags = ["run", "--rm", "--network", "none", "--cgroup-parent", &parent, &image, "/bin/true"];
        (network == Network::None).then(|| self.podman().args(flags))
    }

    fn start(&self, id: &str) -> Option<Call> {
        let parent = format!("/{}", group(NAME));
        let image = self.registry.reference(SMALL);
        let flags = ["run", "-d", "--name", id, "--network", "none", "--cgroup-parent", &parent];
        Some(self.podman().args(flags).args([image.as_str(), "sleep", "36000"]))
    }

    fn remove(&self, ids: &[String]) -> Vec<Call> {
        vec![self.podman().args(["rm", "-f", "-t", "0"]).args(ids)]
    }

    fn pull(&self) -> Option<Call> {
        Some(self.podman().args(["pull", "-q", "--tls-verify=false", &self.registry.reference(LARGE)]))
    }

    fn registry(&self) -> Option<&Registry> {
        Some(&self.registry)
    }

    fn restart(&mut self) -> Result<()> {
        empty(&self.place, &self.folder)?;
        std::fs::write(self.folder.join("containers.conf"), CONFIG)?;
        let (root, run) = (self.folder.join("root"), self.folder.join("run"));
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            root.display(),
            run.display()
        );
        std::fs::write(self.folder.join("storage.conf"), storage)?;
        Ok(())
    }

    fn prepare(&mut self) -> Result<()> {
        let reference = self.registry.reference(SMALL);
        self.in_place(self.podman().args(["pull", "-q", "--tls-verify=false", &reference]))
    }

    fn companions(&self) -> Companions {
        Companions::Named("conmon")
    }

    fn end(&mut self) {
        let _ = empty(&self.place, &self.folder);
    }
}
