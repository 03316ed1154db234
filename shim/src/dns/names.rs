//! What a container may look up: the tables of its networks, read again when the daemon has replaced them.
//!
//! What always holds: a file that cannot be read leaves what was known; the daemon need not be there.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use longshore_proto::longshore::shim::v1::{DnsTable, DnsView};
use longshore_proto::ttrpc;
use prost::Message;

use super::message::{Kind, Record};
use crate::limits;

/// What is known of a name or an address.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The records of the kind that was asked for: perhaps none, and then nobody else is asked.
    Records(Vec<Record>),
    Unknown,
}

/// A file as it was read last.
#[derive(Default)]
struct Kept<M> {
    path: PathBuf,
    stamp: Option<Stamp>,
    content: M,
}

impl<M: Message + Default> Kept<M> {
    fn new(path: &Path) -> Self {
        Self { path: path.into(), stamp: None, content: M::default() }
    }

    /// True: it has changed.
    fn refresh(&mut self) -> bool {
        let stamp = stamp(&self.path);
        if stamp.is_none() || stamp == self.stamp {
            return false;
        }
        let Some(content) = read(&self.path) else { return false };
        (self.content, self.stamp) = (content, stamp);
        true
    }
}

/// By what a file is known that was not changed.
type Stamp = (u64, u64, SystemTime);

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.modified().ok()?))
}

/// The host's name servers, read again when its resolv.conf was changed: the host may have moved to another network.
#[derive(Default)]
struct HostServers {
    stamp: Option<Stamp>,
    servers: Vec<SocketAddr>,
}

impl HostServers {
    fn refresh(&mut self, path: &str) {
        if path.is_empty() {
            return;
        }
        let stamp = stamp(Path::new(path));
        // A file that is gone, or without servers while it is written, leaves what was known.
        if stamp.is_none() || stamp == self.stamp {
            return;
        }
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(limits::RESOLV_CONF).read_to_string(&mut text));
        let servers = name_servers(&text);
        if read.is_ok() && !servers.is_empty() {
            (self.stamp, self.servers) = (stamp, servers);
        }
    }
}

/// Those of resolv.conf. Loopback ones are the host's, from where they are asked.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        is_server.then(|| words.next()).flatten().and_then(server)
    });
    lines.take(limits::DNS_SERVERS).collect()
}

fn read<M: Message + Default>(path: &Path) -> Option<M> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(limits::DNS_FILE).read_to_end(&mut bytes).ok()?;
    ttrpc::decode(&bytes, "a table of names").ok()
}

/// The view of one container.
pub struct Names {
    view: Kept<DnsView>,
    tables: Vec<Kept<DnsTable>>,
    host: HostServers,
}

impl Names {
    pub fn new(path: &Path) -> Self {
        let mut names = Self { view: Kept::new(path), tables: Vec::new(), host: HostServers::default() };
        names.refresh();
        names
    }

    /// Looks whether anything has changed.
    pub fn refresh(&mut self) {
        if self.view.refresh() {
            let paths = self.view.content.tables.iter().take(limits::DNS_TABLES);
            self.tables = paths.map(|path| Kept::new(Path::new(path))).collect();
        }
        self.tables.iter_mut().for_each(|table| {
            table.refresh();
        });
        self.host.refresh(&self.view.content.resolv_conf);
    }

    /// Whom to ask for what is not known here; empty: nobody.
    pub fn servers(&self) -> Vec<SocketAddr> {
        let view = &self.view.content;
        if !view.forward {
            return Vec::new();
        }
        if !view.resolv_conf.is_empty() && !self.host.servers.is_empty() {
            return self.host.servers.clone();
        }
        view.servers.iter().filter_map(|text| server(text)).take(limits::DNS_SERVERS).collect()
    }

    /// Answers a question from the tables.
    pub fn look_up(&self, name: &str, kind: Kind, address: Option<IpAddr>) -> Found {
        match (kind, address) {
            (Kind::Ptr, Some(address)) => self.reverse(address),
            (Kind::Ptr, None) => Found::Unknown,
            (kind, _) => self.forward(name, kind),
        }
    }

    fn forward(&self, name: &str, kind: Kind) -> Found {
        let links = &self.view.content.links;
        let target = links.iter().find(|link| link.alias.eq_ignore_ascii_case(name));
        let wanted = target.map_or(name, |link| link.target.as_str());
        let (mut known, mut records) = (false, Vec::new());
        for table in &self.tables {
            // `web.backend` is `web` in the network `backend`.
            let suffix = table.content.network.as_str();
            let short = wanted
                .len()
                .checked_sub(suffix.len() + 1)
                .filter(|_| !suffix.is_empty())
                .and_then(|at| Some((wanted.get(..at)?, wanted.get(at..)?)))
                .filter(|(_, rest)| rest.get(1..).is_some_and(|rest| rest.eq_ignore_ascii_case(suffix)))
                .filter(|(_, rest)| rest.starts_with('.'))
                .map(|(short, _)| short);
            let called = |names: &[String]| {
                names.iter().any(|own| {
                    own.eq_ignore_ascii_case(wanted) || short.is_some_and(|s| own.eq_ignore_ascii_case(s))
                })
            };
            for entry in table.content.names.iter().filter(|entry| called(&entry.names)) {
                known = true;
                let (v4, v6) = (ipv4(&entry.ipv4), ipv6(&entry.ipv6));
                match kind {
                    Kind::A => records.extend(v4.map(Record::A)),
                    Kind::Aaaa => records.extend(v6.map(Record::Aaaa)),
                    Kind::Ptr | Kind::Other => {}
                }
            }
        }
        match known && matches!(kind, Kind::A | Kind::Aaaa) {
            true => Found::Records(records),
            false => Found::Unknown,
        }
    }

    fn reverse(&self, address: IpAddr) -> Found {
        let entries = self.tables.iter().flat_map(|table| &table.content.names);
        let is_his = |v4: &[u8], v6: &[u8]| match address {
            IpAddr::V4(address) => v4 == address.octets(),
            IpAddr::V6(address) => v6 == address.octets(),
        };
        let found = entries.into_iter().find(|entry| is_his(&entry.ipv4, &entry.ipv6));
        match found {
            Some(entry) => Found::Records(vec![Record::Ptr(entry.canonical.clone())]),
            None => Found::Unknown,
        }
    }
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(<[u8; 4]>::try_from(bytes).ok()?.into())
}

fn ipv6(bytes: &[u8]) -> Option<Ipv6Addr> {
    Some(<[u8; 16]>::try_from(bytes).ok()?.into())
}

fn server(text: &str) -> Option<SocketAddr> {
    const PORT: u16 = 53;
    text.parse().ok().or_else(|| Some((text.parse::<IpAddr>().ok()?, PORT).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_proto::longshore::shim::v1::{DnsLink, DnsName};

    fn world(folder: &Path) -> PathBuf {
        let table = DnsTable {
            network: "back".into(),
            names: vec![
                DnsName {
                    names: vec!["db".into(), "store".into()],
                    canonical: "db.back".into(),
                    ipv4: vec![10, 1, 0, 2],
                    ipv6: Vec::new(),
                },
                DnsName {
                    names: vec!["store".into()],
                    canonical: "other.back".into(),
                    ipv4: vec![10, 1, 0, 3],
                    ipv6: vec![0; 16],
                },
            ],
        };
        let path = folder.join("table");
        std::fs::write(&path, table.encode_to_vec()).unwrap();
        let view = DnsView {
            tables: vec![path.display().to_string(), "/nowhere".into()],
            servers: vec!["9.9.9.9".into(), "[::1]:5353".into(), "nonsense".into()],
            forward: true,
            links: vec![DnsLink { alias: "mydb".into(), target: "db".into() }],
            resolv_conf: String::new(),
        };
        std::fs::write(folder.join("view"), view.encode_to_vec()).unwrap();
        folder.join("view")
    }

    #[test]
    fn names_aliases_links_and_addresses_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let names = Names::new(&world(folder.path()));
        let one = || Found::Records(vec![Record::A([10, 1, 0, 2].into())]);
        for name in ["db", "DB", "mydb", "db.back", "DB.Back"] {
            assert_eq!(names.look_up(name, Kind::A, None), one(), "{name}");
        }
        assert_eq!(names.look_up("db", Kind::Aaaa, None), Found::Records(Vec::new()));
        assert_eq!(names.look_up("db", Kind::Other, None), Found::Unknown);
        for name in ["", "d", "back", ".back", "dbxback", "db.back.x"] {
            assert_eq!(names.look_up(name, Kind::A, None), Found::Unknown, "{name}");
        }
        let Found::Records(both) = names.look_up("store", Kind::A, None) else { panic!() };
        assert_eq!(both.len(), 2);
        let reversed = names.look_up("", Kind::Ptr, Some([10, 1, 0, 3].into()));
        assert_eq!(reversed, Found::Records(vec![Record::Ptr("other.back".into())]));
        assert_eq!(names.servers().len(), 2);
    }

    #[test]
    fn a_replaced_table_is_read_again_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut names = Names::new(&world(folder.path()));
        std::fs::write(folder.path().join("table.new"), b"\xff\xff\xff").unwrap();
        std::fs::rename(folder.path().join("table.new"), folder.path().join("table")).unwrap();
        names.refresh();
        assert_ne!(names.look_up("db", Kind::A, None), Found::Unknown);
        let empty = DnsTable { network: "n".into(), names: Vec::new() };
        std::fs::write(folder.path().join("table.new"), empty.encode_to_vec()).unwrap();
        std::fs::rename(folder.path().join("table.new"), folder.path().join("table")).unwrap();
        names.refresh();
        assert_eq!(names.look_up("db", Kind::A, None), Found::Unknown);
    }

    #[test]
    fn the_hosts_servers_are_followed_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let resolv = folder.path().join("resolv.conf");
        let put = |text: &str| {
            let draft = folder.path().join("draft");
            std::fs::write(&draft, text).unwrap();
            std::fs::rename(draft, &resolv).unwrap();
        };
        put("search lan\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\n");
        let view = DnsView {
            servers: vec!["9.9.9.9".into()],
            forward: true,
            resolv_conf: resolv.display().to_string(),
            ..DnsView::default()
        };
        let path = folder.path().join("view");
        std::fs::write(&path, view.encode_to_vec()).unwrap();
        let mut names = Names::new(&path);
        let at = |text: &str| vec![text.parse::<SocketAddr>().unwrap()];
        assert_eq!(names.servers(), at("127.0.0.53:53"));
        put("nameserver 10.1.2.3\n");
        names.refresh();
        assert_eq!(names.servers(), at("10.1.2.3:53"));
        // Being written, or gone: as before.
        put("");
        names.refresh();
        assert_eq!(names.servers(), at("10.1.2.3:53"));
        std::fs::remove_file(&resolv).unwrap();
        names.refresh();
        assert_eq!(names.servers(), at("10.1.2.3:53"));
        let gone = Names::new(&path);
        assert_eq!(gone.servers(), at("9.9.9.9:53"));
    }
}
