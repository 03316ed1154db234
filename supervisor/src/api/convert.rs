//! Between wire types and the daemon's own, where several services need it.

use crate::error::{Error, Result};
pub use crate::messages::{descriptor, from_descriptor, from_size, from_timestamp, size, timestamp};

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
