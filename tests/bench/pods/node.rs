//! A node's runtime: a daemon that speaks CRI, in a network namespace of its own, with the CNI configuration that everybody has.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use longshore_proto::runtime::v1 as wire;
use longshore_tests::cri::{self, Cri};
use longshore_tests::image;
use longshore_tests::registry::Registry;

use super::pause;
use crate::arena::Arena;
use crate::contestants::{Daemon, call, empty, group, installed, longshore};
use crate::measure::Call;
use crate::place::Place;

/// Where Debian has the plugins.
const PLUGINS: &str = "/usr/lib/cni";
const NEEDED: [&str; 4] = ["bridge", "host-local", "portmap", "loopback"];
const PAUSE: &str = "bench/pause:latest";
/// The name of what the containers run.
pub const WORKLOAD: &str = "sleep";

/// Which network a pod has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Net {
    Plugins,
    Host,
}

pub struct Node {
    /// For the report.
    pub name: String,
    /// For processes and cgroups.
    pub owner: String,
    folder: PathBuf,
    image: String,
    cri: Cri,
    // Ended in this order.
    daemon: Daemon,
    registry: Registry,
    place: Place,
}

/// A pod with its container.
pub struct Running {
    pod: String,
}

impl Node {
    /// `networks`: `cri.network` of the configuration.
    pub async fn longshore(arena: &Arena, owner: &str, networks: &str) -> Result<Self> {
        Self::start(arena, "longshore", owner, |folder, _, cgroup| {
            let config = format!(
                "[cri]\nnetwork = \"{networks}\"\n[runtime]\ncgroup_parent = \"{cgroup}\"\n[network]\ncni_configurations = [\"{0}/cni\"]\ncni_plugins = [\"{PLUGINS}\"]\n",
                folder.display()
            );
            std::fs::write(folder.join("config.toml"), config)?;
            Ok(longshore::daemon(folder, owner, &folder.join("cri.sock")))
        })
        .await
    }

    /// The host's containerd, or one of another place with the shim that is beside it.
    pub async fn containerd(arena: &Arena, at: Option<&Path>) -> Result<Self> {
        let daemon = at.map_or_else(|| installed("containerd"), |path| Ok(path.to_owned()))?;
        let owner = if at.is_some() { "pods-containerd-2" } else { "pods-containerd" };
        let version = std::process::Command::new(&daemon).arg("--version").output()?;
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let version = version.split_whitespace().nth(2).unwrap_or("?").to_owned();
        let name = format!("containerd {}", version.chars().take(10).collect::<String>());
        Self::start(arena, &name, owner, |folder, registry, _| {
            let pause = registry.reference(PAUSE);
            let cri = "[plugins.\"io.containerd.grpc.v1.cri\"";
            let config = format!(
                "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n[grpc]\naddress = \"{0}/cri.sock\"\n\
                 [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{0}/opt\"\n\
                 {cri}]\nsandbox_image = \"{pause}\"\nrestrict_oom_score_adj = true\nstream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"\n\
                 {cri}.cni]\nbin_dir = \"{PLUGINS}\"\nconf_dir = \"{0}/cni\"\n\
                 {cri}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n",
                folder.display()
            );
            let path = folder.join("config.toml");
            std::fs::write(&path, config)?;
            let search = std::env::var("PATH").unwrap_or_default();
            let beside = daemon.parent().unwrap_or(Path::new("/")).display();
            Ok(call(&daemon, owner)
                .env("PATH", &format!("{beside}:{search}"))
                .args(["--log-level", "warn", "--config"])
                .path(&path))
        })
        .await
    }

    async fn start(
        arena: &Arena,
        name: &str,
        owner: &str,
        prepare: impl FnOnce(&Path, &Registry, &str) -> Result<Call>,
    ) -> Result<Self> {
        for plugin in NEEDED {
            let path = Path::new(PLUGINS).join(plugin);
            anyhow::ensure!(
                path.exists(),
                "{} is not there: CNI's plugins are not installed",
                path.display()
            );
        }
        let folder = arena.path().join(owner);
        let place = Place::network(&arena.path().join(format!("{owner}-host")))?;
        let registry = place.run(Registry::start)??;
        registry.put("bench/busybox", "latest", &image::busybox()?.build()?);
        let pause = pause::program().context("there is no pause program for this architecture")?;
        registry.put("bench/pause", "latest", &image::single_program("pause", &pause).build()?);
        empty(&place, &folder)?;
        std::fs::create_dir_all(folder.join("cni"))?;
        std::fs::create_dir_all(folder.join("logs"))?;
        std::fs::write(folder.join("cni/10-bench.conflist"), conflist(&folder))?;
        let call = prepare(&folder, &registry, &group(owner))?;
        let socket = folder.join("cri.sock");
        let daemon = Daemon::start(&place, call, &folder, socket.clone())?;
        let cri = Cri::connect(&socket).await?;
        ready(&cri).await.with_context(|| format!("{name} does not become ready"))?;
        let image = cri.pull(&registry.reference("bench/busybox:latest")).await.context("pulling")?;
        Ok(Self {
            name: name.to_owned(),
            owner: owner.to_owned(),
            folder,
            image,
            cri,
            daemon,
            registry,
            place,
        })
    }

    /// Makes a pod and starts a container in it that sleeps; how long both took together.
    pub async fn run(&self, name: &str, net: Net) -> Result<(Running, Duration)> {
        let mut config = cri::pod(name);
        config.log_directory = self.folder.join("logs").display().to_string();
        let linux = config.linux.get_or_insert_default();
        linux.cgroup_parent = format!("/{}", group(&self.owner));
        let options =
            linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default();
        if net == Net::Host {
            options.network = wire::NamespaceMode::Node.into();
            config.hostname.clear();
        }
        let options = options.clone();
        let mut container = cri::container(name, &self.image, "exec sleep 36000");
        let security = container.linux.get_or_insert_default().security_context.get_or_insert_default();
        security.namespace_options = Some(options);
        let begun = Instant::now();
        let pod = self.cri.run_pod(&config).await.context("RunPodSandbox")?;
        let running = Running { pod };
        let started = async {
            let id = self.cri.create(&running.pod, &container, &config).await.context("CreateContainer")?;
            self.cri.start(&id).await.context("StartContainer")
        };
        let outcome = started.await;
        let taken = begun.elapsed();
        if let Err(error) = outcome {
            let _ = self.remove(running).await;
            return Err(error);
        }
        Ok((running, taken))
    }

    pub async fn remove(&self, running: Running) -> Result<()> {
        self.cri.stop_pod(&running.pod).await.context("StopPodSandbox")?;
        self.cri.remove_pod(&running.pod).await.context("RemovePodSandbox")
    }

    /// Process id of its daemon.
    pub fn daemon(&self) -> Option<i32> {
        self.daemon.pid()
    }

    /// Ends the daemon, then what it lived in.
    pub fn end(self) {
        let Self { daemon, registry, place, .. } = self;
        drop(daemon);
        drop(registry);
        drop(place);
    }
}

/// A bridge and host ports, as on most nodes with one network. Each node has a host of its own for it.
fn conflist(folder: &Path) -> String {
    format!(
        r#"{{"cniVersion": "0.4.0", "name": "bench", "plugins": [
          {{"type": "bridge", "bridge": "bench0", "isGateway": true, "hairpinMode": true,
            "ipam": {{"type": "host-local", "dataDir": "{}/leases", "ranges": [[{{"subnet": "10.88.0.0/16"}}]],
                      "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
          {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#,
        folder.display()
    )
}

/// Waits until runtime and network are ready.
async fn ready(cri: &Cri) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = cri.runtime.clone().status(wire::StatusRequest { verbose: false }).await;
        let conditions = answer.map(|answer| answer.into_inner().status.unwrap_or_default().conditions);
        let why = match conditions {
            Ok(all)
                if !all.is_empty() && all.iter().all(|one| one.status || !one.r#type.ends_with("Ready")) =>
            {
                return Ok(());
            }
            Ok(all) => format!("{all:?}"),
            Err(error) => error.to_string(),
        };
        anyhow::ensure!(Instant::now() < deadline, "{why}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
