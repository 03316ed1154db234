//! What a tree has that another has not, as a list: the paths that were added, changed and deleted.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use super::layer::{Place, is_directory, join};
use super::walk::{check_depth, names, open, same, stat};
use crate::error::{Error, Result};
use crate::images::unpack::Limits;

/// Most changes of one answer.
const MAX_CHANGES: usize = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Changed,
    Added,
    Deleted,
}

/// A directory under way.
struct Level {
    path: Vec<u8>,
    lower: Option<OwnedFd>,
    upper: OwnedFd,
    names: std::vec::IntoIter<(Vec<u8>, (bool, bool))>,
}

impl Level {
    fn open(path: Vec<u8>, lower: Option<OwnedFd>, upper: OwnedFd) -> Result<Level> {
        let mut all: BTreeMap<Vec<u8>, (bool, bool)> = BTreeMap::new();
        if let Some(lower) = &lower {
            for name in names(lower, &path)? {
                all.insert(name, (true, false));
            }
        }
        for name in names(&upper, &path)? {
            all.entry(name).or_default().1 = true;
        }
        let names: Vec<_> = all.into_iter().collect();
        Ok(Level { path, lower, upper, names: names.into_iter() })
    }
}

/// Whether a change is left out, by its path and kind.
pub type Skip<'a> = &'a dyn Fn(&[u8], Kind) -> bool;

/// What makes `upper` of `lower`, by path from the root, but what `skip` takes. A directory in which something changed counts as changed; what is below a
/// deleted one is not listed. Blocks.
pub fn list(lower: &OwnedFd, upper: &OwnedFd, skip: Skip<'_>) -> Result<BTreeMap<Vec<u8>, Kind>> {
    let mut changes = BTreeMap::new();
    let depth = Limits::default().depth;
    let root = Level::open(Vec::new(), Some(open(lower, b".", b"")?), open(upper, b".", b"")?)?;
    let mut levels = vec![root];
    while let Some(level) = levels.last_mut() {
        let Some((name, (below, above))) = level.names.next() else {
            levels.pop();
            continue;
        };
        let path = join(&level.path, &name);
        let upper = if above { stat(&level.upper, &name, &path)? } else { None };
        let lower = match &level.lower {
            Some(lower) if below => stat(lower, &name, &path)?.map(|stat| (lower, stat)),
            _ => None,
        };
        let Some(upper) = upper else {
            if lower.is_some() {
                note(&mut changes, path, Kind::Deleted)?;
            }
            continue;
        };
        let place = Place { parent: level.upper.as_fd(), leaf: &name, path: &path, stat: upper };
        match &lower {
            None if skip(&path, Kind::Added) => {}
            None => note(&mut changes, path.clone(), Kind::Added)?,
            Some((lower, stat)) if !same(&place, lower.as_fd(), stat)? => {
                note(&mut changes, path.clone(), Kind::Changed)?;
            }
            Some(_) => {}
        }
        if is_directory(&upper) {
            let lower = match lower {
                Some((lower, stat)) if is_directory(&stat) => Some(open(lower, &name, &path)?),
                _ => None,
            };
            let inner = open(&level.upper, &name, &path)?;
            check_depth(levels.len(), depth, &path)?;
            levels.push(Level::open(path, lower, inner)?);
        }
    }
    Ok(changes)
}

fn note(changes: &mut BTreeMap<Vec<u8>, Kind>, path: Vec<u8>, kind: Kind) -> Result<()> {
    let mut parent = path.as_slice();
    while let Some(slash) = parent.iter().rposition(|byte| *byte == b'/') {
        parent = &parent[..slash];
        if changes.contains_key(parent) {
            break;
        }
        changes.insert(parent.to_vec(), Kind::Changed);
    }
    changes.insert(path, kind);
    if changes.len() > MAX_CHANGES {
        return Err(Error::ResourceExhausted {
            what: "diff".to_owned(),
            limit: "changes of one container",
            max: MAX_CHANGES as u64,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn added_changed_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["a/same", "a/gone", "b/deep/f"] {
            fs::create_dir_all(at("low").join(path).parent().unwrap()).unwrap();
            fs::write(at("low").join(path), "x").unwrap();
        }
        for path in ["a/same", "b/deep/f", "n/new"] {
            fs::create_dir_all(at("high").join(path).parent().unwrap()).unwrap();
            fs::write(at("high").join(path), "x").unwrap();
        }
        fs::write(at("high/b/deep/f"), "longer").unwrap();
        let time = fs::metadata(at("low/a/same")).unwrap().modified().unwrap();
        let file = fs::File::options().write(true).open(at("high/a/same")).unwrap();
        file.set_modified(time).unwrap();
        let open = |path: &str| OwnedFd::from(fs::File::open(at(path)).unwrap());
        let found = list(&open("low"), &open("high"), &|_, _| false).unwrap();
        let shown: Vec<_> =
            found.iter().map(|(path, kind)| format!("{kind:?} {}", String::from_utf8_lossy(path))).collect();
        assert_eq!(
            shown,
            [
                "Changed a",
                "Deleted a/gone",
                "Changed b",
                "Changed b/deep",
                "Changed b/deep/f",
                "Added n",
                "Added n/new"
            ]
        );
    }
}
