//! Snapshotters across daemons: a real containerd with ours as its plugin, and ours with plugins that others serve, each with the plugin
//! killed in between.
#![cfg_attr(not(have_ctr), allow(dead_code, unused_imports))]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use longshore_tests::containerd::{Containerd, HEAD, Host, OURS};
use longshore_tests::daemon::{Settings, eventually, run};
use longshore_tests::image::{self, Image, Layer, Packing};
use longshore_tests::registry::Registry;
use longshore_tests::snapshotter::Snapshotter;
use longshore_tests::{Daemon, Fixture};

/// A containerd with this configuration: the host's own, or the one that the tests are told of.
fn containerd(config: &str) -> Containerd {
    let started = match std::env::var_os(HEAD).map(PathBuf::from) {
        Some(folder) => {
            Containerd::start(&folder.join("containerd"), &folder.join("ctr"), Host::Plain, config)
        }
        None => Containerd::start(Path::new("containerd"), Path::new("ctr"), Host::Plain, config),
    };
    started.expect("containerd starts")
}

fn pull(containerd: &Containerd, registry: &Registry, snapshotter: &str) -> String {
    registry.put("library/busybox", "latest", &image::busybox().expect("busybox").build().expect("an image"));
    let name = registry.reference("library/busybox:latest");
    let local: &[&str] = if std::env::var_os(HEAD).is_some() { &["--local"] } else { &[] };
    let start = ["images", "pull", "--plain-http", "--snapshotter", snapshotter];
    let args: Vec<&str> = start.iter().chain(local).copied().chain([name.as_str()]).collect();
    containerd.ctr(&args).ok();
    name
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn a_real_containerd_runs_containers_on_our_snapshotter() {
    for driver in ["overlayfs", "native"] {
        let registry = Registry::start().expect("a registry");
        let mut plugin = Snapshotter::start(driver);
        let containerd = containerd(&plugin.config("longshore"));
        let busybox = pull(&containerd, &registry, "longshore");
        let flags = ["--snapshotter", "longshore"];
        let script = "echo kept > /etc/kept; rm /bin/vi; cat /etc/kept";
        let output = containerd.run(OURS, "one", &flags, &busybox, &["sh", "-c", script]).ok();
        assert_eq!(output.stdout, "kept\n", "{driver}");
        plugin.kill();
        let refused = containerd.ctr(&["snapshots", "--snapshotter", "longshore", "usage", "one"]);
        assert_ne!(refused.code, 0, "the plugin is away: {refused:?}");
        plugin.launch().expect("the plugin starts again");
        eventually("containerd finds the plugin again", || {
            containerd.ctr(&["snapshots", "--snapshotter", "longshore", "usage", "one"]).code == 0
        });
        let output =
            containerd.run(OURS, "two", &[&flags[..], &["--rm"]].concat(), &busybox, &["ls", "/bin/vi"]);
        assert_eq!(output.ok().stdout, "/bin/vi\n", "the other container's changes are its own");
        containerd.ctr(&["containers", "rm", "one"]).ok();
        containerd.ctr(&["images", "rm", "--sync", &busybox]).ok();
        let left = containerd.ctr(&["snapshots", "--snapshotter", "longshore", "ls"]).ok().stdout;
        assert_eq!(left.lines().count(), 1, "{left}");
        eventually("the plugin has removed the files", || {
            fs::read_dir(plugin.path().join("root/s")).is_ok_and(|mut found| found.next().is_none())
        });
        assert_eq!(plugin.stop().expect("the plugin stops"), Some(0));
    }
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn a_plugin_is_our_daemons_snapshotter_by_its_name() {
    let mut plugin = Snapshotter::start("overlayfs");
    let config = plugin.config("remote");
    let Fixture { mut daemon, busybox, registry } =
        Fixture::with(Settings { config, ..Settings::default() }).expect("a daemon");
    let plugins = daemon.ctr(&["plugins", "ls", "-d", "id==remote"]).ok().stdout;
    assert!(plugins.contains("io.containerd.snapshotter.v1") && plugins.contains("s.sock"), "{plugins}");
    daemon.ctr(&["images", "pull", "--plain-http", "--snapshotter", "remote", &busybox]).ok();
    let script = "echo kept > /etc/kept; cat /etc/kept";
    let output = daemon.ctr(&["run", "--snapshotter", "remote", &busybox, "plugged", "sh", "-c", script]);
    assert_eq!(output.ok().stdout, "kept\n");

    plugin.kill();
    let refused = daemon.ctr(&["snapshots", "--snapshotter", "remote", "usage", "plugged"]);
    assert!(refused.code != 0 && refused.stderr.contains("is it running"), "{refused:?}");
    assert_eq!(daemon.ctr(&["run", "--rm", &busybox, "unplugged", "echo", "own"]).ok().stdout, "own\n");
    daemon.kill();
    daemon.launch().expect("a daemon starts without its plugin");
    plugin.launch().expect("the plugin starts again");

    daemon.ctr(&["tasks", "start", "plugged"]).ok();
    let changes = daemon.ctr(&["snapshots", "--snapshotter", "remote", "usage", "plugged"]).ok().stdout;
    assert!(changes.contains("plugged"), "{changes}");
    daemon.ctr(&["containers", "rm", "plugged"]).ok();
    daemon.ctr(&["images", "rm", "--sync", &busybox]).ok();
    eventually("collected from the plugin as well", || {
        daemon.ctr(&["leases", "create", "--id", "nudge"]).ok();
        daemon.ctr(&["leases", "delete", "--sync", "nudge"]).ok();
        daemon.ctr(&["snapshots", "--snapshotter", "remote", "ls"]).ok().stdout.lines().count() == 1
    });
    drop(registry);
    daemon.ctr(&["namespaces", "rm", "default"]).ok();
}

#[test]
fn a_plugin_can_be_what_longshore_itself_uses() {
    let plugin = Snapshotter::start("overlayfs");
    let config = format!("[snapshotter]\ndefault = \"remote\"\n{}", plugin.config("remote"));
    let fixture = Fixture::with(Settings { config, ..Settings::default() }).expect("a daemon");
    let daemon = &fixture.daemon;
    assert_eq!(daemon.ctl(&["run", "--rm", &fixture.busybox, "echo", "hello"]).ok().stdout, "hello\n");
    assert!(fs::read_dir(plugin.path().join("root/s")).expect("snapshots").next().is_some());
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn a_real_containerds_snapshots_service_is_a_plugin_too() {
    let behind = Snapshotter::start("overlayfs");
    let containerd = containerd(&behind.config("chained"));
    let config =
        format!("[proxy_plugins.chained]\ntype = \"snapshot\"\naddress = {:?}\n", containerd.socket());
    let fixture = Fixture::with(Settings { config, ..Settings::default() }).expect("a daemon");
    let Fixture { daemon, busybox, .. } = &fixture;
    daemon.ctr(&["images", "pull", "--plain-http", "--snapshotter", "chained", busybox]).ok();
    for (id, runtime) in
        [("chained-ours", "io.containerd.longshore.v1"), ("chained-runc", "io.containerd.runc.v2")]
    {
        let flags =
            ["run", "--rm", "--snapshotter", "chained", "--runtime", runtime, busybox, id, "echo", id];
        assert_eq!(daemon.ctr(&flags).ok().stdout, format!("{id}\n"));
    }
    let seen = containerd.ctr(&["snapshots", "--snapshotter", "chained", "ls"]).ok().stdout;
    assert!(seen.contains("default/sha256:"), "under the keys that a driver of ours would have: {seen}");
    daemon.ctr(&["images", "rm", "--sync", busybox]).ok();
}

/// Everything that a layer carries of a tree, but times of directories, which unpacking differs about.
fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut linked: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(inner) = todo.pop() {
        for entry in fs::read_dir(root.join(&inner)).expect("a directory") {
            let path = inner.join(entry.expect("an entry").file_name());
            let full = root.join(&path);
            let meta = full.symlink_metadata().expect("a file");
            let kind = meta.file_type();
            let what = if kind.is_dir() {
                todo.push(path.clone());
                "directory".to_owned()
            } else if kind.is_symlink() {
                format!("to {}", fs::read_link(&full).expect("a link").display())
            } else if kind.is_file() {
                format!("{} {}", meta.mtime(), image::digest(&fs::read(&full).expect("a file")))
            } else {
                format!("{} {} {}", kind.is_fifo(), kind.is_char_device(), meta.rdev())
            };
            let mode = meta.permissions().mode();
            let line = format!("{mode:o} {}:{} {what}", meta.uid(), meta.gid());
            let name = path.display().to_string();
            linked.entry(meta.ino()).or_default().push(name.clone());
            found.insert(name, line);
        }
    }
    // The names of one file that can be seen: an overlay may hide others.
    for mut names in linked.into_values().filter(|names| names.len() > 1) {
        names.sort();
        for name in &names {
            *found.entry(name.clone()).or_default() += &format!(" {names:?}");
        }
    }
    found
}

/// What is not the same in two trees.
#[track_caller]
fn same(found: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>, what: &str) {
    let names: std::collections::BTreeSet<_> = found.keys().chain(wanted.keys()).collect();
    let differ = |name: &&&String| found.get(**name) != wanted.get(**name);
    let show = |name| format!("{name}: {:?} instead of {:?}", found.get(name), wanted.get(name));
    let lines: Vec<String> = names.iter().filter(differ).map(|name| show(*name)).collect();
    assert!(lines.is_empty(), "{what}: {lines:#?}");
}

/// What a container of a small image does to it.
const CHANGES: &str =
    "set -e; cd /; echo new > etc/new; rm etc/group; rm -r home; mkdir home; echo x > home/x
    ln etc/new etc/hard; ln -s /etc/new link; mkfifo pipe; chmod 4711 bin/busybox; chown 3000000:7 etc/passwd
    mkdir -p deep/er; echo y > deep/er/y; touch -d @1000000000 deep/er/y; mknod null c 1 3; mv var/old var/new
    echo 'a name with spaces' > 'a b'; dd if=/dev/zero of=big bs=1k count=300 2>/dev/null; rm etc/one";

fn small_image() -> Image {
    let more = Layer::new()
        .dir("var/", 0o755)
        .dir("var/old/", 0o750)
        .file("var/old/file", 0o640, b"moved")
        .file("etc/one", 0o644, b"linked")
        .hardlink("etc/two", "etc/one");
    image::busybox().expect("busybox").layer(more).build().expect("an image")
}

fn layers_with(change: Vec<u8>) -> Image {
    let more = Layer::new()
        .dir("var/", 0o755)
        .dir("var/old/", 0o750)
        .file("var/old/file", 0o640, b"moved")
        .file("etc/one", 0o644, b"linked")
        .hardlink("etc/two", "etc/one");
    let builder = image::busybox().expect("busybox").layer(more).packed_layer(change, Packing::Plain);
    builder.build().expect("an image")
}

/// `ctr snapshots diff`, as a tar.
fn diff(daemon: &Daemon, snapshotter: &str, key: &str) -> Vec<u8> {
    let output = Command::new("ctr")
        .arg("--address")
        .arg(daemon.socket())
        .args(["snapshots", "--snapshotter", snapshotter, "diff"])
        .args(["--media-type", "application/vnd.oci.image.layer.v1.tar", key])
        .stdin(Stdio::null())
        .output()
        .expect("ctr runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
#[cfg_attr(
    not(all(have_ctr, have_umoci, have_skopeo)),
    ignore = "needs ctr (package containerd), umoci and skopeo"
)]
fn a_layer_of_a_containers_changes_unpacks_everywhere_to_the_same_tree() {
    let Fixture { daemon, registry, .. } = &Fixture::new();
    registry.put("base", "1", &small_image());
    let base = registry.reference("base:1");
    let mounted = daemon.path().join("mounted");
    fs::create_dir(&mounted).expect("a folder");
    let mounted = mounted.display().to_string();
    for snapshotter in ["overlayfs", "native"] {
        daemon.ctr(&["images", "pull", "--plain-http", "--snapshotter", snapshotter, &base]).ok();
        let id = format!("on-{snapshotter}");
        let args = ["run", "--privileged", "--snapshotter", snapshotter, &base, &id, "sh", "-c", CHANGES];
        daemon.ctr(&args).ok();
        let change = diff(daemon, snapshotter, &id);
        assert_eq!(change, diff(daemon, snapshotter, &id), "the same tree makes the same bytes");

        let script =
            daemon.ctr(&["snapshots", "--snapshotter", snapshotter, "mounts", &mounted, &id]).ok().stdout;
        assert!(Command::new("sh").args(["-c", &script]).status().expect("sh runs").success(), "{script}");
        let wanted = describe(Path::new(&mounted));
        nix::mount::umount(Path::new(&mounted)).expect("unmounted");
        assert!(wanted.contains_key("etc/hard") && !wanted.contains_key("etc/group"), "{wanted:?}");

        registry.put("changed", snapshotter, &layers_with(change));
        let changed = registry.reference(&format!("changed:{snapshotter}"));
        daemon.ctr(&["images", "pull", "--plain-http", "--snapshotter", snapshotter, &changed]).ok();
        daemon.ctr(&["images", "mount", "--snapshotter", snapshotter, &changed, &mounted]).ok();
        let ours = describe(Path::new(&mounted));
        daemon.ctr(&["images", "unmount", "--rm", "--snapshotter", snapshotter, &mounted]).ok();
        same(&ours, &wanted, "unpacked by ours");

        let containerd = containerd("");
        let local: &[&str] = if std::env::var_os(HEAD).is_some() { &["--local"] } else { &[] };
        let start = ["images", "pull", "--plain-http"];
        let pull: Vec<&str> = start.iter().chain(local).copied().chain([changed.as_str()]).collect();
        containerd.ctr(&pull).ok();
        containerd.ctr(&["images", "mount", &changed, &mounted]).ok();
        let theirs = describe(Path::new(&mounted));
        containerd.ctr(&["images", "unmount", "--rm", &mounted]).ok();
        same(&theirs, &wanted, "unpacked by containerd");

        let layout = daemon.path().join(format!("layout-{snapshotter}"));
        let bundle = daemon.path().join(format!("bundle-{snapshotter}"));
        let (from, to) = (format!("docker://{changed}"), format!("oci:{}:x", layout.display()));
        run(Command::new("skopeo").args(["copy", "-q", "--src-tls-verify=false", &from, &to]))
            .expect("skopeo")
            .ok();
        let image = format!("{}:x", layout.display());
        run(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle)).expect("umoci").ok();
        same(&describe(&bundle.join("rootfs")), &wanted, "unpacked by umoci");
        daemon.ctr(&["containers", "rm", &id]).ok();
    }
}
