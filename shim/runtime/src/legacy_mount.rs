//! The way around `fsconfig` where it cannot take the options (overlay before Linux 6.5, very long paths): `mount(2)` in
//! the mount namespace of a helper process, from which only a descriptor of the mounted tree comes back.

use crate::mounts::Options;
use crate::sys::SysResult;
use crate::sys::mount::{Reach, set_propagation};
use crate::sys::process::{self, Exit, Reap};
use crate::{Error, Result, RootfsMount};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::ffi::CString;

/// Longest option text that `mount(2)` takes: a page.
const DATA_MAX: usize = 4095;

/// Mounts it and answers the detached tree.
pub(crate) fn mount(mount: &RootfsMount, options: &Options) -> Result<OwnedFd> {
    let invalid = |why: String| Error::InvalidSpec { field: "rootfs mount".into(), why };
    let (base, data) = shorten(&options.data);
    if data.len() > DATA_MAX {
        return Err(invalid(format!(
            "its options take {} bytes, the kernel's limit is {DATA_MAX}; the image has too many layers",
            data.len()
        )));
    }
    let text = |text: &str| CString::new(text).map_err(|_| invalid("contains a NUL byte".into()));
    let source = text(if mount.source.is_empty() { &mount.kind } else { &mount.source })?;
    let (kind, base, data) = (text(&mount.kind)?, text(&base)?, text(&data)?);
    let system = |doing| move |errno: rustix::io::Errno| Error::System { doing, source: errno.into() };
    // The descriptor table is shared with the helper: it puts the tree in the place of this one.
    let slot =
        rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(system("open /"))?;
    let flags_of_mount = options.flags.iter().fold(0, |flags, name| flags | flag(name));
    let flags = (libc::CLONE_NEWNS | libc::CLONE_FILES) as u64;
    let helper = process::spawn(flags, None, || {
        let run = || -> SysResult<()> {
            set_propagation(c"/", libc::MS_SLAVE | libc::MS_REC)?;
            rustix::process::chdir(base.as_c_str())?;
            // Anywhere will do: nobody else sees it.
            crate::sys::mount::mount(&source, c"/proc", &kind, flags_of_mount, &data)?;
            let mounted = rustix::fs::open(c"/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let tree = crate::init::clone_tree(mounted.as_fd(), Reach::One)?;
            process::replace(tree, slot.as_fd())
        };
        run().map_or_else(|errno| errno.raw_os_error() & 0xff, |()| 0)
    })
    .map_err(system("fork a helper to mount the rootfs"))?;
    match process::wait(helper.pidfd.as_fd(), Reap::Take).map_err(system("wait for the mount helper"))? {
        Exit::Code(0) => {
            crate::sys::mount::set_attributes(slot.as_fd(), Reach::One, &options.attr)
                .map_err(system("set the attributes of the rootfs"))?;
            Ok(slot)
        }
        Exit::Code(errno) => Err(Error::Io {
            doing: "mount the rootfs from",
            path: mount.source.as_str().into(),
            source: std::io::Error::from_raw_os_error(errno),
        }),
        Exit::Signal(signal) => {
            Err(Error::InitDied { how: format!("the mount helper was ended by signal {signal}") })
        }
    }
}

/// A flag of the file system as `mount(2)` has it.
fn flag(name: &str) -> libc::c_ulong {
    match name {
        "sync" => libc::MS_SYNCHRONOUS,
        "dirsync" => libc::MS_DIRSYNC,
        "lazytime" => libc::MS_LAZYTIME,
        "mand" => libc::MS_MANDLOCK,
        // The others take away what a new mount does not have.
        _ => 0,
    }
}

/// Joins the options to one text, with `lowerdir` relative to the folder that all layers share: the working directory.
fn shorten(data: &[(String, Option<String>)]) -> (String, String) {
    let lower =
        data.iter().find(|(key, _)| key == "lowerdir").and_then(|(_, value)| value.as_deref()).unwrap_or("");
    let layers: Vec<&str> = lower.split(':').collect();
    let base = match common_folder(&layers) {
        // Escaped colons would be cut apart: leave such a list alone.
        Some(base) if !lower.contains('\\') && !lower.contains("::") => base,
        _ => String::from("/"),
    };
    let joined = data.iter().map(|(key, value)| match (key.as_str(), value) {
        ("lowerdir", Some(_)) if base != "/" => {
            let short: Vec<&str> =
                layers.iter().map(|layer| layer.get(base.len() + 1..).unwrap_or(layer)).collect();
            format!("lowerdir={}", short.join(":"))
        }
        (key, Some(value)) => format!("{key}={value}"),
        (key, None) => key.to_owned(),
    });
    let joined = joined.collect::<Vec<_>>().join(",");
    (base, joined)
}

/// The deepest folder that is above all layers.
fn common_folder(layers: &[&str]) -> Option<String> {
    let first = layers.first().filter(|layer| layer.starts_with('/'))?;
    let mut base = first.rsplit_once('/')?.0;
    while !layers
        .iter()
        .all(|layer| layer.strip_prefix(base).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/')))
    {
        base = base.rsplit_once('/')?.0;
    }
    (!base.is_empty()).then(|| base.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_become_relative() {
        let data = [
            ("lowerdir".to_owned(), Some("/var/s/12/fs:/var/s/7/fs".to_owned())),
            ("upperdir".to_owned(), Some("/var/s/20/fs".to_owned())),
            ("volatile".to_owned(), None),
        ];
        assert_eq!(
            shorten(&data),
            ("/var/s".into(), "lowerdir=12/fs:7/fs,upperdir=/var/s/20/fs,volatile".into())
        );
        let one = [("lowerdir".to_owned(), Some("/a/b".to_owned()))];
        assert_eq!(shorten(&one), ("/a".into(), "lowerdir=b".into()));
    }
}
