//! The daemon on a host that has nothing but cgroup v2; `make test-vm` runs these in such a machine.

use std::fs;
use std::path::{Path, PathBuf};

use longshore_proto::runtime::v1 as wire;
use longshore_tests::Fixture;
use longshore_tests::cri::{self, Cri};
use longshore_tests::daemon::{Daemon, Settings, eventually};

/// The cgroup of a container's first process.
fn cgroup(daemon: &Daemon, name: &str) -> PathBuf {
    let pid = daemon.ctl(&["inspect", "--format", "{{.State.Pid}}", name]).ok().line().to_owned();
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process runs");
    let path = text.trim().strip_prefix("0::/").expect("a pure v2 host");
    PathBuf::from("/sys/fs/cgroup").join(path)
}

#[test]
#[ignore = "needs a pure cgroup v2 host: make test-vm"]
fn limits_are_the_kernels() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let limits = ["--memory", "64m", "--pids-limit", "33", "--cpus", "0.5"];
    let words = [
        &["run", "-d", "--network", "none", "--name", "limited"][..],
        &limits,
        &[&f.busybox, "sleep", "1000"],
    ]
    .concat();
    d.ctl(&words).ok();
    let group = cgroup(d, "limited");
    assert!(group.to_string_lossy().contains(d.cgroup_parent()), "{group:?}");
    let file = |name: &str| fs::read_to_string(group.join(name)).expect("a control file").trim().to_owned();
    assert_eq!(file("memory.max"), (64 << 20).to_string());
    assert_eq!(file("pids.max"), "33");
    assert_eq!(file("cpu.max"), "50000 100000");
    assert_eq!(d.ctl(&["exec", "limited", "cat", "/proc/self/cgroup"]).ok().line(), "0::/");
    assert_eq!(file("cgroup.procs").lines().count(), 1);
    d.ctl(&["pause", "limited"]).ok();
    assert!(file("cgroup.events").contains("frozen 1"), "{}", file("cgroup.events"));
    d.ctl(&["unpause", "limited"]).ok();
    assert!(d.ctl(&["stats", "--no-stream", "limited"]).ok().stdout.contains("64MiB"));
    d.ctl(&["rm", "-f", "limited"]).ok();
    assert!(!group.exists(), "{group:?} is left");
}

#[test]
#[ignore = "needs a pure cgroup v2 host: make test-vm"]
fn a_container_without_memory_is_killed_and_says_so() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let hungry = [
        "run",
        "--network",
        "none",
        "--name",
        "hungry",
        "-m",
        "24m",
        &f.busybox,
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=96M",
    ];
    d.ctl(&hungry).expect(137);
    let told = d.ctl(&["inspect", "--format", "{{.State.OOMKilled}}", "hungry"]).ok();
    assert_eq!(told.line(), "true");
}

#[test]
#[ignore = "needs a pure cgroup v2 host: make test-vm"]
fn containers_outlive_the_daemon() {
    let mut f = Fixture::pulled();
    f.daemon.ctl(&["run", "-d", "--network", "none", "--name", "stays", &f.busybox, "sleep", "1000"]).ok();
    let group = cgroup(&f.daemon, "stays");
    f.daemon.kill();
    assert!(group.exists());
    f.daemon.launch().expect("the daemon starts again");
    assert_eq!(cgroup(&f.daemon, "stays"), group);
    f.daemon.ctl(&["kill", "stays"]).ok();
    eventually("its cgroup is gone", || !group.exists());
}

/// On the host's network: it needs no firewall.
fn of_host() -> wire::NamespaceOption {
    wire::NamespaceOption {
        network: wire::NamespaceMode::Node.into(),
        pid: wire::NamespaceMode::Container.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_files_of_a_pods_container_are_as_they_were_when_one_of_them_is_refused() {
    let f = Fixture::with(Settings::default()).expect("a registry and a daemon");
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    let image = cri.pull(&f.busybox).await.expect("pulled");
    let mut config = cri::pod("files");
    config.hostname.clear();
    let security =
        wire::LinuxSandboxSecurityContext { namespace_options: Some(of_host()), ..Default::default() };
    config.linux =
        Some(wire::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() });
    let pod = cri.run_pod(&config).await.expect("a pod");
    let mut wanted = cri::container("c", &image, "exec sleep 1000");
    let security =
        wire::LinuxContainerSecurityContext { namespace_options: Some(of_host()), ..Default::default() };
    wanted.linux =
        Some(wire::LinuxContainerConfig { security_context: Some(security), ..Default::default() });
    let id = cri.create(&pod, &wanted, &config).await.expect("created");
    cri.start(&id).await.expect("started");
    let change = async |files: &[(&str, &str)]| {
        let unified = files.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect();
        let request = wire::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(wire::LinuxContainerResources { unified, ..Default::default() }),
            ..Default::default()
        };
        cri.runtime.clone().update_container_resources(request).await.map(drop)
    };
    let said = async || {
        let line = "cd /sys/fs/cgroup && cat memory.high memory.low pids.max cpu.weight";
        String::from_utf8(cri.exec_sync(&id, line, 20).await.expect("run").stdout).expect("text")
    };
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        let before = said().await;
        assert_eq!(before.lines().count(), 4, "{before}");
        // They are written in no order: one that is refused comes before or after the others.
        for round in 1..9 {
            let (high, weight) = (format!("{}", round << 26), format!("{}", round + 1));
            let files = [
                ("memory.high", high.as_str()),
                ("pids.max", "77"),
                ("cpu.weight", &weight),
                ("memory.low", "x"),
            ];
            change(&files).await.expect_err("one of them is nonsense");
            assert_eq!(said().await, before);
        }
        change(&[("memory.high", "67108864")]).await.expect("changed");
        let changed = said().await;
        assert!(changed.starts_with("67108864\n"), "{changed}");
        change(&[("memory.high", "33554432"), ("memory.low", "x")]).await.expect_err("nonsense");
        assert_eq!(said().await, changed);
    } else {
        let error = change(&[("memory.high", "67108864")]).await.expect_err("there are none");
        assert!(error.message().contains("unified"), "{error}");
    }
    cri.remove_pod(&pod).await.expect("removed");
}
