//! The suite on the native driver, and what is particular to it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

#[macro_use]
mod suite;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use longshore_snapshotter::{Commit, Error, Labels, Native, Snapshotter, UpperDir};

fn open(root: &Path) -> longshore_snapshotter::Result<Box<dyn Snapshotter>> {
    Ok(Box::new(Native::open(root)?))
}

conformance!(crate::open);

#[test]
fn a_copy_keeps_everything_that_a_container_can_see() {
    use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat, setxattr};
    let root = suite::folder().unwrap();
    let snapshots = Native::open(root.path()).unwrap();
    snapshots.prepare("a", None, Labels::new()).unwrap();
    let UpperDir::Whole { path } = snapshots.upper_dir("a").unwrap() else {
        panic!("the directory of native is the whole tree")
    };
    let file = std::fs::File::create(path.join("file")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", 40 << 20).unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(0o4711)).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::new(1_000_000, 42)).unwrap();
    std::os::unix::fs::chown(path.join("file"), Some(12), Some(34)).unwrap();
    file.set_permissions(std::fs::Permissions::from_mode(0o4711)).unwrap();
    setxattr(path.join("file"), "user.test", b"value", XattrFlags::empty()).unwrap();
    std::fs::create_dir_all(path.join("dir/sub")).unwrap();
    std::fs::hard_link(path.join("file"), path.join("dir/sub/hard")).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", path.join("link")).unwrap();
    lsetxattr(path.join("link"), "trusted.test", b"link", XattrFlags::empty()).unwrap();
    mknodat(CWD, path.join("dir/null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 3))
        .unwrap();
    mknodat(CWD, path.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    std::fs::set_permissions(path.join("dir"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
    snapshots.commit("one", "a", Labels::new()).unwrap();

    snapshots.prepare("b", Some("one"), Labels::new()).unwrap();
    let copy = snapshots.upper_dir("b").unwrap().path().to_owned();
    assert_ne!(copy, path);
    let meta = std::fs::metadata(copy.join("file")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o4711, 12, 34));
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000, 42));
    assert!(meta.blocks() * 512 < 1 << 20, "holes stay holes");
    assert_eq!(meta.len(), (40 << 20) + 3);
    assert!(std::fs::read(copy.join("file")).unwrap().ends_with(b"end"));
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(copy.join("file"), "user.test", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"value");
    let length = rustix::fs::lgetxattr(copy.join("link"), "trusted.test", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"link");
    assert_eq!(std::fs::metadata(copy.join("dir/sub/hard")).unwrap().ino(), meta.ino());
    assert_eq!(std::fs::read_link(copy.join("link")).unwrap(), Path::new("/etc/shadow"));
    assert_eq!(std::fs::metadata(copy.join("dir/null")).unwrap().rdev(), makedev(1, 3));
    assert!(std::fs::metadata(copy.join("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(std::fs::metadata(copy.join("dir")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(std::fs::metadata(&copy).unwrap().mode() & 0o7777, 0o750);
}

#[test]
fn a_parent_cannot_be_given_at_commit() {
    let root = suite::folder().unwrap();
    let snapshots = Native::open(root.path()).unwrap();
    snapshots.prepare("a", None, Labels::new()).unwrap();
    snapshots.commit("one", "a", Labels::new()).unwrap();
    snapshots.prepare("b", None, Labels::new()).unwrap();
    let commit = Commit { name: "two", key: "b", parent: Some("one"), ..Commit::default() };
    let refused = snapshots.commit_all(&[commit]);
    assert!(matches!(refused, Err(Error::ParentMismatch { .. })), "{refused:?}");
}
