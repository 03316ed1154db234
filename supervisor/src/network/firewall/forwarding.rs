//! Whether the host passed packets on before we made it do so. Where it did not, it is to become a router for our networks only:
//! what goes between interfaces of others is dropped, and the setting is taken back with our last network.
//!
//! What always holds: what was turned on is on disk before it is, so that a daemon that starts again knows it; another boot or
//! another network namespace has settings of its own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::ForwardMode;
use crate::network::cidr::Family;

/// What makes the host pass packets on.
const V4: &str = "/proc/sys/net/ipv4/ip_forward";
const V6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// Longest record.
const RECORD: u64 = 4096;

/// Families that the host passes on because of us alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ours {
    pub v4: bool,
    pub v6: bool,
}

impl Ours {
    pub fn any(self) -> bool {
        self.v4 || self.v6
    }

    fn of(&mut self, family: Family) -> &mut bool {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// What is known of it.
pub struct Forwarding {
    mode: ForwardMode,
    record: PathBuf,
    ours: Mutex<Ours>,
}

fn file(family: Family) -> &'static str {
    match family {
        Family::V4 => V4,
        Family::V6 => V6,
    }
}

fn is_off(family: Family) -> bool {
    std::fs::read_to_string(file(family)).is_ok_and(|now| now.trim() == "0")
}

impl Forwarding {
    /// Reads what an earlier daemon has turned on.
    pub fn open(state: &Path, mode: ForwardMode) -> Forwarding {
        let record = state.join("forwarding");
        let ours = match mode {
            ForwardMode::Auto => read(&record),
            ForwardMode::Leave => Ours::default(),
        };
        Forwarding { mode, record, ours: Mutex::new(ours) }
    }

    fn state(&self) -> MutexGuard<'_, Ours> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is on because of us.
    pub fn ours(&self) -> Ours {
        *self.state()
    }

    /// Before it is turned on: remembers where it is off now.
    pub fn note(&self, families: &[Family]) {
        if self.mode == ForwardMode::Leave {
            return;
        }
        let mut ours = self.state();
        let before = *ours;
        for family in families {
            *ours.of(*family) |= is_off(*family);
        }
        if *ours != before {
            self.write(*ours);
        }
    }

    /// Turns it on. False, and nothing is done: it is off, and that was not noted.
    pub fn turn_on(&self, families: &[Family]) -> bool {
        let mut known = self.ours();
        if self.mode == ForwardMode::Auto && families.iter().any(|f| is_off(*f) && !*known.of(*f)) {
            return false;
        }
        families.iter().for_each(|family| turn_on(*family));
        true
    }

    /// Turns off what was turned on: nobody needs it any more.
    pub fn turn_off(&self) {
        let ours = self.ours();
        for (family, on) in [(Family::V4, ours.v4), (Family::V6, ours.v6)] {
            if on {
                crate::network::up::write(file(family), "0");
            }
        }
        self.forget();
    }

    /// Others may use it from now on.
    pub fn forget(&self) {
        let mut ours = self.state();
        *ours = Ours::default();
        let _ = std::fs::remove_file(&self.record);
    }

    fn write(&self, ours: Ours) {
        let text = format!("{}\n{}\n{}\n", place(), u8::from(ours.v4), u8::from(ours.v6));
        let draft = self.record.with_extension("new");
        let written = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, &self.record));
        if let Err(error) = written {
            let path = self.record.display();
            tracing::error!(
                "{path} cannot be written: {error}: a daemon that starts again takes the host for a router"
            );
        }
    }
}

fn turn_on(family: Family) {
    // A host that forwards takes no more router advertisements unless it is told to, and would lose its own routes.
    if family == Family::V6 && is_off(family) {
        for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
            let path = entry.path().join("accept_ra").display().to_string();
            if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == "1") {
                crate::network::up::write(&path, "2");
            }
        }
    }
    crate::network::up::write(file(family), "1");
}

/// Which boot and which network namespace this is.
fn place() -> String {
    use std::os::unix::fs::MetadataExt;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::metadata("/proc/self/ns/net").map_or(0, |found| found.ino());
    format!("{} {namespace}", boot.trim())
}

fn read(record: &Path) -> Ours {
    let take = || -> io::Result<String> {
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(std::fs::File::open(record)?, RECORD), &mut text)?;
        Ok(text)
    };
    let text = take().unwrap_or_default();
    let mut lines = text.lines();
    if lines.next() != Some(place().as_str()) {
        return Ours::default();
    }
    let mut is_on = || lines.next() == Some("1");
    Ours { v4: is_on(), v6: is_on() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_turned_on_is_known_again_in_the_same_place_only() {
        let folder = tempfile::tempdir().unwrap();
        let first = Forwarding::open(folder.path(), ForwardMode::Auto);
        assert!(!first.ours().any());
        first.write(Ours { v4: true, v6: false });
        let again = Forwarding::open(folder.path(), ForwardMode::Auto);
        assert_eq!(again.ours(), Ours { v4: true, v6: false });
        assert!(!Forwarding::open(folder.path(), ForwardMode::Leave).ours().any());
        let record = folder.path().join("forwarding");
        let other = std::fs::read_to_string(&record).unwrap().replacen('-', "x", 1);
        std::fs::write(&record, other).unwrap();
        assert!(!Forwarding::open(folder.path(), ForwardMode::Auto).ours().any());
        again.forget();
        assert!(!record.exists());
    }
}
