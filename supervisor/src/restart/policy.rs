//! When a container is started again: the labels `containerd.io/restart.*`, as clients of containerd write them.
//!
//! What always holds: pure; a label that cannot be read means that nothing is done, and is said.

#![forbid(unsafe_code)]

use crate::labels::Labels;
use crate::tasks::Status;

/// `running` or `stopped`: what the container is to be. Without it the monitor does nothing.
pub const STATUS: &str = "containerd.io/restart.status";
/// How often the container was started again.
pub const COUNT: &str = "containerd.io/restart.count";
/// Where its output goes then, as in a task's stdio.
pub const LOG_URI: &str = "containerd.io/restart.loguri";
const POLICY: &str = "containerd.io/restart.policy";
const EXPLICITLY_STOPPED: &str = "containerd.io/restart.explicitly-stopped";

/// The policies, as the introspection API lists them.
pub const NAMES: [&str; 4] = ["no", "always", "on-failure", "unless-stopped"];

/// A task as the monitor finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub status: Status,
    /// How it ended, once it has.
    pub exit_status: u32,
}

/// What is to be done with a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Start,
    Stop,
}

/// The policy of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    No,
    Always,
    /// `None`: however often.
    OnFailure(Option<u64>),
    UnlessStopped,
}

impl Policy {
    fn parse(text: &str) -> Result<Self, String> {
        let (name, count) = text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
        match (name, count) {
            ("no", None) => Ok(Self::No),
            ("" | "always", None) => Ok(Self::Always),
            ("unless-stopped", None) => Ok(Self::UnlessStopped),
            ("on-failure", None) => Ok(Self::OnFailure(None)),
            ("on-failure", Some(count)) => match count.parse() {
                Ok(0) => Ok(Self::OnFailure(None)),
                Ok(count) => Ok(Self::OnFailure(Some(count))),
                Err(_) => Err(format!("{count:?} is no number of restarts")),
            },
            _ => Err(format!("there are {}", NAMES.join(", "))),
        }
    }
}

/// What the labels ask for, given the task; `None` for nothing. The error is for the log.
pub fn change(labels: &Labels, task: Option<Found>) -> Result<Option<Change>, String> {
    let wanted = labels.get(STATUS).map_or("", String::as_str);
    match (wanted, task.map(|task| task.status)) {
        ("", _)
        | ("running", Some(Status::Running | Status::Paused | Status::Unknown))
        | ("stopped", None | Some(Status::Stopped | Status::Unknown)) => Ok(None),
        ("stopped", Some(_)) => Ok(Some(Change::Stop)),
        ("running", _) => {
            let restarts = restarts(labels, task.map_or(0, |task| task.exit_status))?;
            Ok(restarts.then_some(Change::Start))
        }
        (other, _) => Err(format!("{STATUS} is {other:?}, not running or stopped")),
    }
}

fn restarts(labels: &Labels, exit_status: u32) -> Result<bool, String> {
    let text = labels.get(POLICY).map_or("", String::as_str);
    let policy = Policy::parse(text).map_err(|why| format!("{POLICY} is {text:?}: {why}"))?;
    Ok(match policy {
        Policy::No => false,
        Policy::Always => true,
        Policy::OnFailure(most) => exit_status != 0 && most.is_none_or(|most| count(labels) < most),
        Policy::UnlessStopped => {
            !labels.get(EXPLICITLY_STOPPED).is_some_and(|value| matches!(value.as_str(), "true" | "1" | "t"))
        }
    })
}

/// How often the container was started again.
pub fn count(labels: &Labels) -> u64 {
    labels.get(COUNT).and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let named = |key| format!("containerd.io/restart.{key}");
        pairs.iter().map(|(key, value)| (named(key), (*value).to_owned())).collect()
    }

    fn ended(exit_status: u32) -> Option<Found> {
        Some(Found { status: Status::Stopped, exit_status })
    }

    #[test]
    fn a_container_without_labels_is_left_alone() {
        assert_eq!(change(&labels(&[("policy", "always")]), ended(1)), Ok(None));
    }

    #[test]
    fn policies_decide_over_an_ended_task() {
        let running = |more: &[(&str, &str)]| {
            let mut all = labels(more);
            all.extend(labels(&[("status", "running")]));
            all
        };
        for (more, exit_status, starts) in [
            (&[][..], 0, true),
            (&[("policy", "always")][..], 0, true),
            (&[("policy", "no")], 1, false),
            (&[("policy", "on-failure")], 0, false),
            (&[("policy", "on-failure"), ("count", "99")], 1, true),
            (&[("policy", "on-failure:2"), ("count", "1")], 1, true),
            (&[("policy", "on-failure:2"), ("count", "2")], 1, false),
            (&[("policy", "unless-stopped")], 0, true),
            (&[("policy", "unless-stopped"), ("explicitly-stopped", "true")], 0, false),
        ] {
            let expected = starts.then_some(Change::Start);
            assert_eq!(change(&running(more), ended(exit_status)), Ok(expected), "{more:?} {exit_status}");
        }
        for bad in ["sometimes", "always:3", "on-failure:x"] {
            assert!(change(&running(&[("policy", bad)]), ended(1)).is_err(), "{bad}");
        }
        for status in [Status::Running, Status::Paused, Status::Unknown] {
            assert_eq!(change(&running(&[]), Some(Found { status, exit_status: 0 })), Ok(None));
        }
        assert_eq!(change(&running(&[]), None), Ok(Some(Change::Start)), "after the host came up again");
    }

    #[test]
    fn what_is_to_be_stopped_is_stopped() {
        let stopped = labels(&[("status", "stopped")]);
        let task = |status| Some(Found { status, exit_status: 0 });
        assert_eq!(change(&stopped, task(Status::Running)), Ok(Some(Change::Stop)));
        assert_eq!(change(&stopped, task(Status::Paused)), Ok(Some(Change::Stop)));
        assert_eq!(change(&stopped, ended(0)), Ok(None));
        assert_eq!(change(&stopped, None), Ok(None));
        assert!(change(&labels(&[("status", "dancing")]), None).is_err());
    }
}
