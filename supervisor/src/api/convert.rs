//! Between wire types and the daemon's own, where several services need it.

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

/// The keys of an update mask that names only labels: `None` for all labels.
pub fn label_mask(object: &'static str, mask: Option<prost_types::FieldMask>) -> Result<Option<Vec<String>>> {
    let paths = mask.map(|mask| mask.paths).unwrap_or_default();
    let mut keys = Vec::new();
    for path in &paths {
        match path.strip_prefix("labels.") {
            Some(key) => keys.push(key.to_owned()),
            None if path == "labels" => return Ok(None),
            None => {
                return Err(Error::invalid(
                    "update mask",
                    format!("{object} has no field {path:?} that can be updated"),
                ));
            }
        }
    }
    Ok((!paths.is_empty()).then_some(keys))
}
