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
/// Until a request must be there, and then its upgrade.
pub const HANDSHAKE: Duration = Duration::from_secs(30);
/// Until a client must have opened the streams that it asked for.
pub const CREATION: Duration = Duration::from_secs(30);
/// Open streams of a connection.
pub const STREAMS: usize = 256;
/// Streams that were opened and not looked at yet.
pub const ARRIVALS: usize = 32;
/// Pieces from the client that wait in a stream.
pub const INLET: usize = 4;
/// Orders to a connection's writer that wait.
pub const OUT: usize = 8;
/// Longest piece of data in bytes, in both directions.
pub const PIECE: usize = 32 * 1024;
/// Longest message of a WebSocket in bytes, as kubelets take.
pub const MESSAGE: usize = 32 * 1024 * 1024;
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
/// Half-closed forwards: how long a client may take to end its direction after the pod has ended its own.
pub const HALF_CLOSED: Duration = Duration::from_secs(1);
