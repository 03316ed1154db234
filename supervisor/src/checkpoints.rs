//! Checkpoints of containers in the content store: the folder of images that a runtime writes, as one archive, and back.
//!
//! What always holds: a folder of images belongs to a request or to a task made from it and is removed with it; what is
//! left by a daemon that died is removed by the next.

#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, File};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use prost::Message;

use crate::any::Any;
use crate::content::store::blocking;
use crate::content::{CommitOptions, ContentStore, Descriptor, WriterOptions};
use crate::error::{Error, Result};
use crate::images::unpack::{self, Compression, Form, Limits, Options};
use crate::namespaces::Namespace;

/// The archive of a folder of images.
const IMAGES: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
/// The container's spec, as an encoded `Any`.
const CONFIG: &str = "application/vnd.containerd.container.checkpoint.config.v1+proto";

/// Bytes of an archive that are written to the content store at once.
const CHUNK: usize = 1 << 20;

pub struct Checkpoints {
    content: Arc<ContentStore>,
    /// Of requests under way.
    making: PathBuf,
    /// Of tasks that were made from one, until they are deleted.
    restored: PathBuf,
    next: AtomicU64,
}

/// A folder that is removed when it is dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "cannot remove the images of a checkpoint");
        }
    }
}

impl Checkpoints {
    pub fn new(content: Arc<ContentStore>, root: &Path) -> Self {
        let folder = root.join("checkpoints");
        let (making, restored) = (folder.join("making"), folder.join("restored"));
        // What a daemon that died was making.
        let _ = fs::remove_dir_all(&making);
        Self { content, making, restored, next: AtomicU64::new(0) }
    }

    /// Removes the images of tasks that are no more.
    pub fn sweep(&self, exists: impl Fn(&Namespace, &str) -> bool) {
        for folder in fs::read_dir(&self.restored).into_iter().flatten().flatten() {
            let Some(namespace) = folder.file_name().to_str().and_then(|name| Namespace::parse(name).ok())
            else {
                continue;
            };
            let ids = fs::read_dir(folder.path()).into_iter().flatten().flatten();
            for id in ids.filter_map(|entry| entry.file_name().into_string().ok()) {
                if !exists(&namespace, &id) {
                    self.forget(&namespace, &id);
                }
            }
        }
    }

    /// A new folder, for a runtime to write to.
    pub fn folder(&self) -> Result<Folder> {
        let path = self.making.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        make(&path)?;
        Ok(Folder(path))
    }

    /// Puts a folder of images, and the container's spec, into the content store.
    pub async fn keep(
        &self,
        namespace: &Namespace,
        lease: Option<String>,
        id: &str,
        folder: &Folder,
        spec: Option<Any>,
    ) -> Result<Vec<Descriptor>> {
        let (images, archive) = (folder.path().to_owned(), folder.path().with_extension("tar"));
        let _archive = RemoveFile(archive.clone());
        let file = {
            let archive = archive.clone();
            blocking(move || pack(&images, &archive)).await?
        };
        let name = |part: &str| format!("checkpoint-{id}-{part}-{}", folder.path().display());
        let tar = self.write(namespace, lease.clone(), name("images"), IMAGES, Source::File(file)).await?;
        let spec = prost_types::Any::from(spec.unwrap_or_default()).encode_to_vec();
        let config = self.write(namespace, lease, name("spec"), CONFIG, Source::Bytes(spec)).await?;
        Ok(vec![tar, config])
    }

    async fn write(
        &self,
        namespace: &Namespace,
        lease: Option<String>,
        reference: String,
        media_type: &str,
        source: Source,
    ) -> Result<Descriptor> {
        let options =
            WriterOptions { namespace: namespace.clone(), reference, total: 0, expected: None, lease };
        let mut writer = self.content.writer(options).await?;
        match source {
            Source::Bytes(bytes) => drop(writer.write(bytes.into()).await?),
            Source::File(file) => {
                let mut file = tokio::fs::File::from_std(file);
                loop {
                    let mut chunk = Vec::with_capacity(CHUNK);
                    let mut piece = tokio::io::AsyncReadExt::take(&mut file, CHUNK as u64);
                    let read = tokio::io::AsyncReadExt::read_to_end(&mut piece, &mut chunk).await;
                    read.map_err(|source| Error::io("reading", "the archive of a checkpoint", source))?;
                    if chunk.is_empty() {
                        break;
                    }
                    writer.write(chunk.into()).await?;
                }
            }
        }
        let (size, digest) = (writer.offset(), writer.digest().await?);
        match writer.commit(CommitOptions::default()).await {
            Err(error) if !error.is_already_exists() => return Err(error),
            _ => {}
        }
        Ok(Descriptor { media_type: media_type.to_owned(), digest, size, annotations: Default::default() })
    }

    /// Unpacks the images of a checkpoint for a container that is to be made from it: the folder, which stays until
    /// [`Checkpoints::forget`].
    pub async fn unpack(&self, namespace: &Namespace, id: &str, image: &Descriptor) -> Result<PathBuf> {
        if image.media_type != IMAGES {
            let what = format!("checkpoint of type \"{}\"", image.media_type);
            return Err(Error::invalid(what, format!("only {IMAGES} can be restored")));
        }
        let blob = self.content.reader(namespace, &image.digest).await?;
        let folder = self.restored.join(namespace.as_str()).join(id);
        let (into, digest) = (folder.clone(), image.digest.clone());
        blocking(move || {
            let _ = fs::remove_dir_all(&into);
            make(&into)?;
            let root = File::open(&into).map_err(|source| Error::io("opening", &into, source))?;
            let (compressed, cancel) = (blob.size, AtomicBool::new(false));
            let (form, compression, limits) = (Form::Merged, Compression::Plain, Limits::default());
            let options = Options { form, compression, compressed, limits, cancel: &cancel };
            unpack::apply_layer(blob.into_reader(), root.as_fd(), options)
                .map_err(|source| Error::invalid(format!("checkpoint {digest}"), source.to_string()))?;
            Ok(())
        })
        .await
        .inspect_err(|_| self.forget(namespace, id))?;
        Ok(folder)
    }

    /// Removes the images that a container was made from, if it was.
    pub fn forget(&self, namespace: &Namespace, id: &str) {
        let folder = self.restored.join(namespace.as_str()).join(id);
        if let Err(error) = fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "cannot remove the images of a checkpoint");
        }
    }
}

enum Source {
    Bytes(Vec<u8>),
    File(File),
}

struct RemoveFile(PathBuf);

impl Drop for RemoveFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn make(folder: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| Error::io("making the folder", folder, source))
}

/// Archives a folder; the archive, open at its beginning.
fn pack(folder: &Path, archive: &Path) -> Result<File> {
    let fail = |source| Error::io("archiving the checkpoint in", folder, source);
    let file = File::create(archive).map_err(fail)?;
    let mut builder = tar::Builder::new(file);
    builder.follow_symlinks(false);
    builder.append_dir_all("", folder).map_err(fail)?;
    builder.into_inner().map_err(fail)?;
    File::open(archive).map_err(fail)
}
