use std::sync::atomic::Ordering;
use std::time::Duration;

use super::support::*;
use crate::config::Cri;
use crate::cri::streaming::limits;
use crate::cri::streaming::spdy::client::Event;
use crate::cri::streaming::spdy::frame::{self, Control, Reset};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn frames_that_break_the_protocol_end_their_own_connection() {
    let server = server().await;
    let bystander_url = server.exec(&["cat"], false);
    let mut bystander = spdy(&bystander_url, "v4.channel.k8s.io").await;
    for bytes in [
        // Version 2; a control frame that is too long; data for nobody; an even stream number; no zlib; settings that lie.
        &[0x80, 2, 0, 1, 0, 0, 0, 0][..],
        &[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
        &[0, 0, 0, 9, 0, 0, 0, 1, 0],
        &[0x80, 3, 0, 1, 0, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0],
        &[0x80, 3, 0, 1, 0, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
        &[0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 9],
        &[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff],
    ] {
        let mut client = spdy(&server.exec(&["cat"], false), "v4.channel.k8s.io").await;
        client.raw(bytes).await;
        let event = tokio::time::timeout(Duration::from_secs(5), client.event()).await.unwrap();
        assert_eq!(event, Some(Event::Control(Control::GoAway)), "{bytes:?}");
        assert_eq!(client.event().await, None);
    }
    let [error, stdin] =
        [bystander.open(&[("streamType", "error")]).await, bystander.open(&[("streamType", "stdin")]).await];
    let _ = (
        bystander.open(&[("streamType", "stdout")]).await,
        bystander.open(&[("streamType", "stderr")]).await,
    );
    bystander.data(stdin, true, b"").await;
    let [status] = bystander.drain(&[error]).await.try_into().unwrap();
    assert!(status.ends_with(br#""Success"}"#));
}

#[tokio::test]
async fn streams_are_bounded_and_pings_answered() {
    let server = server().await;
    let mut client = spdy(&server.forward(&[]), "portforward.k8s.io").await;
    for request in 0..=limits::STREAMS {
        client.open(&[("streamType", "data"), ("port", "1"), ("requestID", &request.to_string())]).await;
        if request % 16 == 15 {
            // The server has looked at all of them.
            client.raw(&frame::ping(7)).await;
            while client.event().await.unwrap() != Event::Control(Control::Ping(7)) {}
        }
    }
    let last = u32::try_from(limits::STREAMS * 2 + 1).unwrap();
    loop {
        match client.event().await.unwrap() {
            Event::Control(Control::Reply { stream, .. }) => assert_ne!(stream, last),
            other => break assert_eq!(other, Event::Control(Control::Reset { stream: last })),
        }
    }
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_for_ever_leave_nothing() {
    let server = server_with(Cri::default(), Some(shouting_port().await)).await;
    let mut client = spdy(&server.forward(&[]), "portforward.k8s.io").await;
    for round in 0..2000 {
        let id =
            client.open(&[("streamType", "data"), ("port", "1"), ("requestID", &round.to_string())]).await;
        client.raw(&frame::reset(id, Reset::Cancel)).await;
    }
    client.raw(&frame::ping(1)).await;
    while client.event().await.unwrap() != Event::Control(Control::Ping(1)) {}
}

#[tokio::test]
async fn streams_that_do_not_come_begin_nothing() {
    let server = server().await;
    let mut client = spdy(&server.exec(&["cat"], false), "v4.channel.k8s.io").await;
    let odd = client.open(&[("streamType", "odd")]).await;
    assert_eq!(client.event().await, Some(Event::Control(Control::Reset { stream: odd })));
    client.open(&[("streamType", "error")]).await;
    assert!(matches!(client.event().await, Some(Event::Control(Control::Reply { .. }))));
    let again = client.open(&[("streamType", "error")]).await;
    assert_eq!(client.event().await, Some(Event::Control(Control::Reset { stream: again })));
    drop(client);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.seen.begun.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn without_a_token_or_an_upgrade_there_is_nothing() {
    let server = server().await;
    let url = server.exec(&["cat"], false);
    let spdy = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
    let wrong = format!("{}0", &url[..url.len() - 1]);
    for (url, method, headers, status) in [
        (wrong.as_str(), "POST", spdy, "404"),
        (&url.replace("/exec/", "/attach/"), "GET", spdy, "404"),
        (&server.exec(&["cat"], false), "PUT", spdy, "405"),
        (&server.exec(&["cat"], false), "GET", "", "400"),
        (&server.exec(&["cat"], false), "GET", spdy, "400"),
        (
            &server.exec(&["cat"], false),
            "GET",
            &format!("{spdy}X-Stream-Protocol-Version: v9.channel.k8s.io\r\n"),
            "403",
        ),
        (&server.exec(&["cat"], false), "GET", "Connection: Upgrade\r\nUpgrade: websocket\r\n", "400"),
        (&server.exec(&["cat"], false), "GET", &"X: y\r\n".repeat(100), "431"),
    ] {
        let (head, _) = request(url, method, headers).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{method} {headers}: {head}");
    }
    // The second of them used the right token for the wrong thing.
    let (head, _) = request(&url, "GET", spdy).await;
    assert!(head.starts_with("http/1.1 404"), "{head}");
    assert_eq!(server.seen.begun.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn connections_are_bounded_and_end_with_the_daemon() {
    let config = Cri { stream_max_connections: 1, ..Cri::default() };
    let server = server_with(config, None).await;
    let url = server.forward(&[]);
    let first = spdy(&url, "portforward.k8s.io").await;
    let second = server.forward(&[]);
    let waiting = tokio::spawn(async move { spdy(&second, "portforward.k8s.io").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    drop(first);
    let mut second = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    server.streaming.shutdown().await;
    assert_eq!(second.event().await, None);
    let (host, _) = parts(&url);
    let gone = match TcpStream::connect(host).await {
        Err(_) => true,
        Ok(mut socket) => !matches!(socket.read(&mut [0]).await, Ok(1..)),
    };
    assert!(gone);
}

#[tokio::test]
async fn silent_connections_take_no_place_and_the_oldest_of_many_goes() {
    let config = Cri { stream_max_connections: 1, ..Cri::default() };
    let server = server_with(config, None).await;
    let url = server.exec(&["fail", "3"], false);
    let mut silent = Vec::new();
    for _ in 0..2 * limits::STRANGERS {
        silent.push(TcpStream::connect(parts(&url).0).await.unwrap());
    }
    let mut client = spdy(&url, "v4.channel.k8s.io").await;
    let mut ids = Vec::new();
    for kind in ["error", "stdin", "stdout", "stderr"] {
        ids.push(client.open(&[("streamType", kind)]).await);
    }
    let said = client.drain(&[ids[0], ids[2]]).await;
    let status = String::from_utf8_lossy(&said[0]);
    assert!(status.contains(r#""message":"3""#), "{status}");
    let first = tokio::time::timeout(Duration::from_secs(2), silent[0].read(&mut [0])).await;
    assert!(!matches!(first.expect("the oldest has gone"), Ok(1..)));
    let mut byte = [0];
    let last = silent[2 * limits::STRANGERS - 1].read(&mut byte);
    let last = tokio::time::timeout(Duration::from_millis(50), last).await;
    assert!(last.is_err(), "the youngest may still say something");
}

#[tokio::test]
async fn a_stream_that_is_not_read_holds_up_no_other_while_there_is_room() {
    let server = server().await;
    let mut client = spdy(&server.exec(&["deaf"], false), "v4.channel.k8s.io").await;
    let mut ids = Vec::new();
    for kind in ["error", "stdin", "stdout", "stderr"] {
        ids.push(client.open(&[("streamType", kind)]).await);
    }
    let piece = vec![b'x'; 16 * 1024];
    for _ in 0..(limits::CONNECTION / 2) / piece.len() {
        client.data(ids[1], false, &piece).await;
    }
    client.raw(&frame::ping(1)).await;
    let answered = async { while client.event().await.unwrap() != Event::Control(Control::Ping(1)) {} };
    tokio::time::timeout(Duration::from_secs(5), answered).await.unwrap();
}
