//! Limits of a container's processes: those that were asked for, then the daemon's for all containers.

use std::collections::BTreeMap;

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use crate::engine::config::Ulimit;
use crate::error::{Error, Result};

/// What containers get that ask for nothing else: `engine.default_ulimits` as `nofile = "1024:4096"`.
pub fn defaults(configured: &BTreeMap<String, String>) -> Result<Vec<Ulimit>> {
    configured
        .iter()
        .map(|(name, values)| {
            let wrong = || {
                let what = format!("engine.default_ulimits.{name}");
                Error::invalid(what, format!("{values:?}: write SOFT or SOFT:HARD, -1 for no limit"))
            };
            kind(name)?;
            let (soft, hard) = values.split_once(':').unwrap_or((values, values));
            let limit = Ulimit {
                name: name.clone(),
                soft: soft.parse().map_err(|_| wrong())?,
                hard: hard.parse().map_err(|_| wrong())?,
            };
            check_one(&limit)?;
            Ok(limit)
        })
        .collect()
}

/// Checks what was asked for.
pub fn check(limits: &[Ulimit]) -> Result<()> {
    limits.iter().try_for_each(check_one)
}

fn check_one(limit: &Ulimit) -> Result<()> {
    kind(&limit.name)?;
    let value = |number: i64| if number == -1 { u64::MAX } else { number.unsigned_abs() };
    if limit.soft < -1 || limit.hard < -1 {
        return Err(Error::invalid(format!("ulimit {}", limit.name), "a limit is -1 (none) or 0 and more"));
    }
    if value(limit.soft) > value(limit.hard) {
        return Err(Error::invalid(
            "ulimit soft limit must be less than or equal to hard limit",
            format!("{} > {}", limit.soft, limit.hard),
        ));
    }
    Ok(())
}

/// The `process.rlimits` of a spec; `None`: as the daemon has them.
pub fn rlimits(asked: &[Ulimit], defaults: &[Ulimit]) -> Result<Option<Vec<PosixRlimit>>> {
    let inherited = defaults.iter().filter(|limit| !asked.iter().any(|own| own.name == limit.name));
    let all: Vec<PosixRlimit> = asked.iter().chain(inherited).map(rlimit).collect::<Result<_>>()?;
    Ok((!all.is_empty()).then_some(all))
}

fn rlimit(limit: &Ulimit) -> Result<PosixRlimit> {
    let value = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
    PosixRlimitBuilder::default()
        .typ(kind(&limit.name)?)
        .soft(value(limit.soft))
        .hard(value(limit.hard))
        .build()
        .map_err(Error::oci)
}

fn kind(name: &str) -> Result<PosixRlimitType> {
    Ok(match name {
        "as" => PosixRlimitType::RlimitAs,
        "core" => PosixRlimitType::RlimitCore,
        "cpu" => PosixRlimitType::RlimitCpu,
        "data" => PosixRlimitType::RlimitData,
        "fsize" => PosixRlimitType::RlimitFsize,
        "locks" => PosixRlimitType::RlimitLocks,
        "memlock" => PosixRlimitType::RlimitMemlock,
        "msgqueue" => PosixRlimitType::RlimitMsgqueue,
        "nice" => PosixRlimitType::RlimitNice,
        "nofile" => PosixRlimitType::RlimitNofile,
        "nproc" => PosixRlimitType::RlimitNproc,
        "rss" => PosixRlimitType::RlimitRss,
        "rtprio" => PosixRlimitType::RlimitRtprio,
        "rttime" => PosixRlimitType::RlimitRttime,
        "sigpending" => PosixRlimitType::RlimitSigpending,
        "stack" => PosixRlimitType::RlimitStack,
        _ => {
            return Err(Error::invalid(
                format!("invalid ulimit type: {name}"),
                "they are those of setrlimit, as nofile, nproc or core",
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_wins_over_the_daemon_s() {
        let configured =
            [("nofile".to_owned(), "10:20".to_owned()), ("core".to_owned(), "-1".to_owned())].into();
        let defaults = defaults(&configured).unwrap();
        let asked = [Ulimit { name: "nofile".into(), soft: 5, hard: 6 }];
        let all = rlimits(&asked, &defaults).unwrap().unwrap();
        let parts: Vec<_> = all.iter().map(|limit| (limit.typ(), limit.soft(), limit.hard())).collect();
        assert_eq!(
            parts,
            [(PosixRlimitType::RlimitNofile, 5, 6), (PosixRlimitType::RlimitCore, u64::MAX, u64::MAX)]
        );
        assert_eq!(rlimits(&[], &[]).unwrap(), None);
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        for (name, soft, hard) in [("foo", 1, 1), ("nofile", 2, 1), ("nofile", -1, 1), ("nofile", -2, -1)] {
            assert!(check(&[Ulimit { name: name.into(), soft, hard }]).is_err(), "{name} {soft} {hard}");
        }
        assert!(defaults(&[("nofile".to_owned(), "x".to_owned())].into()).is_err());
    }
}
