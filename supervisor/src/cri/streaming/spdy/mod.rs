//! SPDY/3.1, the server's side of it: what kubelets, crictl and kubectl carry exec, attach and port-forward over.
//!
//! What always holds: everything of a connection has a bound and ends with it; what the peer sends can end its own connection, never more.
//! Kubernetes' own clients neither mind nor open flow-control windows: credit is given to every peer, and asked of those only that have spoken
//! of windows themselves. A stream that is not read holds up its connection once that holds as much as it may, as a pipe does.

#![forbid(unsafe_code)]

#[cfg(test)]
pub mod client;
mod connection;
mod dictionary;
mod driver;
pub mod frame;
pub mod headers;

pub use connection::{Connection, Credit, Stream, Writer};
pub use driver::open;
