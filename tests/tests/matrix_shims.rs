//! Our daemon × shims × snapshotters: a container's whole life, and what a `kill -9` of the daemon or of the shim makes of it.
//! The shims: ours, the host's containerd-shim-runc-v2 (of containerd 1.6, named in the configuration), and a newer one by
//! its path (`LONGSHORE_NEWER_SHIM`, at build time).

use std::fs;
use std::time::Duration;

use longshore_proto::containerd::services::tasks::v1 as tasks;
use longshore_proto::containerd::v1::types::Status as TaskStatus;
use longshore_tests::Fixture;
use longshore_tests::daemon::{Settings, eventually};
use longshore_tests::host::{Host, Shim, config, in_time, is_alive, rest, titles_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tonic::Code;

/// Run, exec, exit codes, pause, metrics, processes, kill, delete; and every event once, in order.
async fn lives(shim: Shim, snapshotter: &'static str) {
    let mut host = Host::new(shim, snapshotter).await;
    let mut events = host.subscribe().await;
    let pid = host.created("one", &["sh", "-c", "echo out; exec sleep 1000"]).await;
    assert_eq!(host.api.get("one").await.expect("it is there").status(), TaskStatus::Created);
    assert_eq!(host.api.create("one").await.expect_err("it is refused").code(), Code::AlreadyExists);
    assert_eq!(host.api.start("one").await.expect("it starts"), pid);
    let running = host.api.get("one").await.expect("it is there");
    assert_eq!((running.status(), running.pid), (TaskStatus::Running, pid));
    let output = host.output("one");
    eventually("it writes", || fs::read_to_string(&output).unwrap_or_default() == "out\n");

    let exec = host.exec("one", "more", &["sh", "-c", "sleep 0.2; exit 5"]).await;
    let pids = tasks::ListPidsRequest { container_id: "one".into() };
    let listed = host.api.tasks.list_pids(pids).await.expect("processes").into_inner().processes;
    assert!(listed.iter().any(|process| process.pid == pid), "{listed:?}");
    assert!(listed.iter().any(|process| process.pid == exec && process.info.is_some()), "{listed:?}");
    assert_eq!(host.wait_exec("one", "more").await.expect("an exit"), 5);
    assert_eq!(host.delete_exec("one", "more").await, 5);

    host.api.tasks.pause(tasks::PauseTaskRequest { container_id: "one".into() }).await.expect("a pause");
    assert_eq!(host.api.get("one").await.expect("it is there").status(), TaskStatus::Paused);
    host.api.tasks.resume(tasks::ResumeTaskRequest { container_id: "one".into() }).await.expect("a resume");
    assert_eq!(host.api.get("one").await.expect("it is there").status(), TaskStatus::Running);
    let metrics = tasks::MetricsRequest { filters: vec!["id==one".into()] };
    let metrics = host.api.tasks.metrics(metrics).await.expect("metrics").into_inner().metrics;
    assert!(metrics.len() == 1 && metrics[0].data.is_some(), "{metrics:?}");
    let running = tasks::DeleteTaskRequest { container_id: "one".into() };
    host.api.tasks.delete(running).await.expect_err("what runs is not deleted");

    host.api.kill("one", 9).await.expect("it is killed");
    assert_eq!(in_time("the end", host.api.wait("one")).await.expect("an exit"), 137);
    let shim_pid = host.shim_of("one");
    assert_eq!(host.api.delete("one").await.expect("it is deleted"), 137);
    host.is_gone("one");
    assert!(!is_alive(shim_pid), "its shim is left");
    let told = titles_until(&mut events, "/tasks/delete one").await;
    let expected = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/exit more",
        "/tasks/paused",
        "/tasks/resumed",
        "/tasks/exit one",
        "/tasks/delete one",
    ];
    let told: Vec<&str> =
        told.iter().map(String::as_str).filter(|title| *title != "/tasks/delete more").collect();
    assert_eq!(told, expected);
    assert_eq!(rest(&mut events).await, Vec::<String>::new(), "told once more");

    // A creation that fails leaves nothing, and the id is free.
    let mut spec = host.spec("bad", &["true"]);
    spec["mounts"][0]["type"] = json!("nosuchfs");
    let request = host.request("bad", &spec).await;
    for _ in 0..2 {
        let error = host.api.tasks.create(request.clone()).await.expect_err("it is refused");
        assert!(error.message().contains("bad"), "{error}");
        host.is_gone("bad");
    }
    assert_eq!(host.api.get("bad").await.expect_err("it is refused").code(), Code::NotFound);
}

/// The daemon is killed while a container runs, while one exits, while an exec does; then a shim is.
async fn survives(shim: Shim, snapshotter: &'static str) {
    let mut host = Host::new(shim, snapshotter).await;
    let pid = host.started("running", &["sleep", "1000"]).await;
    let exec = host.exec("running", "stays", &["sleep", "1000"]).await;
    host.exec("running", "leaves", &["sh", "-c", "sleep 1; exit 4"]).await;
    host.started("exits", &["sh", "-c", "sleep 1; exit 9"]).await;
    host.created("created", &["sh", "-c", "exit 3"]).await;
    host.daemon.kill();
    // Longer than the two need, and short enough for the shim to try its event again when the daemon is back.
    std::thread::sleep(Duration::from_millis(1500));
    host.restart().await;
    let mut events = host.subscribe().await;

    let running = host.api.get("running").await.expect("it is found");
    assert_eq!((running.status(), running.pid), (TaskStatus::Running, pid));
    let get = tasks::GetRequest { container_id: "running".into(), exec_id: "stays".into() };
    let found = host.api.tasks.get(get).await.expect("the exec").into_inner().process.expect("it");
    assert_eq!((found.status(), found.pid), (TaskStatus::Running, exec));
    assert_eq!(host.wait_exec("running", "leaves").await.expect("an exit"), 4);
    assert_eq!(in_time("the end", host.api.wait("exits")).await.expect("an exit"), 9);
    assert!(host.api.start("created").await.expect("it starts after all") > 0);
    assert_eq!(in_time("the end", host.api.wait("created")).await.expect("an exit"), 3);
    for (id, code) in [("exits", 9), ("created", 3)] {
        assert_eq!(host.api.delete(id).await.expect("it is deleted"), code);
        host.is_gone(id);
    }
    let told = titles_until(&mut events, "/tasks/delete created").await;
    for missed in ["/tasks/exit exits", "/tasks/exit leaves", "/tasks/exit created", "/tasks/delete exits"] {
        let times = told.iter().filter(|title| *title == missed).count();
        assert_eq!(times, 1, "{missed} is told once: {told:?}");
    }

    let shim_pid = host.shim_of("running");
    kill(shim_pid, Signal::SIGKILL).expect("the shim is killed");
    assert_eq!(in_time("the end", host.api.wait("running")).await.expect("an exit"), 137);
    eventually("the container goes with its shim", || !is_alive(Pid::from_raw(pid.cast_signed())));
    assert!(!host.has_cgroup("running"), "its cgroups are removed");
    assert_eq!(host.api.get("running").await.expect("it is listed").status(), TaskStatus::Stopped);
    assert_eq!(host.api.kill("running", 9).await.expect_err("it is refused").code(), Code::NotFound);
    assert_eq!(host.api.delete("running").await.expect("it is deleted"), 137);
    host.is_gone("running");
    let told = titles_until(&mut events, "/tasks/delete running").await;
    let exits: Vec<&String> = told.iter().filter(|title| title.starts_with("/tasks/exit")).collect();
    assert_eq!(exits, ["/tasks/exit stays", "/tasks/exit running"], "{told:?}");
    assert_eq!(rest(&mut events).await, Vec::<String>::new(), "told once more");

    // A shim that dies while no daemon is there.
    let pid = host.started("orphan", &["sleep", "1000"]).await;
    let shim_pid = host.shim_of("orphan");
    host.daemon.kill();
    kill(shim_pid, Signal::SIGKILL).expect("the shim is killed");
    eventually("the shim is gone", || !is_alive(shim_pid));
    host.restart().await;
    let orphan = host.api.get("orphan").await.expect("it is listed");
    assert_eq!((orphan.status(), orphan.exit_status), (TaskStatus::Stopped, 137));
    eventually("the container goes with its shim", || !is_alive(Pid::from_raw(pid.cast_signed())));
    assert_eq!(host.api.delete("orphan").await.expect("it is deleted"), 137);
    host.is_gone("orphan");
}

macro_rules! matrix {
    ($($shim:ident, $have:meta, $what:ident: $overlayfs:ident $native:ident;)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[cfg_attr(not($have), ignore = "needs this shim")]
        async fn $overlayfs() {
            $what(Shim::$shim, "overlayfs").await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[cfg_attr(not($have), ignore = "needs this shim")]
        async fn $native() {
            $what(Shim::$shim, "native").await;
        }
    )* };
}

matrix! {
    Own, all(), lives: own_overlayfs_lives own_native_lives;
    Own, all(), survives: own_overlayfs_survives own_native_survives;
    Host, have_containerd_shim_runc_v2, lives: host_overlayfs_lives host_native_lives;
    Host, have_containerd_shim_runc_v2, survives: host_overlayfs_survives host_native_survives;
    Newer, have_newer_shim, lives: newer_overlayfs_lives newer_native_lives;
    Newer, have_newer_shim, survives: newer_overlayfs_survives newer_native_survives;
}

/// `ctr run --runtime`, by name and by path.
#[test]
#[cfg_attr(
    not(all(have_ctr, have_containerd_shim_runc_v2)),
    ignore = "needs ctr and containerd-shim-runc-v2"
)]
fn ctr_runs_containers_by_a_runtimes_name_and_path() {
    let fixture = Fixture::with(Settings { config: config(), ..Settings::default() }).expect("a daemon");
    let Fixture { daemon, busybox, .. } = &fixture;
    daemon.ctr(&["images", "pull", "--plain-http", busybox]).ok();
    let cgroup = format!("{}/ctr", daemon.cgroup_parent());
    for (number, runtime) in ["io.containerd.runc.v2", "/usr/bin/containerd-shim-runc-v2"].iter().enumerate()
    {
        let id = format!("by-{number}");
        let words = ["run", "--rm", "--cgroup", &cgroup, "--runtime", runtime, busybox, &id, "echo", "hello"];
        assert_eq!(daemon.ctr(&words).ok().line(), "hello", "{runtime}");
        let words =
            ["run", "--rm", "--cgroup", &cgroup, "--runtime", runtime, busybox, &id, "sh", "-c", "exit 6"];
        daemon.ctr(&words).expect(6);
    }
    let missing = ["run", "--rm", "--runtime", "io.containerd.nothing.v7", busybox, "none", "true"];
    let error = daemon.ctr(&missing).expect(1).stderr;
    assert!(error.contains("containerd-shim-nothing-v7"), "{error}");
}
