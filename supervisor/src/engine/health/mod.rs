//! Health checks: a program of the image or the user is run in the container now and then, and what it says decides
//! whether the container is healthy.
//!
//! What always holds: a container without a check costs nothing; one with a check has at most one probe at a time, whose
//! output and time are bounded; what is known survives the daemon's end.

mod monitor;
mod probe;
mod report;

pub use report::{Health, HealthStatus, Report};

use std::time::Duration;

use jiff::Timestamp;

use super::config::{HealthCheck, Record};
use super::state::State;
use crate::error::{Error, Result};

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES: u32 = 3;
/// Between two probes of a container that is still within its start period.
const START_INTERVAL: Duration = Duration::from_secs(5);

/// The shortest duration that a check may name, in nanoseconds.
const SHORTEST: i64 = 1_000_000;

impl HealthCheck {
    /// Whether it names something to run.
    fn is_on(&self) -> bool {
        self.test.first().is_some_and(|kind| kind != "NONE")
    }

    pub fn is_shell(&self) -> bool {
        self.test.first().is_some_and(|kind| kind == "CMD-SHELL")
    }
}

/// Refuses what cannot be done.
pub fn check(wish: &HealthCheck) -> Result<()> {
    let durations = [
        ("Interval", wish.interval),
        ("Timeout", wish.timeout),
        ("StartPeriod", wish.start_period),
        ("StartInterval", wish.start_interval),
    ];
    for (name, nanoseconds) in durations {
        if nanoseconds != 0 && nanoseconds < SHORTEST {
            return Err(Error::invalid(
                format!("{name} in Healthcheck cannot be less than 1ms"),
                "0 stands for the default",
            ));
        }
    }
    if wish.retries < 0 {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative", "0 stands for the default"));
    }
    match wish.test.first().map(String::as_str) {
        None | Some("NONE") => Ok(()),
        Some("CMD" | "CMD-SHELL") if wish.test.len() > 1 => Ok(()),
        Some("CMD" | "CMD-SHELL") => Err(Error::invalid("health check", "no command is given")),
        Some(other) => Err(Error::invalid(
            format!("Unknown healthcheck type '{other}'"),
            "expected 'CMD', 'CMD-SHELL' or 'NONE'",
        )),
    }
}

/// What the user wants over what the image says.
pub fn merged(wish: HealthCheck, images: &HealthCheck) -> HealthCheck {
    let number = |own: i64, images: i64| if own == 0 { images } else { own };
    HealthCheck {
        test: if wish.test.is_empty() { images.test.clone() } else { wish.test },
        interval: number(wish.interval, images.interval),
        timeout: number(wish.timeout, images.timeout),
        start_period: number(wish.start_period, images.start_period),
        start_interval: number(wish.start_interval, images.start_interval),
        retries: if wish.retries == 0 { images.retries } else { wish.retries },
    }
}

/// A run begins.
pub(super) fn begin(state: &mut State, check: &HealthCheck) {
    state.health = match (check.is_on(), state.health.take()) {
        (false, _) => None,
        (true, known) => {
            let mut health = known.unwrap_or_default();
            health.status = HealthStatus::Starting;
            health.failing_streak = 0;
            Some(health)
        }
    };
}

/// A run is over. As with docker, what does not run is not healthy.
pub(super) fn over(state: &mut State) {
    if let Some(health) = &mut state.health {
        health.status = HealthStatus::Unhealthy;
    }
}

/// A check, ready to be done.
#[derive(Clone, Debug)]
struct Check {
    args: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

impl Check {
    fn of(record: &Record) -> Option<Check> {
        let config = &record.config.health;
        if !config.is_on() {
            return None;
        }
        let mut args = match (config.is_shell(), record.health_shell.is_empty()) {
            (false, _) => Vec::new(),
            (true, true) => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            (true, false) => record.health_shell.clone(),
        };
        args.extend(config.test.iter().skip(1).cloned());
        let or = |nanoseconds: i64, default| match u64::try_from(nanoseconds) {
            Ok(0) | Err(_) => default,
            Ok(nanoseconds) => Duration::from_nanos(nanoseconds),
        };
        let interval = or(config.interval, INTERVAL);
        Some(Check {
            args,
            interval,
            timeout: or(config.timeout, TIMEOUT),
            start_period: or(config.start_period, Duration::ZERO),
            // Nobody who probes often wants to wait longer in the beginning.
            start_interval: or(config.start_interval, START_INTERVAL.min(interval)),
            retries: u32::try_from(config.retries).ok().filter(|&retries| retries > 0).unwrap_or(RETRIES),
        })
    }

    fn is_start(&self, started_at: Option<Timestamp>, now: Timestamp) -> bool {
        started_at.is_some_and(|started| {
            Duration::try_from(now.duration_since(started)).is_ok_and(|ran| ran < self.start_period)
        })
    }

    /// How long to wait for the next probe.
    fn pause(&self, state: &State, now: Timestamp) -> Duration {
        let starting = state.health.as_ref().is_some_and(|health| health.status == HealthStatus::Starting);
        if starting && self.is_start(state.started_at, now) { self.start_interval } else { self.interval }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> HealthCheck {
        HealthCheck { test: vec!["CMD-SHELL".to_owned(), line.to_owned()], ..HealthCheck::default() }
    }

    #[test]
    fn the_users_wishes_go_over_the_images() {
        let images = HealthCheck { interval: 5, retries: 7, ..shell("true") };
        let merged = super::merged(HealthCheck { interval: 9, ..HealthCheck::default() }, &images);
        assert_eq!(merged, HealthCheck { interval: 9, retries: 7, ..shell("true") });
        let none = HealthCheck { test: vec!["NONE".to_owned()], ..HealthCheck::default() };
        assert!(!super::merged(none, &images).is_on());
        assert!(!HealthCheck::default().is_on());
    }

    #[test]
    fn nonsense_is_refused_in_dockers_words() {
        check(&shell("true")).unwrap();
        let short = check(&HealthCheck { timeout: 5, ..HealthCheck::default() }).unwrap_err();
        assert!(short.to_string().starts_with("Timeout in Healthcheck cannot be less than 1ms"), "{short}");
        assert!(check(&HealthCheck { retries: -1, ..HealthCheck::default() }).is_err());
        assert!(check(&HealthCheck { test: vec!["CMD".to_owned()], ..HealthCheck::default() }).is_err());
        assert!(check(&HealthCheck { test: vec!["X".to_owned()], ..HealthCheck::default() }).is_err());
    }
}
