//! A `ctr` of containerd 2.x, unmodified, against our socket: `LONGSHORE_NEWER_CTR` says, at build time, where it is.
#![cfg_attr(not(have_newer_ctr), allow(dead_code, unused_imports))]

use std::fs;

use longshore_tests::ctr::{self, Ctr, PushRegistry};

fn ctr() -> Ctr {
    Ctr::pulled(option_env!("LONGSHORE_NEWER_CTR").unwrap_or_default(), &["--local"])
}

#[test]
#[cfg_attr(not(have_newer_ctr), ignore = "needs a newer ctr")]
fn run_takes_every_option() {
    let ctr = ctr();
    ctr::runs_with_every_option(&ctr);
    let options = ["--hostname", "h1", "--cpuset-cpus", "0", "--cpu-shares", "100", "--user", "1000:1000"];
    let words =
        [&["run", "--rm"], &options[..], &[&*ctr.fixture.busybox, "more", "sh", "-c", "hostname; id -u"]];
    assert_eq!(ctr.run(&words.concat()).ok().stdout, "h1\n1000\n");
}

#[test]
#[cfg_attr(not(have_newer_ctr), ignore = "needs a newer ctr")]
fn a_task_is_driven_step_by_step() {
    ctr::drives_a_task(&ctr());
}

#[test]
#[cfg_attr(not(have_newer_ctr), ignore = "needs a newer ctr")]
fn content_is_written_edited_fetched_and_pruned() {
    ctr::handles_content(&ctr());
}

#[test]
#[cfg_attr(not(have_newer_ctr), ignore = "needs a newer ctr")]
fn snapshots_are_mounted_compared_and_unpacked() {
    ctr::handles_snapshots(&ctr());
}

#[test]
#[cfg_attr(not(have_newer_ctr), ignore = "needs a newer ctr")]
fn leases_namespaces_events_and_refusals() {
    ctr::handles_the_rest(&ctr());
}

#[test]
#[cfg_attr(not(have_newer_ctr), ignore = "needs a newer ctr")]
fn the_daemon_is_told_of() {
    let ctr = ctr();
    assert!(ctr.run(&["version"]).ok().stdout.contains("Server:"));
    assert!(ctr.run(&["info"]).ok().stdout.contains("\"uuid\""));
    let plugins = ctr.run(&["plugins", "ls"]).ok().stdout;
    for words in [["io.containerd.sandbox.controller.v1", "shim"], ["io.containerd.internal.v1", "opt"]] {
        assert!(
            plugins.lines().any(|line| words.iter().all(|word| line.contains(word))),
            "{words:?}: {plugins}"
        );
    }
    assert!(ctr.run(&["plugins", "ls", "-d", "id==overlayfs"]).ok().stdout.contains("rebase"));
    let runtime = ctr.run(&["plugins", "inspect-runtime"]).ok().stdout;
    assert!(runtime.contains("\"Features\"") || runtime.contains("features"), "{runtime}");
    ctr.run(&["deprecations", "list"]).ok();
    let inspected = ctr.run(&["images", "inspect", &ctr.fixture.busybox]).ok().stdout;
    assert!(inspected.contains("application/vnd."), "{inspected}");
    assert!(ctr.run(&["images", "usage", &ctr.fixture.busybox]).ok().stdout.contains("KEY"));
}

#[test]
#[cfg_attr(not(have_newer_ctr), ignore = "needs a newer ctr")]
fn sandboxes_hold_containers() {
    let ctr = ctr();
    let spec = ctr.fixture.daemon.path().join("pod.json");
    fs::write(&spec, r#"{"ociVersion":"1.1.0","root":{"path":"/"},"process":{"args":["x"]}}"#)
        .expect("a file");
    let spec = spec.display().to_string();
    assert_eq!(ctr.run(&["sandboxes", "run", &spec, "pod"]).ok().line(), "pod");
    ctr.run(&["sandboxes", "run", &spec, "pod"]).expect(1);
    assert!(ctr.run(&["sandboxes", "ls"]).ok().stdout.contains("io.containerd.runc.v2"));
    assert!(ctr.run(&["sandboxes", "info", "pod"]).ok().stdout.contains("\"pod\""));
    let output =
        ctr.run(&["run", "--rm", "--sandbox", "pod", &ctr.fixture.busybox, "inside", "echo", "in the pod"]);
    assert_eq!(output.ok().stdout, "in the pod\n");
    ctr.run(&["sandboxes", "rm", "pod"]).ok();
    assert!(!ctr.run(&["sandboxes", "ls"]).ok().stdout.contains("pod"));
}

#[test]
#[cfg_attr(not(all(have_newer_ctr, have_docker_registry)), ignore = "needs a newer ctr and docker-registry")]
fn the_daemon_transfers_images() {
    let ctr = ctr();
    let busybox = &*ctr.fixture.busybox;
    ctr.run(&["images", "rm", "--sync", busybox]).ok();
    ctr.run(&["images", "pull", "--plain-http", busybox]).ok();
    assert_eq!(ctr.run(&["run", "--rm", busybox, "pulled", "echo", "pulled"]).ok().stdout, "pulled\n");
    ctr.run(&["images", "tag", busybox, "example.com/tagged:1"]).ok();
    let archive = ctr.fixture.daemon.path().join("busybox.tar").display().to_string();
    ctr.run(&["images", "export", &archive, busybox]).ok();
    let registry = PushRegistry::start(&ctr);
    for (flags, tag) in [(&[][..], "1"), (&["--local"][..], "2")] {
        let pushed = format!("{}/pushed/busybox:{tag}", registry.address);
        ctr.run(&[&["images", "push", "--plain-http"], flags, &[&*pushed, busybox]].concat()).ok();
        ctr.run(&["images", "pull", "--plain-http", &pushed]).ok();
    }
    ctr.run(&["images", "prune", "--all"]).ok();
    assert_eq!(ctr.run(&["images", "ls", "-q"]).ok().line(), "");
    ctr.run(&["images", "import", &archive]).ok();
    assert_eq!(ctr.run(&["run", "--rm", busybox, "imported", "echo", "back"]).ok().stdout, "back\n");
}
