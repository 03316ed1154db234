//! Conditional references: `containerd.io/gc.cond.snapshot.NAME[/…]` = `usedat<24h[,usedat>…]|KEY` on content or an image
//! keeps the snapshot KEY while one of the conditions holds of the snapshot's own label `containerd.io/gc.cond.value-usedat`.
//!
//! What always holds: a condition that cannot be read, or of which nothing is known, holds never; it is no error.

use jiff::{SignedDuration, Timestamp};

use super::graph::Node;
use crate::labels::Labels;

const SNAPSHOT: &str = "containerd.io/gc.cond.snapshot";
const USED_AT: &str = "containerd.io/gc.cond.value-usedat";

/// A snapshot, and when it is kept: any of these ages will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conditional {
    pub snapshot: Node,
    ages: Vec<Age>,
}

/// How long ago it was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Under(SignedDuration),
    Over(SignedDuration),
}

impl Conditional {
    pub fn holds(&self, used_at: Timestamp, now: Timestamp) -> bool {
        let since = now.duration_since(used_at);
        self.ages.iter().any(|age| match age {
            Age::Under(limit) => since < *limit,
            Age::Over(limit) => since > *limit,
        })
    }
}

/// What the labelled object keeps on conditions.
pub fn all(labels: &Labels) -> impl Iterator<Item = Conditional> + '_ {
    let labelled = labels.range(SNAPSHOT.to_owned()..).take_while(|(key, _)| key.starts_with(SNAPSHOT));
    labelled.filter_map(|(label, value)| {
        let name = label.strip_prefix(SNAPSHOT)?.trim_start_matches(['.', '/']);
        let snapshotter = name.split_once('/').map_or(name, |(name, _)| name).to_owned();
        let (conditions, key) = value.split_once('|')?;
        let ages = conditions.split(',').filter_map(age).collect();
        Some(Conditional { snapshot: Node::Snapshot { snapshotter, key: key.to_owned() }, ages })
    })
}

/// When the labelled snapshot was used.
pub fn used_at(labels: &Labels) -> impl Iterator<Item = Timestamp> + '_ {
    let labelled = labels.range(USED_AT.to_owned()..).take_while(|(key, _)| key.starts_with(USED_AT));
    labelled.filter_map(|(_, value)| value.parse().ok())
}

fn age(condition: &str) -> Option<Age> {
    let rest = condition.strip_prefix("usedat")?;
    if let Some(limit) = rest.strip_prefix('<') {
        return limit.parse().ok().map(Age::Under);
    }
    rest.strip_prefix('>')?.parse().ok().map(Age::Over)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_and_hold_by_age() {
        let labels: Labels = [
            ("containerd.io/gc.cond.snapshot.overlayfs/chain", "usedat<1h30m,usedat>240h|sha256:a|b"),
            ("containerd.io/gc.cond.snapshot.native", "usedat=1h,colour<3|key"),
            ("containerd.io/gc.cond.snapshot.other", "no key"),
            ("containerd.io/gc.cond.value-usedat", "2026-01-02T00:00:00Z"),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
        let found: Vec<Conditional> = all(&labels).collect();
        let [never, by_age] = &found[..] else { panic!("{found:?}") };
        let named = |snapshotter: &str, key: &str| Node::Snapshot {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        };
        assert_eq!((&never.snapshot, never.ages.len()), (&named("native", "key"), 0));
        assert_eq!(by_age.snapshot, named("overlayfs", "sha256:a|b"));
        let used: Vec<Timestamp> = used_at(&labels).collect();
        assert_eq!(used.len(), 1);
        for (now, holds) in
            [("2026-01-02T01:00:00Z", true), ("2026-01-02T02:00:00Z", false), ("2026-02-02T00:00:00Z", true)]
        {
            assert_eq!(by_age.holds(used[0], now.parse().unwrap()), holds, "{now}");
            assert!(!never.holds(used[0], now.parse().unwrap()));
        }
    }
}
