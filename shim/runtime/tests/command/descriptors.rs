//! What is passed on to the container, and nothing else: descriptors, sockets, environment.

use crate::bundle::{Bundle, done, eventually};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;
use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;

/// Descriptors of the first process.
const LIST: &str = "ls /proc/$$/fd; true";

#[test]
fn nothing_above_stdio_gets_in_unless_it_is_passed_on() {
    let bundle = Bundle::new(LIST);
    std::fs::write(bundle.dir.path().join("data"), "passed on").unwrap();
    // By a shell, as descriptors of ours are close-on-exec; 3 to 5 are open.
    let shell = |flags: &str| {
        let mut command = Command::new("sh");
        let runtime = crate::bundle::program();
        let script = format!("exec 3<data 4<data 5<data; exec {runtime} --root state run {flags} c");
        command.args(["-c", &script]).current_dir(bundle.dir.path());
        done(command)
    };

    assert_eq!(shell("").stdout, "0\n1\n2\n");
    assert_eq!(shell("--preserve-fds 2").stdout, "0\n1\n2\n3\n4\n");
    let missing = bundle.run(&["run", "--preserve-fds", "200", "c"]);
    assert!(missing.stderr.contains("unable to stat preserved-fd"), "{missing:?}");
}

#[test]
fn socket_activation_is_passed_on() {
    let bundle = Bundle::new("echo $LISTEN_FDS $LISTEN_PID; read line <&3; echo $line");
    std::fs::write(bundle.dir.path().join("data"), "passed on\n").unwrap();
    let runtime = crate::bundle::program();
    let script = format!("exec 3<data; export LISTEN_FDS=1 LISTEN_PID=$$; exec {runtime} --root state run c");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(bundle.dir.path());
    assert_eq!(done(command).stdout, "1 1\npassed on\n");
}

#[test]
fn our_environment_stays_outside() {
    let bundle = Bundle::new("env");
    let mut command = bundle.command(&["run", "c"]);
    command.env("SECRET", "1");
    let env = done(command).stdout;
    let mut names: Vec<&str> = env.lines().filter_map(|line| line.split('=').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "PATH", "PWD", "SHLVL"]);
}

fn receive(listener: &UnixListener) -> OwnedFd {
    let (stream, _) = listener.accept().unwrap();
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg(&stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    assert!(message.bytes > 0, "receivers want a byte at least");
    let mut fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.next().unwrap()
}

#[test]
fn sockets_receive_the_terminal_and_a_pidfd() {
    let mut bundle = Bundle::new("tty; sleep 1000");
    bundle.spec["process"]["terminal"] = json!(true);
    bundle.write();
    bundle.fails(&["create", "c"], "without setting console socket");
    // A path that is longer than a socket's address can be.
    let folder = bundle.dir.path().join("x".repeat(120));
    std::fs::create_dir(&folder).unwrap();
    let bind = |name: &str| {
        let dir = File::open(&folder).unwrap();
        UnixListener::bind(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())).unwrap()
    };
    let (console, pidfd) = (bind("console"), bind("pidfd"));
    let path = |name: &str| folder.join(name).display().to_string();
    bundle.ok(&["create", "--console-socket", &path("console"), "--pidfd-socket", &path("pidfd"), "c"]);
    let mut master = File::from(receive(&console));
    let pidfd = receive(&pidfd);
    bundle.ok(&["start", "c"]);
    let mut shown = [0; 64];
    let length = master.read(&mut shown).unwrap();
    assert_eq!(&shown[..length], b"/dev/pts/0\r\n");
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
    bundle.wait_for("stopped");
    bundle.fails(&["exec", "-t", "--console-socket", "x", "c", "id"], "stopped container");
}

#[test]
fn readiness_is_passed_on_to_the_host() {
    let mut bundle = Bundle::new("echo $NOTIFY_SOCKET >/tmp/where; sleep 1000");
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/run");
    bundle.write();
    let host = bundle.dir.path().join("host.sock");
    let socket = UnixDatagram::bind(&host).unwrap();
    socket.set_read_timeout(Some(crate::bundle::PATIENCE)).unwrap();
    let with = |words: &[&str]| {
        let mut command = bundle.command(words);
        command.env("NOTIFY_SOCKET", &host);
        command
    };
    assert_eq!(done(with(&["create", "c"])).code, 0);
    let mut start = with(&["start", "c"]).spawn().unwrap();
    let where_to = bundle.dir.path().join("rootfs/tmp/where");
    eventually("the container has been told of a socket", || {
        std::fs::read_to_string(&where_to).is_ok_and(|text| text == "/run/notify/notify.sock\n")
    });
    assert!(start.try_wait().unwrap().is_none(), "start waits until the container is ready");
    let inside = UnixDatagram::unbound().unwrap();
    let dir = File::open(bundle.folder().join("notify")).unwrap();
    let path = format!("/proc/self/fd/{}/notify.sock", dir.as_raw_fd());
    inside.send_to(b"STATUS=starting", &path).unwrap();
    inside.send_to(b"BARRIER=1\nREADY=1\n", &path).unwrap();
    let mut told = [0; 256];
    let length = socket.recv(&mut told).unwrap();
    let pid = bundle.state()["pid"].to_string();
    assert_eq!(String::from_utf8_lossy(&told[..length]), format!("READY=1\nMAINPID={pid}\n"));
    assert!(start.wait().unwrap().success());
}

#[test]
fn a_host_that_does_not_listen_to_readiness_holds_nobody_up_for_ever() {
    let mut bundle = Bundle::new("sleep 1000");
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/run");
    bundle.write();
    let host = bundle.dir.path().join("host.sock");
    let socket = UnixDatagram::bind(&host).unwrap();
    // Nothing more goes in.
    let flood = UnixDatagram::unbound().unwrap();
    flood.set_nonblocking(true).unwrap();
    while flood.send_to(b"x", &host).is_ok() {}
    let with = |words: &[&str]| {
        let mut command = bundle.command(words);
        command.env("NOTIFY_SOCKET", &host);
        command
    };
    assert_eq!(done(with(&["create", "c"])).code, 0);
    let mut start = with(&["start", "c"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let folder = bundle.folder().join("notify");
    eventually("the container's socket is there", || folder.join("notify.sock").exists());
    let dir = File::open(&folder).unwrap();
    let inside = UnixDatagram::unbound().unwrap();
    inside.send_to(b"READY=1", format!("/proc/self/fd/{}/notify.sock", dir.as_raw_fd())).unwrap();
    let began = std::time::Instant::now();
    assert!(!start.wait().unwrap().success());
    assert!(began.elapsed() < std::time::Duration::from_secs(25), "{:?}", began.elapsed());
    let mut text = String::new();
    std::io::Read::read_to_string(start.stderr.as_mut().unwrap(), &mut text).unwrap();
    assert!(text.contains("tell that the container is ready"), "{text}");
    assert_eq!(bundle.state()["status"], "running");
    drop(socket);
}

#[test]
fn a_log_that_cannot_be_opened_is_an_error() {
    let bundle = Bundle::new("true");
    let done = bundle.run(&["--log", "/nonexistent/log", "state", "c"]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("open the log"), "{done:?}");
}
