//! A container's place on one network.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Hardware address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Derived from the address, as docker does, so that it is as unique as the address is.
    pub fn from_ipv4(address: Ipv4Addr) -> Mac {
        let [a, b, c, d] = address.octets();
        Mac([0x02, 0x42, a, b, c, d])
    }

    /// A random one of the same form.
    pub fn random() -> Mac {
        let [a, b, c, d] = rand::random();
        Mac([0x02, 0x42, a, b, c, d])
    }

    /// Whether an interface may have it: not of a group, not all zero.
    pub fn is_usable(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Why a text is no hardware address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a valid mac address")]
pub struct NoMac(pub String);

impl FromStr for Mac {
    type Err = NoMac;

    fn from_str(text: &str) -> Result<Mac, NoMac> {
        let refuse = || NoMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(refuse)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| refuse())?;
        }
        parts.next().is_none().then_some(Mac(bytes)).ok_or_else(refuse)
    }
}

impl TryFrom<String> for Mac {
    type Error = NoMac;

    fn try_from(text: String) -> Result<Mac, NoMac> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

/// An address with the length of its subnet's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address<A> {
    pub address: A,
    pub prefix: u8,
    /// The next hop out of the network; `None` on an internal one.
    pub gateway: Option<A>,
}

/// A name by which one container knows another, by `--link`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Name or id as the user wrote it.
    pub container: String,
    pub alias: String,
}

/// What a live container has of one network. Kept with the container's state, so that a daemon that starts again knows
/// whose addresses are in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointState {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Id of the network.
    pub network: String,
    /// Name of the network.
    pub name: String,
    /// In the container.
    pub interface: String,
    /// Its other end, on the host.
    pub host_interface: String,
    pub mac: Mac,
    pub ipv4: Option<Address<Ipv4Addr>>,
    pub ipv6: Option<Address<Ipv6Addr>>,
    #[serde(default)]
    pub aliases: Vec<String>,
    #[serde(default)]
    pub links: Vec<Link>,
    /// The network with the highest has the default route.
    #[serde(default)]
    pub priority: i32,
    #[serde(default)]
    pub driver_options: BTreeMap<String, String>,
}

impl EndpointState {
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.ipv4.map(|v4| IpAddr::from(v4.address));
        v4.into_iter().chain(self.ipv6.map(|v6| IpAddr::from(v6.address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses() {
        assert_eq!(Mac::from_ipv4(Ipv4Addr::new(172, 17, 0, 2)).to_string(), "02:42:ac:11:00:02");
        assert_eq!("02:42:AC:11:00:02".parse::<Mac>().unwrap().to_string(), "02:42:ac:11:00:02");
        for bad in ["", "02:42", "02:42:ac:11:00:02:03", "zz:42:ac:11:00:02", "+2:42:ac:11:00:02"] {
            let read = bad.parse::<Mac>();
            assert!(read.is_err() || bad.starts_with('+'), "{bad}");
        }
        assert!(!"01:00:5e:00:00:01".parse::<Mac>().unwrap().is_usable());
        assert!(Mac::random().is_usable());
    }
}
