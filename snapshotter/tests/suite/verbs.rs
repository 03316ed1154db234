//! What each verb does and refuses.

use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use longshore_snapshotter::{Error, Kind, LabelChange, Labels, Snapshotter};

use super::Open;
use super::mounts::mounted;

/// A driver in a folder that goes away with it.
struct Fixture {
    snapshots: Box<dyn Snapshotter>,
    root: tempfile::TempDir,
}

impl Fixture {
    fn new(open: Open) -> Self {
        let root = super::folder().unwrap();
        Self { snapshots: open(root.path()).unwrap(), root }
    }

    /// A committed snapshot in which `change` was done to the mounted tree.
    fn layer(&self, name: &str, parent: Option<&str>, change: impl FnOnce(&Path) + Send) {
        let key = format!("making {name}");
        let mounts = self.snapshots.prepare(&key, parent, Labels::new()).unwrap();
        mounted(&mounts, change);
        self.snapshots.commit(name, &key, Labels::new()).unwrap();
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub fn prepared_on_nothing_is_an_empty_writable_directory(open: Open) {
    let fixture = Fixture::new(open);
    let mounts = fixture.snapshots.prepare("a", None, Labels::new()).unwrap();
    assert_eq!(mounts, fixture.snapshots.mounts("a").unwrap());
    mounted(&mounts, |at| {
        assert_eq!(std::fs::read_dir(at).unwrap().count(), 0);
        std::fs::write(at.join("file"), "x").unwrap();
    });
    mounted(&mounts, |at| assert_eq!(std::fs::read_to_string(at.join("file")).unwrap(), "x"));
    // An empty parent means none, as the API has it.
    fixture.snapshots.prepare("b", Some(""), Labels::new()).unwrap();
    assert_eq!(fixture.snapshots.stat("b").unwrap().parent, None);
}

pub fn a_child_shows_its_parents_and_changes_none(open: Open) {
    let fixture = Fixture::new(open);
    fixture.layer("one", None, |at| std::fs::write(at.join("f"), "1").unwrap());
    fixture.layer("two", Some("one"), |at| std::fs::write(at.join("g"), "2").unwrap());
    let first = fixture.snapshots.prepare("c", Some("two"), Labels::new()).unwrap();
    mounted(&first, |at| {
        assert_eq!(std::fs::read_to_string(at.join("f")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(at.join("g")).unwrap(), "2");
        std::fs::write(at.join("f"), "changed").unwrap();
    });
    let second = fixture.snapshots.prepare("d", Some("two"), Labels::new()).unwrap();
    mounted(&second, |at| assert_eq!(std::fs::read_to_string(at.join("f")).unwrap(), "1"));
    mounted(&first, |at| assert_eq!(std::fs::read_to_string(at.join("f")).unwrap(), "changed"));
}

pub fn a_view_cannot_be_written(open: Open) {
    let fixture = Fixture::new(open);
    fixture.layer("one", None, |at| std::fs::write(at.join("f"), "1").unwrap());
    fixture.layer("two", Some("one"), |at| std::fs::write(at.join("g"), "2").unwrap());
    for (key, parent) in [("v0", None), ("v1", Some("one")), ("v2", Some("two"))] {
        let mounts = fixture.snapshots.view(key, parent, Labels::new()).unwrap();
        mounted(&mounts, |at| {
            assert!(std::fs::write(at.join("x"), "x").is_err());
            assert_eq!(at.join("f").exists(), parent.is_some());
            assert_eq!(at.join("g").exists(), parent == Some("two"));
        });
        assert!(matches!(fixture.snapshots.upper_dir(key), Err(Error::WrongKind { .. })));
    }
}

pub fn deletions_in_a_child_hide_the_parent(open: Open) {
    let fixture = Fixture::new(open);
    fixture.layer("one", None, |at| {
        std::fs::create_dir(at.join("dir")).unwrap();
        std::fs::write(at.join("dir/old"), "old").unwrap();
        std::fs::write(at.join("gone"), "gone").unwrap();
        std::fs::write(at.join("kept"), "kept").unwrap();
    });
    fixture.layer("two", Some("one"), |at| {
        std::fs::remove_file(at.join("gone")).unwrap();
        std::fs::remove_dir_all(at.join("dir")).unwrap();
        std::fs::create_dir(at.join("dir")).unwrap();
        std::fs::write(at.join("dir/new"), "new").unwrap();
    });
    let mounts = fixture.snapshots.view("v", Some("two"), Labels::new()).unwrap();
    mounted(&mounts, |at| {
        assert!(!at.join("gone").exists() && !at.join("dir/old").exists());
        assert!(at.join("dir/new").exists() && at.join("kept").exists());
    });
}

pub fn only_active_snapshots_are_committed(open: Open) {
    let fixture = Fixture::new(open);
    fixture.layer("one", None, |_| {});
    fixture.snapshots.view("v", Some("one"), Labels::new()).unwrap();
    for key in ["v", "one"] {
        let refused = fixture.snapshots.commit("new", key, Labels::new());
        assert!(matches!(refused, Err(Error::WrongKind { .. })), "{refused:?}");
    }
    let missing = fixture.snapshots.commit("new", "missing", Labels::new());
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    assert!(matches!(fixture.snapshots.mounts("one"), Err(Error::WrongKind { .. })));
    assert!(matches!(fixture.snapshots.mounts("making one"), Err(Error::NotFound { .. })));
}

pub fn parents_must_be_committed(open: Open) {
    let fixture = Fixture::new(open);
    fixture.snapshots.prepare("a", None, Labels::new()).unwrap();
    let refused = fixture.snapshots.prepare("b", Some("a"), Labels::new());
    assert!(matches!(refused, Err(Error::ParentNotCommitted { kind: Kind::Active, .. })), "{refused:?}");
    let missing = fixture.snapshots.view("b", Some("missing"), Labels::new());
    assert!(matches!(missing, Err(Error::ParentNotFound { .. })), "{missing:?}");
    assert!(matches!(fixture.snapshots.stat("b"), Err(Error::NotFound { .. })));
    fixture.snapshots.remove("a").unwrap();
}

pub fn keys_are_unique_whatever_the_kind(open: Open) {
    let fixture = Fixture::new(open);
    fixture.layer("one", None, |_| {});
    fixture.snapshots.prepare("a", None, Labels::new()).unwrap();
    fixture.snapshots.view("v", Some("one"), Labels::new()).unwrap();
    for key in ["one", "a", "v"] {
        let prepared = fixture.snapshots.prepare(key, None, Labels::new());
        assert!(matches!(prepared, Err(Error::AlreadyExists { .. })), "{prepared:?}");
        let viewed = fixture.snapshots.view(key, None, Labels::new());
        assert!(matches!(viewed, Err(Error::AlreadyExists { .. })), "{viewed:?}");
        let committed = fixture.snapshots.commit(key, "a", Labels::new());
        assert!(matches!(committed, Err(Error::AlreadyExists { .. })), "{committed:?}");
    }
}

pub fn stat_tells_kind_parent_and_times(open: Open) {
    let fixture = Fixture::new(open);
    let before = SystemTime::now();
    fixture.snapshots.prepare("a", None, labels(&[("k", "v")])).unwrap();
    let info = fixture.snapshots.stat("a").unwrap();
    assert_eq!((info.kind, info.name.as_str(), info.parent.as_deref()), (Kind::Active, "a", None));
    assert_eq!(info.labels, labels(&[("k", "v")]));
    assert!(info.created >= before && info.created <= SystemTime::now() && info.created == info.updated);
    fixture.snapshots.commit("one", "a", labels(&[("c", "d")])).unwrap();
    let info = fixture.snapshots.stat("one").unwrap();
    assert_eq!((info.kind, info.labels), (Kind::Committed, labels(&[("c", "d")])));
    fixture.snapshots.view("v", Some("one"), Labels::new()).unwrap();
    let info = fixture.snapshots.stat("v").unwrap();
    assert_eq!((info.kind, info.parent.as_deref()), (Kind::View, Some("one")));
}

pub fn labels_are_replaced_merged_and_taken_away(open: Open) {
    let fixture = Fixture::new(open);
    fixture.snapshots.prepare("a", None, labels(&[("a", "1"), ("b", "2")])).unwrap();
    let created = fixture.snapshots.stat("a").unwrap();
    let merge = LabelChange::Merge(labels(&[("b", ""), ("c", "3")]));
    let info = fixture.snapshots.update("a", merge).unwrap();
    assert_eq!(info.labels, labels(&[("a", "1"), ("c", "3")]));
    assert!(info.updated > created.updated && info.created == created.created);
    let info = fixture.snapshots.update("a", LabelChange::Replace(labels(&[("x", "y")]))).unwrap();
    assert_eq!(info, fixture.snapshots.stat("a").unwrap());
    assert_eq!(info.labels, labels(&[("x", "y")]));
    let missing = fixture.snapshots.update("missing", LabelChange::Merge(Labels::new()));
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
}

pub fn labels_without_bound_are_refused(open: Open) {
    let fixture = Fixture::new(open);
    let huge = labels(&[("k", &"v".repeat(1 << 20))]);
    let refused = fixture.snapshots.prepare("a", None, huge.clone());
    assert!(matches!(refused, Err(Error::RecordTooLarge { .. })), "{refused:?}");
    fixture.snapshots.prepare("a", None, Labels::new()).unwrap();
    let refused = fixture.snapshots.update("a", LabelChange::Replace(huge.clone()));
    assert!(matches!(refused, Err(Error::RecordTooLarge { .. })), "{refused:?}");
    let refused = fixture.snapshots.commit("one", "a", huge);
    assert!(matches!(refused, Err(Error::RecordTooLarge { .. })), "{refused:?}");
    assert_eq!(directories(fixture.root.path()), 1);
}

pub fn a_parent_cannot_be_removed(open: Open) {
    let fixture = Fixture::new(open);
    fixture.layer("one", None, |_| {});
    fixture.snapshots.prepare("a", Some("one"), Labels::new()).unwrap();
    fixture.snapshots.view("v", Some("one"), Labels::new()).unwrap();
    let refused = fixture.snapshots.remove("one");
    assert!(matches!(refused, Err(Error::HasChildren { children: 2, .. })), "{refused:?}");
    fixture.snapshots.commit("two", "a", Labels::new()).unwrap();
    fixture.snapshots.remove("v").unwrap();
    let refused = fixture.snapshots.remove("one");
    assert!(matches!(refused, Err(Error::HasChildren { children: 1, .. })), "{refused:?}");
    fixture.snapshots.remove("two").unwrap();
    fixture.snapshots.remove("one").unwrap();
}

pub fn removed_is_gone_and_its_key_free(open: Open) {
    let fixture = Fixture::new(open);
    fixture.layer("one", None, |at| std::fs::write(at.join("f"), "1").unwrap());
    let mounts = fixture.snapshots.prepare("a", Some("one"), Labels::new()).unwrap();
    mounted(&mounts, |at| std::fs::write(at.join("f"), "changed").unwrap());
    fixture.snapshots.remove("a").unwrap();
    let again = fixture.snapshots.remove("a");
    assert!(matches!(again, Err(Error::NotFound { .. })), "{again:?}");
    assert_eq!(directories(fixture.root.path()), 1);
    let mounts = fixture.snapshots.prepare("a", Some("one"), Labels::new()).unwrap();
    mounted(&mounts, |at| assert_eq!(std::fs::read_to_string(at.join("f")).unwrap(), "1"));
    fixture.snapshots.cleanup().unwrap();
}

pub fn walk_shows_all_in_order_and_stops(open: Open) {
    let fixture = Fixture::new(open);
    fixture.layer("m", None, |_| {});
    for key in ["z", "a", "ns/b"] {
        fixture.snapshots.prepare(key, Some("m"), Labels::new()).unwrap();
    }
    let mut seen = Vec::new();
    fixture.snapshots.walk(&mut |info| {
        seen.push(info.name.clone());
        ControlFlow::Continue(())
    });
    assert_eq!(seen, ["a", "m", "ns/b", "z"]);
    let mut count = 0;
    fixture.snapshots.walk(&mut |_| {
        count += 1;
        if count == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(count, 2);
}

pub fn usage_counts_own_files_once(open: Open) {
    let fixture = Fixture::new(open);
    let mounts = fixture.snapshots.prepare("a", None, Labels::new()).unwrap();
    let empty = fixture.snapshots.usage("a").unwrap();
    mounted(&mounts, |at| {
        std::fs::write(at.join("f"), vec![1; 64 << 10]).unwrap();
        std::fs::hard_link(at.join("f"), at.join("g")).unwrap();
        std::os::unix::fs::symlink("/usr", at.join("link")).unwrap();
    });
    let usage = fixture.snapshots.usage("a").unwrap();
    assert_eq!(usage.inodes, empty.inodes + 2);
    let grown = usage.size - empty.size;
    assert!((64 << 10..=72 << 10).contains(&grown), "{grown} bytes");
    fixture.snapshots.commit("one", "a", Labels::new()).unwrap();
    assert_eq!(fixture.snapshots.usage("one").unwrap(), usage);
    let missing = fixture.snapshots.usage("missing");
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
}

pub fn a_long_chain_of_parents_mounts(open: Open) {
    let fixture = Fixture::new(open);
    let mut parent: Option<String> = None;
    for i in 0..140 {
        let name = format!("sha256:{i:064}");
        fixture.snapshots.prepare("making", parent.as_deref(), Labels::new()).unwrap();
        let upper = fixture.snapshots.upper_dir("making").unwrap();
        std::fs::write(upper.path().join(format!("f{i}")), "x").unwrap();
        fixture.snapshots.commit(&name, "making", Labels::new()).unwrap();
        parent = Some(name);
    }
    let mounts = fixture.snapshots.prepare("c", parent.as_deref(), Labels::new()).unwrap();
    mounted(&mounts, |at| {
        (0..140).for_each(|i| assert!(at.join(format!("f{i}")).exists()));
        std::fs::write(at.join("f0"), "y").unwrap();
    });
}

pub fn keys_never_become_paths(open: Open) {
    let fixture = Fixture::new(open);
    for key in ["..", ".", "a/b", "/etc", "with\nnewline", "\u{0}", "ünï", &"k".repeat(1024)] {
        fixture.snapshots.prepare(key, None, Labels::new()).unwrap();
        assert_eq!(fixture.snapshots.stat(key).unwrap().name, key);
    }
    for key in ["", &"k".repeat(1025)] {
        let refused = fixture.snapshots.prepare(key, None, Labels::new());
        assert!(matches!(refused, Err(Error::InvalidKey { .. })), "{refused:?}");
    }
    let refused = fixture.snapshots.commit("", "a/b", Labels::new());
    assert!(matches!(refused, Err(Error::InvalidKey { .. })), "{refused:?}");
    assert_eq!(directories(fixture.root.path()), 8);
}

pub fn concurrent_prepare_of_one_key_succeeds_once(open: Open) {
    let fixture = Fixture::new(open);
    fixture.layer("one", None, |at| std::fs::write(at.join("f"), vec![7; 1 << 20]).unwrap());
    let succeeded = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| match fixture.snapshots.prepare("a", Some("one"), Labels::new()) {
                Ok(_) => drop(succeeded.fetch_add(1, Ordering::Relaxed)),
                Err(e) => assert!(matches!(e, Error::AlreadyExists { .. }), "{e}"),
            });
        }
    });
    assert_eq!(succeeded.into_inner(), 1);
    assert_eq!(directories(fixture.root.path()), 2);
}

pub fn concurrent_use_keeps_every_snapshot(open: Open) {
    let fixture = Fixture::new(open);
    fixture.layer("base", None, |at| std::fs::write(at.join("f"), "1").unwrap());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let snapshots = &fixture.snapshots;
            scope.spawn(move || {
                for i in 0..20 {
                    let (key, name) = (format!("k{thread}.{i}"), format!("n{thread}.{i}"));
                    snapshots.prepare(&key, Some("base"), Labels::new()).unwrap();
                    snapshots.update(&key, LabelChange::Merge(labels(&[("a", "b")]))).unwrap();
                    match i % 3 {
                        0 => snapshots.commit(&name, &key, Labels::new()).unwrap(),
                        1 => snapshots.remove(&key).unwrap(),
                        _ => {}
                    }
                    assert!(snapshots.stat("base").is_ok());
                }
            });
        }
    });
    let mut kinds = [0, 0];
    fixture.snapshots.walk(&mut |info| {
        kinds[usize::from(info.kind == Kind::Committed)] += 1;
        ControlFlow::Continue(())
    });
    assert_eq!(kinds, [8 * 6, 8 * 7 + 1]);
    assert_eq!(directories(fixture.root.path()), 8 * 13 + 1);
    let Fixture { snapshots, root } = fixture;
    drop(snapshots);
    let mut count = 0;
    open(root.path()).unwrap().walk(&mut |_| {
        count += 1;
        ControlFlow::Continue(())
    });
    assert_eq!(count, 8 * 13 + 1);
}

pub fn a_parent_is_held_while_children_are_made(open: Open) {
    let fixture = Fixture::new(open);
    for round in 0..50 {
        let parent = format!("p{round}");
        fixture.layer(&parent, None, |_| {});
        let (made, removed) = std::thread::scope(|scope| {
            let making =
                scope.spawn(|| fixture.snapshots.prepare("child", Some(&parent), Labels::new()).is_ok());
            let removing = scope.spawn(|| fixture.snapshots.remove(&parent).is_ok());
            (making.join().unwrap(), removing.join().unwrap())
        });
        assert!(made != removed, "either the child exists or its parent is gone");
        if made {
            fixture.snapshots.remove("child").unwrap();
            fixture.snapshots.remove(&parent).unwrap();
        }
    }
}

pub fn what_is_being_removed_gets_no_children(open: Open) {
    let fixture = Fixture::new(open);
    let snapshots = &fixture.snapshots;
    for round in 0..30 {
        let parent = format!("p{round}");
        fixture.layer(&parent, None, |_| {});
        std::thread::scope(|scope| {
            for child in ["one", "two"] {
                let parent = parent.as_str();
                scope.spawn(move || {
                    while snapshots.prepare(child, Some(parent), Labels::new()).is_ok() {
                        assert!(snapshots.stat(parent).is_ok(), "a child outlived its parent");
                        snapshots.remove(child).unwrap();
                    }
                });
            }
            while snapshots.remove(&parent).is_err() {}
        });
    }
}

pub fn a_name_is_taken_once_by_commits_and_prepares(open: Open) {
    let fixture = Fixture::new(open);
    let snapshots = &fixture.snapshots;
    for round in 0..50 {
        let name = format!("n{round}");
        snapshots.prepare("active", None, Labels::new()).unwrap();
        let (committed, prepared) = std::thread::scope(|scope| {
            let committing = scope.spawn(|| snapshots.commit(&name, "active", Labels::new()).is_ok());
            let mut prepared = false;
            while !prepared && !committing.is_finished() {
                prepared = snapshots.prepare(&name, None, Labels::new()).is_ok();
            }
            (committing.join().unwrap(), prepared)
        });
        assert!(committed != prepared, "committed: {committed}, prepared: {prepared}");
        if prepared {
            snapshots.remove("active").unwrap();
        }
    }
}

pub fn the_root_of_a_child_looks_like_its_parents(open: Open) {
    let fixture = Fixture::new(open);
    fixture.layer("one", None, |at| {
        std::os::unix::fs::chown(at, Some(7), Some(8)).unwrap();
        std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o1711)).unwrap();
    });
    let mounts = fixture.snapshots.prepare("a", Some("one"), Labels::new()).unwrap();
    mounted(&mounts, |at| {
        let meta = std::fs::metadata(at).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o1711, 7, 8));
    });
}

pub fn directories_are_closed_to_others(open: Open) {
    let fixture = Fixture::new(open);
    fixture.snapshots.prepare("a", None, Labels::new()).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(fixture.root.path()), 0o700);
    let fs = fixture.snapshots.upper_dir("a").unwrap().path().to_owned();
    assert_eq!((mode(&fs), mode(fs.parent().unwrap())), (0o755, 0o700));
}

pub fn flush_and_close_succeed(open: Open) {
    let fixture = Fixture::new(open);
    fixture.snapshots.prepare("a", None, Labels::new()).unwrap();
    fixture.snapshots.flush().unwrap();
    fixture.snapshots.close().unwrap();
}

/// Number of snapshot directories on the disk.
pub fn directories(root: &Path) -> usize {
    std::fs::read_dir(root.join("s")).unwrap().count()
}
