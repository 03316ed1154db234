use std::sync::atomic::Ordering;
use std::time::Duration;

use super::support::*;
use crate::cri::streaming::spdy::client::Event;
use crate::cri::streaming::spdy::frame::Control;
use crate::cri::streaming::{Attach, Exec};

/// Opens streams by their kinds.
macro_rules! open {
    ($client:expr, $($kind:literal),*) => { [$($client.open(&[("streamType", $kind)]).await),*] };
}

#[tokio::test]
async fn stdin_reaches_the_process_and_its_end_too() {
    let server = server().await;
    let mut client = spdy(&server.exec(&["cat"], false), "v4.channel.k8s.io").await;
    let [error, stdin, stdout, stderr] = open!(client, "error", "stdin", "stdout", "stderr");
    client.data(stdin, false, b"some ").await;
    client.data(stdin, false, b"words").await;
    client.data(stdin, true, b"").await;
    let [status, out, err] = client.drain(&[error, stdout, stderr]).await.try_into().unwrap();
    assert_eq!((out.as_slice(), err.as_slice()), (&b"some words"[..], &b""[..]));
    assert_eq!(status, br#"{"metadata":{},"status":"Success"}"#);
    assert_eq!(server.seen.stdin_closed.load(Ordering::SeqCst), 1);
    // The client closes, the server follows, nobody holds the process.
    drop(client);
    until("the streams are dropped", || server.seen.detached.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn an_exit_code_is_told_after_all_output() {
    let server = server().await;
    for (protocol, expected) in [
        ("v9.channel.k8s.io, v4.channel.k8s.io", r#""causes":[{"message":"7","reason":"ExitCode"}]"#),
        ("v3.channel.k8s.io", "exit status 7"),
        ("v2.channel.k8s.io,channel.k8s.io", "exit status 7"),
        ("channel.k8s.io", "exit status 7"),
    ] {
        let mut client = spdy(&server.exec(&["fail", "7"], false), protocol).await;
        let [error, _stdin, stdout, stderr] = open!(client, "error", "stdin", "stdout", "stderr");
        let [status, out, err] = client.drain(&[error, stdout, stderr]).await.try_into().unwrap();
        assert_eq!(out, b"to stdout\n");
        assert_eq!(err, b"to stderr\n");
        let status = String::from_utf8(status).unwrap();
        assert!(status.contains(expected), "{protocol}: {status}");
    }
    let mut client = spdy(&server.exec(&["missing"], false), "v4.channel.k8s.io").await;
    let [error, _stdin, _stdout, _stderr] = open!(client, "error", "stdin", "stdout", "stderr");
    let [status] = client.drain(&[error]).await.try_into().unwrap();
    let status = String::from_utf8(status).unwrap();
    assert!(status.contains("no such file") && status.contains("InternalError"), "{status}");
}

#[tokio::test]
async fn a_terminal_has_its_size_before_its_process_begins() {
    let server = server().await;
    let mut client = spdy(&server.exec(&["sizes"], true), "v4.channel.k8s.io").await;
    let [error, stdin, stdout, resize] = open!(client, "error", "stdin", "stdout", "resize");
    client.data(resize, false, b"{\"Width\":132,\"Height\":43}\n").await;
    let (mut said, mut more) = (String::new(), true);
    while !said.ends_with("1x2\n") {
        let Some(Event::Data { stream, bytes, .. }) = client.event().await else { continue };
        assert_eq!(stream, stdout);
        said += std::str::from_utf8(&bytes).unwrap();
        if std::mem::take(&mut more) {
            client.data(resize, false, b"{\"Width\":1,").await;
            client.data(resize, false, b"\"Height\":2}").await;
        }
    }
    assert_eq!(said, "first 132x43\n132x43\n1x2\n");
    client.data(stdin, true, b"").await;
    let [status] = client.drain(&[error]).await.try_into().unwrap();
    assert!(status.ends_with(br#""Success"}"#));
}

#[tokio::test]
async fn a_flood_arrives_whole_at_a_client_that_knows_no_windows() {
    let server = server().await;
    let mut client = spdy(&server.exec(&["flood", "20"], false), "v4.channel.k8s.io").await;
    let [error, _stdin, stdout, _stderr] = open!(client, "error", "stdin", "stdout", "stderr");
    let [_, out] = client.drain(&[error, stdout]).await.try_into().unwrap();
    assert_eq!(out.len(), 20 << 20);
}

#[tokio::test]
async fn a_client_that_speaks_of_windows_is_held_to_them_and_gets_credit() {
    let server = server().await;
    let mut client = spdy(&server.exec(&["cat"], false), "v4.channel.k8s.io").await;
    client.raw(&[0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 100]).await;
    let [_error, stdin, stdout, _stderr] = open!(client, "error", "stdin", "stdout", "stderr");
    client.data(stdin, false, &[b'x'; 60_000]).await;
    let (mut got, mut credit) = (0, [0, 0]);
    while got < 60_000 || credit != [60_000 / 2, 60_000 / 2] {
        let event = tokio::time::timeout(Duration::from_millis(200), client.event()).await;
        match event {
            // Nothing more comes without credit: a hundred bytes at first, then what is granted.
            Err(_) => {
                assert!(got == 100 || got == 60_000, "{got}");
                if got == 60_000 {
                    break;
                }
                client.raw(&crate::cri::streaming::spdy::frame::window(stdout, 100_000)).await;
            }
            Ok(Some(Event::Data { stream, bytes, .. })) if stream == stdout => got += bytes.len(),
            Ok(Some(Event::Control(Control::Window { stream, delta }))) => {
                credit[usize::from(stream == stdin)] += delta;
            }
            Ok(Some(_)) => {}
            Ok(None) => panic!("cut off"),
        }
    }
    assert!(credit.iter().all(|credit| *credit >= 32 * 1024), "{credit:?}");
}

#[tokio::test]
async fn a_client_that_goes_is_detached_and_its_stdin_ends() {
    let server = server().await;
    let mut client = spdy(&server.exec(&["sleep"], false), "v4.channel.k8s.io").await;
    open!(client, "error", "stdin", "stdout", "stderr");
    until("the process begins", || server.seen.begun.load(Ordering::SeqCst) == 1).await;
    drop(client);
    until("the process is let go", || server.seen.detached.load(Ordering::SeqCst) == 1).await;
    until("its stdin is closed", || server.seen.stdin_closed.load(Ordering::SeqCst) == 1).await;

    // Also while it has more to write than anybody reads.
    let mut client = spdy(&server.exec(&["flood", "100"], false), "v4.channel.k8s.io").await;
    open!(client, "error", "stdin", "stdout", "stderr");
    until("the process begins", || server.seen.begun.load(Ordering::SeqCst) == 2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(client);
    until("the process is let go", || server.seen.detached.load(Ordering::SeqCst) == 2).await;
}

#[tokio::test]
async fn a_client_that_goes_is_noticed_while_its_stdin_is_not_read() {
    let server = server().await;
    // What `flood` writes is not taken either: everything is stuck.
    let mut client = spdy(&server.exec(&["flood", "100"], false), "v4.channel.k8s.io").await;
    let [_, stdin, ..] = open!(client, "error", "stdin", "stdout", "stderr");
    let stuffing = async {
        loop {
            client.data(stdin, false, &[0; 64 * 1024]).await;
        }
    };
    let stuffed: Result<std::convert::Infallible, _> =
        tokio::time::timeout(Duration::from_millis(300), stuffing).await;
    assert!(stuffed.is_err());
    drop(client);
    until("the process is let go", || server.seen.detached.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn attach_leaves_stdin_open_and_tells_no_exit_code() {
    let server = server().await;
    let attach = Attach { container: "cat".into(), tty: false, stdin: true, stdout: true, stderr: false };
    let url = server.streaming.attach(attach).unwrap();
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    let [_error, stdin, stdout] = open!(client, "error", "stdin", "stdout");
    client.data(stdin, true, b"hello").await;
    loop {
        if let Event::Data { stream, fin, bytes } = client.event().await.unwrap() {
            assert_eq!((stream, fin, bytes.as_slice()), (stdout, false, &b"hello"[..]));
            break;
        }
    }
    let more = tokio::time::timeout(Duration::from_millis(100), client.event()).await;
    assert!(more.is_err(), "{more:?}");
    drop(client);
    until("it is detached", || server.seen.detached.load(Ordering::SeqCst) == 1).await;
    assert_eq!(server.seen.stdin_closed.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn requests_that_cannot_be_carried_are_refused() {
    let server = server().await;
    let exec = |stdout, stderr, tty, args: &[&str]| {
        let args = args.iter().map(ToString::to_string).collect();
        let exec = Exec { container: "c".into(), args, tty, stdin: false, stdout, stderr };
        server.streaming.exec(exec).map_err(|error| error.to_string())
    };
    assert!(exec(true, true, true, &["x"]).unwrap_err().contains("tty and stderr"));
    assert!(exec(false, false, false, &["x"]).unwrap_err().contains("one of stdin"));
    assert!(exec(true, false, false, &[]).unwrap_err().contains("cmd is empty"));
    assert!(exec(true, false, true, &["x"]).is_ok());
}
