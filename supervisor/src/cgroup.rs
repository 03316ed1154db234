//! The daemon's own cgroup: where `cgroup` in the configuration puts it, and with it every shim that it starts.
//!
//! What always holds: nothing is done without the key; every hierarchy with a controller is joined, or the start fails with
//! the one that could not be. The cgroup stays when the daemon goes: shims live in it.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Makes the cgroup `path` in every hierarchy and moves this process there.
///
/// # Errors
/// I/O, with the hierarchy.
pub fn join(path: &str) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| Error::io("reading the mount table", "/proc/self/mountinfo", error))?;
    let relative = path.trim_start_matches('/');
    for root in hierarchies(&table) {
        let folder = root.join(relative);
        enter(&root, &folder)
            .map_err(|error| Error::io("moving the daemon to its cgroup", &folder, error))?;
    }
    Ok(())
}

/// Where the hierarchies are mounted, those that only have a name (`name=systemd`) left out.
fn hierarchies(table: &str) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut before = before.split(' ');
            let (root, target) = (before.nth(3)?, before.next()?);
            let mut after = after.split(' ');
            let (kind, options) = (after.next()?, after.nth(1)?);
            let wanted = match kind {
                "cgroup2" => true,
                "cgroup" => !options.split(',').any(|option| option.starts_with("name=")),
                _ => false,
            };
            (wanted && root == "/").then(|| crate::mounts::table::path(target))
        })
        .collect();
    roots.sort();
    roots.dedup();
    roots
}

fn enter(root: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    if root.join("cpuset.cpus").exists() {
        // A cpuset of version 1 takes nobody before it has processors and memory: those of its parents.
        for name in ["cpuset.cpus", "cpuset.mems"] {
            inherit(root, folder, name)?;
        }
    }
    fs::write(folder.join("cgroup.procs"), std::process::id().to_string())
}

/// Fills an empty file of a cgroup from the one above, up to the root.
fn inherit(root: &Path, folder: &Path, name: &str) -> io::Result<String> {
    let path = folder.join(name);
    let own = fs::read_to_string(&path)?;
    if !own.trim().is_empty() || folder == root {
        return Ok(own);
    }
    let parent = folder.parent().ok_or(io::ErrorKind::NotFound)?;
    let value = inherit(root, parent, name)?;
    fs::write(&path, value.trim())?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_without_a_controller_are_left_out() {
        let table = "31 23 0:28 / /cg/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                     32 23 0:29 / /cg/unified rw - cgroup2 none rw\n\
                     33 23 0:30 / /cg/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                     34 23 0:28 /below /other rw - cgroup cgroup rw,cpu\n\
                     35 23 0:31 / /tmp rw - tmpfs tmpfs rw\n";
        assert_eq!(hierarchies(table), [Path::new("/cg/cpu"), Path::new("/cg/unified")]);
    }

    #[test]
    fn a_cpuset_takes_what_its_parents_have() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        for (folder, value) in [(root.path(), "0-1\n"), (&root.path().join("a"), "\n"), (&deep, "")] {
            fs::write(folder.join("cpuset.cpus"), value).unwrap();
        }
        inherit(root.path(), &deep, "cpuset.cpus").unwrap();
        assert_eq!(fs::read_to_string(deep.join("cpuset.cpus")).unwrap(), "0-1");
        assert_eq!(fs::read_to_string(root.path().join("a/cpuset.cpus")).unwrap(), "0-1");
    }
}
