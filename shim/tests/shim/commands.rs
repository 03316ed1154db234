//! What the binary says when it is called by hand.

use std::process::{Command, Output, Stdio};

fn run(words: &[&str]) -> Output {
    let binary = env!("CARGO_BIN_EXE_containerd-shim-longshore-v1");
    Command::new(binary).args(words).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn version_and_help_answer() {
    let version = run(&["--version"]);
    assert!(version.status.success());
    assert!(String::from_utf8(version.stdout).unwrap().starts_with("containerd-shim-longshore-v1:"));
    let help = run(&["--help"]);
    assert!(help.status.success());
    assert!(String::from_utf8(help.stdout).unwrap().contains("pool"));
}

#[test]
fn what_is_not_there_is_refused_with_2() {
    for (words, say) in [
        (&["-nope", "start"] as &[_], "not defined: -nope"),
        (&["nonsense"], "unknown command \"nonsense\""),
        (&[], "no command"),
        (&["-namespace", "n", "-id", "x", "serve"], "for `start`"),
    ] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(say), "{text}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn pool_without_a_socket_says_so() {
    let output = run(&["pool"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("file descriptor 3"), "{text}");
}
