//! `--network NAME` and `--network name=NAME,alias=…,ip=…`.

use longshore_proto::longshore::engine::v1::Endpoint;

use super::csv;

/// What one `--network` asks for; the name is the endpoint's network.
pub fn attachment(text: &str) -> Result<Endpoint, String> {
    if !text.contains('=') {
        return Ok(Endpoint { network: text.to_string(), ..Endpoint::default() });
    }
    let mut endpoint = Endpoint::default();
    let mut named = false;
    for field in csv::fields(text)? {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("invalid field {field}"))?;
        let value = value.trim();
        match key.trim().to_lowercase().as_str() {
            "name" => {
                named = true;
                endpoint.network = value.to_string();
            }
            "alias" => endpoint.aliases.push(value.to_string()),
            "ip" => endpoint.ipv4 = value.to_string(),
            "ip6" => endpoint.ipv6 = value.to_string(),
            "mac-address" => endpoint.mac = value.to_string(),
            "link-local-ip" => endpoint.link_local.push(value.to_string()),
            "driver-opt" => {
                let (key, value) =
                    value.split_once('=').ok_or("invalid key value pair format in driver options")?;
                endpoint.driver_options.insert(key.trim().to_lowercase(), value.trim().to_lowercase());
            }
            "gw-priority" => {
                endpoint.gateway_priority = value.parse().map_err(|_| {
                    format!("invalid gw-priority: strconv.Atoi: parsing {value:?}: invalid syntax")
                })?;
            }
            other => return Err(format!("invalid field key {other}")),
        }
    }
    match named {
        true => Ok(endpoint),
        false => Err("network name/id is not specified".into()),
    }
}

/// Whether a network of this name is one that somebody made, as opposed to those that are always there.
pub fn is_user_defined(name: &str) -> bool {
    !matches!(name, "" | "default" | "bridge" | "none" | "host") && !name.starts_with("container:")
}

/// `CONTAINER[:ALIAS]`.
pub fn link(text: &str) -> Result<String, String> {
    match text.split(':').collect::<Vec<_>>().as_slice() {
        [""] | [] => Err("empty string specified for links".into()),
        [name] | [name, ""] => Ok(format!("{name}:{name}")),
        [name, alias] => Ok(format!("{name}:{alias}")),
        _ => Err(format!("bad format for links: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long() {
        assert_eq!(attachment("web").unwrap().network, "web");
        let long = attachment("name=web,alias=a,alias=b,ip=10.0.0.9,ip6=fd::9,driver-opt=K=V,gw-priority=3")
            .unwrap();
        assert_eq!(
            (long.network.as_str(), long.ipv4.as_str(), long.ipv6.as_str()),
            ("web", "10.0.0.9", "fd::9")
        );
        assert_eq!(long.aliases, ["a", "b"]);
        assert_eq!(long.driver_options["k"], "v");
        assert_eq!(long.gateway_priority, 3);
        for (text, words) in [
            ("name=a,foo=b", "invalid field key foo"),
            ("name=a,badkey", "invalid field badkey"),
            ("alias=x", "network name/id is not specified"),
            ("name=a,driver-opt=x", "invalid key value pair format in driver options"),
        ] {
            assert_eq!(attachment(text).unwrap_err(), words);
        }
    }

    #[test]
    fn links() {
        assert_eq!(link("db").unwrap(), "db:db");
        assert_eq!(link("db:x").unwrap(), "db:x");
        assert_eq!(link("").unwrap_err(), "empty string specified for links");
        assert_eq!(link("a:b:c").unwrap_err(), "bad format for links: a:b:c");
    }
}
