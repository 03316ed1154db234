//! Where a daemon is: a Unix socket of this host, or one of another host that is reached by `ssh`.
//!
//! What always holds: an address is read in one place, and what cannot be reached is refused before anything is sent.

use std::fmt;
use std::path::PathBuf;

use crate::failure::Failure;

/// Where the daemon listens unless something says otherwise.
pub const DEFAULT_HOST: &str = "unix:///run/longshore/longshore.sock";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Socket(PathBuf),
    Ssh(Remote),
}

/// A host that `ssh` reaches, on which `longshore system dial-stdio` speaks to the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// `[USER@]HOST`, as `ssh` takes it.
    pub destination: String,
    pub port: Option<u16>,
    /// The daemon's socket there, if it is not the usual one.
    pub socket: Option<String>,
}

impl Endpoint {
    /// Reads `unix://PATH`, an absolute path, or `ssh://[USER@]HOST[:PORT][/SOCKET]`.
    pub fn parse(text: &str) -> Result<Endpoint, Failure> {
        if let Some(rest) = text.strip_prefix("ssh://") {
            return remote(rest).map(Endpoint::Ssh).ok_or_else(|| {
                Failure::usage(format!(
                    "invalid host '{text}': ssh://[USER@]HOST[:PORT][/SOCKET] is expected, without a password"
                ))
            });
        }
        let path = text.strip_prefix("unix://").unwrap_or(text);
        match path.starts_with('/') {
            true => Ok(Endpoint::Socket(PathBuf::from(path))),
            false => Err(Failure::usage(format!(
                "invalid host '{text}': a Unix socket is expected, as in {DEFAULT_HOST}, or a host that ssh \
                 reaches, as in ssh://root@example.com"
            ))),
        }
    }
}

fn remote(text: &str) -> Option<Remote> {
    let (authority, socket) = match text.split_once('/') {
        Some((authority, path)) => (authority, (!path.is_empty()).then(|| format!("/{path}"))),
        None => (text, None),
    };
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let (host, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':').or((!rest.is_empty()).then_some("x"))),
        None => match host.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host, None),
        },
    };
    let port = port.map(str::parse).transpose().ok()?;
    // Nothing of it may be taken for an option, or for another word, by ssh or by the shell over there.
    let plain = |word: &str, more: &str| {
        !word.is_empty()
            && !word.starts_with('-')
            && word.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let sound = plain(host, ".-_:%") && user.is_none_or(|user| plain(user, ".-_+"));
    let sound = sound && socket.as_deref().is_none_or(|socket| plain(socket, "/.-_+"));
    let destination = user.map_or_else(|| host.to_string(), |user| format!("{user}@{host}"));
    sound.then_some(Remote { destination, port, socket })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Socket(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Ssh(Remote { destination, port, socket }) => {
                write!(f, "ssh://{destination}")?;
                if let Some(port) = port {
                    write!(f, ":{port}")?;
                }
                f.write_str(socket.as_deref().unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for text in ["unix:///x.sock", "ssh://h", "ssh://me@h:2222", "ssh://me@h/run/other.sock"] {
            assert_eq!(
                Endpoint::parse(text).map(|endpoint| endpoint.to_string()).ok(),
                Some(text.to_string())
            );
        }
        assert_eq!(Endpoint::parse("/x").ok(), Some(Endpoint::Socket("/x".into())));
        for wrong in [
            "",
            "tcp://h:1",
            "relative",
            "unix://x",
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://me:secret@h",
            "ssh://h:port",
            "ssh://h:1:2",
            "ssh://a b",
            "ssh://h/$(reboot)",
            "ssh://[::1]x",
        ] {
            assert!(Endpoint::parse(wrong).is_err(), "{wrong}");
        }
        let six = Endpoint::parse("ssh://[fe80::1]:22").ok();
        let expected = Remote { destination: "fe80::1".into(), port: Some(22), socket: None };
        assert_eq!(six, Some(Endpoint::Ssh(expected)));
    }
}
