//! The shim itself: its state and its one loop.
//!
//! What always holds: the loop is one thread, and nothing in it waits for anybody but the kernel (epoll) and the runtime
//! library's own steps, which go to a thread of their own where they run hooks or criu, and in the shim of a pod where one
//! container could hold up the others; answers go out together at the end of a turn; the loss of any connection changes nothing for
//! the container.

use std::collections::BTreeMap;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use crate::commands::Commands;
use crate::connection::{Connection, Open, Progress};
use crate::dns::Dns;
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::poll::{Channel, Flags, Poll, Token};
use crate::ports::Ports;
use crate::process::{Caller, Process};
use crate::publish::Publisher;
use crate::rootfs::HostRootfs;
use crate::sandbox::Sandbox;
use crate::signals::Signals;
use crate::stdio::Owner;
use crate::timers::{Timer, Timers};
use crate::{bundle, events::EventLog, files, limits, report, sys};

/// Where a container is on disk.
pub struct Place {
    pub bundle: PathBuf,
    /// The open bundle folder: every file in it is reached through this.
    pub folder: OwnedFd,
}

impl Place {
    fn is_gone(&self) -> bool {
        rustix::fs::fstat(&self.folder).is_ok_and(|stat| stat.st_nlink == 0)
    }
}

/// Who started this shim, and by which protocol.
#[derive(Debug, PartialEq, Eq)]
pub enum Origin {
    /// Our own daemon, for one container.
    Pool,
    /// Our own daemon, for the containers of one pod.
    Pod,
    /// Any containerd, by `start`: further containers of a pod may come, and this is the socket's path.
    Foreign { socket: PathBuf },
}

/// Whose shim this is.
pub struct Assigned {
    pub id: String,
    pub namespace: String,
    pub place: Rc<Place>,
    pub listener: UnixListener,
    pub origin: Origin,
}

/// A container once it was created.
pub struct Task {
    pub place: Rc<Place>,
    /// The serial number of its first process.
    pub init: u32,
    /// `None` after a deletion that failed halfway.
    pub driver: Option<Driver>,
    /// The cgroup's path, to try such a deletion again; empty if another runtime owns it.
    pub cgroup: String,
    /// The rootfs at `<bundle>/rootfs` on the host, if it was mounted there.
    pub rootfs: Option<HostRootfs>,
    /// The folder of state that `Root` of runc's options asked for.
    pub state: Option<PathBuf>,
    /// Who owns the pipes of its processes.
    pub owner: Owner,
    /// Where criu works; empty: the runtime's choice.
    pub criu_work: String,
    /// Where criu is, if the options say.
    pub criu: String,
    pub paused: bool,
    /// Whether processes outlive the first one, because they share someone else's pid namespace.
    pub shares_pids: bool,
    /// The container's `oom_score_adj`, which its execs share.
    pub oom_score: Option<i32>,
    /// Out-of-memory kills that were reported.
    pub ooms: u64,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// In the daemon's pool: leaves when the daemon's connection ends.
    Waiting,
    Serving,
    /// Asked to leave: the last answers are on their way.
    Leaving,
    Done,
}

/// All state of the process.
pub struct Shim {
    pub poll: Poll,
    pub timers: Timers,
    pub signals: Signals,
    pub life: Life,
    pub connections: BTreeMap<u32, Connection>,
    next_connection: u32,
    pub assigned: Option<Assigned>,
    /// By container id; there are several in a pod's shim only.
    pub tasks: BTreeMap<String, Task>,
    pub sandbox: Option<Sandbox>,
    /// Answers the container's questions for names.
    pub dns: Option<Box<Dns>>,
    /// Ports of the host that lead to the container.
    pub ports: Option<Box<Ports>>,
    /// Sends events to a foreign daemon.
    pub publisher: Option<Box<Publisher>>,
    /// By serial number.
    pub processes: BTreeMap<u32, Process>,
    /// What other OCI runtimes are doing for them.
    pub commands: Commands,
    pub next_serial: u32,
    pub events: EventLog,
    scratch: Vec<u8>,
    last_work: Option<Instant>,
    /// The value that this process's `oom_score_adj` had before it protected itself.
    pub inherited_oom_score: Option<i32>,
    /// Whether it was said that descriptors are short.
    pub was_short: bool,
}

impl Shim {
    /// A shim of the pool; `daemon` is the socket that it was started with.
    pub fn waiting(daemon: OwnedFd) -> Result<Self> {
        let mut shim = Self::new()?;
        shim.take_connection(UnixStream::from(daemon))?;
        Ok(shim)
    }

    /// A shim that nobody knows yet.
    pub fn new() -> Result<Self> {
        let poll = Poll::new()?;
        let signals = Signals::block()?;
        sys::stop_ignoring_signals();
        files::raise();
        poll.add(&signals, Token::Signals, Flags::IN)?;
        Ok(Self {
            poll,
            timers: Timers::default(),
            signals,
            life: Life::Waiting,
            connections: BTreeMap::new(),
            next_connection: 0,
            assigned: None,
            tasks: BTreeMap::new(),
            sandbox: None,
            dns: None,
            ports: None,
            publisher: None,
            processes: BTreeMap::new(),
            commands: Commands::default(),
            next_serial: 0,
            events: EventLog::default(),
            scratch: Vec::new(),
            last_work: None,
            inherited_oom_score: None,
            was_short: false,
        })
    }

    /// Runs until the shim is no longer needed.
    pub fn run(&mut self) -> Result<()> {
        while self.life != Life::Done {
            let ready = self.poll.wait(self.timers.timeout())?;
            if !ready.is_empty() {
                self.note_work();
            }
            for (token, flags) in ready {
                self.on_ready(token, flags);
            }
            while let Some(timer) = self.timers.due() {
                self.on_timer(timer);
            }
            self.flush();
        }
        Ok(())
    }

    fn on_ready(&mut self, token: Token, flags: Flags) {
        match token {
            Token::Signals => self.reap(),
            Token::Listener => self.accept(),
            Token::Oom(serial) => self.on_oom(serial),
            Token::Publisher => self.on_publisher(flags),
            Token::Connection(id) => self.on_connection(id, flags),
            Token::Command(number) => self.on_command(number),
            Token::Dns(number) => self.on_dns(number, flags),
            Token::Port(number) => self.on_port(number, flags),
            Token::Stdio(serial, Channel::Source(stream)) => self.on_output(serial, stream),
            Token::Stdio(serial, Channel::Sink(stream)) => self.on_room(serial, stream),
            Token::Stdio(serial, Channel::Stdin) => self.feed_input(serial),
            Token::Stdio(serial, Channel::StdinFifo) => self.on_stdin_fifo(serial),
        }
    }

    fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Drain(serial) => self.on_drain_timeout(serial),
            Timer::Retry(serial) => self.retry_output(serial),
            Timer::Deadline { connection, stream } => self.on_deadline(Caller { connection, stream }),
            Timer::Idle => self.on_idle(),
            Timer::Lonely => self.leave_if_lonely(),
            Timer::Leave => self.life = Life::Done,
            Timer::Publish => self.publish(),
            Timer::Logger(serial) => self.end_logger(serial),
            Timer::Sandbox => self.kill_sandbox(),
            Timer::Command(number) => self.on_command_timeout(number),
            Timer::Accept => self.accept_again(),
            Timer::Dns => self.on_dns_timer(),
            Timer::Ports => self.on_ports_timer(),
        }
    }

    /// A buffer for one read; give it back with [`Shim::return_scratch`].
    pub fn take_scratch(&mut self) -> Vec<u8> {
        let mut scratch = mem::take(&mut self.scratch);
        scratch.resize(limits::CHUNK, 0);
        scratch
    }

    pub fn return_scratch(&mut self, scratch: Vec<u8>) {
        self.scratch = scratch;
    }

    fn note_work(&mut self) {
        if self.last_work.replace(Instant::now()).is_none() {
            self.timers.set(limits::IDLE, Timer::Idle);
        }
    }

    fn on_idle(&mut self) {
        let Some(last) = self.last_work else { return };
        if last.elapsed() < limits::IDLE {
            self.timers.set(limits::IDLE, Timer::Idle);
            return;
        }
        self.last_work = None;
        self.scratch = Vec::new();
        self.processes.values_mut().for_each(|process| process.io.shrink());
        sys::trim_memory();
        sys::trim_stack();
    }

    fn accept(&mut self) {
        let Some(assigned) = &self.assigned else { return };
        // One a turn: what else waits is reported again.
        let socket = match assigned.listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if files::is_short(&error) => return self.pause_accepting(&error),
            Err(_) => return,
        };
        if self.connections.len() >= limits::CONNECTIONS * (self.tasks.len() + self.commands.makings()).max(1)
        {
            return;
        }
        // What fails here is that client's loss alone; it sees its connection closed.
        let _ = self.take_connection(socket);
    }

    /// Serves one more connection, if its other end is root or this user.
    fn take_connection(&mut self, socket: UnixStream) -> Result<()> {
        let peer =
            rustix::net::sockopt::socket_peercred(&socket).map_err(Error::system("ask who connects"))?;
        if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
            return Ok(());
        }
        let connection = Connection::new(socket)
            .map_err(|source| Error::System { doing: "take over a connection", source })?;
        let id = self.next_connection;
        self.next_connection = self.next_connection.wrapping_add(1);
        self.poll.add(connection.fd(), Token::Connection(id), Flags::IN)?;
        self.connections.insert(id, connection);
        Ok(())
    }

    fn on_connection(&mut self, id: u32, flags: Flags) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if flags.contains(Flags::OUT) {
            connection.has_room = true;
        }
        let ended = flags.intersects(Flags::HUP | Flags::ERR);
        if !(flags.contains(Flags::IN) || ended) {
            return;
        }
        let mut scratch = self.take_scratch();
        let progress = match self.connections.get_mut(&id) {
            Some(connection) if connection.reading => connection.receive(&mut scratch),
            _ => Progress::Done,
        };
        self.return_scratch(scratch);
        self.handle_buffered(id);
        if progress == Progress::Gone || (ended && !self.connections.get(&id).is_some_and(|c| c.reading)) {
            self.drop_connection(id);
        }
    }

    /// Handles every request that is buffered, in order, until the connection must wait.
    fn handle_buffered(&mut self, id: u32) {
        while let Some(incoming) = self.connections.get_mut(&id).and_then(Connection::next) {
            self.on_incoming(id, incoming);
        }
    }

    fn drop_connection(&mut self, id: u32) {
        let Some(connection) = self.connections.remove(&id) else { return };
        self.poll.remove(connection.fd());
        for open in connection.streams.values() {
            if let Open::Attached(serial) = open {
                self.detach_connection(*serial, id);
            }
        }
        for process in self.processes.values_mut() {
            process.waiters.retain(|caller| caller.connection != id);
            process.deleters.retain(|caller| caller.connection != id);
        }
        self.forget_sandbox_callers(|caller| caller.connection == id);
        self.commands.forget(|caller| caller.connection == id);
        if self.life == Life::Waiting {
            self.life = Life::Done;
        }
        self.watch_loneliness();
    }

    /// An assigned shim whose daemon went away before it created anything must not stay for ever, nor one whose bundle is gone.
    pub fn watch_loneliness(&mut self) {
        if self.is_lonely() {
            self.timers.reset(limits::LONELY, Timer::Lonely);
        }
    }

    fn leave_if_lonely(&mut self) {
        if self.life != Life::Serving || !self.is_lonely() {
            return;
        }
        let is_empty = self.tasks.is_empty() && self.commands.is_idle();
        if is_empty && (self.sandbox.is_none() || self.bundle_is_gone()) {
            return self.leave();
        }
        self.abandon();
        self.watch_loneliness();
    }

    fn is_lonely(&self) -> bool {
        self.connections.is_empty()
    }

    /// Where somebody has removed the bundle, and with it what leads to this shim, nobody will ever ask for the containers again,
    /// and others of their names may be made. They end.
    fn abandon(&mut self) {
        let all = self.bundle_is_gone();
        let has_own = self.assigned.as_ref().is_some_and(|assigned| assigned.origin == Origin::Pod);
        let is_lost = |task: &Task| all || (has_own && task.place.is_gone());
        let lost = self.tasks.iter().filter(|(_, task)| is_lost(task));
        let lost: Vec<(String, u32)> = lost.map(|(id, task)| (id.clone(), task.init)).collect();
        for (id, init) in lost {
            report::error(&id, &"the bundle was removed, and nobody is connected: what runs in it is ended");
            self.delete_unasked(init);
        }
    }

    fn bundle_is_gone(&self) -> bool {
        self.assigned.as_ref().is_some_and(|assigned| assigned.place.is_gone())
    }

    /// Nobody needs this shim any more: it leaves once what it still has to say was heard.
    pub fn leave(&mut self) {
        let Some(assigned) = &self.assigned else { return };
        if let Origin::Foreign { socket } = &assigned.origin {
            let _ = std::fs::remove_file(socket);
        }
        bundle::remove(&assigned.place.folder, bundle::SOCKET);
        bundle::remove(&assigned.place.folder, bundle::SHIM_PID);
        self.life = Life::Leaving;
        let wait = if self.publisher.is_some() { limits::LEAVE_PUBLISHING } else { limits::LEAVE };
        self.timers.set(wait, Timer::Leave);
    }

    /// Sends what every connection has to get, and lets those go on that had to wait for it.
    fn flush(&mut self) {
        loop {
            let mut gone = Vec::new();
            let mut relieved = Vec::new();
            for (id, connection) in &mut self.connections {
                let was_full = connection.is_full();
                if connection.flush() == Progress::Gone || connection.waiting() > limits::STUCK {
                    gone.push(*id);
                    continue;
                }
                let freed = was_full && !connection.is_full();
                if freed || (connection.is_stalled && !connection.must_wait()) {
                    relieved.push(*id);
                }
                watch_connection(&self.poll, *id, connection);
            }
            gone.iter().for_each(|id| self.drop_connection(*id));
            if relieved.is_empty() {
                break;
            }
            relieved.iter().for_each(|id| self.relieve(*id));
        }
        let sent = self.connections.values().all(|connection| connection.waiting() == 0);
        let published = self.publisher.as_ref().is_none_or(|publisher| publisher.is_idle(&self.events));
        if self.life == Life::Leaving && sent && published {
            self.life = Life::Done;
        }
    }

    fn relieve(&mut self, id: u32) {
        self.handle_buffered(id);
        let Some(connection) = self.connections.get(&id) else { return };
        let attached: Vec<u32> = connection
            .streams
            .values()
            .filter_map(|open| match open {
                Open::Attached(serial) => Some(*serial),
                _ => None,
            })
            .collect();
        attached.iter().for_each(|serial| self.resume_output(*serial));
    }

    /// Whether it has the containers of a pod of our own daemon's.
    pub fn is_pods(&self) -> bool {
        self.assigned.as_ref().is_some_and(|assigned| assigned.origin == Origin::Pod)
    }

    /// The container that this shim serves.
    pub fn assigned(&self) -> Result<&Assigned> {
        self.assigned.as_ref().ok_or(Error::NotAssigned)
    }

    /// Sets the shim's own score for the out-of-memory killer; its container keeps the daemon's.
    pub fn protect(&mut self) {
        self.inherited_oom_score = sys::raise_oom_score();
    }
}

/// Watches a connection for what it can go on with.
fn watch_connection(poll: &Poll, id: u32, connection: &mut Connection) {
    let reading = !connection.must_wait();
    let writing = connection.waiting() > 0;
    if (reading, writing) == (connection.reading, connection.writing) {
        return;
    }
    let mut flags = Flags::empty();
    flags.set(Flags::IN, reading);
    flags.set(Flags::OUT, writing);
    if poll.change(connection.fd().as_fd(), Token::Connection(id), flags).is_ok() {
        (connection.reading, connection.writing) = (reading, writing);
    }
}
