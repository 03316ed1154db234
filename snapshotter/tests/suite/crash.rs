//! What is left after a process was killed, the power went, or the disk was full.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use longshore_snapshotter::{Error, Info, Kind, LabelChange, Labels, Snapshotter};

use super::Open;
use super::mounts::private;
use super::verbs::directories;

/// Names the folder that [`child`] works in.
const CHILD_ROOT: &str = "LONGSHORE_SNAPSHOTTER_CRASH_ROOT";
/// Kills, and steps that must have been acknowledged between them, for the test to say something.
const ROUNDS: usize = 40;
const STEPS: usize = 300;
const MAX_ROUNDS: usize = 1000;

fn all(snapshots: &dyn Snapshotter) -> Vec<Info> {
    let mut found = Vec::new();
    snapshots.walk(&mut |info| {
        found.push(info.clone());
        ControlFlow::Continue(())
    });
    found
}

pub fn state_survives_reopening(open: Open) {
    let root = super::folder().unwrap();
    let labels: Labels = [("k".to_owned(), "v".to_owned())].into();
    let snapshots = open(root.path()).unwrap();
    snapshots.prepare("a", None, labels.clone()).unwrap();
    std::fs::write(snapshots.upper_dir("a").unwrap().path().join("f"), "data").unwrap();
    snapshots.commit("one", "a", labels.clone()).unwrap();
    snapshots.prepare("b", Some("one"), labels.clone()).unwrap();
    snapshots.view("v", Some("one"), Labels::new()).unwrap();
    snapshots.prepare("c", None, labels).unwrap();
    snapshots.remove("c").unwrap();
    snapshots.update("b", LabelChange::Replace(Labels::new())).unwrap();
    let (before, usage) = (all(&*snapshots), snapshots.usage("one").unwrap());
    let mounts = [snapshots.mounts("b").unwrap(), snapshots.mounts("v").unwrap()];
    drop(snapshots);
    for _ in 0..2 {
        let snapshots = open(root.path()).unwrap();
        assert_eq!(all(&*snapshots), before);
        assert_eq!([snapshots.mounts("b").unwrap(), snapshots.mounts("v").unwrap()], mounts);
        assert_eq!(snapshots.usage("one").unwrap(), usage);
        assert!(matches!(snapshots.remove("one"), Err(Error::HasChildren { children: 2, .. })));
    }
}

pub fn a_second_opener_is_refused(open: Open) {
    let root = super::folder().unwrap();
    let first = open(root.path()).unwrap();
    assert!(matches!(open(root.path()), Err(Error::Locked { .. })));
    drop(first);
    open(root.path()).unwrap();
    assert!(matches!(open(&root.path().join("with,comma")), Err(Error::UnusableRoot { .. })));
}

pub fn unowned_directories_are_removed_at_open(open: Open) {
    let root = super::folder().unwrap();
    let snapshots = open(root.path()).unwrap();
    snapshots.prepare("a", None, Labels::new()).unwrap();
    drop(snapshots);
    let orphan = root.path().join("s/zz");
    std::fs::create_dir_all(orphan.join("fs/deep/er")).unwrap();
    std::os::unix::fs::symlink(root.path().join("s/1"), orphan.join("fs/link")).unwrap();
    let snapshots = open(root.path()).unwrap();
    assert!(!orphan.exists());
    assert_eq!(directories(root.path()), 1);
    snapshots.prepare("b", None, Labels::new()).unwrap();
    assert_eq!(directories(root.path()), 2);
}

/// A power cut leaves some beginning of what was not synced; each is a state that once was.
pub fn any_prefix_of_the_journal_opens(open: Open) {
    let root = super::folder().unwrap();
    let snapshots = open(root.path()).unwrap();
    for i in 0..4 {
        snapshots.prepare(&format!("k{i}"), None, Labels::new()).unwrap();
    }
    snapshots.commit("one", "k0", Labels::new()).unwrap();
    snapshots.remove("k1").unwrap();
    drop(snapshots);
    let journal = std::fs::read(root.path().join("journal")).unwrap();
    let mut last = 0;
    for length in 0..=journal.len() {
        let copy = super::folder().unwrap();
        for id in 1..5 {
            std::fs::create_dir_all(copy.path().join(format!("s/{id}/fs"))).unwrap();
        }
        std::fs::write(copy.path().join("journal"), &journal[..length]).unwrap();
        let snapshots = open(copy.path()).unwrap();
        let found = all(&*snapshots).len();
        assert_eq!(directories(copy.path()), found, "at {length} bytes");
        assert!(found >= last || last == 4);
        last = found;
        snapshots.prepare("new", None, Labels::new()).unwrap();
        drop(snapshots);
        assert_eq!(all(&*open(copy.path()).unwrap()).len(), found + 1);
    }
    assert_eq!(last, 3);
}

pub fn a_damaged_journal_loses_no_directory(open: Open) {
    let root = super::folder().unwrap();
    let snapshots = open(root.path()).unwrap();
    for key in ["a", "b", "c"] {
        snapshots.prepare(key, None, Labels::new()).unwrap();
        std::fs::write(snapshots.upper_dir(key).unwrap().path().join("f"), key).unwrap();
    }
    drop(snapshots);
    let path = root.path().join("journal");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"key\":\"b\"", "\"key\":\"X\"")).unwrap();
    let snapshots = open(root.path()).unwrap();
    let names: Vec<_> = all(&*snapshots).into_iter().map(|info| info.name).collect();
    assert_eq!(names, ["a", "c"]);
    let aside: Vec<_> = std::fs::read_dir(root.path().join("unowned")).unwrap().collect();
    assert_eq!(aside.len(), 1);
    let kept = aside[0].as_ref().unwrap().path().join("fs/f");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "b");
}

pub fn the_journal_stays_small(open: Open) {
    let root = super::folder().unwrap();
    let snapshots = open(root.path()).unwrap();
    let size = || std::fs::metadata(root.path().join("journal")).unwrap().len();
    let mut largest = 0;
    for i in 0..6000 {
        snapshots.prepare(&format!("k{i}"), None, Labels::new()).unwrap();
        snapshots.remove(&format!("k{i}")).unwrap();
        largest = largest.max(size());
    }
    assert!(largest < 1 << 20, "{largest} bytes for one snapshot");
}

pub fn a_full_disk_lets_snapshots_be_removed(open: Open) {
    private(|| {
        let at = super::folder().unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), at.path(), Some("tmpfs"), flags, Some("size=2m")).unwrap();
        let root = at.path().join("root");
        let snapshots = open(&root).unwrap();
        snapshots.prepare("big", None, Labels::new()).unwrap();
        let mut file = std::fs::File::create(snapshots.upper_dir("big").unwrap().path().join("f")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        drop(file);
        let refused =
            (0..10_000).find_map(|i| snapshots.prepare(&format!("k{i}"), None, Labels::new()).err());
        let Some(Error::Io { source, .. }) = refused else { panic!("no room was taken for an error") };
        assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
        snapshots.remove("big").unwrap();
        snapshots.prepare("again", None, Labels::new()).unwrap();
        let before = all(&*snapshots);
        drop(snapshots);
        assert_eq!(all(&*open(&root).unwrap()), before);
        assert_eq!(directories(&root), before.len());
    });
}

pub fn lost_files_are_told_apart(open: Open) {
    let root = super::folder().unwrap();
    let snapshots = open(root.path()).unwrap();
    for name in ["one", "two"] {
        snapshots.prepare("making", None, Labels::new()).unwrap();
        snapshots.commit(name, "making", Labels::new()).unwrap();
    }
    snapshots.prepare("a", Some("two"), Labels::new()).unwrap();
    let upper = snapshots.upper_dir("a").unwrap().path().parent().unwrap().to_owned();
    drop(snapshots);
    std::fs::remove_dir_all(root.path().join("s/1")).unwrap();
    std::fs::remove_dir_all(&upper).unwrap();
    let snapshots = open(root.path()).unwrap();
    let lost = snapshots.stat("one");
    assert!(matches!(lost, Err(Error::NotFound { .. })), "can be made again");
    assert!(upper.join("fs").is_dir(), "the active one is there, but empty");
    assert!(snapshots.stat("two").is_ok() && snapshots.mounts("a").is_ok());
}

/// Kills a process that works on snapshots and compares what it had acknowledged with what is found.
pub fn killed_at_random_moments_nothing_acknowledged_is_lost(open: Open) {
    let root = super::folder().unwrap();
    let mut model = Model::default();
    let mut seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let mut acknowledged = 0;
    for round in 0..MAX_ROUNDS {
        if round >= ROUNDS && acknowledged >= STEPS {
            return;
        }
        seed = next_random(seed);
        let lines = run_and_kill(root.path(), seed, Duration::from_micros(seed % 30_000));
        acknowledged += lines.iter().filter(|l| l.starts_with("done ")).count();
        model.replay(&lines);
        let snapshots = open(root.path()).unwrap_or_else(|e| panic!("round {round}: {e}"));
        model.check(&*snapshots);
        assert_eq!(directories(root.path()), all(&*snapshots).len(), "round {round}: a directory leaked");
    }
    panic!("only {acknowledged} steps in {MAX_ROUNDS} rounds: the test tests nothing");
}

fn run_and_kill(root: &Path, seed: u64, after: Duration) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash_child", "--nocapture", "--test-threads=1"])
        .env(CHILD_ROOT, root)
        .env("SEED", seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = Vec::new();
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        let ready = line.ends_with("ready\n");
        lines.push(std::mem::take(&mut line).trim().to_owned());
        if ready {
            break;
        }
    }
    let kill_at = Instant::now() + after;
    std::thread::sleep(kill_at.saturating_duration_since(Instant::now()));
    child.kill().unwrap();
    lines.extend(output.lines().map(Result::unwrap));
    child.wait().unwrap();
    lines
}

/// Works until it is killed, saying before and after each step what it does.
pub fn child(open: Open) {
    let Some(root) = std::env::var_os(CHILD_ROOT).map(PathBuf::from) else { return };
    let mut seed: u64 = std::env::var("SEED").unwrap().parse().unwrap();
    let snapshots = open(&root).unwrap();
    let mut names: BTreeMap<String, Kind> =
        all(&*snapshots).into_iter().map(|info| (info.name, info.kind)).collect();
    let say = |word: &str, step: &str| println!("{word} {step}");
    println!("ready");
    loop {
        seed = next_random(seed);
        let pick = |kind: Kind, names: &BTreeMap<String, Kind>| {
            let of_kind: Vec<_> = names.iter().filter(|(_, k)| **k == kind).map(|(n, _)| n.clone()).collect();
            (!of_kind.is_empty()).then(|| of_kind[(seed >> 8) as usize % of_kind.len()].clone())
        };
        let (active, committed) = (pick(Kind::Active, &names), pick(Kind::Committed, &names));
        let new = format!("{seed:x}");
        match (seed % 8, active, committed) {
            (0..=2, _, parent) => {
                say("try", &format!("prepare {new}"));
                snapshots.prepare(&new, parent.as_deref(), Labels::new()).unwrap();
                say("done", &format!("prepare {new}"));
                let file = snapshots.upper_dir(&new).unwrap().path().join(&new);
                std::fs::write(file, &new).unwrap();
                names.insert(new, Kind::Active);
            }
            (3, Some(key), _) => {
                say("try", &format!("commit {key} {new}"));
                snapshots.commit(&new, &key, Labels::new()).unwrap();
                say("done", &format!("commit {key} {new}"));
                names.remove(&key);
                names.insert(new, Kind::Committed);
            }
            (4 | 5, Some(key), _) | (6, _, Some(key)) => {
                say("try", &format!("remove {key}"));
                match snapshots.remove(&key) {
                    Ok(()) => drop(names.remove(&key)),
                    Err(Error::HasChildren { .. }) => {
                        say("failed", &format!("remove {key}"));
                        continue;
                    }
                    Err(e) => panic!("{e}"),
                }
                say("done", &format!("remove {key}"));
            }
            (7, Some(key), _) => {
                say("try", &format!("label {key} {new}"));
                let change = LabelChange::Replace([("label".to_owned(), new.clone())].into());
                snapshots.update(&key, change).unwrap();
                say("done", &format!("label {key} {new}"));
            }
            _ => {}
        }
    }
}

/// What must be there, and the one step of which nobody knows whether it happened.
#[derive(Default)]
struct Model {
    sure: BTreeMap<String, (Kind, Option<String>)>,
    open_step: Option<String>,
}

impl Model {
    fn replay(&mut self, lines: &[String]) {
        for line in lines {
            // The last line may be cut off: then the step was tried.
            match line.split_once(' ') {
                Some(("try", step)) => self.open_step = Some(step.to_owned()),
                Some(("failed", _)) => self.open_step = None,
                Some(("done", step)) if self.open_step.as_deref() == Some(step) => {
                    self.open_step = None;
                    self.apply(step);
                }
                _ => {}
            }
        }
    }

    fn apply(&mut self, step: &str) {
        let words: Vec<_> = step.split(' ').collect();
        match words[..] {
            ["prepare", key] => drop(self.sure.insert(key.to_owned(), (Kind::Active, None))),
            ["commit", key, name] => {
                self.sure.remove(key);
                self.sure.insert(name.to_owned(), (Kind::Committed, None));
            }
            ["remove", key] => drop(self.sure.remove(key)),
            ["label", key, value] => {
                if let Some(entry) = self.sure.get_mut(key) {
                    entry.1 = Some(value.to_owned());
                }
            }
            _ => panic!("{step}"),
        }
    }

    /// Compares, and takes over what became of the open step.
    fn check(&mut self, snapshots: &dyn Snapshotter) {
        let found: BTreeMap<_, _> = all(snapshots)
            .into_iter()
            .map(|info| (info.name.clone(), (info.kind, info.labels.get("label").cloned())))
            .collect();
        if found != self.sure {
            let step = self.open_step.take().unwrap_or_default();
            assert!(!step.is_empty(), "found {found:?}, and acknowledged was {:?}", self.sure);
            self.apply(&step);
            assert_eq!(found, self.sure, "neither before nor after \"{step}\"");
        }
        self.open_step = None;
    }
}

fn next_random(mut x: u64) -> u64 {
    x |= 1 << 40;
    x ^= x << 13;
    x ^= x >> 7;
    x ^ (x << 17)
}
