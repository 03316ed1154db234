//! The flags of a shim, in Go's syntax: `-x v`, `--x v`, `-x=v`; the action is the first word that is no flag.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Error, Result};

pub const HELP: &str = "\
containerd-shim-longshore-v1: keeps one container, or the containers of one pod

Usage: containerd-shim-longshore-v1 [flags] start|delete
       containerd-shim-longshore-v1 -info
       containerd-shim-longshore-v1 pool

  start    start a shim for the bundle in the working directory; the daemon's parameters are read
           from stdin, and the shim's address is written to stdout, in the form of the question
  delete   clean up after a shim that is gone: end its container, and say how it ended
  pool     wait for a container; ttrpc is spoken on file descriptor 3, a connected Unix socket,
           and the shim leaves when that ends before it was assigned

  -namespace NAME        containerd namespace of the container
  -id ID                 container id
  -address PATH          the daemon's gRPC socket
  -publish-binary PATH   accepted; events go to the socket in $TTRPC_ADDRESS instead
  -bundle DIR            the bundle, if it is not the working directory
  -debug                 accepted; there is no more to say
  -info                  describe this runtime: runtime options are read from stdin
  -v, --version          print the version
  -h, --help             print this

It is started by a daemon, not by hand.
";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Version,
    Info,
    Start,
    Delete,
    /// Be the shim that `start` has prepared; for `start` only.
    Serve,
}

/// The flags.
#[derive(Debug, PartialEq, Eq)]
pub struct Flags {
    pub action: Action,
    pub namespace: String,
    pub id: String,
    pub address: String,
    pub bundle: Option<PathBuf>,
}

/// Flags that take a value.
const VALUES: [&str; 7] =
    ["namespace", "id", "address", "publish-binary", "bundle", "socket", "debug-socket"];
/// Flags that are on or off.
const SWITCHES: [&str; 4] = ["debug", "v", "version", "info"];

impl Flags {
    /// Reads the words after the program's name.
    pub fn parse(words: impl Iterator<Item = OsString>) -> Result<Self> {
        let usage = |text: String| Error::Usage(format!("{text}; see --help"));
        let mut words =
            words.map(|word| word.into_string().map_err(|_| usage("an argument is not UTF-8".into())));
        let mut flags = Self {
            action: Action::Start,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            bundle: None,
        };
        let mut special = None;
        let action = loop {
            let Some(word) = words.next().transpose()? else { break None };
            let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
                break Some(word);
            };
            if flag.is_empty() {
                break words.next().transpose()?;
            }
            let (name, value) =
                flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
            if SWITCHES.contains(&name) {
                let on = match value {
                    None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
                    Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
                    Some(value) => return Err(usage(format!("invalid boolean value {value:?} for -{name}"))),
                };
                match name {
                    "v" | "version" if on => special = Some(Action::Version),
                    "info" if on && special.is_none() => special = Some(Action::Info),
                    _ => {}
                }
                continue;
            }
            if !VALUES.contains(&name) {
                return Err(usage(format!("flag provided but not defined: -{name}")));
            }
            let value = match value {
                Some(value) => value.to_owned(),
                None => words
                    .next()
                    .transpose()?
                    .ok_or_else(|| usage(format!("flag needs an argument: -{name}")))?,
            };
            match name {
                "namespace" => flags.namespace = value,
                "id" => flags.id = value,
                "address" => flags.address = value,
                "bundle" => flags.bundle = Some(value).filter(|path| !path.is_empty()).map(PathBuf::from),
                // What a daemon passes and means nothing here.
                _ => {}
            }
        };
        flags.action = match (special, action.as_deref()) {
            (Some(special), _) => special,
            (None, Some("start")) => Action::Start,
            (None, Some("delete")) => Action::Delete,
            (None, Some("serve")) => Action::Serve,
            (None, Some(other)) => return Err(usage(format!("unknown command {other:?}"))),
            (None, None) => return Err(usage("no command".into())),
        };
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Flags> {
        Flags::parse(words.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_are_gos() {
        let flags =
            parse("-namespace n --id=x -address /a -publish-binary /p -debug --bundle /b start").unwrap();
        let expected = Flags {
            action: Action::Start,
            namespace: "n".into(),
            id: "x".into(),
            address: "/a".into(),
            bundle: Some("/b".into()),
        };
        assert_eq!(flags, expected);
        assert_eq!(parse("-id x -debug=false delete -id y").unwrap().id, "x");
        assert_eq!(parse("-info").unwrap().action, Action::Info);
        assert_eq!(parse("-namespace n -v start").unwrap().action, Action::Version);
        assert_eq!(parse("-id -x -- start").unwrap().id, "-x");
    }

    #[test]
    fn nonsense_is_named() {
        for (words, say) in [
            ("-nope start", "not defined: -nope"),
            ("-id", "needs an argument: -id"),
            ("-debug=maybe start", "invalid boolean"),
            ("stop", "unknown command \"stop\""),
            ("", "no command"),
        ] {
            let error = parse(words).unwrap_err().to_string();
            assert!(error.contains(say), "{error}");
        }
    }
}
