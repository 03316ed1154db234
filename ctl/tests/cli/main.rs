//! The command line against a small engine that answers as the tests want: arguments, exit codes, streams, signals,
//! the terminal. What the real daemon does is tested in the workspace's tests folder.

#![forbid(unsafe_code)]
// A test that cannot go on says where.
#![allow(clippy::unwrap_used)]

mod arguments;
mod engine;
mod flags;
mod lists;
mod pulls;
mod run;
mod terminal;

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use engine::Engine;

/// The command line, told where `engine` is, in an environment of its own.
fn longshore(engine: &Engine) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command
        .env_clear()
        .env("HOME", engine.folder())
        .env("TERM", "xterm")
        .env("TZ", "UTC")
        .env("LONGSHORE_HOST", format!("unix://{}", engine.socket().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs it to its end.
fn call(engine: &Engine, arguments: &[&str]) -> Said {
    Said::from(longshore(engine).args(arguments).output().unwrap())
}

/// Runs it with this stdin.
fn call_with_input(engine: &Engine, arguments: &[&str], input: &[u8]) -> Said {
    let mut child = start(longshore(engine).args(arguments).stdin(Stdio::piped()));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let said = Said::from(child.wait_with_output().unwrap());
    writer.join().unwrap();
    said
}

fn start(command: &mut Command) -> Child {
    command.spawn().unwrap()
}

#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        use std::os::unix::process::ExitStatusExt;
        Said {
            code: output.status.code().or(output.status.signal().map(|signal| -signal)).unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
