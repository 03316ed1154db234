use std::sync::atomic::Ordering;

use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::support::*;
use crate::config::Cri;
use crate::cri::streaming::spdy::client::Client;

type Socket = WebSocketStream<TcpStream>;

async fn open(url: &str, protocol: &str) -> Result<(Socket, Response), Error> {
    let socket = TcpStream::connect(parts(url).0).await.unwrap();
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    if !protocol.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_str(protocol).unwrap());
    }
    tokio_tungstenite::client_async(request, socket).await
}

/// What came in each channel until the server closed in order.
async fn drain(socket: &mut Socket) -> Vec<String> {
    let mut channels = vec![String::new(); 5];
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => {
                channels[usize::from(bytes[0])] += std::str::from_utf8(&bytes[1..]).unwrap();
            }
            Message::Text(text) => channels[usize::from(text.as_bytes()[0] - b'0')] += &text[1..],
            Message::Close(frame) => {
                assert_eq!(frame.unwrap().code, 1000.into());
                return channels;
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn the_fifth_version_ends_stdin_and_the_others_only_with_the_connection() {
    let server = server().await;
    let (mut socket, answer) = open(&server.exec(&["cat"], false), "v5.channel.k8s.io").await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    socket.send(Message::binary(b"\0some words".to_vec())).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let channels = drain(&mut socket).await;
    assert_eq!(channels[1], "some words");
    assert_eq!(channels[3], r#"{"metadata":{},"status":"Success"}"#);

    let (mut socket, _) = open(&server.exec(&["sleep"], false), "v4.channel.k8s.io").await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    until("it begins", || server.seen.begun.load(Ordering::SeqCst) == 2).await;
    drop(socket);
    until("its stdin is closed", || server.seen.stdin_closed.load(Ordering::SeqCst) == 2).await;
    until("it is detached", || server.seen.detached.load(Ordering::SeqCst) == 2).await;
}

#[tokio::test]
async fn exit_codes_are_told_in_every_dialect() {
    let server = server().await;
    for (protocol, expected) in [
        ("v5.channel.k8s.io", r#"[{"message":"3","reason":"ExitCode"}]"#),
        ("v4.channel.k8s.io", r#"[{"message":"3","reason":"ExitCode"}]"#),
        ("channel.k8s.io", "exit status 3"),
        ("", "exit status 3"),
    ] {
        let (mut socket, _) = open(&server.exec(&["fail", "3"], false), protocol).await.unwrap();
        let channels = drain(&mut socket).await;
        assert_eq!((channels[1].as_str(), channels[2].as_str()), ("to stdout\n", "to stderr\n"));
        assert!(channels[3].contains(expected), "{protocol}: {channels:?}");
    }
    let (mut socket, _) =
        open(&server.exec(&["fail", "3"], false), "v4.base64.channel.k8s.io").await.unwrap();
    let channels = drain(&mut socket).await;
    assert_eq!(channels[1], "dG8gc3Rkb3V0Cg==");
    assert!(open(&server.exec(&["cat"], false), "v9.channel.k8s.io").await.is_err());
}

#[tokio::test]
async fn a_terminal_is_resized_and_a_flood_arrives_whole() {
    let server = server().await;
    let (mut socket, _) = open(&server.exec(&["sizes"], true), "v5.channel.k8s.io").await.unwrap();
    socket.send(Message::binary(b"\x04{\"Width\":90,\"Height\":30}".to_vec())).await.unwrap();
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    assert_eq!(drain(&mut socket).await[1], "first 90x30\n90x30\n");

    let (mut socket, _) = open(&server.exec(&["flood", "20"], false), "v5.channel.k8s.io").await.unwrap();
    assert_eq!(drain(&mut socket).await[1].len(), 20 << 20);
}

#[tokio::test]
async fn ports_are_forwarded_in_channels() {
    let server = server_with(Cri::default(), Some(shouting_port().await)).await;
    assert!(open(&server.forward(&[]), "v4.channel.k8s.io").await.is_err());
    let (mut socket, _) = open(&server.forward(&[80, 258]), "v4.channel.k8s.io").await.unwrap();
    let mut first = Vec::new();
    for _ in 0..4 {
        first.push(socket.next().await.unwrap().unwrap().into_data().to_vec());
    }
    first.sort();
    assert_eq!(first, [vec![0, 80, 0], vec![1, 80, 0], vec![2, 2, 1], vec![3, 2, 1]]);
    socket.send(Message::binary(b"\x02hello".to_vec())).await.unwrap();
    socket.close(None).await.unwrap();
}

#[tokio::test]
async fn spdy_is_spoken_through_a_tunnel() {
    let server = server_with(Cri::default(), Some(shouting_port().await)).await;
    let (mut socket, answer) = open(&server.forward(&[]), "SPDY/3.1+portforward.k8s.io").await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "SPDY/3.1+portforward.k8s.io");
    let (near, far) = tokio::io::duplex(1024);
    let carrying = tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(far);
        loop {
            let mut piece = bytes::BytesMut::with_capacity(700);
            tokio::select! {
                count = tokio::io::AsyncReadExt::read_buf(&mut read, &mut piece) => {
                    if count.unwrap() == 0 {
                        return socket.close(None).await;
                    }
                    socket.send(Message::Binary(piece.freeze())).await?;
                }
                message = socket.next() => {
                    let bytes = message.unwrap()?.into_data();
                    tokio::io::AsyncWriteExt::write_all(&mut write, &bytes).await.unwrap();
                }
            }
        }
    });
    let mut client = Client::new(near);
    let error = client.open(&[("streamType", "error"), ("port", "80"), ("requestID", "0")]).await;
    let data = client.open(&[("streamType", "data"), ("port", "80"), ("requestID", "0")]).await;
    client.data(data, true, &b"loud ".repeat(1000)).await;
    let [_, answer] = client.drain(&[error, data]).await.try_into().unwrap();
    assert_eq!(answer, b"LOUD ".repeat(1000));
    drop(client);
    carrying.await.unwrap().unwrap();
}
