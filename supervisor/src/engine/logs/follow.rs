//! A log as a stream: what is there, and on as it grows until the container has stopped. Waiting costs a watch on
//! the folder, no thread and no polling; where the host has no watches left it looks five times a second.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::cursor::Cursor;
use super::reader::{Batch, Progress};
use super::record::Entry;
use super::{Query, Reader};
use crate::error::{Error, Result};

/// Batches that wait for a client that reads slowly.
const WAITING: usize = 4;

/// How often a log is looked at where it cannot be watched.
const POLL: Duration = Duration::from_millis(200);

/// Some lines, and the place behind them.
pub struct Piece {
    pub entries: Vec<Entry>,
    pub cursor: Option<Cursor>,
}

/// Whether to go on after the end.
pub enum Follow {
    No,
    /// Until this resolves, which says that nothing more will be written.
    Until(BoxFuture<'static, ()>),
}

/// Reads the log in the background; dropping the receiver ends it.
pub fn stream(live: PathBuf, query: Query, follow: Follow) -> mpsc::Receiver<Result<Piece>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        if let Err(error) = run(live, query, follow, &sender).await {
            // The client may be gone; nobody else asked.
            let _ = sender.send(Err(error)).await;
        }
    });
    receiver
}

async fn run(
    live: PathBuf,
    query: Query,
    follow: Follow,
    sender: &mpsc::Sender<Result<Piece>>,
) -> Result<()> {
    // The watch is set before the first look, so nothing falls between.
    let mut follow = match follow {
        Follow::No => None,
        Follow::Until(over) => Some((over, Watch::new(&live))),
    };
    let mut done = follow.is_none();
    let path = live.clone();
    let mut reader = blocking(move || Reader::open(&path, query)).await?;
    loop {
        // Asked before the log is looked at, so that "done" covers everything that was written.
        if let Some((over, _)) = &mut follow {
            done = done || futures::FutureExt::now_or_never(over).is_some();
        }
        let (back, batch) = blocking(move || {
            let batch = reader.next_batch()?;
            Ok((reader, batch))
        })
        .await?;
        reader = back;
        let Batch { entries, cursor, state } = batch;
        if !entries.is_empty() && sender.send(Ok(Piece { entries, cursor })).await.is_err() {
            return Ok(());
        }
        match state {
            Progress::More => {}
            Progress::Past => return Ok(()),
            Progress::CaughtUp if done => return Ok(()),
            Progress::CaughtUp => {
                let Some((over, watch)) = &mut follow else { return Ok(()) };
                tokio::select! {
                    () = watch.changed() => {}
                    () = over => done = true,
                    () = sender.closed() => return Ok(()),
                }
            }
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Lost { what: "log reader" }))
}

enum Watch {
    Inotify(AsyncFd<OwnedFd>),
    Poll,
}

impl Watch {
    fn new(live: &Path) -> Watch {
        let open = || -> std::io::Result<AsyncFd<OwnedFd>> {
            let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
            let flags =
                inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
            inotify::add_watch(&fd, live.parent().unwrap_or(Path::new("/")), flags)?;
            crate::engine::sys::watched(fd)
        };
        match open() {
            Ok(fd) => Watch::Inotify(fd),
            Err(error) => {
                tracing::debug!(%error, "no inotify watch for a log, polling instead");
                Watch::Poll
            }
        }
    }

    async fn changed(&self) {
        match self {
            Watch::Poll => tokio::time::sleep(POLL).await,
            Watch::Inotify(fd) => {
                let Ok(mut ready) = fd.readable().await else { return tokio::time::sleep(POLL).await };
                // Only that something happened matters.
                let mut events = [0_u8; 4096];
                while rustix::io::read(fd.get_ref(), &mut events).is_ok_and(|got| got > 0) {}
                ready.clear_ready();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    fn record(number: usize) -> String {
        format!("2026-01-02T03:04:05.{number:09}Z stdout F {number}\n")
    }

    #[tokio::test]
    async fn follows_growth_and_rotation_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("log");
        let (done, over) = tokio::sync::oneshot::channel::<()>();
        let over = Box::pin(async move { over.await.unwrap_or(()) });
        let mut lines = stream(live.clone(), Query::default(), Follow::Until(over));
        let writer = tokio::task::spawn_blocking(move || {
            for number in 0..200 {
                if number % 50 == 49 {
                    let _ = fs::rename(live.with_extension("1"), live.with_extension("2"));
                    let _ = fs::rename(&live, live.with_extension("1"));
                }
                let mut file = fs::OpenOptions::new().append(true).create(true).open(&live).unwrap();
                file.write_all(record(number).as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
            done.send(()).unwrap();
        });
        let mut seen = Vec::new();
        while let Some(batch) = lines.recv().await {
            seen.extend(
                batch
                    .unwrap()
                    .entries
                    .iter()
                    .map(|entry| String::from_utf8_lossy(&entry.line).trim().to_owned()),
            );
        }
        writer.await.unwrap();
        let want: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        assert_eq!(seen, want);
    }

    #[tokio::test]
    async fn without_follow_it_ends_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("log");
        fs::write(&live, record(1)).unwrap();
        let mut lines = stream(live, Query::default(), Follow::No);
        assert_eq!(lines.recv().await.unwrap().unwrap().entries.len(), 1);
        assert!(lines.recv().await.is_none());
    }
}
