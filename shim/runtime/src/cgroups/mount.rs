//! The container's view of its cgroups: a `cgroup` mount of the config.

use super::{CgroupPaths, Mode};
use crate::Result;
use crate::init::{Existing, Mount, Source, Start, Step, clone_tree};
use crate::mounts::{self, Options};
use crate::paths::{Kind, Links};
use crate::sys::mount::{MountAttr, Reach};
use rustix::fd::BorrowedFd;
use std::ffi::{CStr, CString};

/// Adds the steps for a cgroup mount. Bind mounts of the container's own cgroups look the same with and without a cgroup
/// namespace, and need no privilege in the container's user namespace.
pub(crate) fn plan_mount(
    cgroups: &CgroupPaths,
    target: &CStr,
    options: &Options,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let attr = MountAttr { propagation: libc::MS_PRIVATE, ..options.attr };
    if cgroups.mode() == Mode::V2 {
        let group = cgroups.v2().into_iter().next();
        return group.map_or(Ok(()), |group| bind(group.dir(), target.to_owned(), attr, "cgroup2", steps));
    }
    plan_folder(target, options, steps)?;
    for group in cgroups.groups().iter().filter(|group| !group.is_v2()) {
        let name = group.controllers.strip_prefix("name=").unwrap_or(&group.controllers);
        let path = mounts::in_root(&format!("{}/{name}", target.to_string_lossy()))?;
        bind(group.dir(), path, attr, name, steps)?;
        if name.contains(',') {
            for controller in name.split(',') {
                let link = format!("{}/{controller}", target.to_string_lossy());
                mounts::plan_link(&link, name, Existing::Keep, steps)?;
            }
        }
    }
    if options.attr.set & libc::MOUNT_ATTR_RDONLY != 0 {
        let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() };
        steps.push(Step::SetAttributes { path: target.to_owned(), reach: Reach::One, attr });
    }
    Ok(())
}

/// The tmpfs that holds one folder a hierarchy.
fn plan_folder(target: &CStr, options: &Options, steps: &mut Vec<Step>) -> Result<()> {
    let data = Options { data: vec![("mode".into(), Some("755".into()))], ..Default::default() };
    let mut attr = MountAttr { set: options.attr.set & !libc::MOUNT_ATTR_RDONLY, ..Default::default() };
    attr.set |= libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    steps.push(Step::Mount(Mount {
        source: mounts::new_source("tmpfs", "tmpfs", &data, None)?,
        target: target.to_owned(),
        kind: Kind::Directory,
        links: Links::Refuse,
        attr,
        recursive: MountAttr::default(),
        start: Start::Empty,
        shown: "tmpfs for the cgroup hierarchies".into(),
    }));
    Ok(())
}

fn bind(
    dir: BorrowedFd<'_>,
    target: CString,
    attr: MountAttr,
    name: &str,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let tree = clone_tree(dir, Reach::One)
        .map_err(|errno| super::io("open the cgroup for mounting", name.into(), errno))?;
    steps.push(Step::Mount(Mount {
        source: Source::Tree(tree),
        target,
        kind: Kind::Directory,
        links: Links::Refuse,
        attr,
        recursive: MountAttr::default(),
        start: Start::Empty,
        shown: format!("cgroup hierarchy {name}"),
    }));
    Ok(())
}
