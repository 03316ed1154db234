//! Names at 127.0.0.11 of the container's network namespace: the shim answers what the daemon's tables know, and asks the
//! host's servers the rest, so that names work while no daemon runs.
//!
//! What always holds: whatever a container sends costs it no more than an error; questions under way, connections and
//! bytes are bounded; other servers are asked from the host's namespace, each question by a socket and an id of its own.

mod client;
mod message;
mod names;
mod question;
mod redirect;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::poll::{Flags, Poll, Token};
use crate::server::Shim;
use crate::timers::Timer;
use crate::{files, limits};
use client::Client;
use message::{Code, Question, Room};
use names::{Found, Names};
use question::{Asked, Progress};
pub use question::{connect_by, stream_for};

/// Where containers ask.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;

/// The two sockets in the container, which epoll knows by these numbers; the others count on from there.
const UDP: u32 = 0;
const TCP: u32 = 1;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    Datagram(SocketAddr),
    /// A connection, by its number.
    Stream(u32),
}

/// The resolver of one container.
pub struct Dns {
    udp: UdpSocket,
    tcp: TcpListener,
    /// Whether epoll watches for connections.
    accepts: bool,
    names: Names,
    /// Questions that were passed on.
    asked: BTreeMap<u32, Asked>,
    clients: BTreeMap<u32, Client>,
    next: u32,
}

impl Dns {
    /// Binds in the network namespace of a process and leads port 53 there.
    fn open(pid: i32, view: &Path, poll: &Poll) -> Result<Dns> {
        let failed = |source| Error::System { doing: "listen for names at 127.0.0.11", source };
        let (udp, tcp) = redirect::inside(pid, || {
            let udp = UdpSocket::bind((ADDRESS, 0)).map_err(failed)?;
            let tcp = TcpListener::bind((ADDRESS, 0)).map_err(failed)?;
            let ports = [udp.local_addr(), tcp.local_addr()].map(|a| a.map(|a| a.port()).map_err(failed));
            let [of_udp, of_tcp] = ports;
            redirect::lead((ADDRESS, PORT), of_udp?, of_tcp?)?;
            Ok((udp, tcp))
        })?;
        udp.set_nonblocking(true).and_then(|()| tcp.set_nonblocking(true)).map_err(failed)?;
        poll.add(&udp, Token::Dns(UDP), Flags::IN)?;
        poll.add(&tcp, Token::Dns(TCP), Flags::IN)?;
        let names = Names::new(view);
        Ok(Dns {
            udp,
            tcp,
            accepts: true,
            names,
            asked: BTreeMap::new(),
            clients: BTreeMap::new(),
            next: TCP + 1,
        })
    }

    fn close(&self, poll: &Poll) {
        poll.remove(&self.udp);
        poll.remove(&self.tcp);
        self.asked.values().filter_map(Asked::fd).for_each(|fd| poll.remove(fd));
        self.clients.values().for_each(|client| poll.remove(client.fd()));
    }

    fn number(&mut self) -> u32 {
        let number = self.next;
        self.next = self.next.checked_add(1).unwrap_or(TCP + 1);
        number
    }

    /// Takes what has come by datagram.
    fn receive(&mut self, poll: &Poll, scratch: &mut [u8]) {
        self.names.refresh();
        for _ in 0..limits::DNS_TURN {
            match self.udp.recv_from(scratch) {
                Ok((length, from)) => {
                    let message = scratch.get(..length).unwrap_or_default().to_vec();
                    self.take(poll, Asker::Datagram(from), message);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// An error: there are no descriptors, and it is tried again later.
    fn accept(&mut self, poll: &Poll) -> std::io::Result<()> {
        let socket = match self.tcp.accept() {
            Ok((socket, _)) => socket,
            Err(error) if files::is_short(&error) => {
                poll.remove(&self.tcp);
                self.accepts = false;
                return Err(error);
            }
            Err(_) => return Ok(()),
        };
        if self.clients.len() >= limits::DNS_CLIENTS || socket.set_nonblocking(true).is_err() {
            return Ok(());
        }
        let number = self.number();
        if poll.add(&socket, Token::Dns(number), Flags::IN).is_ok() {
            self.clients.insert(number, Client::new(socket));
        }
        Ok(())
    }

    /// Answers a message, or passes it on.
    fn take(&mut self, poll: &Poll, asker: Asker, message: Vec<u8>) {
        let question = match Question::parse(&message) {
            Ok(question) => question,
            Err(None) => return,
            Err(Some(code)) => return self.send(poll, asker, &message::refusal(&message, code)),
        };
        let room = match asker {
            Asker::Datagram(_) => Room::Udp,
            Asker::Stream(_) => Room::Tcp,
        };
        if question.is_ours()
            && let Found::Records(mut records) =
                self.names.look_up(&question.name, question.kind, question.reverse())
        {
            // Whoever takes the first only gets another one each time.
            let shift = records.len().checked_sub(1).map_or(0, |last| usize::from(question.id) % (last + 1));
            records.rotate_left(shift);
            return self.send(poll, asker, &question.answer(&message, Code::Ok, &records, room));
        }
        let servers = self.names.servers();
        let failure = question.answer(&message, Code::Failed, &[], room);
        if servers.is_empty() || self.asked.len() >= limits::DNS_ASKED {
            return self.send(poll, asker, &failure);
        }
        let number = self.number();
        let mut asked = Asked::new(asker, &question, message, servers, failure);
        match asked.ask_next(poll, number) {
            Progress::Waiting => {
                self.asked.insert(number, asked);
            }
            Progress::Answered(answer) => self.send(poll, asker, &answer),
        }
    }

    /// A question that was passed on has got on.
    fn go_on(&mut self, poll: &Poll, number: u32, flags: Flags, scratch: &mut [u8]) {
        let Some(asked) = self.asked.get_mut(&number) else { return };
        if let Progress::Answered(answer) = asked.ready(poll, number, flags, scratch) {
            self.answered(poll, number, &answer);
        }
    }

    fn answered(&mut self, poll: &Poll, number: u32, answer: &[u8]) {
        let Some(asked) = self.asked.remove(&number) else { return };
        if let Some(fd) = asked.fd() {
            poll.remove(fd);
        }
        self.send(poll, asked.asker, answer);
    }

    fn serve(&mut self, poll: &Poll, number: u32, flags: Flags, scratch: &mut [u8]) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        client.ready(flags, scratch);
        self.names.refresh();
        // What else waits has its turn after what others wait for.
        for _ in 0..limits::DNS_TURN {
            if self.unanswered(number) >= limits::DNS_CLIENT_ASKED {
                break;
            }
            let Some(message) = self.clients.get_mut(&number).and_then(Client::next) else { break };
            self.take(poll, Asker::Stream(number), message);
        }
        self.settle(poll, number);
    }

    fn unanswered(&self, client: u32) -> usize {
        self.asked.values().filter(|asked| asked.asker == Asker::Stream(client)).count()
    }

    fn send(&mut self, poll: &Poll, asker: Asker, answer: &[u8]) {
        match asker {
            // An answer that finds no room is lost, as datagrams are; it is asked for again.
            Asker::Datagram(to) => {
                let _ = self.udp.send_to(answer, to);
            }
            Asker::Stream(number) => {
                if let Some(client) = self.clients.get_mut(&number) {
                    client.send(answer);
                }
                self.settle(poll, number);
            }
        }
    }

    /// Closes a connection that is at its end, or watches it for what it waits for.
    fn settle(&mut self, poll: &Poll, number: u32) {
        let unanswered = self.unanswered(number);
        let Some(client) = self.clients.get_mut(&number) else { return };
        match client.wants(unanswered) {
            Some(flags) => {
                let _ = poll.change(client.fd(), Token::Dns(number), flags);
            }
            None => {
                poll.remove(client.fd());
                self.clients.remove(&number);
            }
        }
    }

    /// Gives up what has waited too long. True: there is more to look after.
    fn expire(&mut self, poll: &Poll, now: Instant) -> bool {
        let late: Vec<u32> =
            self.asked.iter().filter(|(_, asked)| asked.deadline <= now).map(|(number, _)| *number).collect();
        for number in late {
            let Some(asked) = self.asked.get_mut(&number) else { continue };
            if let Progress::Answered(answer) = asked.give_up(poll, number) {
                self.answered(poll, number, &answer);
            }
        }
        let idle: Vec<u32> = self
            .clients
            .iter()
            .filter(|(_, client)| client.is_idle(now))
            .map(|(number, _)| *number)
            .collect();
        for number in idle {
            if let Some(client) = self.clients.remove(&number) {
                poll.remove(client.fd());
            }
        }
        if !self.accepts {
            self.accepts = poll.add(&self.tcp, Token::Dns(TCP), Flags::IN).is_ok();
        }
        self.is_busy()
    }

    fn is_busy(&self) -> bool {
        !(self.asked.is_empty() && self.clients.is_empty() && self.accepts)
    }
}

impl Shim {
    /// Serves names to a container that was created.
    pub fn open_dns(&mut self, pid: i32, view: &str) -> Result<()> {
        if !view.is_empty() {
            self.dns = Some(Box::new(Dns::open(pid, Path::new(view), &self.poll)?));
        }
        Ok(())
    }

    /// The container has ended: its network namespace is held no longer.
    pub fn close_dns(&mut self) {
        if let Some(dns) = self.dns.take() {
            dns.close(&self.poll);
        }
    }

    pub fn on_dns(&mut self, number: u32, flags: Flags) {
        let mut scratch = self.take_scratch();
        let poll = &self.poll;
        let mut accepted = Ok(());
        if let Some(dns) = &mut self.dns {
            match number {
                UDP => dns.receive(poll, &mut scratch),
                TCP => accepted = dns.accept(poll),
                number if dns.asked.contains_key(&number) => dns.go_on(poll, number, flags, &mut scratch),
                number => dns.serve(poll, number, flags, &mut scratch),
            }
        }
        self.return_scratch(scratch);
        if let Err(error) = accepted {
            self.cannot_accept(&error);
        }
        self.look_after_dns();
    }

    pub fn on_dns_timer(&mut self) {
        let now = Instant::now();
        if self.dns.as_mut().is_some_and(|dns| dns.expire(&self.poll, now)) {
            self.timers.reset(limits::DNS_LOOK, Timer::Dns);
        }
    }

    fn look_after_dns(&mut self) {
        let busy = self.dns.as_ref().is_some_and(|dns| dns.is_busy());
        if busy && !self.timers.is_set(Timer::Dns) {
            self.timers.set(limits::DNS_LOOK, Timer::Dns);
        }
    }
}
