//! Every bound of the task layer, named in one place.

#![forbid(unsafe_code)]

use std::time::Duration;

/// Assign, and Create with its hooks: image mounts and hooks may be slow, a shim that hangs may not hold for ever.
pub const CREATE: Duration = Duration::from_secs(120);

/// Start, with its hooks.
pub const START: Duration = Duration::from_secs(60);

/// Kill, pause, resume, resize, update, statistics, pids, state.
pub const REQUEST: Duration = Duration::from_secs(10);

/// Delete: the shim may drain stdio for 10 s.
pub const DELETE: Duration = Duration::from_secs(30);

/// A checkpoint, and Create from one. Longer than the runtime gives criu, whose files are in use until it has ended.
pub const CHECKPOINT: Duration = Duration::from_secs(660);

/// How often, and after which pause each time, a shim that did not answer is asked again to end an exec whose caller has gone.
pub const UNDO_TRIES: usize = 60;
pub const UNDO_PAUSE: Duration = Duration::from_secs(5);

/// How long a verb waits for the verb before it on the same container.
pub const TURN: Duration = Duration::from_secs(60);

/// How long a shim may take to go after it was told to, before it is killed.
pub const SHIM_EXIT: Duration = Duration::from_secs(5);

/// How long a shim found at start-up may take to answer before the daemon goes on without it; it is asked again
/// in the background.
pub const RECONNECT: Duration = Duration::from_secs(3);

/// How long start-up waits for a shim that was being handed its bundle when the daemon died.
pub const ASSIGN_IN_FLIGHT: Duration = Duration::from_secs(3);

/// Shims that are reconnected at once at start-up.
pub const RECOVER_AT_ONCE: usize = 32;

/// Containers of a group that one shim has; further ones get another shim.
pub const CONTAINERS_PER_SHIM: usize = 200;

/// Calls that may wait for one shim.
pub const CALLS_PER_CONNECTION: usize = 1024;

/// Encoded requests that may wait until a shim reads, in bytes.
pub const QUEUED_BYTES: usize = 8 << 20;

/// Stdin that may wait until a shim reads, in bytes, before the client that sends it has to wait.
pub const STDIN_QUEUED_BYTES: usize = 256 << 10;

/// Stdin is cut into messages of at most this many bytes.
pub const STDIN_MESSAGE: usize = 64 << 10;

/// Stdin that a process may leave untaken, in bytes, before the client that sends it has to wait; the shim holds that
/// much without holding up others.
pub const STDIN_WINDOW: usize = 256 << 10;

/// Output on its way to an attached client, in bytes; then the process's output stops.
pub const ATTACH_WINDOW: usize = 512 << 10;

/// Messages of one stream that may wait until their receiver takes them.
pub const STREAM_MESSAGES: usize = 1024;

/// A write buffer that grew beyond this is given back when it is empty, in bytes.
pub const KEPT_BUFFER: usize = 16 << 10;

/// Bytes read from a shim at once; one buffer per worker thread.
pub const READ_BUFFER: usize = 64 << 10;

/// Commands of other shims' binaries that run at one time.
pub const SHIM_COMMANDS: usize = 16;

/// `start` of another shim's binary, the wait for its turn included.
pub const SHIM_START: Duration = Duration::from_secs(60);

/// `delete` of another shim's binary, the wait for its turn included.
pub const SHIM_DELETE: Duration = Duration::from_secs(30);

/// Shutdown of another shim; it may serve others still, and then does nothing.
pub const SHIM_SHUTDOWN: Duration = Duration::from_secs(3);

/// What is read of a shim command's stdout and stderr, in bytes.
pub const SHIM_OUTPUT: usize = 1 << 20;
pub const SHIM_STDERR: usize = 16 << 10;

/// How long the output of a command that ended is still waited for: what it left behind may hold it open.
pub const SHIM_OUTPUT_AFTER_EXIT: Duration = Duration::from_secs(1);

/// Shim binaries of which the daemon remembers how they want to be asked.
pub const KNOWN_BINARIES: usize = 64;

/// A line of another shim's log, in bytes; the rest of a longer one is the next.
pub const SHIM_LOG_LINE: usize = 8 << 10;

/// Events of one shim that are remembered, to know one that is sent again.
pub const RECENT_EVENTS: usize = 64;

/// Containers whose deletion is remembered, for what their shims say late.
pub const DEPARTED: usize = 256;

/// How long an end that is known waits for the shim's own event of it, before it is published in its place.
pub const EVENT_GRACE: Duration = Duration::from_secs(3);

/// How long a deletion waits for the shim's own event of it.
pub const DELETE_EVENT: Duration = Duration::from_secs(1);

/// The wait for a process of another shim: as long as it runs.
pub const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The longest OCI `config.json`, in bytes: it must fit one ttrpc message of the API as well.
pub const SPEC: usize = 4 << 20;
