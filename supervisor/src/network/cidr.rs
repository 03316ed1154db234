//! Subnets: an address and how many of its leading bits count.
//!
//! What always holds: the bits after the prefix are zero, so two equal subnets compare equal.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: &IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// The address with this number.
    pub fn address(self, number: u128) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            Family::V6 => Ipv6Addr::from(number).into(),
        }
    }
}

/// An address as a number that grows in the order of addresses.
pub fn number(address: &IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(*v4).into(),
        IpAddr::V6(v6) => (*v6).into(),
    }
}

/// A subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct NoCidr(pub String);

impl Cidr {
    /// The subnet of this prefix that the address is in; `None` if the prefix is longer than an address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Cidr> {
        let family = Family::of(&address);
        (prefix <= family.bits())
            .then(|| Cidr { address: family.address(number(&address) & !host_mask(family, prefix)), prefix })
    }

    pub fn family(&self) -> Family {
        Family::of(&self.address)
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    pub fn first(&self) -> IpAddr {
        self.address
    }

    pub fn last(&self) -> IpAddr {
        self.family().address(self.last_number())
    }

    pub fn first_number(&self) -> u128 {
        number(&self.address)
    }

    pub fn last_number(&self) -> u128 {
        self.first_number() | host_mask(self.family(), self.prefix)
    }

    pub fn contains(&self, address: &IpAddr) -> bool {
        Family::of(address) == self.family()
            && (self.first_number()..=self.last_number()).contains(&number(address))
    }

    pub fn covers(&self, other: &Cidr) -> bool {
        self.prefix <= other.prefix && self.contains(&other.address)
    }

    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// The n-th subnet of a longer prefix within this one.
    pub fn nth(&self, prefix: u8, n: u128) -> Option<Cidr> {
        let family = self.family();
        let bits = prefix.checked_sub(self.prefix).filter(|_| prefix <= family.bits())?;
        if bits < 127 && n >= 1 << bits {
            return None;
        }
        let step = n.checked_shl(u32::from(family.bits() - prefix))?;
        Cidr::new(family.address(self.first_number().checked_add(step)?), prefix)
    }
}

/// Ones where a prefix leaves room for hosts.
fn host_mask(family: Family, prefix: u8) -> u128 {
    match family.bits() - prefix {
        128 => u128::MAX,
        bits => (1 << bits) - 1,
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = NoCidr;

    /// Bits after the prefix are dropped, as docker does.
    fn from_str(text: &str) -> Result<Cidr, NoCidr> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let plain = !prefix.is_empty() && prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit());
            Cidr::new(address.parse().ok()?, plain.then(|| prefix.parse().ok()).flatten()?)
        };
        parse().ok_or_else(|| NoCidr(text.to_owned()))
    }
}

impl TryFrom<String> for Cidr {
    type Error = NoCidr;

    fn try_from(text: String) -> Result<Cidr, NoCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_are_read_and_written() {
        assert_eq!(cidr("10.1.2.3/16").to_string(), "10.1.0.0/16");
        assert_eq!(cidr("fd00::1/64").to_string(), "fd00::/64");
        assert_eq!(cidr("0.0.0.0/0").last().to_string(), "255.255.255.255");
        assert_eq!(cidr("::/0").last_number(), u128::MAX);
        for bad in
            ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "a/8", "10.0.0.0/+8", "10.0.0.0/"]
        {
            assert_eq!(bad.parse::<Cidr>(), Err(NoCidr(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn subnets_within_subnets() {
        assert!(cidr("10.0.0.0/8").covers(&cidr("10.1.0.0/16")));
        assert!(cidr("10.1.0.0/16").overlaps(&cidr("10.0.0.0/8")));
        assert!(!cidr("10.1.0.0/16").overlaps(&cidr("10.2.0.0/16")));
        assert!(!cidr("10.0.0.0/8").overlaps(&cidr("fd00::/8")));
        assert_eq!(cidr("172.16.0.0/12").nth(16, 1), Some(cidr("172.17.0.0/16")));
        assert_eq!(cidr("172.16.0.0/12").nth(16, 16), None);
        assert_eq!(cidr("fd00::/48").nth(64, 3), Some(cidr("fd00:0:0:3::/64")));
        assert_eq!(cidr("::/0").nth(128, 5), Some(cidr("::5/128")));
    }
}
