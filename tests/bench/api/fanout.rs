//! Events: one client publishes, a hundred are told.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use longshore_proto::containerd::services::events::v1::{PublishRequest, SubscribeRequest};
use longshore_tests::h2::{Connection, DATA, call_headers, message};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use prost::Message;
use prost_types::Any;

use super::Target;
use super::drive::{Figures, Spent, p99};
use super::seed::NAMESPACE;

const SUBSCRIBERS: usize = 100;
const EVENTS: usize = 1500;
/// Publications under way at one time.
const AT_ONCE: usize = 8;
const SUBSCRIBE: &str = "/containerd.services.events.v1.Events/Subscribe";
const PUBLISH: &str = "/containerd.services.events.v1.Events/Publish";
const PATIENCE: Duration = Duration::from_secs(60);

struct Subscriber {
    connection: Connection,
    /// Events that came.
    count: usize,
    /// Bytes of the message that is coming, and of the prefix of the next.
    left: usize,
    prefix: Vec<u8>,
}

impl Subscriber {
    fn new(target: &Target) -> Result<Self> {
        let mut connection = Connection::open(&target.socket)?;
        let filters = vec![format!("namespace=={NAMESPACE},topic==\"/bench/event\"")];
        let mut out = Vec::new();
        let request = message(&SubscribeRequest { filters }.encode_to_vec());
        connection.call(&mut out, &call_headers(SUBSCRIBE, NAMESPACE), &request);
        connection.write(&out)?;
        Ok(Self { connection, count: 0, left: 0, prefix: Vec::new() })
    }

    /// Reads what is there.
    fn read(&mut self) -> Result<()> {
        ensure!(self.connection.fill()? > 0, "the daemon ended a subscription");
        while self.connection.has_frame() {
            let frame = self.connection.read()?;
            ensure!(!(frame.ends() && frame.stream > 0), "the daemon ended a subscription");
            if frame.kind == DATA {
                self.take(&frame.payload);
            }
        }
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let part = bytes.len().min(5 - self.prefix.len());
                self.prefix.extend_from_slice(&bytes[..part]);
                bytes = &bytes[part..];
                if let [_, a, b, c, d] = self.prefix[..] {
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                    self.prefix.clear();
                }
                continue;
            }
            let part = bytes.len().min(self.left);
            self.left -= part;
            bytes = &bytes[part..];
            self.count += usize::from(self.left == 0);
        }
    }
}

fn publication() -> Vec<u8> {
    let event = longshore_proto::containerd::events::ContainerCreate {
        id: "container-0001".into(),
        image: "docker.io/library/image:0001".into(),
        runtime: None,
    };
    let event = Any { type_url: "containerd.events.ContainerCreate".into(), value: event.encode_to_vec() };
    message(&PublishRequest { topic: "/bench/event".into(), event: Some(event) }.encode_to_vec())
}

/// Publishes so many events; the microseconds that each call took.
fn publish(target: &Target, count: usize) -> Result<Vec<u32>> {
    let mut connection = Connection::open(&target.socket)?;
    let (headers, message) = (call_headers(PUBLISH, NAMESPACE), publication());
    let (mut began, mut micros) = (std::collections::HashMap::new(), Vec::new());
    let mut sent = 0;
    while micros.len() < count {
        let mut out = Vec::new();
        while sent < count && began.len() < AT_ONCE && connection.window > 16 * 1024 {
            began.insert(connection.call(&mut out, &headers, &message), (Instant::now(), false));
            sent += 1;
        }
        connection.write(&out)?;
        loop {
            let frame = connection.skim()?;
            if let Some((since, answered)) = began.get_mut(&frame.stream) {
                *answered |= frame.kind == DATA;
                if frame.ends() {
                    ensure!(*answered, "a publication failed");
                    micros.push(since.elapsed().as_micros() as u32);
                    began.remove(&frame.stream);
                }
            }
            if !connection.has_frame() {
                break;
            }
        }
    }
    Ok(micros)
}

/// Reads until everybody has been told of so many events, or the time is over.
fn listen(subscribers: &mut [Subscriber], wanted: usize, patience: Duration) -> Result<bool> {
    let until = Instant::now() + patience;
    while subscribers.iter().any(|subscriber| subscriber.count < wanted) {
        let ready: Vec<bool> = {
            let mut files: Vec<PollFd> = subscribers
                .iter()
                .map(|s| PollFd::new(s.connection.socket().as_fd(), PollFlags::POLLIN))
                .collect();
            if Instant::now() > until
                || poll(&mut files, PollTimeout::from(50u8))? == 0 && Instant::now() > until
            {
                return Ok(false);
            }
            files.iter().map(|file| file.any().unwrap_or(false)).collect()
        };
        for (subscriber, _) in subscribers.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            subscriber.read()?;
        }
    }
    Ok(true)
}

/// One turn: events delivered a second, and how long publishing took meanwhile.
pub fn run(target: &Target) -> Result<Figures> {
    let mut subscribers = (0..SUBSCRIBERS).map(|_| Subscriber::new(target)).collect::<Result<Vec<_>>>()?;
    // A subscription is known to be there when it has told something.
    let until = Instant::now() + PATIENCE;
    while subscribers.iter().any(|subscriber| subscriber.count == 0) {
        ensure!(Instant::now() < until, "a subscription was told nothing");
        publish(target, 1)?;
        listen(&mut subscribers, 1, Duration::from_millis(100))?;
    }
    listen(&mut subscribers, usize::MAX, Duration::from_millis(300))?;
    subscribers.iter_mut().for_each(|subscriber| subscriber.count = 0);

    let spent = Spent::begin(target.pid)?;
    let began = Instant::now();
    let micros = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish(target, EVENTS));
        let told = listen(&mut subscribers, EVENTS, PATIENCE)?;
        ensure!(told, "not every event was delivered within {PATIENCE:?}");
        publisher.join().map_err(|_| anyhow!("a thread ended"))?.context("publishing")
    })?;
    let taken = began.elapsed();
    let delivered = (EVENTS * SUBSCRIBERS) as f64;
    let (cpu, client) = spent.each(delivered)?;
    Ok(Figures { rate: delivered / taken.as_secs_f64(), p99: p99(micros), cpu, client })
}
