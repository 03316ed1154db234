//! Options `X-containerd.mkfs.size=`, `.fs=` and `.uuid=`: the source is a file that is made and given a file system if it is not there.

use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, ftruncate, openat, unlinkat};
use rustix::io::Errno;

use super::roots::Roots;
use crate::error::{Error, Result};
use crate::snapshots::Mount;

const PREFIX: &str = "X-containerd.mkfs.";
/// Largest file in bytes; its blocks are taken only when they are written.
const MAX_SIZE: u64 = 64 << 40;
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of what mkfs said, for messages.
const MAX_SAID: usize = 1000;

#[derive(Default)]
struct Wanted {
    size: u64,
    fs: String,
    uuid: Option<String>,
}

/// Makes the file and takes the options away.
pub fn apply(mount: &mut Mount, roots: &Roots) -> Result<()> {
    let (asked, kept): (Vec<_>, Vec<_>) =
        std::mem::take(&mut mount.options).into_iter().partition(|option| option.starts_with(PREFIX));
    mount.options = kept;
    let wanted = parse(&asked)?;
    let place = roots.place(&mount.source, "mkfs")?;
    let failed = |errno: Errno| Error::io("making the file system in", &mount.source, errno.into());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(&place.parent, &*place.leaf, flags, Mode::from_raw_mode(0o640)) {
        Ok(file) => file,
        Err(Errno::EXIST) => return Ok(()),
        Err(errno) => return Err(failed(errno)),
    };
    let made = ftruncate(&file, wanted.size).map_err(failed).and_then(|()| {
        // By the daemon's descriptor, so that no link leads elsewhere.
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        run(&wanted, &path, &mount.source)
    });
    if made.is_err()
        && let Err(errno) = unlinkat(&place.parent, &*place.leaf, AtFlags::empty())
    {
        tracing::warn!("the unfinished file system {} was not removed: {errno}", mount.source);
    }
    made
}

fn parse(options: &[String]) -> Result<Wanted> {
    let mut wanted = Wanted { fs: "ext4".to_owned(), ..Wanted::default() };
    for option in options {
        let refuse = |why: &str| Error::invalid(format!("mount option {option:?}"), why);
        match option[PREFIX.len()..].split_once('=') {
            Some(("size", value)) => {
                wanted.size = bytes(value)
                    .filter(|size| *size <= MAX_SIZE)
                    .ok_or_else(|| refuse("is no size up to 64t, as in 512m"))?;
            }
            Some(("fs", value @ ("ext2" | "ext3" | "ext4" | "xfs"))) => value.clone_into(&mut wanted.fs),
            Some(("fs", _)) => return Err(refuse("is not ext2, ext3, ext4 or xfs")),
            Some(("uuid", value))
                if value.len() == 36 && value.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()) =>
            {
                wanted.uuid = Some(value.to_owned());
            }
            Some(("uuid", _)) => return Err(refuse("is no UUID")),
            _ => return Err(refuse("is not size, fs or uuid")),
        }
    }
    if wanted.size == 0 {
        return Err(Error::invalid("mount: mkfs", "needs the option X-containerd.mkfs.size"));
    }
    Ok(wanted)
}

/// A number with a unit: `k`, `m`, `g`, `t`, as powers of 1024, with or without `b` or `ib` after it.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn run(wanted: &Wanted, path: &str, source: &str) -> Result<()> {
    let program = format!("mkfs.{}", wanted.fs);
    let mut command = Command::new(&program);
    command.arg("-q").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some(uuid) = &wanted.uuid {
        if wanted.fs == "xfs" {
            command.arg("-m").arg(format!("uuid={uuid}"));
        } else {
            command.arg("-U").arg(uuid);
        }
    }
    if wanted.fs != "xfs" {
        // The file is there, under a name that looks like a device's.
        command.arg("-F");
    }
    let what = || format!("{program} of {source}");
    let mut child = command.arg(path).spawn().map_err(|error| {
        Error::precondition(what(), format!("{program} cannot be run ({error}): install it"))
    })?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                // It may have ended in the meantime.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::Timeout { what: what(), seconds: PATIENCE.as_secs() });
            }
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        use std::io::Read;
        // What can be read of it.
        let _ = stderr.take(MAX_SAID as u64).read_to_string(&mut said);
    }
    Err(Error::precondition(what(), format!("{status}: {}", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("512m"), Some(512 << 20));
        assert_eq!(bytes("1GiB"), Some(1 << 30));
        assert_eq!(bytes("10 MB"), Some(10 << 20));
        assert_eq!(bytes("4096"), Some(4096));
        assert_eq!(bytes("x"), None);
        assert_eq!(bytes("99999999999999999999t"), None);
    }
}
