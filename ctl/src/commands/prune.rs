//! What the `prune` verbs of all nouns have in common: asking first, and telling what went.

use crate::commands::confirm;
use crate::failure::Failure;
use crate::output::{human, print};

/// Asks, unless that was forced.
pub fn ask(force: bool, warning: &str, verb: &str) -> Result<(), Failure> {
    if force { Ok(()) } else { confirm(warning, verb) }
}

/// Tells what was removed, if anything was.
pub fn deleted<T: AsRef<str>>(kind: &str, removed: &[T]) -> Result<(), Failure> {
    if removed.is_empty() {
        return Ok(());
    }
    print::line(format!("Deleted {kind}:"))?;
    removed.iter().try_for_each(|name| print::line(name.as_ref()))?;
    print::line("")
}

pub fn reclaimed(bytes: u64) -> Result<(), Failure> {
    print::line(format!("Total reclaimed space: {}", human::size(bytes as f64)))
}
