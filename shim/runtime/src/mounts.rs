//! The mounts of a config, turned into what the container's init does: bind sources opened, file systems described.

use crate::cgroups::CgroupPaths;
use crate::idmapped::IdMaps;
use crate::init::{Existing, Mount, Source, Start, Step};
pub(crate) use crate::mount_options::{Bind, Options, parse};
use crate::mount_options::{EVERY_ATTRIBUTE, merge};
use crate::paths::{self, Kind, Links};
use crate::sys::mount::{MountAttr, Reach};
use crate::{Error, Result};
use oci_spec::runtime::Mount as MountSpec;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use std::ffi::CString;
use std::path::Path;

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
    /// The container's own namespaces, if whoever makes it has no other privileges than over them.
    pub(crate) rootless: Option<i32>,
    /// Where relative sources start.
    pub(crate) bundle: &'a Path,
    /// SELinux label for mounts that make files.
    pub(crate) mount_label: Option<&'a str>,
    /// Makes the mappings of idmapped mounts.
    pub(crate) id_maps: &'a IdMaps<'a>,
    /// The pid namespace whose processes procfs shows, if it is not that of the process that mounts it.
    pub(crate) pids: Option<BorrowedFd<'a>>,
}

/// Adds the steps for one mount of the config.
pub(crate) fn plan(
    index: usize,
    mount: &MountSpec,
    context: &Context<'_>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let field = |why: String| Error::InvalidSpec { field: format!("mounts[{index}]"), why };
    let substitute = context.rootless.and_then(|namespaces| crate::rootless::substitute(mount, namespaces));
    let mount = substitute.as_ref().unwrap_or(mount);
    let destination = mount.destination().to_str().ok_or_else(|| field("destination is not UTF-8".into()))?;
    let target = in_root(destination)?;
    if target.as_c_str() == c"." {
        return Err(field(format!("destination {destination:?} is the root itself; use root.path for that")));
    }
    let mut options = parse(mount.options().as_deref().unwrap_or_default());
    let kind = mount.typ().as_deref().unwrap_or("none");
    if kind == "bind" && options.bind.is_none() {
        options.bind = Some(Bind::One);
    }
    let maps = [mount.uid_mappings(), mount.gid_mappings()];
    if options.id_map.is_none() && maps.iter().any(|map| map.as_ref().is_some_and(|map| !map.is_empty())) {
        options.id_map = Some(Reach::One);
    }
    check_combination(kind, &options).map_err(field)?;
    if options.remount {
        return plan_remount(mount, target, &options, steps);
    }
    check_proc(target.to_str().unwrap_or_default(), kind, mount, options.bind.is_some()).map_err(field)?;
    match kind {
        _ if options.bind.is_some() => plan_bind(index, mount, target, options, context, steps),
        "cgroup" | "cgroup2" => {
            let propagation = options.propagation;
            crate::cgroups::plan_mount(context.cgroups, &target, &options, steps)?;
            plan_propagation(&target, propagation, steps);
            Ok(())
        }
        _ => plan_new(kind, mount, target, options, context, steps),
    }
}

/// Options that have no meaning together are refused rather than left out.
fn check_combination(kind: &str, options: &Options) -> Result<(), String> {
    if options.id_map.is_some() && options.bind.is_none() {
        return Err("only a bind mount can be idmapped; add \"bind\" or \"rbind\"".into());
    }
    if options.copy_up && (kind != "tmpfs" || options.bind.is_some() || options.remount) {
        return Err("\"tmpcopyup\" is for new mounts of type tmpfs".into());
    }
    if options.remount && options.id_map.is_some() {
        return Err("a mapping cannot be given to a mount that is attached already".into());
    }
    Ok(())
}

/// Changes the options of what an earlier entry mounted. With `bind` only the mount changes, else its file system, too.
fn plan_remount(mount: &MountSpec, target: CString, options: &Options, steps: &mut Vec<Step>) -> Result<()> {
    const ALWAYS_DECIDED: u64 = EVERY_ATTRIBUTE & !(libc::MOUNT_ATTR__ATIME | libc::MOUNT_ATTR_NODIRATIME);
    let mut attr = options.attr;
    merge(&mut attr, options.recursive);
    // As with mount(2): what is not asked for is taken away, but access times stay.
    attr.clear |= ALWAYS_DECIDED & !attr.set;
    let parameters = match options.bind {
        Some(_) => None,
        None => {
            let mut parameters = parameters(options, mount.typ().as_deref().unwrap_or("none"))?;
            let access = if options.read_only { c"ro" } else { c"rw" };
            parameters.push((access.to_owned(), None));
            Some(parameters)
        }
    };
    let links = links(&target);
    let path = target.clone();
    steps.push(Step::Remount { path: target, links, parameters, attr });
    plan_propagation(&path, options.propagation, steps);
    Ok(())
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
    if let Some(reach) = options.id_map {
        context.id_maps.apply(index, mount, tree.as_fd(), reach)?;
    }
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
        start: Start::Empty,
        shown,
    }));
    Ok(())
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
    let mut attr = options.attr;
    merge(&mut attr, options.recursive);
    let later_read_only = kind == "tmpfs" && attr.set & libc::MOUNT_ATTR_RDONLY != 0;
    attr.clear = 0;
    if later_read_only {
        attr.set &= !libc::MOUNT_ATTR_RDONLY;
    }
    let links = links(&target);
    let shown = format!("{kind} {source:?}");
    let path = target.clone();
    let made = new_source(kind, source, &options, context.mount_label)?;
    steps.push(Step::Mount(Mount {
        source: made.of_pids(context.pids)?,
        target,
        kind: Kind::Directory,
        links,
        attr,
        recursive: MountAttr::default(),
        start: start_of(kind, &options),
        shown,
    }));
    plan_propagation(&path, options.propagation, steps);
    Ok(())
}

impl Source {
    /// A procfs shows the processes of whoever makes it, unless it is made for others.
    fn of_pids(self, pids: Option<BorrowedFd<'_>>) -> Result<Source> {
        match (self, pids) {
            (Source::New { kind, parameters }, Some(pids)) if kind.as_c_str() == c"proc" => {
                crate::procfs::of(pids, &parameters).map(Source::Tree).map_err(|errno| Error::System {
                    doing: "make a procfs of the joined pid namespace",
                    source: errno.into(),
                })
            }
            (other, _) => Ok(other),
        }
    }
}

/// A tmpfs over a folder looks like that folder, unless its options say otherwise.
fn start_of(kind: &str, options: &Options) -> Start {
    let mode_is_given = options.data.iter().any(|(key, _)| key == "mode");
    match (kind, options.copy_up) {
        ("tmpfs", true) if mode_is_given => Start::Contents,
        ("tmpfs", true) => Start::ModeAndContents,
        ("tmpfs", false) if !mode_is_given => Start::Mode,
        _ => Start::Empty,
    }
}

/// Read-only tmpfs mounts are made so after everything has been put into them.
pub(crate) fn plan_late_read_only(mounts: &[MountSpec], steps: &mut Vec<Step>) -> Result<()> {
    for mount in mounts.iter().filter(|mount| mount.typ().as_deref() == Some("tmpfs")) {
        let options = parse(mount.options().as_deref().unwrap_or_default());
        let read_only = (options.attr.set | options.recursive.set) & libc::MOUNT_ATTR_RDONLY != 0;
        if options.bind.is_none() && !options.remount && read_only {
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
    let mut all = vec![(c"source".to_owned(), Some(text(source, kind)?))];
    // A tmpfs is filled before it becomes read-only; the others that are left out are the kernel's, for all containers.
    if options.read_only && !matches!(kind, "tmpfs" | "mqueue" | "cgroup" | "cgroup2") {
        all.push((c"ro".to_owned(), None));
    }
    all.extend(parameters(options, kind)?);
    if let (Some(label), "tmpfs" | "mqueue" | "devpts") = (label.filter(|l| !l.is_empty()), kind) {
        all.push((c"context".to_owned(), Some(text(label, kind)?)));
    }
    Ok(Source::New { kind: text(kind, kind)?, parameters: all })
}

fn text(value: &str, kind: &str) -> Result<CString> {
    CString::new(value).map_err(|_| Error::InvalidSpec {
        field: format!("mount of type {kind}"),
        why: "contains a NUL byte".into(),
    })
}

/// What a file system is told, as `fsconfig` takes it.
fn parameters(options: &Options, kind: &str) -> Result<Vec<(CString, Option<CString>)>> {
    let flags = options.flags.iter().map(|flag| Ok((text(flag, kind)?, None)));
    let data = options.data.iter().map(|(key, value)| {
        Ok((text(key, kind)?, value.as_deref().map(|value| text(value, kind)).transpose()?))
    });
    flags.chain(data).collect()
}

/// A link in a mounted file system; one that is there stays.
pub(crate) fn plan_link(path: &str, target: &str, existing: Existing, steps: &mut Vec<Step>) -> Result<()> {
    let target = CString::new(target)
        .map_err(|_| Error::InvalidSpec { field: path.into(), why: "contains a NUL byte".into() })?;
    steps.push(Step::Symlink { path: in_root(path)?, target, existing });
    Ok(())
}
