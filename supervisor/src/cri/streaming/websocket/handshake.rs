//! The opening of a WebSocket, RFC 6455 section 4.2, and which of Kubernetes' subprotocols is spoken.

#![forbid(unsafe_code)]

use hyper::HeaderMap;
use hyper::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Codec;

/// What a subprotocol means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subprotocol {
    Channels(Dialect),
    /// The name of the SPDY subprotocol inside.
    Tunnel(&'static str),
}

/// How channels are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    pub codec: Codec,
    /// Channel 255 ends another one.
    pub ends: bool,
    /// How a process ended is told in JSON.
    pub json: bool,
}

const fn dialect(codec: Codec, ends: bool, json: bool) -> Subprotocol {
    Subprotocol::Channels(Dialect { codec, ends, json })
}

/// Of exec and attach, with the name in the header.
pub const REMOTE: &[(&str, Subprotocol)] = &[
    ("v5.channel.k8s.io", dialect(Codec::Binary, true, true)),
    ("v4.channel.k8s.io", dialect(Codec::Binary, false, true)),
    ("v4.base64.channel.k8s.io", dialect(Codec::Base64, false, true)),
    ("channel.k8s.io", dialect(Codec::Binary, false, false)),
    ("base64.channel.k8s.io", dialect(Codec::Base64, false, false)),
    ("SPDY/3.1+v4.channel.k8s.io", Subprotocol::Tunnel("v4.channel.k8s.io")),
];

/// Of port-forward.
pub const FORWARD: &[(&str, Subprotocol)] = &[
    ("SPDY/3.1+portforward.k8s.io", Subprotocol::Tunnel("portforward.k8s.io")),
    ("v4.channel.k8s.io", dialect(Codec::Binary, false, true)),
    ("v4.base64.channel.k8s.io", dialect(Codec::Base64, false, true)),
];

/// Of clients that name none.
const UNNAMED: Subprotocol = dialect(Codec::Binary, false, false);

/// Why a WebSocket is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("Sec-WebSocket-Version must be 13")]
    Version,
    #[error("Sec-WebSocket-Key is missing")]
    Key,
    #[error(
        "none of the subprotocols that were asked for is spoken here; see Sec-WebSocket-Protocol for those that are"
    )]
    Subprotocol,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// `Sec-WebSocket-Accept`.
    pub accept: String,
    /// `Sec-WebSocket-Protocol`, if the client named any.
    pub name: Option<&'static str>,
    pub subprotocol: Subprotocol,
}

/// The words of a header that is a list, from all its lines.
pub fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

/// Whether a connection is asked to become something else, called `what`.
pub fn asks_for(headers: &HeaderMap, what: &str) -> bool {
    words(headers, &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"))
        && words(headers, &UPGRADE).any(|word| word.eq_ignore_ascii_case(what))
}

/// Checks a request; the client's order of subprotocols decides.
pub fn accept(headers: &HeaderMap, known: &[(&'static str, Subprotocol)]) -> Result<Accepted, Refused> {
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version.as_bytes() != b"13") {
        return Err(Refused::Version);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(Refused::Key)?;
    let accept = derive_accept_key(key.as_bytes());
    let mut asked = words(headers, &SEC_WEBSOCKET_PROTOCOL).peekable();
    if asked.peek().is_none() {
        return Ok(Accepted { accept, name: None, subprotocol: UNNAMED });
    }
    let found = asked.find_map(|word| known.iter().find(|(name, _)| *name == word));
    let (name, subprotocol) = found.ok_or(Refused::Subprotocol)?;
    Ok(Accepted { accept, name: Some(*name), subprotocol: *subprotocol })
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn request(protocols: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (CONNECTION, "keep-alive, Upgrade"),
            (UPGRADE, "websocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            (SEC_WEBSOCKET_PROTOCOL, protocols),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_first_subprotocol_of_the_client_that_is_known_is_spoken() {
        let headers = request("v9.channel.k8s.io, v4.channel.k8s.io,v5.channel.k8s.io");
        let accepted = accept(&headers, REMOTE).unwrap();
        assert_eq!(accepted.name, Some("v4.channel.k8s.io"));
        // The example of RFC 6455, section 1.3.
        assert_eq!(accepted.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(asks_for(&headers, "WebSocket") && !asks_for(&headers, "SPDY/3.1"));
        assert_eq!(accept(&request(""), REMOTE).unwrap().subprotocol, UNNAMED);
        assert_eq!(accept(&request("v9.channel.k8s.io"), REMOTE), Err(Refused::Subprotocol));
    }
}
