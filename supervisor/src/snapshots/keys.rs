//! Keys of namespaces and of drivers, there and back, in answers and in errors.

use longshore_snapshotter::{Error as DriverError, Info};

use super::Commit;
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

/// Longest key in bytes: the driver's limit, less the longest namespace and the separator.
const MAX_KEY: usize = longshore_snapshotter::MAX_KEY - crate::namespaces::MAX_IDENTIFIER - 1;

/// The driver's key. Namespaces hold no `/`, so it can be taken apart again.
pub fn internal(namespace: &Namespace, key: &str) -> String {
    format!("{namespace}/{key}")
}

pub fn split(internal: &str) -> Option<(Namespace, String)> {
    let (namespace, key) = internal.split_once('/')?;
    Some((Namespace::parse(namespace).ok()?, key.to_owned()))
}

/// Refuses keys that no snapshot can have.
pub fn check(key: &str) -> Result<()> {
    if key.is_empty() {
        return Err(Error::invalid("snapshot key", "must not be empty"));
    }
    if key.len() > MAX_KEY || key.contains(['\0', '\x1f']) {
        let shown: String = key.chars().take(64).collect();
        let why = format!("is longer than {MAX_KEY} bytes or contains a control character");
        return Err(Error::invalid(format!("snapshot key {shown:?}"), why));
    }
    Ok(())
}

/// The same commit with the driver's keys.
pub fn inside(namespace: &Namespace, commit: &Commit) -> Commit {
    Commit {
        name: internal(namespace, &commit.name),
        key: internal(namespace, &commit.key),
        parent: commit.parent.as_deref().filter(|p| !p.is_empty()).map(|p| internal(namespace, p)),
        ..commit.clone()
    }
}

/// What a driver says, with the namespace's keys.
pub fn present(namespace: &Namespace, mut info: Info) -> Info {
    info.name = outside(namespace, info.name);
    info.parent = info.parent.map(|parent| outside(namespace, parent));
    info
}

fn outside(namespace: &Namespace, internal: String) -> String {
    match split(&internal) {
        Some((of, key)) if of == *namespace => key,
        _ => internal,
    }
}

/// For `map_err`: an error of a driver, with the namespace's keys.
pub fn translate(namespace: &Namespace) -> impl FnOnce(DriverError) -> Error {
    let namespace = namespace.clone();
    move |error| convert(error, |key| outside(&namespace, key))
}

/// An error of a driver that concerns no namespace.
pub fn plain(error: DriverError) -> Error {
    convert(error, |key| key)
}

fn convert(error: DriverError, outside: impl Fn(String) -> String) -> Error {
    let what = |key: String| format!("snapshot \"{}\"", outside(key));
    match error {
        DriverError::NotFound { key } => Error::not_found("snapshot", outside(key)),
        DriverError::AlreadyExists { key } => Error::already_exists("snapshot", outside(key)),
        DriverError::ParentNotFound { parent } => Error::not_found("parent snapshot", outside(parent)),
        DriverError::ParentNotCommitted { parent, .. } => {
            Error::invalid(format!("parent {}", what(parent)), "is not committed")
        }
        DriverError::WrongKind { key, kind, wanted } => {
            let kind = format!("{kind:?}").to_lowercase();
            Error::precondition(what(key), format!("is {kind}, and this needs one that is {wanted}"))
        }
        DriverError::HasChildren { key, children } => Error::precondition(
            what(key),
            format!("cannot be removed: {children} snapshots are based on it; remove them first"),
        ),
        DriverError::ParentMismatch { key, has, wanted } => Error::invalid(
            what(key),
            format!("was prepared on {has}, so it cannot be committed on \"{}\"", outside(wanted)),
        ),
        DriverError::TooManyLayers { key, limit, .. } => {
            Error::ResourceExhausted { what: what(key), limit: "layers of a snapshot", max: limit as u64 }
        }
        DriverError::RecordTooLarge { key, limit, .. } => {
            Error::ResourceExhausted { what: what(key), limit: "bytes of labels", max: limit as u64 }
        }
        DriverError::TooDeep { path, limit } => Error::ResourceExhausted {
            what: path.display().to_string(),
            limit: "nested directories",
            max: limit as u64,
        },
        DriverError::InvalidMapping { label, why, .. } => Error::invalid(format!("label {label}"), why),
        DriverError::InvalidKey { why } => Error::invalid("snapshot key", why),
        DriverError::UnusableRoot { path, why } => Error::invalid(path.display().to_string(), why),
        DriverError::Locked { path } => {
            Error::unavailable(path.display().to_string(), "another longshored uses it")
        }
        DriverError::UnknownFormat { path, found, known } => Error::Damaged {
            what: path.display().to_string(),
            why: format!("format {found} was written by a newer version; this one knows {known}"),
        },
        DriverError::Io { doing, path, source } => Error::io(doing, path, source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_clients_key() {
        let namespace = Namespace::parse("k8s.io").unwrap();
        let error = translate(&namespace)(DriverError::NotFound { key: internal(&namespace, "a/b") });
        assert_eq!(error.to_string(), "snapshot \"a/b\": not found");
    }
}
