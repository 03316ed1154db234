//! What the probes of a container have said.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Check;
use crate::engine::config::stamp;

/// Reports kept.
pub const KEPT: usize = 5;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No probe has succeeded yet, and not too many have failed.
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    /// As `inspect` and events write it.
    pub fn as_str(self) -> &'static str {
        match self {
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }

    /// As `ps` writes it.
    pub fn in_brackets(self) -> &'static str {
        match self {
            HealthStatus::Starting => "health: starting",
            other => other.as_str(),
        }
    }
}

/// What one probe said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    #[serde(with = "stamp")]
    pub start: Timestamp,
    #[serde(with = "stamp")]
    pub end: Timestamp,
    /// 0: healthy; -1: it could not be run, or took too long.
    pub exit_code: i64,
    pub output: String,
}

/// The health of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub status: HealthStatus,
    /// Failures since the last success, those of the start period apart.
    #[serde(default)]
    pub failing_streak: u32,
    /// The newest, oldest first.
    #[serde(default)]
    pub log: VecDeque<Report>,
}

impl Health {
    /// Takes a report; the new status if it has changed.
    pub(super) fn take(
        &mut self,
        report: Report,
        check: &Check,
        started_at: Option<Timestamp>,
    ) -> Option<HealthStatus> {
        let before = self.status;
        if report.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else {
            let excused = before == HealthStatus::Starting && check.is_start(started_at, report.start);
            if !excused {
                self.failing_streak = self.failing_streak.saturating_add(1);
                if self.failing_streak >= check.retries {
                    self.status = HealthStatus::Unhealthy;
                }
            }
        }
        while self.log.len() >= KEPT {
            self.log.pop_front();
        }
        self.log.push_back(report);
        (self.status != before).then_some(self.status)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn check(start_period: u64) -> Check {
        Check {
            args: Vec::new(),
            interval: Duration::ZERO,
            timeout: Duration::ZERO,
            start_period: Duration::from_secs(start_period),
            start_interval: Duration::ZERO,
            retries: 3,
        }
    }

    fn report(exit_code: i64, second: i64) -> Report {
        let time = Timestamp::from_second(second).unwrap();
        Report { start: time, end: time, exit_code, output: String::new() }
    }

    #[test]
    fn three_failures_in_a_row_are_unhealthy_and_five_reports_are_kept() {
        let mut health = Health::default();
        let started = Some(Timestamp::UNIX_EPOCH);
        let mut said = |code| health.take(report(code, 1), &check(0), started);
        assert_eq!([said(1), said(2), said(0)], [None, None, Some(HealthStatus::Healthy)]);
        assert_eq!([said(1), said(1), said(-1)], [None, None, Some(HealthStatus::Unhealthy)]);
        assert_eq!(said(0), Some(HealthStatus::Healthy));
        let codes: Vec<i64> = health.log.iter().map(|report| report.exit_code).collect();
        assert_eq!(codes, [0, 1, 1, -1, 0]);
    }

    #[test]
    fn failures_of_the_start_period_do_not_count_until_it_was_healthy() {
        let mut health = Health::default();
        let (started, check) = (Some(Timestamp::UNIX_EPOCH), check(10));
        for second in 0..9 {
            assert_eq!(health.take(report(1, second), &check, started), None);
        }
        assert_eq!((health.failing_streak, health.status), (0, HealthStatus::Starting));
        health.take(report(0, 9), &check, started);
        health.take(report(1, 9), &check, started);
        assert_eq!(health.failing_streak, 1, "it has started");
    }
}
