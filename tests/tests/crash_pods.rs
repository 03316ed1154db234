//! `kill -9` of the daemon, and of shims, in every step of making and removing pods and their containers: the call that is made again
//! succeeds, and when the pod is removed nothing of it is left.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use longshore_proto::runtime::v1 as wire;
use longshore_tests::Fixture;
use longshore_tests::cri::{self, Cri, Records};
use longshore_tests::daemon::{PATIENCE, Settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::RngExt;

/// Shims that wait for containers, as configured by default.
const POOL: usize = 2;

/// The steps as the daemon names them in its log, and how long after the beginning of each it is killed.
const STEPS: [&str; 10] = [
    "making the folder of its logs",
    "setting up its network",
    "making its namespaces",
    "starting its first process",
    "recording it",
    "waiting for the pod",
    "looking for its image",
    "making its snapshot",
    "making its specification",
    "recording a container",
];
const DELAYS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(3), Duration::from_millis(12)];

/// Kills at random moments: of a start, and of a removal.
const RANDOM: u32 = 10;

/// How often a kubelet tries before a test gives up.
const ATTEMPTS: u32 = 8;

struct World {
    f: Fixture,
    cri: Cri,
    image: String,
    logs: tempfile::TempDir,
    /// `None`: pods are on the daemon's own network.
    plugins: Option<Plugins>,
}

/// A CNI network of this test's own.
struct Plugins {
    folder: tempfile::TempDir,
    bridge: String,
}

impl Plugins {
    fn new() -> Plugins {
        let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
        let bridge = format!("lscrik{}", std::process::id() % 10_000);
        let plugins = folder.path().join("plugins");
        fs::create_dir(&plugins).expect("a folder");
        for name in ["bridge", "host-local", "loopback"] {
            symlink(PathBuf::from("/usr/lib/cni").join(name), plugins.join(name)).expect("linked");
        }
        let list = format!(
            r#"{{"cniVersion": "0.4.0", "name": "lab", "plugins": [
                {{"type": "bridge", "bridge": "{bridge}", "isGateway": true, "ipam": {{"type": "host-local",
                  "dataDir": "{}", "subnet": "10.51.{}.0/24"}}}}]}}"#,
            folder.path().join("leases").display(),
            std::process::id() % 250
        );
        fs::write(folder.path().join("10-lab.conflist"), list).expect("written");
        Plugins { folder, bridge }
    }

    fn config(&self) -> String {
        let folder = self.folder.path().display();
        format!("[network]\ncni_configurations = [\"{folder}\"]\ncni_plugins = [\"{folder}/plugins\"]\n")
    }

    fn leased(&self) -> usize {
        let entries = fs::read_dir(self.folder.path().join("leases/lab")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("10.")).count()
    }
}

impl Drop for Plugins {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["link", "del", &self.bridge]).output();
    }
}

/// What a kubelet has of a pod with one container.
struct Up {
    pod: String,
    container: String,
}

/// A pod whose containers see each other's processes, so that it has one of its own, too.
fn shared() -> wire::NamespaceOption {
    wire::NamespaceOption { pid: wire::NamespaceMode::Pod.into(), ..Default::default() }
}

fn refused(error: &tonic::Status) -> bool {
    error.code() == tonic::Code::AlreadyExists
}

impl World {
    async fn new() -> World {
        World::with(Some(Plugins::new())).await
    }

    async fn with(plugins: Option<Plugins>) -> World {
        // The host's own configurations are none of a test's; and no namespace waits for a pod, to be told from those that are left.
        let none = || "[network]\ncni_configurations = [\"/nonexistent\"]\npool_size = 0\n".to_owned();
        let config = plugins.as_ref().map_or_else(none, Plugins::config);
        let settings = Settings { config, ..Settings::default() };
        let f = Fixture::with(settings).expect("a registry and a daemon");
        let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
        let image = cri.pull(&f.busybox).await.expect("pulled");
        let logs = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
        World { f, cri, image, logs, plugins }
    }

    fn pod(&self) -> wire::PodSandboxConfig {
        let folder = self.logs.path().join("pod");
        let mut config =
            wire::PodSandboxConfig { log_directory: folder.display().to_string(), ..cri::pod("crash") };
        if let Some(security) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
            security.namespace_options = Some(shared());
        }
        config
    }

    /// With a log in a folder, and an image as a volume.
    fn container(&self, attempt: u32) -> wire::ContainerConfig {
        let mut config = cri::container("c", &self.image, "echo begun; exec sleep 1000");
        config.metadata = Some(wire::ContainerMetadata { name: "c".to_owned(), attempt });
        config.log_path = format!("c/{attempt}.log");
        if let Some(security) = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
            security.namespace_options = Some(shared());
        }
        config.mounts.push(wire::Mount {
            container_path: "/view".to_owned(),
            readonly: true,
            image: Some(wire::ImageSpec { image: self.image.clone(), ..Default::default() }),
            ..Default::default()
        });
        config
    }

    /// Where the daemon's log ends.
    fn now(&self) -> usize {
        fs::metadata(self.f.daemon.log()).map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(0))
    }

    /// What the daemon has logged since then.
    fn said(&self, since: usize) -> String {
        let mut file = fs::File::open(self.f.daemon.log()).expect("the log");
        file.seek(SeekFrom::Start(since as u64)).expect("its end");
        let mut text = Vec::new();
        file.read_to_end(&mut text).expect("read");
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits for a step that begins after `since`. A container's and a pod's recording have one name.
    async fn reached(&self, since: usize, step: &str) {
        let (step, times) = if step == "recording a container" { ("recording it", 2) } else { (step, 1) };
        let wanted = format!("step=\"{step}\"");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let new = self.said(since);
            if new.matches(&wanted).count() >= times {
                return;
            }
            assert!(Instant::now() < deadline, "the step {step:?} is not reached:\n{new}");
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    async fn restart(&mut self) {
        self.f.daemon.kill();
        self.f.daemon.launch().expect("the daemon starts again");
        self.cri = Cri::connect(&self.f.daemon.socket()).await.expect("a connection");
    }

    /// The same calls again, as a kubelet makes them after a restart of the runtime. None of them may fail.
    async fn again(&self, config: &wire::PodSandboxConfig) -> Up {
        let pod = self.cri.run_pod(config).await.expect("the pod");
        let container = match self.cri.create(&pod, &self.container(0), config).await {
            // It had been started already.
            Err(error) if refused(&error) => self.container_of(&pod).await,
            created => created.expect("the container"),
        };
        self.cri.start(&container).await.expect("it starts, or runs");
        self.runs(&container).await;
        Up { pod, container }
    }

    async fn container_of(&self, pod: &str) -> String {
        let filter = wire::ContainerFilter { pod_sandbox_id: pod.to_owned(), ..Default::default() };
        let request = wire::ListContainersRequest { filter: Some(filter) };
        let listed = self.cri.runtime.clone().list_containers(request).await.expect("a list").into_inner();
        assert_eq!(listed.containers.len(), 1, "{listed:?}");
        listed.containers[0].id.clone()
    }

    async fn runs(&self, container: &str) {
        let said = self.cri.exec_sync(container, "echo here && ls /view/bin/sh", 20).await.expect("it runs");
        assert_eq!(String::from_utf8_lossy(&said.stdout), "here\n/view/bin/sh\n");
    }

    /// As a kubelet goes on whose containers or pods may have died: with another attempt.
    async fn kubelet(&self, config: &mut wire::PodSandboxConfig) -> Up {
        for attempt in 0..ATTEMPTS {
            let Some(metadata) = config.metadata.as_mut() else { break };
            metadata.attempt = attempt;
            let Ok(pod) = self.cri.run_pod(config).await else { continue };
            let Ok(container) = self.cri.create(&pod, &self.container(attempt), config).await else {
                self.remove(&pod).await;
                continue;
            };
            if self.cri.start(&container).await.is_ok()
                && self.cri.exec_sync(&container, "true", 20).await.is_ok()
            {
                return Up { pod, container };
            }
            self.remove(&pod).await;
        }
        panic!("no pod runs after {ATTEMPTS} attempts");
    }

    /// Removes all pods, and asks again as a kubelet does while it is told that a shim cannot be reached yet.
    async fn remove_all(&self) {
        let request = wire::ListPodSandboxRequest::default();
        let listed = self.cri.runtime.clone().list_pod_sandbox(request).await.expect("a list").into_inner();
        for pod in listed.items {
            self.remove(&pod.id).await;
        }
    }

    async fn remove(&self, pod: &str) {
        let deadline = Instant::now() + PATIENCE;
        let gone = async || {
            self.cri.stop_pod(pod).await?;
            self.cri.remove_pod(pod).await
        };
        while let Err(error) = gone().await {
            let is_passing = error.code() == tonic::Code::Unavailable && Instant::now() < deadline;
            assert!(is_passing, "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What there is of pods that are gone.
    async fn left(&self, records: &mut Records) -> Vec<String> {
        let d = &self.f.daemon;
        let mut left: Vec<String> =
            d.mounts().iter().map(|point| format!("mount {}", point.display())).collect();
        left.extend(
            d.cgroups().into_iter().filter(|name| name.len() >= 64).map(|name| format!("cgroup {name}")),
        );
        let of_state = ["pods", "tasks/k8s.io", "shims"].map(|name| d.state().join(name));
        for folder in of_state.into_iter().chain([d.root().join("cni-pods")]) {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| format!("file {}", entry.path().display())));
        }
        let leased = self.plugins.as_ref().map_or(0, Plugins::leased);
        left.extend((0..leased).map(|_| "an address".to_owned()));
        let ports = fs::read_dir(Path::new("/sys/class/net").join(d.bridge()).join("brif"));
        left.extend(
            ports.into_iter().flatten().flatten().map(|port| format!("interface {:?}", port.file_name())),
        );
        left.extend((POOL..d.shim_processes().len()).map(|_| "a shim".to_owned()));
        let snapshots = records.snapshots().await.expect("a list");
        left.extend(snapshots.into_iter().map(|name| format!("snapshot {name}")));
        let mut runtime = self.cri.runtime.clone();
        let listed = runtime.list_containers(wire::ListContainersRequest::default()).await.expect("a list");
        let containers = listed.into_inner().containers;
        left.extend(containers.into_iter().map(|one| format!("container {}", one.id)));
        left
    }

    /// What the daemon has logged of what is left.
    fn said_of(&self, left: &[String]) -> String {
        let is_id = |word: &&str| word.len() == 64;
        let ids: Vec<&str> =
            left.iter().flat_map(|line| line.split(|c: char| !c.is_ascii_hexdigit())).filter(is_id).collect();
        let log = self.said(0);
        let lines = log.lines().filter(|line| ids.iter().any(|id| line.contains(id)));
        lines.collect::<Vec<_>>().join("\n")
    }

    async fn nothing_is_left(&self, round: &str) {
        let mut records = Records::connect(&self.f.daemon.socket()).await.expect("a connection");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.left(&mut records).await;
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{round}: {left:#?}\n{}", self.said_of(&left));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A pod and its container, made in the background. Errors are for those who look: the daemon may go away.
    fn begin(&self, config: &wire::PodSandboxConfig) -> tokio::task::JoinHandle<Option<Up>> {
        let (cri, config, container) = (self.cri.clone(), config.clone(), self.container(0));
        tokio::spawn(async move {
            let pod = cri.run_pod(&config).await.ok()?;
            let container = cri.create(&pod, &container, &config).await.ok()?;
            cri.start(&container).await.ok()?;
            Some(Up { pod, container })
        })
    }

    fn kill_shims(&self) {
        for shim in self.f.daemon.shim_processes() {
            let _ = kill(Pid::from_raw(shim), Signal::SIGKILL);
        }
    }
}

fn random(most: Duration) -> Duration {
    most.mul_f64(rand::rng().random())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(all(have_nft, have_cni_plugins)),
    ignore = "needs nft and the CNI plugins (containernetworking-plugins)"
)]
async fn a_daemon_that_is_killed_in_any_step_goes_on_when_it_is_asked_again() {
    let mut w = World::new().await;
    let begun = Instant::now();
    let config = w.pod();
    let up = w.begin(&config).await.expect("it ran").expect("a pod that nobody disturbs");
    w.runs(&up.container).await;
    let making = begun.elapsed();
    w.remove_all().await;
    w.nothing_is_left("undisturbed").await;
    let (mut rounds, mut slowest) = (0, Duration::ZERO);
    for step in STEPS {
        for delay in DELAYS {
            let (config, since) = (w.pod(), w.now());
            let work = w.begin(&config);
            w.reached(since, step).await;
            tokio::time::sleep(delay).await;
            let killed = Instant::now();
            w.restart().await;
            slowest = slowest.max(killed.elapsed());
            let _ = work.await;
            let up = w.again(&config).await;
            assert!(!up.pod.is_empty());
            w.remove_all().await;
            w.nothing_is_left(&format!("{step} + {delay:?}")).await;
            rounds += 1;
        }
    }
    for round in 0..RANDOM {
        // After the container is recorded comes its start.
        let (config, since) = (w.pod(), w.now());
        let work = w.begin(&config);
        w.reached(since, "recording a container").await;
        tokio::time::sleep(random(Duration::from_millis(80))).await;
        w.restart().await;
        let _ = work.await;
        w.again(&config).await;
        // And while it is removed.
        let cri = w.cri.clone();
        let going = tokio::spawn(async move {
            let request = wire::ListPodSandboxRequest::default();
            for pod in cri.runtime.clone().list_pod_sandbox(request).await?.into_inner().items {
                cri.stop_pod(&pod.id).await?;
                cri.remove_pod(&pod.id).await?;
            }
            Ok::<(), tonic::Status>(())
        });
        tokio::time::sleep(random(Duration::from_millis(150))).await;
        w.restart().await;
        let _ = going.await;
        w.remove_all().await;
        w.nothing_is_left(&format!("start and removal {round}")).await;
        rounds += 2;
    }
    println!("{rounds} kills in {:?}; undisturbed: {making:?}; slowest start {slowest:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn a_daemon_that_is_killed_takes_back_what_pods_have_of_its_own_network() {
    let mut w = World::with(None).await;
    let begun = Instant::now();
    let mut rounds = 0;
    for step in ["setting up its network", "making its namespaces", "recording it"] {
        for delay in DELAYS {
            let (mut config, since) = (w.pod(), w.now());
            // Of the loopback's own, so that no other test has it.
            let host_port = 31000 + i32::try_from(std::process::id() % 1000).expect("a number");
            let host_ip = format!("127.{}.5.9", 20 + std::process::id() % 200);
            let port = wire::PortMapping { container_port: 80, host_port, host_ip, ..Default::default() };
            config.port_mappings.push(port);
            let work = w.begin(&config);
            w.reached(since, step).await;
            tokio::time::sleep(delay).await;
            w.restart().await;
            let _ = work.await;
            w.again(&config).await;
            w.remove_all().await;
            w.nothing_is_left(&format!("{step} + {delay:?}")).await;
            rounds += 1;
        }
    }
    println!("{rounds} kills in {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(all(have_nft, have_cni_plugins)),
    ignore = "needs nft and the CNI plugins (containernetworking-plugins)"
)]
async fn shims_that_are_killed_in_any_step_leave_nothing_and_the_next_attempt_runs() {
    let w = World::new().await;
    let begun = Instant::now();
    let (mut rounds, mut lost) = (0, 0);
    for step in
        ["starting its first process", "recording it", "making its specification", "recording a container"]
    {
        for delay in 0..4 {
            let (mut config, since) = (w.pod(), w.now());
            let work = w.begin(&config);
            w.reached(since, step).await;
            tokio::time::sleep(random(Duration::from_millis(15)) + Duration::from_millis(10 * delay)).await;
            w.kill_shims();
            if work.await.expect("it ran").is_none() {
                lost += 1;
            }
            w.remove_all().await;
            let up = w.kubelet(&mut config).await;
            w.runs(&up.container).await;
            w.remove_all().await;
            w.nothing_is_left(&format!("{step}, {delay}")).await;
            rounds += 1;
        }
    }
    println!("{rounds} times all shims were killed, {lost} times something failed, in {:?}", begun.elapsed());
}
