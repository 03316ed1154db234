//! Options `X-containerd.mkdir.path=PATH[:MODE[:UID:GID]]`: directories that are to be there before the mount is made.

use rustix::fs::{AtFlags, Gid, Mode, Uid, chmodat, chownat, mkdirat};
use rustix::io::Errno;

use super::roots::Roots;
use crate::error::{Error, Result};
use crate::snapshots::Mount;

const PREFIX: &str = "X-containerd.mkdir.";
const DEFAULT_MODE: u32 = 0o700;

/// Makes the directories and takes the options away.
pub fn apply(mount: &mut Mount, roots: &Roots) -> Result<()> {
    let (asked, kept): (Vec<_>, Vec<_>) =
        std::mem::take(&mut mount.options).into_iter().partition(|option| option.starts_with(PREFIX));
    mount.options = kept;
    asked.iter().try_for_each(|option| make(option, roots))
}

fn make(option: &str, roots: &Roots) -> Result<()> {
    let refuse = |why: &str| Error::invalid(format!("mount option {option:?}"), why);
    let value = option[PREFIX.len()..].strip_prefix("path=");
    let value = value.ok_or_else(|| refuse("is not X-containerd.mkdir.path=PATH[:MODE[:UID:GID]]"))?;
    let parts: Vec<&str> = value.split(':').collect();
    let (path, mode, owner) = match parts[..] {
        [path] => (path, None, None),
        [path, mode] => (path, Some(mode), None),
        [path, mode, uid, gid] => (path, Some(mode), Some((uid, gid))),
        _ => return Err(refuse("is not PATH, PATH:MODE or PATH:MODE:UID:GID")),
    };
    let mode = mode.map_or(Ok(DEFAULT_MODE), |mode| u32::from_str_radix(mode, 8));
    let mode =
        mode.ok().filter(|mode| *mode <= 0o777).ok_or_else(|| refuse("its mode is not octal up to 777"))?;
    let id = |text: &str| {
        text.parse::<u32>().ok().filter(|id| *id != u32::MAX).ok_or_else(|| refuse("its owner is no number"))
    };
    let owner = owner.map(|(uid, gid)| Ok::<_, Error>((id(uid)?, id(gid)?))).transpose()?;
    let place = roots.place(path, "mkdir")?;
    let failed = |errno: Errno| Error::io("making the directory", path, errno.into());
    match mkdirat(&place.parent, &*place.leaf, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(errno)),
    }
    if let Some((uid, gid)) = owner {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        chownat(&place.parent, &*place.leaf, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    }
    // The umask has no say. It is a directory: a link in its place would have no mode of its own.
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW;
    rustix::fs::openat(&place.parent, &*place.leaf, flags | rustix::fs::OFlags::CLOEXEC, Mode::empty())
        .map_err(failed)?;
    chmodat(&place.parent, &*place.leaf, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(failed)
}
