//! The one thread that speaks with the kernel about networks: it makes namespaces, enters those of containers, and comes
//! back. A network namespace belongs to a thread, so nobody else of the daemon ever leaves the host's.
//!
//! What always holds: jobs come one after another, as the kernel's own lock would have it; a job that cannot come back to
//! the host's namespace does not let the next one run elsewhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError, mpsc};

use nix::sched::{CloneFlags, setns, unshare};
use tokio::sync::oneshot;

use super::netlink::Netlink;
use crate::error::{Error, Result};

/// Jobs that wait. More would wait anyway: the kernel changes networks one at a time.
const WAITING: usize = 4096;

const STACK: usize = 256 * 1024;

type Job = Box<dyn FnOnce(io::Result<&mut Host>) + Send>;

/// The thread's handle. The thread starts with the first job.
#[derive(Default)]
pub struct Kernel {
    jobs: Mutex<Option<mpsc::SyncSender<Job>>>,
}

/// What a job works with: the host's side, and ways into namespaces.
pub struct Host {
    /// Speaks of the host's namespace, or of the one that the daemon runs in.
    pub netlink: Netlink,
    home: OwnedFd,
}

impl Kernel {
    /// Does a job on the thread and returns what it made. The job is done even if nobody waits for it any more.
    pub async fn run<T: Send + 'static>(
        &self,
        doing: &'static str,
        job: impl FnOnce(&mut Host) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |host| {
            let result = match host {
                Ok(host) => job(host),
                Err(source) => Err(Error::network(doing, "the kernel's networks", source)),
            };
            // The caller may be gone.
            let _ = answer.send(result);
        });
        self.sender()?.try_send(job).map_err(|_| Error::ResourceExhausted {
            what: doing.to_owned(),
            limit: "changes of networks that wait",
            max: WAITING as u64,
        })?;
        answered.await.unwrap_or(Err(Error::Lost { what: doing }))
    }

    fn sender(&self) -> Result<mpsc::SyncSender<Job>> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*jobs {
            return Ok(sender.clone());
        }
        let (sender, receiver) = mpsc::sync_channel::<Job>(WAITING);
        std::thread::Builder::new()
            .name("network".into())
            .stack_size(STACK)
            .spawn(move || work(&receiver))
            .map_err(|source| Error::network("starting a thread for", "networks", source))?;
        *jobs = Some(sender.clone());
        Ok(sender)
    }
}

fn work(jobs: &mpsc::Receiver<Job>) {
    let mut host = None;
    while let Ok(job) = jobs.recv() {
        if host.is_none() {
            match Host::open() {
                Ok(opened) => host = Some(opened),
                Err(error) => {
                    job(Err(error));
                    continue;
                }
            }
        }
        if let Some(host) = &mut host {
            match host.come_home() {
                Ok(()) => job(Ok(host)),
                Err(error) => job(Err(error)),
            }
        }
    }
}

fn here() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
}

impl Host {
    fn open() -> io::Result<Host> {
        Ok(Host { netlink: Netlink::open()?, home: here()? })
    }

    /// Most jobs never left.
    fn come_home(&self) -> io::Result<()> {
        Ok(setns(&self.home, CloneFlags::CLONE_NEWNET)?)
    }

    /// Makes a namespace and does something in it.
    pub fn make_namespace<T>(
        &mut self,
        inside: impl FnOnce(&mut Host, BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<(OwnedFd, T)> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let made = here().and_then(|fd| inside(self, fd.as_fd()).map(|value| (fd, value)));
        self.come_home()?;
        made
    }

    /// Does something in a namespace.
    pub fn enter<T>(
        &mut self,
        namespace: BorrowedFd<'_>,
        inside: impl FnOnce(&mut Host) -> io::Result<T>,
    ) -> io::Result<T> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let done = inside(self);
        self.come_home()?;
        done
    }
}
