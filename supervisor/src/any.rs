//! A typed payload as it travels and is stored: a type URL and its bytes, opaque to the daemon's core.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The counterpart of `google.protobuf.Any`. Protobuf payloads carry the bare full name of the message as
/// `type_url`, without `type.googleapis.com/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Any {
    pub type_url: String,
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub value: Bytes,
}

impl Any {
    pub fn new(type_url: impl Into<String>, value: impl Into<Bytes>) -> Self {
        Self { type_url: type_url.into(), value: value.into() }
    }

    /// A protobuf message with its bare full name.
    pub fn pack<M: prost::Message>(name: &str, message: &M) -> Self {
        Self { type_url: name.to_owned(), value: message.encode_to_vec().into() }
    }

    /// Whether the payload is the message `name`, with or without a URL prefix.
    pub fn is(&self, name: &str) -> bool {
        self.type_url == name || self.type_url.strip_suffix(name).is_some_and(|prefix| prefix.ends_with('/'))
    }
}

impl From<prost_types::Any> for Any {
    fn from(any: prost_types::Any) -> Self {
        Self { type_url: any.type_url, value: any.value.into() }
    }
}

impl From<Any> for prost_types::Any {
    fn from(any: Any) -> Self {
        Self { type_url: any.type_url, value: any.value.into() }
    }
}

/// Marks a payload that is not UTF-8 and therefore stored as hexadecimal digits.
const HEX: &str = "\0hex:";

fn as_text<S: Serializer>(value: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(value) {
        Ok(text) if !text.starts_with(HEX) => serializer.serialize_str(text),
        _ => {
            let mut text = String::with_capacity(HEX.len() + value.len() * 2);
            text.push_str(HEX);
            text.push_str(&crate::hex::encode(value));
            serializer.serialize_str(&text)
        }
    }
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.strip_prefix(HEX) {
        None => Ok(text.into()),
        Some(digits) => crate::hex::decode(digits)
            .map(Bytes::from)
            .ok_or_else(|| serde::de::Error::custom("malformed hexadecimal payload")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_survive_storage() {
        for value in [&b"{\"a\":1}"[..], b"", b"\x00\xff\x10", b"\0hex:zz"] {
            let any = Any::new("t", value.to_vec());
            let stored = serde_json::to_vec(&any).unwrap();
            assert_eq!(serde_json::from_slice::<Any>(&stored).unwrap(), any);
        }
    }

    #[test]
    fn names_match_with_and_without_prefix() {
        assert!(Any::new("a.B", "").is("a.B"));
        assert!(Any::new("type.googleapis.com/a.B", "").is("a.B"));
        assert!(!Any::new("xa.B", "").is("a.B"));
    }
}
