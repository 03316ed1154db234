//! Every bound of the shim in one place. What meets one gets an error that names it, or waits.

use std::time::Duration;

/// Connections open at once for each container that is there or being made; further ones are closed at accept.
pub const CONNECTIONS: usize = 64;

/// Streams open at once on one connection: waits, attached clients, subscriptions.
pub const STREAMS: usize = 1024;

/// Processes added to the container by exec that were not deleted yet.
pub const EXECS: usize = 1024;

/// Characters of a container's, exec's or namespace's name.
pub const NAME: usize = 76;

/// Bytes of `config.json`.
pub const CONFIG: u64 = 16 << 20;

/// Bytes that wait to be sent on one connection before the shim stops reading requests and output for it.
pub const WAITING_OUTPUT: usize = 1 << 20;

/// A connection on which so many bytes wait to be sent is given up: only events can pile up beyond
/// [`WAITING_OUTPUT`], and who reads them again gets them by their numbers.
pub const STUCK: usize = 8 << 20;

/// Bytes of stdin that wait for one process before the shim stops reading where they come from.
pub const WAITING_STDIN: usize = 1 << 20;

/// Bytes moved by one read of a pipe or socket.
pub const CHUNK: usize = 64 << 10;

/// Bytes read from one source before the others get their turn.
pub const TURN: usize = 1 << 20;

/// Events kept for a daemon that was away, besides those of the container's first process, which are all kept.
pub const EVENTS: usize = 1024;

/// Containers of a pod that are deleted, and whose events are kept all the same.
pub const DELETED: usize = 16;

/// How long output is awaited after its process has exited: a grandchild may hold the pipe for ever. Also how
/// long the exit of the container's first process is held back for the exits of its other processes.
pub const DRAIN: Duration = Duration::from_secs(10);

/// How often a write to a full disk is tried again.
pub const RETRY: Duration = Duration::from_millis(200);

/// How often a FIFO is looked at whose reader comes only after the process has ended.
pub const UNREAD: Duration = Duration::from_millis(10);

/// How long after the end of a process the reader of its FIFO may come at the latest.
pub const READER: Duration = Duration::from_secs(3);

/// After so long without work, memory is given back to the kernel.
pub const IDLE: Duration = Duration::from_millis(300);

/// An assigned shim without connection looks so often whether anybody can still come for it, and leaves if not.
pub const LONELY: Duration = Duration::from_secs(10);

/// How long the last answers may take to be sent before the shim leaves.
pub const LEAVE: Duration = Duration::from_secs(1);

/// How long a shim without containers stays to bring its last events to a daemon that does not take them.
pub const LEAVE_PUBLISHING: Duration = Duration::from_secs(30);

/// The first and the longest pause between two attempts to reach the daemon with an event.
pub const PUBLISH_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How long the daemon may take to confirm an event before it is sent again over a new connection.
pub const PUBLISH_ANSWER: Duration = Duration::from_secs(10);

/// How often an event is sent that the daemon answers with an error.
pub const PUBLISH_REFUSALS: u32 = 20;

/// How long a logging program may take to say that it is ready.
pub const LOGGER_READY: Duration = Duration::from_secs(10);

/// How long a logging program may go on after the end of its streams when its container is deleted, before SIGTERM.
pub const LOGGER_GRACE: Duration = Duration::from_secs(1);

/// How long after SIGTERM a logging program gets SIGKILL.
pub const LOGGER_STOP: Duration = Duration::from_secs(12);

/// How long one command of another OCI runtime may take.
pub const RUNTIME_COMMAND: Duration = Duration::from_secs(60);

/// How long a command that was killed may take to end before it is given up.
pub const RUNTIME_END: Duration = Duration::from_secs(5);

/// Commands of other OCI runtimes that run at once; what kills may use as many again. Further ones wait.
pub const COMMANDS: usize = 64;

/// Commands that wait to be run, work that waits for a thread, and requests that wait for their turn with a process: so many of
/// each in one shim, however many containers it has.
pub const COMMANDS_WAITING: usize = 1024;

/// Bytes of the requests that wait for their turn with a process, of all containers of a shim.
pub const WAITING_REQUESTS: usize = 1 << 20;

/// How long a checkpoint or restore by another OCI runtime may take.
pub const RUNTIME_CHECKPOINT: Duration = Duration::from_secs(600);

/// Stack of a thread in which the runtime library is at work, in bytes.
pub const THREAD_STACK: usize = 512 << 10;

/// Threads in one shim; further work waits for one of them to end. Each container may have something that hangs, and something else
/// is still done for it.
pub const THREADS: usize = 2 * CONTAINERS;

/// Bytes that are read of the log of a command of another OCI runtime.
pub const RUNTIME_TEXT: u64 = 1 << 20;

/// Bytes that are kept of what such a command says on stderr, or on stdout if that was asked for.
pub const RUNTIME_SAID: usize = 64 << 10;

/// Bytes on the stdin of `start` and `-info`.
pub const BOOTSTRAP: u64 = 10 << 20;

/// Containers in one shim: those of a pod.
pub const CONTAINERS: usize = 256;

/// How long the containers of a sandbox get between SIGTERM and SIGKILL if the request does not say.
pub const SANDBOX_STOP: Duration = Duration::from_secs(10);

/// The longest line, in bytes, that the log holds in one record; longer ones are cut.
pub const LOG_LINE: usize = 16 << 10;

/// Size at which a log is rotated if its URI does not say, in bytes.
pub const LOG_SIZE: u64 = 10 << 20;

/// Most bytes that a log may keep of what a disk refuses before it drops lines, where it was asked to.
pub const LOG_BUFFER: u64 = 64 << 20;

/// Files that a rotated log keeps if its URI does not say, the current one included.
pub const LOG_FILES: u32 = 5;

/// Bytes of a file with the names of a network.
pub const DNS_FILE: u64 = 4 << 20;

/// Networks in which one container's names are looked up.
pub const DNS_TABLES: usize = 64;

/// Servers that one question is passed on to.
pub const DNS_SERVERS: usize = 3;

/// Questions of one container that are passed on and not answered yet; further ones fail.
pub const DNS_ASKED: usize = 128;

/// Connections over which one container asks for names.
pub const DNS_CLIENTS: usize = 32;

/// Questions of one such connection that are passed on and not answered yet; further ones wait.
pub const DNS_CLIENT_ASKED: usize = 32;

/// Bytes of answers that wait on such a connection.
pub const DNS_OUTPUT: usize = 256 << 10;

/// Bytes of the host's resolv.conf.
pub const RESOLV_CONF: u64 = 1 << 20;

/// Questions taken from one socket in one turn of the loop.
pub const DNS_TURN: usize = 64;

/// How long one server may take to answer.
pub const DNS_PATIENCE: Duration = Duration::from_secs(2);

/// How long a connection without questions is kept.
pub const DNS_IDLE: Duration = Duration::from_secs(10);

/// How often questions and connections are looked after while there are some.
pub const DNS_LOOK: Duration = Duration::from_millis(250);

/// Ports of the host that one container holds.
pub const PORTS: usize = 4096;

/// Connections that are passed on from ports of the host to one container; further ones wait to be accepted.
pub const PORT_CONNECTIONS: usize = 1024;

/// How long a connection that is passed on may carry nothing; what is dead is noticed by [`PORT_KEEPALIVE`] long before.
pub const PORT_IDLE: Duration = Duration::from_secs(12 * 3600);

/// How long an end of such a connection may go on talking once the other takes nothing more and has said all.
pub const PORT_LINGER: Duration = Duration::from_secs(60);

/// A connection that is passed on and carries nothing for so long is asked whether its other end is still there: so often, after
/// this pause each time, before it is given up.
pub const PORT_KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(120), Duration::from_secs(30), 6);

/// How often connections that are passed on are looked after.
pub const PORT_CONNECTION_LOOK: Duration = Duration::from_secs(60);

/// How long nothing is accepted once descriptors are short.
pub const SHORT: Duration = Duration::from_secs(1);

/// Senders of datagrams whose answers find back to them, of one container; the one that was quiet longest gives way.
pub const PORT_SESSIONS: usize = 1024;

/// How long a sender of datagrams is remembered.
pub const PORT_SESSION: Duration = Duration::from_secs(90);

/// How often senders of datagrams are looked after while there are some.
pub const PORT_LOOK: Duration = Duration::from_secs(10);

/// Datagrams taken from one socket in one turn of the loop.
pub const PORT_TURN: usize = 64;
