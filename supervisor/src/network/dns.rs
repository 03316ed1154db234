//! The names that shims answer: a file per network and one per container, below the folder of state. The daemon only
//! writes them; that names are found while it is away is the shims' doing.
//!
//! What always holds: a file is replaced whole, by rename.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use longshore_proto::longshore::shim::v1::{DnsLink, DnsName, DnsTable, DnsView};
use prost::Message;

use crate::error::{Error, Result};

/// Whom the host asks.
pub const HOST: &str = "/etc/resolv.conf";

/// Where containers ask.
pub const ADDRESS: &str = "127.0.0.11";

/// A container on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// Whatever it is called there.
    pub names: Vec<String>,
    /// Its name.
    pub canonical: String,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

/// What one container may look up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Ids of its networks.
    pub networks: Vec<String>,
    /// Alias and name.
    pub links: Vec<(String, String)>,
    /// Who is asked for other names.
    pub servers: Vec<String>,
    /// Whether anybody is.
    pub forward: bool,
    /// Whether it is those of the host, as they are at the time, and `servers` only where these cannot be read.
    pub follows_host: bool,
}

/// All files.
pub struct Dns {
    networks: PathBuf,
    containers: PathBuf,
    /// Two writers of one file would use one draft.
    writing: Mutex<()>,
}

impl Dns {
    pub fn new(state: &Path) -> Dns {
        let folder = state.join("dns");
        Dns {
            networks: folder.join("networks"),
            containers: folder.join("containers"),
            writing: Mutex::default(),
        }
    }

    /// The file of a container, for its shim.
    pub fn path(&self, container: &str) -> PathBuf {
        self.containers.join(container)
    }

    /// Who is in a network, all of them.
    pub fn network(&self, id: &str, name: &str, members: Vec<Name>) -> Result<()> {
        let names = members.into_iter().map(|member| DnsName {
            names: member.names,
            canonical: format!("{}.{name}", member.canonical),
            ipv4: member.ipv4.map(|address| address.octets().to_vec()).unwrap_or_default(),
            ipv6: member.ipv6.map(|address| address.octets().to_vec()).unwrap_or_default(),
        });
        let table = DnsTable { names: names.collect(), network: name.to_owned() };
        self.put(&self.networks, id, &table.encode_to_vec())
    }

    /// What a container may look up.
    pub fn container(&self, id: &str, view: &View) -> Result<()> {
        let tables = view.networks.iter().map(|network| self.networks.join(network).display().to_string());
        let links = view.links.iter();
        let view = DnsView {
            tables: tables.collect(),
            servers: view.servers.clone(),
            forward: view.forward,
            resolv_conf: if view.follows_host { HOST.to_owned() } else { String::new() },
            links: links
                .map(|(alias, target)| DnsLink { alias: alias.clone(), target: target.clone() })
                .collect(),
        };
        self.put(&self.containers, id, &view.encode_to_vec())
    }

    pub fn forget_network(&self, id: &str) {
        let _ = std::fs::remove_file(self.networks.join(id));
    }

    pub fn forget_container(&self, id: &str) {
        let _ = std::fs::remove_file(self.containers.join(id));
    }

    /// Files of other containers go.
    pub fn keep_containers(&self, live: &std::collections::HashSet<String>) {
        for entry in std::fs::read_dir(&self.containers).into_iter().flatten().flatten() {
            if !live.contains(entry.file_name().to_string_lossy().as_ref()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn put(&self, folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
        let _turn = self.writing.lock();
        let draft = folder.join(format!(".{name}"));
        let path = folder.join(name);
        let write = || std::fs::write(&draft, bytes).and_then(|()| std::fs::rename(&draft, &path));
        match write() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(folder).map_err(|source| Error::io("making", folder, source))?;
                write().map_err(|source| Error::io("writing", &path, source))
            }
            written => written.map_err(|source| Error::io("writing", &path, source)),
        }
    }
}

/// The host's name servers, as its resolv.conf tells them.
pub fn host_servers(resolv: &str) -> Vec<String> {
    let lines = resolv.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    lines.filter(|address| address.parse::<std::net::IpAddr>().is_ok()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_whole_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let dns = Dns::new(folder.path());
        let name = Name { canonical: "web".into(), names: vec!["web".into()], ..Name::default() };
        dns.network("n1", "back", vec![name]).unwrap();
        let view = View { networks: vec!["n1".into()], forward: true, ..View::default() };
        dns.container("c1", &view).unwrap();
        let read = DnsView::decode(std::fs::read(dns.path("c1")).unwrap().as_slice()).unwrap();
        let table = DnsTable::decode(std::fs::read(&read.tables[0]).unwrap().as_slice()).unwrap();
        assert_eq!(table.names[0].canonical, "web.back");
        dns.forget_container("c1");
        dns.forget_network("n1");
        assert_eq!(std::fs::read_dir(folder.path().join("dns/networks")).unwrap().count(), 0);
    }

    #[test]
    fn the_hosts_servers_are_read() {
        let text = "# x\nsearch lan\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver 9.9.9.9\n";
        assert_eq!(host_servers(text), ["127.0.0.53", "9.9.9.9"]);
    }
}
