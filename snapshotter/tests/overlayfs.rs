//! The suite on the overlayfs driver, and what is particular to it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

#[macro_use]
mod suite;

use std::path::Path;

use longshore_snapshotter::{Commit, Error, Labels, Overlayfs, Snapshotter, UpperDir};
use suite::mounts::{mounted, options_of};

fn open(root: &Path) -> longshore_snapshotter::Result<Box<dyn Snapshotter>> {
    Ok(Box::new(Overlayfs::open(root)?))
}

conformance!(crate::open);

#[test]
fn the_probe_finds_overlay_usable_and_leaves_nothing() {
    let root = suite::folder().unwrap();
    let snapshots = Overlayfs::open(root.path()).unwrap();
    snapshots.probe().unwrap();
    assert!(!root.path().join("probe").exists());
}

#[test]
fn mounts_are_those_of_containerd() {
    let root = suite::folder().unwrap();
    let snapshots = Overlayfs::open(root.path()).unwrap();
    let at = |id: &str| format!("{}/s/{id}", root.path().display());
    let empty = snapshots.prepare("a", None, Labels::new()).unwrap();
    assert_eq!((empty[0].kind.as_str(), empty[0].source.as_str()), ("bind", &*format!("{}/fs", at("1"))));
    assert_eq!(empty[0].options, ["rw", "rbind"]);
    snapshots.commit("one", "a", Labels::new()).unwrap();
    let single = snapshots.view("v", Some("one"), Labels::new()).unwrap();
    assert_eq!((single[0].kind.as_str(), single[0].source.as_str()), ("bind", &*format!("{}/fs", at("1"))));
    assert_eq!(single[0].options, ["ro", "rbind"]);
    let stacked = snapshots.prepare("b", Some("one"), Labels::new()).unwrap();
    assert_eq!((stacked[0].kind.as_str(), stacked[0].source.as_str()), ("overlay", "overlay"));
    assert_eq!(options_of(&stacked[0], "upperdir="), [format!("{}/fs", at("3"))]);
    assert_eq!(options_of(&stacked[0], "workdir="), [format!("{}/work", at("3"))]);
    assert_eq!(options_of(&stacked[0], "lowerdir="), [format!("{}/fs", at("1"))]);
    if Path::new("/sys/module/overlay/parameters/index").exists() {
        assert!(stacked[0].options.iter().any(|o| o == "index=off"));
    }
    snapshots.commit("two", "b", Labels::new()).unwrap();
    let view = snapshots.view("w", Some("two"), Labels::new()).unwrap();
    let lower = format!("{}/fs:{}/fs", at("3"), at("1"));
    assert_eq!(options_of(&view[0], "lowerdir="), [lower]);
    assert!(options_of(&view[0], "upperdir=").is_empty());
}

/// What the pull path writes into the upper directory is what a mount shows.
#[test]
fn whiteouts_and_opaque_directories_written_by_hand_hide_the_parent() {
    let root = suite::folder().unwrap();
    let snapshots = Overlayfs::open(root.path()).unwrap();
    snapshots.prepare("a", None, Labels::new()).unwrap();
    let base = snapshots.upper_dir("a").unwrap().path().to_owned();
    std::fs::create_dir(base.join("dir")).unwrap();
    std::fs::write(base.join("dir/old"), "old").unwrap();
    std::fs::write(base.join("gone"), "gone").unwrap();
    snapshots.commit("base", "a", Labels::new()).unwrap();

    snapshots.prepare("b", Some("base"), Labels::new()).unwrap();
    let UpperDir::Overlay { path, xattr_prefix } = snapshots.upper_dir("b").unwrap() else {
        panic!("the upper directory of overlayfs is an overlay")
    };
    use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
    mknodat(CWD, path.join("gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    std::fs::create_dir(path.join("dir")).unwrap();
    setxattr(path.join("dir"), format!("{xattr_prefix}opaque"), b"y", XattrFlags::empty()).unwrap();
    std::fs::write(path.join("dir/new"), "new").unwrap();
    snapshots.commit("top", "b", Labels::new()).unwrap();

    let mounts = snapshots.view("v", Some("top"), Labels::new()).unwrap();
    mounted(&mounts, |at| {
        assert!(!at.join("gone").exists());
        assert!(!at.join("dir/old").exists());
        assert_eq!(std::fs::read_to_string(at.join("dir/new")).unwrap(), "new");
    });
}

/// Layers unpacked side by side, without knowing their parents, are committed as a chain with one sync.
#[test]
fn layers_prepared_without_parents_are_committed_as_a_chain() {
    let root = suite::folder().unwrap();
    let snapshots = Overlayfs::open(root.path()).unwrap();
    let keys: Vec<_> = (0..5).map(|i| (format!("extract-{i}"), format!("layer-{i}"))).collect();
    for (key, name) in &keys {
        snapshots.prepare(key, None, Labels::new()).unwrap();
        std::fs::write(snapshots.upper_dir(key).unwrap().path().join(name), name).unwrap();
    }
    let mut commits: Vec<Commit<'_>> = Vec::new();
    for (key, name) in &keys {
        let parent = commits.last().map(|c| c.name);
        commits.push(Commit { name, key, parent, ..Commit::default() });
    }
    snapshots.commit_all(&commits).unwrap();
    assert_eq!(snapshots.stat("layer-4").unwrap().parent.as_deref(), Some("layer-3"));
    drop(snapshots);
    let snapshots = Overlayfs::open(root.path()).unwrap();
    let mounts = snapshots.view("v", Some("layer-4"), Labels::new()).unwrap();
    mounted(&mounts, |at| keys.iter().for_each(|(_, name)| assert!(at.join(name).exists())));
    assert!(matches!(snapshots.remove("layer-3"), Err(Error::HasChildren { children: 1, .. })));
}

#[test]
fn a_batch_of_commits_that_cannot_all_happen_changes_nothing() {
    let root = suite::folder().unwrap();
    let snapshots = Overlayfs::open(root.path()).unwrap();
    snapshots.prepare("a", None, Labels::new()).unwrap();
    snapshots.prepare("b", None, Labels::new()).unwrap();
    let good = Commit { name: "one", key: "a", ..Commit::default() };
    let bad = Commit { name: "two", key: "b", parent: Some("missing"), ..Commit::default() };
    let outcome = snapshots.commit_all(&[good, bad]);
    assert!(matches!(outcome, Err(Error::ParentNotFound { .. })), "{outcome:?}");
    assert!(matches!(snapshots.stat("one"), Err(Error::NotFound { .. })));
    assert!(snapshots.mounts("a").is_ok());
}

#[test]
fn more_layers_than_the_kernel_stacks_are_refused() {
    let root = suite::folder().unwrap();
    let snapshots = Overlayfs::open(root.path()).unwrap();
    let names: Vec<_> = (0..501).map(|i| format!("l{i}")).collect();
    let keys: Vec<_> = (0..501).map(|i| format!("k{i}")).collect();
    let mut commits: Vec<Commit<'_>> = Vec::new();
    for (name, key) in names.iter().zip(&keys) {
        snapshots.prepare(key, None, Labels::new()).unwrap();
        let parent = commits.last().map(|c| c.name);
        commits.push(Commit { name, key, parent, ..Commit::default() });
    }
    snapshots.commit_all(&commits).unwrap();
    let mounts = snapshots.view("fits", Some("l499"), Labels::new()).unwrap();
    mounted(&mounts, |at| assert!(at.is_dir()));
    let refused = snapshots.prepare("c", Some("l500"), Labels::new());
    assert!(matches!(refused, Err(Error::TooManyLayers { layers: 501, limit: 500, .. })), "{refused:?}");
}

#[test]
fn labels_ask_for_shifted_owners() {
    use std::os::unix::fs::MetadataExt;
    let root = suite::folder().unwrap();
    let snapshots = Overlayfs::open(root.path()).unwrap();
    snapshots.prepare("a", None, Labels::new()).unwrap();
    snapshots.commit("one", "a", Labels::new()).unwrap();
    let label = |name: &str, map: &str| (format!("containerd.io/snapshot/{name}"), map.to_owned());
    let labels =
        Labels::from([label("uidmapping", "0:100000:65536"), label("gidmapping", "1:5:10,0:200000:1")]);
    let mounts = snapshots.prepare("b", Some("one"), labels.clone()).unwrap();
    let upper = options_of(&mounts[0], "upperdir=");
    let owner = std::fs::metadata(&upper[0]).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (100_000, 200_000));
    let empty = snapshots.prepare("c", None, labels.clone()).unwrap();
    assert_eq!(empty[0].options, ["rw", "rbind"]);
    assert_eq!(std::fs::metadata(&empty[0].source).unwrap().uid(), 100_000);
    let view = snapshots.view("v", Some("one"), labels).unwrap();
    let expected: &[&str] = if snapshots.can_remap() { &["0:100000:65536"] } else { &[] };
    for mounts in [&mounts, &view, &snapshots.mounts("b").unwrap()] {
        assert_eq!(options_of(&mounts[0], "uidmap="), expected);
    }
    for wrong in
        [&[label("uidmapping", "0:1:1")][..], &[label("uidmapping", "x"), label("gidmapping", "0:1:1")]]
    {
        let error = snapshots.prepare("d", Some("one"), wrong.iter().cloned().collect()).unwrap_err();
        assert!(matches!(error, Error::InvalidMapping { .. }), "{error}");
        assert!(matches!(snapshots.stat("d"), Err(Error::NotFound { .. })));
    }
}
