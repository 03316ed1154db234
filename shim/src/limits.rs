//! Every bound of the shim in one place. What meets one gets an error that names it, or waits.

use std::time::Duration;

/// Connections open at once; further ones are closed at accept.
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

/// How long output is awaited after its process has exited: a grandchild may hold the pipe for ever. Also how
/// long the exit of the container's first process is held back for the exits of its other processes.
pub const DRAIN: Duration = Duration::from_secs(10);

/// How often a write to a full disk is tried again.
pub const RETRY: Duration = Duration::from_millis(200);

/// After so long without work, memory is given back to the kernel.
pub const IDLE: Duration = Duration::from_millis(300);

/// An assigned shim without container and without connection leaves after so long.
pub const LONELY: Duration = Duration::from_secs(10);

/// How long the last answers may take to be sent before the shim leaves.
pub const LEAVE: Duration = Duration::from_secs(1);

/// The longest line, in bytes, that the log holds in one record; longer ones are cut.
pub const LOG_LINE: usize = 16 << 10;

/// Size at which a log is rotated if its URI does not say, in bytes.
pub const LOG_SIZE: u64 = 10 << 20;

/// Files that a rotated log keeps if its URI does not say, the current one included.
pub const LOG_FILES: u32 = 5;
