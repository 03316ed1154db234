//! The client against a server of the test's own: a thread that speaks the framing and does what the test says.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use longshore_proto::longshore::shim::v1::{AssignRequest, AssignResponse, Event, EventsRequest};
use longshore_proto::ttrpc::{self, Code, Decoder, Flags, Kind, Request};
use prost::Message;

use super::{Connection, Failure, Incoming, Outgoing};
use crate::tasks::limits;

const PATIENCE: Duration = Duration::from_secs(10);

/// A frame as the server got it.
#[derive(Debug)]
struct Got {
    stream: u32,
    kind: Kind,
    flags: Flags,
    payload: Vec<u8>,
}

impl Got {
    fn request(&self) -> Request {
        Request::decode(self.payload.as_slice()).unwrap()
    }
}

struct Server {
    socket: StdUnixStream,
    decoder: Decoder,
}

impl Server {
    fn next(&mut self) -> Option<Got> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                let (stream, kind, flags) = (frame.stream, frame.kind, frame.flags);
                return Some(Got { stream, kind, flags, payload: frame.payload.to_vec() });
            }
            match self.socket.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.decoder.feed(&buffer[..n]),
            }
        }
    }

    fn send(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        encode(&mut out);
        self.socket.write_all(&out).unwrap();
    }

    fn answer(&mut self, stream: u32, pid: u32) {
        self.send(|out| ttrpc::encode_response(out, stream, &AssignResponse { pid }).unwrap());
    }

    fn event(&mut self, stream: u32, sequence: u64) {
        self.send(|out| ttrpc::encode_data(out, stream, &Event { sequence, ..Event::default() }).unwrap());
    }
}

/// A connection to a thread that runs `serve`.
fn connect(serve: impl FnOnce(&mut Server) + Send + 'static) -> Connection {
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    std::thread::spawn(move || serve(&mut Server { socket: theirs, decoder: Decoder::new() }));
    Connection::new(ours).unwrap()
}

fn assign(id: &str) -> AssignRequest {
    AssignRequest { id: id.into(), ..AssignRequest::default() }
}

async fn call(connection: &Connection, id: &str) -> Result<AssignResponse, Failure> {
    connection.unary("s", "Assign", &assign(id), PATIENCE).await
}

fn events(connection: &Connection) -> Incoming<Event> {
    connection
        .pipeline(|p| p.server_stream("s", "Events", &EventsRequest { after: 3, ..EventsRequest::default() }))
        .unwrap()
}

#[tokio::test]
async fn answers_find_their_calls_in_any_order() {
    let connection = connect(|server| {
        let first = server.next().unwrap();
        let second = server.next().unwrap();
        assert_eq!((first.stream, second.stream), (1, 3));
        assert_eq!(first.request().service, "s");
        assert_eq!(first.request().timeout_nano, 10_000_000_000);
        server.answer(second.stream, 2);
        server.answer(99, 77);
        server.answer(first.stream, 1);
    });
    let (first, second) = connection
        .pipeline(|p| {
            let first = p.unary::<_, AssignResponse>("s", "Assign", &assign("a"), PATIENCE)?;
            Ok((first, p.unary::<_, AssignResponse>("s", "Assign", &assign("b"), PATIENCE)?))
        })
        .unwrap();
    assert_eq!(second.answer().await.unwrap().pid, 2);
    assert_eq!(first.answer().await.unwrap().pid, 1);
}

#[tokio::test]
async fn an_error_keeps_its_code_and_message() {
    let connection = connect(|server| {
        let got = server.next().unwrap();
        server.send(|out| ttrpc::encode_error(out, got.stream, Code::NotFound, "no such exec"));
    });
    match call(&connection, "a").await.unwrap_err() {
        Failure::Refused(error) => {
            assert_eq!((error.code, error.message.as_str()), (Code::NotFound, "no such exec"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_call_ends_when_the_shim_dies() {
    let connection = connect(|server| {
        let stream = server.next().unwrap().stream;
        server.event(stream, 1);
        server.next().unwrap();
    });
    let mut events = events(&connection);
    let failed = call(&connection, "a").await.unwrap_err();
    assert!(matches!(failed, Failure::Closed(_)), "{failed}");
    assert_eq!(events.next().await.unwrap().unwrap().sequence, 1);
    assert!(matches!(events.next().await, Some(Err(Failure::Closed(_)))));
    assert!(matches!(call(&connection, "b").await, Err(Failure::Closed(_))));
}

#[tokio::test]
async fn a_shim_that_hangs_is_not_waited_for_and_answers_the_next() {
    let connection = connect(|server| {
        let hung = server.next().unwrap();
        let next = server.next().unwrap();
        server.answer(hung.stream, 1);
        server.answer(next.stream, 2);
    });
    let short = Duration::from_millis(20);
    let hung = connection.unary::<_, AssignResponse>("s", "Assign", &assign("a"), short).await;
    assert!(matches!(hung, Err(Failure::TimedOut(_))), "{hung:?}");
    assert_eq!(call(&connection, "b").await.unwrap().pid, 2);
}

#[tokio::test]
async fn a_server_stream_ends_well_or_with_its_error() {
    let connection = connect(|server| {
        let well = server.next().unwrap();
        assert!(well.flags.contains(Flags::REMOTE_CLOSED));
        let request = EventsRequest::decode(well.request().payload.as_slice()).unwrap();
        assert_eq!(request.after, 3);
        server.event(well.stream, 4);
        server.send(|out| ttrpc::encode_end(out, well.stream));
        let badly = server.next().unwrap();
        server.event(badly.stream, 5);
        server.send(|out| ttrpc::encode_error(out, badly.stream, Code::Internal, "lost"));
        server.next();
    });
    let mut well = events(&connection);
    assert_eq!(well.next().await.unwrap().unwrap().sequence, 4);
    assert!(well.next().await.is_none());
    let mut badly = events(&connection);
    assert_eq!(badly.next().await.unwrap().unwrap().sequence, 5);
    assert!(matches!(badly.next().await, Some(Err(Failure::Refused(_)))));
    assert!(badly.next().await.is_none());
}

#[tokio::test]
async fn a_duplex_stream_carries_both_ways() {
    let connection = connect(|server| {
        let open = server.next().unwrap();
        assert!(open.flags.contains(Flags::REMOTE_OPEN));
        for expected in ["first", "second"] {
            let data = server.next().unwrap();
            assert_eq!((data.stream, data.kind), (open.stream, Kind::Data));
            assert_eq!(AssignRequest::decode(data.payload.as_slice()).unwrap().id, expected);
        }
        assert!(server.next().unwrap().flags.contains(Flags::END));
        server.event(open.stream, 1);
        server.next();
    });
    let (outgoing, mut incoming): (Outgoing<AssignRequest>, Incoming<Event>) =
        connection.pipeline(|p| p.duplex("s", "Attach", &assign("first"))).unwrap();
    outgoing.send(&assign("second")).await.unwrap();
    outgoing.end();
    assert_eq!(incoming.next().await.unwrap().unwrap().sequence, 1);
}

#[tokio::test]
async fn a_receiver_that_does_not_read_is_reported_and_loses_nothing() {
    let many = limits::STREAM_MESSAGES as u64 * 3;
    let connection = connect(move |server| {
        let stream = server.next().unwrap().stream;
        (1..=many).for_each(|sequence| server.event(stream, sequence));
        server.next();
    });
    let mut events = events(&connection);
    tokio::time::timeout(PATIENCE, connection.stalled()).await.unwrap();
    for sequence in 1..=many {
        assert_eq!(events.next().await.unwrap().unwrap().sequence, sequence);
    }
}

#[tokio::test]
async fn a_sender_waits_for_a_shim_that_does_not_read() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let connection = connect(move |server| {
        wait.recv().unwrap();
        let mut bytes = 0;
        while let Some(got) = server.next() {
            bytes += got.payload.len();
            if got.flags.contains(Flags::END) {
                assert!(bytes > 4 << 20);
                server.event(got.stream, bytes as u64);
            }
        }
    });
    let (outgoing, mut incoming): (Outgoing<AssignRequest>, Incoming<Event>) =
        connection.pipeline(|p| p.duplex("s", "Attach", &assign(""))).unwrap();
    let block = assign(&"x".repeat(64 << 10));
    let mut sent = 0;
    while let Ok(result) = tokio::time::timeout(Duration::from_millis(100), outgoing.send(&block)).await {
        result.unwrap();
        sent += 1;
        assert!(sent < 64, "nothing held the sender back");
    }
    go.send(()).unwrap();
    while sent < 65 {
        outgoing.send(&block).await.unwrap();
        sent += 1;
    }
    outgoing.end();
    assert!(incoming.next().await.unwrap().unwrap().sequence > 4 << 20);
}

#[tokio::test]
async fn a_message_that_is_too_long_costs_its_own_call_only() {
    let connection = connect(|server| {
        let got = server.next().unwrap();
        server.send(|out| {
            let length = (ttrpc::MAX_PAYLOAD + 1) as u32;
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&got.stream.to_be_bytes());
            out.extend_from_slice(&[2, 0]);
            out.resize(out.len() + length as usize, 0);
        });
        let got = server.next().unwrap();
        server.answer(got.stream, 5);
        server.next();
    });
    assert!(matches!(call(&connection, "a").await, Err(Failure::Protocol(_))));
    assert_eq!(call(&connection, "b").await.unwrap().pid, 5);
    let long = assign(&"x".repeat(ttrpc::MAX_PAYLOAD + 1));
    let refused = connection.unary::<_, AssignResponse>("s", "Assign", &long, PATIENCE).await;
    assert!(matches!(refused, Err(Failure::Protocol(_))), "{refused:?}");
}

#[tokio::test]
async fn nothing_of_a_pipeline_that_fails_is_sent() {
    let connection = connect(|server| {
        let got = server.next().unwrap();
        assert_eq!(AssignRequest::decode(got.request().payload.as_slice()).unwrap().id, "b");
        server.answer(got.stream, 1);
    });
    let failed = connection.pipeline(|p| {
        p.unary::<_, AssignResponse>("s", "Assign", &assign("a"), PATIENCE)?;
        Err::<(), _>(Failure::Limit("test", 0))
    });
    assert!(failed.is_err());
    assert_eq!(call(&connection, "b").await.unwrap().pid, 1);
}

#[tokio::test]
async fn calls_that_wait_are_bounded() {
    let connection = connect(|server| while server.next().is_some() {});
    let mut waiting = Vec::new();
    for _ in 0..limits::CALLS_PER_CONNECTION {
        let pending =
            connection.pipeline(|p| p.unary::<_, AssignResponse>("s", "Assign", &assign("a"), PATIENCE));
        waiting.push(pending.unwrap());
    }
    assert!(matches!(call(&connection, "a").await, Err(Failure::Limit(..))));
    waiting.clear();
    assert!(
        connection.pipeline(|p| p.unary::<_, AssignResponse>("s", "Assign", &assign("a"), PATIENCE)).is_ok()
    );
}

#[tokio::test]
async fn the_connection_closes_with_its_last_user() {
    let (told, closed) = std::sync::mpsc::channel();
    let connection = connect(move |server| {
        while server.next().is_some() {}
        told.send(()).unwrap();
    });
    let events = events(&connection);
    drop(connection);
    assert!(closed.recv_timeout(Duration::from_millis(50)).is_err());
    drop(events);
    let ended = tokio::task::spawn_blocking(move || closed.recv_timeout(PATIENCE)).await.unwrap();
    ended.unwrap();
}
