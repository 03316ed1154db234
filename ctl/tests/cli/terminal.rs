//! run and exec on a terminal of their own: size, detaching, and that the terminal is given back.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use crate::engine::Engine;
use crate::longshore;

struct Terminal {
    keyboard: File,
    /// Kept open, so that the terminal outlives the command.
    slave: File,
    child: Child,
    screen: std::sync::mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn run(engine: &Engine, arguments: &[&str]) -> Terminal {
        let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = File::options().read(true).write(true).open(name).unwrap();
        size(&slave, 100, 30);
        let end = || slave.try_clone().unwrap();
        let child =
            longshore(engine).args(arguments).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let keyboard = File::from(master);
        let mut reader = keyboard.try_clone().unwrap();
        let (to, screen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if to.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { keyboard, slave, child, screen, seen: String::new() }
    }

    fn type_keys(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    fn wait_for(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let more = self.screen.recv_timeout(Duration::from_secs(10));
            let more = more.unwrap_or_else(|_| panic!("no {text:?} on the screen: {:?}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&more));
        }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    fn wait_until_raw(&self) {
        for _ in 0..1000 {
            if self.is_raw() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the terminal never became raw");
    }

    fn exit_code(&mut self) -> i32 {
        for _ in 0..1000 {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(!self.is_raw(), "the terminal was left raw");
                return status.code().unwrap_or(-1);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child.kill().unwrap();
        panic!("the command does not end: {:?}", self.seen);
    }
}

fn size(terminal: &File, columns: u16, rows: u16) {
    tcsetwinsize(terminal, Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

#[test]
fn the_terminal_is_raw_during_the_run_and_restored_after_it() {
    let engine = Engine::start();
    let mut terminal = Terminal::run(&engine, &["run", "-it", "x", "sleep"]);
    terminal.wait_until_raw();
    terminal.type_keys(b"echo\x03");
    terminal.wait_for("echo\x03");
    assert!(engine.calls().contains(&"console 100x30".to_string()), "{:?}", engine.calls());
    size(&terminal.slave, 120, 40);
    kill_process(Pid::from_child(&terminal.child), Signal::WINCH).unwrap();
    engine.wait_for_call("resize 120x40");
    kill_process(Pid::from_child(&terminal.child), Signal::TERM).unwrap();
    assert_eq!(terminal.exit_code(), 143);
}

#[test]
fn the_detach_keys_leave_the_container_running() {
    let engine = Engine::start();
    let mut terminal = Terminal::run(&engine, &["run", "-it", "x", "cat"]);
    terminal.wait_until_raw();
    terminal.type_keys(b"before\x10\x11");
    assert_eq!(terminal.exit_code(), 0);
    engine.wait_for_call("detached");

    let mut terminal = Terminal::run(&engine, &["exec", "-it", "--detach-keys", "ctrl-a,d", "c", "cat"]);
    terminal.wait_until_raw();
    terminal.type_keys(b"\x10\x11");
    terminal.wait_for("\x10\x11");
    terminal.type_keys(b"\x01d");
    assert_eq!(terminal.exit_code(), 1);
    terminal.wait_for("read escape sequence");
}

#[test]
fn ctrl_p_alone_is_not_swallowed() {
    let engine = Engine::start();
    let mut terminal = Terminal::run(&engine, &["run", "-it", "x", "cat"]);
    terminal.wait_until_raw();
    terminal.type_keys(b"\x10");
    terminal.wait_for("\x10");
    terminal.type_keys(b"\x10x");
    terminal.wait_for("\x10\x10x");
    terminal.type_keys(b"\x10\x11");
    assert_eq!(terminal.exit_code(), 0);
}

#[test]
fn the_terminal_is_restored_when_the_daemon_dies() {
    let mut engine = Engine::start();
    let mut terminal = Terminal::run(&engine, &["run", "-it", "x", "sleep"]);
    terminal.wait_until_raw();
    engine.die();
    assert_eq!(terminal.exit_code(), 125);
    terminal.wait_for("lost the connection");
}

#[test]
fn the_terminal_is_restored_when_a_signal_ends_exec() {
    let engine = Engine::start();
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let mut terminal = Terminal::run(&engine, &["exec", "-it", "c", "sleep"]);
        terminal.wait_until_raw();
        kill_process(Pid::from_child(&terminal.child), signal).unwrap();
        assert_eq!(terminal.exit_code(), 128 + signal.as_raw());
    }
}

#[test]
fn bars_are_drawn_on_a_terminal() {
    let engine = Engine::start();
    let mut terminal = Terminal::run(&engine, &["pull", "hello-world"]);
    terminal.wait_for("Digest: sha256:");
    terminal.wait_for("docker.io/library/hello-world:latest\r\n");
    assert_eq!(terminal.exit_code(), 0);
    for words in [
        "latest: Pulling from library/hello-world",
        "aaaaaaaaaaaa: Pull complete",
        "bbbbbbbbbbbb: Already exists",
    ] {
        assert!(terminal.seen.contains(words), "{:?}", terminal.seen);
    }
}
