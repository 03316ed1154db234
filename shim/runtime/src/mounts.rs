//! The mounts of a config, turned into what the container's init does: options parsed, bind sources opened.

use crate::cgroups::CgroupPaths;
use crate::init::{Existing, Mount, Source, Step};
use crate::paths::{self, Kind, Links};
use crate::sys::mount::{MountAttr, Reach};
use crate::{Error, Result};
use oci_spec::runtime::Mount as MountSpec;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use std::ffi::CString;
use std::path::Path;

/// The options of one mount, sorted by what they act on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Whether it is a bind mount, and of how much.
    pub(crate) bind: Option<Bind>,
    pub(crate) attr: MountAttr,
    pub(crate) recursive: MountAttr,
    /// Propagation type and whether it applies to all below.
    pub(crate) propagation: Option<(u64, Reach)>,
    /// For the file system: `key` or `key=value`.
    pub(crate) data: Vec<(String, Option<String>)>,
    /// `ro` was given: for file systems that must be told, not only the mount.
    pub(crate) read_only: bool,
}

/// How much a bind mount takes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bind {
    One,
    Recursive,
}

const ATIME_MASK: u64 = libc::MOUNT_ATTR__ATIME;

/// What an option does to the attributes of a mount: set, clear.
fn attribute(name: &str) -> Option<(u64, u64)> {
    Some(match name {
        "ro" => (libc::MOUNT_ATTR_RDONLY, 0),
        "rw" => (0, libc::MOUNT_ATTR_RDONLY),
        "nosuid" => (libc::MOUNT_ATTR_NOSUID, 0),
        "suid" => (0, libc::MOUNT_ATTR_NOSUID),
        "nodev" => (libc::MOUNT_ATTR_NODEV, 0),
        "dev" => (0, libc::MOUNT_ATTR_NODEV),
        "noexec" => (libc::MOUNT_ATTR_NOEXEC, 0),
        "exec" => (0, libc::MOUNT_ATTR_NOEXEC),
        "nosymfollow" => (libc::MOUNT_ATTR_NOSYMFOLLOW, 0),
        "symfollow" => (0, libc::MOUNT_ATTR_NOSYMFOLLOW),
        "nodiratime" => (libc::MOUNT_ATTR_NODIRATIME, 0),
        "diratime" => (0, libc::MOUNT_ATTR_NODIRATIME),
        "relatime" | "atime" | "nostrictatime" => (libc::MOUNT_ATTR_RELATIME, ATIME_MASK),
        "noatime" => (libc::MOUNT_ATTR_NOATIME, ATIME_MASK),
        "strictatime" | "norelatime" => (libc::MOUNT_ATTR_STRICTATIME, ATIME_MASK),
        _ => return None,
    })
}

fn propagation(name: &str) -> Option<(u64, Reach)> {
    Some(match name {
        "private" => (libc::MS_PRIVATE, Reach::One),
        "shared" => (libc::MS_SHARED, Reach::One),
        "slave" => (libc::MS_SLAVE, Reach::One),
        "unbindable" => (libc::MS_UNBINDABLE, Reach::One),
        "rprivate" => (libc::MS_PRIVATE, Reach::Recursive),
        "rshared" => (libc::MS_SHARED, Reach::Recursive),
        "rslave" => (libc::MS_SLAVE, Reach::Recursive),
        "runbindable" => (libc::MS_UNBINDABLE, Reach::Recursive),
        _ => return None,
    })
}

fn change(attr: &mut MountAttr, (set, clear): (u64, u64)) {
    // The last option wins.
    attr.set = attr.set & !clear | set;
    attr.clear = attr.clear & !(set & !ATIME_MASK) | clear;
}

/// Sorts mount options; one that is not known goes to the file system.
pub(crate) fn parse(options: &[String]) -> Result<Options> {
    let mut parsed = Options::default();
    for option in options {
        let option = option.as_str();
        if let Some(change_of_one) = attribute(option) {
            change(&mut parsed.attr, change_of_one);
            match option {
                "ro" => parsed.read_only = true,
                "rw" => parsed.read_only = false,
                _ => {}
            }
        } else if let Some(found) = propagation(option) {
            parsed.propagation = Some(found);
        } else if let Some(change_of_all) = option.strip_prefix('r').and_then(attribute) {
            change(&mut parsed.recursive, change_of_all);
        } else {
            match option {
                "bind" => parsed.bind = Some(Bind::One),
                "rbind" => parsed.bind = Some(Bind::Recursive),
                "defaults" | "" | "silent" | "loud" | "async" | "nomand" | "nolazytime" => {}
                // x- options are comments for tools that read mount tables.
                _ if option.starts_with("x-") || option.starts_with("X-") => {}
                "remount" => return Err(not_built("remount")),
                "tmpcopyup" | "idmap" | "ridmap" => return Err(not_built(option)),
                _ => match option.split_once('=') {
                    Some((key, value)) => parsed.data.push((key.into(), Some(value.into()))),
                    None => parsed.data.push((option.into(), None)),
                },
            }
        }
    }
    Ok(parsed)
}

fn not_built(option: &str) -> Error {
    Error::NotBuilt { feature: format!("mount option {option:?}") }
}

/// A path of the config as the init uses it: relative to the root, `.` for the root itself.
pub(crate) fn in_root(path: &str) -> Result<CString> {
    let clean = paths::clean(path);
    let text = if clean.is_empty() { "." } else { clean.as_str() };
    CString::new(text)
        .map_err(|_| Error::InvalidSpec { field: format!("{path:?}"), why: "contains a NUL byte".into() })
}

/// What planning mounts needs to know about the container.
pub(crate) struct Context<'a> {
    pub(crate) cgroups: &'a CgroupPaths,
    /// Where relative sources start.
    pub(crate) bundle: &'a Path,
    /// SELinux label for mounts that make files.
    pub(crate) mount_label: Option<&'a str>,
}

/// Adds the steps for one mount of the config.
pub(crate) fn plan(
    index: usize,
    mount: &MountSpec,
    context: &Context<'_>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let field = |why: String| Error::InvalidSpec { field: format!("mounts[{index}]"), why };
    if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
        return Err(Error::NotBuilt { feature: format!("mounts[{index}].uidMappings (idmapped mounts)") });
    }
    let destination = mount.destination().to_str().ok_or_else(|| field("destination is not UTF-8".into()))?;
    let target = in_root(destination)?;
    if target.as_c_str() == c"." {
        return Err(field(format!("destination {destination:?} is the root itself; use root.path for that")));
    }
    let options = parse(mount.options().as_deref().unwrap_or_default())?;
    let kind = mount.typ().as_deref().unwrap_or("none");
    check_proc(target.to_str().unwrap_or_default(), kind, mount, options.bind.is_some()).map_err(field)?;
    match kind {
        _ if options.bind.is_some() || kind == "bind" => {
            plan_bind(index, mount, target, options, context, steps)
        }
        "cgroup" | "cgroup2" => {
            let propagation = options.propagation;
            crate::cgroups::plan_mount(context.cgroups, &target, &options, steps)?;
            plan_propagation(&target, propagation, steps);
            Ok(())
        }
        _ => plan_new(kind, mount, target, options, context, steps),
    }
}

/// What may be mounted at or below `/proc`: procfs itself, and single files that tools such as lxcfs provide. Anything
/// else would pull the masks from under the container's feet (CVE-2019-16884, CVE-2019-19921).
fn check_proc(target: &str, kind: &str, mount: &MountSpec, bind: bool) -> Result<(), String> {
    const FILES: &[&str] = &[
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    ];
    if target == "proc" {
        return match (kind, bind) {
            ("proc", false) => Ok(()),
            (_, true) if is_procfs(mount.source().as_deref()) => Ok(()),
            _ => Err("only procfs may be mounted at \"/proc\"".into()),
        };
    }
    match target.strip_prefix("proc/") {
        Some(file) if !FILES.contains(&file) => Err(format!(
            "{:?} is inside /proc, where nothing may be mounted but single files such as /proc/cpuinfo",
            mount.destination()
        )),
        _ => Ok(()),
    }
}

fn is_procfs(path: Option<&Path>) -> bool {
    const PROC_SUPER_MAGIC: u64 = 0x9fa0;
    path.and_then(|path| rustix::fs::statfs(path).ok()).is_some_and(|fs| fs.f_type as u64 == PROC_SUPER_MAGIC)
}

/// Links on the way to these are refused: the container's view of the kernel depends on them.
fn links_for(target: &str) -> Links {
    let sensitive = ["proc", "sys", "dev"]
        .iter()
        .any(|top| target.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    if sensitive { Links::Refuse } else { Links::Follow }
}

fn links(target: &CString) -> Links {
    links_for(target.to_str().unwrap_or_default())
}

/// Opens the source of a bind mount as a detached copy. Runs in the parent, with the host's privileges.
pub(crate) fn open_bind(source: &Path, bind: Bind) -> Result<(OwnedFd, Kind)> {
    let io = |source_path: &Path, errno: rustix::io::Errno| Error::Io {
        doing: "open the source of a bind mount",
        path: source_path.into(),
        source: errno.into(),
    };
    let fd =
        rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| io(source, e))?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| io(source, e))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        _ => Kind::File,
    };
    let reach = if bind == Bind::Recursive { Reach::Recursive } else { Reach::One };
    let tree = crate::init::clone_tree(fd.as_fd(), reach).map_err(|e| io(source, e))?;
    Ok((tree, kind))
}

fn plan_bind(
    index: usize,
    mount: &MountSpec,
    target: CString,
    options: Options,
    context: &Context<'_>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let source = mount.source().as_deref().ok_or_else(|| Error::InvalidSpec {
        field: format!("mounts[{index}].source"),
        why: "a bind mount needs a source".into(),
    })?;
    let bind = options.bind.unwrap_or(Bind::One);
    let (tree, kind) = open_bind(&context.bundle.join(source), bind)?;
    let mut attr = options.attr;
    let mut recursive = options.recursive;
    // The copy was made in the host's namespace: cut it loose, or what the container mounts would show on the host.
    match options.propagation {
        // A peer of the host's mount, as asked for.
        Some((libc::MS_SHARED, _)) => {}
        Some((kind, Reach::One)) => {
            recursive.propagation = libc::MS_SLAVE;
            attr.propagation = kind;
        }
        Some((kind, Reach::Recursive)) => recursive.propagation = kind,
        None => recursive.propagation = libc::MS_SLAVE,
    }
    if bind == Bind::One {
        merge(&mut attr, recursive);
        recursive = MountAttr::default();
    }
    let links = links(&target);
    let shown = format!("bind {source:?}");
    steps.push(Step::Mount(Mount {
        source: Source::Tree(tree),
        target,
        kind,
        links,
        attr,
        recursive,
        shown,
    }));
    Ok(())
}

/// Both kinds of attributes in one call: for a bind mount that has nothing below.
fn merge(attr: &mut MountAttr, recursive: MountAttr) {
    attr.set |= recursive.set & !attr.clear;
    attr.clear |= recursive.clear & !attr.set | recursive.clear & ATIME_MASK;
    if attr.propagation == 0 {
        attr.propagation = recursive.propagation;
    }
}

fn plan_new(
    kind: &str,
    mount: &MountSpec,
    target: CString,
    options: Options,
    context: &Context<'_>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let source = mount.source().as_deref().and_then(Path::to_str).unwrap_or(kind);
    // The device file system is filled before it becomes read-only, as is a tmpfs that others are mounted in.
    let later_read_only = kind == "tmpfs" && options.attr.set & libc::MOUNT_ATTR_RDONLY != 0;
    let mut attr = options.attr;
    attr.clear = 0;
    if later_read_only {
        attr.set &= !libc::MOUNT_ATTR_RDONLY;
    }
    let links = links(&target);
    let shown = format!("{kind} {source:?}");
    let path = target.clone();
    steps.push(Step::Mount(Mount {
        source: new_source(kind, source, &options, context.mount_label)?,
        target,
        kind: Kind::Directory,
        links,
        attr,
        recursive: MountAttr::default(),
        shown,
    }));
    plan_propagation(&path, options.propagation, steps);
    Ok(())
}

/// Read-only tmpfs mounts are made so after everything has been put into them.
pub(crate) fn plan_late_read_only(mounts: &[MountSpec], steps: &mut Vec<Step>) -> Result<()> {
    for mount in mounts.iter().filter(|mount| mount.typ().as_deref() == Some("tmpfs")) {
        let options = parse(mount.options().as_deref().unwrap_or_default())?;
        if options.bind.is_none() && options.attr.set & libc::MOUNT_ATTR_RDONLY != 0 {
            let path = in_root(&mount.destination().to_string_lossy())?;
            let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() };
            steps.push(Step::SetAttributes { path, reach: Reach::One, attr });
        }
    }
    Ok(())
}

fn plan_propagation(path: &CString, propagation: Option<(u64, Reach)>, steps: &mut Vec<Step>) {
    if let Some((kind, reach)) = propagation {
        let attr = MountAttr { propagation: kind, ..Default::default() };
        steps.push(Step::SetAttributes { path: path.clone(), reach, attr });
    }
}

/// A file system to be made by the init, with its parameters.
pub(crate) fn new_source(kind: &str, source: &str, options: &Options, label: Option<&str>) -> Result<Source> {
    let nul =
        |_| Error::InvalidSpec { field: format!("mount of type {kind}"), why: "contains a NUL byte".into() };
    let mut parameters = vec![(c"source".to_owned(), Some(CString::new(source).map_err(nul)?))];
    let knows_read_only =
        !matches!(kind, "proc" | "sysfs" | "tmpfs" | "mqueue" | "devpts" | "cgroup" | "cgroup2");
    if options.read_only && knows_read_only {
        parameters.push((c"ro".to_owned(), None));
    }
    for (key, value) in &options.data {
        let value = value.as_deref().map(CString::new).transpose().map_err(nul)?;
        parameters.push((CString::new(key.as_str()).map_err(nul)?, value));
    }
    if let (Some(label), "tmpfs" | "mqueue" | "devpts") = (label.filter(|l| !l.is_empty()), kind) {
        parameters.push((c"context".to_owned(), Some(CString::new(label).map_err(nul)?)));
    }
    Ok(Source::New { kind: CString::new(kind).map_err(nul)?, parameters })
}

/// A link in a mounted file system; one that is there stays.
pub(crate) fn plan_link(path: &str, target: &str, existing: Existing, steps: &mut Vec<Step>) -> Result<()> {
    let target = CString::new(target)
        .map_err(|_| Error::InvalidSpec { field: path.into(), why: "contains a NUL byte".into() })?;
    steps.push(Step::Symlink { path: in_root(path)?, target, existing });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> Options {
        parse(&options.iter().map(|o| o.to_string()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_last_option_wins() {
        let options = parsed(&["ro", "nosuid", "rw", "rro", "size=64k", "rprivate", "rbind"]);
        assert_eq!(options.attr.set, libc::MOUNT_ATTR_NOSUID);
        assert_eq!(options.attr.clear, libc::MOUNT_ATTR_RDONLY);
        assert_eq!(options.recursive.set, libc::MOUNT_ATTR_RDONLY);
        assert!(!options.read_only);
        assert_eq!(options.bind, Some(Bind::Recursive));
        assert_eq!(options.propagation, Some((libc::MS_PRIVATE, Reach::Recursive)));
        assert_eq!(options.data, [("size".to_owned(), Some("64k".to_owned()))]);
    }

    #[test]
    fn access_times_exclude_each_other() {
        let options = parsed(&["noatime", "strictatime"]);
        assert_eq!(options.attr.set, libc::MOUNT_ATTR_STRICTATIME);
        assert_eq!(options.attr.clear, ATIME_MASK);
    }

    #[test]
    fn unbuilt_options_are_refused_by_name() {
        let error = parse(&["tmpcopyup".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("tmpcopyup"), "{error}");
    }
}
