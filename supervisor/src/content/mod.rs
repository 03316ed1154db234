//! Blobs: ingested under a reference, committed under their digest, shared by all namespaces that have a record.
//!
//! What always holds: a committed blob's file is complete, has the digest that is its name, and was fsynced
//! before it got it; its record is written after its name, and removed before it. Where a plugin keeps the bytes, a record's
//! file may be there alone.

pub mod digest;
mod ingest;
mod message;
mod reader;
mod reconcile;
mod remote;
pub mod store;
mod writer;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use digest::{Digest, Hasher};
pub use ingest::IngestStatus;
pub use reader::Blob;
pub use store::ContentStore;
pub use writer::{CommitOptions, Parts, Writer, WriterOptions};

use crate::labels::Labels;

/// What is kept of a blob in one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRecord {
    pub size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A blob as a namespace sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    pub digest: Digest,
    pub size: u64,
    pub labels: Labels,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What a manifest or an image says about a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}
