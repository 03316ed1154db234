//! How a record becomes bytes and comes back.
//!
//! Most records are JSON, so that a field added with `#[serde(default)]` reads older ones. What clients read often is kept as the
//! message that they are sent, which is then answered as it is; what an earlier version kept as JSON is read, too, and becomes a
//! message when it is next written.

use serde::de::DeserializeOwned;

/// Why a record's bytes are none.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Message(#[from] prost::DecodeError),
    /// It can be read but not be.
    #[error(transparent)]
    Value(#[from] Box<crate::error::Error>),
    #[error("it is kept as a message, and its table keeps none")]
    NoMessage,
}

impl From<crate::error::Error> for Unreadable {
    fn from(error: crate::error::Error) -> Self {
        Self::Value(Box::new(error))
    }
}

/// What can be read from a table.
pub trait Record: DeserializeOwned {
    /// The record's message, if its table keeps messages. It names the record itself by `key`.
    fn to_message(&self, _key: &str) -> Option<Vec<u8>> {
        None
    }

    fn from_message(_message: &[u8]) -> Result<Self, Unreadable> {
        Err(Unreadable::NoMessage)
    }
}

impl Record for () {}
impl Record for String {}

/// Whether there is a record, and nothing of it.
impl Record for serde::de::IgnoredAny {
    fn from_message(_: &[u8]) -> Result<Self, Unreadable> {
        Ok(Self)
    }
}

/// How a record is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    Message,
}

impl Form {
    pub fn read<T: Record>(self, bytes: &[u8]) -> Result<T, Unreadable> {
        match self {
            Self::Json => Ok(serde_json::from_slice(bytes)?),
            Self::Message => T::from_message(bytes),
        }
    }
}
