//! Starting containers again by themselves: what the restart policy says, and the pauses between.
//!
//! What always holds: whether a run that ended is followed by another is decided where its end is recorded, under the
//! container's turn; between the two the container is [`Status::Restarting`], and whoever takes it out of that state
//! under its turn has ended the matter. A wish to stop is noted before anything is signalled, and outlives the daemon.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::Engine;
use super::config::{RestartCondition, RestartPolicy};
use super::conflict::Conflict;
use super::health::HealthStatus;
use super::registry::Entry;
use super::start::{StartFailure, Starter};
use super::state::{Exit, State, Status};
use crate::error::{Error, Result};

/// The pause before the first restart, in milliseconds. It doubles with each.
const FIRST_PAUSE: u64 = 100;

/// The longest pause.
const LONGEST_PAUSE: u64 = 60_000;

/// After a run of this length pauses begin anew.
const LONG_RUN: Duration = Duration::from_secs(10);

/// Containers that are started at one time after the daemon's own start.
const STARTS_AT_ONCE: usize = 8;

/// Whether a policy would start a container again after a run with this end, and after how many milliseconds. `state` is
/// the one before the end.
pub fn pause_after(policy: &RestartPolicy, state: &State, exit: Exit, ran: Duration) -> Option<u64> {
    if state.stop_asked || !wants(policy, state, exit.code) {
        return None;
    }
    Some(if ran >= LONG_RUN { FIRST_PAUSE } else { longer(state.backoff_ms) })
}

fn wants(policy: &RestartPolicy, state: &State, code: u32) -> bool {
    let unhealthy = policy.on_unhealthy
        && state.health.as_ref().is_some_and(|health| health.status == HealthStatus::Unhealthy);
    let bounded = policy.max_retries != 0 && state.restart_count >= policy.max_retries;
    match policy.condition {
        RestartCondition::No => unhealthy,
        RestartCondition::OnFailure => (code != 0 || unhealthy) && !bounded,
        RestartCondition::Always | RestartCondition::UnlessStopped => true,
    }
}

fn longer(pause: u64) -> u64 {
    match pause {
        0 => FIRST_PAUSE,
        pause => pause.saturating_mul(2).min(LONGEST_PAUSE),
    }
}

impl RestartPolicy {
    /// Whether it ever starts anything.
    pub fn is_set(&self) -> bool {
        self.condition != RestartCondition::No || self.on_unhealthy
    }
}

/// Refuses what contradicts itself.
pub fn check(policy: &RestartPolicy, auto_remove: bool) -> Result<()> {
    if policy.is_set() && auto_remove {
        return Err(Error::invalid(
            "can't create 'AutoRemove' container with restart policy",
            "give --rm or --restart, not both",
        ));
    }
    if policy.max_retries != 0 && policy.condition != RestartCondition::OnFailure {
        let name = match policy.condition {
            RestartCondition::Always => "always",
            RestartCondition::UnlessStopped => "unless-stopped",
            _ => "no",
        };
        return Err(Error::invalid(
            "maximum retry count cannot be used with restart policy",
            format!("'{name}': only on-failure takes one"),
        ));
    }
    Ok(())
}

impl Engine {
    /// Changes the policy of a container that exists.
    pub async fn set_restart_policy(self: &Arc<Self>, text: &str, policy: RestartPolicy) -> Result<()> {
        let entry = self.find(text)?;
        check(&policy, false)?;
        let _turn = entry.turn.clone().lock_owned().await;
        if entry.read(|record| record.config.auto_remove) && policy.is_set() {
            return Err(Conflict::PolicyOfAutoRemove.into());
        }
        if matches!(entry.status(), Status::Removing | Status::Dead) {
            entry.transition(|state| state.check_start().map(|_| ()))?;
        }
        let before = entry.change(|record| std::mem::replace(&mut record.config.restart, policy));
        if let Err(error) = self.save_record(&entry).await {
            entry.change(|record| record.config.restart = before);
            return Err(error);
        }
        let (policy, state) = entry.read(|record| (record.config.restart.clone(), record.state.clone()));
        if state.status == Status::Restarting && !wants(&policy, &state, state.exit_code) {
            entry.transition(|state| state.restart_given_up())?;
            self.save_state_soon(&entry);
        }
        Ok(())
    }

    /// Notes that somebody wants the container stopped: no policy starts it again. Kept on disk where that matters.
    pub(super) async fn ask_stop(&self, entry: &Entry) -> Result<()> {
        let new = entry.change(|record| !std::mem::replace(&mut record.state.stop_asked, true));
        if new && entry.read(|record| record.config.restart.is_set()) {
            self.save_state(entry).await?;
        }
        Ok(())
    }

    /// Ends the pause before a restart for good. False if the container is not between two runs.
    pub(super) async fn give_up_restart(&self, entry: &Arc<Entry>) -> bool {
        if entry.status() != Status::Restarting {
            return false;
        }
        let _turn = entry.turn.clone().lock_owned().await;
        let given_up = entry.transition(|state| state.restart_given_up()).is_ok();
        if given_up {
            self.save_state_soon(entry);
        }
        given_up
    }

    /// Starts a restarting container after a pause, unless it leaves that state before.
    pub(super) fn restart_later(self: &Arc<Self>, entry: &Arc<Entry>, pause_ms: u64) {
        let (engine, entry) = (self.clone(), entry.clone());
        let run = entry.read(|record| record.state.run);
        tokio::spawn(async move {
            let mut phase = entry.watch();
            let due = async {
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                let _ = engine.recovered.subscribe().wait_for(|done| *done).await;
            };
            tokio::select! {
                () = due => {}
                _ = phase.wait_for(|now| now.removed || now.status != Status::Restarting) => return,
            }
            if let Err(error) = engine.start_entry(&entry, None, Starter::Policy { run }).await {
                tracing::warn!(container = %entry.id, %error, "a container could not be restarted");
            }
        });
    }

    /// A start that nobody asked for failed. What will never work is given up, the rest tried again. The caller holds the turn.
    pub(super) fn restart_failed(self: &Arc<Self>, entry: &Arc<Entry>, failure: &StartFailure) {
        self.drop_shm(&entry.id);
        let again = entry.change(|record| {
            let state = &mut record.state;
            state.start_failed(failure.exit_code, &failure.message);
            // 126 and 127 are about the program, which is what it is.
            let hopeless = matches!(failure.exit_code, 126 | 127);
            if hopeless || state.stop_asked || !wants(&record.config.restart, state, failure.exit_code) {
                let _ = state.restart_given_up();
                return None;
            }
            let pause = longer(state.backoff_ms);
            state.restarting(pause).ok().map(|()| pause)
        });
        self.save_state_soon(entry);
        if let Some(pause) = again {
            self.restart_later(entry, pause);
        }
    }

    /// After the daemon's start: what its policy wants running is started.
    pub(super) fn start_wanted(self: &Arc<Self>) {
        let wanted: Vec<Arc<Entry>> = self
            .registry
            .all()
            .into_iter()
            .filter(|entry| {
                entry.read(|record| {
                    let state = &record.state;
                    let wanted = match record.config.restart.condition {
                        RestartCondition::Always => true,
                        RestartCondition::UnlessStopped => !state.stop_asked,
                        RestartCondition::No | RestartCondition::OnFailure => false,
                    };
                    wanted && state.status == Status::Exited && state.run > 0
                })
            })
            .collect();
        if wanted.is_empty() {
            return;
        }
        let engine = self.clone();
        tokio::spawn(async move {
            let start = |entry: Arc<Entry>| {
                let engine = engine.clone();
                async move {
                    if let Err(error) = engine.start_entry(&entry, None, Starter::Daemon).await {
                        tracing::warn!(container = %entry.id, %error, "a container could not be started again");
                    }
                }
            };
            futures::stream::iter(wanted).for_each_concurrent(STARTS_AT_ONCE, start).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::engine::health::Health;

    fn policy(condition: RestartCondition, max_retries: u32) -> RestartPolicy {
        RestartPolicy { condition, max_retries, on_unhealthy: false }
    }

    fn exit(code: u32) -> Exit {
        Exit { code, oom_killed: false, at: Timestamp::UNIX_EPOCH }
    }

    const SHORT: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_to_a_minute_and_begin_anew_after_a_long_run() {
        let always = policy(RestartCondition::Always, 0);
        let mut state = State::created();
        let mut seen = Vec::new();
        for _ in 0..12 {
            state.backoff_ms = pause_after(&always, &state, exit(0), SHORT).unwrap();
            seen.push(state.backoff_ms);
        }
        assert_eq!(seen[..4], [100, 200, 400, 800]);
        assert_eq!(seen[10..], [60_000, 60_000]);
        assert_eq!(pause_after(&always, &state, exit(0), LONG_RUN), Some(100));
    }

    #[test]
    fn each_policy_and_a_wish_to_stop() {
        use RestartCondition::{Always, No, OnFailure, UnlessStopped};
        let mut state = State::created();
        let restarts = |policy: RestartPolicy, state: &State, code| {
            pause_after(&policy, state, exit(code), SHORT).is_some()
        };
        assert!(!restarts(policy(No, 0), &state, 1));
        assert!(restarts(policy(OnFailure, 0), &state, 1) && !restarts(policy(OnFailure, 0), &state, 0));
        assert!(restarts(policy(Always, 0), &state, 0) && restarts(policy(UnlessStopped, 0), &state, 0));
        state.restart_count = 2;
        assert!(restarts(policy(OnFailure, 3), &state, 1) && !restarts(policy(OnFailure, 2), &state, 1));
        state.stop_asked = true;
        for condition in [OnFailure, Always, UnlessStopped] {
            assert!(!restarts(policy(condition, 0), &state, 1));
        }
    }

    #[test]
    fn an_unhealthy_end_counts_where_that_was_asked_for() {
        let mut state = State::created();
        state.health = Some(Box::new(Health { status: HealthStatus::Unhealthy, ..Health::default() }));
        let mut policy = policy(RestartCondition::No, 0);
        assert_eq!(pause_after(&policy, &state, exit(0), SHORT), None);
        policy.on_unhealthy = true;
        assert_eq!(pause_after(&policy, &state, exit(0), SHORT), Some(100));
    }
}
