//! One shim has all containers of a pod: it is found again with all of them, ends with the last, and what befalls one container
//! leaves the others alone.

use std::io::Read;
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use longshore_proto::runtime::v1 as wire;
use longshore_tests::cri::{self, Cri};
use longshore_tests::daemon::{Settings, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

struct World(cri::World);

impl Deref for World {
    type Target = cri::World;

    fn deref(&self) -> &cri::World {
        &self.0
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut cri::World {
        &mut self.0
    }
}

async fn world() -> World {
    World(cri::World::new(Settings::default()).await)
}

impl World {
    async fn run(&self, pod: &str, config: &wire::PodSandboxConfig, name: &str, line: &str) -> String {
        let wanted = self.container(name, line);
        let id = self.cri.create(pod, &wanted, config).await.expect("created");
        self.cri.start(&id).await.expect("started");
        id
    }

    async fn says(&self, id: &str, line: &str) -> String {
        let said = self.cri.exec_sync(id, line, 10).await.expect("run");
        String::from_utf8(said.stdout).expect("text")
    }

    async fn runs(&self, id: &str) -> bool {
        self.cri.status(id).await.expect("a status").state() == wire::ContainerState::ContainerRunning
    }

    /// The shims of all pods, each once.
    fn shims(&self) -> Vec<i32> {
        self.f.daemon.shims()
    }

    /// Folders of shims and bundles.
    fn folders(&self) -> Vec<PathBuf> {
        let inside = |folder: &str| {
            let entries = std::fs::read_dir(self.f.daemon.state().join(folder)).into_iter().flatten();
            entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>()
        };
        [inside("shims"), inside("tasks/k8s.io")].concat()
    }
}

fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

const TALK: &str = "n=0; while :; do echo line $n; n=$((n+1)); sleep 0.05; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn three_containers_have_one_shim_which_is_found_again_and_leaves_with_the_last() {
    let mut w = world().await;
    let config = w.pod("three");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(w.run(&pod, &config, name, TALK).await);
    }
    let shims = w.shims();
    assert_eq!(shims.len(), 1, "{shims:?}");

    w.restart().await;
    assert_eq!(w.shims(), shims);
    for (id, name) in ids.iter().zip(["a", "b", "c"]) {
        assert!(w.runs(id).await);
        assert_eq!(w.says(id, &format!("hostname; echo {name}")).await, format!("three\n{name}\n"));
        let lines = w.log(name).lines().count();
        eventually("it goes on logging", || w.log(name).lines().count() > lines);
        let log = w.log(name);
        let numbers: Vec<usize> =
            log.lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>(), "each line once and in its own log");
    }
    // A fourth one joins the shim that was found again.
    let fourth = w.run(&pod, &config, "d", "exit 4").await;
    assert_eq!(w.cri.ended(&fourth).await.exit_code, 4);
    assert_eq!(w.shims(), shims);

    for (n, id) in ids.iter().enumerate() {
        w.cri.stop(id, 0).await.expect("stopped");
        assert_eq!(w.cri.ended(id).await.exit_code, 137);
        w.cri.remove(id).await.expect("removed");
        for other in &ids[n + 1..] {
            assert!(w.runs(other).await);
            assert_eq!(w.says(other, "echo well").await, "well\n");
        }
    }
    eventually("the shim leaves with its last container", || !lives(shims[0]));
    assert_eq!(w.folders(), Vec::<PathBuf>::new());
    // The pod is still there, and gets another.
    let again = w.run(&pod, &config, "e", "echo again").await;
    assert_eq!(w.cri.ended(&again).await.exit_code, 0);
    w.cri.remove_pod(&pod).await.expect("removed");
    assert_eq!(w.folders(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn a_shim_that_is_killed_ends_its_pods_containers_and_the_pod_goes_on_with_another() {
    let mut w = world().await;
    let (config, other_config) = (w.pod("killed"), w.pod("other"));
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let other_pod = w.cri.run_pod(&other_config).await.expect("a pod");
    let other = w.run(&other_pod, &other_config, "other", TALK).await;
    let of_other = w.shims();
    let ended = w.run(&pod, &config, "ended", "exit 3").await;
    assert_eq!(w.cri.ended(&ended).await.exit_code, 3);
    for without_daemon in [false, true] {
        let one = w.run(&pod, &config, &format!("one-{without_daemon}"), "sleep 7311").await;
        let two = w.run(&pod, &config, &format!("two-{without_daemon}"), "sleep 7312").await;
        let shim = *w.shims().iter().find(|shim| !of_other.contains(shim)).expect("the pod's shim");
        if without_daemon {
            w.f.daemon.kill();
        }
        kill(Pid::from_raw(shim), Signal::SIGKILL).expect("killed");
        if without_daemon {
            w.f.daemon.launch().expect("it starts again");
            w.cri = Cri::connect(&w.f.daemon.socket()).await.expect("a connection");
        }
        for id in [&one, &two] {
            let status = w.cri.ended(id).await;
            assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"), "{status:?}");
            // What a kubelet asks again.
            w.cri.stop(id, 1).await.expect("stopped");
            w.cri.stop(id, 1).await.expect("stopped");
        }
        eventually("no process is left", || {
            let lines = std::process::Command::new("ps").args(["-eo", "args"]).output().expect("ps").stdout;
            !String::from_utf8_lossy(&lines).lines().any(|line| line.starts_with("sleep 731"))
        });
        w.cri.remove(&one).await.expect("removed");
        let next = w.run(&pod, &config, &format!("next-{without_daemon}"), "echo next; exit 5").await;
        assert_eq!(w.cri.ended(&next).await.exit_code, 5);
    }
    assert_eq!(w.cri.ended(&ended).await.exit_code, 3);
    assert!(w.runs(&other).await);
    w.cri.remove_pod(&pod).await.expect("removed");
    assert_eq!(w.shims(), of_other);
    assert_eq!(w.folders().len(), 2, "of the other pod: {:?}", w.folders());
    w.cri.remove_pod(&other_pod).await.expect("removed");
    assert_eq!(w.folders(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn a_container_that_was_only_begun_when_the_daemon_died_harms_none_of_its_pod() {
    let mut w = world().await;
    let config = w.pod("begun");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let id = w.run(&pod, &config, "a", TALK).await;
    let shims = w.shims();
    w.f.daemon.kill();
    // What there is of a second one that the shim was not asked for yet.
    let bundle = w.f.daemon.state().join("tasks/k8s.io").join(&id);
    let begun = bundle.with_file_name("b".repeat(64));
    std::fs::create_dir(&begun).expect("a folder");
    for name in ["config.json", "task.pb"] {
        std::fs::copy(bundle.join(name), begun.join(name)).expect("copied");
    }
    let launched = Instant::now();
    w.f.daemon.launch().expect("it starts again");
    let took = launched.elapsed();
    w.cri = Cri::connect(&w.f.daemon.socket()).await.expect("a connection");
    assert_eq!(w.shims(), shims);
    assert!(w.runs(&id).await, "and its start took {took:?}");
    assert_eq!(w.says(&id, "echo well").await, "well\n");
    eventually("what was begun is removed", || !begun.exists());
    w.cri.remove_pod(&pod).await.expect("removed");
    assert_eq!(w.folders(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn containers_are_started_and_removed_at_once() {
    let w = world().await;
    let config = w.pod("at-once");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    for round in 0..20 {
        let run = |name: &'static str| {
            let (w, pod, config) = (&w, &pod, &config);
            async move { w.run(pod, config, &format!("{name}{round}"), &format!("echo {name}; sleep 1000")).await }
        };
        let (one, two) = tokio::join!(run("one"), run("two"));
        assert_eq!(w.shims().len(), 1, "round {round}");
        eventually("both talk", || {
            w.log(&format!("one{round}")).ends_with(" one\n")
                && w.log(&format!("two{round}")).ends_with(" two\n")
        });
        // The shim leaves with them, or the next round's containers keep it.
        let (first, second) = tokio::join!(w.cri.remove(&one), w.cri.remove(&two));
        first.and(second).expect("removed");
    }
    assert_eq!(w.folders(), Vec::<PathBuf>::new());
    // One comes while the other goes.
    let mut last = w.run(&pod, &config, "chain", "sleep 1000").await;
    for round in 0..10 {
        let name = format!("chain{round}");
        let (removed, next) = tokio::join!(w.cri.remove(&last), w.run(&pod, &config, &name, "sleep 1000"));
        removed.expect("removed");
        assert!(w.runs(&next).await);
        last = next;
    }
    w.cri.remove_pod(&pod).await.expect("removed");
    assert_eq!(w.folders(), Vec::<PathBuf>::new());
}

/// Freezes or thaws the cgroup of a process.
fn freeze(pid: i32, frozen: bool) {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroups");
    let of = |wanted: &str| {
        groups.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            (controllers == wanted).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let (file, value) = match of("freezer") {
        Some(path) => {
            (format!("/sys/fs/cgroup/freezer/{path}/freezer.state"), if frozen { "FROZEN" } else { "THAWED" })
        }
        None => {
            let path = of("").expect("a cgroup");
            (format!("/sys/fs/cgroup/{path}/cgroup.freeze"), if frozen { "1" } else { "0" })
        }
    };
    std::fs::write(&file, value).unwrap_or_else(|error| panic!("{file}: {error}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn a_frozen_container_does_not_hold_up_the_others_of_its_pod() {
    let w = world().await;
    let config = w.pod("frozen");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let cold = w.run(&pod, &config, "cold", "exec sleep 7411").await;
    let warm = w.run(&pod, &config, "warm", TALK).await;
    assert_eq!(w.shims().len(), 1);
    let lines =
        std::process::Command::new("pgrep").args(["-fx", "sleep 7411"]).output().expect("pgrep").stdout;
    let pid = String::from_utf8(lines).expect("text").trim().parse().expect("one process");
    freeze(pid, true);
    let stuck = {
        let (cri, cold) = (w.cri.clone(), cold.clone());
        tokio::spawn(async move { cri.exec_sync(&cold, "echo no", 3).await })
    };
    for _ in 0..5 {
        assert_eq!(w.says(&warm, "echo warm").await, "warm\n");
    }
    let lines = w.log("warm").lines().count();
    eventually("it goes on logging", || w.log("warm").lines().count() > lines);
    let third = w.run(&pod, &config, "third", "exit 6").await;
    assert_eq!(w.cri.ended(&third).await.exit_code, 6);
    assert!(stuck.await.expect("a call").is_err());
    w.cri.stop(&cold, 0).await.expect("stopped");
    assert_eq!(w.cri.ended(&cold).await.exit_code, 137);
    w.cri.remove_pod(&pod).await.expect("removed");
    assert_eq!(w.folders(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn a_port_of_the_host_is_held_while_any_container_of_the_pod_runs() {
    let mut w = world().await;
    let mut config = w.pod("ports");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("one").port();
    config.port_mappings = vec![wire::PortMapping {
        container_port: 8080,
        host_port: free.into(),
        host_ip: "127.0.0.1".to_owned(),
        ..Default::default()
    }];
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let serve = "while :; do echo served | nc -l -p 8080; done";
    let (one, two) =
        tokio::join!(w.run(&pod, &config, "one", "sleep 1000"), w.run(&pod, &config, "two", serve));
    let served = move || {
        let mut text = String::new();
        let read = TcpStream::connect(("127.0.0.1", free)).and_then(|mut socket| {
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.read_to_string(&mut text)
        });
        read.is_ok() && text == "served\n"
    };
    eventually("the port leads to the pod", served);
    w.cri.remove(&one).await.expect("removed");
    eventually("the port leads to the pod without its first container", served);
    w.restart().await;
    eventually("the port leads to the pod", served);
    let three = w.run(&pod, &config, "three", serve).await;
    w.cri.remove(&two).await.expect("removed");
    eventually("the port leads to the next container", served);
    w.cri.remove(&three).await.expect("removed");
    eventually("nobody holds it", || std::net::TcpListener::bind(("127.0.0.1", free)).is_ok());
    w.cri.remove_pod(&pod).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn the_first_process_of_a_pod_that_shares_its_processes_is_in_the_same_shim() {
    let mut w = world().await;
    let mut config = w.pod("shared");
    let shared = wire::NamespaceOption { pid: wire::NamespaceMode::Pod.into(), ..Default::default() };
    config.linux = Some(wire::LinuxPodSandboxConfig {
        security_context: Some(wire::LinuxSandboxSecurityContext {
            namespace_options: Some(shared.clone()),
            ..Default::default()
        }),
        ..Default::default()
    });
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let shims = w.shims();
    assert_eq!(shims.len(), 1);
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let mut wanted = cri::container(name, &w.image, "sleep 30 & sleep 1000");
        let security = wire::LinuxContainerSecurityContext {
            namespace_options: Some(shared.clone()),
            ..Default::default()
        };
        wanted.linux =
            Some(wire::LinuxContainerConfig { security_context: Some(security), ..Default::default() });
        let id = w.cri.create(&pod, &wanted, &config).await.expect("created");
        w.cri.start(&id).await.expect("started");
        ids.push(id);
    }
    assert_eq!(w.shims(), shims);
    w.restart().await;
    w.cri.stop(&ids[0], 0).await.expect("stopped");
    assert_eq!(w.cri.ended(&ids[0]).await.exit_code, 137);
    assert!(w.says(&ids[1], "ps -o args").await.contains("sleep 1000"));
    assert_eq!(w.shims(), shims);
    // The processes of the others end with the pod's first, and are reaped.
    let begun = Instant::now();
    w.cri.remove_pod(&pod).await.expect("removed");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(!lives(shims[0]));
    assert_eq!(w.folders(), Vec::<PathBuf>::new());
}
