//! Mount options: one table says what each known option means; the parser and the features document both read it.
//!
//! What always holds: an option that is not in the table goes to the file system, as the specification asks; none is
//! understood and then ignored, but for those that stand for the kernel's only behaviour ([`Meaning::Nothing`]).

use crate::sys::mount::{MountAttr, Reach};

/// How much a bind mount takes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bind {
    One,
    Recursive,
}

/// What one option asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// What happens anyway: `defaults`, and switches that kernels no longer have.
    Nothing,
    /// Sets and clears attributes of the mount itself.
    One {
        set: u64,
        clear: u64,
    },
    /// The same for the mount and all below it.
    All {
        set: u64,
        clear: u64,
    },
    /// Propagation type and reach.
    Propagation(u64, Reach),
    Bind(Bind),
    /// A flag of the file system rather than the mount, known to `fsconfig` by this name.
    FileSystem,
    Remount,
    CopyUp,
    IdMap(Reach),
}

const ATIME: u64 = libc::MOUNT_ATTR__ATIME;

const fn set(bit: u64) -> Meaning {
    Meaning::One { set: bit, clear: 0 }
}

const fn clear(bit: u64) -> Meaning {
    Meaning::One { set: 0, clear: bit }
}

const fn atime(value: u64) -> Meaning {
    Meaning::One { set: value, clear: ATIME }
}

const fn all(meaning: Meaning) -> Meaning {
    match meaning {
        Meaning::One { set, clear } => Meaning::All { set, clear },
        other => other,
    }
}

const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const NODIRATIME: u64 = libc::MOUNT_ATTR_NODIRATIME;
const NOSYMFOLLOW: u64 = libc::MOUNT_ATTR_NOSYMFOLLOW;
const RELATIME: u64 = libc::MOUNT_ATTR_RELATIME;
const NOATIME: u64 = libc::MOUNT_ATTR_NOATIME;
const STRICTATIME: u64 = libc::MOUNT_ATTR_STRICTATIME;

/// Every option with a meaning of its own, sorted.
const TABLE: &[(&str, Meaning)] = &[
    ("async", Meaning::FileSystem),
    ("atime", atime(RELATIME)),
    ("bind", Meaning::Bind(Bind::One)),
    ("defaults", Meaning::Nothing),
    ("dev", clear(NODEV)),
    ("diratime", clear(NODIRATIME)),
    ("dirsync", Meaning::FileSystem),
    ("exec", clear(NOEXEC)),
    ("idmap", Meaning::IdMap(Reach::One)),
    // Every file system that has version numbers keeps them, since Linux 6.1 at the latest.
    ("iversion", Meaning::Nothing),
    ("lazytime", Meaning::FileSystem),
    ("loud", Meaning::Nothing),
    ("mand", Meaning::FileSystem),
    ("noatime", atime(NOATIME)),
    ("nodev", set(NODEV)),
    ("nodiratime", set(NODIRATIME)),
    ("noexec", set(NOEXEC)),
    ("noiversion", Meaning::Nothing),
    ("nolazytime", Meaning::FileSystem),
    ("nomand", Meaning::FileSystem),
    ("norelatime", atime(STRICTATIME)),
    ("nostrictatime", atime(RELATIME)),
    ("nosuid", set(NOSUID)),
    ("nosymfollow", set(NOSYMFOLLOW)),
    ("private", Meaning::Propagation(libc::MS_PRIVATE, Reach::One)),
    ("ratime", all(atime(RELATIME))),
    ("rbind", Meaning::Bind(Bind::Recursive)),
    ("rdev", all(clear(NODEV))),
    ("rdiratime", all(clear(NODIRATIME))),
    ("relatime", atime(RELATIME)),
    ("remount", Meaning::Remount),
    ("rexec", all(clear(NOEXEC))),
    ("ridmap", Meaning::IdMap(Reach::Recursive)),
    ("rnoatime", all(atime(NOATIME))),
    ("rnodev", all(set(NODEV))),
    ("rnodiratime", all(set(NODIRATIME))),
    ("rnoexec", all(set(NOEXEC))),
    ("rnorelatime", all(atime(STRICTATIME))),
    ("rnostrictatime", all(atime(RELATIME))),
    ("rnosuid", all(set(NOSUID))),
    ("rnosymfollow", all(set(NOSYMFOLLOW))),
    ("ro", set(RDONLY)),
    ("rprivate", Meaning::Propagation(libc::MS_PRIVATE, Reach::Recursive)),
    ("rrelatime", all(atime(RELATIME))),
    ("rro", all(set(RDONLY))),
    ("rrw", all(clear(RDONLY))),
    ("rshared", Meaning::Propagation(libc::MS_SHARED, Reach::Recursive)),
    ("rslave", Meaning::Propagation(libc::MS_SLAVE, Reach::Recursive)),
    ("rstrictatime", all(atime(STRICTATIME))),
    ("rsuid", all(clear(NOSUID))),
    ("rsymfollow", all(clear(NOSYMFOLLOW))),
    ("runbindable", Meaning::Propagation(libc::MS_UNBINDABLE, Reach::Recursive)),
    ("rw", clear(RDONLY)),
    ("shared", Meaning::Propagation(libc::MS_SHARED, Reach::One)),
    ("silent", Meaning::Nothing),
    ("slave", Meaning::Propagation(libc::MS_SLAVE, Reach::One)),
    ("strictatime", atime(STRICTATIME)),
    ("suid", clear(NOSUID)),
    ("symfollow", clear(NOSYMFOLLOW)),
    ("sync", Meaning::FileSystem),
    ("tmpcopyup", Meaning::CopyUp),
    ("unbindable", Meaning::Propagation(libc::MS_UNBINDABLE, Reach::One)),
];

/// The names of all options with a meaning of their own, for the features document.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, _)| *name)
}

/// The options of one mount, sorted by what they act on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Whether it is a bind mount, and of how much.
    pub(crate) bind: Option<Bind>,
    pub(crate) attr: MountAttr,
    pub(crate) recursive: MountAttr,
    /// Propagation type and whether it applies to all below.
    pub(crate) propagation: Option<(u64, Reach)>,
    /// For the file system: `key` or `key=value`.
    pub(crate) data: Vec<(String, Option<String>)>,
    /// Flags of the file system: `sync`, `lazytime`, …
    pub(crate) flags: Vec<&'static str>,
    /// `ro` was given: for file systems that must be told, not only the mount.
    pub(crate) read_only: bool,
    /// Changes what is mounted there already.
    pub(crate) remount: bool,
    /// A tmpfs starts with what it hides.
    pub(crate) copy_up: bool,
    /// Owners are mapped, here or here and below.
    pub(crate) id_map: Option<Reach>,
}

/// All attributes: what a remount decides anew.
pub(crate) const EVERY_ATTRIBUTE: u64 = RDONLY | NOSUID | NODEV | NOEXEC | NODIRATIME | NOSYMFOLLOW | ATIME;

/// Lets an option change attributes; the last one wins.
fn change(attr: &mut MountAttr, set: u64, clear: u64) {
    attr.set = attr.set & !clear | set;
    attr.clear = attr.clear & !(set & !ATIME) | clear;
}

/// Both kinds of attributes in one, for a mount that has nothing below. What was said of the mount alone wins.
pub(crate) fn merge(attr: &mut MountAttr, recursive: MountAttr) {
    let own_atime = attr.clear & ATIME != 0;
    let (mut set, mut clear) = (recursive.set, recursive.clear);
    if own_atime {
        set &= !ATIME;
        clear &= !ATIME;
    }
    attr.set |= set & !(attr.clear & !ATIME);
    attr.clear |= clear & !(attr.set & !ATIME);
    if attr.propagation == 0 {
        attr.propagation = recursive.propagation;
    }
}

/// Sorts mount options; one that is not known goes to the file system.
pub(crate) fn parse(options: &[String]) -> Options {
    let mut parsed = Options::default();
    for option in options {
        match TABLE.binary_search_by_key(&option.as_str(), |(name, _)| name) {
            Ok(at) => parsed.take(TABLE[at].0, TABLE[at].1),
            // x- options are comments for tools that read mount tables.
            Err(_) if option.is_empty() || option.starts_with("x-") || option.starts_with("X-") => {}
            Err(_) => parsed.data.push(match option.split_once('=') {
                Some((key, value)) => (key.into(), Some(value.into())),
                None => (option.clone(), None),
            }),
        }
    }
    parsed
}

impl Options {
    fn take(&mut self, name: &'static str, meaning: Meaning) {
        match meaning {
            Meaning::Nothing => {}
            Meaning::One { set, clear } => {
                change(&mut self.attr, set, clear);
                if (set | clear) & RDONLY != 0 {
                    self.read_only = set & RDONLY != 0;
                }
            }
            Meaning::All { set, clear } => change(&mut self.recursive, set, clear),
            Meaning::Propagation(kind, reach) => self.propagation = Some((kind, reach)),
            Meaning::Bind(bind) => self.bind = Some(bind),
            Meaning::FileSystem => self.flags.push(name),
            Meaning::Remount => self.remount = true,
            Meaning::CopyUp => self.copy_up = true,
            Meaning::IdMap(reach) => self.id_map = Some(reach),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> Options {
        parse(&options.iter().map(|o| o.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn the_table_is_sorted_and_knows_what_the_specification_lists() {
        assert!(TABLE.is_sorted_by_key(|(name, _)| name));
        for option in ["rsymfollow", "rstrictatime", "ridmap", "tmpcopyup", "dirsync", "mand", "rrw"] {
            assert!(names().any(|name| name == option), "{option}");
            assert!(parsed(&[option]).data.is_empty(), "{option}");
        }
    }

    #[test]
    fn the_last_option_wins() {
        let options = parsed(&["ro", "nosuid", "rw", "rro", "size=64k", "rprivate", "rbind"]);
        assert_eq!(options.attr.set, NOSUID);
        assert_eq!(options.attr.clear, RDONLY);
        assert_eq!(options.recursive.set, RDONLY);
        assert!(!options.read_only);
        assert_eq!(options.bind, Some(Bind::Recursive));
        assert_eq!(options.propagation, Some((libc::MS_PRIVATE, Reach::Recursive)));
        assert_eq!(options.data, [("size".to_owned(), Some("64k".to_owned()))]);
    }

    #[test]
    fn access_times_exclude_each_other() {
        let options = parsed(&["noatime", "strictatime"]);
        assert_eq!(options.attr.set, STRICTATIME);
        assert_eq!(options.attr.clear, ATIME);
        let mut attr = options.attr;
        merge(&mut attr, parsed(&["rnoatime"]).recursive);
        assert_eq!(attr.set, STRICTATIME);
    }
}
