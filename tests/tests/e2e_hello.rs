//! The first command of a new user: `longshore run hello-world`.

use longshore_tests::daemon::{Settings, program};
use longshore_tests::registry::Registry;
use longshore_tests::{Daemon, image};

/// The registry stands in for docker.io, as a mirror.
fn daemon_with_hub() -> (Daemon, Registry) {
    let registry = Registry::start().expect("a registry starts");
    let hello =
        image::single_program("hello", b"#!/no/such\n").config("Cmd", serde_json::json!(["/bin/hello"]));
    let hello = hello.layer(image::busybox_layer().expect("busybox").file(
        "bin/hello",
        0o755,
        b"#!/bin/sh\necho Hello from longshore\necho to stderr >&2\n",
    ));
    registry.put("library/hello-world", "latest", &hello.build().expect("an image"));
    let config = format!("[registry.mirrors]\n\"docker.io\" = [\"http://{}\"]\n", registry.address());
    let daemon = Daemon::with(Settings { config, ..Settings::default() }).expect("a daemon starts");
    (daemon, registry)
}

#[test]
fn hello_world_is_pulled_once_and_then_served_locally() {
    let (daemon, registry) = daemon_with_hub();
    let first = daemon.ctl(&["run", "hello-world"]).ok();
    assert_eq!(first.stdout, "Hello from longshore\n");
    let said = &first.stderr;
    for expected in [
        "Unable to find image 'hello-world:latest' locally",
        "latest: Pulling from library/hello-world",
        "Pull complete",
        "Digest: sha256:",
        "Status: Downloaded newer image for hello-world:latest",
        "to stderr",
    ] {
        assert!(said.contains(expected), "{expected:?} is missing from {said}");
    }

    registry.forget_requests();
    let second = daemon.ctl(&["run", "--rm", "hello-world"]).ok();
    assert_eq!(second.stdout, "Hello from longshore\n");
    assert_eq!(second.stderr, "to stderr\n", "a second run says nothing about pulling");
    assert_eq!(registry.requests(), Vec::<String>::new(), "a second run asks the registry nothing");
}

#[test]
fn pull_policies_decide_whether_the_registry_is_asked() {
    let (daemon, registry) = daemon_with_hub();
    let never = daemon.ctl(&["run", "--pull", "never", "hello-world"]).expect(125);
    assert!(never.stderr.contains("No such image: hello-world:latest"), "{}", never.stderr);

    daemon.ctl(&["run", "--rm", "hello-world"]).ok();
    let newer = image::busybox().expect("busybox").config("Cmd", serde_json::json!(["echo", "newer"]));
    registry.put("library/hello-world", "latest", &newer.build().expect("an image"));
    assert_eq!(daemon.ctl(&["run", "--rm", "hello-world"]).ok().stdout, "Hello from longshore\n");
    let always = daemon.ctl(&["run", "--rm", "--pull=always", "hello-world"]).ok();
    assert_eq!(always.stdout, "newer\n");
    assert!(
        always.stderr.contains("Status: Downloaded newer image for hello-world:latest"),
        "{}",
        always.stderr
    );
    let again = daemon.ctl(&["pull", "hello-world"]).ok();
    assert!(again.stdout.contains("Status: Image is up to date for hello-world:latest"), "{}", again.stdout);
    assert!(again.stdout.contains("Using default tag: latest"), "{}", again.stdout);
}

#[test]
fn the_daemon_answers_about_itself() {
    let version =
        longshore_tests::daemon::run(std::process::Command::new(program("longshored")).arg("--version"));
    assert!(version.expect("longshored runs").ok().stdout.starts_with("longshored "));
    let daemon = Daemon::start();
    assert!(daemon.ctl(&["version"]).ok().stdout.contains("Server"));
    assert!(daemon.ctl(&["info"]).ok().stdout.contains("overlayfs"));
}
