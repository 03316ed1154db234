//! The bounds of the command, each with what happens there.

use std::time::Duration;

/// Longest container id; a longer one is refused.
pub const ID: usize = 1024;
/// Largest config.json and process.json, in bytes; larger ones are refused.
pub const CONFIG: u64 = 16 << 20;
/// Largest state.json, in bytes; a larger one is damaged.
pub const STATE: u64 = 4 << 20;
/// How long a command waits for another one that works on the same container; then it fails.
pub const LOCK: Duration = Duration::from_secs(60);
/// How long `delete --force` waits for a killed process.
pub const KILL: Duration = Duration::from_secs(10);
/// Most descriptors that `--preserve-fds` and `LISTEN_FDS` pass on together.
pub const PRESERVE_FDS: u32 = 10_000;
/// How long a console or pidfd socket's owner may take to accept us.
pub const SOCKET: Duration = Duration::from_secs(10);
/// Longest time between two looks of `events`; a longer one is refused.
pub const INTERVAL: Duration = Duration::from_secs(365 * 86_400);
/// Most that a message of a container to its notify socket is read of, in bytes.
pub const NOTIFY: usize = 4096;
