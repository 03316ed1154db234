//! The key sequence that detaches from a container.
//!
//! Keys that begin the sequence are held back for a moment only: if the rest does not follow they go to the
//! container, so that ctrl-p alone is not swallowed.

/// The most keys in a sequence.
const MAX_KEYS: usize = 16;

/// The bytes of the sequence, never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    /// ctrl-p, ctrl-q.
    fn default() -> DetachKeys {
        DetachKeys(vec![16, 17])
    }
}

impl DetachKeys {
    /// Those of the command line, else those of docker's configuration file, else ctrl-p and ctrl-q.
    pub fn chosen(given: Option<DetachKeys>) -> DetachKeys {
        given.or_else(DetachKeys::configured).unwrap_or_default()
    }

    /// `detachKeys` of `$DOCKER_CONFIG/config.json`, else of `~/.docker/config.json`; nothing if that makes no sense.
    fn configured() -> Option<DetachKeys> {
        let folder = match std::env::var_os("DOCKER_CONFIG") {
            Some(folder) => std::path::PathBuf::from(folder),
            None => std::path::PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
        };
        let text = std::fs::read_to_string(folder.join("config.json")).ok()?;
        DetachKeys::in_file(&text)
    }

    fn in_file(text: &str) -> Option<DetachKeys> {
        let file: serde_json::Value = serde_json::from_str(text).ok()?;
        let keys = file.get("detachKeys")?.as_str().filter(|keys| !keys.is_empty())?;
        DetachKeys::parse(keys).ok()
    }

    /// Comma-separated: a character, or `ctrl-` and a letter or one of `@[\]^_`. A clap value parser.
    pub fn parse(text: &str) -> Result<DetachKeys, String> {
        let mut keys = Vec::new();
        for key in text.split(',') {
            keys.push(match key.as_bytes() {
                [byte] => *byte,
                [b'c', b't', b'r', b'l', b'-', control] => match control {
                    b'a'..=b'z' => control - b'a' + 1,
                    b'@' => 0,
                    b'[' | b'\\' | b']' | b'^' | b'_' => control - b'[' + 27,
                    _ => return Err(format!("invalid detach keys ({text}): Unknown character: '{key}'")),
                },
                b"DEL" => 127,
                _ => return Err(format!("invalid detach keys ({text}): Unknown character: '{key}'")),
            });
        }
        if keys.len() > MAX_KEYS {
            return Err(format!("invalid detach keys ({text}): more than {MAX_KEYS} keys"));
        }
        Ok(DetachKeys(keys))
    }
}

/// Looks for the sequence in what is typed.
pub struct Scanner {
    keys: Vec<u8>,
    matched: usize,
}

/// What a read of the keyboard comes to.
#[derive(Debug, PartialEq)]
pub enum Scanned {
    /// These bytes are for the container.
    Keys(Vec<u8>),
    /// The sequence is complete; these bytes came before it.
    Detach(Vec<u8>),
}

impl Scanner {
    pub fn new(keys: DetachKeys) -> Scanner {
        Scanner { keys: keys.0, matched: 0 }
    }

    /// Whether keys are held back.
    pub fn is_holding(&self) -> bool {
        self.matched > 0
    }

    /// What was held back, because nothing followed in time.
    pub fn give_up(&mut self) -> Vec<u8> {
        let held = self.keys[..self.matched].to_vec();
        self.matched = 0;
        held
    }

    pub fn scan(&mut self, typed: &[u8]) -> Scanned {
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            while self.matched > 0 && *byte != self.keys[self.matched] {
                self.fall_back(&mut passed);
            }
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return Scanned::Detach(passed);
                }
            } else {
                passed.push(*byte);
            }
        }
        Scanned::Keys(passed)
    }

    /// Lets go of as few held keys as make the rest a beginning of the sequence again.
    fn fall_back(&mut self, passed: &mut Vec<u8>) {
        let held = self.keys[..self.matched].to_vec();
        let still = (0..self.matched).rev().find(|&length| held.ends_with(&self.keys[..length])).unwrap_or(0);
        passed.extend_from_slice(&held[..self.matched - still]);
        self.matched = still;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_read() {
        assert_eq!(DetachKeys::parse("ctrl-p,ctrl-q").unwrap(), DetachKeys::default());
        assert_eq!(DetachKeys::parse("a,ctrl-@,ctrl-[,ctrl-_").unwrap().0, [b'a', 0, 27, 31]);
        for wrong in ["", "foo", "ctrl-", "ctrl-P", "ctrl-p,", "ü"] {
            assert!(DetachKeys::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn dockers_configuration_names_keys() {
        let keys = DetachKeys::in_file(r#"{"auths":{},"detachKeys":"ctrl-e,e"}"#);
        assert_eq!(keys, Some(DetachKeys(vec![5, b'e'])));
        for nothing in ["", "{}", r#"{"detachKeys":""}"#, r#"{"detachKeys":"foo"}"#, r#"{"detachKeys":7}"#] {
            assert_eq!(DetachKeys::in_file(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn the_sequence_is_found_and_nothing_else_is_lost() {
        let mut scanner = Scanner::new(DetachKeys::default());
        assert_eq!(scanner.scan(b"ab\x10"), Scanned::Keys(b"ab".to_vec()));
        assert!(scanner.is_holding());
        assert_eq!(scanner.scan(b"c"), Scanned::Keys(b"\x10c".to_vec()));
        assert_eq!(scanner.scan(b"\x10\x10x"), Scanned::Keys(b"\x10\x10x".to_vec()));
        assert_eq!(scanner.scan(b"\x10"), Scanned::Keys(vec![]));
        assert_eq!(scanner.give_up(), b"\x10");
        assert_eq!(scanner.scan(b"\x11"), Scanned::Keys(b"\x11".to_vec()));
        assert_eq!(scanner.scan(b"y\x10\x11z"), Scanned::Detach(b"y".to_vec()));
        let mut scanner = Scanner::new(DetachKeys::parse("a,a,b").unwrap());
        assert_eq!(scanner.scan(b"aaab"), Scanned::Detach(b"a".to_vec()));
    }
}
