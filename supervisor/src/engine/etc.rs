//! The three files of /etc that belong to the container and not to its image: hosts, hostname and resolv.conf.
//! They live in the container's folder and are mounted over the image's, so they can change while it runs.

use std::io::Write;
use std::path::Path;

use crate::engine::config::NetworkMode;
use crate::error::{Error, Result};

/// Largest file of the host's that is copied.
const MAX_HOST_FILE: usize = 1 << 20;

const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                     ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// Writes the files into `folder`, with more lines for hosts. Nothing is synced: they are made again at every start.
pub fn write(folder: &Path, hostname: &str, network: &NetworkMode, lines: &[String]) -> Result<()> {
    let (mut hosts, resolv) = match network {
        NetworkMode::Host => (host_file("/etc/hosts"), host_file("/etc/resolv.conf")),
        _ => (HOSTS.to_owned(), without_loopback(&host_file("/etc/resolv.conf"))),
    };
    for line in lines {
        hosts.push_str(line);
        hosts.push('\n');
    }
    put(&folder.join("hosts"), &hosts)?;
    put(&folder.join("hostname"), &format!("{hostname}\n"))?;
    put(&folder.join("resolv.conf"), &resolv)
}

fn put(path: &Path, text: &str) -> Result<()> {
    let write = || {
        // Written in place: a running container has the file itself mounted.
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|source| Error::io("writing", path, source))
}

/// A host without the file has nothing to say in it.
fn host_file(path: &str) -> String {
    let mut text = std::fs::read_to_string(path).unwrap_or_default();
    if text.len() > MAX_HOST_FILE {
        text.clear();
    }
    text
}

/// A name server on the host's loopback cannot be reached from another network namespace.
fn without_loopback(text: &str) -> String {
    let kept = text.lines().filter(|line| {
        let mut words = line.split_whitespace();
        let server = (words.next() == Some("nameserver")).then(|| words.next()).flatten();
        !server.is_some_and(|server| server.starts_with("127.") || server == "::1")
    });
    let mut out: String = kept.flat_map(|line| [line, "\n"]).collect();
    out.shrink_to_fit();
    out
}

/// The hostname that a container gets: what the user said, the host's in the host's network, else the id's
/// first twelve digits.
pub fn hostname(asked: &str, id: &str, network: &NetworkMode) -> String {
    if !asked.is_empty() {
        return asked.to_owned();
    }
    if *network == NetworkMode::Host
        && let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname")
        && !name.trim().is_empty()
    {
        return name.trim().to_owned();
    }
    id.get(..12).unwrap_or(id).to_owned()
}

/// Refuses what is no hostname (RFC 1123, at most 63 bytes a label and 253 in all).
pub fn check_hostname(name: &str) -> Result<()> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if name.is_empty() || (name.len() <= 64 && name.split('.').all(label)) {
        Ok(())
    } else {
        Err(Error::invalid("hostname", format!("invalid hostname format for --hostname: {name}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_name_servers_are_left_out() {
        let text = "search a\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 9.9.9.9\n";
        assert_eq!(without_loopback(text), "search a\nnameserver 9.9.9.9\n");
    }

    #[test]
    fn files_are_written_in_place() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "one", &NetworkMode::None, &[]).unwrap();
        write(dir.path(), "b", &NetworkMode::None, &["10.0.0.2\tb".to_owned()]).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("hostname")).unwrap(), "b\n");
        assert!(std::fs::read_to_string(dir.path().join("hosts")).unwrap().ends_with("\n10.0.0.2\tb\n"));
    }

    #[test]
    fn hostnames() {
        assert!(check_hostname("web-1.example").is_ok());
        for bad in ["a b", "a/b", "..", &"x".repeat(65), "x\ny"] {
            assert!(check_hostname(bad).is_err(), "{bad}");
        }
        assert_eq!(hostname("", "0123456789abcdef", &NetworkMode::None), "0123456789ab");
    }
}
