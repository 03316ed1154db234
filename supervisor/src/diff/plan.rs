//! How two mount lists are compared: by an upper directory if they show that the second is the first with one directory on top.

use std::path::{Path, PathBuf};

use crate::snapshots::Mount;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// This directory holds what differs, as overlayfs keeps it.
    Upper(PathBuf),
    /// Nothing is known: both are walked through.
    Walk,
}

/// Looks at `left`, which the difference is from, and `right`, which it is to.
pub fn plan(left: &[Mount], right: &[Mount]) -> Plan {
    let (Some(mut below), Some(stack)) = (stack(left), stack(right)) else { return Plan::Walk };
    // The view of no snapshot at all.
    if below.len() == 1 && is_empty(Path::new(&below[0])) {
        below.clear();
    }
    match stack.split_first() {
        Some((top, rest)) if *rest == *below => Plan::Upper(PathBuf::from(top)),
        _ => Plan::Walk,
    }
}

/// The directories of a mount, topmost first, if it is a plain stack of directories.
fn stack(mounts: &[Mount]) -> Option<Vec<String>> {
    let mount = match mounts {
        [] => return Some(Vec::new()),
        [mount] if mount.target.is_empty() => mount,
        _ => return None,
    };
    match mount.kind.as_str() {
        "bind" | "rbind" => {
            let plain = |option: &String| matches!(option.as_str(), "ro" | "rw" | "bind" | "rbind");
            mount.options.iter().all(plain).then(|| vec![mount.source.clone()])
        }
        "overlay" => overlay(&mount.options),
        _ => None,
    }
}

fn overlay(options: &[String]) -> Option<Vec<String>> {
    let (mut upper, mut lower) = (None, Vec::new());
    for option in options {
        match option.split_once('=') {
            Some(("upperdir", path)) => upper = Some(path.to_owned()),
            // What is escaped, or listed by another option, is left to the kernel.
            Some(("lowerdir", list)) if !list.contains('\\') && !list.contains("::") => {
                lower = list.split(':').map(str::to_owned).collect();
            }
            Some(("workdir" | "index" | "xino" | "redirect_dir" | "metacopy", _)) => {}
            None if matches!(option.as_str(), "ro" | "rw" | "userxattr" | "volatile") => {}
            _ => return None,
        }
    }
    Some(upper.into_iter().chain(lower).collect())
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

/// The same mounts for reading alone: an overlay's upper directory, which somebody may have mounted, becomes its topmost lower one.
pub fn read_only(mounts: &[Mount]) -> Vec<Mount> {
    mounts.iter().map(|mount| if mount.kind == "overlay" { lowered(mount) } else { mount.clone() }).collect()
}

fn lowered(mount: &Mount) -> Mount {
    let find = |key: &str| mount.options.iter().find_map(|option| option.strip_prefix(key));
    let Some(upper) = find("upperdir=") else { return mount.clone() };
    let lower = find("lowerdir=").unwrap_or_default();
    let kept = |option: &&String| {
        !["upperdir=", "workdir=", "lowerdir=", "rw", "volatile"].iter().any(|key| option.starts_with(key))
    };
    let mut options: Vec<String> = mount.options.iter().filter(kept).cloned().collect();
    let upper = upper.replace('\\', "\\\\").replace(':', "\\:");
    options.push(format!("lowerdir={upper}:{lower}"));
    options.push("ro".to_owned());
    Mount { options, ..mount.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &[&str]) -> Mount {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options }
    }

    fn bind(source: &str) -> Mount {
        let options = vec!["ro".to_owned(), "rbind".to_owned()];
        Mount { kind: "bind".into(), source: source.into(), target: String::new(), options }
    }

    #[test]
    fn an_upper_directory_is_used_only_on_exactly_its_parents() {
        let active = overlay(&["index=off", "workdir=/3/work", "upperdir=/3/fs", "lowerdir=/2/fs:/1/fs"]);
        let upper = Plan::Upper("/3/fs".into());
        assert_eq!(plan(&[overlay(&["lowerdir=/2/fs:/1/fs"])], std::slice::from_ref(&active)), upper);
        assert_eq!(plan(&[overlay(&["lowerdir=/1/fs:/2/fs"])], std::slice::from_ref(&active)), Plan::Walk);
        assert_eq!(plan(&[bind("/2/fs")], std::slice::from_ref(&active)), Plan::Walk);
        assert_eq!(
            plan(&[bind("/1/fs")], &[overlay(&["lowerdir=/2/fs:/1/fs"])]),
            Plan::Upper("/2/fs".into())
        );
        assert_eq!(plan(&[], &[bind("/x")]), Plan::Upper("/x".into()));
        assert_eq!(plan(&[bind("/1/fs")], &[bind("/2/fs")]), Plan::Walk);
        let mapped = overlay(&["uidmap=0:1:2", "upperdir=/2/fs", "lowerdir=/1/fs"]);
        assert_eq!(plan(&[bind("/1/fs")], &[mapped]), Plan::Walk);
    }

    #[test]
    fn reading_needs_no_upper_directory() {
        let active = overlay(&["index=off", "workdir=/3/work", "upperdir=/a:3/fs", "lowerdir=/2/fs:/1/fs"]);
        let read = read_only(&[active]);
        assert_eq!(read[0].options, ["index=off", "lowerdir=/a\\:3/fs:/2/fs:/1/fs", "ro"]);
    }
}
