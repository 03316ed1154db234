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
pub fn write(folder: &Path, hostname: &str, lines: &[String], resolver: &Resolver<'_>) -> Result<()> {
    let mut hosts = if resolver.of_host { host_file("/etc/hosts") } else { HOSTS.to_owned() };
    for line in lines {
        hosts.push_str(line);
        hosts.push('\n');
    }
    put(&folder.join("hosts"), &hosts)?;
    put(&folder.join("hostname"), &format!("{hostname}\n"))?;
    rewrite_resolver(folder, resolver)
}

/// Who answers a container's questions for names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resolver<'a> {
    /// It is in the host's network.
    pub of_host: bool,
    /// Its shim does.
    pub own: bool,
    pub servers: &'a [String],
    pub search: &'a [String],
    pub options: &'a [String],
}

impl<'a> Resolver<'a> {
    /// What the user did not say is as the network has it.
    pub fn or_else(&mut self, dns: &'a crate::network::cni::Dns) {
        let fill = |own: &mut &'a [String], other: &'a [String]| {
            if own.is_empty() {
                *own = other;
            }
        };
        fill(&mut self.servers, &dns.nameservers);
        fill(&mut self.search, &dns.search);
        fill(&mut self.options, &dns.options);
    }
}

impl Resolver<'_> {
    /// The text of resolv.conf. What the user did not say is as in the host's.
    fn text(&self, of_host: &str) -> String {
        let asked = !(self.servers.is_empty() && self.search.is_empty() && self.options.is_empty());
        let passed_on = if self.of_host { of_host.to_owned() } else { without_loopback(of_host) };
        if !asked && !self.own {
            return passed_on;
        }
        let words = |key: &str| -> Vec<String> {
            let lines = passed_on.lines().filter_map(|line| {
                let mut words = line.split_whitespace();
                (words.next() == Some(key)).then(|| words.map(str::to_owned).collect::<Vec<_>>())
            });
            lines.flatten().collect()
        };
        let or_host = |own: &[String], key| if own.is_empty() { words(key) } else { own.to_vec() };
        let servers = match self.own {
            true => vec![crate::network::dns::ADDRESS.to_owned()],
            false => or_host(self.servers, "nameserver"),
        };
        let mut search = or_host(self.search, "search");
        // A dot alone: no domain at all.
        search.retain(|domain| domain != ".");
        let mut options = or_host(self.options, "options");
        if self.own && !options.iter().any(|option| option.starts_with("ndots:")) {
            options.push("ndots:0".to_owned());
        }
        let mut out = String::new();
        if !search.is_empty() {
            out.push_str(&format!("search {}\n", search.join(" ")));
        }
        servers.iter().for_each(|server| out.push_str(&format!("nameserver {server}\n")));
        if !options.is_empty() {
            out.push_str(&format!("options {}\n", options.join(" ")));
        }
        out
    }
}

/// Writes resolv.conf again, in place.
pub fn rewrite_resolver(folder: &Path, resolver: &Resolver<'_>) -> Result<()> {
    put(&folder.join("resolv.conf"), &resolver.text(&host_resolver(resolver.of_host)))
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
pub fn host_file(path: &str) -> String {
    let mut text = std::fs::read_to_string(path).unwrap_or_default();
    if text.len() > MAX_HOST_FILE {
        text.clear();
    }
    text
}

/// Where systemd-resolved tells the servers behind its own.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The host's resolv.conf. Where systemd-resolved is all that is in it, other network namespaces have what it asks itself.
fn host_resolver(of_host: bool) -> String {
    let text = host_file(crate::network::dns::HOST);
    if !of_host && is_resolved(&text) {
        let behind = host_file(BEHIND_RESOLVED);
        if !behind.is_empty() {
            return behind;
        }
    }
    text
}

fn is_resolved(text: &str) -> bool {
    let servers = crate::network::dns::host_servers(text);
    !servers.is_empty() && servers.iter().all(|server| server == "127.0.0.53")
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
    fn the_resolver_of_systemd_is_known() {
        assert!(is_resolved("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(!is_resolved("nameserver 127.0.0.53\nnameserver 9.9.9.9\n"));
        assert!(!is_resolved("nameserver 127.0.0.1\n") && !is_resolved(""));
    }

    #[test]
    fn name_servers_are_the_shims_the_users_or_the_hosts() {
        let host = "search lan\nnameserver 127.0.0.53\nnameserver 9.9.9.9\noptions edns0\n";
        let none = Resolver::default();
        assert_eq!(none.text(host), "search lan\nnameserver 9.9.9.9\noptions edns0\n");
        let own = Resolver { own: true, ..none };
        assert_eq!(own.text(host), "search lan\nnameserver 127.0.0.11\noptions edns0 ndots:0\n");
        let servers = ["1.1.1.1".to_owned()];
        let asked = Resolver { servers: &servers, ..none };
        assert_eq!(asked.text(host), "search lan\nnameserver 1.1.1.1\noptions edns0\n");
        let search = [".".to_owned()];
        assert_eq!(
            Resolver { search: &search, ..own }.text(host),
            "nameserver 127.0.0.11\noptions edns0 ndots:0\n"
        );
        assert_eq!(Resolver { of_host: true, ..none }.text(host), host);
    }

    #[test]
    fn files_are_written_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let resolver = Resolver::default();
        write(dir.path(), "one", &[], &resolver).unwrap();
        write(dir.path(), "b", &["10.0.0.2\tb".to_owned()], &resolver).unwrap();
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
