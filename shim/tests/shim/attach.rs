//! Clients that attach: stdin, terminals, slow ones, dead ones, windows.

use std::time::Duration;

use longshore_proto::longshore::shim::v1 as shim;
use longshore_proto::longshore::shim::v1::attach_output::What;
use longshore_proto::ttrpc::Code;

use crate::client::{Client, Reply};
use crate::harness::{Shim, Want, memory, wait_until};

fn all_streams() -> shim::AttachStart {
    shim::AttachStart { stdin: true, stdout: true, stderr: true, ..Default::default() }
}

fn attach(client: &mut Client, start: shim::AttachStart) -> u32 {
    let stream = client.queue_attach(start);
    client.flush();
    assert_eq!(client.attached(stream, Duration::from_secs(5)), Some(What::Attached(())));
    stream
}

#[test]
fn stdin_goes_in_and_output_comes_out() {
    let mut shim = Shim::created(&Want::sh("cat; echo done >&2; exit 2"));
    let stream = attach(&mut shim.client, all_streams());
    shim.start().unwrap();
    shim.client.send_stdin(stream, b"hello ", false);
    shim.client.send_stdin(stream, b"world\n", true);
    let all = shim.client.attach_all(stream);
    assert_eq!(
        (all.stdout.as_slice(), all.stderr.as_slice()),
        (b"hello world\n".as_slice(), b"done\n".as_slice())
    );
    assert_eq!((all.taken, all.exited.unwrap().exit_status), (12, 2));
    // Whoever comes late still hears how it ended.
    let late = shim.client.queue_attach(all_streams());
    shim.client.flush();
    assert_eq!(shim.client.attach_all(late).exited.unwrap().exit_status, 2);
    shim.finish();
}

#[test]
fn several_clients_see_the_same() {
    let mut shim = Shim::created(&Want::sh("read a; read b; echo $a$b"));
    let (mut one, mut two) = (shim.connect(), shim.connect());
    let (first, second) = (attach(&mut one, all_streams()), attach(&mut two, all_streams()));
    shim.start().unwrap();
    one.send_stdin(first, b"x\n", false);
    assert!(wait_until(Duration::from_secs(5), || {
        one.read_some();
        true
    }));
    std::thread::sleep(Duration::from_millis(100));
    two.send_stdin(second, b"y\n", false);
    assert_eq!(one.attach_all(first).stdout, b"xy\n");
    assert_eq!(two.attach_all(second).stdout, b"xy\n");
    shim.finish();
}

#[test]
fn stdin_that_nobody_keeps_open_ends() {
    let want = Want { options: Some(shim::CreateOptions::default()), ..Want::sh("cat; echo end") };
    let mut shim = Shim::created(&want);
    let stream = attach(&mut shim.client, all_streams());
    shim.start().unwrap();
    assert_eq!(shim.client.attach_all(stream).stdout, b"end\n");
    shim.finish();
}

#[test]
fn with_stdin_once_the_first_client_ends_it() {
    let options = shim::CreateOptions { open_stdin: true, stdin_once: true, ..Default::default() };
    let mut shim = Shim::created(&Want { options: Some(options), ..Want::sh("cat; exit 6") });
    let mut client = shim.connect();
    let stream = attach(&mut client, all_streams());
    shim.start().unwrap();
    client.send_stdin(stream, b"x", false);
    std::thread::sleep(Duration::from_millis(100));
    drop(client);
    assert_eq!(shim.wait("").unwrap().exit_status, 6);
    shim.finish();
}

#[test]
fn a_client_may_leave_and_the_process_goes_on() {
    let mut shim = Shim::created(&Want::sh("read x; echo $x"));
    let stream = attach(&mut shim.client, all_streams());
    shim.start().unwrap();
    shim.client.queue_data(stream, &shim::AttachInput { detach: true, ..Default::default() });
    shim.client.flush();
    assert_eq!(shim.client.recv(stream, Duration::from_secs(5)), Some(Reply::End));
    let stream = attach(&mut shim.client, all_streams());
    shim.client.send_stdin(stream, b"still here\n", false);
    assert_eq!(shim.client.attach_all(stream).stdout, b"still here\n");
    shim.finish();
}

#[test]
fn a_terminal_echoes_and_resizes() {
    let options = shim::CreateOptions {
        open_stdin: true,
        console: Some(shim::WindowSize { columns: 101, rows: 41 }),
        ..Default::default()
    };
    let script = "stty size; read x; stty size; echo got $x; test -t 0 && exit 11";
    let mut shim = Shim::created(&Want { terminal: true, options: Some(options), ..Want::sh(script) });
    let stream = attach(&mut shim.client, all_streams());
    shim.start().unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"41 101\r\n") {
        match shim.client.attached(stream, Duration::from_secs(5)) {
            Some(What::Stdout(bytes)) => text.extend(bytes),
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&text)),
        }
    }
    let resize = Some(shim::WindowSize { columns: 50, rows: 20 });
    shim.client.queue_data(stream, &shim::AttachInput { resize, ..Default::default() });
    shim.client.send_stdin(stream, b"abc\r", false);
    let all = shim.client.attach_all(stream);
    let text = String::from_utf8(all.stdout).unwrap();
    assert!(text.contains("20 50\r\n") && text.contains("got abc\r\n"), "{text:?}");
    assert_eq!(all.exited.unwrap().exit_status, 11);
    shim.finish();
}

#[test]
fn an_exec_is_attached_before_it_starts() {
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    shim.start().unwrap();
    shim.exec("e", "cat; exit 3", false).unwrap();
    let stream = attach(&mut shim.client, shim::AttachStart { exec_id: "e".into(), ..all_streams() });
    shim.client.send_stdin(stream, b"early", true);
    shim.start_exec("e").unwrap();
    let all = shim.client.attach_all(stream);
    assert_eq!((all.stdout.as_slice(), all.taken), (b"early".as_slice(), 5));
    assert_eq!(all.exited.unwrap().exit_status, 3);
    shim.exec("t", "test -t 1 && stty size", true).unwrap();
    let stream = attach(&mut shim.client, shim::AttachStart { exec_id: "t".into(), ..all_streams() });
    let resize = Some(shim::WindowSize { columns: 60, rows: 30 });
    shim.client.queue_data(stream, &shim::AttachInput { resize, ..Default::default() });
    shim.client.flush();
    shim.start_exec("t").unwrap();
    assert_eq!(shim.client.attach_all(stream).stdout, b"30 60\r\n");
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

#[test]
fn a_hundred_megabytes_arrive_whole_in_bounded_memory() {
    const SIZE: usize = 100 << 20;
    let mut shim = Shim::created(&Want::sh(&format!("yes 0123456789abcde | head -c {SIZE}")));
    let stream = attach(&mut shim.client, all_streams());
    shim.start().unwrap();
    let (mut total, mut peak) = (0, 0);
    loop {
        match shim.client.attached(stream, Duration::from_secs(20)) {
            Some(What::Stdout(bytes)) => {
                for (at, byte) in bytes.iter().enumerate() {
                    assert_eq!(*byte, b"0123456789abcde\n"[(total + at) % 16]);
                }
                if total / (10 << 20) != (total + bytes.len()) / (10 << 20) {
                    peak = peak.max(memory(shim.child.id(), "status", "RssAnon"));
                }
                total += bytes.len();
            }
            Some(What::Exited(record)) => assert_eq!(record.exit_status, 0),
            Some(other) => panic!("{other:?}"),
            None => break,
        }
    }
    assert_eq!(total, SIZE);
    assert!(peak < 8 << 10, "{peak} KiB");
    shim.finish();
}

#[test]
fn a_broken_pipe_ends_its_writer_silently() {
    // Rust ignores SIGPIPE; a container must not inherit that.
    let mut shim = Shim::created(&Want::sh("yes | head -n 1"));
    let stream = attach(&mut shim.client, all_streams());
    shim.start().unwrap();
    let all = shim.client.attach_all(stream);
    assert_eq!((all.stdout.as_slice(), all.stderr.as_slice()), (b"y\n".as_slice(), b"".as_slice()));
    shim.finish();
}

#[test]
fn a_slow_client_stops_the_output_and_loses_nothing() {
    const SIZE: usize = 20 << 20;
    let mut shim = Shim::created(&Want::sh(&format!("head -c {SIZE} /dev/zero; sleep 100")));
    let mut slow = shim.connect();
    let stream = attach(&mut slow, all_streams());
    shim.start().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let anon = memory(shim.child.id(), "status", "RssAnon");
    assert!(anon < 4 << 10, "{anon} KiB while a client does not read");
    // The container waits; everybody else is served.
    shim.state("").unwrap();
    let mut total = 0;
    while total < SIZE {
        match slow.attached(stream, Duration::from_secs(10)) {
            Some(What::Stdout(bytes)) => total += bytes.len(),
            other => panic!("{other:?}"),
        }
    }
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

#[test]
fn a_client_that_dies_is_dropped_and_the_output_goes_on() {
    let mut shim = Shim::created(&Want::sh("head -c 5000000 /dev/zero; exit 8"));
    let mut dying = shim.connect();
    attach(&mut dying, all_streams());
    shim.start().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(shim.state("").unwrap().exit_status, 0);
    drop(dying);
    assert_eq!(shim.wait("").unwrap().exit_status, 8);
    shim.finish();
}

#[test]
fn a_window_holds_back_one_client_and_not_its_connection() {
    const WINDOW: u32 = 100_000;
    let mut shim = Shim::created(&Want::sh("head -c 1000000 /dev/zero; exit 1"));
    let stream = attach(&mut shim.client, shim::AttachStart { window: WINDOW, ..all_streams() });
    shim.start().unwrap();
    let mut total = 0;
    while let Some(What::Stdout(bytes)) = shim.client.attached(stream, Duration::from_millis(400)) {
        total += bytes.len();
    }
    assert_eq!(total, WINDOW as usize, "exactly the window");
    shim.state("").unwrap();
    while total < 1_000_000 {
        shim.client.queue_data(stream, &shim::AttachInput { consumed: 50_000, ..Default::default() });
        shim.client.flush();
        let mut got = 0;
        while got < 50_000.min(1_000_000 - total) {
            match shim.client.attached(stream, Duration::from_secs(5)) {
                Some(What::Stdout(bytes)) => got += bytes.len(),
                other => panic!("{other:?} after {total}"),
            }
        }
        total += got;
    }
    assert_eq!(total, 1_000_000);
    assert_eq!(shim.client.attach_all(stream).exited.unwrap().exit_status, 1);
    shim.finish();
}

#[test]
fn who_does_not_read_holds_up_neither_the_log_nor_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let want =
        Want { stdout: format!("log://{}", log.display()), ..Want::sh("head -c 150000 /dev/zero; echo end") };
    let mut shim = Shim::created(&want);
    let stream = attach(&mut shim.client, shim::AttachStart { window: 100_000, ..all_streams() });
    shim.start().unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 0);
    let logged = std::fs::read(&log).unwrap();
    assert!(logged.ends_with(b"end\n"), "the log is whole when the exit is told");
    let before = std::time::Instant::now();
    shim.delete("").unwrap();
    assert!(before.elapsed() < Duration::from_secs(2));
    let all = shim.client.attach_all(stream);
    assert_eq!((all.stdout.len(), all.exited.unwrap().exit_status), (150_004, 0));
    shim.shut_down();
}

#[test]
fn stdin_before_the_start_is_bounded() {
    let mut shim = Shim::created(&Want::sh("cat"));
    let stream = attach(&mut shim.client, all_streams());
    for _ in 0..20 {
        shim.client.queue_data(stream, &shim::AttachInput { stdin: vec![0; 100_000], ..Default::default() });
    }
    shim.client.flush();
    let ended = loop {
        match shim.client.recv(stream, Duration::from_secs(5)) {
            Some(Reply::Data(_)) => {}
            Some(Reply::Answer(Err(error))) => break error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ended.code, Code::ResourceExhausted);
    shim.delete("").unwrap();
    shim.shut_down();
}

#[test]
fn who_waits_for_an_exec_that_is_deleted_is_told() {
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    shim.start().unwrap();
    shim.exec("e", "true", false).unwrap();
    let stream = attach(&mut shim.client, shim::AttachStart { exec_id: "e".into(), ..all_streams() });
    let request = longshore_proto::containerd::task::v3::WaitRequest { id: "c1".into(), exec_id: "e".into() };
    let waiting = shim.client.start(crate::client::TASK, "Wait", &request);
    shim.delete("e").unwrap();
    for stream in [stream, waiting] {
        match shim.client.recv(stream, Duration::from_secs(5)) {
            Some(Reply::Answer(Err(error))) => assert_eq!(error.code, Code::NotFound),
            other => panic!("{other:?}"),
        }
    }
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

#[test]
fn much_stdin_waits_for_the_process_and_arrives() {
    const SIZE: usize = 5 << 20;
    let mut shim = Shim::created(&Want::sh("sleep 0.5; wc -c"));
    let mut client = shim.connect();
    let stream = attach(&mut client, all_streams());
    shim.start().unwrap();
    let mut socket = client.socket.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        use longshore_proto::ttrpc::encode_data;
        use std::io::Write;
        for _ in 0..SIZE / 65_536 {
            let mut frame = Vec::new();
            let input = shim::AttachInput { stdin: vec![b'x'; 65_536], ..Default::default() };
            encode_data(&mut frame, stream, &input).unwrap();
            socket.write_all(&frame).unwrap();
        }
        let mut frame = Vec::new();
        encode_data(&mut frame, stream, &shim::AttachInput { close_stdin: true, ..Default::default() })
            .unwrap();
        socket.write_all(&frame).unwrap();
    });
    std::thread::sleep(Duration::from_millis(300));
    let anon = memory(shim.child.id(), "status", "RssAnon");
    assert!(anon < 6 << 10, "{anon} KiB while the process does not read");
    let all = client.attach_all(stream);
    sender.join().unwrap();
    assert_eq!(String::from_utf8(all.stdout).unwrap().trim(), SIZE.to_string());
    assert_eq!(all.taken, SIZE as u64);
    shim.finish();
}

#[test]
fn attaching_to_nothing_is_not_found() {
    let mut shim = Shim::created(&Want::sh("true"));
    let stream = shim.client.queue_attach(shim::AttachStart { exec_id: "none".into(), ..Default::default() });
    shim.client.flush();
    match shim.client.recv(stream, Duration::from_secs(5)) {
        Some(Reply::Answer(Err(error))) => assert_eq!(error.code, Code::NotFound),
        other => panic!("{other:?}"),
    }
    let stream =
        shim.client.queue(crate::client::SHIM, "Attach", longshore_proto::ttrpc::Call::ClientStream, &());
    shim.client.queue_data(stream, &shim::AttachInput { stdin: b"x".to_vec(), ..Default::default() });
    shim.client.flush();
    match shim.client.recv(stream, Duration::from_secs(5)) {
        Some(Reply::Answer(Err(error))) => assert_eq!(error.code, Code::InvalidArgument),
        other => panic!("{other:?}"),
    }
    shim.delete("").unwrap();
    shim.shut_down();
}
