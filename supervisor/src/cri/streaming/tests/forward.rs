use std::time::Duration;

use super::support::*;
use crate::config::Cri;
use crate::cri::streaming::spdy::client::{Client, Event};
use crate::cri::streaming::spdy::frame::{self, Control, Reset};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn pair(client: &mut Client<TcpStream>, request: &str, port: &str) -> [u32; 2] {
    let mut ids = [0; 2];
    for (id, kind) in ids.iter_mut().zip(["error", "data"]) {
        *id = client.open(&[("streamType", kind), ("port", port), ("requestID", request)]).await;
        // As Kubernetes' clients do: the second stream is opened when the first one is taken.
        let replied =
            |event: &Event| matches!(event, Event::Control(Control::Reply { stream, .. }) if stream == id);
        while !replied(&client.event().await.unwrap()) {}
    }
    ids
}

#[tokio::test]
async fn an_end_of_the_client_reaches_the_pod_and_its_answer_comes_whole() {
    let server = server_with(Cri::default(), Some(shouting_port().await)).await;
    let mut client = spdy(&server.forward(&[]), "portforward.k8s.io").await;
    for round in 0..300 {
        let [error, data] = pair(&mut client, &round.to_string(), "80").await;
        client.data(error, true, b"").await;
        client.data(data, false, b"many ").await;
        client.data(data, true, b"words").await;
        let [why, answer] = client.drain(&[error, data]).await.try_into().unwrap();
        assert_eq!((why.as_slice(), answer.as_slice()), (&b""[..], &b"MANY WORDS"[..]));
    }
}

#[tokio::test]
async fn pairs_are_carried_beside_one_another() {
    let server = server_with(Cri::default(), Some(shouting_port().await)).await;
    let mut client = spdy(&server.forward(&[]), "portforward.k8s.io").await;
    let [_, stuck] = pair(&mut client, "stuck", "80").await;
    client.data(stuck, false, b"no end").await;
    // A client of old: no requestID, the error stream first.
    let error = client.open(&[("streamtype", "error"), ("port", "80")]).await;
    let data = client.open(&[("streamtype", "data"), ("port", "80")]).await;
    client.data(data, true, b"quick").await;
    let [_, answer] = client.drain(&[error, data]).await.try_into().unwrap();
    assert_eq!(answer, b"QUICK");
    client.raw(&frame::reset(stuck, Reset::Cancel)).await;
    let [_, data] = pair(&mut client, "third", "80").await;
    client.data(data, true, b"more").await;
    assert_eq!(client.drain(&[data]).await, [b"MORE"]);
}

#[tokio::test]
async fn a_port_that_refuses_is_told_on_the_error_stream() {
    let server = server().await;
    let mut client = spdy(&server.forward(&[]), "portforward.k8s.io").await;
    let [error, data] = pair(&mut client, "1", "81").await;
    let [why, _] = client.drain(&[error, data]).await.try_into().unwrap();
    assert!(String::from_utf8(why).unwrap().contains("port 81 of p: connection refused"));
}

#[tokio::test]
async fn streams_that_name_no_port_or_no_kind_are_refused_and_others_go_on() {
    let server = server_with(Cri::default(), Some(shouting_port().await)).await;
    let mut client = spdy(&server.forward(&[]), "portforward.k8s.io").await;
    for headers in [
        &[("streamType", "data"), ("port", "0")][..],
        &[("streamType", "data"), ("port", "65536")],
        &[("streamType", "stdin"), ("port", "80")],
        &[],
    ] {
        let id = client.open(headers).await;
        assert_eq!(client.event().await, Some(Event::Control(Control::Reset { stream: id })));
    }
    let [_, data] = pair(&mut client, "1", "80").await;
    client.data(data, true, b"fine").await;
    assert_eq!(client.drain(&[data]).await, [b"FINE"]);
}

#[tokio::test]
async fn an_idle_connection_ends() {
    let config = Cri { stream_idle_seconds: 1, ..Cri::default() };
    let server = server_with(config, None).await;
    let mut client = spdy(&server.forward(&[]), "portforward.k8s.io").await;
    let event = tokio::time::timeout(Duration::from_secs(5), client.event()).await.unwrap();
    assert_eq!(event, Some(Event::Control(Control::GoAway)));
}

#[tokio::test]
async fn an_upload_goes_on_when_the_pod_has_ended_its_direction() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap();
    let uploaded = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"go on").await.unwrap();
        socket.shutdown().await.unwrap();
        let mut all = String::new();
        socket.read_to_string(&mut all).await.unwrap();
        all
    });
    let server = server_with(Cri::default(), Some(port)).await;
    let mut client = spdy(&server.forward(&[]), "portforward.k8s.io").await;
    let [_, data] = pair(&mut client, "1", "80").await;
    client.data(data, false, b"one ").await;
    assert_eq!(client.drain(&[data]).await, [b"go on"]);
    // Longer than clients take that have nothing more to say.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    client.data(data, true, b"two").await;
    assert_eq!(uploaded.await.unwrap(), "one two");
}
