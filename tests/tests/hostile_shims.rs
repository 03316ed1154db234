//! Whoever speaks on the socket for shims' events without being one, or is a broken one: clear answers, bounded memory, and the events
//! of others come all the same.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use longshore_proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use longshore_proto::containerd::services::events::v1::SubscribeRequest;
use longshore_proto::containerd::types::Envelope;
use longshore_proto::ttrpc::{self, Call, CallError, ClientStreams, Code, Decoder, Kind, Response, Target};
use longshore_tests::Daemon;
use longshore_tests::api::Api;
use longshore_tests::daemon::{Settings, eventually};
use longshore_tests::raw::footprint;
use prost_types::Any;

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
const NAMESPACE: &str = "hostile";
/// Nothing here may keep others waiting so long.
const AT_ONCE: Duration = Duration::from_secs(5);
/// KiB by which the daemon may grow through anything that is done here: what is unfinished may be 64 MiB.
const GROWTH: u64 = 160 * 1024;

fn daemon() -> (Daemon, PathBuf) {
    let daemon = Daemon::with(Settings::default()).unwrap();
    let mut path = daemon.socket().into_os_string();
    path.push(".ttrpc");
    (daemon, path.into())
}

struct Shim {
    socket: UnixStream,
    streams: ClientStreams,
    decoder: Decoder,
}

impl Shim {
    fn new(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(AT_ONCE)).unwrap();
        Self { socket, streams: ClientStreams::default(), decoder: Decoder::new() }
    }

    fn frame(&mut self, method: &str, request: &ForwardRequest) -> Vec<u8> {
        let mut out = Vec::new();
        let target = Target::new(SERVICE, method, Call::Unary);
        ttrpc::encode_request(&mut out, self.streams.open().unwrap(), target, request).unwrap();
        out
    }

    fn answer(&mut self) -> Result<Vec<u8>, CallError> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                assert_eq!(frame.kind, Kind::Response);
                return frame.decode::<Response>("Response").unwrap().into_result();
            }
            let mut bytes = [0; 4096];
            let count = self.socket.read(&mut bytes).unwrap();
            assert!(count > 0, "hung up on");
            self.decoder.feed(&bytes[..count]);
        }
    }

    fn send(&mut self, method: &str, request: &ForwardRequest) -> Result<Vec<u8>, CallError> {
        let bytes = self.frame(method, request);
        self.socket.write_all(&bytes).unwrap();
        self.answer()
    }

    /// Whether the daemon hangs up within this time.
    fn is_hung_up_on(&mut self, within: Duration) -> bool {
        self.socket.set_read_timeout(Some(within)).unwrap();
        let mut bytes = [0; 4096];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => return true,
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
                Ok(_) => {}
            }
        }
    }
}

fn event(topic: &str) -> ForwardRequest {
    let event = Some(Any { type_url: "test.Event".into(), value: b"x".to_vec() });
    let envelope = Envelope { timestamp: None, namespace: NAMESPACE.into(), topic: topic.into(), event };
    ForwardRequest { envelope: Some(envelope) }
}

/// A shim as it should be is answered at once.
fn takes_events(path: &Path) {
    let began = Instant::now();
    Shim::new(path).send("Forward", &event("/test/fine")).unwrap();
    assert!(began.elapsed() < AT_ONCE, "another shim waited {:?}", began.elapsed());
}

/// Numbers that look random and are the same every time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_is_answered_and_changes_nothing() {
    let (daemon, path) = daemon();
    let before = footprint(daemon.pid().unwrap());
    let mut api = Api::connect(&daemon.socket()).await.unwrap();
    let mut events = api.events.subscribe(SubscribeRequest::default()).await.unwrap().into_inner();
    for seed in 0..100 {
        let _ = Shim::new(&path).socket.write_all(&noise(seed, 5000));
    }
    // Well-formed frames around garbage.
    for seed in 0..200 {
        let mut bytes = Vec::new();
        let kind = [Kind::Request, Kind::Response, Kind::Data][seed as usize % 3];
        ttrpc::encode_raw(&mut bytes, 1, kind, ttrpc::Flags((seed % 8) as u8), &noise(seed, 300)).unwrap();
        let _ = Shim::new(&path).socket.write_all(&bytes);
    }
    let mut shim = Shim::new(&path);
    // Too long, and the same connection goes on behind it.
    let length: u32 = (4 << 20) + 1;
    shim.streams.open().unwrap();
    let mut long = [&length.to_be_bytes()[..], &1u32.to_be_bytes(), &[1, 0]].concat();
    long.resize(10 + length as usize, b'x');
    shim.socket.write_all(&long).unwrap();
    assert_eq!(shim.answer().unwrap_err().code, Code::ResourceExhausted);
    for (request, method, code) in [
        (ForwardRequest::default(), "Forward", Code::InvalidArgument),
        (event(""), "Forward", Code::InvalidArgument),
        (event("no-slash"), "Forward", Code::InvalidArgument),
        (event(&format!("/{}", "x".repeat(1000))), "Forward", Code::InvalidArgument),
        (event("/test/x"), "Backward", Code::Unimplemented),
    ] {
        assert_eq!(shim.send(method, &request).unwrap_err().code, code, "{request:?}");
    }
    let mut other = event("/test/x");
    other.envelope.as_mut().unwrap().namespace = "../x".into();
    assert_eq!(shim.send("Forward", &other).unwrap_err().code, Code::InvalidArgument);
    // The ends of containers that are not there, and what is no end at all.
    for value in [b"".to_vec(), noise(1, 100)] {
        let mut exit = event("/tasks/exit");
        exit.envelope.as_mut().unwrap().event =
            Some(Any { type_url: "containerd.events.TaskExit".into(), value });
        let _ = shim.send("Forward", &exit);
    }
    takes_events(&path);
    loop {
        let told = tokio::time::timeout(AT_ONCE, events.message()).await.unwrap().unwrap().unwrap();
        if told.topic == "/test/fine" {
            break;
        }
        assert_eq!(told.topic, "/tasks/exit", "{told:?}");
    }
    let grown = footprint(daemon.pid().unwrap()).resident.saturating_sub(before.resident);
    assert!(grown < GROWTH / 4, "grown by {grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_in_the_middle_or_does_not_listen_is_hung_up_on() {
    let (daemon, path) = daemon();
    let before = footprint(daemon.pid().unwrap());
    // Nearly whole requests that are as large as may be: together more than the daemon keeps.
    let mut large = event("/test/large");
    large.envelope.as_mut().unwrap().event.as_mut().unwrap().value = vec![b'x'; (4 << 20) - 1024];
    let half_open: Vec<Shim> = (0..40)
        .map(|_| {
            let mut shim = Shim::new(&path);
            let bytes = shim.frame("Forward", &large);
            // Who is one too many is hung up on while it writes.
            let _ = shim.socket.write_all(&bytes[..bytes.len() - 1]);
            shim
        })
        .collect();
    takes_events(&path);
    let grown = footprint(daemon.pid().unwrap()).resident.saturating_sub(before.resident);
    assert!(grown < GROWTH, "grown by {grown} KiB");

    // One that sends for ever and reads nothing.
    let mut deaf = Shim::new(&path);
    deaf.socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let bytes: Vec<u8> = (0..1000).flat_map(|_| deaf.frame("Backward", &event("/test/x"))).collect();
    while deaf.socket.write_all(&bytes).is_ok() {}
    takes_events(&path);

    // Ones that say nothing at all may take their time; the others have had it after ten seconds.
    let mut silent = Shim::new(&path);
    for mut shim in half_open {
        assert!(shim.is_hung_up_on(Duration::from_secs(20)), "half a request is waited for");
    }
    eventually("who does not listen is hung up on", || {
        deaf.socket.write_all(b"x").is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    });
    silent.send("Forward", &event("/test/late")).unwrap();
    drop(deaf);
    eventually("their files are closed", || footprint(daemon.pid().unwrap()).files <= before.files + 5);
    let grown = footprint(daemon.pid().unwrap()).resident.saturating_sub(before.resident);
    assert!(grown < GROWTH, "grown by {grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections_leaves_the_daemon_files_to_work_with() {
    let (daemon, path) = daemon();
    let pid = daemon.pid().unwrap();
    let before = footprint(pid);
    // As many as this process may have files for.
    let mut flood = Vec::new();
    while let Ok(socket) = UnixStream::connect(&path) {
        flood.push(socket);
        if flood.len() == 4000 {
            break;
        }
    }
    // Room for what is needed here to look.
    flood.truncate(flood.len().saturating_sub(50));
    let channel = longshore_tests::raw::channel(&daemon.socket()).await.unwrap();
    let version = "/containerd.services.version.v1.Version/Version";
    longshore_tests::raw::call(&channel, version, "", Vec::new(), AT_ONCE).await.unwrap();
    let grown = footprint(pid).resident.saturating_sub(before.resident);
    assert!(grown < GROWTH, "grown by {grown} KiB");
    drop(flood);
    eventually("their files are closed", || footprint(pid).files <= before.files + 5);
    takes_events(&path);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_hung_up_on() {
    let (daemon, path) = daemon();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // Its mode is opened, so that only the daemon's own look at the peer is left.
    for place in path.ancestors().take_while(|place| place.starts_with(daemon.path())) {
        std::fs::set_permissions(place, PermissionsExt::from_mode(0o777)).unwrap();
    }
    let event = event("/test/stranger");
    let as_user = |uid: u32, gid: u32| {
        let (path, event) = (path.clone(), event.clone());
        let other = std::thread::spawn(move || {
            longshore_tests::host::become_in_this_thread(uid, gid);
            let mut shim = Shim::new(&path);
            let bytes = shim.frame("Forward", &event);
            let _ = shim.socket.write_all(&bytes);
            shim.is_hung_up_on(AT_ONCE)
        });
        other.join().unwrap()
    };
    assert!(as_user(65534, 65534), "another user is let in");
    assert!(as_user(65534, 0), "another user of the daemon's group is let in");
    assert!(as_user(0, 65534), "the daemon's user in another group is let in");
    assert!(daemon.log_text().contains("refused a connection"));
    takes_events(&path);
}
