//! Places: threads in mount and network namespaces of their own, for peers that need a host unlike this one.
//!
//! Programs that are started by such a thread, or by threads that it starts, live in its namespaces. The namespaces end with
//! the thread and its programs.

use std::any::Any;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does what it is given.
pub struct Place {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Place {
    /// This host as it is.
    pub fn host() -> Result<Self> {
        Self::new(|| Ok(()))
    }

    /// A host with cgroup v1 alone: the v2 hierarchy of a hybrid host is not mounted there. For crun, which refuses hybrid hosts.
    pub fn v1() -> Result<Self> {
        Self::new(|| {
            private_mounts()?;
            let unified = Path::new("/sys/fs/cgroup/unified");
            if unified.is_dir() {
                umount2(unified, MntFlags::MNT_DETACH)
                    .context("unmounting the v2 hierarchy in a view of the host")?;
            }
            Ok(())
        })
    }

    /// A host with a network of its own, in which bridges and firewall rules can be made, and whose /etc, /opt and /run
    /// are copies: changes go to `folder`.
    pub fn network(folder: &Path) -> Result<Self> {
        let folder = folder.to_owned();
        Self::new(move || {
            unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
            private_mounts()?;
            for name in ["etc", "opt", "run"].into_iter().filter(|name| Path::new("/").join(name).is_dir()) {
                let (upper, work) =
                    (folder.join(format!("{name}-upper")), folder.join(format!("{name}-work")));
                std::fs::create_dir_all(&upper)?;
                std::fs::create_dir_all(&work)?;
                let options =
                    format!("lowerdir=/{name},upperdir={},workdir={}", upper.display(), work.display());
                let target = Path::new("/").join(name);
                mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
                    .with_context(|| format!("covering {}", target.display()))?;
            }
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).ok();
            rebind_cgroups()?;
            let up = std::process::Command::new("busybox").args(["ip", "link", "set", "lo", "up"]).status();
            up.context("bringing up loopback with busybox ip")?;
            Ok(())
        })
    }

    fn new(prepare: impl FnOnce() -> Result<()> + Send + 'static) -> Result<Self> {
        let (jobs, todo) = channel::<Job>();
        let (ready, prepared) = channel();
        let thread = std::thread::spawn(move || {
            let outcome = prepare();
            let failed = outcome.is_err();
            if ready.send(outcome).is_err() || failed {
                return;
            }
            todo.into_iter().for_each(|job| job());
        });
        prepared.recv().context("a place's thread ended")??;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Does `work` there and returns what it gives.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (done, result) = channel();
        let job: Job = Box::new(move || drop(done.send(work())));
        self.jobs
            .as_ref()
            .context("the place is closed")?
            .send(job)
            .map_err(|_| anyhow!("a place's thread ended"))?;
        result.recv().context("a place's thread ended before it answered")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _: Result<(), Box<dyn Any + Send>> = thread.join();
        }
    }
}

/// Mounts from here on are this thread's (or process's) own.
pub fn private_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace (this needs root)")?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("making mounts private")
}

/// The cgroup hierarchies again, on the new /sys.
fn rebind_cgroups() -> Result<()> {
    let table = std::fs::read_to_string("/proc/1/mountinfo").unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    if root.join("memory").is_dir() || root.join("cgroup.procs").exists() {
        return Ok(());
    }
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(point) = left.split(' ').nth(4).filter(|p| p.starts_with("/sys/fs/cgroup")) else {
            continue;
        };
        let mut fields = right.split(' ');
        let (kind, options) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
        let options: Vec<_> =
            options.split(',').filter(|o| *o != "rw" && !o.starts_with("release_agent")).collect();
        let options = options.join(",");
        let _ = std::fs::create_dir(point);
        mount(Some(kind), point, Some(kind), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("mounting {point}"))?;
    }
    Ok(())
}
