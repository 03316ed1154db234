//! Unpacking: a layer's compressed tar stream becomes files below a directory.
//!
//! What always holds: the layer is untrusted. Nothing outside the directory is touched, memory and disk use are bounded, and a
//! layer that breaks a rule is refused with the entry and the rule. What is left in the directory after an error is the
//! caller's to remove. The calls are synchronous.

#![forbid(unsafe_code)]

mod apply;
pub mod archive;
pub mod compression;
mod error;
mod header;
pub mod implicit;
mod names;
mod pax;
mod pipeline;
mod sparse;
#[cfg(test)]
mod tests;
pub mod tree;

use std::io::Read;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

pub use apply::Manner;
pub use compression::Compression;
pub use error::UnpackError;
pub use tree::Form;

/// Of a name in a layer, in bytes, as the kernel has it.
const MAX_PATH: usize = 4095;
/// Of one PAX or GNU extension header, in bytes.
const MAX_EXTENSION: u64 = 1 << 20;

/// How much a layer may be. Beyond these it is refused.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Headers in the archive, extensions included.
    pub entries: u64,
    /// Components of a name.
    pub depth: usize,
    /// Inflated bytes, and bytes of all files with their holes.
    pub total: u64,
    /// Inflated bytes for one compressed byte, for layers that inflate to more than `ratio_from`.
    pub ratio: u64,
    /// Bytes.
    pub ratio_from: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { entries: 4_000_000, depth: 256, total: 1 << 40, ratio: 200, ratio_from: 512 << 20 }
    }
}

impl Limits {
    fn bound(&self, compressed: u64) -> pipeline::Bound {
        let inflated = compressed.saturating_mul(self.ratio).max(self.ratio_from).min(self.total);
        pipeline::Bound { inflated, compressed }
    }
}

/// How a layer is to be applied.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    pub form: Form,
    pub compression: Compression,
    /// Size of the compressed layer, in bytes.
    pub compressed: u64,
    pub limits: Limits,
    /// Of this layer alone: set by another thread to stop the work soon, and here when it fails, so that `source` can stop waiting.
    pub cancel: &'a AtomicBool,
}

/// What was applied.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Applied {
    /// SHA-256 of the inflated layer.
    pub diff_id: [u8; 32],
    /// Inflated bytes.
    pub inflated: u64,
    /// Bytes that the files take on disk, in whole pages.
    pub size: u64,
    pub inodes: u64,
    /// Directories without an entry of their own, parents first: on top of other layers they must look as they do there.
    pub implicit: Vec<Vec<u8>>,
}

impl Applied {
    /// `sha256:hex`.
    pub fn diff_id(&self) -> String {
        use std::fmt::Write as _;
        let mut text = "sha256:".to_owned();
        for byte in self.diff_id {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

/// Applies the layer that `source` yields to the directory `destination`. All of `source` is read, also after the end of the
/// archive, so that damage anywhere in it is found; the caller compares [`Applied::diff_id`].
pub fn apply_layer<R: Read + Send>(
    source: R,
    destination: BorrowedFd<'_>,
    options: Options<'_>,
) -> Result<Applied, UnpackError> {
    apply(source, destination, options, Manner::Layer)
}

/// The same for an archive of files, which need not be a layer.
pub fn apply<R: Read + Send>(
    source: R,
    destination: BorrowedFd<'_>,
    options: Options<'_>,
    manner: Manner,
) -> Result<Applied, UnpackError> {
    let applier =
        apply::Applier::new(destination, options.form, options.limits, options.cancel)?.in_manner(manner);
    thread::scope(|scope| {
        let bound = options.limits.bound(options.compressed);
        let inflated = pipeline::start(scope, source, options.compression, bound, options.cancel)?;
        let mut archive = archive::Archive::new(inflated, options.limits);
        let result = applier.run(&mut archive).and_then(|applied| Ok((applied, archive.finish()?)));
        if result.is_err() {
            options.cancel.store(true, Ordering::Relaxed);
        }
        let (applied, (inflated, _)) = result?;
        let (diff_id, inflated) = inflated.finish();
        Ok(Applied { diff_id, inflated, ..applied })
    })
}
