//! `update`: other limits for a container that runs.

use super::args::{Args, Flag, Reach};
use super::error::{Error, Result};
use super::store::{self, Status};
use super::{Global, Verb, config};
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value};
use std::io::Read;
use std::path::Path;

pub const VERB: Verb = Verb {
    name: "update",
    about: "change the limits of a container",
    operands: "<container-id>",
    count: (1, 1),
    flags: &[
        Flag::value(
            "resources",
            "file with linux.resources as JSON, - for stdin; other flags are left aside then",
        )
        .or('r'),
        Flag::value("blkio-weight", "block I/O weight, 10 to 1000"),
        Flag::value("cpu-period", "CFS period in microseconds"),
        Flag::value("cpu-quota", "CFS quota in microseconds a period"),
        Flag::value("cpu-burst", "CFS burst in microseconds"),
        Flag::value("cpu-share", "CPU shares against other containers"),
        Flag::value("cpu-rt-period", "real-time period in microseconds"),
        Flag::value("cpu-rt-runtime", "real-time runtime in microseconds a period"),
        Flag::value("cpuset-cpus", "processors to use"),
        Flag::value("cpuset-mems", "memory nodes to use"),
        Flag::value("cpu-idle", "1: run only when nobody else does"),
        Flag::value("memory", "memory limit in bytes"),
        Flag::value("memory-reservation", "memory reservation in bytes"),
        Flag::value("memory-swap", "memory and swap together in bytes, -1 for no limit"),
        Flag::value("kernel-memory", "(obsolete, without effect)"),
        Flag::value("kernel-memory-tcp", "(obsolete, without effect)"),
        Flag::value("pids-limit", "largest number of processes"),
        Flag::value("l3-cache-schema", "Intel RDT: L3 cache schema"),
        Flag::value("mem-bw-schema", "Intel RDT: memory bandwidth schema"),
    ],
    reach: Reach::Anywhere,
    run,
};

/// Number flags, the part of `linux.resources` and the field that they set.
const NUMBERS: &[(&str, &str, &str)] = &[
    ("blkio-weight", "blockIO", "weight"),
    ("cpu-period", "cpu", "period"),
    ("cpu-quota", "cpu", "quota"),
    ("cpu-burst", "cpu", "burst"),
    ("cpu-share", "cpu", "shares"),
    ("cpu-rt-period", "cpu", "realtimePeriod"),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime"),
    ("cpu-idle", "cpu", "idle"),
    ("memory", "memory", "limit"),
    ("memory-reservation", "memory", "reservation"),
    ("memory-swap", "memory", "swap"),
    ("pids-limit", "pids", "limit"),
];
const TEXTS: &[(&str, &str, &str)] = &[("cpuset-cpus", "cpu", "cpus"), ("cpuset-mems", "cpu", "mems")];

fn run(global: &Global, args: &Args) -> Result<i32> {
    let folder = store::open(&global.root, args.id()?)?;
    folder.lock()?;
    let state = folder.read()?;
    let record = state.container.as_ref().ok_or(Error::NotRunning)?;
    if matches!(folder.status(&state)?, Status::Stopped | Status::Creating) {
        return Err(Error::NotRunning);
    }
    if args.filled("l3-cache-schema").or(args.filled("mem-bw-schema")).is_some() {
        return Err(Error::Config("Intel RDT schemas cannot be changed: the container has no RDT group"));
    }
    let resources = match args.filled("resources") {
        Some("-") => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().take(super::limits::CONFIG).read_to_end(&mut bytes);
            read.map_err(Error::io("read", "stdin"))?;
            config::parse(Path::new("stdin"), &bytes)?
        }
        Some(path) => config::parse(Path::new(path), &config::read(Path::new(path))?)?,
        None => from_flags(args)?,
    };
    record.open_cgroups()?.update(&resources)?;
    Ok(0)
}

fn from_flags(args: &Args) -> Result<LinuxResources> {
    let mut resources = Map::new();
    let mut set = |part: &str, field: &str, value: Value| {
        let part = resources.entry(part).or_insert_with(|| Value::Object(Map::new()));
        part[field] = value;
    };
    for (flag, part, field) in NUMBERS {
        if let Some(number) = number(args, flag)? {
            set(part, field, number.into());
        }
    }
    for (flag, part, field) in TEXTS {
        if let Some(text) = args.filled(flag) {
            set(part, field, text.into());
        }
    }
    serde_json::from_value(Value::Object(resources))
        .map_err(|source| Error::Json { path: "the limits on the command line".into(), source })
}

/// Bytes may have a unit, as with runc: `512m`.
fn number(args: &Args, flag: &str) -> Result<Option<i64>> {
    let Some(text) = args.filled(flag) else { return Ok(None) };
    let wrong = || Error::Usage { why: format!("invalid value {text:?} for {flag}") };
    let lower = text.to_ascii_lowercase();
    let plain = lower.strip_suffix("ib").or(lower.strip_suffix('b')).unwrap_or(&lower);
    let (digits, shift) = match plain.chars().last() {
        Some('k') => (&plain[..plain.len() - 1], 10),
        Some('m') => (&plain[..plain.len() - 1], 20),
        Some('g') => (&plain[..plain.len() - 1], 30),
        Some('t') => (&plain[..plain.len() - 1], 40),
        _ => (plain, 0),
    };
    let number: i64 = digits.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).map(Some).ok_or_else(wrong)
}
