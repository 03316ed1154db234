//! Volumes with options are file systems of their own: mounted in their folders while a container runs with them.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags};
use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::Volumes;
use crate::content::store::blocking;
use crate::engine::Engine;
use crate::engine::config::{Access, Mount, MountKind, Record};
use crate::error::{Error, Result};

/// The flags among a volume's options; the others are the file system's.
const FLAGS: [(&str, MsFlags, bool); 22] = [
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("nodev", MsFlags::MS_NODEV, true),
    ("dev", MsFlags::MS_NODEV, false),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("mand", MsFlags::MS_MANDLOCK, true),
    ("nomand", MsFlags::MS_MANDLOCK, false),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("atime", MsFlags::MS_NOATIME, false),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("bind", MsFlags::MS_BIND, true),
    ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
];

/// Most file systems on top of each other that are let go of.
const MAX_STACKED: usize = 64;

impl Engine {
    /// Makes a container's volumes ready for a run of it.
    pub(in crate::engine) async fn mount_volumes(self: &Arc<Self>, id: &str, record: &Record) -> Result<()> {
        self.mount_all(&names(record), id).await?;
        for mount in volumes(record) {
            let writable = if mount.access == Access::ReadOnly { "false" } else { "true" };
            self.volume_happened(
                &mount.source,
                "mount",
                &[
                    ("container", id),
                    ("destination", &mount.target),
                    ("propagation", &mount.bind.propagation),
                    ("read/write", writable),
                ],
            );
        }
        Ok(())
    }

    /// A run of the container is over, or did not begin.
    pub(in crate::engine) async fn unmount_volumes(&self, id: &str, record: &Record) {
        self.unmount_all(&names(record), id).await;
        for mount in volumes(record) {
            self.volume_happened(&mount.source, "unmount", &[("container", id)]);
        }
    }

    /// Does `work` while `user` has volumes mounted. It is carried through, and they are unmounted, even if the client goes away.
    pub(in crate::engine) async fn with_volumes<R: Send + 'static>(
        self: &Arc<Self>,
        names: Vec<String>,
        user: String,
        work: impl Future<Output = Result<R>> + Send + 'static,
    ) -> Result<R> {
        let (engine, work) = (self.clone(), Box::pin(work));
        let job = async move {
            engine.mount_all(&names, &user).await?;
            let done = work.await;
            engine.unmount_all(&names, &user).await;
            done
        };
        self.carry("work with volumes", job).await
    }

    /// Mounts volumes for `user`, all or none. One that `user` has already stays as it is.
    pub(in crate::engine) async fn mount_all(&self, names: &[String], user: &str) -> Result<()> {
        for (index, name) in names.iter().enumerate() {
            if let Err(error) = self.mount_volume(name, user).await {
                self.unmount_all(&names[..index], user).await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// `user` has these volumes mounted no more.
    pub(in crate::engine) async fn unmount_all(&self, names: &[String], user: &str) {
        for name in names {
            if let Err(error) = self.unmount_volume(name, user).await {
                tracing::warn!(volume = %name, %error, "a volume could not be unmounted; the next start tries again");
            }
        }
    }

    /// Mounts a volume, if it has options and nobody has done it. A copy-up under way is waited for.
    async fn mount_volume(&self, name: &str, user: &str) -> Result<()> {
        let Some(kept) = self.volumes.get(name) else { return Err(super::list::no_such(name)) };
        let mut users = kept.mounted.lock().await;
        if !kept.record.options.is_empty() {
            let (data, options) = (self.volumes.data(name), kept.record.options);
            blocking(move || if is_mounted(&data)? { Ok(()) } else { mount(&data, &options) }).await?;
        }
        users.insert(user.to_owned());
        Ok(())
    }

    async fn unmount_volume(&self, name: &str, user: &str) -> Result<()> {
        let Some(kept) = self.volumes.get(name) else { return Ok(()) };
        let mut users = kept.mounted.lock().await;
        if !users.remove(user) || !users.is_empty() || kept.record.options.is_empty() {
            return Ok(());
        }
        let folder = self.volumes.folder.join(name);
        blocking(move || leave(&folder)).await
    }
}

impl Volumes {
    /// Whether the volume is a file system of its own.
    pub(super) fn has_options(&self, name: &str) -> bool {
        self.lock().get(name).is_some_and(|kept| !kept.record.options.is_empty())
    }
}

fn volumes(record: &Record) -> impl Iterator<Item = &Mount> {
    record.mounts().iter().filter(|mount| mount.kind == MountKind::Volume)
}

/// Names of a container's volumes.
pub fn names(record: &Record) -> Vec<String> {
    volumes(record).map(|mount| mount.source.clone()).collect()
}

/// Whether a file system is mounted at `data` itself.
fn is_mounted(data: &Path) -> Result<bool> {
    let failed = |errno: rustix::io::Errno| Error::io("looking at", data, errno.into());
    let id = |path: &Path| {
        rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)
            .map(|stat| stat.stx_mnt_id)
    };
    Ok(id(data).map_err(failed)? != id(data.parent().unwrap_or(data)).map_err(failed)?)
}

fn unmount(data: &Path) -> Result<()> {
    // Busy is no reason to leave it in sight: it goes with its last user.
    nix::mount::umount2(data, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
        .map_err(|errno| Error::io("unmounting", data, errno.into()))
}

/// Removes a volume's folder. What is mounted in it is not the volume's: it is let go of first, and if that cannot be, nothing is
/// removed.
pub fn delete(folder: &Path) -> Result<()> {
    leave(folder)?;
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("removing", folder, error))
        }
        _ => Ok(()),
    }
}

/// Unmounts what is mounted in a volume's folder, also what runs that were cut short have left there.
pub fn leave(folder: &Path) -> Result<()> {
    release(&folder.join(super::DATA))
}

/// Unmounts everything that is mounted at `point`; that there is nothing, or no such folder, is fine.
pub fn release(point: &Path) -> Result<()> {
    if std::fs::symlink_metadata(point).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Ok(());
    }
    for _ in 0..MAX_STACKED {
        if !is_mounted(point)? {
            return Ok(());
        }
        unmount(point)?;
    }
    Err(Error::precondition(
        format!("the folder {}", point.display()),
        "something is mounted there again and again; unmount it by hand",
    ))
}

fn mount(data: &Path, options: &BTreeMap<String, String>) -> Result<()> {
    let get = |key: &str| options.get(key).map_or("", String::as_str);
    let (kind, device) = (get("type"), get("device"));
    let (mut flags, mut rest) = (MsFlags::empty(), Vec::new());
    for option in get("o").split(',').filter(|option| !option.is_empty() && *option != "defaults") {
        match FLAGS.iter().find(|(name, ..)| *name == option) {
            Some((_, flag, true)) => flags |= *flag,
            Some((_, flag, false)) => flags -= *flag,
            None => rest.push(option.to_owned()),
        }
    }
    if kind.starts_with("nfs") || kind == "cifs" {
        rest = rest.into_iter().map(resolved).collect::<Result<_>>()?;
    }
    let text = rest.join(",");
    let shown = |errno: nix::Error| {
        let flags = if flags.is_empty() { String::new() } else { format!(", flags: {:#x}", flags.bits()) };
        let data_text = if text.is_empty() { String::new() } else { format!(", data: {text}") };
        let why = errno.desc();
        let mut letters = why.chars();
        let why: String =
            letters.next().map(|c| c.to_lowercase().chain(letters).collect()).unwrap_or_default();
        Error::precondition(
            format!("error while mounting volume '{}'", data.display()),
            format!(
                "failed to mount local volume: mount {device}:{}{flags}{data_text}: {why}",
                data.display()
            ),
        )
    };
    let kind = if kind == "none" || flags.contains(MsFlags::MS_BIND) { None } else { Some(kind) };
    let more = (!text.is_empty()).then_some(text.as_str());
    nix::mount::mount(Some(device), data, kind, flags, more).map_err(shown)?;
    // A bind mount takes its flags only afterwards.
    let later = flags - MsFlags::MS_BIND - MsFlags::MS_REC;
    if flags.contains(MsFlags::MS_BIND) && !later.is_empty() {
        let flags = later | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        if let Err(errno) = nix::mount::mount(None::<&str>, data, None::<&str>, flags, None::<&str>) {
            unmount(data)?;
            return Err(shown(errno));
        }
    }
    Ok(())
}

/// The kernel takes a server's address, and no name.
fn resolved(option: String) -> Result<String> {
    let Some(host) = option.strip_prefix("addr=") else { return Ok(option) };
    if host.parse::<IpAddr>().is_ok() {
        return Ok(option);
    }
    let found = (host, 0).to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    match found {
        Some(address) => Ok(format!("addr={}", address.ip())),
        None => Err(Error::precondition(
            "error while mounting volume",
            format!("error resolving passed in network volume address: no address for {host}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_in_a_volume_is_not_removed_with_it() {
        let place = tempfile::tempdir().unwrap();
        let (folder, host) = (place.path().join("v"), place.path().join("host"));
        let data = folder.join(super::super::DATA);
        std::fs::create_dir_all(&data).unwrap();
        std::fs::create_dir_all(&host).unwrap();
        std::fs::write(host.join("precious"), "x").unwrap();
        let options = BTreeMap::from([
            ("o".to_owned(), "bind".to_owned()),
            ("device".to_owned(), host.display().to_string()),
        ]);
        mount(&data, &options).unwrap();
        mount(&data, &options).unwrap();
        delete(&folder).unwrap();
        assert!(!folder.exists());
        assert_eq!(std::fs::read_to_string(host.join("precious")).unwrap(), "x");
        delete(&folder).unwrap();
    }
}
