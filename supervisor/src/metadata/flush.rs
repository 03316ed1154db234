//! Group commit: one thread makes everything applied so far durable, for all who wait.
//!
//! What always holds: a ticket is reported durable only after sled's flush and an fsync of its file that
//! both began after the ticket's batch was applied. After a failed fsync nothing is reported durable again:
//! the kernel may have dropped the pages.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Failure;
use crate::error::{Error, Result};

/// How long a lazy write may stay volatile.
const LAZY_DELAY: Duration = Duration::from_millis(500);
/// Bytes that are to be free beside those of large values.
const ROOM: u64 = 1024 * 1024;
/// Space kept allocated behind the end of the store's file, so that a full disk does not stop it.
const RESERVE: u64 = 4 * 1024 * 1024;

#[derive(Default)]
struct State {
    /// The newest batch applied to sled.
    applied: u64,
    /// The newest batch that someone waits for.
    wanted: u64,
    /// The newest durable batch.
    durable: u64,
    /// When the oldest volatile batch was applied.
    volatile_since: Option<Instant>,
    stopping: bool,
}

#[derive(Clone, Default)]
struct Progress {
    durable: u64,
    failed: Option<Arc<str>>,
}

pub struct Flusher {
    file: File,
    path: PathBuf,
    /// How far blocks are allocated.
    reserved: AtomicU64,
    state: Mutex<State>,
    wake: Condvar,
    progress: watch::Sender<Progress>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Flusher {
    pub fn start(db: sled::Db, path: PathBuf) -> Result<Arc<Self>> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|source| Error::io("opening the metadata store's file", &path, source))?;
        let flusher = Arc::new(Self {
            file,
            path,
            reserved: AtomicU64::new(0),
            state: Mutex::default(),
            wake: Condvar::new(),
            progress: watch::Sender::new(Progress::default()),
            thread: Mutex::default(),
        });
        let running = Arc::clone(&flusher);
        let thread = std::thread::Builder::new()
            .name("metadata-flush".into())
            .stack_size(256 * 1024)
            .spawn(move || running.run(&db))
            .map_err(|source| Error::io("starting the flush thread for", &flusher.path, source))?;
        *lock(&flusher.thread) = Some(thread);
        flusher.reserve();
        Ok(flusher)
    }

    /// Refuses further work once the store failed.
    pub fn check(&self) -> Result<()> {
        match &self.progress.borrow().failed {
            None => Ok(()),
            Some(why) => Err(failed(why)),
        }
    }

    /// Refuses what would add to the store when the disk is full and the reserve runs out.
    pub fn check_space(&self) -> Result<()> {
        if self.reserve() {
            return Ok(());
        }
        Err(Error::DiskFull { doing: "adding to the metadata store", path: self.path.clone() })
    }

    /// Refuses values for which the disk has no room: large ones are in files of their own, for which nothing is reserved, and a
    /// store that cannot write one of these refuses everything from then on.
    pub fn check_room(&self, bytes: u64) -> Result<()> {
        match rustix::fs::fstatvfs(&self.file) {
            Ok(disk) if disk.f_bavail.saturating_mul(disk.f_frsize) < bytes + ROOM => {
                Err(Error::DiskFull { doing: "adding to the metadata store", path: self.path.clone() })
            }
            // Where that cannot be told it is tried.
            _ => Ok(()),
        }
    }

    /// Keeps blocks allocated behind the file's end; whether enough of them are.
    fn reserve(&self) -> bool {
        use rustix::fs::{FallocateFlags, fallocate};
        let Ok(length) = self.file.metadata().map(|metadata| metadata.len()) else { return false };
        let reserved = self.reserved.load(Ordering::Relaxed);
        if length + RESERVE / 2 <= reserved {
            return true;
        }
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, length, RESERVE) {
            Ok(()) => self.reserved.store(length + RESERVE, Ordering::Relaxed),
            Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
                return length + RESERVE / 4 <= reserved;
            }
            // The file system has no such thing: then a full disk is noticed when it is written to.
            Err(error) => tracing::debug!("no space is reserved for the metadata store: {error}"),
        }
        true
    }

    /// A batch was applied: its ticket.
    pub fn applied(&self) -> u64 {
        let mut state = lock(&self.state);
        state.applied += 1;
        if state.volatile_since.is_none() {
            state.volatile_since = Some(Instant::now());
            self.wake.notify_one();
        }
        state.applied
    }

    /// The newest batch's ticket.
    pub fn newest(&self) -> u64 {
        lock(&self.state).applied
    }

    /// Returns when `ticket` is durable.
    pub async fn wait(&self, ticket: u64) -> Result<()> {
        {
            let mut state = lock(&self.state);
            if state.durable >= ticket {
                return Ok(());
            }
            state.wanted = state.wanted.max(ticket);
            self.wake.notify_one();
        }
        let mut progress = self.progress.subscribe();
        let reached = progress
            .wait_for(|progress| progress.durable >= ticket || progress.failed.is_some())
            .await
            .map_err(|_| Error::Lost { what: "the metadata flush thread" })?;
        match &reached.failed {
            Some(why) if reached.durable < ticket => Err(failed(why)),
            _ => Ok(()),
        }
    }

    /// Makes everything durable and ends the thread.
    pub fn stop(&self) {
        lock(&self.state).stopping = true;
        self.wake.notify_one();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the metadata flush thread panicked");
        }
    }

    fn run(&self, db: &sled::Db) {
        while let Some(target) = self.next_round() {
            match self.flush(db) {
                Ok(()) => {
                    lock(&self.state).durable = target;
                    self.progress.send_modify(|progress| progress.durable = target);
                    self.reserve();
                }
                Err(why) => {
                    tracing::error!("metadata store failed, further changes are refused: {why}");
                    let why = why.to_string();
                    self.progress.send_modify(|progress| progress.failed = Some(why.into()));
                    return;
                }
            }
        }
    }

    /// Makes what was applied so far durable: sled alone neither flushes the device nor syncs the file's size.
    pub fn flush(&self, db: &sled::Db) -> Result<()> {
        db.flush().map_err(super::sled_error("flushing"))?;
        self.file.sync_all().map_err(|source| Error::Metadata {
            doing: "syncing the store's file",
            source: Failure::new(source),
        })
    }

    /// Waits for work; the ticket that the next flush covers, `None` when it is time to end.
    fn next_round(&self) -> Option<u64> {
        let mut state = lock(&self.state);
        loop {
            if state.durable == state.applied {
                state.volatile_since = None;
                if state.stopping {
                    return None;
                }
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let age = state.volatile_since.map_or(LAZY_DELAY, |since| since.elapsed());
            if state.wanted > state.durable || state.stopping || age >= LAZY_DELAY {
                state.volatile_since = None;
                return Some(state.applied);
            }
            state = self.wake.wait_timeout(state, LAZY_DELAY - age).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn failed(why: &Arc<str>) -> Error {
    Error::Metadata {
        doing: "the store failed earlier, restart the daemon",
        source: Failure::new(why.to_string()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
