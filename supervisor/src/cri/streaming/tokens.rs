//! URLs of streaming requests: each can be used once, within a minute.
//!
//! What always holds: a token is 256 random bits and is kept only as its digest, so that how long a wrong one takes to look up says
//! nothing of the right ones; there are never more than [`limits::TOKENS`], with no more bytes in
//! them than [`limits::TOKEN_BYTES`], and those that have expired go when another comes.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::limits;
use super::target::{Attach, Exec, PortForward};
use crate::error::{Error, Result};

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Granted {
    Exec(Exec),
    Attach(Attach),
    PortForward(PortForward),
}

impl Granted {
    /// The first part of the URL's path.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

/// What one costs besides its words.
const COST: usize = 256;

impl Granted {
    /// Bytes that it takes, about.
    fn size(&self) -> usize {
        let words = match self {
            Self::Exec(exec) => exec.args.iter().map(|arg| arg.len() + size_of::<String>()).sum(),
            Self::Attach(_) => 0,
            Self::PortForward(forward) => forward.ports.len() * size_of::<u16>(),
        };
        COST + words
    }
}

type Key = [u8; 32];

#[derive(Debug, Default)]
pub struct Tokens(Mutex<HashMap<Key, (Instant, Granted)>>);

fn key(token: &str) -> Key {
    Sha256::digest(token.as_bytes()).into()
}

impl Tokens {
    /// A new token for a request.
    pub fn grant(&self, what: Granted) -> Result<String> {
        self.grant_at(what, Instant::now())
    }

    fn grant_at(&self, what: Granted, now: Instant) -> Result<String> {
        let token = crate::hex::encode(&rand::random::<[u8; 32]>());
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, (until, _)| *until > now);
        let bytes: usize = tokens.values().map(|(_, granted)| granted.size()).sum();
        let met = if tokens.len() >= limits::TOKENS {
            Some(("streaming requests", limits::TOKENS))
        } else if bytes + what.size() > limits::TOKEN_BYTES {
            Some(("bytes of streaming requests", limits::TOKEN_BYTES))
        } else {
            None
        };
        if let Some((limit, max)) = met {
            let what = format!("{} request: others wait for their clients", what.verb());
            return Err(Error::ResourceExhausted { what, limit, max: max as u64 });
        }
        tokens.insert(key(&token), (now + limits::TOKEN_LIFE, what));
        Ok(token)
    }

    /// Uses a token, which is gone afterwards whatever comes of it.
    pub fn redeem(&self, verb: &str, token: &str) -> Option<Granted> {
        self.redeem_at(verb, token, Instant::now())
    }

    fn redeem_at(&self, verb: &str, token: &str, now: Instant) -> Option<Granted> {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, what) = tokens.remove(&key(token))?;
        (until > now && what.verb() == verb).then_some(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward() -> Granted {
        Granted::PortForward(PortForward { pod: "p".into(), ports: Vec::new() })
    }

    #[test]
    fn a_token_can_be_used_once_for_its_own_verb_within_a_minute() {
        let tokens = Tokens::default();
        let token = tokens.grant(forward()).unwrap();
        assert_eq!(tokens.redeem("portforward", &token[1..]), None);
        assert_eq!(tokens.redeem("portforward", &token), Some(forward()));
        assert_eq!(tokens.redeem("portforward", &token), None);
        let token = tokens.grant(forward()).unwrap();
        assert_eq!(tokens.redeem("exec", &token), None);
        let token = tokens.grant(forward()).unwrap();
        let later = Instant::now() + limits::TOKEN_LIFE;
        assert_eq!(tokens.redeem_at("portforward", &token, later), None);
    }

    #[test]
    fn long_commands_are_bounded_by_their_bytes() {
        let tokens = Tokens::default();
        let long = || {
            let args = vec!["x".repeat(2 << 20)];
            let exec =
                Exec { container: "c".into(), args, tty: false, stdin: false, stdout: true, stderr: true };
            Granted::Exec(exec)
        };
        let granted = (0..).take_while(|_| tokens.grant(long()).is_ok()).count();
        assert!((limits::TOKEN_BYTES >> 21).abs_diff(granted) <= 1, "{granted}");
        assert!(tokens.grant(forward()).is_ok());
        tokens.grant_at(long(), Instant::now() + limits::TOKEN_LIFE).unwrap();
    }

    #[test]
    fn tokens_are_bounded_and_expired_ones_make_room() {
        let tokens = Tokens::default();
        for _ in 0..limits::TOKENS {
            tokens.grant(forward()).unwrap();
        }
        assert!(matches!(tokens.grant(forward()), Err(Error::ResourceExhausted { max: 1000, .. })));
        tokens.grant_at(forward(), Instant::now() + limits::TOKEN_LIFE).unwrap();
    }
}
