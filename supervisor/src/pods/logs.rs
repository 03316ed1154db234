//! Where a container's log is: a file below the pod's folder of logs, which the shim writes.
//!
//! What always holds: below that folder no link is followed, whoever can write there. Whatever a name leads to is looked at in a thread
//! that may wait, since a folder that somebody named may be on a file system that does not answer.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Pods;
use super::config::PodConfig;
use super::container::Container;
use crate::error::{Error, Result};

impl Pods {
    /// Makes the folder of a pod's logs.
    pub(super) async fn make_log_directory(&self, config: &PodConfig) -> Result<()> {
        if config.log_directory.is_empty() {
            return Ok(());
        }
        let directory = PathBuf::from(&config.log_directory);
        self.on_host(move || make(&directory, Path::new(""))).await
    }

    /// Makes the folder of a container's log, unless it is there.
    pub(super) async fn make_log_folder(&self, container: &Container) -> Result<()> {
        let directory = self.pod(&container.pod)?.read(|record| record.config.log_directory.clone());
        let (path, wanted) =
            container.read(|record| (record.config.log_path.clone(), !record.log_path.is_empty()));
        if !wanted {
            return Ok(());
        }
        let below = Path::new(&path).parent().unwrap_or(Path::new("")).to_owned();
        self.on_host(move || make(Path::new(&directory), &below)).await
    }
}

impl Pods {
    /// What is in a container's log. `None`: it has none, or its place is no regular file, or a link leads there.
    pub(super) async fn open_log(&self, container: &Container) -> Result<Option<File>> {
        let directory = self.pod(&container.pod)?.read(|record| record.config.log_directory.clone());
        let path = container.read(|record| match record.log_path.is_empty() {
            true => String::new(),
            false => record.config.log_path.clone(),
        });
        self.on_host(move || Ok(open(Path::new(&directory), Path::new(&path)))).await
    }
}

/// Opens what is at `below` in `directory`, to read it. Blocks.
fn open(directory: &Path, below: &Path) -> Option<File> {
    if below.as_os_str().is_empty() {
        return None;
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(directory, flags | OFlags::DIRECTORY, Mode::empty()).ok()?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let found = rustix::fs::openat2(&folder, below, flags, Mode::empty(), resolve).ok()?;
    crate::trees::reopen_regular(&found).ok().flatten().map(File::from)
}

/// Refuses a folder of logs that would be looked for from where the daemon happens to be.
pub(super) fn check_directory(directory: &str) -> Result<()> {
    let path = Path::new(directory);
    if directory.is_empty() || (path.is_absolute() && path.file_name().is_some()) {
        return Ok(());
    }
    Err(Error::invalid(format!("log_directory {directory:?}"), "it is no absolute path of a folder"))
}

/// Where the log of this path is: within the folder. `None`: there is none.
pub(super) fn path_of(directory: &str, log_path: &str) -> Result<Option<PathBuf>> {
    if directory.is_empty() || log_path.is_empty() {
        return Ok(None);
    }
    let inside = Path::new(log_path);
    if !inside.components().all(|part| matches!(part, Component::Normal(_))) {
        let why = "it does not stay within the pod's folder of logs";
        return Err(Error::invalid(format!("log path {log_path:?}"), why));
    }
    Ok(Some(Path::new(directory).join(inside)))
}

/// The log as the shim is told it: with how many of its last parts may be no links, the pod's folder among them.
pub(super) fn uri(path: &str, log_path: &str) -> String {
    if path.is_empty() {
        return String::new();
    }
    let parts = Path::new(log_path).components().count() + 1;
    format!("cri://{}?depth={parts}", escaped(path))
}

/// Makes `directory`, and `below` in it. Blocks.
fn make(directory: &Path, below: &Path) -> Result<()> {
    let failed = |path: &Path, errno: Errno| match errno {
        Errno::LOOP | Errno::NOTDIR => Error::precondition(
            format!("the folder of logs {}", path.display()),
            "it, or one above it up to the pod's, is a link or no folder: logs are written to folders only",
        ),
        errno => Error::io("making the folder of logs", path, errno.into()),
    };
    let above = directory.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(above).map_err(|error| Error::io("making the folder of logs", above, error))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = rustix::fs::open(above, flags, Mode::empty()).map_err(|errno| failed(above, errno))?;
    let mut path = above.to_owned();
    for name in directory.file_name().into_iter().chain(below.iter()) {
        path.push(name);
        folder = enter(&folder, name, flags | OFlags::NOFOLLOW).map_err(|errno| failed(&path, errno))?;
    }
    Ok(())
}

fn enter(folder: &OwnedFd, name: &std::ffi::OsStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        found => return found,
    }
    match rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => rustix::fs::openat(folder, name, flags, Mode::empty()),
        Err(errno) => Err(errno),
    }
}

/// A path as part of a URI.
fn escaped(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_escaped_where_a_uri_has_other_meanings() {
        assert_eq!(uri("/var/log/a_b-c.log", "a_b-c.log"), "cri:///var/log/a_b-c.log?depth=2");
        assert_eq!(uri("/a b?c%ä/d/0.log", "d/0.log"), "cri:///a%20b%3Fc%25%C3%A4/d/0.log?depth=3");
        assert_eq!(uri("", "0.log"), "");
    }

    #[test]
    fn no_link_below_the_folder_of_logs_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (pod, elsewhere) = (folder.path().join("above/pod"), folder.path().join("elsewhere"));
        make(&pod, Path::new("c")).unwrap();
        make(&pod, Path::new("c")).unwrap();
        assert!(pod.join("c").is_dir());
        std::fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, pod.join("led")).unwrap();
        let error = make(&pod, Path::new("led/more")).unwrap_err();
        assert!(error.to_string().contains("is a link"), "{error}");
        std::fs::remove_dir_all(&pod).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &pod).unwrap();
        assert!(make(&pod, Path::new("c")).is_err());
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    }

    #[test]
    fn a_log_is_read_where_no_link_leads() {
        let folder = tempfile::tempdir().unwrap();
        let (pod, elsewhere) = (folder.path().join("pod"), folder.path().join("elsewhere"));
        for path in [pod.join("c"), elsewhere.clone()] {
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("0.log"), "a line").unwrap();
        }
        let said =
            |path: &str| open(&pod, Path::new(path)).map(|file| std::io::read_to_string(file).unwrap());
        assert_eq!(said("c/0.log").as_deref(), Some("a line"));
        std::os::unix::fs::symlink(&elsewhere, pod.join("led")).unwrap();
        std::os::unix::fs::symlink(elsewhere.join("0.log"), pod.join("0.log")).unwrap();
        for path in ["led/0.log", "0.log", "../elsewhere/0.log", "c", "none", ""] {
            assert_eq!(said(path), None, "{path:?}");
        }
        std::fs::rename(&pod, folder.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("moved"), &pod).unwrap();
        assert_eq!(said("c/0.log"), None);
    }

    #[test]
    fn a_log_stays_within_its_folder() {
        assert!(path_of("/logs", "../x").is_err() && path_of("/logs", "/x").is_err());
        assert_eq!(path_of("/logs", "c/0.log").unwrap().unwrap(), Path::new("/logs/c/0.log"));
        assert!(path_of("", "0.log").unwrap().is_none());
        assert!(check_directory("logs").is_err() && check_directory("/").is_err());
        assert!(check_directory("").is_ok() && check_directory("/var/log/pods/a/").is_ok());
    }
}
