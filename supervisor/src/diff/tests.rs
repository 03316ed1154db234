//! Layers made of trees that a random series of changes has made, applied again: the same trees must come out. They need root, as the
//! daemon does.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::plan::{Plan, plan};
use super::{Wanted, make};
use crate::content::{ContentStore, Descriptor};
use crate::events::EventBus;
use crate::images::detached;
use crate::images::unpack::{self, Compression, Form, Limits, Options};
use crate::metadata::Db;
use crate::namespaces::Namespace;
use crate::snapshots::Mount;

struct Place {
    folder: tempfile::TempDir,
    content: Arc<ContentStore>,
    namespace: Namespace,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let db = Arc::new(Db::open(&folder.path().join("db"), &crate::metadata::Options::default()).unwrap());
        let limits = crate::config::Content::default();
        let content =
            ContentStore::open(&folder.path().join("c"), db, Arc::new(EventBus::new()), &limits, None);
        for name in ["low", "upper", "work"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Place { content: Arc::new(content.unwrap()), namespace: Namespace::parse("test").unwrap(), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn bind(&self, name: &str) -> Vec<Mount> {
        let options = vec!["ro".to_owned(), "rbind".to_owned()];
        let source = self.path(name).display().to_string();
        vec![Mount { kind: "bind".into(), source, target: String::new(), options }]
    }

    fn overlay(&self) -> Vec<Mount> {
        let path = |name: &str| self.path(name).display().to_string();
        let options = vec![
            "index=off".to_owned(),
            format!("workdir={}", path("work")),
            format!("upperdir={}", path("upper")),
            format!("lowerdir={}", path("low")),
        ];
        vec![Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options }]
    }

    async fn make(&self, left: Vec<Mount>, right: Vec<Mount>, media_type: &str) -> Descriptor {
        let wanted = Wanted { media_type: media_type.to_owned(), ..Wanted::default() };
        make(&self.content, &self.namespace, (left, right), wanted).await.unwrap()
    }

    /// A copy of `low` with the layer applied.
    async fn applied(&self, layer: &Descriptor) -> BTreeMap<String, String> {
        let target = tempfile::tempdir_in(self.folder.path()).unwrap();
        let root = target.path().join("root");
        copy(&self.path("low"), &root);
        let blob = self.content.reader(&self.namespace, &layer.digest).await.unwrap();
        let directory = open(&root);
        let options = Options {
            form: Form::Merged,
            compression: Compression::of_media_type(&layer.media_type).unwrap(),
            compressed: blob.size,
            limits: Limits::default(),
            cancel: &AtomicBool::new(false),
        };
        unpack::apply_layer(blob.into_reader(), directory.as_fd(), options).unwrap();
        describe(&root)
    }
}

fn open(path: &Path) -> OwnedFd {
    use rustix::fs::OFlags;
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// Without the times of directories: they alone are no difference that a walk looks for, so that one that was removed and made
/// again a second later may keep its first.
fn untimed(found: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let strip = |(name, told): (String, String)| {
        let mut words: Vec<&str> = told.split(' ').collect();
        if words.contains(&"Directory") {
            words.remove(2);
        }
        (name, words.join(" "))
    };
    found.into_iter().map(strip).collect()
}

/// Everything that a layer carries of a tree. Sockets are not; times are in seconds.
fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut linked: BTreeMap<u64, String> = BTreeMap::new();
    let mut names = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(inner) = todo.pop() {
        for entry in fs::read_dir(root.join(&inner)).unwrap() {
            let path = inner.join(entry.unwrap().file_name());
            if root.join(&path).symlink_metadata().unwrap().is_dir() {
                todo.push(path.clone());
            }
            names.push(path);
        }
    }
    names.sort();
    // A further name may be hidden from sight.
    let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
    for path in &names {
        *seen.entry(root.join(path).symlink_metadata().unwrap().ino()).or_default() += 1;
    }
    for path in names {
        let full = root.join(&path);
        let meta = full.symlink_metadata().unwrap();
        let what = match FileType::from_raw_mode(meta.mode()) {
            FileType::RegularFile => crate::content::Digest::of(&fs::read(&full).unwrap()).to_string(),
            FileType::Symlink => fs::read_link(&full).unwrap().display().to_string(),
            FileType::Socket => continue,
            other => format!("{other:?} {}", meta.rdev()),
        };
        let name = path.display().to_string();
        let first = if seen[&meta.ino()] > 1 {
            linked.entry(meta.ino()).or_insert_with(|| name.clone()).clone()
        } else {
            String::new()
        };
        let mut value = [0; 64];
        let length = rustix::fs::lgetxattr(&full, "user.colour", &mut value[..]).unwrap_or(0);
        let line = format!(
            "{:o} {}:{} {} {what} ={first} {:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            &value[..length]
        );
        found.insert(name, line);
    }
    found
}

/// A series of numbers that a seed stands for.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn name(&mut self) -> String {
        let short = ["a", "b", "c", "d", "ü", "with space"];
        let long = "n".repeat(150);
        let names: Vec<&str> = short.iter().copied().chain([long.as_str()]).collect();
        let depth = self.throw(3) + 1;
        (0..depth).map(|_| names[self.throw(names.len() as u64) as usize]).collect::<Vec<_>>().join("/")
    }
}

/// Changes a tree somehow. What is impossible where it is tried is not done.
fn change(root: &Path, dice: &mut Dice, steps: usize) {
    for _ in 0..steps {
        let path = root.join(dice.name());
        let other = root.join(dice.name());
        let _ = match dice.throw(14) {
            // Never into a device or a FIFO.
            0 | 1 if path.symlink_metadata().is_ok_and(|meta| !meta.is_file()) => Ok(()),
            0 | 1 => fs::write(&path, vec![b'x'; dice.throw(5000) as usize]),
            2 | 3 => fs::create_dir(&path),
            4 => fs::remove_file(&path),
            5 => fs::remove_dir_all(&path),
            6 => symlink("somewhere/else", &path),
            7 | 8 => fs::hard_link(&other, &path),
            9 => fs::rename(&other, &path),
            10 => {
                if path.symlink_metadata().is_ok_and(|meta| !meta.is_symlink()) {
                    fs::set_permissions(&path, PermissionsExt::from_mode(0o4700 + dice.throw(8) as u32))
                } else {
                    Ok(())
                }
            }
            11 => std::os::unix::fs::lchown(&path, Some(dice.throw(3_000_000) as u32), Some(7)),
            12 => {
                if path.is_file() || path.is_dir() {
                    let value = [dice.throw(200) as u8];
                    let _ = rustix::fs::lsetxattr(&path, "user.colour", &value, XattrFlags::empty());
                }
                Ok(())
            }
            _ => {
                let (kind, device) = [
                    (FileType::Fifo, 0),
                    (FileType::CharacterDevice, rustix::fs::makedev(10, 200)),
                    (FileType::BlockDevice, rustix::fs::makedev(7, 300)),
                    (FileType::Socket, 0),
                ][dice.throw(4) as usize];
                let _ = rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o640), device);
                Ok(())
            }
        };
    }
}

const TYPES: [&str; 3] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
];

#[tokio::test]
async fn what_differs_between_two_trees_makes_the_second_of_the_first() {
    for seed in 1..=24 {
        let (place, mut dice) = (Place::new(), Dice(seed * 7919));
        change(&place.path("low"), &mut dice, 60);
        fs::remove_dir(place.path("upper")).unwrap();
        copy(&place.path("low"), &place.path("upper"));
        change(&place.path("upper"), &mut dice, 40);
        let (left, right) = (place.bind("low"), place.bind("upper"));
        assert_eq!(plan(&left, &right), Plan::Walk);
        let layer = place.make(left, right, TYPES[seed as usize % 3]).await;
        let wanted = describe(&place.path("upper"));
        assert_eq!(untimed(place.applied(&layer).await), untimed(wanted), "seed {seed}");
    }
}

#[tokio::test]
async fn an_overlays_upper_directory_says_the_same_as_a_walk() {
    for seed in 1..=24 {
        let (place, mut dice) = (Place::new(), Dice(seed * 104_729));
        change(&place.path("low"), &mut dice, 60);
        let mount = match detached::open(&place.overlay()) {
            Ok(mount) => mount,
            Err(error) => return eprintln!("no overlay here: {error}"),
        };
        let seen = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        change(&seen, &mut dice, 40);
        // A directory that was removed and made again hides what it held.
        let _ = fs::remove_dir_all(seen.join("a"));
        let _ = fs::create_dir(seen.join("a"));
        let wanted = describe(&seen);
        let (left, right) = (place.bind("low"), place.overlay());
        assert_eq!(plan(&left, &right), Plan::Upper(place.path("upper")));
        let fast = place.make(left.clone(), right.clone(), TYPES[seed as usize % 3]).await;
        assert_eq!(place.applied(&fast).await, wanted, "seed {seed}");
        let again = place.make(left, right.clone(), TYPES[seed as usize % 3]).await;
        assert_eq!(again, fast, "the same bytes");
        copy(&place.path("low"), &place.path("same"));
        let walked = place.make(place.bind("same"), right, TYPES[seed as usize % 3]).await;
        assert_eq!(untimed(place.applied(&walked).await), untimed(wanted), "seed {seed}, walked");
    }
}

#[tokio::test]
async fn a_layer_of_a_large_sparse_file_is_small_and_its_holes_come_back() {
    use std::os::unix::fs::FileExt;
    let place = Place::new();
    let file = fs::File::create(place.path("upper/large")).unwrap();
    file.set_len(1 << 30).unwrap();
    file.write_all_at(b"here", 700 << 20).unwrap();
    drop(file);
    let layer = place.make(Vec::new(), place.bind("upper"), TYPES[0]).await;
    assert!(layer.size < 1 << 20, "{}", layer.size);
    let target = tempfile::tempdir().unwrap();
    let blob = place.content.reader(&place.namespace, &layer.digest).await.unwrap();
    let options = Options {
        form: Form::Merged,
        compression: Compression::Plain,
        compressed: blob.size,
        limits: Limits::default(),
        cancel: &AtomicBool::new(false),
    };
    unpack::apply_layer(blob.into_reader(), open(target.path()).as_fd(), options).unwrap();
    let large = fs::File::open(target.path().join("large")).unwrap();
    let mut found = [0; 4];
    large.read_exact_at(&mut found, 700 << 20).unwrap();
    assert_eq!((&found, large.metadata().unwrap().len()), (b"here", 1 << 30));
    assert!(large.metadata().unwrap().blocks() < 4096);
}

#[tokio::test]
async fn labels_references_and_times_are_as_asked() {
    let place = Place::new();
    fs::write(place.path("upper/new"), "x").unwrap();
    let wanted = || Wanted {
        reference: "mine".into(),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        newest: Some(jiff::Timestamp::new(1_000_000_000, 0).unwrap()),
        ..Wanted::default()
    };
    let sides = || (place.bind("low"), place.bind("upper"));
    let layer = make(&place.content, &place.namespace, sides(), wanted()).await.unwrap();
    assert_eq!(layer.media_type, TYPES[1]);
    let info = place.content.info(&place.namespace, &layer.digest).unwrap();
    assert_eq!(info.labels["a"], "b");
    assert!(info.labels["containerd.io/uncompressed"].starts_with("sha256:"));
    assert!(place.applied(&layer).await["new"].contains(" 1000000000 "));
    assert_eq!(make(&place.content, &place.namespace, sides(), wanted()).await.unwrap(), layer);
    let unknown = Wanted { media_type: "application/x-unknown".into(), ..Wanted::default() };
    let error = make(&place.content, &place.namespace, sides(), unknown).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unimplemented);
    fs::write(place.path("upper/.wh.new"), "").unwrap();
    let error = make(&place.content, &place.namespace, sides(), Wanted::default()).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition, "{error}");
    assert!(place.content.all_statuses().unwrap().is_empty(), "no ingest stays");
}
