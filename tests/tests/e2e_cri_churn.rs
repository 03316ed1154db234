//! Pods that come and go by the dozen, as a kubelet makes them, leave nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use longshore_proto::runtime::v1 as wire;
use longshore_tests::Fixture;
use longshore_tests::cri::{self, Cri};
use longshore_tests::daemon::{Settings, eventually};

/// Pods that are made or removed at one time.
const AT_ONCE: usize = 10;

/// Of one pod of each round.
const HOST_PORT: i32 = 31_999;

/// Pods of a round, and rounds: `LONGSHORE_LONG=1` for the whole.
fn size() -> (usize, usize) {
    if std::env::var_os("LONGSHORE_LONG").is_some() { (100, 3) } else { (20, 3) }
}

struct World {
    f: Fixture,
    cri: Cri,
    image: String,
    logs: tempfile::TempDir,
    /// Where the plugins keep their addresses; `None` on the built-in network.
    leases: Option<PathBuf>,
}

impl World {
    async fn new(settings: Settings, leases: Option<PathBuf>) -> World {
        let f = Fixture::with(settings).expect("a registry and a daemon");
        let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
        let image = cri.pull(&f.busybox).await.expect("pulled");
        let logs = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
        World { f, cri, image, logs, leases }
    }

    /// All that pods may leave, as lines.
    fn inventory(&self) -> BTreeSet<String> {
        let daemon = &self.f.daemon;
        let mut all = BTreeSet::new();
        let mut add =
            |what: &str, names: Vec<String>| all.extend(names.iter().map(|name| format!("{what} {name}")));
        add("file in pods", below(&daemon.state().join("pods"), 4));
        add("bundle", names(&daemon.state().join("tasks/k8s.io")));
        add("journal", names(&daemon.root().join("cni-pods")));
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned);
        let own = daemon.path().display().to_string();
        add("mount", points.filter(|point| point.starts_with(&own)).collect());
        // Namespaces of the built-in network wait for the next pod: their number is bounded, their names are not.
        let bridge = Path::new("/sys/class/net").join(daemon.bridge()).join("brif");
        add("interface", (0..names(&bridge).len().saturating_sub(POOL)).map(|n| n.to_string()).collect());
        if let Some(leases) = &self.leases {
            let is_address = |name: &String| name.starts_with("10.");
            add("address", names(leases).into_iter().filter(is_address).collect());
        }
        add("cgroup", cgroups(daemon.cgroup_parent()));
        let snapshots = daemon.ctr(&["-n", "k8s.io", "snapshots", "ls"]).ok().stdout;
        let active = snapshots.lines().filter(|line| !line.ends_with("Committed"));
        add("snapshot", active.skip(1).map(str::to_owned).collect());
        let containers = daemon.ctr(&["-n", "k8s.io", "containers", "ls", "-q"]).ok().stdout;
        add("container", containers.lines().map(str::to_owned).collect());
        let nft = Command::new("nft").args(["list", "ruleset"]).output().expect("nft runs");
        let rules = String::from_utf8_lossy(&nft.stdout).into_owned();
        add(
            "rule",
            rules.lines().filter(|line| line.contains(&HOST_PORT.to_string())).map(str::to_owned).collect(),
        );
        all
    }

    /// Kibibytes of the daemon's that are resident.
    fn resident(&self) -> u64 {
        let pid = self.f.daemon.pid().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }

    fn descriptors(&self) -> usize {
        let pid = self.f.daemon.pid().expect("it runs");
        std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
    }

    async fn one(&self, name: &str) -> (String, String) {
        let mut config = cri::pod(name);
        config.log_directory = self.logs.path().display().to_string();
        if name == "churn-0" && self.leases.is_none() {
            let port = wire::PortMapping { container_port: 80, host_port: HOST_PORT, ..Default::default() };
            config.port_mappings.push(port);
        }
        let pod = self.cri.run_pod(&config).await.expect("a pod");
        let wanted = cri::container(name, &self.image, "echo up; exec sleep 1000");
        let container = self.cri.create(&pod, &wanted, &config).await.expect("created");
        self.cri.start(&container).await.expect("started");
        let status = self.cri.pod_status(&pod).await.expect("a status").status.expect("one");
        (pod, status.network.expect("a network").ip)
    }

    async fn remove(&self, pod: &str) {
        self.cri.stop_pod(pod).await.expect("stopped");
        self.cri.remove_pod(pod).await.expect("removed");
    }

    /// Makes so many pods, and removes them.
    async fn round(&self, count: usize) {
        use futures::StreamExt;
        let make = |number: usize| async move { self.one(&format!("churn-{number}")).await };
        let pods: Vec<(String, String)> =
            futures::stream::iter(0..count).map(make).buffer_unordered(AT_ONCE).collect().await;
        let addresses: BTreeSet<&String> = pods.iter().map(|(_, address)| address).collect();
        assert_eq!(addresses.len(), count, "an address was given twice");
        let remove = |(pod, _): (String, String)| async move { self.remove(&pod).await };
        futures::stream::iter(pods).map(remove).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    }

    async fn rounds(&self) {
        let (pods, rounds) = size();
        // What the first pod makes for all that follow is there.
        let (first, _) = self.one("first").await;
        self.remove(&first).await;
        let shims = self.f.daemon.shims().len();
        let before = self.inventory();
        let mut resident = Vec::new();
        for round in 1..=rounds {
            let begun = Instant::now();
            self.round(pods).await;
            println!("round {round}: {pods} pods in {:?}", begun.elapsed());
            let mut left = Vec::new();
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline {
                left = self.inventory().difference(&before).cloned().collect();
                if left.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            assert!(left.is_empty(), "round {round} left {left:#?}");
            eventually("the shims end", || self.f.daemon.shims().len() <= shims.max(POOL));
            tokio::time::sleep(Duration::from_secs(1)).await;
            resident.push((self.resident(), self.descriptors()));
        }
        println!("resident (KiB) and descriptors after each round: {resident:?}");
        let [.., (second, open), (third, still_open)] = resident.as_slice() else { panic!("two rounds") };
        // A page of each pod would be more.
        assert!(*third <= second + second / 20 + 4 * pods as u64, "the daemon grows: {resident:?}");
        assert!(*still_open <= open + 3, "descriptors are left: {resident:?}");
    }
}

/// Shims, and namespaces, that wait for the next container.
const POOL: usize = 4;

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn below(folder: &Path, depth: u32) -> Vec<String> {
    let mut all = Vec::new();
    for name in names(folder) {
        let path = folder.join(&name);
        all.push(path.display().to_string());
        if depth > 0 && path.is_dir() {
            all.extend(below(&path, depth - 1));
        }
    }
    all
}

/// Groups below a parent, in every hierarchy.
fn cgroups(parent: &str) -> Vec<String> {
    let root = Path::new("/sys/fs/cgroup");
    let mut parents = vec![root.join(parent)];
    parents.extend(names(root).into_iter().map(|hierarchy| root.join(hierarchy).join(parent)));
    let groups = parents.iter().flat_map(|parent| names(parent).into_iter().map(|name| parent.join(name)));
    groups.filter(|group| group.is_dir()).map(|group| group.display().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(all(have_nft, have_ctr)), ignore = "needs nft and ctr")]
async fn pods_that_come_and_go_leave_nothing() {
    World::new(Settings::default(), None).await.rounds().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(all(have_nft, have_ctr, have_cni_plugins)),
    ignore = "needs nft, ctr and the CNI plugins (containernetworking-plugins)"
)]
async fn pods_of_cni_that_come_and_go_leave_nothing() {
    let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
    let leases = folder.path().join("leases");
    let number = std::process::id();
    let bridge = format!("lschurn{}", number % 10_000);
    let list = format!(
        r#"{{"cniVersion": "0.4.0", "name": "lab", "plugins": [
            {{"type": "bridge", "bridge": "{bridge}", "isGateway": true, "ipam": {{"type": "host-local",
              "dataDir": "{}", "subnet": "10.51.{}.0/24"}}}}]}}"#,
        leases.display(),
        number % 250
    );
    std::fs::write(folder.path().join("10-lab.conflist"), list).expect("written");
    let config = format!(
        "[cri]\nnetwork = \"cni\"\n[network]\ncni_configurations = [\"{}\"]\n",
        folder.path().display()
    );
    let settings = Settings { config, ..Settings::default() };
    World::new(settings, Some(leases.join("lab"))).await.rounds().await;
    let ports = names(&Path::new("/sys/class/net").join(&bridge).join("brif"));
    let _ = Command::new("ip").args(["link", "del", &bridge]).output();
    assert!(ports.is_empty(), "{ports:?}");
}
