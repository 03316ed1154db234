//! Versions of the specification: what a network of an older one is not asked, and what results of another become.

use std::net::IpAddr;

use serde_json::{Value, json};

/// Every version that there is, in order.
const KNOWN: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// From here on results are written in one way, but for the family of addresses.
const MODERN: &str = "0.3.0";
/// From here on addresses do not say their family.
const PLAIN: &str = "1.0.0";
/// Whoever names none.
pub const OLDEST: &str = "0.1.0";
/// From here on plugins know CHECK, and are told at DEL what they have made.
pub const CHECK: &str = "0.4.0";
/// From here on plugins know STATUS and GC.
pub const STATUS: &str = "1.1.0";

fn rank(version: &str) -> Option<usize> {
    KNOWN.iter().position(|known| *known == version)
}

/// Whether a network of this version has what came with another. One that is not known has nothing.
pub fn has(version: &str, since: &str) -> bool {
    rank(version).is_some_and(|rank_of| Some(rank_of) >= rank(since))
}

/// The newest of these that is known.
pub fn newest<'a>(versions: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    versions.filter(|version| rank(version).is_some()).max_by_key(|version| rank(version))
}

/// A plugin's result in the network's version, as the next plugin reads it; or why it is none.
pub fn adopt(mut result: Value, network: &str) -> Result<Value, String> {
    let Value::Object(object) = &mut result else { return Err("it is no JSON object".to_owned()) };
    let said = match object.get("cniVersion") {
        None => network.to_owned(),
        Some(Value::String(text)) if text.is_empty() => network.to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(_) => return Err("its cniVersion is no text".to_owned()),
    };
    if said != network {
        if rank(&said).is_none() {
            return Err(format!("it is of version {said:?}, which does not exist"));
        }
        if !has(&said, MODERN) || !has(network, MODERN) {
            return Err(format!("it is of version {said}, but the network of version {network}"));
        }
    }
    if has(network, MODERN) && !has(network, PLAIN) {
        let addresses = object.get_mut("ips").and_then(Value::as_array_mut);
        for address in addresses.into_iter().flatten().filter_map(Value::as_object_mut) {
            let text = address.get("address").and_then(Value::as_str).unwrap_or_default();
            let ip = text.split('/').next().and_then(|ip| ip.parse::<IpAddr>().ok());
            if let Some(ip) = ip {
                address.entry("version").or_insert(json!(if ip.is_ipv4() { "4" } else { "6" }));
            }
        }
    }
    object.insert("cniVersion".to_owned(), json!(network));
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_what_came_before_its_version() {
        assert!(has("0.4.0", CHECK) && has("1.1.0", STATUS));
        assert!(!has("0.3.1", CHECK) && !has("1.0.0", STATUS) && !has("9.0.0", CHECK) && !has("", CHECK));
        assert_eq!(newest(["0.4.0", "1.0.0", "7.0.0"].into_iter()), Some("1.0.0"));
        assert_eq!(newest(["7.0.0"].into_iter()), None);
    }

    #[test]
    fn a_result_of_another_version_is_adopted_or_refused() {
        let ips = json!([{"address": "10.1.0.2/24"}]);
        let result = |version: &str| json!({"cniVersion": version, "ips": ips});
        let old = adopt(result("1.0.0"), "0.4.0").unwrap();
        assert_eq!(
            (old["cniVersion"].as_str(), old["ips"][0]["version"].as_str()),
            (Some("0.4.0"), Some("4"))
        );
        assert_eq!(adopt(result(""), "1.0.0").unwrap()["cniVersion"], "1.0.0");
        assert_eq!(adopt(json!({}), "1.0.0").unwrap()["cniVersion"], "1.0.0");
        for (wrong, network) in [(result("3.0.0"), "1.0.0"), (result("0.2.0"), "1.0.0"), (json!([]), "1.0.0")]
        {
            assert!(adopt(wrong, network).is_err());
        }
        assert!(adopt(json!({"cniVersion": 4}), "1.0.0").is_err());
    }
}
