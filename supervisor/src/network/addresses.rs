//! Which addresses of a network are taken. They are given out in turn, so that one that was given back rests as long as
//! possible: its interface may take a moment to go, and neighbours remember it.
//!
//! What always holds: no address is given to two.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use super::cidr::{Cidr, Family, number};
use super::record::Subnet;

/// The addresses of one subnet.
#[derive(Debug)]
pub struct Addresses {
    net: Cidr,
    range: Cidr,
    taken: HashSet<u128>,
    /// Given back, with the interface that may still answer for it.
    resting: BTreeMap<u128, String>,
    next: u128,
}

/// Why there is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAddress {
    /// All are taken.
    Full,
    Taken,
    Outside,
}

/// An address that was given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub address: IpAddr,
    /// An interface that has to go before the address is used.
    pub evict: Option<String>,
}

impl Addresses {
    pub fn new(subnet: &Subnet) -> Addresses {
        let range = subnet.range.unwrap_or(subnet.net);
        let mut taken: HashSet<u128> = subnet.auxiliary.values().map(number).collect();
        taken.insert(number(&subnet.gateway));
        Addresses { net: subnet.net, range, taken, resting: BTreeMap::new(), next: range.first_number() }
    }

    /// The subnet's own address and the one for all of it are nobody's, unless it is too small to have them.
    fn bounds(&self) -> (u128, u128) {
        let (first, last) = (self.net.first_number(), self.net.last_number());
        let small = self.net.prefix() + 1 >= self.net.family().bits();
        let (low, high) = match self.net.family() {
            _ if small => (first, last),
            Family::V4 => (first + 1, last - 1),
            Family::V6 => (first + 1, last),
        };
        (low.max(self.range.first_number()), high.min(self.range.last_number()))
    }

    /// The next free address.
    pub fn give(&mut self) -> Result<Given, NoAddress> {
        let (low, high) = self.bounds();
        if low > high {
            return Err(NoAddress::Full);
        }
        let mut candidate = self.next.clamp(low, high);
        // Each taken or resting address is looked at once at most.
        let most = (self.taken.len() + self.resting.len()) as u128 + 1;
        let mut rested = None;
        for _ in 0..most.min(high - low + 1) {
            if !self.taken.contains(&candidate) {
                if !self.resting.contains_key(&candidate) {
                    return Ok(self.hand_out(candidate, high, low));
                }
                rested.get_or_insert(candidate);
            }
            candidate = if candidate == high { low } else { candidate + 1 };
        }
        match rested {
            Some(candidate) => Ok(self.hand_out(candidate, high, low)),
            None => Err(NoAddress::Full),
        }
    }

    fn hand_out(&mut self, candidate: u128, high: u128, low: u128) -> Given {
        self.next = if candidate == high { low } else { candidate + 1 };
        self.taken.insert(candidate);
        Given { address: self.net.family().address(candidate), evict: self.resting.remove(&candidate) }
    }

    /// This very address.
    pub fn take(&mut self, address: &IpAddr) -> Result<Given, NoAddress> {
        if !self.net.contains(address) {
            return Err(NoAddress::Outside);
        }
        let candidate = number(address);
        if !self.taken.insert(candidate) {
            return Err(NoAddress::Taken);
        }
        Ok(Given { address: *address, evict: self.resting.remove(&candidate) })
    }

    /// Gives an address back that this interface had.
    pub fn give_back(&mut self, address: &IpAddr, interface: &str) {
        if self.taken.remove(&number(address)) && !interface.is_empty() {
            self.resting.insert(number(address), interface.to_owned());
        }
    }

    /// The interfaces of addresses that rest.
    pub fn resting(&self) -> impl Iterator<Item = &String> {
        self.resting.values()
    }

    /// An interface is gone: its address needs no rest any more.
    pub fn rested(&mut self, is_gone: impl Fn(&str) -> bool) {
        self.resting.retain(|_, interface| !is_gone(interface));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::record::Chosen;

    fn addresses(net: &str, range: Option<&str>) -> Addresses {
        let net: Cidr = net.parse().unwrap();
        Addresses::new(&Subnet {
            net,
            gateway: net.family().address(net.first_number() + 1),
            range: range.map(|range| range.parse().unwrap()),
            auxiliary: BTreeMap::new(),
            chosen: Chosen::ByUser,
        })
    }

    fn given(addresses: &mut Addresses) -> Option<String> {
        addresses.give().ok().map(|given| given.address.to_string())
    }

    #[test]
    fn a_subnet_is_given_out_in_turn_until_it_is_full() {
        let mut four = addresses("10.0.0.0/29", None);
        let all: Vec<_> = std::iter::from_fn(|| given(&mut four)).collect();
        assert_eq!(all, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(four.give(), Err(NoAddress::Full));
        four.give_back(&"10.0.0.4".parse().unwrap(), "veth1");
        let again = four.give().unwrap();
        assert_eq!((again.address.to_string().as_str(), again.evict.as_deref()), ("10.0.0.4", Some("veth1")));
    }

    #[test]
    fn an_address_rests_while_others_are_free() {
        let mut four = addresses("10.0.0.0/29", None);
        let first = four.give().unwrap().address;
        four.give_back(&first, "v");
        assert_eq!(given(&mut four).as_deref(), Some("10.0.0.3"));
        four.rested(|_| true);
        assert_eq!(four.resting().count(), 0);
    }

    #[test]
    fn fixed_addresses_and_ranges() {
        let mut own = addresses("10.0.0.0/24", Some("10.0.0.128/30"));
        let all: Vec<_> = std::iter::from_fn(|| given(&mut own)).collect();
        assert_eq!(all, ["10.0.0.128", "10.0.0.129", "10.0.0.130", "10.0.0.131"]);
        let fixed: IpAddr = "10.0.0.9".parse().unwrap();
        assert!(own.take(&fixed).is_ok());
        assert_eq!(own.take(&fixed), Err(NoAddress::Taken));
        assert_eq!(own.take(&"10.0.1.9".parse().unwrap()), Err(NoAddress::Outside));
        assert_eq!(own.take(&"10.0.0.1".parse().unwrap()), Err(NoAddress::Taken), "the gateway");
    }

    #[test]
    fn the_smallest_and_the_largest_subnets() {
        let mut point = addresses("10.0.0.0/31", None);
        assert_eq!(given(&mut point).as_deref(), Some("10.0.0.0"));
        assert_eq!(given(&mut point), None);
        let mut large = addresses("fd00::/64", None);
        assert_eq!(given(&mut large).as_deref(), Some("fd00::2"));
        let mut all = addresses("::/0", None);
        assert_eq!(given(&mut all).as_deref(), Some("::2"));
    }
}
