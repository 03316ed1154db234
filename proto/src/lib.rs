//! The wire formats longshore speaks: containerd's gRPC and ttrpc interface, the engine API that the
//! command line uses, and the shim's own extension. Generated code lives here and nowhere else.

#![forbid(unsafe_code)]

pub mod nfnetlink;
pub mod ttrpc;

/// Everything generated, nested by protobuf package.
#[allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::unwrap_used, missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/all.rs"));
}

pub use generated::*;

/// The encoded `FileDescriptorSet` of all interfaces, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Paths of all methods whose request is one message (the answer may be a stream), sorted.
pub const UNARY: &[&str] = &include!(concat!(env!("OUT_DIR"), "/unary.rs"));
