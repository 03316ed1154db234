//! The server over loopback, with processes that are made up here.

mod exec;
mod forward;
mod hostile;
mod sockets;
mod support;
