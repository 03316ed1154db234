//! containerd's filter grammar, as in `labels."a.b"==x,topic~=|^/tasks/|`.
//!
//! A filter is a list of selectors joined by commas, all of which must match; of several filters one must. A
//! selector is a field path alone (the field is there) or a path, an operator (`==`, `!=`, `~=`) and a value.
//! Path segments are words or quoted by `"`; values run to the next comma or space, or are quoted by `"`; regular expressions
//! by `/` or `|`, too. The escapes inside quotes are those of Go strings. A field that is not there counts as empty.

mod parse;

use std::collections::BTreeMap;

use crate::error::Result;

/// Longest filter in bytes, and how many one request may have.
pub const MAX_FILTER: usize = 16 * 1024;
pub const MAX_FILTERS: usize = 64;

/// What a filter looks at.
pub trait Adaptor {
    /// The value of the field `path`; `None` if it is not there.
    fn field(&self, path: &[&str]) -> Option<String>;
}

/// Any of several filters, or everything.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    alternatives: Vec<Vec<Selector>>,
}

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(regex::Regex),
}

impl Filter {
    /// Filters of a request: none match everything.
    pub fn parse_all<S: AsRef<str>>(filters: &[S]) -> Result<Self> {
        parse::all(filters)
    }

    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        self.alternatives.is_empty()
    }

    pub fn matches(&self, subject: &dyn Adaptor) -> bool {
        self.alternatives.is_empty()
            || self
                .alternatives
                .iter()
                .any(|selectors| selectors.iter().all(|selector| selector.matches(subject)))
    }
}

impl Selector {
    fn matches(&self, subject: &dyn Adaptor) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let value = subject.field(&path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.is_some_and(|value| value == *wanted),
            Test::NotEqual(unwanted) => value.unwrap_or_default() != *unwanted,
            Test::Matches(regex) => regex.is_match(&value.unwrap_or_default()),
        }
    }
}

/// The field `labels.KEY` (`path` without `labels`); dots of an unquoted key belong to it.
pub fn label(labels: &BTreeMap<String, String>, path: &[&str]) -> Option<String> {
    labels.get(&path.join(".")).cloned()
}

#[cfg(test)]
mod tests;
