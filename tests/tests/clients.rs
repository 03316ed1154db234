//! The examples of docs/clients.md, run as they are shown: other languages' gRPC libraries against both APIs.

#![allow(clippy::unwrap_used)]
#![cfg_attr(not(any(have_grpcio, have_grpc_js)), allow(dead_code))]

use std::path::{Path, PathBuf};
use std::process::Command;

use longshore_tests::Fixture;
use longshore_tests::daemon::{Output, run};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Where `make clients` puts the libraries.
fn libraries() -> PathBuf {
    PathBuf::from(env!("LONGSHORE_CLIENTS"))
}

fn example(path: &str) -> PathBuf {
    source().join("docs/examples").join(path)
}

/// The script prints, complains and ends with 3; what it left behind is the fixture's to notice.
const SCRIPT: &str = "echo to stdout; echo to stderr >&2; exit 3";

fn expect(fixture: &Fixture, mut command: Command, example: &Path) {
    command.arg(example).arg(fixture.daemon.socket()).arg(&fixture.busybox).args(["sh", "-c", SCRIPT]);
    command.env("CGROUP_PARENT", fixture.daemon.cgroup_parent());
    let Output { code, stdout, stderr } = run(&mut command).unwrap();
    assert_eq!((code, stdout.as_str()), (3, "to stdout\n"), "{}: {stderr}", example.display());
    assert!(stderr.ends_with("to stderr\n"), "{}: {stderr}", example.display());
    assert_eq!(fixture.daemon.ctl(&["ps", "-a", "-q"]).ok().line(), "", "it is gone again");
}

#[test]
#[cfg_attr(not(have_grpcio), ignore = "Python's grpcio is missing: make clients")]
fn python_runs_containers_by_both_apis() {
    let python = libraries().join("python/bin/python");
    let generated = tempfile::tempdir().unwrap();
    let mut protos = Vec::new();
    for folder in ["containerd", "google", "longshore"] {
        find_protos(&source().join("proto").join(folder), &mut protos);
    }
    let mut generate = Command::new(&python);
    generate.args(["-m", "grpc_tools.protoc", "-I", "."]).current_dir(source().join("proto"));
    for flag in ["--python_out", "--grpc_python_out"] {
        generate.arg(format!("{flag}={}", generated.path().display()));
    }
    run(generate.args(protos)).unwrap().ok();
    let fixture = Fixture::new();
    for name in ["python/engine.py", "python/by_containerd.py"] {
        let mut command = Command::new(&python);
        command.env("PYTHONPATH", generated.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        expect(&fixture, command, &example(name));
    }
}

#[test]
#[cfg_attr(not(have_grpc_js), ignore = "Node's @grpc/grpc-js is missing: make clients")]
fn node_runs_containers_by_both_apis() {
    let fixture = Fixture::new();
    for name in ["node/engine.js", "node/by_containerd.js"] {
        let mut command = Command::new("node");
        command.env("NODE_PATH", libraries().join("node_modules"));
        expect(&fixture, command, &example(name));
    }
}

fn find_protos(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            find_protos(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path.strip_prefix(source().join("proto")).unwrap().to_owned());
        }
    }
}

#[test]
fn the_page_shows_the_examples_as_they_are() {
    let page = std::fs::read_to_string(source().join("docs/clients.md")).unwrap();
    for name in ["python/engine.py", "python/by_containerd.py", "node/engine.js", "node/by_containerd.js"] {
        let text = std::fs::read_to_string(example(name)).unwrap();
        assert!(page.contains(&text), "docs/clients.md does not have {name} as it is");
    }
}
