//! A container's files as its processes see them, volumes included, for work from outside: of one that runs through its first
//! process, of one that does not by putting its mounts together where nobody else sees them.
//!
//! What always holds: what is handed out is a descriptor of the container's root, from which paths are resolved by
//! [`trees`](crate::trees); mounts that were made for it are gone with the thread that made them, whatever happens; a process id that
//! went to another process meanwhile is noticed.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use rustix::process::{Pid, PidfdFlags};
use tokio::sync::oneshot;

use super::Engine;
use super::config::{Access, MountKind, Record};
use super::conflict::Conflict;
use super::registry::Entry;
use super::spec::mounts;
use super::state::Status;
use crate::error::{Error, Result};
use crate::images::unpack::Form;
use crate::images::unpack::tree::{Missing, Tree};
use crate::snapshots;
use crate::trees::{Last, look_up};

/// A container's root, open.
pub struct Root {
    pub fd: OwnedFd,
    /// The container may not write to its own root.
    read_only: bool,
}

/// A mount of a container that does not run.
struct Bind {
    source: PathBuf,
    target: String,
    access: Access,
}

impl Engine {
    /// Does `work` with the container's root, in a thread of its own. A container that does not run cannot be started meanwhile.
    pub(super) async fn in_root<R: Send + 'static>(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        work: impl FnOnce(Root) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let _permit = self
            .transfers
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Error::Lost { what: "the count of transfers" })?;
        let turn = entry.turn.clone().lock_owned().await;
        let record = entry.record();
        let read_only = record.config.read_only_rootfs;
        if record.state.status.is_live() {
            drop(turn);
            let (pid, id) = (record.state.pid, entry.id.clone());
            return in_thread(move || work(Root { fd: root_of(pid, &id)?, read_only })).await;
        }
        if matches!(record.state.status, Status::Removing | Status::Dead) {
            return Err(Error::precondition(
                "can't access the files of a container that is being removed",
                entry.id.clone(),
            ));
        }
        let user = format!("transfer of {}", entry.id);
        let (snapshot, _) = self.mounts_of(entry, record.state.run == 0).await?;
        let volumes: Vec<String> = volumes(&record).collect();
        let place = self.folder(&entry.id).join("root");
        let mut outcome = Ok(());
        for name in &volumes {
            outcome = outcome.and(self.mount_volume(name, &user).await);
        }
        let done = match outcome {
            Err(error) => Err(error),
            Ok(()) => {
                let mut folders = Vec::new();
                let mounts = mounts::prepare(record.mounts(), |name| self.volumes.data(name), &mut folders)?;
                let binds = mounts
                    .into_iter()
                    .filter(|mount| matches!(mount.kind, MountKind::Bind | MountKind::Volume))
                    .map(|mount| Bind {
                        source: mount.source.into(),
                        target: mount.target,
                        access: mount.access,
                    })
                    .collect();
                in_thread(move || {
                    let _folders = folders;
                    let fd = assemble(&place, &snapshot, binds)?;
                    let done = work(Root { fd, read_only });
                    // Not left to the end of the thread: what starts next has the root for itself.
                    let _ = nix::mount::umount2(&place, MntFlags::MNT_DETACH);
                    done
                })
                .await
            }
        };
        for name in &volumes {
            self.unmount_volume(name, &user).await?;
        }
        drop(turn);
        done
    }
}

fn volumes(record: &Record) -> impl Iterator<Item = String> {
    let volumes = record.mounts().iter().filter(|mount| mount.kind == MountKind::Volume);
    volumes.map(|mount| mount.source.clone())
}

/// In a thread that ends with the work: what it mounts is seen by nobody else, and a client that is slow takes no thread of others.
async fn in_thread<R: Send + 'static>(work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("transfer".to_owned())
        .spawn(move || {
            // Nobody waits for it any more: the client went away.
            let _ = sender.send(work());
        })
        .map_err(|source| Error::io("starting a thread for", "a transfer", source))?;
    receiver.await.unwrap_or(Err(Error::Lost { what: "a transfer of files" }))
}

impl Root {
    /// Refuses a folder that is mounted read-only, in docker's words.
    pub fn check_writable(&self, folder: &OwnedFd) -> Result<()> {
        let mount = |fd: &OwnedFd| {
            rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id)
        };
        let failed = |errno: rustix::io::Errno| Error::io("looking at", "the container's root", errno.into());
        let own = mount(folder).map_err(failed)? == mount(&self.fd).map_err(failed)?;
        let read_only = rustix::fs::fstatvfs(folder)
            .map_err(failed)?
            .f_flag
            .contains(rustix::fs::StatVfsMountFlags::RDONLY);
        match (own, read_only || own && self.read_only) {
            (true, true) => Err(Conflict::ReadOnlyRoot.into()),
            (false, true) => Err(Conflict::ReadOnlyVolume.into()),
            (_, false) => Ok(()),
        }
    }
}

/// The root of a process, if that is one of the container's.
fn root_of(pid: u32, id: &str) -> Result<OwnedFd> {
    let stopped = || Error::precondition(format!("container {id}"), "it stopped meanwhile: try again");
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(stopped)?;
    let handle = rustix::process::pidfd_open(number, PidfdFlags::empty()).map_err(|_| stopped())?;
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(|_| stopped())?;
    if !groups.contains(id) {
        return Err(stopped());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty())
        .map_err(|errno| Error::io("opening the root of container", id, errno.into()))?;
    // Alive now, so what was read and opened by its number was its own.
    let mut poll = [PollFd::new(&handle, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut poll, Some(&now)) {
        Ok(0) => Ok(root),
        _ => Err(stopped()),
    }
}

/// Puts the mounts of a container together at `place`, seen by this thread alone.
fn assemble(place: &Path, snapshot: &[snapshots::Mount], mut binds: Vec<Bind>) -> Result<OwnedFd> {
    let failed =
        |errno: nix::Error| Error::io("putting together the container's root at", place, errno.into());
    match std::fs::create_dir(place) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io("making the folder", place, error));
        }
        _ => {}
    }
    nix::sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).map_err(failed)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(failed)?;
    for mount in snapshot {
        crate::mounts::mount_at(mount, place)?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(place, flags, Mode::empty())
        .map_err(|errno| Error::io("opening", place, errno.into()))?;
    binds.sort_by_key(|bind| Path::new(&bind.target).components().count());
    for bind in &binds {
        attach(&root, bind)?;
    }
    Ok(root)
}

/// Mounts a volume or a folder of the host at its place below `root`.
fn attach(root: &OwnedFd, bind: &Bind) -> Result<()> {
    let failed = |errno: rustix::io::Errno| {
        Error::io("mounting", format!("{} at {}", bind.source.display(), bind.target), errno.into())
    };
    let clone =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, &bind.source, clone).map_err(failed)?;
    let is_folder =
        rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&tree).map_err(failed)?.st_mode).is_dir();
    let target = Path::new(&bind.target);
    let found = match look_up(root, target, Last::Followed)? {
        Some(found) => found,
        None if is_folder => {
            // As the container's start would make it.
            let name = bind.target.trim_start_matches('/').as_bytes();
            let made = Tree::new(std::os::fd::AsFd::as_fd(root), Form::Merged)
                .and_then(|mut tree| tree.directory(name, Missing::Create, name).map(drop));
            made.map_err(crate::trees::refused)?;
            match look_up(root, target, Last::Followed)? {
                Some(found) => found,
                None => return Ok(()),
            }
        }
        // A file that is mounted where there is none: the start makes that, too.
        None => return Ok(()),
    };
    let open = || {
        rustix::fs::openat(
            &found.parent,
            found.leaf.as_slice(),
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(failed)
    };
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&tree, "", open()?, "", flags).map_err(failed)?;
    if bind.access == Access::ReadOnly {
        let at = format!("/proc/thread-self/fd/{}", tree.as_raw_fd());
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        if let Err(errno) = nix::mount::mount(None::<&str>, at.as_str(), None::<&str>, flags, None::<&str>) {
            // Better not at all than writable.
            let _ = nix::mount::umount2(at.as_str(), MntFlags::MNT_DETACH);
            return Err(Error::io("mounting read-only", &bind.source, errno.into()));
        }
    }
    Ok(())
}
