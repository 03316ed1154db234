//! Who a container's process runs as: `--user` or the image's USER, looked up in the container's own
//! /etc/passwd and /etc/group. Those files come from strangers: they are read as text and nothing in them is run,
//! digits are always a number and never a name, and ids outside 0..=2147483647 are refused instead of wrapped.

use std::collections::HashSet;
use std::io::{BufRead, Read};

use crate::error::{Error, Result};

/// Largest passwd or group file that is read.
pub const MAX_FILE: u64 = 10 << 20;

/// Longest line of one.
const MAX_LINE: usize = 1 << 20;

/// Most supplementary groups: the kernel's own limit.
pub const MAX_GROUPS: usize = 65536;

/// Highest id: what fits a signed 32-bit number, as with other container tools.
const MAX_ID: u32 = i32::MAX as u32;

/// A resolved user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Always includes `gid`.
    pub groups: Vec<u32>,
    pub home: String,
}

struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// Resolves `user` (`name|uid[:group|gid]`, empty: root) with the container's files; a missing file is empty.
pub fn resolve(user: &str, passwd: Option<impl Read>, group: Option<impl Read>) -> Result<Identity> {
    resolve_in(user, None, passwd, group)
}

/// As [`resolve`], but the first group is this one instead of the account's own, which counts no more unless the group file lists the
/// user in it.
pub fn resolve_in(
    user: &str,
    primary: Option<u32>,
    passwd: Option<impl Read>,
    group: Option<impl Read>,
) -> Result<Identity> {
    let (user_part, group_part) = match user.split_once(':') {
        Some((user_part, group_part)) => (user_part, Some(group_part).filter(|g| !g.is_empty())),
        None => (user, None),
    };
    let wanted = Wanted::parse(if user_part.is_empty() { "0" } else { user_part })?;
    let account = match passwd {
        Some(file) => find_account(file, &wanted)?,
        None => None,
    };
    let (uid, mut gid, home) = match (&account, &wanted) {
        (Some(account), _) => (account.uid, account.gid, account.home.clone()),
        (None, Wanted::Id(uid)) => (*uid, 0, "/".to_owned()),
        (None, Wanted::Name(name)) => {
            return Err(Error::invalid(
                "user",
                format!("unable to find user {name}: no matching entries in passwd file"),
            ));
        }
    };
    let mut groups = Vec::new();
    match group_part {
        Some(text) => gid = find_group(group, &Wanted::parse(text)?)?,
        None => {
            if let (Some(account), Some(file)) = (&account, group) {
                groups = groups_of(file, &account.name)?;
            }
        }
    }
    gid = primary.unwrap_or(gid);
    if !groups.contains(&gid) {
        groups.truncate(MAX_GROUPS - 1);
        groups.insert(0, gid);
    }
    let home = if home.is_empty() { "/".to_owned() } else { home };
    Ok(Identity { uid, gid, groups, home })
}

/// The groups of `--group-add`: numbers, or names of the container's.
pub fn more_groups(
    names: &[String],
    mut open: impl FnMut() -> Result<Option<std::fs::File>>,
) -> Result<Vec<u32>> {
    let mut groups = Vec::new();
    for name in names {
        let gid = match Wanted::parse(name)? {
            Wanted::Id(gid) => gid,
            wanted @ Wanted::Name(_) => find_group(open()?, &wanted).map_err(|_| {
                Error::invalid(format!("Unable to find group {name}"), "no matching entries in group file")
            })?,
        };
        if !groups.contains(&gid) && groups.len() < MAX_GROUPS {
            groups.push(gid);
        }
    }
    Ok(groups)
}

enum Wanted {
    Id(u32),
    Name(String),
}

impl Wanted {
    fn parse(text: &str) -> Result<Wanted> {
        if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
            return id(text).map(Wanted::Id).ok_or_else(|| {
                Error::invalid("user", format!("{text:?}: uids and gids must be in range 0-{MAX_ID}"))
            });
        }
        if text.bytes().any(|b| b.is_ascii_control() || b == b':') {
            return Err(Error::invalid("user", format!("{text:?} is not a user or group name")));
        }
        Ok(Wanted::Name(text.to_owned()))
    }
}

fn id(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|&id| id <= MAX_ID)
}

/// Calls `each` with the fields of every line until it returns something.
fn scan<T>(file: impl Read, what: &str, mut each: impl FnMut(&[&str]) -> Option<T>) -> Result<Option<T>> {
    let mut reader = std::io::BufReader::new(file.take(MAX_FILE + 1));
    let mut line = Vec::new();
    let mut seen = 0_u64;
    loop {
        line.clear();
        let got = reader
            .read_until(b'\n', &mut line)
            .map_err(|source| Error::io("reading the container's", format!("/etc/{what}"), source))?;
        seen += got as u64;
        if seen > MAX_FILE {
            return Err(Error::invalid(format!("/etc/{what} of the container"), "is larger than 10 MiB"));
        }
        if got == 0 {
            return Ok(None);
        }
        if line.len() > MAX_LINE {
            return Err(Error::invalid(
                format!("/etc/{what} of the container"),
                format!("has a line of more than {} KiB", MAX_LINE >> 10),
            ));
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        // As many as passwd has.
        let fields: Vec<&str> = text.splitn(7, ':').collect();
        if let Some(found) = each(&fields) {
            return Ok(Some(found));
        }
    }
}

fn find_account(file: impl Read, wanted: &Wanted) -> Result<Option<Account>> {
    let found = scan(file, "passwd", |fields| {
        let [name, _, uid, gid, rest @ ..] = fields else { return None };
        let matches = match wanted {
            Wanted::Name(wanted) => name == wanted,
            Wanted::Id(wanted) => id(uid) == Some(*wanted),
        };
        let home = rest.get(1).copied().unwrap_or_default();
        matches.then(|| ((*name).to_owned(), id(uid), id(gid), home.to_owned()))
    })?;
    let Some((name, uid, gid, home)) = found else { return Ok(None) };
    match (uid, gid) {
        (Some(uid), Some(gid)) => Ok(Some(Account { name, uid, gid, home })),
        _ => Err(Error::invalid(
            "/etc/passwd of the container",
            format!("the entry of {name:?} has a uid or gid outside 0-{MAX_ID}"),
        )),
    }
}

fn find_group(file: Option<impl Read>, wanted: &Wanted) -> Result<u32> {
    let name = match wanted {
        Wanted::Id(gid) => return Ok(*gid),
        Wanted::Name(name) => name,
    };
    let found = match file {
        Some(file) => scan(file, "group", |fields| {
            let [group, _, gid, ..] = fields else { return None };
            (group == name).then(|| id(gid))
        })?,
        None => None,
    };
    match found {
        Some(Some(gid)) => Ok(gid),
        Some(None) => Err(Error::invalid(
            "/etc/group of the container",
            format!("the entry of {name:?} has a gid outside 0-{MAX_ID}"),
        )),
        None => Err(Error::invalid(
            "user",
            format!("unable to find group {name}: no matching entries in group file"),
        )),
    }
}

fn groups_of(file: impl Read, member: &str) -> Result<Vec<u32>> {
    let (mut groups, mut seen) = (Vec::new(), HashSet::new());
    scan(file, "group", |fields| {
        let [_, _, gid, members, ..] = fields else { return None };
        if let Some(gid) = id(gid)
            && members.split(',').any(|name| name.trim() == member)
            && seen.insert(gid)
        {
            groups.push(gid);
        }
        (groups.len() == MAX_GROUPS).then_some(())
    })?;
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\n\nweb:x:33:33::/srv/web:\n1000:x:5:5::/evil:\n\
                          huge:x:4294967296:0::/:\nbob:x:1000:1000::/home/bob:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\naudio:x:29:bob,web\nvideo:x:44:web\nwild:x:4294967297:\n";

    fn who(user: &str) -> Result<Identity> {
        resolve(user, Some(PASSWD.as_bytes()), Some(GROUP.as_bytes()))
    }

    #[test]
    fn names_numbers_and_groups() {
        let web = who("web").unwrap();
        assert_eq!((web.uid, web.gid, web.home.as_str()), (33, 33, "/srv/web"));
        assert_eq!(web.groups, [33, 29, 44]);
        assert_eq!(who("").unwrap().home, "/root");
        assert_eq!(who("web:audio").unwrap().groups, [29]);
        assert_eq!(who("12:44").unwrap(), Identity { uid: 12, gid: 44, groups: vec![44], home: "/".into() });
        assert_eq!(who("1:0").unwrap().uid, 1);
        assert!(who("nobody").unwrap_err().to_string().contains("unable to find user nobody"));
        assert!(who("0:nogroup").unwrap_err().to_string().contains("unable to find group nogroup"));
    }

    #[test]
    fn another_primary_group_leaves_those_that_the_group_file_lists() {
        let group = "root:x:0:\nweb:x:33:web\naudio:x:29:web\n";
        let of = |group: &str| {
            let found = resolve_in("web", Some(7), Some(PASSWD.as_bytes()), Some(group.as_bytes())).unwrap();
            (found.gid, found.groups)
        };
        assert_eq!(of(group), (7, vec![7, 33, 29]));
        assert_eq!(of(GROUP), (7, vec![7, 29, 44]), "the account's own is not listed");
    }

    #[test]
    fn cve_2022_36109_the_primary_group_is_among_the_supplementary_ones() {
        assert!(who("12").unwrap().groups.contains(&0));
        assert!(who("bob").unwrap().groups.contains(&1000));
    }

    #[test]
    fn cve_2024_40635_ids_do_not_wrap() {
        for user in ["4294967296", "2147483648", "99999999999999999999", "0:4294967296", "huge", "0:wild"] {
            assert!(who(user).is_err(), "{user}");
        }
    }

    #[test]
    fn cve_2026_46680_a_number_is_never_a_name() {
        let bob = who("1000").unwrap();
        assert_eq!((bob.uid, bob.home.as_str()), (1000, "/home/bob"));
    }

    #[test]
    fn cve_2026_47262_a_huge_passwd_is_refused() {
        let endless = std::io::repeat(b'a');
        let error = resolve("web", Some(endless), Some(GROUP.as_bytes())).unwrap_err();
        assert!(error.to_string().contains("10 MiB"), "{error}");
    }

    #[test]
    fn hostile_files_cost_little() {
        let colons = format!("{}\nweb:x:33:33::/srv/web:\n", ":".repeat(MAX_LINE + 1));
        let error = resolve("web", Some(colons.as_bytes()), Some(GROUP.as_bytes())).unwrap_err();
        assert!(error.to_string().contains("a line of more than"), "{error}");
        let many: String = (1..=400_000).map(|gid| format!("g:x:{gid}:web\n")).collect();
        let started = std::time::Instant::now();
        let web = resolve("web", Some(PASSWD.as_bytes()), Some(many.as_bytes())).unwrap();
        assert_eq!(web.groups.len(), MAX_GROUPS);
        assert!(web.groups.contains(&33));
        // A search of what was found for each line took minutes.
        assert!(started.elapsed() < std::time::Duration::from_secs(20));
    }

    #[test]
    fn missing_files_are_empty() {
        let none: Option<&[u8]> = None;
        assert_eq!(resolve("7", none, none).unwrap().home, "/");
        assert!(resolve("web", none, none).is_err());
    }
}
