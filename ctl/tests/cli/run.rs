//! run, start, attach and exec without a terminal: streams, exit codes, signals, and a daemon that goes away.

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::engine::{Engine, ID};
use crate::{Said, call, call_with_input, longshore, start};

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn the_exit_code_is_the_container_s() {
    let engine = Engine::start();
    for code in [0, 1, 7, 125, 137, 255] {
        let said = call(&engine, &["run", "x", "exit", &code.to_string()]);
        assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (code, "", ""));
    }
    assert_eq!(call(&engine, &["exec", "c", "exit", "9"]).code, 9);
}

#[test]
fn streams_stay_apart() {
    let engine = Engine::start();
    let said = call(&engine, &["run", "x", "both"]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "to stdout\n", "to stderr\n"));
}

#[test]
fn detached_prints_the_id() {
    let engine = Engine::start();
    let cidfile = engine.folder().join("cid");
    let said = call(&engine, &["run", "-d", "--cidfile", cidfile.to_str().unwrap(), "x", "exit", "3"]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, format!("{ID}\n").as_str(), ""));
    assert_eq!(std::fs::read_to_string(&cidfile).unwrap(), ID);
    let said = call(&engine, &["run", "-d", "--cidfile", cidfile.to_str().unwrap(), "x"]);
    assert!(said.code == 125 && said.err.contains("container ID file found"), "{said:?}");
    assert_eq!(call(&engine, &["exec", "-d", "c", "exit", "3"]).code, 0);
}

#[test]
fn stdin_goes_in_only_with_i() {
    let engine = Engine::start();
    let long = vec![b'y'; 3 << 20];
    let said = call_with_input(&engine, &["run", "-i", "x", "cat"], &long);
    assert_eq!((said.code, said.out.len()), (0, long.len()));
    let said = call_with_input(&engine, &["exec", "-i", "c", "cat"], b"hello");
    assert_eq!((said.code, said.out.as_str()), (0, "hello"));
    let said = call_with_input(&engine, &["run", "x", "exit", "0"], b"unread");
    assert_eq!(said.code, 0);
}

#[test]
fn failures_to_start_have_docker_s_codes_and_words() {
    let engine = Engine::start();
    let said = call(&engine, &["run", "x", "missing-command"]);
    assert_eq!(said.code, 127);
    assert!(
        said.err.starts_with("longshore: Error response from daemon: exec: \"missing-command\": executable file not found in $PATH\n\nRun 'longshore run --help'"),
        "{said:?}"
    );
    let said = call(&engine, &["exec", "c", "missing-command"]);
    assert!(said.code == 127 && said.err.starts_with("exec: \"missing-command\""), "{said:?}");
    let said = call(&engine, &["run", "--name", "taken", "x"]);
    assert_eq!(said.code, 125);
    assert!(said.err.starts_with(
        "longshore: Error response from daemon: Conflict. The container name \"/taken\" is already in use"
    ));
    let said = call(&engine, &["create", "--name", "taken", "x"]);
    assert!(said.code == 1 && said.err.starts_with("Error response from daemon: Conflict."), "{said:?}");
    let said = call(&engine, &["run", "invalid::image"]);
    assert!(said.code == 125 && said.err.contains("invalid reference format"), "{said:?}");
    let said = call(&engine, &["exec", "nosuch", "sh"]);
    assert_eq!(
        (said.code, said.err.as_str()),
        (1, "Error response from daemon: No such container: nosuch\n")
    );
}

#[test]
fn rm_returns_when_the_container_is_gone() {
    let engine = Engine::start();
    assert_eq!(call(&engine, &["run", "--rm", "x", "exit", "4"]).code, 4);
    assert_eq!(engine.calls().last().unwrap(), "removed");
}

#[test]
fn signals_go_to_the_container() {
    let engine = Engine::start();
    let mut child = start(longshore(&engine).args(["run", "x", "sleep"]));
    engine.wait_for_call("started");
    for (sent, number) in [(Signal::INT, 2), (Signal::USR1, 10)] {
        signal(&child, sent);
        engine.wait_for_call(&format!("kill {number} {ID}"));
        if number == 2 {
            let mut line = [0; 12];
            child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
            assert_eq!(&line, b"interrupted\n");
        }
    }
    assert_eq!(Said::from(child.wait_with_output().unwrap()).code, 138);
}

#[test]
fn without_a_proxy_signals_end_the_command() {
    let engine = Engine::start();
    let child = start(longshore(&engine).args(["run", "--sig-proxy=false", "x", "sleep"]));
    engine.wait_for_call("started");
    signal(&child, Signal::TERM);
    assert_eq!(Said::from(child.wait_with_output().unwrap()).code, -15);
    assert!(!engine.calls().iter().any(|call| call.starts_with("kill")));
}

#[test]
fn a_signal_before_there_is_a_container_ends_the_command() {
    let engine = Engine::start();
    let child = start(longshore(&engine).args(["run", "never-answers"]));
    engine.wait_for_call("asked");
    signal(&child, Signal::INT);
    assert_eq!(Said::from(child.wait_with_output().unwrap()).code, 130);
}

#[test]
fn signals_pass_while_nobody_reads_the_output() {
    let engine = Engine::start();
    let child = start(longshore(&engine).args(["run", "x", "flood", "10000"]));
    engine.wait_for_call("started");
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, Signal::USR2);
    engine.wait_for_call(&format!("kill 12 {ID}"));
    let mut child = child;
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_slow_reader_gets_everything() {
    let engine = Engine::start();
    let mut child = start(longshore(&engine).args(["run", "x", "flood", "64"]));
    std::thread::sleep(Duration::from_millis(300));
    let mut all = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 64 * 65_536);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_reader_that_leaves_ends_run_quietly() {
    let engine = Engine::start();
    let mut child = start(longshore(&engine).args(["run", "x", "flood", "1000000"]));
    let mut some = [0; 10];
    child.stdout.as_mut().unwrap().read_exact(&mut some).unwrap();
    drop(child.stdout.take());
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!((said.code, said.err.as_str()), (141, ""));
}

#[test]
fn a_daemon_that_dies_in_mid_run_is_an_error_and_not_a_hang() {
    let mut engine = Engine::start();
    let child = start(longshore(&engine).args(["run", "-i", "x", "sleep"]).stdin(Stdio::piped()));
    engine.wait_for_call("started");
    engine.die();
    let before = Instant::now();
    let said = Said::from(child.wait_with_output().unwrap());
    assert!(before.elapsed() < Duration::from_secs(5));
    assert_eq!(said.code, 125);
    assert!(said.err.starts_with("longshore: lost the connection to the longshore daemon"), "{said:?}");
}

#[test]
fn a_stream_that_ends_early_is_an_error() {
    let engine = Engine::start();
    let said = call(&engine, &["run", "x", "vanish"]);
    assert!(said.code == 125 && said.err.contains("before the container ended"), "{said:?}");
}

#[test]
fn start_and_attach_take_part() {
    let engine = Engine::start();
    let said = call_with_input(&engine, &["start", "-ai", "stopped"], b"in and out");
    assert_eq!((said.code, said.out.as_str()), (0, "in and out"));
    assert_eq!(engine.calls().last().unwrap(), "attach start=true");
    let said = call_with_input(&engine, &["attach", "c"], b"hello");
    assert_eq!((said.code, said.out.as_str()), (0, "hello"));
    assert_eq!(engine.calls().last().unwrap(), "attach start=false");
    let said = call(&engine, &["attach", "stopped"]);
    assert_eq!((said.code, said.err.as_str()), (1, "cannot attach to a stopped container, start it first\n"));
}

#[test]
fn a_socket_with_a_long_path_is_reached() {
    let engine = Engine::at(&format!("{}/e.sock", "long-folder-name/".repeat(10)));
    assert!(engine.socket().as_os_str().len() > 150);
    assert_eq!(call(&engine, &["run", "x", "exit", "5"]).code, 5);
}

#[test]
fn end_of_stdin_arrives_though_the_container_goes_on() {
    let engine = Engine::start();
    let mut child = start(longshore(&engine).args(["run", "-i", "x", "cat"]).stdin(Stdio::piped()));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"one ").unwrap();
    engine.wait_for_call("started");
    let mut first = [0; 4];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    stdin.write_all(b"two").unwrap();
    drop(stdin);
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!((said.code, said.out.as_str()), (0, "two"));
}
