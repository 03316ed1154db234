//! Images: their records, and how they come here.

pub mod auth;
pub mod detached;
pub mod fetch;
pub mod graph;
pub mod hosts;
pub mod manifest;
pub mod platform;
pub mod pull;
pub mod reference;
pub mod store;
pub mod unpack;
