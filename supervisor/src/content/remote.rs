//! A content store in another process, behind containerd's content API: it keeps the bytes, and the local folder is a cache of them.
//!
//! What always holds: records, labels and leases stay here, the plugin sees one namespace of ours; what it gives is a blob's file only
//! after size and digest were verified; each blob that it may have has a mark on disk, by which the collector finds it when its
//! file is not here.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use longshore_proto::containerd::services::content::v1 as wire;
use tokio::sync::{OwnedMutexGuard, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use wire::content_client::ContentClient;

use super::store::blocking;
use super::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::namespaces::Namespace;
use crate::plugins::{MAX_MESSAGE, Plugin};

/// The namespace in a plugin that has namespaces.
const NAMESPACE: &str = "longshore";
/// The label that keeps a plugin's own collector away, if it has one, as a containerd has: what goes is decided here.
const ROOT: (&str, &str) = ("containerd.io/gc.root", "longshore");
/// Blobs that are sent and fetched at one time; others wait.
const TRANSFERS: usize = 16;
/// Bytes in one message to the plugin.
const CHUNK: usize = 1024 * 1024;
/// Messages without data in one answer; with more it is refused.
const MAX_EMPTY: usize = 64;
/// How often a send is begun, and the pause before it is begun again.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(200);
/// How long the collector waits for one answer.
const REMOVAL: Duration = Duration::from_secs(10);

/// A plugin of the type `content`.
pub struct Remote {
    plugin: Plugin,
    namespace: Namespace,
    /// Empty files, by digest: the plugin may have these blobs.
    marks: PathBuf,
    /// Files that are being fetched.
    partial: PathBuf,
    transfers: Arc<Semaphore>,
    /// One transfer a blob.
    gates: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    runtime: tokio::runtime::Handle,
}

/// What came of sending a blob.
enum Sent {
    Done,
    /// What an earlier send left is wrong, or still in use: once more.
    Again(Error),
}

impl Remote {
    /// Keeps its marks below `root`; what was being fetched there is dropped. Needs a runtime.
    pub fn open(root: &Path, plugin: Plugin) -> Result<Self> {
        let (marks, partial) = (root.join("elsewhere"), root.join("fetch"));
        let at = |source| Error::io("creating the content folder", &partial, source);
        match fs::remove_dir_all(&partial) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(at(source)),
            _ => fs::create_dir_all(&partial).map_err(at)?,
        }
        fs::create_dir_all(&marks)
            .map_err(|source| Error::io("creating the content folder", &marks, source))?;
        Ok(Self {
            plugin,
            namespace: Namespace::parse(NAMESPACE)?,
            marks,
            partial,
            transfers: Arc::new(Semaphore::new(TRANSFERS)),
            gates: Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
        })
    }

    /// The size of a blob that the plugin has.
    pub async fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let asked = wire::InfoRequest { digest: digest.to_string() };
        let call = |channel, request| async move { client(channel).info(request).await };
        match self.plugin.call("info", &self.namespace, asked, call).await {
            Ok(answer) => Ok(answer.info.and_then(|info| u64::try_from(info.size).ok())),
            Err(error) if error.code() == Code::NotFound => Ok(None),
            Err(error) => Err(away(error)),
        }
    }

    /// Sends the first `size` bytes of `file`, unless the plugin has the blob; it is marked first. Goes on where an earlier send ended.
    pub async fn send(&self, digest: &Digest, size: u64, file: &Arc<File>) -> Result<()> {
        self.mark(digest).await?;
        let _gate = self.gate(digest).await;
        // The semaphore is never closed.
        let _turn = self.transfers.acquire().await;
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            match self.try_send(digest, size, file).await.map_err(away)? {
                Sent::Done => return Ok(()),
                Sent::Again(error) => last = Some(error),
            }
        }
        Err(last.map_or(Error::Lost { what: "sending a blob" }, away))
    }

    async fn try_send(&self, digest: &Digest, size: u64, file: &Arc<File>) -> Result<Sent> {
        let reference = format!("longshore-{digest}");
        let total = i64::try_from(size).unwrap_or(i64::MAX);
        let message = |action: wire::WriteAction, offset: u64| wire::WriteContentRequest {
            action: action.into(),
            r#ref: reference.clone(),
            total,
            expected: digest.to_string(),
            offset: i64::try_from(offset).unwrap_or(i64::MAX),
            ..wire::WriteContentRequest::default()
        };
        let (sender, receiver) = mpsc::channel(1);
        // There is room for one: a server may answer nothing before it has the first.
        let _ = sender.try_send(message(wire::WriteAction::Stat, 0));
        let call = |channel, request| async move { client(channel).write(request).await };
        let opened = self.plugin.call("write", &self.namespace, ReceiverStream::new(receiver), call).await;
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(error) => return self.not_taken(digest, &reference, error).await,
        };
        let mut at = match self.answer(&mut stream).await {
            Ok(answer) => u64::try_from(answer.offset).unwrap_or(0),
            Err(error) => return self.not_taken(digest, &reference, error).await,
        };
        if at > size {
            at = 0;
        }
        loop {
            let mut request = message(wire::WriteAction::Write, at);
            let is_last = at == size;
            if is_last {
                request.set_action(wire::WriteAction::Commit);
                request.labels.insert(ROOT.0.to_owned(), ROOT.1.to_owned());
            } else {
                request.data = read(file, digest, at, size).await?;
                at += request.data.len() as u64;
            }
            // If the plugin has hung up, its answer says why.
            let _ = sender.send(request).await;
            match self.answer(&mut stream).await {
                Ok(_) if is_last => return Ok(Sent::Done),
                Ok(_) => {}
                Err(error) => return self.not_taken(digest, &reference, error).await,
            }
        }
    }

    async fn answer(
        &self,
        stream: &mut Streaming<wire::WriteContentResponse>,
    ) -> Result<wire::WriteContentResponse> {
        let answer = self.plugin.within("write", stream.message()).await?;
        answer.ok_or_else(|| {
            Error::unavailable("the content plugin", "write: it ended the stream without an answer")
        })
    }

    /// Whether a refusal is success, or a reason to begin again.
    async fn not_taken(&self, digest: &Digest, reference: &str, error: Error) -> Result<Sent> {
        let Error::Plugin { code, .. } = &error else { return Err(error) };
        match code {
            Code::AlreadyExists => self.keep(digest).await.map(|()| Sent::Done),
            // Another writer, perhaps our own last one.
            Code::Unavailable => Ok(Sent::Again(error)),
            // What it kept of an earlier send is not this blob's.
            Code::FailedPrecondition | Code::OutOfRange | Code::InvalidArgument => {
                let asked = wire::AbortRequest { r#ref: reference.to_owned() };
                let call = |channel, request| async move { client(channel).abort(request).await };
                match self.plugin.call("abort", &self.namespace, asked, call).await {
                    Err(failed) if failed.code() != Code::NotFound => {
                        tracing::debug!("the ingest {reference} was not dropped: {failed}");
                    }
                    _ => {}
                }
                Ok(Sent::Again(error))
            }
            _ => Err(error),
        }
    }

    /// Labels a blob that the plugin had before.
    pub async fn keep(&self, digest: &Digest) -> Result<()> {
        let info = wire::Info {
            digest: digest.to_string(),
            labels: HashMap::from([(ROOT.0.to_owned(), ROOT.1.to_owned())]),
            ..wire::Info::default()
        };
        let mask = prost_types::FieldMask { paths: vec![format!("labels.{}", ROOT.0)] };
        let asked = wire::UpdateRequest { info: Some(info), update_mask: Some(mask) };
        let call = |channel, request| async move { client(channel).update(request).await };
        self.plugin.call("update", &self.namespace, asked, call).await.map(drop).map_err(away)
    }

    /// Brings a blob here, verified, as the file `target`. Goes on when the caller leaves: others may wait for it.
    pub async fn fetch(self: &Arc<Self>, digest: &Digest, size: u64, target: PathBuf) -> Result<File> {
        let (remote, digest) = (Arc::clone(self), digest.clone());
        let fetched = tokio::spawn(async move {
            let _gate = remote.gate(&digest).await;
            let path = target.clone();
            if let Some(file) = blocking(move || open(&path, Some(size))).await? {
                return Ok(file);
            }
            // The semaphore is never closed.
            let _turn = remote.transfers.acquire().await;
            let partial = remote.partial.join(name(&digest));
            let fetched = remote.fetch_into(&digest, size, &partial, &target).await;
            if fetched.is_err() {
                let _ = blocking(move || {
                    fs::remove_file(&partial).map_err(|source| Error::io("removing", partial, source))
                })
                .await;
            }
            fetched
        });
        fetched.await.unwrap_or(Err(Error::Lost { what: "fetching a blob" }))
    }

    async fn fetch_into(&self, digest: &Digest, size: u64, partial: &Path, target: &Path) -> Result<File> {
        let asked = wire::ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
        let call = |channel, request| async move { client(channel).read(request).await };
        let gone = |error: Error| match error.code() {
            Code::NotFound => Error::Damaged {
                what: format!("content {digest}"),
                why: "its file is neither here nor in the plugin; delete it and pull again".into(),
            },
            _ => away(error),
        };
        let mut stream = self.plugin.call("read", &self.namespace, asked, call).await.map_err(gone)?;
        let wrong =
            |why: String| Error::Damaged { what: format!("content {digest} as the plugin gave it"), why };
        let path = partial.to_owned();
        let create = move || {
            let at = |source| Error::io("fetching a blob into", &path, source);
            File::options().read(true).write(true).create(true).truncate(true).open(&path).map_err(at)
        };
        let mut file = blocking(create).await?;
        let mut hasher = Hasher::new(digest.algorithm());
        let (mut got, mut empty) = (0, 0);
        while let Some(part) = self.plugin.within("read", stream.message()).await.map_err(gone)? {
            got += part.data.len() as u64;
            if got > size {
                return Err(wrong(format!("it is longer than {size} bytes")));
            }
            if part.data.is_empty() {
                empty += 1;
                if empty > MAX_EMPTY {
                    return Err(wrong(format!("it has more than {MAX_EMPTY} parts without data")));
                }
                continue;
            }
            let path = partial.to_owned();
            let add = move || {
                hasher.update(&part.data);
                file.write_all(&part.data)
                    .map_err(|source| Error::io("fetching a blob into", path, source))?;
                Ok((file, hasher))
            };
            (file, hasher) = blocking(add).await?;
        }
        if got != size {
            return Err(wrong(format!("it has {got} bytes instead of {size}")));
        }
        let found = hasher.digest();
        if found != *digest {
            return Err(wrong(format!("its digest is {found}")));
        }
        let (partial, target) = (partial.to_owned(), target.to_owned());
        blocking(move || place(file, &partial, &target)).await
    }

    /// Whoever has the gate is the only one to send or fetch the blob.
    async fn gate(&self, digest: &Digest) -> OwnedMutexGuard<()> {
        let gate = {
            let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
            gates.retain(|_, gate| gate.strong_count() > 0);
            let existing = gates.get(digest).and_then(Weak::upgrade);
            existing.unwrap_or_else(|| {
                let gate = Arc::default();
                gates.insert(digest.clone(), Arc::downgrade(&gate));
                gate
            })
        };
        gate.lock_owned().await
    }

    /// Deletes a blob in the plugin. Blocks; not for a thread of the runtime.
    pub fn delete(&self, digest: &Digest) -> Result<()> {
        let asked = wire::DeleteContentRequest { digest: digest.to_string() };
        let call = |channel, request| async move { client(channel).delete(request).await };
        let deleting = async {
            let call = self.plugin.call("delete", &self.namespace, asked, call);
            tokio::time::timeout(REMOVAL, call).await.unwrap_or_else(|_| {
                let what = format!("deleting content {digest} in the plugin");
                Err(Error::Timeout { what, seconds: REMOVAL.as_secs() })
            })
        };
        match self.runtime.block_on(deleting) {
            Err(error) if error.code() != Code::NotFound => Err(away(error)),
            _ => Ok(()),
        }
    }

    /// Notes that the plugin may have the blob.
    pub async fn mark(&self, digest: &Digest) -> Result<()> {
        let path = self.marks.join(name(digest));
        blocking(move || touch(&path)).await
    }

    /// As [`Remote::mark`]. Blocks.
    pub fn mark_now(&self, digest: &Digest) -> Result<()> {
        touch(&self.marks.join(name(digest)))
    }

    /// Takes the mark away: the plugin has not got it. Blocks.
    pub fn unmark(&self, digest: &Digest) -> Result<()> {
        let path = self.marks.join(name(digest));
        match fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("removing the mark", path, source))
            }
            _ => Ok(()),
        }
    }

    /// What the plugin may have. Blocks.
    pub fn marked(&self) -> Result<Vec<Digest>> {
        let at = |source| Error::io("listing marks in", &self.marks, source);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.marks).map_err(at)? {
            let name = entry.map_err(at)?.file_name();
            found.extend(Digest::parse(&name.to_string_lossy().replacen('-', ":", 1)));
        }
        Ok(found)
    }
}

/// The blob's file, if it is here and, where that is given, as long as it must be. Blocks.
pub fn open(path: &Path, size: Option<u64>) -> Result<Option<File>> {
    let at = |source| Error::io("opening blob", path, source);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(at(source)),
    };
    match size {
        Some(size) if file.metadata().map_err(at)?.len() != size => Ok(None),
        _ => Ok(Some(file)),
    }
}

fn client(channel: Channel) -> ContentClient<Channel> {
    ContentClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
}

fn name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.digits())
}

fn touch(path: &Path) -> Result<()> {
    File::create(path).map(drop).map_err(|source| Error::io("marking the blob", path, source))
}

async fn read(file: &Arc<File>, digest: &Digest, at: u64, size: u64) -> Result<Vec<u8>> {
    let (file, digest) = (Arc::clone(file), digest.clone());
    blocking(move || {
        let mut data = vec![0; CHUNK.min(usize::try_from(size - at).unwrap_or(CHUNK))];
        file.read_exact_at(&mut data, at)
            .map_err(|source| Error::io("reading blob", digest.as_str(), source))?;
        Ok(data)
    })
    .await
}

/// Data fsync, rename, folder fsync.
fn place(file: File, partial: &Path, target: &Path) -> Result<File> {
    let at = |source| Error::io("placing the fetched blob", target, source);
    file.sync_all().map_err(at)?;
    fs::set_permissions(partial, PermissionsExt::from_mode(0o400)).map_err(at)?;
    fs::rename(partial, target).map_err(at)?;
    if let Some(parent) = target.parent() {
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(at)?;
    }
    Ok(file)
}

/// For `map_err`: a plugin that cannot be reached, breaks off or does not answer in time is unavailable. Not as [`Error::Unavailable`],
/// by which a writer says that another one is at work, for which callers wait.
fn away(error: Error) -> Error {
    let step = "keeping the bytes of blobs";
    match error {
        Error::Unavailable { what, why } => {
            Error::Plugin { plugin: what, step, code: Code::Unavailable, message: why }
        }
        Error::Timeout { what, seconds } => {
            let message = format!("no answer within {seconds} s");
            Error::Plugin { plugin: what, step, code: Code::Unavailable, message }
        }
        Error::Plugin {
            plugin,
            step,
            code: Code::Unknown | Code::Cancelled | Code::Internal | Code::Aborted | Code::DeadlineExceeded,
            message,
        } => Error::Plugin { plugin, step, code: Code::Unavailable, message },
        other => other,
    }
}
