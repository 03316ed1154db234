//! FIFOs, files and terminals as containerd's clients use them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use longshore_proto::containerd::task::v3 as task;
use longshore_proto::longshore::shim::v1 as shim;
use longshore_proto::ttrpc::Code;

use crate::client::{TASK, code};
use crate::harness::{ID, Shim, Want, wait_until};

fn fifo(dir: &Path, name: &str) -> String {
    let path = dir.join(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    path.to_str().unwrap().to_owned()
}

fn with_fifos(script: &str, terminal: bool) -> (Shim, Want) {
    let mut shim = Shim::new();
    shim.assign().unwrap();
    let dir = shim.dir.path();
    let want = Want {
        stdin: fifo(dir, "in"),
        stdout: fifo(dir, "out"),
        // With a terminal, containerd's clients name a FIFO for stderr that they have not made.
        stderr: if terminal { dir.join("err").display().to_string() } else { fifo(dir, "err") },
        terminal,
        options: None,
        ..Want::sh(script)
    };
    (shim, want)
}

/// Reads a FIFO to its end in a thread; opening it waits for the shim.
fn reader(path: &str) -> std::thread::JoinHandle<Vec<u8>> {
    let path = path.to_owned();
    std::thread::spawn(move || {
        let mut content = Vec::new();
        File::open(path).unwrap().read_to_end(&mut content).unwrap();
        content
    })
}

#[test]
fn fifos_carry_all_three_streams() {
    let (mut shim, want) = with_fifos("cat; echo err >&2", false);
    let (out, err) = (reader(&want.stdout), reader(&want.stderr));
    shim.create(&want).unwrap();
    shim.start().unwrap();
    let mut stdin = OpenOptions::new().write(true).open(&want.stdin).unwrap();
    stdin.write_all(b"one\n").unwrap();
    drop(stdin);
    // A client that goes away and comes again does not end stdin: the shim holds a writer, too.
    let mut stdin = OpenOptions::new().write(true).open(&want.stdin).unwrap();
    stdin.write_all(b"two\n").unwrap();
    drop(stdin);
    let close = task::CloseIoRequest { id: ID.into(), stdin: true, ..Default::default() };
    shim.client.task::<_, ()>("CloseIO", &close).unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 0);
    assert_eq!(out.join().unwrap(), b"one\ntwo\n");
    assert_eq!(err.join().unwrap(), b"err\n");
    shim.finish();
}

#[test]
fn nobody_at_the_fifo_blocks_nobody() {
    let (mut shim, want) = with_fifos("echo hello", false);
    shim.create(&want).unwrap();
    shim.start().unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 0);
    shim.finish();
}

#[test]
fn what_a_short_process_wrote_waits_for_a_reader_that_comes_after_its_end() {
    let (mut shim, want) = with_fifos("echo hello", false);
    shim.create(&want).unwrap();
    shim.start().unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 0);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(reader(&want.stdout).join().unwrap(), b"hello\n");
    shim.finish();
}

#[test]
fn a_fifos_reader_may_be_late_and_slow() {
    let (mut shim, want) = with_fifos("head -c 3000000 /dev/zero", false);
    shim.create(&want).unwrap();
    shim.start().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(shim.state("").unwrap().status(), longshore_proto::containerd::v1::types::Status::Running);
    let mut out = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&want.stdout).unwrap();
    let mut total = 0;
    let mut buffer = vec![0; 300_000];
    wait_until(Duration::from_secs(10), || {
        total += out.read(&mut buffer).unwrap_or(0);
        total >= 3_000_000
    });
    assert_eq!(total, 3_000_000);
    assert_eq!(shim.wait("").unwrap().exit_status, 0);
    shim.finish();
}

#[test]
fn a_terminal_on_fifos_has_a_size() {
    let (mut shim, want) = with_fifos("read x; stty size; echo got $x", true);
    let out = reader(&want.stdout);
    shim.create(&want).unwrap();
    shim.start().unwrap();
    let resize = task::ResizePtyRequest { id: ID.into(), width: 77, height: 33, ..Default::default() };
    shim.client.task::<_, ()>("ResizePty", &resize).unwrap();
    OpenOptions::new().write(true).open(&want.stdin).unwrap().write_all(b"abc\n").unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 0);
    let text = String::from_utf8(out.join().unwrap()).unwrap();
    assert!(text.contains("33 77\r\n") && text.contains("got abc\r\n"), "{text:?}");
    shim.finish();
}

#[test]
fn files_get_both_streams_appended() {
    let mut shim = Shim::new();
    shim.assign().unwrap();
    let file = shim.dir.path().join("new/folder/out.txt");
    let want = Want {
        stdout: format!("file://{}", file.display()),
        options: None,
        ..Want::sh("echo out; sleep 0.1; echo err >&2")
    };
    shim.create(&want).unwrap();
    shim.start().unwrap();
    shim.wait("").unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), "out\nerr\n");
    shim.finish();
}

#[test]
fn stdio_that_cannot_be_is_named() {
    let mut shim = Shim::new();
    shim.assign().unwrap();
    for (stdout, expected) in [
        ("binary:///no/such/logger", Code::NotFound),
        ("relative", Code::InvalidArgument),
        ("/no/such/fifo", Code::NotFound),
        ("log:///tmp/x?max-size=zero", Code::InvalidArgument),
    ] {
        let want = Want { stdout: stdout.to_owned(), options: None, ..Want::sh("true") };
        assert_eq!(code(shim.create(&want)), expected, "{stdout}");
    }
    shim.shut_down();
}

#[test]
fn empty_is_dev_null() {
    let want = Want { options: None, ..Want::sh("cat; echo x; exit 4") };
    let mut shim = Shim::created(&want);
    shim.start().unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 4);
    shim.finish();
}

#[test]
fn a_grandchild_with_the_pipe_holds_delete_for_ten_seconds_at_most() {
    let adjust = |config: &mut serde_json::Value| {
        config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    };
    let mut shim = Shim::created(&Want { adjust: Some(adjust), ..Want::sh("sleep 100") });
    shim.start().unwrap();
    shim.exec("e", "setsid sleep 60 & echo started", false).unwrap();
    let client = &mut shim.client;
    let start = shim::AttachStart { exec_id: "e".into(), stdout: true, ..Default::default() };
    let attach = client.queue_attach(start);
    client.flush();
    shim.start_exec("e").unwrap();
    assert_eq!(shim.wait("e").unwrap().exit_status, 0, "the exit itself waits for nobody");
    let before = std::time::Instant::now();
    shim.delete("e").unwrap();
    let took = before.elapsed();
    assert!(took > Duration::from_secs(5) && took < Duration::from_secs(12), "{took:?}");
    let all = shim.client.attach_all(attach);
    assert_eq!(all.stdout, b"started\n");
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

/// A logging program that never gets ready, and where it says its process id.
fn hanging_logger(shim: &Shim) -> (String, std::path::PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let (program, pid) = (shim.dir.path().join("hangs"), shim.dir.path().join("logger-pid"));
    std::fs::write(&program, format!("#!/bin/sh\necho $$ > {}\nexec sleep 1000\n", pid.display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    (format!("binary://{}", program.display()), pid)
}

fn is_gone(file: &std::path::Path) -> bool {
    let pid = std::fs::read_to_string(file).unwrap();
    wait_until(Duration::from_secs(5), || !std::path::Path::new("/proc").join(pid.trim()).exists())
}

#[test]
fn a_logger_that_hangs_holds_up_nobody_but_its_container() {
    let mut shim = Shim::new();
    shim.assign().unwrap();
    let (stdout, logger) = hanging_logger(&shim);
    let want = Want { stdout, options: None, ..Want::sh("true") };
    shim.write_config(&want);
    let create = shim.create_request(&want);
    let creating = shim.client.start(TASK, "Create", &create);
    let mut other = shim.connect();
    let began = std::time::Instant::now();
    assert_eq!(code(other.task::<_, task::CreateTaskResponse>("Create", &create)), Code::AlreadyExists);
    let state = task::StateRequest { id: ID.into(), ..Default::default() };
    assert_eq!(code(other.task::<_, task::StateResponse>("State", &state)), Code::NotFound);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let error = shim.client.answer::<task::CreateTaskResponse>(creating).unwrap_err();
    assert!(format!("{error:?}").contains("descriptor 5"), "{error:?}");
    assert!(is_gone(&logger), "the logging program lives on");
    // The shim is as good as new.
    let want = Want { options: None, ..Want::sh("exit 4") };
    shim.create(&want).unwrap();
    shim.start().unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 4);
    shim.finish();
}

#[test]
fn a_logger_of_an_exec_that_hangs_holds_up_nobody_but_the_exec() {
    let mut shim = Shim::created(&Want::sh("sleep 1000"));
    shim.start().unwrap();
    let (stdout, logger) = hanging_logger(&shim);
    let spec = serde_json::json!({ "args": ["true"], "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/bin"] });
    let request = task::ExecProcessRequest {
        id: ID.into(),
        exec_id: "e".into(),
        stdout,
        spec: Some(prost_types::Any { type_url: String::new(), value: spec.to_string().into() }),
        ..Default::default()
    };
    shim.client.task::<_, ()>("Exec", &request).unwrap();
    let starting =
        shim.client.start(TASK, "Start", &task::StartRequest { id: ID.into(), exec_id: "e".into() });
    let mut other = shim.connect();
    let began = std::time::Instant::now();
    let pids = task::PidsRequest { id: ID.into() };
    other.task::<_, task::PidsResponse>("Pids", &pids).unwrap();
    let kill = task::KillRequest { id: ID.into(), signal: 9, ..Default::default() };
    other.task::<_, ()>("Kill", &kill).unwrap();
    assert!(wait_until(Duration::from_secs(2), || shim.record("init").is_some()), "its end is not seen");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(shim.client.answer::<task::StartResponse>(starting).is_err());
    assert_eq!(shim.wait("").unwrap().exit_status, 137);
    assert!(is_gone(&logger), "the logging program lives on");
    shim.delete("e").unwrap();
    shim.finish();
}
