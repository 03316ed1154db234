//! Shims that wait for a container, so that a start costs no exec.
//!
//! What always holds: every shim runs from a sealed copy of the binary in memory, which nobody can change; a
//! waiting shim ends with the socket that the daemon holds; every shim that the daemon started is reaped.

#![forbid(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use std::{env, io};

use rustix::fs::{MemfdFlags, SealFlags};
use tokio::sync::Notify;

use super::process::{ShimProcess, started_at};
use super::runtimes::{ForeignRuntime, OWN_RUNTIME};
use super::shim_log::ShimLog;
use super::sys::{Spawn, spawn};
use crate::error::{Error, Result};

/// The shim's file name.
pub const SHIM_BINARY: &str = "containerd-shim-longshore-v1";

/// How long after a start the pool is filled up again: the start itself has the processors first.
const REFILL_AFTER: Duration = Duration::from_millis(3);
/// How many such pauses there are while others wait still: a start that is slower than most has the processors, too.
const REFILL_PAUSES: u32 = 8;

/// A shim without a container.
pub struct WaitingShim {
    pub process: ShimProcess,
    /// See [`started_at`].
    pub started_at: u64,
    pub socket: UnixStream,
}

/// The shims that wait.
pub struct ShimPool {
    image: ShimImage,
    size: usize,
    waiting: Mutex<Vec<WaitingShim>>,
    taken: Notify,
}

impl ShimPool {
    /// A pool that keeps `size` shims waiting; 0: each start makes its own. Needs a tokio runtime.
    ///
    /// # Errors
    /// The shim's binary is not found or cannot be copied.
    pub fn new(binary: Option<&Path>, size: usize, state: &Path) -> Result<Arc<Self>> {
        let pool = Arc::new(Self {
            image: ShimImage::load(&find_binary(binary)?, ShimLog::open(state)?)?,
            size,
            waiting: Mutex::new(Vec::with_capacity(size)),
            taken: Notify::new(),
        });
        if size > 0 {
            pool.taken.notify_one();
            tokio::spawn(refill(Arc::downgrade(&pool)));
        }
        Ok(pool)
    }

    /// The program that the shims were loaded from.
    pub fn program(&self) -> &Path {
        &self.image.path
    }

    /// Our shim as others start it: by the shim v2 protocol.
    pub fn by_protocol(&self) -> ForeignRuntime {
        let (name, binary) = (OWN_RUNTIME.to_owned(), self.image.path.clone());
        ForeignRuntime { name, binary, env: Vec::new() }
    }

    /// A waiting shim, or a new one if none waits.
    ///
    /// # Errors
    /// A new one cannot be started.
    pub fn take(&self) -> Result<WaitingShim> {
        loop {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
            self.taken.notify_one();
            match waiting {
                None => return self.fresh(),
                Some(shim) if shim.process.has_ended() => {
                    tracing::warn!(pid = shim.process.pid(), "a waiting shim died");
                }
                Some(shim) => return Ok(shim),
            }
        }
    }

    /// A shim of the caller's own, started now.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn fresh(&self) -> Result<WaitingShim> {
        self.image.start().map_err(|source| Error::io("starting a shim from", &self.image.path, source))
    }

    fn missing(&self) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|shim| !shim.process.has_ended());
        waiting.len() < self.size
    }

    fn is_empty(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// Keeps the pool full, as long as there is a pool.
async fn refill(pool: Weak<ShimPool>) {
    let mut pause = REFILL_AFTER;
    loop {
        let Some(strong) = pool.upgrade() else { return };
        if !strong.missing() {
            // The pool itself must not be kept alive by this task while nothing happens.
            tokio::select! {
                () = strong.taken.notified() => {}
                () = tokio::time::sleep(Duration::from_secs(60)) => {}
            }
            drop(strong);
            for _ in 0..REFILL_PAUSES {
                tokio::time::sleep(REFILL_AFTER).await;
                if pool.upgrade().is_none_or(|pool| pool.is_empty()) {
                    break;
                }
            }
            continue;
        }
        match strong.fresh() {
            Ok(shim) => {
                strong.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(shim);
                pause = REFILL_AFTER;
            }
            Err(error) => {
                tracing::error!(%error, "the pool of waiting shims cannot be filled");
                pause = (pause * 2).min(Duration::from_secs(10));
                drop(strong);
                tokio::time::sleep(pause).await;
            }
        }
        tokio::task::yield_now().await;
    }
}

/// The shim's program in memory, sealed.
struct ShimImage {
    path: PathBuf,
    program: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    null: OwnedFd,
    log: ShimLog,
    _memory: OwnedFd,
}

impl ShimImage {
    fn load(path: &Path, log: ShimLog) -> Result<Self> {
        let fail = |source: io::Error| Error::io("copying the shim's binary into memory", path, source);
        let memory = sealed_copy(path).map_err(fail)?;
        let program =
            CString::new(format!("/proc/self/fd/{}", memory.as_raw_fd())).map_err(|e| fail(e.into()))?;
        let null = File::options().read(true).write(true).open("/dev/null").map_err(fail)?;
        let args = [SHIM_BINARY, "pool"].map(|arg| CString::new(arg).map_err(|e| fail(e.into())));
        let env = ["PATH", "LANG", "TZ"]
            .iter()
            .filter_map(|key| Some(format!("{key}={}", env::var(key).ok()?)))
            .map(|pair| CString::new(pair).map_err(|e| fail(e.into())));
        Ok(Self {
            path: path.to_owned(),
            program,
            args: args.into_iter().collect::<Result<_>>()?,
            env: env.collect::<Result<_>>()?,
            null: above_shim_fds(null.into()).map_err(fail)?,
            log,
            _memory: memory,
        })
    }

    fn start(&self) -> io::Result<WaitingShim> {
        let (ours, theirs) = UnixStream::pair()?;
        let theirs = above_shim_fds(theirs.into())?;
        let pid = spawn(&Spawn {
            program: &self.program,
            args: &self.args,
            env: &self.env,
            stdio: self.null.as_fd(),
            stderr: self.log.stderr(),
            socket: theirs.as_fd(),
        })?;
        let process = ShimProcess::open(pid)?;
        Ok(WaitingShim { process, started_at: started_at(pid).unwrap_or(0), socket: ours })
    }
}

/// Copies a file into memory and forbids every change to it.
fn sealed_copy(path: &Path) -> io::Result<OwnedFd> {
    let mut source = File::open(path)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC is asked for since Linux 6.3 where `vm.memfd_noexec` is set, and unknown before.
    let memory = rustix::fs::memfd_create(SHIM_BINARY, flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(SHIM_BINARY, flags))?;
    let mut memory = File::from(above_shim_fds(memory)?);
    io::copy(&mut source, &mut memory)?;
    rustix::fs::fcntl_add_seals(
        &memory,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(memory.into())
}

/// Moves a descriptor out of the way of those that a shim is started with.
pub(super) fn above_shim_fds(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 3 { Ok(fd) } else { Ok(rustix::io::fcntl_dupfd_cloexec(&fd, 10)?) }
}

/// The configured binary, else the one beside the daemon's, else the first on PATH.
fn find_binary(configured: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = configured {
        return Ok(path.to_owned());
    }
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(SHIM_BINARY)));
    let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>());
    beside
        .into_iter()
        .chain(on_path.unwrap_or_default().into_iter().map(|folder| folder.join(SHIM_BINARY)))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::not_found("shim binary", format!("{SHIM_BINARY} (beside the daemon, or on PATH)"))
        })
}
