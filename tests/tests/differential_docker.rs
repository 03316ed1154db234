//! Everyday commands, run with Debian's docker and with longshore: exit codes, stdout, stderr, JSON and files agree.
//!
//! The commands are data, in `tests/differential/*.toml`: shell lines in which `docker` is the one or the other.
//! What differs on purpose is named in `differences.toml`, command by command, and explained in docs/docker.md; a
//! difference that is not there any more fails the test as one that is not named does.
//! `LONGSHORE_DIFFERENTIAL=words` runs only the scenarios whose name contains it and shows every command.

#[path = "differential/normal.rs"]
mod normal;
#[path = "differential/script.rs"]
mod script;
#[path = "differential/side.rs"]
mod side;

use std::net::SocketAddr;
use std::path::Path;

use longshore_tests::docker::{Dockerd, Networks};
use longshore_tests::registry::Registry;
use longshore_tests::{Containerd, Daemon, image};
use serde_json::json;

use script::{Differences, Scenario};
use side::{Said, Side};

/// Commands that are compared, at least.
const AT_LEAST: usize = 150;

/// The images that the scripts use.
fn images(registry: &Registry) {
    let busybox = image::busybox().expect("busybox");
    registry.put("library/busybox", "latest", &busybox.build().expect("an image"));
    let settings = image::busybox()
        .expect("busybox")
        .config("Cmd", json!(["echo", "the image's command"]))
        .config("Env", json!(["PATH=/bin", "FROM_IMAGE=yes"]))
        .config("Labels", json!({"of": "the image", "maintainer": "nobody"}))
        .config("WorkingDir", json!("/var"))
        .config("User", json!("user"))
        .config("ExposedPorts", json!({"80/tcp": {}, "53/udp": {}}))
        .config("Volumes", json!({"/data": {}}))
        .config("StopSignal", json!("SIGINT"));
    registry.put("library/settings", "1.0", &settings.build().expect("an image"));
    let entry = image::busybox().expect("busybox").config("Entrypoint", json!(["echo", "entry"]));
    registry.put("library/entry", "latest", &entry.build().expect("an image"));
}

/// The same registry at the same address in dockerd's network namespace.
fn registry_inside(pid: u32, address: SocketAddr) -> Registry {
    let start = move || {
        let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).expect("dockerd's network");
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("entering it");
        Registry::start_on(address).expect("a registry")
    };
    // The thread is left there, the socket too.
    let registry = std::thread::spawn(start).join().expect("a registry inside");
    images(&registry);
    registry
}

#[test]
#[cfg_attr(
    not(all(have_containerd, have_dockerd, have_runc, have_ip)),
    ignore = "needs docker, containerd, runc and ip (packages docker.io, containerd, runc, iproute2)"
)]
fn everyday_commands_do_what_docker_does() {
    plays_alike(|file| !is_rarer(file));
}

#[test]
#[cfg_attr(
    not(all(have_containerd, have_dockerd, have_runc, have_ip)),
    ignore = "needs docker, containerd, runc and ip (packages docker.io, containerd, runc, iproute2)"
)]
fn rarer_commands_do_what_docker_does() {
    plays_alike(is_rarer);
}

/// `22-….toml`: the second half, so that neither takes minutes.
fn is_rarer(file: &str) -> bool {
    file.as_bytes().get(1) == Some(&b'2')
}

#[track_caller]
fn plays_alike(takes: impl Fn(&str) -> bool) {
    let wanted = std::env::var("LONGSHORE_DIFFERENTIAL").ok();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("differential");
    let differences = Differences::read(&folder.join("differences.toml"));
    let mut scenarios = Scenario::read_all(&folder, takes);
    scenarios.retain(|scenario| wanted.as_ref().is_none_or(|wanted| scenario.name.contains(wanted)));
    if wanted.is_some() && scenarios.is_empty() {
        return;
    }
    let count: usize = scenarios.iter().map(|scenario| scenario.commands.len()).sum();
    assert!(wanted.is_some() || count >= AT_LEAST, "only {count} commands");

    let registry = Registry::start().expect("a registry");
    images(&registry);
    let daemon = Daemon::start();
    let containerd = Containerd::with_its_own_shim();
    let dockerd = Dockerd::start_on(&containerd, Networks::Own, &[]).expect("dockerd starts");
    let _theirs = registry_inside(dockerd.pid(), registry.address());
    let docker = Side::docker(&dockerd, registry.address());
    let ours = Side::longshore(&daemon, registry.address());

    let (theirs, ours) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| docker.play(&scenarios));
        let ours = ours.play(&scenarios);
        (theirs.join().expect("docker's side"), ours)
    });
    let report = compare(&scenarios, &theirs, &ours, &differences, wanted.is_some());
    assert!(report.is_empty(), "{} of {count} commands differ:\n{}", report.len(), report.join("\n"));
}

/// What differs without being named, and what is named without differing.
fn compare(
    scenarios: &[Scenario],
    theirs: &[Vec<Said>],
    ours: &[Vec<Said>],
    differences: &Differences,
    show: bool,
) -> Vec<String> {
    let mut report = Vec::new();
    for ((scenario, theirs), ours) in scenarios.iter().zip(theirs).zip(ours) {
        for (at, ((command, theirs), ours)) in scenario.commands.iter().zip(theirs).zip(ours).enumerate() {
            let mut found = normal::differing(command, theirs, ours, &differences.json);
            if at + 1 == scenario.commands.len() {
                found.extend(normal::differing_files(theirs, ours));
            }
            let named = command.differs.as_deref();
            if let Some(name) = named {
                assert!(differences.known.contains_key(name), "{name:?} is not in differences.toml");
            }
            if show {
                eprintln!("{}: {}\n{theirs:#?}\n{ours:#?}", scenario.name, command.run);
            }
            match (found.is_empty(), named) {
                (true, None) | (false, Some(_)) => {}
                (true, Some(_)) if command.sometimes => {}
                (true, Some(name)) => report.push(format!(
                    "--- {}: `{}` does not differ any more: take {name:?} away",
                    scenario.name, command.run
                )),
                (false, None) => {
                    report.push(format!("--- {}: `{}`\n{}", scenario.name, command.run, found.join("\n")));
                }
            }
        }
    }
    report
}

#[test]
fn every_named_difference_is_explained() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let differences = Differences::read(&folder.join("differential/differences.toml"));
    let page = std::fs::read_to_string(folder.join("../docs/docker.md")).expect("docs/docker.md");
    let named: Vec<String> = Scenario::read_all(&folder.join("differential"), |_| true)
        .into_iter()
        .flat_map(|scenario| scenario.commands)
        .filter_map(|command| command.differs)
        .chain(differences.json.values().cloned())
        .collect();
    for (name, reason) in &differences.known {
        assert!(page.contains(reason.as_str()), "docs/docker.md does not explain {name:?}: {reason}");
        assert!(named.contains(name), "nothing differs by {name:?}: take it away");
    }
    let rows: Vec<&str> = page
        .split_once("## What is meant to differ")
        .map(|(_, rest)| rest.lines().filter(|line| line.starts_with("| ")).skip(1).collect())
        .unwrap_or_default();
    assert!(!rows.is_empty(), "docs/docker.md has no table of what is meant to differ");
    for row in &rows {
        let mut reasons = differences.known.values().chain(differences.unshown.keys());
        assert!(reasons.any(|words| row.contains(words.as_str())), "no command differs by this row: {row}");
    }
    for words in differences.unshown.keys() {
        assert!(
            rows.iter().any(|row| row.contains(words.as_str())),
            "no row of docs/docker.md has {words:?}"
        );
    }
    for name in &named {
        assert!(differences.known.contains_key(name), "{name:?} is not in differences.toml");
    }
}
