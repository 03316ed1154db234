//! Mounts of a container: the standard ones, the three files of /etc that the engine writes, and the user's. A
//! mount of the user's at a standard place takes its place.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::engine::config::{self, Access, MountKind};
use crate::error::{Error, Result};

/// Bytes of /dev/shm.
pub const SHM_SIZE: u64 = 64 << 20;

/// What the kernel shows of itself that a container has no business with.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// In a volume's folder, where it is never made.
const LATER: &str = "_opened-at-the-start";

/// Paths that a plain container finds empty. Per-CPU thermal counters are listed where this host has them.
pub fn masked_paths() -> Vec<String> {
    static THERMAL: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    let thermal = THERMAL.get_or_init(|| {
        let cpus = std::fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten();
        let mut found: Vec<String> = cpus
            .map(|cpu| cpu.path().join("thermal_throttle"))
            .filter(|path| path.is_dir())
            .map(|path| path.display().to_string())
            .collect();
        found.sort();
        found
    });
    MASKED.iter().map(|&path| path.to_owned()).chain(thermal.iter().cloned()).collect()
}

/// Paths that a plain container cannot write.
pub fn readonly_paths() -> Vec<String> {
    READ_ONLY.iter().map(|&path| path.to_owned()).collect()
}

/// What the engine mounts besides the standard filesystems.
pub struct Extra<'a> {
    /// Folder that holds `hosts`, `hostname` and `resolv.conf` of this container.
    pub files: &'a Path,
    pub read_only_files: Access,
    pub binds: &'a [config::Mount],
    pub privileged: bool,
    pub writable_cgroups: bool,
    pub shm: Shm<'a>,
}

/// What is at /dev/shm.
#[derive(Clone, Copy, Debug)]
pub enum Shm<'a> {
    /// A file system of the container's own with so many bytes; 0: 64 MiB.
    Own(i64),
    /// Nothing.
    None,
    /// A folder of the host's that is a file system in memory: the host's own, or one that containers share.
    Shared(&'a Path),
}

/// All mounts, in the order in which they are made.
pub fn mounts(extra: &Extra<'_>) -> Result<Vec<Mount>> {
    let taken = |place: &str| {
        extra.binds.iter().any(|bind| {
            let target = bind.target.trim_end_matches('/');
            target == place || (place.starts_with("/dev/") && target == "/dev")
        })
    };
    let sysfs: &[&str] =
        if extra.privileged { &["nosuid", "noexec", "nodev"] } else { &["nosuid", "noexec", "nodev", "ro"] };
    let cgroup: &[&str] = if extra.privileged || extra.writable_cgroups {
        &["nosuid", "noexec", "nodev", "relatime"]
    } else {
        &["nosuid", "noexec", "nodev", "relatime", "ro"]
    };
    let standard: [(&str, &str, &str, &[&str]); 6] = [
        ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/sys", "sysfs", "sysfs", sysfs),
        ("/sys/fs/cgroup", "cgroup", "cgroup", cgroup),
        ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    let mut mounts = Vec::with_capacity(10 + extra.binds.len());
    for (place, kind, source, options) in standard {
        if !taken(place) {
            mounts.push(mount(place, kind, source, options)?);
        }
    }
    match extra.shm {
        Shm::Own(size) if !taken("/dev/shm") => {
            let size = format!("size={}", if size > 0 { size.unsigned_abs() } else { SHM_SIZE });
            mounts.push(mount(
                "/dev/shm",
                "tmpfs",
                "shm",
                &["nosuid", "noexec", "nodev", "mode=1777", &size],
            )?);
        }
        Shm::Shared(folder) if !taken("/dev/shm") => {
            let source = folder.display().to_string();
            mounts.push(mount("/dev/shm", "bind", &source, &["rbind", "rprivate"])?);
        }
        Shm::Own(_) | Shm::Shared(_) | Shm::None => {}
    }
    let file_options: &[&str] = match extra.read_only_files {
        Access::ReadOnly => &["rbind", "rprivate", "ro"],
        Access::ReadWrite => &["rbind", "rprivate"],
    };
    for name in ["resolv.conf", "hostname", "hosts"] {
        let place = format!("/etc/{name}");
        if !taken(&place) {
            let source = extra.files.join(name).display().to_string();
            mounts.push(mount(&place, "bind", &source, file_options)?);
        }
    }
    let mut binds: Vec<&config::Mount> = extra.binds.iter().collect();
    // A mount inside another must come after it.
    binds.sort_by_key(|bind| Path::new(&bind.target).components().count());
    for bind in binds {
        mounts.push(of_the_user(bind)?);
    }
    Ok(mounts)
}

/// One of the user's mounts.
fn of_the_user(mount: &config::Mount) -> Result<Mount> {
    let mut options = Vec::new();
    if mount.kind == MountKind::Tmpfs {
        let options = tmpfs_options(mount)?;
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        return self::mount(&mount.target, "tmpfs", "tmpfs", &options);
    }
    let bind = &mount.bind;
    options.push(if bind.non_recursive { "bind" } else { "rbind" });
    options.push(if bind.propagation.is_empty() { "rprivate" } else { &bind.propagation });
    match read_only(mount) {
        ReadOnly::No => {}
        ReadOnly::Top => options.push("ro"),
        ReadOnly::Whole => options.push("rro"),
    }
    self::mount(&mount.target, "bind", &mount.source, &options)
}

/// How much of a mount may not be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOnly {
    No,
    /// But what is mounted below.
    Top,
    Whole,
}

/// As docker has it: with all that is mounted below, unless that is asked otherwise or the kernel cannot.
pub fn read_only(mount: &config::Mount) -> ReadOnly {
    if mount.access == Access::ReadWrite {
        return ReadOnly::No;
    }
    match mount.bind.recursive_read_only.as_str() {
        "writable" => ReadOnly::Top,
        "readonly" => ReadOnly::Whole,
        _ if mount.bind.non_recursive || !recursive_attributes() => ReadOnly::Top,
        _ => ReadOnly::Whole,
    }
}

/// Whether this kernel can make mounts read-only with all that is mounted below (5.12).
pub fn recursive_attributes() -> bool {
    static CAN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *CAN.get_or_init(|| {
        let release = crate::engine::system::kernel();
        let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 12)
    })
}

/// What a file system in memory has unless its options say otherwise.
const TMPFS: [&str; 3] = ["noexec", "nosuid", "nodev"];

/// Options of tmpfs that have a value.
const TMPFS_VALUES: [&str; 7] = ["nr_blocks", "size", "mode", "uid", "gid", "mpol", "nr_inodes"];

/// Options that mean nothing but the kernel's default or a mount's attribute: each with what it undoes.
const TMPFS_FLAGS: [(&str, &str); 18] = [
    ("ro", "rw"),
    ("rw", "ro"),
    ("exec", "noexec"),
    ("noexec", "exec"),
    ("suid", "nosuid"),
    ("nosuid", "suid"),
    ("dev", "nodev"),
    ("nodev", "dev"),
    ("atime", "noatime"),
    ("noatime", "atime"),
    ("diratime", "nodiratime"),
    ("nodiratime", "diratime"),
    ("relatime", "norelatime"),
    ("norelatime", "relatime"),
    ("strictatime", "nostrictatime"),
    ("nostrictatime", "strictatime"),
    ("sync", "async"),
    ("async", "sync"),
];

/// Of two options that contradict each other the later one counts.
fn tmpfs_options(mount: &config::Mount) -> Result<Vec<String>> {
    let mut options: Vec<String> = TMPFS.iter().map(|&option| option.to_owned()).collect();
    let asked = mount.tmpfs.options.iter().flat_map(|options| options.split(','));
    for option in asked.filter(|option| !option.is_empty() && *option != "defaults") {
        let key = option.split('=').next().unwrap_or_default();
        if let Some((_, undone)) = TMPFS_FLAGS.iter().find(|(flag, _)| *flag == option) {
            options.retain(|other| other != undone && other != option);
        } else if option.contains('=') && TMPFS_VALUES.contains(&key) {
            options.retain(|other| other.split('=').next() != Some(key));
        } else if !matches!(option, "private" | "rprivate" | "tmpcopyup") {
            return Err(Error::invalid("invalid tmpfs option", format!("{option:?}")));
        }
        options.push(option.to_owned());
    }
    if mount.tmpfs.size > 0 {
        options.push(format!("size={}", mount.tmpfs.size));
    }
    if mount.tmpfs.mode > 0 {
        options.push(format!("mode={:o}", mount.tmpfs.mode));
    }
    if mount.access == Access::ReadOnly {
        options.retain(|option| option != "rw");
        options.push("ro".to_owned());
    }
    options.push("rprivate".to_owned());
    Ok(options)
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount> {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(Error::oci)
}

/// What becomes of mounts of a folder within a volume or an image.
pub enum Subpaths<'a> {
    /// They are named by descriptors, which are put here and must live until the container has started. Volumes and images are mounted.
    Opened(&'a mut Vec<OwnedFd>),
    /// A start will look for them: until then they have a name that leads nowhere.
    Later,
}

/// The user's mounts with their sources on the host: volumes and images by their folders, which `source` tells; missing folders of the host are made where `-v` asks for
/// that.
pub fn prepare(
    mounts: &[config::Mount],
    source: impl Fn(&config::Mount) -> PathBuf,
    mut subpaths: Subpaths<'_>,
) -> Result<Vec<config::Mount>> {
    let mut prepared = Vec::with_capacity(mounts.len());
    for mount in mounts {
        let mut mount = mount.clone();
        match mount.kind {
            MountKind::Bind => prepare_bind(&mount)?,
            MountKind::Volume | MountKind::Image => {
                let (path, whole) = (source(&mount), mount.subpath.is_empty());
                let path = match &mut subpaths {
                    Subpaths::Opened(folders) if !whole => within(&path, &mount, folders)?,
                    Subpaths::Later if !whole || mount.kind == MountKind::Image => {
                        path.with_file_name(LATER).join(&mount.subpath).display().to_string()
                    }
                    _ => path.display().to_string(),
                };
                mount.source = path;
            }
            MountKind::Tmpfs => {}
        }
        prepared.push(mount);
    }
    Ok(prepared)
}

/// What is within a volume or an image, by a descriptor: no link leads out, whoever writes to it meanwhile.
fn within(volume: &Path, mount: &config::Mount, folders: &mut Vec<OwnedFd>) -> Result<String> {
    let what = if mount.kind == MountKind::Image { "image" } else { "volume" };
    let refuse = |errno: Errno| {
        Error::precondition(
            format!("cannot access path {:?} of {what} {}", mount.subpath, mount.source),
            std::io::Error::from(errno).to_string(),
        )
    };
    let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(volume, open, Mode::empty()).map_err(refuse)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let folder =
        rustix::fs::openat2(&root, mount.subpath.as_str(), flags, Mode::empty(), resolve).map_err(refuse)?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), folder.as_raw_fd());
    folders.push(folder);
    Ok(path)
}

fn prepare_bind(bind: &config::Mount) -> Result<()> {
    let source = Path::new(&bind.source);
    if std::fs::symlink_metadata(source).is_ok() {
        return Ok(());
    }
    if !bind.bind.create_source {
        return Err(Error::invalid(
            "invalid mount config for type \"bind\"",
            format!("bind source path does not exist: {}", bind.source),
        ));
    }
    std::fs::create_dir_all(source)
        .map_err(|err| Error::io("making the folder of the host to be mounted,", source, err))
}

/// The part that needs no host, in docker's words.
pub fn check(mount: &config::Mount) -> Result<()> {
    let (kind, source, target) = (mount.kind, mount.source.as_str(), mount.target.as_str());
    let name = match kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Image => "image",
    };
    let refuse = |why: String| Err(Error::invalid(format!("invalid mount config for type {name:?}"), why));
    let misplaced = |what: &str| refuse(format!("must not set {what} options"));
    if target.is_empty() {
        return refuse("field Target must not be empty".into());
    }
    if source.contains('\0') || target.contains('\0') || mount.subpath.contains('\0') {
        return refuse("a path contains NUL".into());
    }
    if !target.starts_with('/') {
        return refuse(format!("invalid mount path: '{target}' mount path must be absolute"));
    }
    if crate::engine::volumes::clean(target) == "/" {
        return refuse("invalid specification: destination can't be '/'".into());
    }
    let plain_bind = mount.bind == config::BindOptions::default();
    match kind {
        MountKind::Bind if source.is_empty() => return refuse("field Source must not be empty".into()),
        MountKind::Bind if !source.starts_with('/') => {
            return refuse(format!("invalid mount path: '{source}' mount path must be absolute"));
        }
        MountKind::Tmpfs if !source.is_empty() => return refuse("field Source must not be specified".into()),
        MountKind::Image if source.is_empty() => return refuse("field Source must not be empty".into()),
        MountKind::Volume | MountKind::Tmpfs | MountKind::Image if !plain_bind => return misplaced("Bind"),
        _ => {}
    }
    if kind != MountKind::Volume && mount.volume != config::VolumeOptions::default() {
        return misplaced("Volume");
    }
    if kind != MountKind::Tmpfs && mount.tmpfs != config::TmpfsOptions::default() {
        return misplaced("Tmpfs");
    }
    if !mount.subpath.is_empty() {
        let inside = Path::new(&mount.subpath).components().all(|part| matches!(part, Component::Normal(_)));
        if kind == MountKind::Bind || kind == MountKind::Tmpfs {
            return misplaced("Volume");
        }
        if !inside {
            return refuse(format!("subpath must be a relative path within the volume: {:?}", mount.subpath));
        }
    }
    if kind == MountKind::Volume && source.is_empty() && !mount.subpath.is_empty() {
        return refuse("must not set Subpath when using anonymous volumes".into());
    }
    if kind == MountKind::Tmpfs {
        if mount.tmpfs.size < 0 {
            return refuse("the size of a tmpfs must not be negative".into());
        }
        tmpfs_options(mount)?;
    }
    check_bind_options(mount)
}

fn check_bind_options(mount: &config::Mount) -> Result<()> {
    let refuse = |why: String| Err(Error::invalid("invalid mount config for type \"bind\"", why));
    let bind = &mount.bind;
    match bind.propagation.as_str() {
        "" | "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {}
        other => return refuse(format!("invalid propagation mode: {other}")),
    }
    match bind.recursive_read_only.as_str() {
        "" | "enabled" | "writable" => Ok(()),
        "readonly" if mount.access != Access::ReadOnly => {
            refuse("mount source is not read-only: bind-recursive=readonly needs readonly".into())
        }
        "readonly" if !matches!(bind.propagation.as_str(), "" | "rprivate") => {
            refuse("bind-recursive=readonly needs bind-propagation=rprivate".into())
        }
        "readonly" => Ok(()),
        other => refuse(format!("invalid value for bind-recursive: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(target: &str) -> config::Mount {
        config::Mount { source: "/src".into(), target: target.into(), ..config::Mount::default() }
    }

    fn places(binds: &[config::Mount]) -> Vec<String> {
        let extra = Extra {
            files: Path::new("/f"),
            read_only_files: Access::ReadWrite,
            binds,
            privileged: false,
            writable_cgroups: false,
            shm: Shm::Own(0),
        };
        let all = mounts(&extra).unwrap();
        all.iter().map(|mount| mount.destination().display().to_string()).collect()
    }

    #[test]
    fn a_users_mount_takes_the_place_of_a_standard_one() {
        let all = places(&[bind("/dev/shm"), bind("/etc/hosts")]);
        assert_eq!(all.iter().filter(|place| *place == "/dev/shm").count(), 1);
        assert_eq!(all.iter().filter(|place| *place == "/etc/hosts").count(), 1);
        let all = places(&[bind("/dev")]);
        assert!(!all.iter().any(|place| place == "/dev/pts"));
    }

    #[test]
    fn mounts_inside_mounts_come_later() {
        let all = places(&[bind("/a/b/c"), bind("/a")]);
        assert!(all.iter().position(|p| p == "/a") < all.iter().position(|p| p == "/a/b/c"));
    }

    #[test]
    fn targets_that_make_no_sense_are_refused() {
        for target in ["", "rel", "/", "/a/../..", "/a\0b"] {
            assert!(check(&bind(target)).is_err(), "{target}");
        }
        let named =
            config::Mount { source: "data".into(), target: "/data".into(), ..config::Mount::default() };
        assert!(check(&named).is_err());
        check(&config::Mount { kind: MountKind::Volume, ..named.clone() }).unwrap();
        for subpath in ["../x", "/x", "a/../../b"] {
            let mount = config::Mount { kind: MountKind::Volume, subpath: subpath.into(), ..named.clone() };
            assert!(check(&mount).is_err(), "{subpath}");
        }
    }

    #[test]
    fn the_later_of_two_options_of_a_tmpfs_counts() {
        let mut mount =
            config::Mount { kind: MountKind::Tmpfs, target: "/t".into(), ..config::Mount::default() };
        mount.tmpfs.options = vec!["exec,size=1m".into(), "size=2m,mode=700".into()];
        assert_eq!(
            tmpfs_options(&mount).unwrap(),
            ["nosuid", "nodev", "exec", "size=2m", "mode=700", "rprivate"]
        );
        mount.tmpfs.options = vec!["foo".into()];
        assert!(check(&mount).is_err());
    }

    #[test]
    fn read_only_is_so_below_too_unless_it_is_asked_otherwise() {
        let mut mount = bind("/a");
        mount.access = Access::ReadOnly;
        let options = |mount: &config::Mount| of_the_user(mount).unwrap().options().clone().unwrap();
        assert_eq!(options(&mount), ["rbind", "rprivate", "rro"]);
        mount.bind.recursive_read_only = "writable".into();
        assert_eq!(options(&mount), ["rbind", "rprivate", "ro"]);
        mount.bind.non_recursive = true;
        mount.bind.propagation = "rslave".into();
        assert_eq!(options(&mount), ["bind", "rslave", "ro"]);
    }
}
