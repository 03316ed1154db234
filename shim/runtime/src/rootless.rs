//! Being an ordinary user: the user namespace is entered before anything else is done, so that all that follows is done as
//! its root, and what even that root may not do is done in another way.
//!
//! What always holds: nobody gets an id that the host's `/etc/subuid` and `/etc/subgid` do not give him, because only
//! newuidmap and newgidmap write maps of more than one's own id.

use crate::init::channel::{self, Report};
use crate::sys::{self, process};
use crate::{Error, Result};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType, Mount, Spec};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{Mode, OFlags};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

/// Ids that a whole map has.
const ALL: u64 = u32::MAX as u64;

/// The two kinds of ids, and what has to do with them.
struct Kind {
    map: &'static str,
    field: &'static str,
    helper: &'static str,
    ranges: &'static str,
}

const USERS: Kind =
    Kind { map: "uid_map", field: "linux.uidMappings", helper: "newuidmap", ranges: "/etc/subuid" };
const GROUPS: Kind =
    Kind { map: "gid_map", field: "linux.gidMappings", helper: "newgidmap", ranges: "/etc/subgid" };

/// Whether this process lacks the host's privileges: an ordinary user, or somebody in a user namespace.
pub fn is_rootless() -> bool {
    !rustix::process::geteuid().is_root() || is_inside()
}

/// What becomes of a cgroup that this process may not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// Done without by an ordinary user, an error for root.
    Auto,
    /// Done without.
    Optional,
    /// An error.
    Required,
}

static CGROUPS: AtomicU8 = AtomicU8::new(Cgroups::Auto as u8);

/// Decides it for this process.
pub fn set_cgroups(cgroups: Cgroups) {
    CGROUPS.store(cgroups as u8, Ordering::Relaxed);
}

/// Whether a cgroup that cannot be made is done without.
pub(crate) fn does_without_cgroups() -> bool {
    match CGROUPS.load(Ordering::Relaxed) {
        auto if auto == Cgroups::Auto as u8 => is_rootless(),
        other => other == Cgroups::Optional as u8,
    }
}

/// Whether this process is in a user namespace other than the host's.
fn is_inside() -> bool {
    map_of_this("uid_map")
        .first()
        .is_some_and(|(inside, outside, size)| (*inside, *outside, *size) != (0, 0, ALL))
}

/// Triples of first id inside, first id outside, and how many.
fn map_of_this(file: &str) -> Vec<(u64, u64, u64)> {
    let text = std::fs::read_to_string(Path::new("/proc/self").join(file)).unwrap_or_default();
    let parse = |line: &str| {
        let mut words = line.split_whitespace().map(|word| word.parse::<u64>().ok());
        Some((words.next()??, words.next()??, words.next()??))
    };
    text.lines().filter_map(parse).collect()
}

/// The id of this process's user as the host knows it.
pub(crate) fn uid_outside() -> u64 {
    let own = u64::from(rustix::process::geteuid().as_raw());
    let hit =
        map_of_this("uid_map").into_iter().find(|(inside, _, size)| (*inside..inside + size).contains(&own));
    hit.map_or(own, |(inside, outside, _)| outside + (own - inside))
}

/// Makes the user namespace of a container for an ordinary user and enters it, with a mount namespace of its own; the spec
/// then asks for none any more. Answers what was done in another way than asked. Does nothing for root.
///
/// A config without id maps gets all subordinate ids of the user, or, without any, only his own id, as the container's root.
///
/// # Errors
/// Maps that the host does not allow this user; a host without user namespaces.
pub fn enter_new(spec: &mut Spec) -> Result<Vec<String>> {
    if rustix::process::geteuid().is_root() {
        return Ok(Vec::new());
    }
    let linux = spec.linux_mut().as_mut();
    let linux =
        linux.ok_or_else(|| Error::InvalidSpec { field: "linux".into(), why: "is missing".into() })?;
    let mut warnings = Vec::new();
    let namespaces = linux.namespaces().clone().unwrap_or_default();
    let user = namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::User);
    match user.and_then(|namespace| namespace.path().clone()) {
        Some(path) => enter_path(&path)?,
        None => make(linux, &mut warnings)?,
    }
    process::unshare(libc::CLONE_NEWNS).map_err(system("make a mount namespace"))?;
    // Nothing that is mounted here is for the host, which would not let us show it anyway.
    sys::mount::set_propagation(c"/", libc::MS_SLAVE | libc::MS_REC)
        .map_err(system("cut the mounts off the host's"))?;
    let others = namespaces.into_iter().filter(|namespace| namespace.typ() != LinuxNamespaceType::User);
    linux.set_namespaces(Some(others.collect()));
    linux.set_uid_mappings(None).set_gid_mappings(None);
    Ok(warnings)
}

/// Enters the user namespace of a container's process, to do something more in the container.
///
/// # Errors
/// A process that is gone, or whose user namespace is not the caller's.
pub fn enter(pidfd: BorrowedFd<'_>) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    process::setns(pidfd, libc::CLONE_NEWUSER).map_err(system("enter the container's user namespace"))
}

fn system(doing: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |errno| Error::System { doing, source: errno.into() }
}

fn enter_path(path: &Path) -> Result<()> {
    let failed = |errno: rustix::io::Errno| Error::Io {
        doing: "enter the user namespace",
        path: path.into(),
        source: errno.into(),
    };
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    process::setns(fd.as_fd(), libc::CLONE_NEWUSER).map_err(failed)
}

/// A child makes the namespace, its maps are written from outside, then it is entered, and the child has done its duty.
fn make(linux: &Linux, warnings: &mut Vec<String>) -> Result<()> {
    let talk = system("talk to the process that makes the user namespace");
    let (ours, theirs) = channel::pair().map_err(&talk)?;
    let child = process::spawn(0, None, || match hold(&theirs) {
        Ok(()) => 0,
        Err(errno) => errno.raw_os_error(),
    });
    let child = child.map_err(system("clone a process for the user namespace"))?;
    drop(theirs);
    let done = match ours.receive().map_err(&talk)? {
        Some((Report::MapIds, _)) => write_maps(child.pid, linux, warnings)
            .and_then(|()| enter_path(Path::new(&format!("/proc/{}/ns/user", child.pid)))),
        _ => Err(Error::System {
            doing: "make a user namespace (does this host allow them to ordinary users?)",
            source: std::io::Error::from_raw_os_error(libc::EPERM),
        }),
    };
    let _ = process::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
    let _ = process::wait(child.pidfd.as_fd(), process::Reap::Take);
    done
}

/// The child. It has nothing of a container, and must be open to its user, who else may not write its maps.
fn hold(channel: &channel::Channel) -> sys::SysResult<()> {
    process::unshare(libc::CLONE_NEWUSER)?;
    process::prctl(libc::PR_SET_DUMPABLE, 1)?;
    process::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
    channel.send(Report::MapIds)?;
    channel.await_answer()
}

fn write_maps(pid: i32, linux: &Linux, warnings: &mut Vec<String>) -> Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let asked =
        (linux.uid_mappings().clone().unwrap_or_default(), linux.gid_mappings().clone().unwrap_or_default());
    let (users, groups) = match asked {
        (users, groups) if users.is_empty() && groups.is_empty() => usual(uid, gid, warnings)?,
        asked => asked,
    };
    write_map(pid, &GROUPS, &groups, gid)?;
    write_map(pid, &USERS, &users, uid)
}

fn one(inside: u32, outside: u32, size: u32) -> Result<LinuxIdMapping> {
    let map = LinuxIdMappingBuilder::default().container_id(inside).host_id(outside).size(size).build();
    map.map_err(|error| Error::InvalidSpec { field: "linux.uidMappings".into(), why: error.to_string() })
}

/// The user as root, and his subordinate ids above.
fn usual(
    uid: u32,
    gid: u32,
    warnings: &mut Vec<String>,
) -> Result<(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>)> {
    let (users, groups) = (ranges(&USERS, uid), ranges(&GROUPS, uid));
    if users.is_empty() || groups.is_empty() || !(is_there(USERS.helper) && is_there(GROUPS.helper)) {
        warnings.push(format!(
            "this user has no ids in {} and {}, or newuidmap and newgidmap are not there: the container has one id only",
            USERS.ranges, GROUPS.ranges
        ));
        return Ok((vec![one(0, uid, 1)?], vec![one(0, gid, 1)?]));
    }
    let above = |own: u32, ranges: Vec<(u32, u32)>| {
        let mut maps = vec![one(0, own, 1)?];
        let mut next = 1;
        for (first, size) in ranges {
            maps.push(one(next, first, size)?);
            next = next.saturating_add(size);
        }
        Ok::<_, Error>(maps)
    };
    Ok((above(uid, users)?, above(gid, groups)?))
}

/// The user's lines in `/etc/subuid` or `/etc/subgid`, by name or number: first id and how many.
fn ranges(kind: &Kind, uid: u32) -> Vec<(u32, u32)> {
    let name = name_of(uid).unwrap_or_default();
    let number = uid.to_string();
    let text = std::fs::read_to_string(kind.ranges).unwrap_or_default();
    let parse = |line: &str| {
        let mut parts = line.split(':');
        let owner = parts.next()?;
        let hers = owner == number || !name.is_empty() && owner == name;
        let range = (parts.next()?.parse().ok()?, parts.next()?.trim().parse().ok()?);
        hers.then_some(range).filter(|(_, size)| *size > 0)
    };
    text.lines().filter_map(parse).collect()
}

fn name_of(uid: u32) -> Option<String> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    let uid = uid.to_string();
    let line = text.lines().find(|line| line.split(':').nth(2) == Some(uid.as_str()))?;
    line.split(':').next().map(str::to_owned)
}

fn is_there(helper: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(helper).is_file())
}

/// One's own id may be mapped by oneself, anything else by the helper.
fn write_map(pid: i32, kind: &Kind, maps: &[LinuxIdMapping], own: u32) -> Result<()> {
    let write = |file: &str, text: &str| {
        let path = Path::new("/proc").join(pid.to_string()).join(file);
        std::fs::write(&path, text).map_err(|source| Error::Io { doing: "write the id map", path, source })
    };
    if let [map] = maps
        && map.size() == 1
        && map.host_id() == own
    {
        if kind.map == GROUPS.map {
            // The kernel's condition: groups that take something away must not be dropped.
            write("setgroups", "deny")?;
        }
        return write(kind.map, &format!("{} {own} 1\n", map.container_id()));
    }
    let refused = |why: String| Error::InvalidSpec { field: kind.field.into(), why };
    if maps.is_empty() {
        return Err(refused("is empty, and the other kind of ids has maps".into()));
    }
    let mut command = Command::new(kind.helper);
    command.arg(pid.to_string()).stdin(Stdio::null());
    for map in maps {
        command.args([map.container_id(), map.host_id(), map.size()].map(|number| number.to_string()));
    }
    let output = command.output().map_err(|error| {
        refused(format!(
            "maps more than this user's own id, which needs {} (Debian's uidmap): {error}",
            kind.helper
        ))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(refused(format!("{} refused: {why}; see {}", kind.helper, kind.ranges)))
}

/// Another mount in the place of one that the root of a user namespace may not make; `None` if the mount can be made.
/// `own` are the namespaces that the container has for itself.
pub(crate) fn substitute(mount: &Mount, own: i32) -> Option<Mount> {
    let shared = |flag: i32| own & flag == 0;
    let source = match mount.typ().as_deref() {
        Some("sysfs") if shared(libc::CLONE_NEWNET) => "/sys",
        Some("mqueue") if shared(libc::CLONE_NEWIPC) => "/dev/mqueue",
        Some("proc") if shared(libc::CLONE_NEWPID) => "/proc",
        Some("devpts") => return without_unmapped_group(mount),
        _ => return None,
    };
    if !Path::new(source).is_dir() {
        return None;
    }
    let mut options: Vec<String> =
        mount.options().iter().flatten().filter(|option| !option.contains('=')).cloned().collect();
    options.push("rbind".into());
    let mut bind = mount.clone();
    bind.set_typ(Some("none".into())).set_source(Some(source.into())).set_options(Some(options));
    Some(bind)
}

/// The group of terminals, where it is not mapped, cannot be given to them.
fn without_unmapped_group(mount: &Mount) -> Option<Mount> {
    let options = mount.options().as_ref()?;
    let map = map_of_this("gid_map");
    let is_mapped = |gid: u64| map.iter().any(|(inside, _, size)| (*inside..inside + size).contains(&gid));
    let unmapped = |option: &String| {
        option.strip_prefix("gid=").and_then(|gid| gid.parse().ok()).is_some_and(|gid| !is_mapped(gid))
    };
    if !options.iter().any(unmapped) {
        return None;
    }
    let mut plain = mount.clone();
    plain.set_options(Some(options.iter().filter(|option| !unmapped(option)).cloned().collect()));
    Some(plain)
}
