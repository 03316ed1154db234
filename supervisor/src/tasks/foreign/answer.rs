//! What a shim's `start` prints: where it listens, and which task API it speaks there.
//!
//! What always holds: an answer that cannot be connected to (another protocol, another kind of address, a newer API) is
//! refused with what it said.

#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;

use longshore_proto::containerd::runtime::bootstrap::v1::BootstrapResult;
use prost::Message;

/// The task API of a shim: its service's name. The messages of both are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskApi {
    V2,
    V3,
}

impl TaskApi {
    pub fn service(self) -> &'static str {
        match self {
            Self::V2 => "containerd.task.v2.Task",
            Self::V3 => super::super::wire::TASK,
        }
    }

    pub fn number(self) -> i32 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }

    pub fn from_number(number: i32) -> Option<Self> {
        match number {
            // Plain answers carry no number, and are of the days of version 2.
            0 | 2 => Some(Self::V2),
            3 => Some(Self::V3),
            _ => None,
        }
    }
}

/// In which form an answer came, which tells how the shim wants to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A `BootstrapResult`: it reads `BootstrapParams`.
    Bootstrap,
    /// JSON or a plain address: it reads its options.
    Older,
}

/// Where a shim listens: a path, or a name that is in no file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// # Errors
    /// It is no Unix socket.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let text = text.trim();
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with(['/', '@']) => Ok(Self(path.to_owned())),
            // The oldest form: a name that is in no file system, without a scheme.
            None if text.starts_with('/') => Ok(Self(format!("@{text}"))),
            _ => Err(Refused::Address(text.chars().take(256).collect())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// From [`Address::as_str`].
    pub fn restored(text: String) -> Self {
        Self(text)
    }

    /// Its file, if it has one.
    pub fn path(&self) -> Option<&Path> {
        self.0.starts_with('/').then(|| Path::new(&self.0))
    }

    /// # Errors
    /// `ConnectionRefused` and `NotFound`: nobody listens any more.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let address = match self.0.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&self.0)?,
        };
        UnixStream::connect_addr(&address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A shim that can be spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub address: Address,
    pub api: TaskApi,
    pub form: Form,
}

/// Why an answer is of no use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    #[error("it printed nothing")]
    Empty,
    #[error("what it printed is no answer: {0:?}")]
    Garbage(String),
    #[error("it listens at {0:?}, which is no Unix socket")]
    Address(String),
    #[error("it speaks {0:?}; shims are spoken to by ttrpc")]
    Protocol(String),
    #[error("it speaks version {0} of the task API; versions 2 and 3 are understood")]
    Version(i32),
}

#[derive(serde::Deserialize)]
struct Json {
    #[serde(default)]
    version: i32,
    #[serde(default)]
    address: String,
    #[serde(default)]
    protocol: String,
}

/// Reads what `start` printed, in whichever form.
pub fn parse(output: &[u8]) -> Result<Answer, Refused> {
    let printable = std::str::from_utf8(output)
        .ok()
        .filter(|text| !text.chars().any(|c| c.is_control() && !c.is_whitespace()));
    let Some(text) = printable.map(str::trim) else {
        let result = BootstrapResult::decode(output).map_err(|_| garbage(output))?;
        return check(result.version, &result.address, &result.protocol, Form::Bootstrap);
    };
    if text.is_empty() {
        return Err(Refused::Empty);
    }
    if text.starts_with('{') {
        let json: Json = serde_json::from_str(text).map_err(|_| garbage(output))?;
        return check(json.version, &json.address, &json.protocol, Form::Older);
    }
    check(0, text, "ttrpc", Form::Older).map_err(|_| garbage(output))
}

fn garbage(output: &[u8]) -> Refused {
    Refused::Garbage(String::from_utf8_lossy(output).chars().take(256).collect())
}

/// An answer of these parts.
///
/// # Errors
/// It cannot be spoken to.
pub fn check(version: i32, address: &str, protocol: &str, form: Form) -> Result<Answer, Refused> {
    if !(protocol.is_empty() || protocol.eq_ignore_ascii_case("ttrpc")) {
        return Err(Refused::Protocol(protocol.chars().take(64).collect()));
    }
    let api = TaskApi::from_number(version).ok_or(Refused::Version(version))?;
    Ok(Answer { address: Address::parse(address)?, api, form })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_answer_is_understood() {
        let result = BootstrapResult {
            version: 3,
            address: "unix:///run/s/1".into(),
            protocol: "ttrpc".into(),
            ..BootstrapResult::default()
        };
        let bootstrap = parse(&result.encode_to_vec()).unwrap();
        assert_eq!((bootstrap.api, bootstrap.form), (TaskApi::V3, Form::Bootstrap));
        assert_eq!(bootstrap.address.as_str(), "/run/s/1");
        let json = parse(br#"{"version":3,"address":"unix:///run/s/1","protocol":"ttrpc"}"#).unwrap();
        assert_eq!((json.api, json.form), (TaskApi::V3, Form::Older));
        let plain = parse(b"unix:///run/s/1\n").unwrap();
        assert_eq!((plain.api, plain.form, plain.address), (TaskApi::V2, Form::Older, json.address));
        let unnamed = parse(b"/containerd-shim/abc.sock").unwrap();
        assert_eq!((unnamed.address.as_str(), unnamed.address.path()), ("@/containerd-shim/abc.sock", None));
    }

    #[test]
    fn what_cannot_be_spoken_to_is_refused_with_its_words() {
        assert_eq!(parse(b" \n").unwrap_err(), Refused::Empty);
        assert!(matches!(parse(b"panic: no space left").unwrap_err(), Refused::Garbage(_)));
        assert!(matches!(parse(&[0xff, 0, 1]).unwrap_err(), Refused::Garbage(_)));
        let grpc = br#"{"version":3,"address":"unix:///s","protocol":"grpc"}"#;
        assert_eq!(parse(grpc).unwrap_err(), Refused::Protocol("grpc".into()));
        let newer = br#"{"version":4,"address":"unix:///s","protocol":"ttrpc"}"#;
        assert_eq!(parse(newer).unwrap_err(), Refused::Version(4));
        let vsock = br#"{"version":3,"address":"vsock://2:10","protocol":"ttrpc"}"#;
        assert_eq!(parse(vsock).unwrap_err(), Refused::Address("vsock://2:10".into()));
    }
}
