//! Mounts of a container: the standard ones, the three files of /etc that the engine writes, and the user's. A
//! mount of the user's at a standard place takes its place.

use std::path::Path;

use oci_spec::runtime::{Mount, MountBuilder};

use crate::engine::config::{self, Access};
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
        let options: &[&str] = match bind.access {
            Access::ReadOnly => &["rbind", "rprivate", "ro"],
            Access::ReadWrite => &["rbind", "rprivate"],
        };
        mounts.push(mount(&bind.target, "bind", &bind.source, options)?);
    }
    Ok(mounts)
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

/// Checks what a user asked to be mounted and makes missing folders of the host, as `-v` does.
pub fn prepare_binds(binds: &[config::Mount]) -> Result<()> {
    for bind in binds {
        check_bind(bind)?;
        let source = Path::new(&bind.source);
        if std::fs::symlink_metadata(source).is_err() {
            std::fs::create_dir_all(source)
                .map_err(|err| Error::io("making the folder of the host to be mounted,", source, err))?;
        }
    }
    Ok(())
}

/// The part that needs no host.
pub fn check_bind(bind: &config::Mount) -> Result<()> {
    let spec = format!("{}:{}", bind.source, bind.target);
    let refuse = |why: &str| Err(Error::invalid(format!("volume specification '{spec}'"), why));
    if !bind.source.starts_with('/') {
        return refuse("the path on the host must be absolute; named volumes are not available yet");
    }
    if !bind.target.starts_with('/') {
        return refuse("the path in the container must be absolute");
    }
    if Path::new(&bind.target).components().count() <= 1 {
        return refuse("destination can't be '/'");
    }
    if spec.contains('\0') || Path::new(&bind.target).components().any(|part| part.as_os_str() == "..") {
        return refuse("the path in the container must not contain '..' or NUL");
    }
    Ok(())
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
        for target in ["", "rel", "/", "/a/../b"] {
            assert!(check_bind(&bind(target)).is_err(), "{target}");
        }
        let named =
            config::Mount { source: "data".into(), target: "/data".into(), ..config::Mount::default() };
        assert!(check_bind(&named).is_err());
    }
}
