//! Snapshots as overlay mounts: a snapshot's directory holds only what differs from its parent.
//!
//! What always holds: mounts are as containerd's overlayfs snapshotter gives them to foreign clients. One layer alone is a
//! bind mount; a stack is `lowerdir` with the nearest layer first, plus `upperdir` and `workdir` if it may be written.

use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_string, fsopen};

use crate::directories::Directories;
use crate::local::{Driver, Local};
use crate::{Error, Kind, Labels, Mount, Result, UpperDir, remap};

/// The kernel's limit of lower layers.
const MAX_LAYERS: usize = 500;

/// Snapshotter on overlay mounts.
pub type Overlayfs = Local<Overlay>;

impl Local<Overlay> {
    /// Opens or creates the folder `root`, which nobody else may have open. Removes what an earlier process left unfinished.
    pub fn open(root: &Path) -> Result<Self> {
        let user_namespace = in_user_namespace();
        let mut options = Vec::new();
        if Path::new("/sys/module/overlay/parameters/index").exists() {
            options.push("index=off".to_owned());
        }
        if user_namespace {
            options.push("userxattr".to_owned());
        }
        let xattr_prefix = if user_namespace { "user.overlay." } else { "trusted.overlay." };
        std::fs::create_dir_all(root).map_err(Error::io("create", root))?;
        let remaps = !user_namespace && remap::is_possible(root);
        Self::open_with(root, Overlay { options, xattr_prefix, remaps })
    }

    /// Whether overlay works on the file system of the root, found out by a mount that nobody sees. A kernel without the calls to
    /// try it passes.
    pub fn probe(&self) -> Result<()> {
        let directories = self.directories();
        let scratch = tempdir_in(directories.path())?;
        let outcome = try_mount(&scratch, &self.driver().options);
        let removed = std::fs::remove_dir_all(&scratch).map_err(Error::io("remove", &scratch));
        match outcome {
            Ok(()) | Err(Errno::NOSYS) => removed,
            Err(errno) => Err(Error::io("mount a trial overlay in", directories.path())(errno)),
        }
    }
}

/// The layout of overlay mounts.
pub struct Overlay {
    /// Options of every overlay mount.
    options: Vec<String>,
    xattr_prefix: &'static str,
    /// Whether mounts may be given maps of ids.
    remaps: bool,
}

impl Driver for Overlay {
    const MAX_LAYERS: usize = MAX_LAYERS;
    const CAN_REBASE: bool = true;

    fn create(&self, directories: &Directories, id: u64, kind: Kind, parents: &[u64]) -> Result<()> {
        directories.create(id)?;
        if kind == Kind::Active {
            directories.create_in(id, "work", Mode::from_raw_mode(0o711))?;
        }
        match parents.first() {
            Some(parent) => directories.adopt_root(id, *parent),
            None => Ok(()),
        }
    }

    fn mounts(
        &self,
        directories: &Directories,
        id: u64,
        kind: Kind,
        parents: &[u64],
        labels: &Labels,
    ) -> Vec<Mount> {
        let shifted = if self.remaps { remap::options(labels) } else { Vec::new() };
        match (kind, parents) {
            // What is in there is its owner's already.
            (Kind::Active, []) => vec![bind(directories.path_in(id, "fs"), "rw")],
            (_, []) => vec![bind(directories.path_in(id, "fs"), "ro")],
            (Kind::View | Kind::Committed, [only]) => {
                let mut mount = bind(directories.path_in(*only, "fs"), "ro");
                mount.options.splice(..0, shifted);
                vec![mount]
            }
            (_, parents) => {
                let mut options = shifted;
                options.extend_from_slice(&self.options);
                if kind == Kind::Active {
                    options.push(format!("workdir={}", directories.path_in(id, "work")));
                    options.push(format!("upperdir={}", directories.path_in(id, "fs")));
                }
                let lower: Vec<_> = parents.iter().map(|p| directories.path_in(*p, "fs")).collect();
                options.push(format!("lowerdir={}", lower.join(":")));
                let overlay = || "overlay".to_owned();
                vec![Mount { kind: overlay(), source: overlay(), target: String::new(), options }]
            }
        }
    }

    fn can_remap(&self) -> bool {
        self.remaps
    }

    fn upper_dir(&self, fs: String) -> UpperDir {
        UpperDir::Overlay { path: fs.into(), xattr_prefix: self.xattr_prefix }
    }
}

/// A bind mount of one directory.
pub(crate) fn bind(source: String, access: &str) -> Mount {
    let options = vec![access.to_owned(), "rbind".to_owned()];
    Mount { kind: "bind".to_owned(), source, target: String::new(), options }
}

fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let words: Vec<_> = map.split_whitespace().collect();
    !words.is_empty() && words != ["0", "0", "4294967295"]
}

fn tempdir_in(root: &Path) -> Result<std::path::PathBuf> {
    let path = root.join("probe");
    let _ = std::fs::remove_dir_all(&path); // of an earlier process; if it resists, the next line says so
    for name in ["lower", "upper", "work"] {
        std::fs::create_dir_all(path.join(name)).map_err(Error::io("create", &path))?;
    }
    Ok(path)
}

fn try_mount(scratch: &Path, options: &[String]) -> rustix::io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value)?,
            None => rustix::mount::fsconfig_set_flag(&context, option.as_str())?,
        }
    }
    for (key, name) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
        fsconfig_set_string(&context, key, scratch.join(name))?;
    }
    fsconfig_create(&context)
}
