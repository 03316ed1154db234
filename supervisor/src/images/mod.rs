//! Images: their records, and how they come here and go.

pub mod archive;
pub mod auth;
pub mod detached;
pub mod export;
pub mod fetch;
pub mod graph;
pub mod held;
pub mod hosts;
pub mod import;
pub mod login;
pub mod manifest;
mod message;
pub mod names;
pub mod platform;
pub mod pull;
pub mod push;
pub mod reference;
pub mod store;
pub mod track;
pub mod unpack;
