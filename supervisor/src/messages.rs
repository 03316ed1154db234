//! Between the daemon's own types and messages, for what is answered or kept as one.

use jiff::Timestamp;
use longshore_proto::containerd::types;

use crate::content::{Descriptor, Digest};
use crate::error::{Error, Result};

pub fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

pub fn from_timestamp(at: prost_types::Timestamp) -> Result<Timestamp> {
    Timestamp::new(at.seconds, at.nanos)
        .map_err(|error| Error::invalid("timestamp", format!("is out of range: {error}")))
}

/// A time that a kept record has.
pub fn recorded(at: Option<prost_types::Timestamp>) -> Result<Timestamp> {
    from_timestamp(at.ok_or_else(|| Error::invalid("timestamp", "is missing"))?)
}

pub fn descriptor(descriptor: Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: descriptor.media_type,
        digest: descriptor.digest.to_string(),
        size: size(descriptor.size),
        annotations: descriptor.annotations.into_iter().collect(),
    }
}

pub fn from_descriptor(descriptor: types::Descriptor) -> Result<Descriptor> {
    Ok(Descriptor {
        media_type: descriptor.media_type,
        digest: Digest::parse(&descriptor.digest)?,
        size: from_size("descriptor size", descriptor.size)?,
        annotations: descriptor.annotations.into_iter().collect(),
    })
}

pub fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

pub fn from_size(what: &'static str, bytes: i64) -> Result<u64> {
    u64::try_from(bytes).map_err(|_| Error::invalid(what, format!("is negative: {bytes}")))
}
