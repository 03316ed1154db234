//! The limits of `linux.resources` as properties of a unit, and the properties that annotations ask for.
//!
//! What always holds: an annotation becomes a property only if its name looks like one and its value is typed; systemd
//! decides whether it knows it.

use super::super::{Mode, devices, limits};
use super::value::Value;
use super::variant;
use crate::{Error, Result};
use oci_spec::runtime::{LinuxCpu, LinuxResources, Spec};

/// Before the name of a property in an annotation.
const ANNOTATION: &str = "org.systemd.property.";
/// No limit.
const INFINITY: u64 = u64::MAX;
/// The kernel's period of the processor quota, in microseconds.
const PERIOD: u64 = 100_000;
/// systemd counts quotas in percents: 10 ms of a second.
const PERCENT: u64 = 10_000;
/// Highest processor or memory node that is taken.
const CPU_MAX: u64 = 8191;

type Property = (String, Value);

/// As `StartTransientUnit` and `SetUnitProperties` take them.
pub(super) fn to_wire(list: Vec<Property>) -> Value {
    let pair = |(name, value)| Value::Struct(vec![Value::Str(name), Value::variant(value)]);
    Value::Array("(sv)".into(), list.into_iter().map(pair).collect())
}

/// For a new unit.
pub(super) fn of_new(resources: &LinuxResources, mode: Mode) -> Result<Vec<Property>> {
    let mut list = of_update(resources, mode)?;
    // Cannot be changed later.
    let group = resources.unified().as_ref().and_then(|unified| unified.get("memory.oom.group"));
    if let Some(policy) =
        group.and_then(|value| ["continue", "kill"].get(value.trim().parse::<usize>().ok()?))
    {
        list.push(("OOMPolicy".into(), Value::str(*policy)));
    }
    Ok(list)
}

/// For a unit that exists: what is not set stays as it is.
pub(super) fn of_update(resources: &LinuxResources, mode: Mode) -> Result<Vec<Property>> {
    let mut list = Vec::new();
    let mut add = |name: &str, value: Value| list.push((name.to_owned(), value));
    if let Some(rules) = resources.devices().as_deref() {
        devices::systemd_properties(rules, &mut add)?;
    }
    if let Some(memory) = resources.memory() {
        memory_properties(memory, mode, &mut add)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_properties(cpu, mode, &mut add)?;
    }
    if let Some(pids) = resources.pids() {
        add("TasksMax", Value::U64(tasks(pids.limit())));
    }
    if let Some(weight) =
        resources.block_io().as_ref().and_then(|io| io.weight()).filter(|weight| *weight != 0)
    {
        match mode {
            Mode::V2 => add("IOWeight", Value::U64(limits::io_weight(weight))),
            _ => add("BlockIOWeight", Value::U64(weight.into())),
        }
    }
    for (file, value) in resources.unified().iter().flatten() {
        unified(file, value.trim(), &mut add)?;
    }
    Ok(list)
}

/// systemd takes no zero.
fn tasks(limit: i64) -> u64 {
    u64::try_from(limit).map_or(INFINITY, |limit| limit.max(1))
}

fn bytes(value: i64) -> Value {
    Value::U64(u64::try_from(value).unwrap_or(INFINITY))
}

fn memory_properties(
    memory: &oci_spec::runtime::LinuxMemory,
    mode: Mode,
    add: &mut impl FnMut(&str, Value),
) -> Result<()> {
    // Zero is not set, as in Go.
    if let Some(limit) = memory.limit().filter(|limit| *limit != 0) {
        add(if mode == Mode::V2 { "MemoryMax" } else { "MemoryLimit" }, bytes(limit));
    }
    if mode != Mode::V2 {
        return Ok(());
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        add("MemoryLow", bytes(reservation));
    }
    if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
        add("MemorySwapMax", Value::U64(limits::swap_alone(swap, memory.limit())?.unwrap_or(INFINITY)));
    }
    Ok(())
}

fn cpu_properties(cpu: &LinuxCpu, mode: Mode, add: &mut impl FnMut(&str, Value)) -> Result<()> {
    let shares = cpu.shares().filter(|shares| *shares != 0);
    match (mode, cpu.idle(), shares) {
        // A weight of zero is idle, from systemd 252 on; the control file has it in any case.
        (Mode::V2, Some(1), _) => {}
        (Mode::V2, _, Some(shares)) => add("CPUWeight", Value::U64(limits::weight_of_shares(shares))),
        (_, _, Some(shares)) => add("CPUShares", Value::U64(shares)),
        (_, _, None) => {}
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    quota_properties(quota, cpu.period().filter(|period| *period != 0), add);
    for (name, list, field) in [
        ("AllowedCPUs", cpu.cpus(), "linux.resources.cpu.cpus"),
        ("AllowedMemoryNodes", cpu.mems(), "linux.resources.cpu.mems"),
    ] {
        if let Some(text) = list.as_deref().filter(|text| !text.is_empty()) {
            add(name, bits(text, field)?);
        }
    }
    Ok(())
}

/// Rounded up to what systemd can express, so that the quota of the control file fits below it.
fn quota_properties(quota: Option<i64>, period: Option<u64>, add: &mut impl FnMut(&str, Value)) {
    if let Some(period) = period {
        add("CPUQuotaPeriodUSec", Value::U64(period));
    }
    if quota.is_some() || period.is_some() {
        let per_second = match quota.and_then(|quota| u64::try_from(quota).ok()) {
            Some(quota) => {
                let exact = u128::from(quota) * 1_000_000 / u128::from(period.unwrap_or(PERIOD));
                let highest = INFINITY - INFINITY % PERCENT;
                u64::try_from(exact).unwrap_or(highest).checked_next_multiple_of(PERCENT).unwrap_or(highest)
            }
            None => INFINITY,
        };
        add("CPUQuotaPerSecUSec", Value::U64(per_second));
    }
}

/// Control files that systemd has a property for; others are for the files alone.
fn unified(file: &str, value: &str, add: &mut impl FnMut(&str, Value)) -> Result<()> {
    let field = || format!("linux.resources.unified[{file:?}]");
    let number = |text: &str| match text {
        "max" => Ok(INFINITY),
        text => text.parse().map_err(|_| invalid(field(), format!("{text:?} is neither a number nor max"))),
    };
    match file {
        "cpu.weight" => add("CPUWeight", Value::U64(number(value)?)),
        "cpu.max" => {
            let mut words = value.split_whitespace();
            let quota = match words.next() {
                None | Some("max") => None,
                Some(text) => i64::try_from(number(text)?).ok(),
            };
            let period = words.next().map(number).transpose()?.filter(|period| *period != 0);
            quota_properties(quota, Some(period.unwrap_or(PERIOD)), add);
        }
        "cpuset.cpus" => add("AllowedCPUs", bits(value, &field())?),
        "cpuset.mems" => add("AllowedMemoryNodes", bits(value, &field())?),
        "memory.min" => add("MemoryMin", Value::U64(number(value)?)),
        "memory.low" => add("MemoryLow", Value::U64(number(value)?)),
        "memory.high" => add("MemoryHigh", Value::U64(number(value)?)),
        "memory.max" => add("MemoryMax", Value::U64(number(value)?)),
        "memory.swap.max" => add("MemorySwapMax", Value::U64(number(value)?)),
        "pids.max" => add("TasksMax", Value::U64(number(value)?.max(1))),
        _ => {}
    }
    Ok(())
}

/// `0-2,7` as a mask of bytes, the lowest first.
fn bits(text: &str, field: &str) -> Result<Value> {
    let refused =
        || invalid(field.into(), format!("{text:?} is no list of numbers and ranges up to {CPU_MAX}"));
    let number =
        |text: &str| text.trim().parse::<u64>().ok().filter(|number| *number <= CPU_MAX).ok_or_else(refused);
    let mut mask: Vec<u8> = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if last < first {
            return Err(refused());
        }
        for bit in first..=last {
            let byte = (bit / 8) as usize;
            mask.resize(mask.len().max(byte + 1), 0);
            mask[byte] |= 1 << (bit % 8);
        }
    }
    if mask.is_empty() {
        return Err(refused());
    }
    Ok(Value::Array("y".into(), mask.into_iter().map(Value::Byte).collect()))
}

fn invalid(field: String, why: impl Into<String>) -> Error {
    Error::InvalidSpec { field, why: why.into() }
}

/// Properties that the spec's annotations ask for. Whoever writes specs from what others send (Kubernetes' annotations of
/// pods) must not pass these on (CVE-2024-3154).
pub(super) fn of_annotations(spec: &Spec) -> Result<Vec<Property>> {
    let mut list = Vec::new();
    for (key, text) in spec.annotations().iter().flatten() {
        let Some(name) = key.strip_prefix(ANNOTATION) else { continue };
        let field = || format!("annotations[{key:?}]");
        // Names are of one form: no other is worth a question to systemd.
        if !name.starts_with(|c: char| c.is_ascii_uppercase())
            || !name.bytes().all(|c| c.is_ascii_alphabetic())
        {
            return Err(invalid(field(), format!("{name:?} is no name of a unit's property")));
        }
        let value = variant::parse(text).map_err(|why| invalid(field(), format!("{text:?} {why}")))?;
        list.push(
            match name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase())) {
                Some(stem) => (
                    format!("{stem}USec"),
                    microseconds(&value)
                        .ok_or_else(|| invalid(field(), format!("{text:?} is no number of seconds")))?,
                ),
                None => (name.to_owned(), value),
            },
        );
    }
    Ok(list)
}

/// Over D-Bus systemd knows durations in microseconds only.
fn microseconds(value: &Value) -> Option<Value> {
    let seconds = match value {
        Value::Byte(n) => u64::from(*n),
        Value::U16(n) => u64::from(*n),
        Value::U32(n) => u64::from(*n),
        Value::U64(n) => *n,
        Value::I16(n) => u64::try_from(*n).ok()?,
        Value::I32(n) => u64::try_from(*n).ok()?,
        Value::I64(n) => u64::try_from(*n).ok()?,
        Value::Double(n) if *n >= 0.0 && *n < 1e12 => return Some(Value::U64((n * 1e6) as u64)),
        _ => return None,
    };
    seconds.checked_mul(1_000_000).map(Value::U64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: serde_json::Value) -> Vec<Property> {
        of_update(&serde_json::from_value(json).unwrap(), Mode::V2).unwrap()
    }

    fn one(name: &str, value: u64) -> Property {
        (name.into(), Value::U64(value))
    }

    #[test]
    fn a_quota_beyond_what_systemd_counts_is_its_highest() {
        let list =
            of(serde_json::json!({ "cpu": { "quota": 1_844_674_407_370_955_161_i64, "period": 100_000 } }));
        let highest = u64::MAX - u64::MAX % 10_000;
        assert!(list.contains(&one("CPUQuotaPerSecUSec", highest)), "{list:?}");
    }

    #[test]
    fn limits_become_properties() {
        let list = of(
            serde_json::json!({ "memory": { "limit": 1000, "swap": 3000, "reservation": 10 }, "pids": { "limit": 0 } }),
        );
        assert_eq!(
            list,
            [one("MemoryMax", 1000), one("MemoryLow", 10), one("MemorySwapMax", 2000), one("TasksMax", 1)]
        );
        let list = of(
            serde_json::json!({ "cpu": { "shares": 1024, "quota": 33_333, "period": 100_000, "cpus": "0-1,9" } }),
        );
        let mask = Value::Array("y".into(), vec![Value::Byte(3), Value::Byte(2)]);
        let cpus = ("AllowedCPUs".to_owned(), mask);
        assert_eq!(
            list,
            [
                one("CPUWeight", 39),
                one("CPUQuotaPeriodUSec", 100_000),
                one("CPUQuotaPerSecUSec", 340_000),
                cpus
            ]
        );
        assert!(bits("5-1", "x").is_err() && bits("9999", "x").is_err() && bits("", "x").is_err());
    }

    #[test]
    fn cve_2024_3154_annotations_are_typed_and_named() {
        let with = |key: &str, value: &str| {
            let annotations = std::collections::HashMap::from([(key.to_owned(), value.to_owned())]);
            let mut spec = Spec::default();
            spec.set_annotations(Some(annotations));
            of_annotations(&spec)
        };
        assert_eq!(
            with("org.systemd.property.TimeoutStopSec", "uint64 2").unwrap(),
            [one("TimeoutStopUSec", 2_000_000)]
        );
        assert_eq!(
            with("org.systemd.property.TimeoutStopUSec", "uint64 2").unwrap(),
            [one("TimeoutStopUSec", 2)]
        );
        assert!(with("some.other", "x").unwrap().is_empty());
        for (name, value) in [
            ("ExecStart=x", "'y'"),
            ("lower", "'y'"),
            ("", "'y'"),
            ("TimeoutStopSec", "'y'"),
            ("CollectMode", "plain"),
        ] {
            assert!(with(&format!("org.systemd.property.{name}"), value).is_err(), "{name}");
        }
    }
}
