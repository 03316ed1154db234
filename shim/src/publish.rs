//! Brings events to a foreign daemon: `Forward` on the socket that `TTRPC_ADDRESS` names.
//!
//! What always holds: one event is on its way at a time, so that the daemon gets them in order; one counts as sent when
//! the daemon has confirmed it; a daemon that is away is tried again, at growing intervals, for as long as the shim lives;
//! what waits is bounded as in [`EventLog`].

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use longshore_proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use longshore_proto::containerd::types::Envelope;
use longshore_proto::longshore::shim::v1::Event;
use longshore_proto::ttrpc::{self, Call, ClientStreams, Decoder, Kind, Response, Target};
use prost::Message;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::events::EventLog;
use crate::poll::{Flags, Token};
use crate::server::Shim;
use crate::timers::Timer;
use crate::{limits, report};

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

/// The way to the daemon.
pub struct Publisher {
    address: PathBuf,
    namespace: String,
    link: Option<Link>,
    /// The last event that the daemon has.
    confirmed: u64,
    /// How often the daemon has answered the next one with an error.
    refusals: u32,
    pause: Duration,
    /// Whether a timer will try again.
    waits: bool,
}

struct Link {
    socket: UnixStream,
    decoder: Decoder,
    streams: ClientStreams,
    out: Vec<u8>,
    /// The event that is on its way, and since when.
    sending: Option<(u64, Instant)>,
    is_watching_room: bool,
}

/// What the daemon said.
enum Heard {
    Nothing,
    Confirmed,
    Refused(String),
    Gone,
}

impl Publisher {
    pub fn new(address: PathBuf, namespace: String) -> Self {
        let pause = limits::PUBLISH_PAUSE.0;
        Self { address, namespace, link: None, confirmed: 0, refusals: 0, pause, waits: false }
    }

    /// Whether the daemon has everything.
    pub fn is_idle(&self, events: &EventLog) -> bool {
        self.confirmed >= events.last()
    }

    /// Connects, if that can be done at once.
    fn connect(&self) -> io::Result<Link> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(&self.address)?)?;
        Ok(Link {
            socket: socket.into(),
            decoder: Decoder::new(),
            streams: ClientStreams::default(),
            out: Vec::new(),
            sending: None,
            is_watching_room: false,
        })
    }

    fn forward(&self, event: Event) -> ForwardRequest {
        ForwardRequest {
            envelope: Some(Envelope {
                timestamp: event.timestamp,
                namespace: self.namespace.clone(),
                topic: event.topic,
                event: event.event,
            }),
        }
    }
}

impl Link {
    fn put(&mut self, sequence: u64, namespace: &str, request: &ForwardRequest) -> Result<(), ttrpc::Error> {
        let metadata = [("containerd-namespace-ttrpc", namespace)];
        let target = Target {
            timeout: Some(limits::PUBLISH_ANSWER),
            metadata: &metadata,
            ..Target::new(SERVICE, "Forward", Call::Unary)
        };
        let stream = self.streams.open()?;
        ttrpc::encode_request(&mut self.out, stream, target, request)?;
        self.sending = Some((sequence, Instant::now()));
        Ok(())
    }

    /// Sends what waits, as far as the socket takes it.
    fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.shrink_to(0);
        Ok(())
    }

    fn hear(&mut self) -> Heard {
        let mut bytes = [0u8; 4096];
        loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => return Heard::Gone,
                Ok(count) => self.decoder.feed(bytes.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Heard::Gone,
            }
        }
        let answer = match self.decoder.next_frame() {
            Ok(Some(frame)) if frame.kind == Kind::Response => frame.decode::<Response>("ttrpc response"),
            Ok(None) => return Heard::Nothing,
            Ok(Some(_)) | Err(_) => return Heard::Gone,
        };
        match answer.map(Response::into_result) {
            Ok(Ok(_)) => Heard::Confirmed,
            Ok(Err(refusal)) => Heard::Refused(refusal.message),
            Err(_) => Heard::Gone,
        }
    }
}

impl Shim {
    /// Brings the daemon the next event, unless one is on its way.
    pub fn publish(&mut self) {
        let Some(publisher) = &mut self.publisher else { return };
        publisher.waits = false;
        if publisher.is_idle(&self.events) {
            return;
        }
        if let Some(link) = &publisher.link {
            match link.sending {
                Some((_, since)) if since.elapsed() >= limits::PUBLISH_ANSWER => {
                    return self.lose_publisher();
                }
                Some((_, since)) => {
                    return self.publish_after(limits::PUBLISH_ANSWER.saturating_sub(since.elapsed()));
                }
                None => {}
            }
        } else {
            match publisher.connect() {
                Ok(link) if self.poll.add(link.socket.as_fd(), Token::Publisher, Flags::IN).is_ok() => {
                    publisher.link = Some(link);
                }
                _ => return self.lose_publisher(),
            }
        }
        self.send_next();
    }

    fn send_next(&mut self) {
        let Some(publisher) = &mut self.publisher else { return };
        let next = self.events.since(publisher.confirmed).next().map(Event::decode);
        let Some(Ok(event)) = next else {
            // None is left, or one that this very process has encoded wrongly.
            publisher.confirmed = self.events.last();
            return;
        };
        let sequence = event.sequence;
        let request = publisher.forward(event);
        let Some(link) = &mut publisher.link else { return };
        let put = link.put(sequence, &publisher.namespace, &request).map_err(io::Error::other);
        if put.and_then(|()| link.flush()).is_err() {
            return self.lose_publisher();
        }
        self.watch_publisher();
        self.publish_after(limits::PUBLISH_ANSWER);
    }

    fn watch_publisher(&mut self) {
        let Some(link) = self.publisher.as_mut().and_then(|publisher| publisher.link.as_mut()) else {
            return;
        };
        let wants = !link.out.is_empty();
        if wants != link.is_watching_room {
            link.is_watching_room = wants;
            let flags = if wants { Flags::IN | Flags::OUT } else { Flags::IN };
            let _ = self.poll.change(link.socket.as_fd(), Token::Publisher, flags);
        }
    }

    /// The daemon has answered, or is gone.
    pub fn on_publisher(&mut self, _flags: Flags) {
        let Some(publisher) = &mut self.publisher else { return };
        let Some(link) = &mut publisher.link else { return };
        if link.flush().is_err() {
            return self.lose_publisher();
        }
        match link.hear() {
            Heard::Nothing => self.watch_publisher(),
            Heard::Gone => self.lose_publisher(),
            Heard::Confirmed => self.confirmed(),
            Heard::Refused(why) => {
                publisher.refusals += 1;
                if publisher.refusals < limits::PUBLISH_REFUSALS {
                    return self.lose_publisher();
                }
                let id = self.assigned.as_ref().map(|assigned| assigned.id.as_str()).unwrap_or_default();
                report::error(id, &format!("the daemon does not take an event, which is left out: {why}"));
                self.confirmed();
            }
        }
    }

    fn confirmed(&mut self) {
        let Some(publisher) = &mut self.publisher else { return };
        let Some(link) = &mut publisher.link else { return };
        if let Some((sequence, _)) = link.sending.take() {
            publisher.confirmed = sequence;
        }
        publisher.refusals = 0;
        publisher.pause = limits::PUBLISH_PAUSE.0;
        self.events.forget(publisher.confirmed);
        if !publisher.is_idle(&self.events) {
            self.send_next();
        }
    }

    /// The connection is of no use any more; what is still to be sent is tried again later.
    fn lose_publisher(&mut self) {
        let Some(publisher) = &mut self.publisher else { return };
        if let Some(link) = publisher.link.take() {
            self.poll.remove(link.socket.as_fd());
        }
        if publisher.is_idle(&self.events) {
            return;
        }
        let pause = publisher.pause;
        publisher.pause = (pause * 2).min(limits::PUBLISH_PAUSE.1);
        self.publish_after(pause);
    }

    fn publish_after(&mut self, pause: Duration) {
        let Some(publisher) = &mut self.publisher else { return };
        if !publisher.waits {
            publisher.waits = true;
            self.timers.set(pause, Timer::Publish);
        }
    }
}
