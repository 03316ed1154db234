//! `events`: resource use once, or again and again with a word for every time that memory ran out.

use super::args::{Args, Flag, Reach};
use super::error::{Error, Result};
use super::state::say;
use super::store::{self, Status};
use super::{Global, Verb, limits};
use longshore_runtime::cgroups::{BlkioEntry, MemoryEntry, Stats};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

pub const VERB: Verb = Verb {
    name: "events",
    about: "show a container's resource use, and when it runs out of memory",
    operands: "<container-id>",
    count: (1, 1),
    flags: &[
        Flag::value("interval", "time between two looks: 5s (default), 500ms, 1m30s"),
        Flag::switch("stats", "look once and exit"),
    ],
    reach: Reach::Anywhere,
    run,
};

fn run(global: &Global, args: &Args) -> Result<i32> {
    let interval = args.filled("interval").map_or(Ok(Duration::from_secs(5)), duration)?;
    if interval.is_zero() || interval > limits::INTERVAL {
        let why =
            format!("duration interval must be greater than 0 and at most {} s", limits::INTERVAL.as_secs());
        return Err(Error::Usage { why });
    }
    let folder = store::open(&global.root, args.id()?)?;
    let state = folder.read()?;
    let record = state.container.as_ref().ok_or(Error::NotRunning)?;
    if folder.status(&state)? == Status::Stopped {
        return Err(Error::Ended { id: state.id });
    }
    let cgroups = record.open_cgroups()?;
    let tell = |kind: &str, data: Option<Value>| {
        let mut event = json!({ "type": kind, "id": state.id });
        if let Some(data) = data {
            event["data"] = data;
        }
        say(&event.to_string())
    };
    if args.has("stats") {
        tell("stats", Some(shown(&cgroups.stats()?)))?;
        return Ok(0);
    }
    let pidfd = record.process().ok_or(Error::NotRunning)?;
    let oom = cgroups.oom_fd();
    let mut kills = cgroups.oom_kills();
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut ready = vec![PollFd::new(&pidfd, PollFlags::IN)];
        ready.extend(oom.as_ref().map(|oom| PollFd::new(oom, PollFlags::IN | PollFlags::PRI)));
        match poll(&mut ready, Some(&left)) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(Error::system("wait for events"))?,
        };
        if let (Some(oom), Some(true)) = (&oom, ready.get(1).map(|ready| !ready.revents().is_empty())) {
            // An eventfd of v1 must be read to fall silent; the file of v2 falls silent by itself.
            let _ = rustix::io::read(oom, &mut [0; 8]);
        }
        let now = cgroups.oom_kills();
        if now > kills {
            kills = now;
            tell("oom", None)?;
        }
        if !ready[0].revents().is_empty() {
            return Ok(0);
        }
        if Instant::now() >= next {
            tell("stats", Some(shown(&cgroups.stats()?)))?;
            next = Instant::now() + interval;
        }
    }
}

/// A duration as Go writes it.
fn duration(text: &str) -> Result<Duration> {
    let wrong = || Error::Usage {
        why: format!("invalid value {text:?} for flag -interval: a duration such as 5s or 500ms"),
    };
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        rest = &rest[unit..];
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
    }
    Ok(total)
}

fn memory(entry: Option<&MemoryEntry>) -> Value {
    let entry = entry.copied().unwrap_or_default();
    json!({ "limit": entry.limit, "usage": entry.usage, "max": entry.max, "failcnt": entry.failcnt })
}

fn blkio(entries: &[BlkioEntry]) -> Value {
    let entry = |e: &BlkioEntry| json!({ "major": e.major, "minor": e.minor, "op": e.op, "value": e.value });
    entries.iter().map(entry).collect()
}

/// In the layout of runc's `types.Stats`.
fn shown(stats: &Stats) -> Value {
    let cpu = stats.cpu.clone().unwrap_or_default();
    let used = stats.memory.clone().unwrap_or_default();
    let pids = stats.pids.unwrap_or_default();
    let raw: Map<String, Value> =
        used.stat.iter().map(|(name, value)| (name.clone(), (*value).into())).collect();
    let cache = match used.get("cache") {
        0 => used.get("file"),
        cache => cache,
    };
    let hugetlb: Map<String, Value> = stats
        .hugetlb
        .iter()
        .map(|h| (h.page_size.clone(), json!({ "usage": h.usage, "max": h.max, "failcnt": h.failcnt })))
        .collect();
    let io = &stats.blkio;
    json!({
        "cpu": {
            "usage": { "total": cpu.total, "percpu": cpu.per_cpu, "kernel": cpu.kernel, "user": cpu.user },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled_time,
            },
        },
        "memory": {
            "cache": cache,
            "usage": memory(Some(&used.usage)),
            "swap": memory(used.swap.as_ref()),
            "kernel": memory(used.kernel.as_ref()),
            "kernelTCP": memory(used.kernel_tcp.as_ref()),
            "raw": raw,
        },
        "pids": { "current": pids.current, "limit": pids.limit },
        "blkio": {
            "ioServiceBytesRecursive": blkio(&io.io_service_bytes),
            "ioServicedRecursive": blkio(&io.io_serviced),
            "ioQueueRecursive": blkio(&io.io_queued),
            "ioServiceTimeRecursive": blkio(&io.io_service_time),
            "ioWaitTimeRecursive": blkio(&io.io_wait_time),
            "ioMergedRecursive": blkio(&io.io_merged),
            "ioTimeRecursive": blkio(&io.io_time),
            "sectorsRecursive": blkio(&io.sectors),
        },
        "hugetlb": hugetlb,
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        assert_eq!(duration("5s").unwrap(), Duration::from_secs(5));
        assert_eq!(duration("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert!(duration("5").is_err() && duration("x").is_err() && duration("1e9h").is_err());
    }
}
