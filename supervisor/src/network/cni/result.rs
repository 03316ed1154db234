//! What the plugins of a network have made, as far as anybody here asks.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An address that a container got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub address: IpAddr,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
}

/// The name servers that the network has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    #[serde(default)]
    pub nameservers: Vec<String>,
    #[serde(default)]
    pub domain: String,
    #[serde(default)]
    pub search: Vec<String>,
    #[serde(default)]
    pub options: Vec<String>,
}

/// The last plugin's result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniResult {
    pub addresses: Vec<Address>,
    /// Of the container's interface.
    pub mac: String,
    pub dns: Dns,
}

impl CniResult {
    /// Reads a result of any version; what is not there is empty.
    pub fn read(value: &Value) -> CniResult {
        let ips = value["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut addresses: Vec<Address> =
            ips.iter().filter_map(|ip| address(&ip["address"], &ip["gateway"])).collect();
        // Before version 0.3.0 there was one of each family.
        for old in [&value["ip4"], &value["ip6"]] {
            addresses.extend(address(&old["ip"], &old["gateway"]));
        }
        let interfaces = value["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
        let inside = interfaces.iter().find(|one| one["sandbox"].as_str().is_some_and(|s| !s.is_empty()));
        let mac = inside.and_then(|one| one["mac"].as_str()).unwrap_or_default().to_owned();
        let dns = serde_json::from_value(value["dns"].clone()).unwrap_or_default();
        CniResult { addresses, mac, dns }
    }
}

fn address(text: &Value, gateway: &Value) -> Option<Address> {
    let (address, prefix) = text.as_str()?.split_once('/')?;
    let gateway = gateway.as_str().and_then(|text| text.parse().ok());
    Some(Address { address: address.parse().ok()?, prefix: prefix.parse().ok()?, gateway })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn results_of_all_versions_are_read() {
        let new = CniResult::read(&json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "br0"}, {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/x"}],
            "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 1}],
            "dns": {"nameservers": ["10.1.0.1"]},
        }));
        assert_eq!((new.addresses[0].prefix, new.mac.as_str()), (24, "02:00:00:00:00:01"));
        assert_eq!(new.dns.nameservers, ["10.1.0.1"]);
        let old = CniResult::read(&json!({"ip4": {"ip": "10.1.0.2/24", "gateway": "10.1.0.1"}}));
        assert_eq!(old.addresses, new.addresses);
        assert_eq!(CniResult::read(&json!([1, {"ips": 3}])), CniResult::default());
    }
}
