//! Choosing a subnet for a network whose user named none: the first of the configured pools that is clear of the host's
//! routes and addresses, and of the other networks.

use super::cidr::{Cidr, Family};

/// A stock of subnets of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stock {
    pub base: Cidr,
    /// Prefix of each.
    pub size: u8,
}

/// Subnets of one stock that are looked at.
const MOST: u128 = 4096;

/// The first subnet that nothing overlaps.
pub fn choose(stocks: &[Stock], family: Family, taken: &[Cidr]) -> Option<Cidr> {
    let of_family = stocks.iter().filter(|stock| stock.base.family() == family);
    of_family
        .flat_map(|stock| (0..MOST).map_while(|n| stock.base.nth(stock.size, n)))
        .find(|subnet| !taken.iter().any(|other| other.overlaps(subnet)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_are_clear_of_what_is_there() {
        let stocks = [
            Stock { base: cidr("172.16.0.0/14"), size: 16 },
            Stock { base: cidr("192.168.0.0/16"), size: 20 },
            Stock { base: cidr("fd00:1::/48"), size: 64 },
        ];
        let mut taken = vec![cidr("172.16.5.0/24"), cidr("172.18.0.0/15")];
        assert_eq!(choose(&stocks, Family::V4, &taken), Some(cidr("172.17.0.0/16")));
        taken.push(cidr("172.16.0.0/12"));
        assert_eq!(choose(&stocks, Family::V4, &taken), Some(cidr("192.168.0.0/20")));
        taken.push(cidr("192.0.0.0/8"));
        assert_eq!(choose(&stocks, Family::V4, &taken), None);
        assert_eq!(choose(&stocks, Family::V6, &taken), Some(cidr("fd00:1::/64")));
    }
}
