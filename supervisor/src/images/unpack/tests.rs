//! Layers, well-formed and hostile, applied to real directories. They need root, as the daemon does.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use tar::{EntryType, Header};

use super::error::Rule;
use super::*;

/// A tar under construction; nothing is checked.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn new() -> Tar {
        Tar::default()
    }

    fn header(name: &str, kind: EntryType, size: u64, change: impl FnOnce(&mut Header)) -> Header {
        let mut header = Header::new_gnu();
        let field = &mut header.as_old_mut().name;
        let length = name.len().min(field.len());
        field[..length].copy_from_slice(&name.as_bytes()[..length]);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(size);
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        change(&mut header);
        header.set_cksum();
        header
    }

    fn with(mut self, name: &str, kind: EntryType, data: &[u8], change: impl FnOnce(&mut Header)) -> Tar {
        let header = Tar::header(name, kind, data.len() as u64, change);
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &[u8]) -> Tar {
        self.with(name, EntryType::Regular, data, |_| {})
    }

    fn dir(self, name: &str) -> Tar {
        self.with(name, EntryType::Directory, b"", |header| header.set_mode(0o755))
    }

    fn link(self, kind: EntryType, name: &str, target: &str) -> Tar {
        self.with(name, kind, b"", |header| {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes())
        })
    }

    fn symlink(self, name: &str, target: &str) -> Tar {
        self.link(EntryType::Symlink, name, target)
    }

    fn hard(self, name: &str, target: &str) -> Tar {
        self.link(EntryType::Link, name, target)
    }

    fn device(self, kind: EntryType, name: &str, major: u32, minor: u32) -> Tar {
        self.with(name, kind, b"", |header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        })
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        self.with("pax", EntryType::XHeader, &pax_records(records), |_| {})
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn pax_records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length = length.to_string().len() + rest;
        }
        body.extend_from_slice(format!("{length} {key}=").as_bytes());
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    body
}

struct Root {
    folder: tempfile::TempDir,
    form: Form,
}

impl Root {
    fn new(form: Form) -> Root {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        fs::write(folder.path().join("outside"), "untouched").unwrap();
        Root { folder, form }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("root").join(name)
    }

    fn bytes(&self, layer: &[u8], compression: Compression, limits: Limits) -> Result<Applied, UnpackError> {
        let root = fs::File::open(self.path("")).unwrap();
        let cancel = AtomicBool::new(false);
        let compressed = layer.len() as u64;
        let options = Options { form: self.form, compression, compressed, limits, cancel: &cancel };
        let result = apply_layer(layer, root.as_fd(), options);
        let names: Vec<_> =
            fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "nothing is made beside the root: {names:?}");
        assert_eq!(fs::read(self.folder.path().join("outside")).unwrap(), b"untouched");
        result
    }

    fn apply(&self, tar: Tar) -> Result<Applied, UnpackError> {
        self.bytes(&tar.end(), Compression::Plain, Limits::default())
    }

    fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        walk(&self.path(""), "", &mut tree);
        tree
    }
}

fn walk(path: &Path, name: &str, tree: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let inner = format!("{name}/{}", entry.file_name().display());
        let meta = fs::symlink_metadata(entry.path()).unwrap();
        let kind = meta.file_type();
        let text = if kind.is_dir() {
            let opaque =
                rustix::fs::lgetxattr(entry.path(), "trusted.overlay.opaque", &mut [0u8; 8][..]).is_ok();
            walk(&entry.path(), &inner, tree);
            if opaque { "opaque" } else { "dir" }.to_owned()
        } else if kind.is_symlink() {
            format!("-> {}", fs::read_link(entry.path()).unwrap().display())
        } else if kind.is_char_device() {
            format!("char {}", meta.rdev())
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).chars().take(20).collect()
        };
        tree.insert(inner, text);
    }
}

fn rule_of(tar: Tar) -> Rule {
    let mut rules = Vec::new();
    for form in [Form::Upper, Form::Merged] {
        match Root::new(form).apply(tar_clone(&tar)) {
            Err(UnpackError::Refused { rule, .. }) => rules.push(rule),
            other => panic!("not refused in {form:?}: {other:?}"),
        }
    }
    assert_eq!(rules[0], rules[1]);
    rules.remove(0)
}

fn tar_clone(tar: &Tar) -> Tar {
    Tar(tar.0.clone())
}

fn accepted(tar: &Tar) {
    for form in [Form::Upper, Form::Merged] {
        Root::new(form).apply(tar_clone(tar)).unwrap();
    }
}

#[test]
fn files_links_and_devices_arrive_with_their_attributes() {
    for form in [Form::Upper, Form::Merged] {
        let root = Root::new(form);
        let tar = Tar::new()
            .dir("./")
            .with("etc/", EntryType::Directory, b"", |header| {
                header.set_mode(0o750);
                header.set_gid(7);
            })
            .with("etc/su", EntryType::Regular, b"program", |header| {
                header.set_mode(0o4755);
                header.set_uid(1000);
            })
            .hard("etc/su2", "etc/su")
            .symlink("etc/link", "../../../outside")
            .with("fifo", EntryType::Fifo, b"", |header| header.set_mode(0o600))
            .device(EntryType::Char, "null", 1, 3)
            .pax(&[("SCHILY.xattr.user.note", b"hi"), ("mtime", b"1234567890.5")])
            .file("noted", b"x");
        let applied = root.apply(tar).unwrap();
        let meta = |name: &str| fs::symlink_metadata(root.path(name)).unwrap();
        assert_eq!(
            (meta("etc").mode() & 0o7777, meta("etc").gid(), meta("etc").mtime()),
            (0o750, 7, 1_000_000_000)
        );
        assert_eq!(
            (meta("etc/su").mode() & 0o7777, meta("etc/su").uid(), meta("etc/su").nlink()),
            (0o4755, 1000, 2)
        );
        assert_eq!(meta("etc/link").mtime(), 1_000_000_000);
        assert_eq!(
            (meta("null").rdev(), meta("null").permissions().mode() & 0o777),
            (rustix::fs::makedev(1, 3), 0o644)
        );
        assert!(meta("fifo").file_type().is_fifo());
        assert_eq!((meta("noted").mtime(), meta("noted").mtime_nsec()), (1_234_567_890, 500_000_000));
        let mut value = [0u8; 8];
        assert_eq!(rustix::fs::getxattr(root.path("noted"), "user.note", &mut value[..]).unwrap(), 2);
        assert_eq!(applied.inodes, 6);
        assert!(applied.implicit.is_empty());
    }
}

#[test]
fn the_diff_id_covers_all_of_the_stream() {
    let mut layer = Tar::new().file("a", b"x").end();
    layer.extend_from_slice(&[0; 3000]);
    let expected = crate::content::Digest::of(&layer).to_string();
    let applied = Root::new(Form::Upper).bytes(&layer, Compression::Plain, Limits::default()).unwrap();
    assert_eq!((applied.diff_id(), applied.inflated), (expected, layer.len() as u64));
}

#[test]
fn long_names_come_in_both_forms() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let gnu = Tar::new()
        .with("././@LongLink", EntryType::GNULongName, format!("{long}\0").as_bytes(), |_| {})
        .file("short", b"x");
    let pax = Tar::new().pax(&[("path", long.as_bytes())]).file("short", b"x");
    for tar in [gnu, pax] {
        let root = Root::new(Form::Upper);
        root.apply(tar).unwrap();
        assert!(root.path(&long).exists());
        assert!(!root.path("short").exists());
    }
}

#[test]
fn sparse_files_have_their_holes() {
    let mut old = Tar::header("sparse", EntryType::GNUSparse, 4, |header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.sparse[0].set_offset(0);
        gnu.sparse[0].set_length(2);
        gnu.sparse[1].set_offset(1 << 20);
        gnu.sparse[1].set_length(2);
        gnu.set_real_size((1 << 20) + 2);
    })
    .as_bytes()
    .to_vec();
    old.extend_from_slice(b"abcd");
    old.resize(1024, 0);
    let records: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", b"1048578"),
    ];
    let mut data = b"2\n0\n2\n1048576\n2\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"abcd");
    let new = Tar::new().pax(records).file("GNUSparseFile.1/sparse", &data);
    let map: &[(&str, &[u8])] = &[("GNU.sparse.map", b"0,2,1048576,2"), ("GNU.sparse.size", b"1048578")];
    for tar in [Tar(old), new, Tar::new().pax(map).file("sparse", b"abcd")] {
        let root = Root::new(Form::Upper);
        root.apply(tar).unwrap();
        let bytes = fs::read(root.path("sparse")).unwrap();
        assert_eq!((bytes.len(), &bytes[..2], &bytes[1 << 20..]), ((1 << 20) + 2, &b"ab"[..], &b"cd"[..]));
        assert!(fs::metadata(root.path("sparse")).unwrap().blocks() < 100);
    }
}

#[test]
fn later_entries_replace_earlier_ones() {
    for form in [Form::Upper, Form::Merged] {
        let root = Root::new(form);
        let tar = Tar::new()
            .file("a", b"1")
            .file("a", b"2")
            .dir("d")
            .file("d/x", b"x")
            .file("d", b"now a file")
            .symlink("a2", "a")
            .file("a2", b"3");
        root.apply(tar).unwrap();
        let tree = root.tree();
        assert_eq!(
            (tree["/a"].as_str(), tree["/d"].as_str(), tree["/a2"].as_str()),
            ("2", "now a file", "3")
        );
    }
}

#[test]
fn whiteouts_become_devices_and_opaque_directories_in_an_upper() {
    let root = Root::new(Form::Upper);
    let tar = Tar::new()
        .file("gone/.wh.file", b"")
        .dir("opaque")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"n")
        .dir("both-before")
        .file(".wh.both-before", b"")
        .file(".wh.both-after", b"")
        .dir("both-after")
        .file(".wh.replaced", b"")
        .file("replaced", b"r")
        .file(".wh.parent", b"")
        .file("parent/child", b"c")
        .file(".wh..wh.aufs", b"")
        .file(".wh..wh.plnk/1.2", b"");
    let applied = root.apply(tar).unwrap();
    let expected = [
        ("/both-after", "opaque"),
        ("/both-before", "opaque"),
        ("/gone", "dir"),
        ("/gone/file", "char 0"),
        ("/opaque", "opaque"),
        ("/opaque/new", "n"),
        ("/parent", "opaque"),
        ("/parent/child", "c"),
        ("/replaced", "r"),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    assert_eq!(root.tree(), expected);
    assert_eq!(applied.implicit, [b"gone".to_vec()]);
}

#[test]
fn whiteouts_remove_what_is_below_in_a_merged_tree() {
    let root = Root::new(Form::Merged);
    root.apply(
        Tar::new()
            .file("a/file", b"l")
            .file("a/keep", b"l")
            .file("opaque/lower", b"l")
            .file("opaque/sub/lower", b"l")
            .file("both/lower", b"l")
            .file("tree/x/y", b"l"),
    )
    .unwrap();
    let tar = Tar::new()
        .file("a/.wh.file", b"")
        .file("opaque/sub/new", b"n")
        .file("opaque/new", b"n")
        .file("opaque/.wh..wh..opq", b"")
        .dir("both")
        .file("both/new", b"n")
        .file(".wh.both", b"")
        .file(".wh.tree", b"")
        .file(".wh.never", b"");
    root.apply(tar).unwrap();
    let names: Vec<_> = root.tree().into_keys().collect();
    assert_eq!(
        names,
        ["/a", "/a/keep", "/both", "/both/new", "/opaque", "/opaque/new", "/opaque/sub", "/opaque/sub/new"]
    );
}

#[test]
fn what_depends_on_the_parent_is_told() {
    for tar in [
        Tar::new().hard("new", "lower"),
        Tar::new().hard("new", "dir/lower"),
        Tar::new().file(".wh..wh..opq", b""),
    ] {
        let result = Root::new(Form::Upper).apply(tar);
        assert!(matches!(result, Err(UnpackError::NeedsParent { .. })), "{result:?}");
    }
}

#[test]
fn implicit_directories_inherit_from_below() {
    let below = Root::new(Form::Merged);
    below
        .apply(
            Tar::new()
                .with("a", EntryType::Directory, b"", |header| {
                    header.set_mode(0o1770);
                    header.set_uid(5);
                })
                .symlink("lib", "usr/lib"),
        )
        .unwrap();
    let upper = Root::new(Form::Upper);
    let applied = upper.apply(Tar::new().file("a/x", b"").file("b/c/x", b"")).unwrap();
    assert_eq!(applied.implicit, [b"a".to_vec(), b"b".to_vec(), b"b/c".to_vec()]);
    let open = |root: &Root| fs::File::open(root.path("")).unwrap();
    implicit::inherit(open(&upper).as_fd(), open(&below).as_fd(), &applied.implicit).unwrap();
    let meta = fs::metadata(upper.path("a")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.mtime()), (0o1770, 5, 1_000_000_000));
    let through = Root::new(Form::Upper);
    let applied = through.apply(Tar::new().file("lib/x", b"")).unwrap();
    let result = implicit::inherit(open(&through).as_fd(), open(&below).as_fd(), &applied.implicit);
    assert!(matches!(result, Err(UnpackError::NeedsParent { .. })), "{result:?}");
}

// The hostile ones, each by the rule that it breaks.

#[test]
fn dotdot_is_refused() {
    for name in ["../x", "a/../../x", "a/.."] {
        assert_eq!(rule_of(Tar::new().file(name, b"")), Rule::DotDot);
    }
}

#[test]
fn absolute_names_are_refused() {
    assert_eq!(rule_of(Tar::new().file("/etc/passwd", b"")), Rule::AbsoluteName);
}

#[test]
fn a_parent_link_that_leads_out_is_refused() {
    for target in ["..", "../outside", "../../../../tmp"] {
        assert_eq!(rule_of(Tar::new().symlink("way", target).file("way/x", b"")), Rule::ParentEscapes);
    }
}

#[test]
fn a_parent_link_within_the_root_is_followed_there() {
    for form in [Form::Upper, Form::Merged] {
        let root = Root::new(form);
        root.apply(
            Tar::new()
                .dir("run")
                .symlink("var-run", "/run")
                .file("var-run/x", b"x")
                .symlink("t", "/tmp")
                .file("t/y", b"y"),
        )
        .unwrap();
        assert_eq!(root.tree()["/run/x"], "x");
        assert_eq!(root.tree()["/tmp/y"], "y");
    }
}

#[test]
fn a_parent_link_to_itself_is_refused() {
    assert_eq!(rule_of(Tar::new().symlink("loop", "loop").file("loop/x", b"")), Rule::LinkLoop);
}

#[test]
fn a_parent_that_is_a_file_is_refused() {
    assert_eq!(rule_of(Tar::new().file("f", b"").file("f/x", b"")), Rule::ParentNotDirectory);
}

#[test]
fn hard_links_out_of_the_root_are_refused() {
    assert_eq!(rule_of(Tar::new().hard("x", "../outside")), Rule::HardLinkEscapes);
    assert_eq!(rule_of(Tar::new().symlink("way", "..").hard("x", "way/outside")), Rule::HardLinkEscapes);
}

#[test]
fn hard_links_to_nothing_are_refused() {
    let result = Root::new(Form::Merged).apply(Tar::new().hard("x", "nothing"));
    assert!(matches!(result, Err(UnpackError::Refused { rule: Rule::HardLinkToNothing, .. })), "{result:?}");
    assert_eq!(rule_of(Tar::new().file("x", b"").hard("x", "x")), Rule::HardLinkToNothing);
    assert_eq!(rule_of(Tar::new().dir("d").file("d/f", b"").hard("d", "d/f")), Rule::HardLinkToNothing);
}

#[test]
fn hard_links_to_directories_are_refused() {
    assert_eq!(rule_of(Tar::new().dir("d").hard("x", "d")), Rule::HardLinkToDirectory);
}

#[test]
fn a_hard_link_to_a_link_does_not_follow_it() {
    let root = Root::new(Form::Upper);
    root.apply(Tar::new().symlink("way", "../outside").hard("x", "way")).unwrap();
    assert_eq!(root.tree()["/x"], "-> ../outside");
}

#[test]
fn a_file_over_a_link_does_not_follow_it() {
    for form in [Form::Upper, Form::Merged] {
        let root = Root::new(form);
        root.apply(Tar::new().symlink("way", "../outside").file("way", b"replaced")).unwrap();
        assert_eq!(root.tree()["/way"], "replaced");
    }
}

#[test]
fn cve_2021_32760_modes_are_never_set_through_links() {
    let root = Root::new(Form::Upper);
    let outside = root.folder.path().join("outside");
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).unwrap();
    root.apply(Tar::new().with("way", EntryType::Symlink, b"", |header| {
        header.as_old_mut().linkname[..10].copy_from_slice(b"../outside");
        header.set_mode(0o4777);
        header.set_uid(1234);
    }))
    .unwrap();
    let meta = fs::metadata(outside).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o600, rustix::process::getuid().as_raw()));
}

/// Two seconds; thirty with `LONGSHORE_LONG`.
#[test]
fn cve_2025_47290_a_folder_that_is_swapped_while_unpacking_leads_nowhere_else() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use std::sync::atomic::Ordering;
    let patience = if std::env::var_os("LONGSHORE_LONG").is_some() { 30 } else { 2 };
    let end = std::time::Instant::now() + std::time::Duration::from_secs(patience);
    let victim = tempfile::tempdir().unwrap();
    let mut layers = 0;
    while std::time::Instant::now() < end {
        let form = if layers % 2 == 0 { Form::Upper } else { Form::Merged };
        let root = Root::new(form);
        std::os::unix::fs::symlink(victim.path(), root.path("other")).unwrap();
        fs::create_dir(root.path("d")).unwrap();
        let mut tar = Tar::new().dir("d").dir("d/sub");
        for index in 0..200 {
            tar = tar
                .file(&format!("d/{index}"), b"x")
                .file(&format!("d/sub/{index}"), b"y")
                .hard(&format!("d/h{index}"), &format!("d/{index}"));
            tar = tar.file(&format!("d/.wh.{index}"), b"");
        }
        let layer = tar.end();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (a, b) = (root.path("d"), root.path("other"));
                while !stop.load(Ordering::Relaxed) {
                    let _ = renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE);
                }
            });
            // It may well fail; it must not leave the root.
            let _ = root.bytes(&layer, Compression::Plain, Limits::default());
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::read_dir(victim.path()).unwrap().count(), 0);
        layers += 1;
    }
    assert!(layers > 0);
}

#[test]
fn the_root_is_not_replaced() {
    for name in ["./", "/", "."] {
        assert_eq!(rule_of(Tar::new().symlink(name, "/tmp")), Rule::ReplacesRoot);
        accepted(&Tar::new().dir(name));
    }
}

#[test]
fn names_with_nul_or_long_components_are_refused() {
    assert_eq!(rule_of(Tar::new().pax(&[("path", b"a\0b")]).file("x", b"")), Rule::NulInName);
    assert_eq!(rule_of(Tar::new().pax(&[("path", &[b'a'; 256])]).file("x", b"")), Rule::LongComponent);
    assert_eq!(rule_of(Tar::new().pax(&[("path", &b"abcdefg/".repeat(600))]).file("x", b"")), Rule::LongName);
    assert_eq!(rule_of(Tar::new().pax(&[("path", &b"a/".repeat(300))]).file("x", b"")), Rule::TooDeep(256));
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for name in [".wh.", "d/.wh..", "d/.wh..."] {
        assert_eq!(rule_of(Tar::new().dir("d").file(name, b"")), Rule::EmptyWhiteout);
    }
    assert_eq!(rule_of(Tar::new().file(".wh.d/x", b"")), Rule::WhiteoutDirectory);
}

#[test]
fn whiteout_devices_are_refused() {
    assert_eq!(rule_of(Tar::new().device(EntryType::Char, "x", 0, 0)), Rule::WhiteoutDevice);
}

#[test]
fn device_numbers_out_of_range_are_refused() {
    assert_eq!(rule_of(Tar::new().device(EntryType::Block, "x", 4096, 0)), Rule::BadNumber("device number"));
    assert_eq!(
        rule_of(Tar::new().device(EntryType::Block, "x", 1, 1 << 20)),
        Rule::BadNumber("device number")
    );
}

#[test]
fn reserved_attributes_are_refused() {
    for name in ["trusted.overlay.opaque", "trusted.x", "user.overlay.opaque"] {
        let tar = Tar::new().pax(&[(&format!("SCHILY.xattr.{name}"), b"y")]).dir("d");
        assert_eq!(rule_of(tar), Rule::ReservedXattr(name.to_owned()));
    }
}

#[test]
fn contradictory_sizes_are_refused() {
    assert_eq!(rule_of(Tar::new().pax(&[("size", b"512")]).file("x", b"")), Rule::ContradictoryPax("size"));
    assert_eq!(rule_of(Tar::new().pax(&[("size", b"0")]).file("x", b"data")), Rule::ContradictoryPax("size"));
    assert_eq!(
        rule_of(Tar::new().pax(&[("size", b"1"), ("size", b"2")]).file("x", b"1")),
        Rule::ContradictoryPax("size")
    );
    accepted(&Tar::new().pax(&[("size", b"4")]).file("x", b"data"));
}

#[test]
fn negative_and_overflowing_numbers_are_refused() {
    let tar = |change: fn(&mut Header)| Tar::new().with("x", EntryType::Regular, b"", change);
    assert_eq!(rule_of(tar(|h| h.as_old_mut().size = [0xff; 12])), Rule::BadNumber("size"));
    assert_eq!(rule_of(tar(|h| h.as_old_mut().mtime = [0xff; 12])), Rule::BadNumber("time"));
    assert_eq!(rule_of(tar(|h| h.set_uid(u64::from(u32::MAX)))), Rule::BadNumber("owner"));
    assert_eq!(rule_of(tar(|h| h.set_gid(1 << 33))), Rule::BadNumber("group"));
    assert_eq!(rule_of(tar(|h| h.as_old_mut().mode = *b"0000888\0")), Rule::BadNumber("mode"));
    for (key, value, what) in [
        ("size", "-1", "size"),
        ("uid", "4294967295", "owner"),
        ("mtime", "-5", "time"),
        ("mtime", "9e99", "time"),
    ] {
        assert_eq!(rule_of(Tar::new().pax(&[(key, value.as_bytes())]).file("x", b"")), Rule::BadNumber(what));
    }
}

#[test]
fn extended_headers_are_bounded_and_belong_to_an_entry() {
    assert_eq!(
        rule_of(Tar::new().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("x", b"")),
        Rule::RepeatedExtension
    );
    assert_eq!(rule_of(Tar::new().pax(&[("path", b"a")])), Rule::DanglingExtension);
    assert_eq!(
        rule_of(Tar::new().with("x", EntryType::XHeader, b"12 path", |_| {}).file("x", b"")),
        Rule::MalformedPax
    );
    let huge = Tar::new().with("x", EntryType::XHeader, &vec![b' '; 2 << 20], |_| {}).file("x", b"");
    assert_eq!(rule_of(huge), Rule::LargeExtension);
    let global = |key| {
        Tar::new().with("g", EntryType::XGlobalHeader, &pax_records(&[(key, b"1")]), |_| {}).file("x", b"")
    };
    assert_eq!(rule_of(global("size")), Rule::GlobalPax("size"));
    accepted(&global("comment"));
}

#[test]
fn overlapping_sparse_maps_are_refused() {
    let tar = |map: &'static [u8]| {
        Tar::new().pax(&[("GNU.sparse.map", map), ("GNU.sparse.size", b"100")]).file("x", b"abcd")
    };
    for map in [&b"0,3,2,1"[..], b"5,2,0,2", b"99,4", b"0,2", b"0", b"0,2,x,2"] {
        let rule = rule_of(tar(map));
        assert!(matches!(rule, Rule::BadSparseMap | Rule::BadNumber("sparse map")), "{rule:?}");
    }
}

#[test]
fn unknown_types_and_checksums_are_refused() {
    assert_eq!(rule_of(Tar::new().with("x", EntryType::new(b'M'), b"", |_| {})), Rule::UnknownType('M'));
    let mut broken = Tar::new().file("x", b"");
    broken.0[0] ^= 1;
    assert_eq!(rule_of(broken), Rule::BadChecksum);
}

#[test]
fn too_many_entries_and_too_much_data_are_refused() {
    let limits = Limits { entries: 10, ..Limits::default() };
    let tar = (0..11).fold(Tar::new(), |tar, index| tar.file(&index.to_string(), b""));
    let result = Root::new(Form::Upper).bytes(&tar.end(), Compression::Plain, limits);
    assert!(matches!(result, Err(UnpackError::Refused { rule: Rule::TooManyEntries(10), .. })), "{result:?}");
    let limits = Limits { total: 1 << 20, ..Limits::default() };
    let holes: &[(&str, &[u8])] = &[("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"99999999999")];
    let result = Root::new(Form::Upper).bytes(
        &Tar::new().pax(holes).file("x", b"x").end(),
        Compression::Plain,
        limits,
    );
    assert!(matches!(result, Err(UnpackError::Refused { rule: Rule::TooLarge(_), .. })), "{result:?}");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd_with_checksum(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn bombs_are_refused() {
    let layer = Tar::new().file("zeroes", &vec![0; 8 << 20]).end();
    let limits = Limits { ratio: 10, ratio_from: 1 << 20, ..Limits::default() };
    for (packed, compression) in
        [(gzip(&layer), Compression::Gzip), (zstd::encode_all(&layer[..], 1).unwrap(), Compression::Zstd)]
    {
        let root = Root::new(Form::Upper);
        let result = root.bytes(&packed, compression, limits);
        assert!(matches!(result, Err(UnpackError::Bomb { .. })), "{result:?}");
        assert!(fs::metadata(root.path("zeroes")).map_or(0, |meta| meta.len()) < 4 << 20);
    }
}

#[test]
fn damaged_streams_are_refused() {
    let layer = Tar::new().file("x", &(0..100_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).end();
    for (good, compression) in
        [(gzip(&layer), Compression::Gzip), (zstd_with_checksum(&layer), Compression::Zstd)]
    {
        let apply = |bytes: &[u8]| Root::new(Form::Upper).bytes(bytes, compression, Limits::default());
        apply(&good).unwrap();
        let mut twice = good.clone();
        twice.extend_from_slice(&good);
        apply(&twice).unwrap();
        let mut trailing = good.clone();
        trailing.extend_from_slice(b"trailing garbage");
        let mut flipped = good.clone();
        let middle = good.len() / 2;
        flipped[middle] ^= 0xff;
        let mut bad = vec![
            trailing,
            good[..good.len() - 1].to_vec(),
            good[..middle].to_vec(),
            flipped,
            layer.clone(),
            Vec::new(),
        ];
        if compression == Compression::Gzip {
            let mut crc = good.clone();
            let at = good.len() - 6;
            crc[at] ^= 1;
            bad.push(crc);
        }
        for (index, bytes) in bad.iter().enumerate() {
            let result = apply(bytes);
            assert!(
                matches!(result, Err(UnpackError::Damaged { .. } | UnpackError::Refused { .. })),
                "{compression:?} {index}: {result:?}"
            );
        }
    }
}

#[test]
fn truncated_archives_are_refused() {
    let layer = Tar::new().file("x", &[1; 5000]).end();
    for length in [100, 600, 3000] {
        let result = Root::new(Form::Upper).bytes(&layer[..length], Compression::Plain, Limits::default());
        assert!(matches!(result, Err(UnpackError::Truncated { .. })), "{length}: {result:?}");
    }
}

#[test]
fn a_full_disk_is_told_apart() {
    let error = UnpackError::write("write", b"x", rustix::io::Errno::NOSPC);
    assert!(matches!(error, UnpackError::Full { .. }));
}

#[test]
fn ghsa_rp3h_whiteout_heavy_layers_take_linear_time() {
    let count = 20_000;
    let mut tar = Tar::new();
    for index in 0..count {
        tar = tar.file(&format!("d/{index}"), b"").file("d/.wh..wh..opq", b"").file(".wh.d", b"");
    }
    let layer = tar.end();
    for form in [Form::Upper, Form::Merged] {
        let begin = std::time::Instant::now();
        Root::new(form).bytes(&layer, Compression::Plain, Limits::default()).unwrap();
        assert!(begin.elapsed().as_secs() < 30, "{form:?}: {:?}", begin.elapsed());
    }
}

#[test]
fn a_cancelled_layer_stops() {
    let root = fs::File::open("/").unwrap();
    let cancel = AtomicBool::new(true);
    let limits = Limits::default();
    let options = Options {
        form: Form::Upper,
        compression: Compression::Plain,
        compressed: 0,
        limits,
        cancel: &cancel,
    };
    let result = apply_layer(&Tar::new().file("x", b"").end()[..], root.as_fd(), options);
    assert!(matches!(result, Err(UnpackError::Cancelled)), "{result:?}");
}
