//! What fuzzers enter the daemon by: functions of bytes that anybody may send. They answer nothing; they must end, without a panic.
//!
//! `fuzz/` drives them with libFuzzer (`cargo +nightly fuzz run fuzz-filter`), the tests below with what proptest makes of the grammars.

use longshore_proto::containerd::services as wire;
use longshore_proto::containerd::types;
use prost::Message;

use crate::any::Any;
use crate::api;
use crate::content::Digest;
use crate::events::Event;
use crate::filters::{Adaptor, Filter};
use crate::images::reference::Reference;
use crate::leases::Resource;
use crate::listen::Authority;
use crate::namespaces::Namespace;

/// A subject that has every field, with the field's own path as value.
struct Everything;

impl Adaptor for Everything {
    fn field(&self, path: &[&str]) -> Option<String> {
        Some(path.join("."))
    }
}

/// The filter grammar: parsing and matching.
pub fn filter(text: &str) {
    let filters: Vec<&str> = text.split('\n').collect();
    if let Ok(filter) = Filter::parse_all(&filters) {
        filter.matches(&Everything);
    }
}

/// Messages of every shape, decoded, translated and checked as requests are.
pub fn request(bytes: &[u8]) {
    if let Ok(request) = wire::containers::v1::CreateContainerRequest::decode(bytes) {
        let container = request.container.map(crate::containers::Container::asked);
        let _ = container.as_ref().map(crate::containers::check);
    }
    if let Ok(request) = wire::images::v1::CreateImageRequest::decode(bytes)
        && let Some(target) = request.image.and_then(|image| image.target)
    {
        let _ = api::convert::from_descriptor(target);
    }
    if let Ok(descriptor) = types::Descriptor::decode(bytes) {
        let _ = api::convert::from_descriptor(descriptor);
    }
    if let Ok(resource) = wire::leases::v1::Resource::decode(bytes) {
        let _ = Resource::parse(&resource.r#type, &resource.id);
    }
    if let Ok(mask) = prost_types::FieldMask::decode(bytes) {
        let _ = api::convert::label_mask("object", Some(mask));
    }
    if let Ok(any) = prost_types::Any::decode(bytes) {
        event(any.into());
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = (Digest::parse(text), Reference::parse(text), Namespace::parse(text));
        let _ = crate::events::check_topic(text);
        let _ = crate::images::manifest::parse(bytes, "");
    }
}

/// An event of somebody else's making, as filters look into it.
fn event(payload: Any) {
    let Ok(namespace) = Namespace::parse("fuzz") else { return };
    let event =
        Event { timestamp: jiff::Timestamp::UNIX_EPOCH, namespace, topic: "/fuzz".to_owned(), payload };
    for path in [
        &["event", "id"][..],
        &["event", "container_id"],
        &["event", "labels", "a"],
        &["event", "runtime", "name"],
    ] {
        let _ = event.field(path);
    }
}

/// The first bytes of a connection, as they are made acceptable to the HTTP/2 server.
pub fn connection(bytes: &mut [u8]) {
    Authority::default().scrub(bytes);
}

/// What a client of the streaming server sends after the upgrade of its connection.
pub fn streaming(bytes: &[u8]) {
    crate::cri::streaming::fuzz(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Fields of a message, nested: what a decoder gets further with than with noise.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let leaf = prop_oneof![
            any::<u64>().prop_map(|number| (0, prost_varint(number))),
            "[a-z0-9:/._@-]{0,40}".prop_map(|text| (2, text.into_bytes())),
            proptest::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| (2, bytes)),
        ];
        let nested = leaf.prop_recursive(4, 40, 5, |inner| {
            proptest::collection::vec((1..12u8, inner), 0..5).prop_map(|fields| (2, joined(&fields)))
        });
        proptest::collection::vec((1..12u8, nested), 0..6).prop_map(|fields| joined(&fields))
    }

    fn prost_varint(number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        prost::encoding::encode_varint(number, &mut bytes);
        bytes
    }

    fn joined(fields: &[(u8, (u8, Vec<u8>))]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, (kind, content)) in fields {
            bytes.push(number << 3 | kind);
            if *kind == 2 {
                prost::encoding::encode_varint(content.len() as u64, &mut bytes);
            }
            bytes.extend_from_slice(content);
        }
        bytes
    }

    proptest! {
        #[test]
        fn no_request_makes_the_daemon_panic(bytes in message()) {
            super::request(&bytes);
        }

        #[test]
        fn no_noise_makes_the_daemon_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            super::request(&bytes);
            super::streaming(&bytes);
            super::filter(&String::from_utf8_lossy(&bytes));
            super::connection(&mut bytes);
        }
    }
}
