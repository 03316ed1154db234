//! Mounts of snapshots that nobody else sees and that end with the closure.

use std::path::{Path, PathBuf};

use longshore_snapshotter::Mount;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Mounts as a foreign client would, with mount(2), in a mount namespace of a thread of its own.
pub fn mounted<T: Send>(mounts: &[Mount], look: impl FnOnce(&Path) -> T + Send) -> T {
    private(|| {
        let at = super::folder().unwrap();
        mount_all(mounts, at.path());
        let seen = look(at.path());
        nix::mount::umount2(at.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        seen
    })
}

/// Runs in a mount namespace of its own.
pub fn private<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let outcome = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
                work()
            })
            .join()
    });
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The values of an option.
pub fn options_of(mount: &Mount, name: &str) -> Vec<String> {
    mount.options.iter().filter_map(|o| o.strip_prefix(name)).map(str::to_owned).collect()
}

fn mount_all(mounts: &[Mount], at: &Path) {
    for one in mounts {
        assert_eq!(one.target, "");
        let mut data = Vec::new();
        let mut flags = MsFlags::empty();
        for option in &one.options {
            match option.as_str() {
                "ro" => flags |= MsFlags::MS_RDONLY,
                "rw" => {}
                "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
                other => data.push(other.to_owned()),
            }
        }
        let mut data = data.join(",");
        if data.len() >= 4096 - 512 {
            // containerd's clients then go to the folder that all lower directories share, and name them from there.
            let lower = options_of(one, "lowerdir=");
            let common = common_folder(&lower[0]);
            std::env::set_current_dir(&common).unwrap();
            data = data.replace(&format!("{}/", common.display()), "");
        }
        assert!(data.len() < 4096, "{} bytes of mount options do not fit a page", data.len());
        let kind = (one.kind != "bind").then_some(one.kind.as_str());
        mount(Some(one.source.as_str()), at, kind, flags, Some(data.as_str())).unwrap();
        if flags.contains(MsFlags::MS_BIND) && flags.contains(MsFlags::MS_RDONLY) {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(None::<&str>, at, None::<&str>, flags, None::<&str>).unwrap();
        }
    }
}

fn common_folder(lower: &str) -> PathBuf {
    let first = lower.split(':').next().unwrap();
    Path::new(first).parent().unwrap().parent().unwrap().to_owned()
}
