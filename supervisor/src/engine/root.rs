//! A container's files as its processes see them, volumes included, for work from outside: of one that runs through its first
//! process, of one that does not by putting its mounts together where nobody else sees them.
//!
//! What always holds: what is handed out is a descriptor of the container's root, from which paths are resolved by
//! [`trees`](crate::trees); mounts that were made for it are gone with the thread that made them, whatever happens; a process id that
//! went to another process meanwhile is noticed. As long as a thread works, it counts as a transfer, and a container that does not run
//! stays so; when the client has gone away, the work ends soon.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, TryAcquireError, oneshot};

use super::Engine;
use super::config::{MountKind, Record};
use super::conflict::Conflict;
use super::process::FirstProcess;
use super::registry::Entry;
use super::spec::mounts::{self, ReadOnly, Subpaths};
use super::state::Status;
use super::volumes;
use crate::error::{Error, Result};
use crate::images::unpack::Form;
use crate::images::unpack::tree::{Missing, Tree};
use crate::mounts::{Reach, set_read_only};
use crate::snapshots;
use crate::trees::{Last, look_up};

/// A container's root, open.
pub struct Root {
    pub fd: OwnedFd,
    /// The container may not write to its own root.
    read_only: bool,
    given_up: Arc<AtomicBool>,
}

/// A mount of a container that does not run.
struct Bind {
    source: PathBuf,
    target: String,
    read_only: ReadOnly,
    reach: Reach,
}

impl Bind {
    fn failed(&self, errno: rustix::io::Errno) -> Error {
        Error::io("mounting", format!("{} at {}", self.source.display(), self.target), errno.into())
    }
}

/// Tells the work that nobody waits for it any more.
#[derive(Default)]
struct Client(Arc<AtomicBool>);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Engine {
    /// Does `work` with the container's root, in a thread of its own. A container that does not run cannot be started meanwhile.
    pub(super) async fn in_root<R: Send + 'static>(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        work: impl FnOnce(Root) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let (turn, permit) = self.admitted(entry).await?;
        let client = Client::default();
        let (engine, entry, given_up) = (self.clone(), entry.clone(), client.0.clone());
        let job = async move {
            let _permit = permit;
            let record = entry.record();
            let read_only = record.config.read_only_rootfs;
            let work = move |fd| work(Root { fd, read_only, given_up });
            if record.state.status.is_live() {
                drop(turn);
                let pid = record.state.pid;
                return in_thread(move || work(FirstProcess::of(pid, &entry.id)?.root()?)).await;
            }
            let _turn = turn;
            engine.in_stopped(&entry, record, work).await
        };
        // Goes on without the client until the thread has ended and what was mounted for it is unmounted.
        self.carry("a transfer of files", job).await
    }

    /// The container's turn and a permit for a transfer. Neither is held while the other is waited for: transfers of others keep
    /// nobody from starting this container, and a container that is busy keeps nobody from transfers of others.
    async fn admitted(&self, entry: &Entry) -> Result<(OwnedMutexGuard<()>, OwnedSemaphorePermit)> {
        let closed = || Error::Lost { what: "the count of transfers" };
        loop {
            let turn = entry.turn.clone().lock_owned().await;
            match self.transfers.clone().try_acquire_owned() {
                Ok(permit) => return Ok((turn, permit)),
                Err(TryAcquireError::NoPermits) => drop(turn),
                Err(TryAcquireError::Closed) => return Err(closed()),
            }
            drop(self.transfers.acquire().await.map_err(|_| closed())?);
        }
    }

    /// The caller holds the container's turn.
    async fn in_stopped<R: Send + 'static>(
        self: &Arc<Self>,
        entry: &Entry,
        record: Record,
        work: impl FnOnce(OwnedFd) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        if matches!(record.state.status, Status::Removing | Status::Dead) {
            return Err(Error::precondition(
                "can't access the files of a container that is being removed",
                entry.id.clone(),
            ));
        }
        let (snapshot, _) = self.mounts_of(entry, record.state.run == 0).await?;
        let place = self.folder(&entry.id).join("root");
        let (engine, names, id) = (self.clone(), volumes::names(&record), entry.id.clone());
        let work = async move {
            let images = Box::pin(engine.mount_images(&id, &record)).await?;
            let mut folders = Vec::new();
            let mounts = mounts::prepare(
                record.mounts(),
                |mount| engine.source_of(&id, mount),
                Subpaths::Opened(&mut folders),
            )?;
            let binds: Vec<Bind> = mounts.iter().filter_map(bind).collect();
            in_thread(move || {
                let (_folders, _images) = (folders, images);
                let fd = assemble(&place, &snapshot, binds)?;
                let done = work(fd);
                // Not left to the end of the thread: what starts next has the root for itself.
                let _ = nix::mount::umount2(&place, MntFlags::MNT_DETACH);
                done
            })
            .await
        };
        self.with_volumes(names, format!("transfer of {}", entry.id), work).await
    }
}

fn bind(mount: &super::config::Mount) -> Option<Bind> {
    (mount.kind != MountKind::Tmpfs).then(|| Bind {
        source: PathBuf::from(&mount.source),
        target: mount.target.clone(),
        read_only: mounts::read_only(mount),
        reach: if mount.bind.non_recursive { Reach::One } else { Reach::Recursive },
    })
}

/// In a thread that ends with the work: what it mounts is seen by nobody else, and a client that is slow takes no thread of others.
async fn in_thread<R: Send + 'static>(work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("transfer".to_owned())
        .spawn(move || {
            // Nobody waits for it any more: the daemon ends.
            let _ = sender.send(work());
        })
        .map_err(|source| Error::io("starting a thread for", "a transfer", source))?;
    receiver.await.unwrap_or(Err(Error::Lost { what: "a transfer of files" }))
}

impl Root {
    /// Becomes true when the client has gone away.
    pub fn given_up(&self) -> &AtomicBool {
        &self.given_up
    }

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
    binds.sort_by_key(|bind| Path::new(&bind.target).components().count());
    // As long as their sources are in this thread's mount namespace.
    let trees = binds.iter().map(clone).collect::<Result<Vec<_>>>()?;
    nix::sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).map_err(failed)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(failed)?;
    for mount in snapshot {
        crate::mounts::mount_at(mount, place)?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(place, flags, Mode::empty())
        .map_err(|errno| Error::io("opening", place, errno.into()))?;
    for (bind, tree) in binds.iter().zip(&trees) {
        attach(&root, bind, tree)?;
    }
    Ok(root)
}

/// The mount of a volume or a folder of the host, not yet anywhere.
fn clone(bind: &Bind) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if bind.reach == Reach::Recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, &bind.source, flags).map_err(|errno| bind.failed(errno))
}

/// Puts a mount at its place below `root`.
fn attach(root: &OwnedFd, bind: &Bind, tree: &OwnedFd) -> Result<()> {
    let failed = |errno| bind.failed(errno);
    let is_folder =
        rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(tree).map_err(failed)?.st_mode).is_dir();
    let target = Path::new(&bind.target);
    let found = match look_up(root, target, Last::Followed)? {
        Some(found) => found,
        None if is_folder => {
            // As the container's start would make it.
            let name = bind.target.trim_start_matches('/').as_bytes();
            let made = Tree::new(root.as_fd(), Form::Merged)
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
    let place = rustix::fs::openat(
        &found.parent,
        found.leaf.as_slice(),
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed)?;
    // Before anybody sees it.
    let made = match bind.read_only {
        ReadOnly::No => Ok(()),
        ReadOnly::Top => set_read_only(tree.as_fd(), Reach::One),
        ReadOnly::Whole => set_read_only(tree.as_fd(), Reach::Recursive),
    };
    let unknown = made.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ENOSYS));
    let refused = |source| Error::io("mounting read-only", &bind.source, source);
    if !unknown {
        made.map_err(refused)?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", place, "", flags).map_err(failed)?;
    // Before Linux 5.12, with which what is mounted below stays writable in containers, too.
    if unknown && let Err(error) = remount_read_only(tree) {
        return Err(refused(error.into()));
    }
    Ok(())
}

fn remount_read_only(tree: &OwnedFd) -> nix::Result<()> {
    let at = format!("/proc/thread-self/fd/{}", tree.as_raw_fd());
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let done = nix::mount::mount(None::<&str>, at.as_str(), None::<&str>, flags, None::<&str>);
    if done.is_err() {
        // Better not at all than writable.
        let _ = nix::mount::umount2(at.as_str(), MntFlags::MNT_DETACH);
    }
    done
}
