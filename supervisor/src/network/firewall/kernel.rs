//! Talking to nftables: rules by the program `nft`, elements of maps, which come and go with containers, over netlink.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use longshore_proto::nfnetlink::socket::{self, Socket};
use longshore_proto::nfnetlink::{self, BaseChain, Batch, Family, conntrack};
use tokio::io::AsyncWriteExt;

use super::ruleset::{ANY, EXACT};
use crate::error::{Error, Result};

/// How long `nft` may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most base chains that are looked at.
const CHAINS: usize = 4096;
const LOCAL_IN: u32 = 1;
const MISSING: i32 = libc::ENOENT;

/// A port that is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    pub protocol: u8,
    /// Unspecified: all of the family.
    pub host: IpAddr,
    pub port: u16,
    /// Of the same family.
    pub target: IpAddr,
    pub target_port: u16,
}

impl Element {
    fn key(&self, visit: impl FnOnce(&str, &[&[u8]])) {
        let (protocol, port) = ([self.protocol], self.port.to_be_bytes());
        let family = usize::from(self.host.is_ipv6());
        let address = octets(&self.host);
        if self.host.is_unspecified() {
            visit(ANY[family], &[&protocol, &port]);
        } else {
            visit(EXACT[family], &[&address, &protocol, &port]);
        }
    }
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Runs one transaction of `nft`.
pub async fn run(text: &str) -> Result<()> {
    let failed = |source| Error::network("changing the packet filter by", "nft -f -", source);
    let talk = async {
        let mut child = tokio::process::Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(PATIENCE, talk).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            let why = "the program nft is not there: install the package nftables";
            return Err(Error::precondition("networks", why));
        }
        Ok(output) => output.map_err(failed)?,
        Err(_) => return Err(Error::Timeout { what: "nft -f -".to_owned(), seconds: PATIENCE.as_secs() }),
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().next().unwrap_or("it says nothing").to_owned();
    Err(failed(io::Error::other(first)))
}

/// Elements of one transaction: the kernel answers for each, and its answers wait in the socket until they are read.
const AT_ONCE: usize = 100;

/// Adds elements; none of them stays when one cannot be added.
pub fn add(table: &str, elements: &[Element]) -> Result<()> {
    for (number, piece) in elements.chunks(AT_ONCE).enumerate() {
        if let Err(error) = change(table, &[], piece) {
            remove(table, elements.get(..number * AT_ONCE).unwrap_or_default())?;
            return Err(error);
        }
    }
    Ok(())
}

/// Removes and adds elements, all or none.
pub fn change(table: &str, remove: &[Element], add: &[Element]) -> Result<()> {
    let mut batch = Batch::default();
    for element in remove {
        element.key(|map, key| batch.delete_element(Family::Inet, table, map, key));
    }
    for element in add {
        let (target, port) = (octets(&element.target), element.target_port.to_be_bytes());
        element.key(|map, key| batch.add_element(Family::Inet, table, map, key, &[&target, &port]));
    }
    if batch.is_empty() {
        return Ok(());
    }
    socket::commit(&batch.finish())
        .map_err(|source| Error::network("publishing ports in the packet filter's table", table, source))
}

/// Removes elements of which some may be gone already.
pub fn remove(table: &str, elements: &[Element]) -> Result<()> {
    elements.chunks(AT_ONCE).try_for_each(|piece| remove_piece(table, piece))
}

/// Whether the kernel did not find what was to be changed.
pub fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Network { source, .. } if source.raw_os_error() == Some(MISSING))
}

fn remove_piece(table: &str, elements: &[Element]) -> Result<()> {
    match change(table, elements, &[]) {
        Err(error) if is_missing(&error) => {}
        result => return result,
    }
    for element in elements {
        match change(table, &[*element], &[]) {
            Err(error) if !is_missing(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes the table; one that is not there is fine.
pub fn remove_table(table: &str) -> Result<()> {
    let mut batch = Batch::default();
    batch.delete_table(Family::Inet, table);
    match socket::commit(&batch.finish()) {
        Err(error) if error.raw_os_error() != Some(MISSING) => {
            Err(Error::network("removing the packet filter's table", table, error))
        }
        _ => Ok(()),
    }
}

/// Whether somebody else's rules keep the host's own ports from other machines: a base chain at the input hook drops what it does
/// not allow. What iptables-legacy does is not seen here.
pub fn input_is_filtered(own: &str) -> Result<bool> {
    let mut found: Vec<BaseChain> = Vec::new();
    Socket::open()
        .and_then(|mut socket| {
            socket.list(&nfnetlink::list_chains(), |datagram| {
                nfnetlink::take_chains(datagram, &mut found) || found.len() > CHAINS
            })
        })
        .map_err(|source| Error::network("looking at", "the packet filter's chains", source))?;
    let filters = |chain: &&BaseChain| {
        let of_ip = [Family::Inet, Family::Ipv4, Family::Ipv6].iter().any(|f| *f as u8 == chain.family);
        // firewalld accepts by policy and refuses by its last rule.
        let refuses = chain.drops || chain.table == "firewalld";
        of_ip && chain.hook == LOCAL_IN && refuses && chain.table != own
    };
    Ok(found.iter().any(|chain| filters(&chain)))
}

/// How many rules are in the table: 0 if there is none.
pub fn count_rules(table: &str) -> Result<usize> {
    let mut count = 0;
    Socket::open()
        .and_then(|mut socket| {
            socket.list(&nfnetlink::list_rules(Family::Inet, table), |datagram| {
                nfnetlink::count_rules(datagram, &mut count)
            })
        })
        .map_err(|source| Error::network("looking at", "the packet filter's rules", source))?;
    Ok(count)
}

/// Most flows that are forgotten at one time.
const FLOWS: usize = 65_536;
const UDP: u8 = 17;

/// Has the connection tracker forget flows of datagrams that somebody sends to these ports and that are led to an address of ours
/// which is not theirs any more: they would go there for as long as he goes on sending. `ours` says which addresses are.
/// May look at every flow of the host's.
pub fn forget_flows(ports: &[StalePort], ours: impl Fn(&IpAddr) -> bool) -> io::Result<()> {
    for family in [Family::Ipv4, Family::Ipv6] {
        if !ports.iter().any(|port| port.host.is_ipv4() == (family == Family::Ipv4)) {
            continue;
        }
        let is_stale = |flow: &conntrack::Flow| {
            flow.protocol == UDP
                && ports.iter().any(|port| port.is_meant(flow.to) && port.target != Some(flow.answers))
                && ours(&flow.answers.ip())
        };
        let mut found = Vec::new();
        Socket::open()?.list(&conntrack::list(family), |datagram| {
            conntrack::take(datagram, is_stale, &mut found) || found.len() > FLOWS
        })?;
        let mut socket = Socket::open()?;
        for flow in &found {
            match socket.commit(flow) {
                Err(error) if error.raw_os_error() != Some(MISSING) => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// A port of the host for datagrams, and where it leads now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StalePort {
    /// Unspecified: all of the family.
    pub host: IpAddr,
    pub port: u16,
    /// `None`: nowhere any more.
    pub target: Option<SocketAddr>,
}

impl StalePort {
    /// Of those elements that are for datagrams.
    pub fn of(elements: &[Element], leads: Leads) -> Vec<StalePort> {
        let datagrams = elements.iter().filter(|element| element.protocol == UDP);
        let port = |element: &Element| StalePort {
            host: element.host,
            port: element.port,
            target: (leads == Leads::There).then_some((element.target, element.target_port).into()),
        };
        datagrams.map(port).collect()
    }

    fn is_meant(&self, to: SocketAddr) -> bool {
        to.port() == self.port
            && to.is_ipv4() == self.host.is_ipv4()
            && (self.host.is_unspecified() || self.host == to.ip())
    }
}

/// Whether a port leads to where its element says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    There,
    Nowhere,
}
