//! Who is measured, and how each is told the same things.

mod containerd;
mod docker;
mod floor;
pub mod longshore;
pub mod oci;
mod podman;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use longshore_tests::registry::Registry;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::arena::{self, Arena};
use crate::measure::{Call, tail};
use crate::options::Options;
use crate::place::Place;
use crate::report::Report;

pub use longshore::Longshore;

/// The small image's name in every registry.
pub const SMALL: &str = "bench/busybox:latest";
/// The large one's.
pub const LARGE: &str = "bench/large:latest";

/// Which network a container gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    None,
    Default,
}

/// Somebody who runs containers. What it cannot do, it answers with `None`.
pub trait Contestant {
    fn name(&self) -> &'static str;

    /// Where its commands are started.
    fn place(&self) -> &Place;

    /// Runs `/bin/true` in a new container to its end, and removes the container.
    fn run(&self, network: Network, id: &str) -> Option<Call>;

    /// Starts a container that sleeps.
    fn start(&self, _id: &str) -> Option<Call> {
        None
    }

    /// Ends and removes containers that sleep.
    fn remove(&self, _ids: &[String]) -> Vec<Call> {
        Vec::new()
    }

    /// Pulls and unpacks the large image.
    fn pull(&self) -> Option<Call> {
        None
    }

    /// The registry that it pulls from.
    fn registry(&self) -> Option<&Registry> {
        None
    }

    /// Starts anew with nothing stored.
    fn restart(&mut self) -> Result<()> {
        Ok(())
    }

    /// Gets the small image.
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    /// Whether it has a daemon whose idle memory says something.
    fn has_daemon(&self) -> bool {
        false
    }

    /// The socket on which it serves containerd's API, and its daemon's process id.
    fn api(&self) -> Option<(PathBuf, i32)> {
        None
    }

    /// Which of its processes are companions of containers (a shim each), and not its daemons.
    fn companions(&self) -> Companions {
        Companions::None
    }

    /// Ends daemons.
    fn end(&mut self) {}
}

/// How the processes that each container has besides its own are told from daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Companions {
    None,
    /// By their name as in /proc/PID/comm.
    Named(&'static str),
    /// They are all but this one.
    AllBut(i32),
}

/// Everybody who takes part. Who cannot is named in the report.
pub fn peers(options: &Options, arena: &Arena, report: &mut Report) -> Vec<Box<dyn Contestant>> {
    type Make = fn(&Arena, &Options) -> Result<Box<dyn Contestant>>;
    let all: [(&str, Make); 7] = [
        ("floor", |arena, _| Ok(Box::new(floor::Floor::new(arena, floor::Net::Shared)?))),
        ("floor", |arena, _| Ok(Box::new(floor::Floor::new(arena, floor::Net::Own)?))),
        ("crun", |arena, _| Ok(Box::new(oci::Runtime::crun(arena)?))),
        ("runc", |arena, _| Ok(Box::new(oci::Runtime::runc(arena)?))),
        ("ctr", |arena, options| Ok(Box::new(containerd::Containerd::new(arena, options)?))),
        ("docker", |arena, _| Ok(Box::new(docker::Docker::new(arena)?))),
        ("podman", |arena, _| Ok(Box::new(podman::Podman::new(arena)?))),
    ];
    let mut found = Vec::new();
    for (name, make) in all.into_iter().filter(|(name, _)| options.wants(name)) {
        match make(arena, options).and_then(|mut peer| peer.prepare().map(|()| peer)) {
            Ok(peer) => found.push(peer),
            Err(why) => report.missing(name, "everything", format!("{why:#}")),
        }
    }
    found
}

/// The name of what belongs to a contestant: cgroup parents, prefixes of ids.
pub fn group(contestant: &str) -> String {
    format!("{}-{contestant}", arena::cgroup_prefix())
}

/// A program of the host.
pub fn installed(name: &str) -> Result<PathBuf> {
    let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin"];
    let paths = folders.iter().map(|folder| Path::new(folder).join(name));
    paths.into_iter().find(|path| path.exists()).with_context(|| format!("{name} is not installed"))
}

/// A command that belongs to a contestant.
pub fn call(program: &Path, owner: &str) -> Call {
    Call::new(program).env(arena::OWNER, owner)
}

/// A daemon on a Unix socket.
pub struct Daemon {
    child: Option<Child>,
}

impl Daemon {
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| child.id().try_into().ok())
    }

    /// Starts it and waits until it answers.
    pub fn start(place: &Place, call: Call, folder: &Path, socket: PathBuf) -> Result<Self> {
        let log = folder.join("daemon.log");
        let started = log.clone();
        let mut child = place.run(move || call.start(&started))??;
        let deadline = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(&socket).is_err() {
            let ended = child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("the daemon does not answer: {}", tail(text.trim()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { child: Some(child) })
    }

    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(20);
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Removes a folder of a contestant and all mounts below it, and makes it again, empty.
pub fn empty(place: &Place, folder: &Path) -> Result<()> {
    let folder = folder.to_owned();
    place.run(move || {
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        let mut below: Vec<_> = points.filter(|point| point.starts_with(&folder)).collect();
        below.sort();
        for point in below.into_iter().rev() {
            let _ = nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH);
        }
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))
    })?
}

/// The registry of this host's loopback, shared.
fn shared(arena: &Arena) -> Arc<Registry> {
    Arc::clone(&arena.registry)
}
