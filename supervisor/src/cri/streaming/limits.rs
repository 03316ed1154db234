//! The bounds of streaming, in one place.

#![forbid(unsafe_code)]

use std::time::Duration;

/// URLs that were given out and not used yet.
pub const TOKENS: usize = 1000;
/// How long such a URL may be used.
pub const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Longest request line and headers in bytes.
pub const REQUEST: usize = 16 * 1024;
/// Most headers of a request.
pub const REQUEST_HEADERS: usize = 64;
/// Bytes of requests that were granted and wait for their clients.
pub const TOKEN_BYTES: usize = 16 << 20;
/// Connections that have sent no token yet.
pub const STRANGERS: usize = 64;
/// Until a connection must have sent its request.
pub const REQUEST_TIME: Duration = Duration::from_secs(5);
/// How long a request waits for a place among those that are served.
pub const PLACE: Duration = Duration::from_secs(30);
/// Until an upgrade that was answered must be there.
pub const HANDSHAKE: Duration = Duration::from_secs(30);
/// Until a client must have opened the streams that it asked for.
pub const CREATION: Duration = Duration::from_secs(30);
/// Open streams of a connection.
pub const STREAMS: usize = 256;
/// Streams that were opened and not looked at yet.
pub const ARRIVALS: usize = 32;
/// Bytes that may wait to be taken: of a connection's direction in any case, of one at most, and of all connections beyond what each has
/// in any case.
pub const OWN: usize = 64 << 10;
pub const CONNECTION: usize = 1 << 20;
pub const WAITING: usize = 64 << 20;
/// What each piece counts besides its bytes.
pub const PIECE_COST: usize = 256;
/// Pieces from the client that wait in a stream: as many as a connection has room for.
pub const INLET: usize = CONNECTION / PIECE_COST;
/// Orders to a connection's writer that wait.
pub const OUT: usize = 8;
/// Longest piece of data in bytes, in both directions.
pub const PIECE: usize = 32 * 1024;
/// Longest message of a WebSocket in bytes, as kubelets take.
pub const MESSAGE: usize = 32 * 1024 * 1024;
/// So much of a message does not count against [`WAITING`].
pub const MESSAGE_FREE: usize = 64 << 10;
/// Ports that one WebSocket may forward: each takes two of its 256 channels.
pub const PORTS: usize = 64;
/// Between two looks whether a peer hung up whose data nobody takes.
pub const PROBE: Duration = Duration::from_secs(1);
/// How long a client may take to close after everything was said.
pub const LINGER: Duration = Duration::from_secs(5);
/// How long the last words may take.
pub const GOODBYE: Duration = Duration::from_secs(1);
/// How long a terminal waits for the client's window size before its process starts.
pub const FIRST_SIZE: Duration = Duration::from_millis(50);
/// Longest description of a window size in bytes.
pub const SIZE: usize = 1024;
/// Half-closed forwards: how long a client may send nothing, after the pod has ended its direction, before its own is over; and one that
/// cannot end it by itself.
pub const HALF_CLOSED: Duration = Duration::from_secs(10);
pub const HALF_CLOSED_CHANNEL: Duration = Duration::from_secs(1);
