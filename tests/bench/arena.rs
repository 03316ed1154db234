//! Where everything happens: a tmpfs in a mount namespace of this program's own, and what must be gone at the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use longshore_tests::{image, registry::Registry};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::options::Options;
use crate::place::private_mounts;

/// Set in the environment of everything that this program starts.
pub const MARK: &str = "LONGSHORE_BENCH";
/// Names the contestant in the environment of its programs.
pub const OWNER: &str = "LONGSHORE_BENCH_OWNER";

static STOPPING: AtomicBool = AtomicBool::new(false);

/// The value of [`MARK`]: this run's process id.
pub fn mark() -> String {
    std::process::id().to_string()
}

/// Whether somebody asked us to stop (SIGINT, SIGTERM).
pub fn stopping() -> bool {
    STOPPING.load(Ordering::Relaxed)
}

/// Prefix of every cgroup that is made.
pub fn cgroup_prefix() -> String {
    format!("longshore-bench-{}", std::process::id())
}

/// The place, with a registry on loopback.
pub struct Arena {
    folder: tempfile::TempDir,
    pub registry: Arc<Registry>,
    /// The layers of the small image, unpacked: a root filesystem.
    pub rootfs: PathBuf,
}

impl Arena {
    pub fn new(options: &Options) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "this needs root");
        watch_signals()?;
        private_mounts()?;
        let folder = tempfile::Builder::new().prefix("longshore-bench-").tempdir()?;
        let size = 2048 + 10 * options.pull_mib;
        let size = format!("size={size}m,mode=0755");
        mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
            .context("mounting a tmpfs")?;
        let registry = Arc::new(Registry::start()?);
        let small = image::busybox()?.build()?;
        registry.put("bench/busybox", "latest", &small);
        let rootfs = folder.path().join("rootfs");
        std::fs::create_dir(&rootfs)?;
        tar::Archive::new(&*image::busybox_layer()?.bytes()).unpack(&rootfs)?;
        for name in ["proc", "sys", "dev"] {
            std::fs::create_dir_all(rootfs.join(name))?;
        }
        Ok(Self { folder, registry, rootfs })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Ends every process that was started, removes cgroups and the tmpfs; says what had not ended by itself.
    pub fn leave(self) -> Vec<String> {
        let mut left = Vec::new();
        for pid in marked() {
            left.push(format!("process {pid} ({})", crate::memory::name(pid)));
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        for folder in cgroup_folders(&cgroup_prefix()) {
            remove_cgroup(&folder, &mut left);
        }
        let Self { folder, registry, .. } = self;
        drop(registry);
        let deadline = Instant::now() + Duration::from_secs(10);
        while umount2(folder.path(), MntFlags::empty()).is_err() {
            if Instant::now() > deadline {
                left.push(format!("mount {} (busy)", folder.path().display()));
                let _ = umount2(folder.path(), MntFlags::MNT_DETACH);
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        left
    }
}

/// SIGINT and SIGTERM end the run between two measurements, with everything cleaned up. They are handled, not blocked:
/// a blocked signal would be blocked in every daemon that is started here, too.
fn watch_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            STOPPING.store(true, Ordering::Relaxed);
            eprintln!("stopping after this measurement");
        });
    });
    Ok(())
}

/// Processes that this run started, or that inherited its mark.
fn marked() -> Vec<i32> {
    let pair = format!("{MARK}={}", mark());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|entry| entry == pair.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

/// Folders of that name, or beginning with it, in every cgroup hierarchy.
pub fn cgroup_folders(prefix: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let below = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    };
    let ours = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
    };
    let mut found: Vec<_> = below(root).into_iter().filter(ours).collect();
    for hierarchy in below(root) {
        found.extend(below(&hierarchy).into_iter().filter(ours));
    }
    found
}

fn remove_cgroup(folder: &Path, left: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path(), left);
        }
    }
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0) {
        left.push(format!("process {pid} ({})", crate::memory::name(pid)));
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while std::fs::remove_dir(folder).is_err() && folder.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}
