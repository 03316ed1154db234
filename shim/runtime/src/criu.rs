//! criu, which dumps and restores processes: found on the host, called by its command line.
//!
//! What always holds: criu opens files of an image folder by name and with all privileges, so it is shown no folder with
//! anything but plain files of one name in it; what a restored container may have is decided by its config, never by an
//! image.

use crate::cgroups::{CgroupPaths, Mode};
use crate::criu_service::{Message, field};
use crate::{Error, Result, paths};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long criu may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);
/// In an image folder: what the first process's stdio was, as runc notes it.
pub(crate) const DESCRIPTORS: &str = "descriptors.json";
/// In an image folder: a link to the one that it builds on.
const PARENT: &str = "parent";
/// In a work folder: where `criu lazy-pages` listens.
const PAGES: &str = "lazy-pages.socket";
/// Most images that one builds on.
const PARENTS_MAX: usize = 64;
/// Most files of an image folder that are looked at.
const FILES_MAX: usize = 100_000;
/// How much of a log's end is told.
const LOG_TAIL: usize = 16 << 10;
/// Lines of it.
const LOG_LINES: usize = 4;
/// The key of masked files.
pub(crate) const MASK: &str = "/dev/null";

/// Where criu is.
pub(crate) fn find(criu: &Path) -> Result<PathBuf> {
    let missing = || Error::NoCriu { path: criu.into() };
    if criu.components().count() > 1 {
        return criu.is_file().then(|| criu.to_owned()).ok_or_else(missing);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|folder| folder.join(criu))
        .find(|path| path.is_file())
        .ok_or_else(missing)
}

/// Makes a folder for images or logs, private; one that is there may hold plain files only. A link to elsewhere would have
/// criu overwrite or read what it points to (CVE-2024-5154 and its like).
pub(crate) fn check_folder(folder: &Path, parent_link: bool) -> Result<()> {
    let failed = |doing| move |source| Error::Io { doing, path: folder.into(), source };
    let refused = |name: &Path, why: &str| Error::UntrustedImage { path: folder.join(name), why: why.into() };
    let made = fs::DirBuilder::new().mode(0o700).create(folder);
    match made {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed("make")(error)),
        _ => {}
    }
    if !fs::symlink_metadata(folder).map_err(failed("look at"))?.is_dir() {
        return Err(refused(Path::new(""), "is no folder"));
    }
    for (count, entry) in fs::read_dir(folder).map_err(failed("list"))?.enumerate() {
        let entry = entry.map_err(failed("list"))?;
        let name = PathBuf::from(entry.file_name());
        if count >= FILES_MAX {
            return Err(refused(Path::new(""), "has too many files"));
        }
        let found = entry.metadata().map_err(failed("list"))?;
        if parent_link && name == Path::new(PARENT) && found.is_symlink() {
            continue;
        }
        let is_for_pages = name == Path::new(PAGES) && found.file_type().is_socket();
        match (found.is_file(), found.nlink()) {
            (true, 1) => {}
            (false, _) if is_for_pages => {}
            (true, _) => return Err(refused(&name, "is linked to from elsewhere, too")),
            (false, _) => return Err(refused(&name, "is no plain file")),
        }
    }
    Ok(())
}

/// Which earlier image one may build on: the one that the link `parent` in its folder leads to. It stands beside the folder or in
/// it, so that an image cannot have pages of any other on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent<'a> {
    /// None: an image that wants one is refused.
    None,
    /// Whichever it says.
    Linked,
    /// This one.
    At(&'a Path),
}

/// Checks the folder of an image and of all those that it builds on.
pub(crate) fn check_image(folder: &Path, parent: Parent<'_>) -> Result<()> {
    let mut folder = folder.to_owned();
    let mut parent = parent;
    for _ in 0..PARENTS_MAX {
        check_folder(&folder, true)?;
        let link = folder.join(PARENT);
        let refused = |why: String| Error::UntrustedImage { path: link.clone(), why };
        let failed = |doing| {
            let path = link.clone();
            move |source| Error::Io { doing, path, source }
        };
        let target = match fs::read_link(&link) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed("look at"))?,
        };
        check_parent(&target).map_err(refused)?;
        let next = fs::canonicalize(&link).map_err(failed("follow"))?;
        match parent {
            Parent::None => {
                return Err(refused("leads to an earlier image, and none was named".into()));
            }
            Parent::At(named) if !fs::canonicalize(named).is_ok_and(|named| named == next) => {
                return Err(refused(format!("leads to {next:?}, and {named:?} was named")));
            }
            Parent::At(_) | Parent::Linked => parent = Parent::Linked,
        }
        let found = fs::metadata(&next).map_err(failed("look at"))?;
        if found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
            return Err(refused(format!("leads to {next:?}, which others own or may write to")));
        }
        folder = next;
    }
    Err(Error::UntrustedImage {
        path: folder,
        why: format!("builds on more than {PARENTS_MAX} earlier images"),
    })
}

/// `NAME` or `../NAME`.
pub(crate) fn check_parent(path: &Path) -> std::result::Result<(), String> {
    use std::path::Component::{Normal, ParentDir};
    let parts: Vec<_> = path.components().collect();
    match parts.as_slice() {
        [Normal(_)] | [ParentDir, Normal(_)] => Ok(()),
        _ => Err(format!(
            "{path:?} is not of the form NAME or ../NAME: an earlier image is beside the new one, or in it"
        )),
    }
}

/// The end of criu's log, where it says what went wrong.
pub(crate) fn last_words(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_TAIL)..]).into_owned();
    let errors: Vec<&str> = tail.lines().filter(|line| line.contains("Error (")).collect();
    let shown = if errors.is_empty() { tail.lines().collect() } else { errors };
    shown[shown.len().saturating_sub(LOG_LINES)..].join("; ")
}

/// A mount of the container that criu leaves to us: where it is in the container, and what is there on this host.
pub(crate) struct External {
    pub(crate) inside: String,
    pub(crate) source: PathBuf,
}

/// Bind mounts of the config, and the cgroups.
pub(crate) fn externals(spec: &Spec, bundle: &Path, cgroups: &CgroupPaths) -> Vec<External> {
    let mut list = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let inside = format!("/{}", paths::clean(&mount.destination().to_string_lossy()));
        let options = mount.options().as_deref().unwrap_or_default();
        let is_bind = options.iter().any(|option| option == "bind" || option == "rbind");
        match (mount.typ().as_deref(), mount.source()) {
            (Some("bind"), Some(source)) => list.push(External { inside, source: bundle.join(source) }),
            (_, Some(source)) if is_bind => list.push(External { inside, source: bundle.join(source) }),
            (Some("cgroup" | "cgroup2"), _) => {
                let v2 = cgroups.mode() == Mode::V2;
                list.extend(cgroups.folders().into_iter().filter(|(name, _)| v2 || !name.is_empty()).map(
                    |(name, source)| {
                        let name = name.strip_prefix("name=").unwrap_or(&name).to_owned();
                        External {
                            inside: if v2 { inside.clone() } else { format!("{inside}/{name}") },
                            source,
                        }
                    },
                ));
            }
            _ => {}
        }
    }
    list
}

/// Namespaces whose contents are not kept: criu knows of the network only.
pub(crate) fn empty_namespaces(names: &[String], request: &mut Message) -> Result<()> {
    if let Some(other) = names.iter().find(|name| *name != "network") {
        let why = format!("{other:?} cannot be left empty, only network");
        return Err(Error::InvalidSpec { field: "empty-ns".into(), why });
    }
    if !names.is_empty() {
        request.number(field::EMPTY_NAMESPACES, libc::CLONE_NEWNET as u64);
    }
    Ok(())
}

/// Namespaces that the container shares with others by path, of the kinds that criu can leave alone: key and path.
pub(crate) fn shared_namespaces(spec: &Spec) -> Vec<(&'static str, &'static str, PathBuf)> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let shared = namespaces.into_iter().flatten().filter_map(|namespace| {
        let path = namespace.path().clone()?;
        match namespace.typ() {
            LinuxNamespaceType::Network => Some(("net", "extRootNetNS", path)),
            LinuxNamespaceType::Pid => Some(("pid", "extRootPidNS", path)),
            _ => None,
        }
    });
    shared.collect()
}

/// Namespaces that the container shares with others by path, of the kinds whose contents criu always keeps, and which it joins at a
/// restore if it is told to: kind and path.
pub(crate) fn joined_namespaces(spec: &Spec) -> Vec<(&'static str, PathBuf)> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let joined = namespaces.into_iter().flatten().filter_map(|namespace| {
        let path = namespace.path().clone()?;
        match namespace.typ() {
            LinuxNamespaceType::Ipc => Some(("ipc", path)),
            LinuxNamespaceType::Uts => Some(("uts", path)),
            _ => None,
        }
    });
    joined.collect()
}
