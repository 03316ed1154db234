//! WebSockets: channels in messages whose first byte is the channel's number, and tunnels of SPDY.
//!
//! What always holds: as for SPDY (see [`super::spdy`]).

#![forbid(unsafe_code)]

mod channels;
mod driver;
pub mod handshake;
mod meter;
mod tunnel;

pub use channels::{Channels, Codec, Writer};
pub use driver::open;
pub use tunnel::tunnel;
