//! Names of containers, execs and namespaces: containerd's rule, which also makes them safe as file names.

use crate::error::{Error, Result};
use crate::limits;

/// At most 76 letters and digits, in groups that are separated by single `.`, `_` or `-`.
pub fn check(what: &'static str, value: &str) -> Result<()> {
    let bad = |why| Err(Error::BadName { what, value: value.chars().take(limits::NAME + 1).collect(), why });
    if value.is_empty() {
        return bad("it is empty");
    }
    if value.len() > limits::NAME {
        return bad("it is longer than 76 characters");
    }
    let group = |group: &str| !group.is_empty() && group.bytes().all(|b| b.is_ascii_alphanumeric());
    if !value.split(['.', '_', '-']).all(group) {
        return bad("it must be letters and digits, separated by single '.', '_' or '-'");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn names_are_containerds() {
        for good in ["a", "a.b-c_d", &"x".repeat(76)] {
            assert!(check("id", good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a..b", "-a", "a-", "ä", "a\0", &"x".repeat(77)] {
            assert!(check("id", bad).is_err(), "{bad}");
        }
    }
}
