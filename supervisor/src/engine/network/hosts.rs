//! Lines of a container's /etc/hosts: what the user named, linked containers, and its own names.

use std::net::IpAddr;
use std::path::Path;

use crate::engine::Engine;
use crate::engine::config::{NetworkMode, Record};
use crate::error::{Error, Result};
use crate::network::endpoint::EndpointState;
use crate::network::record::BRIDGE;
use crate::network::refusal::Refusal;

/// The host as its containers see it.
const HOST_GATEWAY: &str = "host-gateway";

/// `name:address` or `name=address`; the address may be in brackets.
fn split(text: &str) -> Option<(&str, &str)> {
    let (name, address) = text.split_once(['=', ':'])?;
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    (!name.is_empty()).then_some((name, address))
}

pub fn check(extra: &[String]) -> Result<()> {
    for text in extra {
        let Some((name, address)) = split(text).filter(|(name, _)| !name.contains(char::is_whitespace))
        else {
            return Err(Error::invalid(format!("bad format for add-host: \"{text}\""), "write NAME:ADDRESS"));
        };
        if address != HOST_GATEWAY && address.parse::<IpAddr>().is_err() {
            let what = format!("invalid IP address in add-host: \"{address}\"");
            return Err(Error::invalid(what, format!("{name} needs an address or {HOST_GATEWAY}")));
        }
    }
    Ok(())
}

/// The lines for what the user named.
pub fn extra(extra: &[String], gateway: Option<IpAddr>) -> Result<Vec<String>> {
    let mut lines = Vec::with_capacity(extra.len());
    for (name, address) in extra.iter().filter_map(|text| split(text)) {
        let address = match (address, gateway) {
            (HOST_GATEWAY, Some(gateway)) => gateway.to_string(),
            (HOST_GATEWAY, None) => "127.0.0.1".to_owned(),
            (address, _) => address.to_owned(),
        };
        lines.push(format!("{address}\t{name}"));
    }
    Ok(lines)
}

/// A container's own names.
fn own_names(id: &str, record: &Record) -> String {
    let hostname = crate::engine::etc::hostname(&record.config.hostname, id, &NetworkMode::Default);
    match record.config.domainname.as_str() {
        "" => match hostname.split_once('.') {
            Some((short, _)) => format!("{hostname} {short}"),
            None => hostname,
        },
        domain => format!("{hostname}.{domain} {hostname}"),
    }
}

impl Engine {
    /// All lines but the fixed ones and the container's own.
    pub(super) fn hosts_lines(&self, record: &Record, endpoints: &[EndpointState]) -> Result<Vec<String>> {
        let default = self.networks.find(BRIDGE)?;
        let gateway = default.ipv4.as_ref().map(|subnet| subnet.gateway);
        let mut lines = extra(&record.config.extra_hosts, gateway)?;
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.network == default.id) {
            for link in &endpoint.links {
                lines.push(self.link_line(&default.id, link, &record.name)?);
            }
        }
        Ok(lines)
    }

    /// On the default network links are lines of the hosts file; elsewhere they are answers of the name server.
    fn link_line(
        &self,
        network: &str,
        link: &crate::network::endpoint::Link,
        name_of_own: &str,
    ) -> Result<String> {
        let target = self.find(&link.container)?;
        let (name, live, endpoints) = target.read(|record| {
            (record.name.clone(), record.state.status.is_live(), record.state.endpoints.clone())
        });
        if !live {
            let link = format!("/{name} AS /{name_of_own}/{}", link.alias);
            return Err(Refusal::LinkStopped(link).into());
        }
        let address = endpoints.iter().find(|endpoint| endpoint.network == network).and_then(|e| e.ipv4);
        let address = address.ok_or_else(|| Refusal::LinkElsewhere(format!("/{name}")))?.address;
        let short = target.id.get(..12).unwrap_or(&target.id);
        let mut names = vec![link.alias.as_str()];
        names.extend([short, name.as_str()].into_iter().filter(|other| *other != link.alias));
        Ok(format!("{address}\t{}", names.join(" ")))
    }
}

/// The container's own lines: one for each of its addresses.
pub fn own(id: &str, record: &Record, endpoints: &[EndpointState]) -> Vec<String> {
    let names = own_names(id, record);
    endpoints.iter().flat_map(EndpointState::addresses).map(|address| format!("{address}\t{names}")).collect()
}

/// Adds and takes lines of a running container's file, which it may have written to itself.
pub fn change(path: &Path, add: &[String], take: &[IpAddr]) -> Result<()> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(source) => return Err(Error::io("reading", path, source)),
    };
    let taken = |line: &&str| {
        let address = line.split_whitespace().next().and_then(|word| word.parse::<IpAddr>().ok());
        !address.is_some_and(|address| take.contains(&address))
    };
    let mut changed: String = text.lines().filter(taken).flat_map(|line| [line, "\n"]).collect();
    add.iter().for_each(|line| {
        changed.push_str(line);
        changed.push('\n');
    });
    // In place: the running container has the file itself mounted.
    std::fs::write(path, changed).map_err(|source| Error::io("writing", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_names() {
        let gateway = Some("172.17.0.1".parse().unwrap());
        let words = |text: &[&str]| text.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let wanted = words(&["db:10.0.0.2", "six:fd00::1", "h:host-gateway", "b=[::1]"]);
        check(&wanted).unwrap();
        let lines = extra(&wanted, gateway).unwrap();
        assert_eq!(lines, ["10.0.0.2\tdb", "fd00::1\tsix", "172.17.0.1\th", "::1\tb"]);
        for bad in ["db", ":1.2.3.4", "db:", "db:x", "a b:1.2.3.4"] {
            assert!(check(&words(&[bad])).is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_come_and_go_by_address() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "127.0.0.1\tlocalhost\n10.0.0.2\tx\n").unwrap();
        change(file.path(), &["10.1.0.2\tx".to_owned()], &["10.0.0.2".parse().unwrap()]).unwrap();
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "127.0.0.1\tlocalhost\n10.1.0.2\tx\n");
    }
}
