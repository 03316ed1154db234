//! Labels: their limits, and how an update's field mask changes them.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

pub type Labels = BTreeMap<String, String>;

/// A label's key and value together, in bytes.
pub const MAX_LABEL: usize = 4096;
/// Labels of one object.
pub const MAX_LABELS: usize = 1024;

/// Drops labels without a value, which are none by the interface, and refuses what is over the limits.
pub fn settle(labels: &mut Labels) -> Result<()> {
    labels.retain(|_, value| !value.is_empty());
    check(labels)
}

/// Refuses labels over the limits, naming the first.
pub fn check(labels: &Labels) -> Result<()> {
    if labels.len() > MAX_LABELS {
        return Err(Error::ResourceExhausted {
            what: format!("{} labels", labels.len()),
            limit: "labels of one object",
            max: MAX_LABELS as u64,
        });
    }
    for (key, value) in labels {
        let length = key.len() + value.len();
        if length > MAX_LABEL {
            return Err(Error::invalid(
                format!("label {:?}", key.chars().take(64).collect::<String>()),
                format!("key and value are {length} bytes, the limit is {MAX_LABEL}"),
            ));
        }
        if key.contains('\0') || value.contains('\0') {
            return Err(Error::invalid("label", "contains a NUL byte"));
        }
    }
    Ok(())
}

/// Sets one label, or removes it when the value is empty: how a mask `labels.KEY` works.
pub fn set(labels: &mut Labels, key: &str, from: &Labels) {
    match from.get(key) {
        Some(value) if !value.is_empty() => {
            labels.insert(key.to_owned(), value.clone());
        }
        _ => {
            labels.remove(key);
        }
    }
}

/// The unordered form of the wire types.
pub fn to_hash(labels: &Labels) -> std::collections::HashMap<String, String> {
    labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

pub fn from_hash(labels: std::collections::HashMap<String, String>) -> Labels {
    labels.into_iter().collect()
}
