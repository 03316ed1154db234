//! Pods by the Container Runtime Interface, as a kubelet runs them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use longshore_proto::containerd::services::tasks::v1 as tasks;
use longshore_proto::runtime::v1 as wire;
use longshore_tests::Fixture;
use longshore_tests::cri::{self, Cri};
use longshore_tests::daemon::{Settings, eventually};

struct World {
    f: Fixture,
    cri: Cri,
    image: String,
    logs: tempfile::TempDir,
}

async fn world() -> World {
    world_with(Settings::default()).await
}

async fn world_with(settings: Settings) -> World {
    let f = Fixture::with(settings).expect("a registry and a daemon");
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    let image = cri.pull(&f.busybox).await.expect("pulled");
    let logs = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
    World { f, cri, image, logs }
}

impl World {
    fn pod(&self, name: &str) -> wire::PodSandboxConfig {
        wire::PodSandboxConfig { log_directory: self.logs.path().display().to_string(), ..cri::pod(name) }
    }

    async fn run(&self, pod: &str, config: &wire::PodSandboxConfig, name: &str, line: &str) -> String {
        let wanted = cri::container(name, &self.image, line);
        let id = self.cri.create(pod, &wanted, config).await.expect("created");
        self.cri.start(&id).await.expect("started");
        id
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.logs.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    fn held(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
        let pods = self.f.daemon.state().join("pods");
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        points.filter(|point| point.starts_with(&pods)).collect()
    }

    /// What shims have written of execs that were not deleted.
    fn exits(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.f.daemon.state()];
        let mut found = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                // A container's files are its own affair.
                if is_folder && entry.file_name() != "rootfs" && entry.file_name() != "pods" {
                    folders.push(entry.path());
                } else if entry.file_name().to_string_lossy().contains("sync-") {
                    found.push(entry.path());
                }
            }
        }
        found
    }

    /// Pauses a container, or lets it go on, as the Container Runtime Interface cannot.
    async fn freeze(&self, id: &str, frozen: bool) {
        let url = format!("unix://{}", self.f.daemon.socket().display());
        let channel = tonic::transport::Endpoint::from_shared(url).expect("a URL").connect().await;
        let mut client = tasks::tasks_client::TasksClient::new(channel.expect("a connection"));
        let container_id = id.to_owned();
        let done = match frozen {
            true => client.pause(in_pods(tasks::PauseTaskRequest { container_id })).await,
            false => client.resume(in_pods(tasks::ResumeTaskRequest { container_id })).await,
        };
        done.expect("done");
    }

    fn folders(&self) -> usize {
        std::fs::read_dir(self.f.daemon.state().join("pods")).map_or(0, Iterator::count)
    }
}

/// A request of containerd's API about the containers of pods.
fn in_pods<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "k8s.io".parse().expect("a header"));
    request
}

/// Whether some process of the host has these words.
fn running(words: &str) -> bool {
    let lines = std::process::Command::new("ps").args(["-eo", "args"]).output().expect("ps").stdout;
    String::from_utf8_lossy(&lines).lines().any(|line| line == words)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn a_pod_with_two_containers_from_its_making_to_its_removal() {
    let mut w = world().await;
    let config = w.pod("web");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    assert_eq!(w.cri.run_pod(&config).await.expect("the same pod"), pod);
    let status = w.cri.pod_status(&pod).await.expect("a status").status.expect("one");
    assert_eq!(status.state(), wire::PodSandboxState::SandboxReady);
    let address = status.network.expect("a network").ip;
    assert!(!address.is_empty());

    let first = w.run(&pod, &config, "first", "echo one; echo two >&2; printf tail; exec sleep 1000").await;
    let second = w.run(&pod, &config, "second", "hostname; exit 3").await;
    let ended = w.cri.ended(&second).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (3, "Error"));
    assert!(ended.finished_at >= ended.started_at && ended.started_at > 0);
    assert!(w.log("second").ends_with(" stdout F web\n"), "{:?}", w.log("second"));
    eventually("the first container's log", || w.log("first").lines().count() >= 2);
    let log = w.log("first");
    assert!(log.contains(" stdout F one\n") && log.contains(" stderr F two\n"), "{log:?}");

    // Both see one network and one host's name.
    let shown = w.cri.exec_sync(&first, "hostname; ip -4 addr show eth0; exit 7", 10).await.expect("run");
    let text = String::from_utf8(shown.stdout).expect("text");
    assert!(text.starts_with("web\n") && text.contains(&format!("inet {address}/")), "{text}");
    assert_eq!(shown.exit_code, 7);

    // No process of the pod's or of the daemon's is lost when the daemon is.
    w.f.daemon.kill();
    w.f.daemon.launch().expect("it starts again");
    w.cri = Cri::connect(&w.f.daemon.socket()).await.expect("a connection");
    let status = w.cri.status(&first).await.expect("a status");
    assert_eq!(status.state(), wire::ContainerState::ContainerRunning);
    assert_eq!(w.cri.ended(&second).await.exit_code, 3);
    let after = w.cri.pod_status(&pod).await.expect("a status").status.expect("one");
    assert_eq!(after.network.expect("a network").ip, address);
    let third = w.run(&pod, &config, "third", "ip -4 addr show eth0").await;
    assert_eq!(w.cri.ended(&third).await.exit_code, 0);
    assert!(w.log("third").contains(&address), "{}", w.log("third"));
    // A kubelet that listens to events takes the first of a name for the last run of it.
    let all = w.cri.pod_status(&pod).await.expect("a status").containers_statuses;
    let ids: Vec<_> = all.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, [&third, &second, &first]);

    let begun = Instant::now();
    w.cri.stop(&first, 1).await.expect("stopped");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(w.cri.ended(&first).await.exit_code, 137, "a shell that is process 1 ignores SIGTERM");
    w.cri.stop_pod(&pod).await.expect("stopped");
    w.cri.stop_pod(&pod).await.expect("stopped already");
    assert!(w.held().is_empty(), "{:?}", w.held());
    w.cri.remove_pod(&pod).await.expect("removed");
    w.cri.remove_pod(&pod).await.expect("removed already");
    assert!(w.cri.pod_status(&pod).await.is_err());
    assert!(w.cri.status(&first).await.is_err());
    assert_eq!(w.folders(), 0);
    // Its name is free.
    let again = w.cri.run_pod(&config).await.expect("a pod of that name");
    assert_ne!(again, pod);
    w.cri.remove_pod(&again).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn what_is_asked_for_twice_at_once_is_made_once() {
    let w = world().await;
    let config = w.pod("twice");
    let (one, two) = tokio::join!(w.cri.run_pod(&config), w.cri.run_pod(&config));
    let pod = one.expect("a pod");
    assert_eq!(two.expect("the same pod"), pod);
    let wanted = cri::container("c", &w.image, "sleep 1000");
    let (one, two) = tokio::join!(w.cri.create(&pod, &wanted, &config), w.cri.create(&pod, &wanted, &config));
    let container = one.expect("a container");
    assert_eq!(two.expect("the same container"), container);
    let mut other = wanted.clone();
    other.args = vec!["else".to_owned()];
    assert_eq!(w.cri.create(&pod, &other, &config).await.unwrap_err().code(), tonic::Code::AlreadyExists);
    w.cri.remove_pod(&pod).await.expect("removed with its container");
    assert!(w.cri.status(&container).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn an_exec_that_takes_too_long_is_killed_and_a_child_that_keeps_its_output_holds_nobody_up() {
    let w = world().await;
    let config = w.pod("exec");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let id = w.run(&pod, &config, "c", "sleep 1000").await;
    let begun = Instant::now();
    let error = w.cri.exec_sync(&id, "exec sleep 1234", 1).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(!running("sleep 1234"), "whoever is told so finds the process gone");
    // A child that holds the output, and one that goes on filling it; neither holds up the next one.
    for line in ["sleep 3456 & echo said", "yes & echo said"] {
        let begun = Instant::now();
        let said = w.cri.exec_sync(&id, line, 8).await.expect("run");
        assert!(said.stdout.starts_with(b"said\n") || line.starts_with("yes"), "{:?}", said.stdout);
        assert_eq!(said.exit_code, 0);
        w.cri.exec_sync(&id, "true", 5).await.expect("run");
        w.cri.exec_sync(&id, "true", i64::MAX).await.expect("run");
        assert!(begun.elapsed() < Duration::from_secs(6), "{line}: {:?}", begun.elapsed());
    }
    // A deletion follows the end that is told.
    eventually("nothing is kept of them", || w.exits().is_empty());
    w.cri.remove_pod(&pod).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn of_a_flood_the_beginning_is_kept_and_the_daemon_stays_small() {
    let w = world().await;
    let config = w.pod("flood");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let id = w.run(&pod, &config, "c", "sleep 1000").await;
    let resident = || {
        let pid = w.f.daemon.pid().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("its memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
    };
    let before = resident();
    let line = "head -c 1073741824 /dev/zero; echo end >&2; exit 3";
    let said = w.cri.exec_sync(&id, line, 100).await.expect("run");
    assert_eq!(said.exit_code, 3);
    assert!((15 << 20..16 << 20).contains(&said.stdout.len()), "{}", said.stdout.len());
    // What is kept, once more in the answer, and what is on its way.
    assert!(resident() < before + 128, "{before} MiB, then {} MiB", resident());
    w.cri.remove_pod(&pod).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn an_exec_whose_caller_goes_away_ends_with_all_that_it_started() {
    let mut w = world().await;
    let config = w.pod("caller");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let id = w.run(&pod, &config, "c", "sleep 1000").await;
    let begun = |what: &str| eventually("it has begun", || running(what));
    for _ in 0..5 {
        let calling = Cri::connect(&w.f.daemon.socket()).await.expect("a connection");
        let called = tokio::spawn({
            let id = id.clone();
            async move { calling.exec_sync(&id, "sleep 2345 | cat; true", 0).await }
        });
        begun("sleep 2345");
        called.abort();
        eventually("it is gone", || !running("sleep 2345"));
    }
    // Nor does one stay whose daemon has gone.
    let calling = w.cri.clone();
    let called = tokio::spawn({
        let id = id.clone();
        async move { calling.exec_sync(&id, "sleep 2346; true", 0).await }
    });
    begun("sleep 2346");
    w.f.daemon.kill();
    called.await.expect("it ended").expect_err("the daemon is gone");
    w.f.daemon.launch().expect("it starts again");
    w.cri = Cri::connect(&w.f.daemon.socket()).await.expect("a connection");
    eventually("it is gone", || !running("sleep 2346"));
    eventually("nothing is left of it", || w.exits().is_empty());
    assert_eq!(w.cri.exec_sync(&id, "echo $$", 10).await.expect("run").exit_code, 0);
    w.cri.remove_pod(&pod).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn an_exec_ends_in_time_whatever_its_container_and_shim_do() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let w = world().await;
    let config = w.pod("frozen");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let id = w.run(&pod, &config, "c", "sleep 1000").await;
    let in_time = async |line: &str| {
        let begun = Instant::now();
        let error = w.cri.exec_sync(&id, line, 1).await.expect_err("it cannot run");
        assert!(begun.elapsed() < Duration::from_secs(4), "{error}: {:?}", begun.elapsed());
        error.code()
    };
    w.freeze(&id, true).await;
    in_time("sleep 2347").await;
    w.freeze(&id, false).await;

    let shims = w.f.daemon.shims();
    let each = |signal: Signal| {
        for shim in &shims {
            kill(Pid::from_raw(*shim), signal).expect("a shim");
        }
    };
    each(Signal::SIGSTOP);
    assert_eq!(in_time("sleep 2348").await, tonic::Code::DeadlineExceeded);
    each(Signal::SIGCONT);
    // It may have begun by now, for nobody.
    assert_eq!(w.cri.exec_sync(&id, "exit 4", 20).await.expect("run").exit_code, 4);
    eventually("it is gone", || !running("sleep 2348"));
    eventually("nothing is left of it", || w.exits().is_empty());
    w.cri.remove_pod(&pod).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn a_log_that_was_renamed_is_opened_anew() {
    let w = world().await;
    let config = w.pod("logs");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let id = w.run(&pod, &config, "c", "while :; do echo line; sleep 0.05; done").await;
    eventually("there is a line", || w.log("c").contains("line"));
    let path = w.logs.path().join("c.log");
    std::fs::rename(&path, w.logs.path().join("c.log.1")).expect("renamed");
    let request = wire::ReopenContainerLogRequest { container_id: id.clone() };
    w.cri.runtime.clone().reopen_container_log(request.clone()).await.expect("reopened");
    eventually("there is a line in the new one", || w.log("c").contains("line"));
    assert_eq!(std::fs::metadata(&path).expect("the log").mode() & 0o777, 0o640);
    w.cri.stop(&id, 0).await.expect("stopped");
    assert!(w.cri.runtime.clone().reopen_container_log(request).await.is_err());
    w.cri.remove_pod(&pod).await.expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn namespaces_are_shared_as_was_asked() {
    let w = world().await;
    let mut config = w.pod("shared");
    let options = |network, pid| wire::NamespaceOption {
        network: i32::from(network),
        pid: i32::from(pid),
        ..Default::default()
    };
    let of_pod = |options: wire::NamespaceOption| wire::LinuxPodSandboxConfig {
        security_context: Some(wire::LinuxSandboxSecurityContext {
            namespace_options: Some(options),
            ..Default::default()
        }),
        sysctls: [("kernel.shm_rmid_forced".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    };
    let shared = options(wire::NamespaceMode::Pod, wire::NamespaceMode::Pod);
    config.linux = Some(of_pod(shared.clone()));
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let in_pod = |name: &str, line: &str, options: &wire::NamespaceOption| {
        let mut wanted = cri::container(name, &w.image, line);
        let security = wire::LinuxContainerSecurityContext {
            namespace_options: Some(options.clone()),
            ..Default::default()
        };
        wanted.linux =
            Some(wire::LinuxContainerConfig { security_context: Some(security), ..Default::default() });
        wanted
    };
    let one = in_pod("one", "sleep 4321", &shared);
    let one = w.cri.create(&pod, &one, &config).await.expect("created");
    w.cri.start(&one).await.expect("started");
    let two =
        in_pod("two", "cat /proc/sys/kernel/shm_rmid_forced /proc/1/oom_score_adj; ps -o args", &shared);
    let two = w.cri.create(&pod, &two, &config).await.expect("created");
    w.cri.start(&two).await.expect("started");
    assert_eq!(w.cri.ended(&two).await.exit_code, 0);
    let log = w.log("two");
    assert!(log.contains(" stdout F 1\n") && log.contains("sleep 4321"), "{log}");
    // The pod's first process is the last to go when memory runs short, where the daemon may say so (CAP_SYS_RESOURCE).
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("capabilities");
    let may = u64::from_str_radix(held.trim(), 16).expect("a mask") & 1 << 24 != 0;
    assert!(log.contains(if may { " stdout F -998\n" } else { " stdout F 0\n" }), "{log}");
    w.cri.remove_pod(&pod).await.expect("removed");

    let mut config = w.pod("host");
    let mut linux = of_pod(options(wire::NamespaceMode::Node, wire::NamespaceMode::Container));
    linux.sysctls.clear();
    config.linux = Some(linux);
    config.hostname.clear();
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let own = options(wire::NamespaceMode::Node, wire::NamespaceMode::Container);
    let three = in_pod("three", "readlink /proc/self/ns/net; echo $$", &own);
    let three = w.cri.create(&pod, &three, &config).await.expect("created");
    w.cri.start(&three).await.expect("started");
    assert_eq!(w.cri.ended(&three).await.exit_code, 0);
    let host = std::fs::read_link("/proc/self/ns/net").expect("a namespace").display().to_string();
    let log = w.log("three");
    assert!(log.contains(&host) && log.contains(" stdout F 1\n"), "{log}");
    w.cri.remove_pod(&pod).await.expect("removed");
    assert_eq!((w.held(), w.folders()), (Vec::new(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_refused_and_leaves_nothing() {
    let w = world().await;
    let config = w.pod("refused");
    let request = wire::RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: "no-such-handler".to_owned(),
    };
    let error = w.cri.runtime.clone().run_pod_sandbox(request).await.unwrap_err();
    assert!(error.message().contains("no-such-handler"), "{error}");
    let mut odd = config.clone();
    odd.linux = Some(wire::LinuxPodSandboxConfig {
        sysctls: [("vm.swappiness".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    });
    assert_eq!(w.cri.run_pod(&odd).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    assert_eq!(w.folders(), 0);
    let container = cri::container("c", &w.image, "true");
    assert_eq!(w.cri.create("none", &container, &config).await.unwrap_err().code(), tonic::Code::NotFound);
    w.cri.stop("none", 1).await.expect("what is not there is stopped");
    w.cri.remove("none").await.expect("and removed");
    w.cri.stop_pod("none").await.expect("a pod, too");
    let absent = wire::ImageStatusRequest {
        image: Some(wire::ImageSpec { image: "no/such:image".to_owned(), ..Default::default() }),
        verbose: false,
    };
    assert!(w.cri.images.clone().image_status(absent).await.expect("answered").into_inner().image.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_have_one_id_under_all_their_names() {
    let w = world().await;
    let find = async |name: &str| {
        let image = Some(wire::ImageSpec { image: name.to_owned(), ..Default::default() });
        let request = wire::ImageStatusRequest { image, verbose: false };
        w.cri.images.clone().image_status(request).await.expect("answered").into_inner().image
    };
    let image = find(&w.f.busybox).await.expect("by its tag");
    assert_eq!(image.id, w.image);
    assert_eq!(image.repo_tags, std::slice::from_ref(&w.f.busybox));
    assert!(image.size > 0);
    let digest = image.repo_digests.first().expect("a digest").clone();
    assert_eq!(find(&digest).await.expect("by its digest").id, w.image);
    assert_eq!(find(&w.image).await.expect("by its id").id, w.image);
    let disk = w.cri.images.clone().image_fs_info(wire::ImageFsInfoRequest {}).await.expect("answered");
    let disk = disk.into_inner().image_filesystems.remove(0);
    assert!(Path::new(&disk.fs_id.expect("a place").mountpoint).is_dir());
    let image = Some(wire::ImageSpec { image: w.f.busybox.clone(), ..Default::default() });
    let request = wire::RemoveImageRequest { image };
    w.cri.images.clone().remove_image(request.clone()).await.expect("removed");
    w.cri.images.clone().remove_image(request).await.expect("removed already");
    assert!(find(&w.image).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(all(have_nft, have_cni_plugins)),
    ignore = "needs nft and the CNI plugins (containernetworking-plugins)"
)]
async fn a_pod_of_cni_gives_back_what_it_had_and_a_plugin_that_fails_leaves_nothing() {
    let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
    let leases = folder.path().join("leases");
    let bridge = format!("lscrip{}", std::process::id() % 10_000);
    let number = std::process::id() % 250;
    let list = |more: &str| {
        let text = format!(
            r#"{{"cniVersion": "0.4.0", "name": "lab", "plugins": [
                {{"type": "bridge", "bridge": "{bridge}", "isGateway": true, "ipam": {{"type": "host-local",
                  "dataDir": "{}", "subnet": "10.49.{number}.0/24", "routes": [{{"dst": "0.0.0.0/0"}}]}}}}{more}]}}"#,
            leases.display()
        );
        std::fs::write(folder.path().join("10-lab.conflist"), text).expect("written");
    };
    let leased = || {
        let entries = std::fs::read_dir(leases.join("lab")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("10.")).count()
    };
    // A sysctl that there is not.
    list(r#", {"type": "tuning", "sysctl": {"net.core.no_such_thing": "1"}}"#);
    let config = format!("[network]\ncni_configurations = [\"{}\"]\n", folder.path().display());
    let mut w = world_with(Settings { config, ..Settings::default() }).await;
    let pod = w.pod("cni");
    let error = w.cri.run_pod(&pod).await.unwrap_err();
    assert!(error.message().contains("tuning"), "{error}");
    assert_eq!((leased(), w.folders(), w.held()), (0, 0, Vec::new()));
    list("");
    let id = w.cri.run_pod(&pod).await.expect("the plugin is mended");
    let address = w.cri.pod_status(&id).await.expect("a status").status.expect("one").network;
    assert!(address.expect("a network").ip.starts_with("10.49."));
    assert_eq!(leased(), 1);
    // What the daemon knows of it is on disk, and the configuration may be gone.
    w.f.daemon.kill();
    std::fs::remove_file(folder.path().join("10-lab.conflist")).expect("removed");
    w.f.daemon.launch().expect("it starts again");
    w.cri = Cri::connect(&w.f.daemon.socket()).await.expect("a connection");
    w.cri.remove_pod(&id).await.expect("removed");
    assert_eq!((leased(), w.folders(), w.held()), (0, 0, Vec::new()));
    let _ = std::process::Command::new("ip").args(["link", "del", &bridge]).output();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(all(have_nft, have_cni_plugins)),
    ignore = "needs nft and the CNI plugins (containernetworking-plugins)"
)]
async fn what_a_plugin_cannot_take_back_is_taken_back_later_and_holds_nothing_up() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
    let (leases, plugins) = (folder.path().join("leases"), folder.path().join("plugins"));
    std::fs::create_dir(&plugins).expect("a folder");
    for name in ["bridge", "host-local", "loopback"] {
        symlink(Path::new("/usr/lib/cni").join(name), plugins.join(name)).expect("linked");
    }
    let bridge = format!("lscriq{}", std::process::id() % 10_000);
    let number = std::process::id() % 250;
    let list = format!(
        r#"{{"cniVersion": "0.4.0", "name": "lab", "plugins": [
            {{"type": "bridge", "bridge": "{bridge}", "isGateway": true, "ipam": {{"type": "host-local",
              "dataDir": "{}", "subnet": "10.50.{number}.0/24"}}}}]}}"#,
        leases.display()
    );
    std::fs::write(folder.path().join("10-lab.conflist"), list).expect("written");
    let leased = || {
        let entries = std::fs::read_dir(leases.join("lab")).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("10.")).count()
    };
    let config = format!(
        "[network]\ncni_configurations = [\"{}\"]\ncni_plugins = [\"{}\"]\n",
        folder.path().display(),
        plugins.display()
    );
    let w = world_with(Settings { config, ..Settings::default() }).await;
    let id = w.cri.run_pod(&w.pod("cni")).await.expect("a pod");
    assert_eq!(leased(), 1);
    std::fs::remove_file(plugins.join("bridge")).expect("removed");
    std::fs::write(plugins.join("bridge"), "#!/bin/sh\nexit 1\n").expect("written");
    std::fs::set_permissions(plugins.join("bridge"), PermissionsExt::from_mode(0o755)).expect("executable");
    w.cri.remove_pod(&id).await.expect("removed all the same");
    assert_eq!((leased(), w.folders(), w.held()), (1, 0, Vec::new()));
    std::fs::remove_file(plugins.join("bridge")).expect("removed");
    symlink("/usr/lib/cni/bridge", plugins.join("bridge")).expect("linked");
    eventually("its address is given back", || leased() == 0);
    let _ = std::process::Command::new("ip").args(["link", "del", &bridge]).output();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn a_container_whose_shim_does_not_answer_is_found_again_and_can_be_stopped() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let mut w = world().await;
    let config = w.pod("silent");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let id = w.run(&pod, &config, "silent", "exec sleep 1000").await;
    let shims = w.f.daemon.shims();
    let each = |signal: Signal| {
        for shim in &shims {
            kill(Pid::from_raw(*shim), signal).expect("a shim");
        }
    };
    each(Signal::SIGSTOP);
    w.f.daemon.kill();
    w.f.daemon.launch().expect("it starts again");
    w.cri = Cri::connect(&w.f.daemon.socket()).await.expect("a connection");
    let status = w.cri.status(&id).await.expect("a status");
    assert_eq!(status.state(), wire::ContainerState::ContainerUnknown);
    each(Signal::SIGCONT);
    let deadline = Instant::now() + Duration::from_secs(20);
    while w.cri.status(&id).await.expect("a status").state() != wire::ContainerState::ContainerRunning {
        assert!(Instant::now() < deadline, "it is not found again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    w.cri.stop(&id, 0).await.expect("stopped");
    assert_eq!(w.cri.ended(&id).await.exit_code, 137);
    w.cri.remove_pod(&pod).await.expect("removed");
}
