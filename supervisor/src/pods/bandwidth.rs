//! How fast a pod may send and receive, as its annotations say it, for plugins with the capability `bandwidth`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

const KEYS: [(&str, &str); 2] =
    [("kubernetes.io/ingress-bandwidth", "ingress"), ("kubernetes.io/egress-bandwidth", "egress")];
/// Bits per second that make sense, as Kubernetes has them.
const LEAST: u64 = 1_000;
const MOST: u64 = 1_000_000_000_000_000;
/// Bits that may come at once: as many as plugins take.
const BURST: u32 = u32::MAX;

/// The plugin's argument; `None` if the pod has no limits.
pub fn limits(annotations: &BTreeMap<String, String>) -> Result<Option<Value>> {
    let mut limits = Map::new();
    for (key, direction) in KEYS {
        let Some(text) = annotations.get(key) else { continue };
        let rate = quantity(text).filter(|rate| (LEAST..=MOST).contains(rate)).ok_or_else(|| {
            Error::invalid(
                format!("annotation {key}={text:?}"),
                "it must be 1k to 1P bits per second, as in 10M",
            )
        })?;
        limits.insert(format!("{direction}Rate"), json!(rate));
        limits.insert(format!("{direction}Burst"), json!(BURST));
    }
    Ok((!limits.is_empty()).then_some(Value::Object(limits)))
}

/// A quantity as Kubernetes writes them, rounded up: `10M`, `1.5Gi`, `2e6`.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 30 {
        return None;
    }
    let scale = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        exponent => {
            let exponent: u32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            10u128.checked_pow(exponent)?
        }
    };
    let units: u128 = format!("{whole}{fraction}").parse().ok()?;
    let divisor = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    u64::try_from(units.checked_mul(scale)?.div_ceil(divisor)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, value) in [
            ("10M", 10_000_000),
            ("1.5k", 1_500),
            ("1Ki", 1_024),
            ("2e6", 2_000_000),
            ("0.0005M", 500),
            (".5M", 500_000),
        ] {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        for bad in ["", "M", "-1M", "1.2.3", "1m", "1e99", "10 M", "99999999999999999999P"] {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }

    #[test]
    fn limits_are_given_in_both_directions_or_refused() {
        let of = |pairs: &[(&str, &str)]| {
            limits(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        assert!(of(&[("other", "1M")]).unwrap().is_none());
        let both = of(&[(KEYS[0].0, "1M"), (KEYS[1].0, "2M")]).unwrap().unwrap();
        assert_eq!(
            (both["ingressRate"].as_u64(), both["egressRate"].as_u64()),
            (Some(1_000_000), Some(2_000_000))
        );
        assert_eq!(both["egressBurst"], json!(BURST));
        for bad in ["1", "2P", "fast"] {
            assert!(of(&[(KEYS[0].0, bad)]).is_err(), "{bad}");
        }
    }
}
