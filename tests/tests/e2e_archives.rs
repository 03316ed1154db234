//! Images as archives: saved and loaded by us, by docker and by skopeo.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use longshore_tests::daemon::{finish, run};
use longshore_tests::docker::{Dockerd, Edition, Networks};
use longshore_tests::image::{self, Flavour, Layer, Packing, pack};
use longshore_tests::{Daemon, Fixture, Output};
use serde_json::{Value, json};

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test")
}

fn file_of(archive: &Path, name: &str) -> Vec<u8> {
    let output = Command::new("tar").arg("xOf").arg(archive).arg(name).output().expect("tar runs");
    assert!(output.status.success(), "{name} is in {}", archive.display());
    output.stdout
}

fn id(daemon: &Daemon, image: &str) -> String {
    daemon.ctl(&["image", "inspect", "-f", "{{.Id}}", image]).ok().line().to_owned()
}

fn load_from(daemon: &Daemon, path: &Path) -> Output {
    let mut command = daemon.ctl_command(&["load"]);
    let file = fs::File::open(path).expect("the archive");
    finish(command.stdin(file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("longshore runs"))
        .expect("longshore ends")
}

#[test]
fn what_is_saved_is_loaded_whole() {
    let Fixture { daemon, busybox, registry, .. } = &Fixture::pulled();
    let folder = tempfile::tempdir().expect("a folder");
    let second = image::busybox().expect("busybox").layer(Layer::new().file("second", 0o644, b"second\n"));
    registry.put("second", "1", &second.build().expect("an image"));
    let from = registry.reference("second:1");
    daemon.ctl(&["pull", "-q", &from]).ok();
    for (source, name) in [(busybox, "base:1"), (busybox, "base:2"), (&from, "second:1")] {
        daemon.ctl(&["tag", source, name]).ok();
    }
    let archive = folder.path().join("both.tar");
    // A name without a tag means all of its tags.
    daemon.ctl(&["save", "-o", text(&archive), "base", "second:1"]).ok();
    let images: Value = serde_json::from_slice(&file_of(&archive, "manifest.json")).expect("JSON");
    assert_eq!(images[0]["RepoTags"], json!(["base:1", "base:2"]));
    assert_eq!(images[1]["RepoTags"], json!(["second:1"]));
    let repositories: Value = serde_json::from_slice(&file_of(&archive, "repositories")).expect("JSON");
    assert!(repositories["base"]["2"].is_string() && repositories["second"]["1"].is_string());
    assert!(!file_of(&archive, "index.json").is_empty() && !file_of(&archive, "oci-layout").is_empty());

    // The same on stdout.
    let piped = folder.path().join("piped.tar");
    let out = fs::File::create(&piped).expect("a file");
    let mut saving = daemon.ctl_command(&["save", "base:1", "base:2", "second:1"]);
    assert!(saving.stdout(out).status().expect("longshore runs").success());
    assert!(fs::read(&piped).expect("a file") == fs::read(&archive).expect("a file"));

    let other = Daemon::start();
    let loaded = other.ctl(&["load", "-i", text(&archive)]).ok();
    assert_eq!(loaded.stdout, "Loaded image: base:1\nLoaded image: base:2\nLoaded image: second:1\n");
    for name in ["base:2", "second:1"] {
        assert_eq!(id(&other, name), id(daemon, name));
    }
    assert_eq!(other.ctl(&["run", "--rm", "second:1", "cat", "/second"]).ok().stdout, "second\n");

    // Packed archives, from a file and from stdin; quietly, and by id.
    let by_id = folder.path().join("id.tar");
    daemon.ctl(&["save", "-o", text(&by_id), &id(daemon, "second:1")[7..19]]).ok();
    let images: Value = serde_json::from_slice(&file_of(&by_id, "manifest.json")).expect("JSON");
    assert_eq!(images[0]["RepoTags"], Value::Null);
    let bytes = fs::read(&by_id).expect("the archive");
    for packing in [Packing::Gzip, Packing::Zstd] {
        let third = Daemon::start();
        let packed = folder.path().join("packed");
        fs::write(&packed, pack(&bytes, packing).expect("packed")).expect("a file");
        let loaded = load_from(&third, &packed).ok();
        let id = id(daemon, "second:1");
        assert_eq!(loaded.stdout, format!("Loaded image ID: {id}\n"), "{packing:?}");
        // It has no name, and is there all the same.
        assert!(third.ctl(&["images"]).ok().stdout.contains("<none>       <none>    "));
        assert_eq!(third.ctl(&["images", "-q", "--no-trunc", "-f", "dangling=true"]).ok().line(), id);
        third.ctl(&["tag", &id, "named:1"]).ok();
        assert_eq!(third.ctl(&["images", "-q", "-f", "dangling=true"]).ok().line(), "");
        assert_eq!(third.ctl(&["run", "--rm", "named:1", "cat", "/second"]).ok().stdout, "second\n");
    }
}

#[test]
fn a_name_that_changes_hands_leaves_an_image_without_one() {
    let Fixture { daemon, busybox, registry, .. } = &Fixture::pulled();
    let second = image::busybox().expect("busybox").layer(Layer::new().file("second", 0o644, b"second\n"));
    registry.put("second", "1", &second.build().expect("an image"));
    let from = registry.reference("second:1");
    daemon.ctl(&["pull", "-q", &from]).ok();
    // Made here only.
    daemon.ctl(&["tag", busybox, "mine:1"]).ok();
    let old = id(daemon, "mine:1");
    daemon.ctl(&["rmi", busybox]).ok();
    daemon.ctl(&["tag", &from, "mine:1"]).ok();
    assert_eq!(daemon.ctl(&["images", "-q", "--no-trunc", "-f", "dangling=true"]).ok().line(), old);
    let pruned = daemon.ctl(&["image", "prune", "-f"]).ok().stdout;
    assert!(pruned.starts_with(&format!("Deleted Images:\ndeleted: {old}\n")), "{pruned}");
    assert_eq!(daemon.ctl(&["images", "-q", "-f", "dangling=true"]).ok().line(), "");
    // A newer image of its registry leaves the older one its digest there.
    let newer = image::busybox().expect("busybox").layer(Layer::new().file("third", 0o644, b"third\n"));
    registry.put("second", "1", &newer.build().expect("an image"));
    let old = id(daemon, "mine:1");
    daemon.ctl(&["rmi", "mine:1"]).ok();
    daemon.ctl(&["pull", "-q", &from]).ok();
    let listed =
        daemon.ctl(&["images", "--format", "{{.Repository}} {{.Tag}} {{.ID}}", "--no-trunc"]).ok().stdout;
    let name = registry.reference("second");
    assert!(listed.contains(&format!("{name} <none> {old}\n")), "{listed}");
    assert!(listed.contains(&format!("{name} 1 sha256:")), "{listed}");
}

#[test]
fn what_is_no_archive_is_refused() {
    let Fixture { daemon, busybox, .. } = &Fixture::pulled();
    let folder = tempfile::tempdir().expect("a folder");
    let garbage = folder.path().join("garbage");
    fs::write(&garbage, "this is no archive\n".repeat(100)).expect("a file");
    assert!(load_from(daemon, &garbage).expect(1).stderr.contains("image archive"));
    let absent = daemon.ctl(&["load", "-i", "/nope"]).expect(1);
    assert_eq!(absent.stderr, "open /nope: no such file or directory\n");
    let archive = folder.path().join("x.tar");
    let refused = daemon.ctl(&["save", "-o", text(&archive), "nope"]).expect(1);
    assert_eq!(refused.stderr, "Error response from daemon: No such image: nope\n");
    assert!(!archive.exists(), "nothing half-made is left");
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1);
    let refused = daemon.ctl(&["save", "-o", "/nope/x", busybox]).expect(1);
    assert!(refused.stderr.starts_with("failed to save image: invalid output path: "), "{}", refused.stderr);
    // One that is cut off names nothing.
    daemon.ctl(&["tag", busybox, "cut:1"]).ok();
    daemon.ctl(&["save", "-o", text(&archive), "cut:1"]).ok();
    let other = Daemon::start();
    let bytes = fs::read(&archive).expect("the archive");
    fs::write(&archive, &bytes[..bytes.len() / 2]).expect("a file");
    load_from(&other, &archive).expect(1);
    assert_eq!(other.ctl(&["images", "-q"]).ok().line(), "");
}

#[test]
fn history_tells_how_an_image_was_made() {
    let Fixture { daemon, busybox, .. } = &Fixture::pulled();
    let history = daemon.ctl(&["history", busybox]).ok().stdout;
    let lines: Vec<&str> = history.lines().collect();
    assert_eq!(lines.len(), 2, "{history}");
    assert!(lines[0].starts_with("IMAGE          CREATED"), "{history}");
    assert!(lines[1].contains("longshore-tests") && lines[1].contains("MB"), "{history}");
    let id = id(daemon, busybox);
    let whole = daemon.ctl(&["history", "-q", "--no-trunc", busybox]).ok();
    assert_eq!(whole.line(), id);
    let exact = daemon.ctl(&["history", "-H=false", "--format", "{{.Size}} {{.CreatedBy}}", busybox]).ok();
    let (size, by) = exact.line().split_once(' ').expect("two fields");
    assert!(size.parse::<u64>().expect("bytes") > 500_000 && by == "longshore-tests", "{exact:?}");
    let absent = daemon.ctl(&["history", "nope"]).expect(1);
    assert_eq!(absent.stderr, "Error response from daemon: No such image: nope:latest\n");
}

#[test]
#[cfg_attr(not(all(have_dockerd, have_skopeo)), ignore = "needs dockerd and skopeo")]
fn docker_and_skopeo_load_ours_and_we_load_theirs() {
    let Fixture { daemon, busybox, registry, .. } = &Fixture::pulled();
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    daemon.ctl(&["tag", busybox, "ours:1"]).ok();
    daemon.ctl(&["tag", busybox, "ours:2"]).ok();
    let ours = at("ours.tar");
    daemon.ctl(&["save", "-o", text(&ours), "ours:1", "ours:2"]).ok();

    let dockerd = Dockerd::start(daemon, Edition::Distribution, Networks::None, &[]).expect("dockerd starts");
    let loaded = dockerd.docker(&["load", "-i", text(&ours)]).ok().stdout;
    assert!(
        loaded.contains("Loaded image: ours:1\n") && loaded.contains("Loaded image: ours:2\n"),
        "{loaded}"
    );
    let theirs = dockerd.docker(&["image", "inspect", "-f", "{{.Id}}", "ours:2"]).ok();
    assert_eq!(theirs.line(), id(daemon, "ours:2"));
    let ran = dockerd.docker(&["run", "--rm", "--network=none", "ours:1", "echo", "loaded"]).ok();
    assert_eq!(ran.line(), "loaded");

    dockerd.docker(&["tag", "ours:1", "theirs:1"]).ok();
    dockerd.docker(&["tag", "ours:1", "theirs:2"]).ok();
    let saved = at("theirs.tar");
    dockerd.docker(&["save", "-o", text(&saved), "theirs:1", "theirs:2"]).ok();
    let loaded = daemon.ctl(&["load", "-i", text(&saved)]).ok().stdout;
    assert_eq!(loaded, "Loaded image: theirs:1\nLoaded image: theirs:2\n");
    assert_eq!(id(daemon, "theirs:2"), id(daemon, "ours:1"));
    assert_eq!(daemon.ctl(&["run", "--rm", "theirs:1", "echo", "loaded"]).ok().line(), "loaded");

    // skopeo reads both forms that are in ours, and writes both.
    for form in ["docker-archive", "oci-archive"] {
        let one = at("one.tar");
        daemon.ctl(&["save", "-o", text(&one), "ours:1"]).ok();
        let inspected = skopeo(&["inspect", "--config", &format!("{form}:{}", text(&one))]);
        assert!(inspected.contains("longshore-tests"), "{form}: {inspected}");
        let copied = at(&format!("{form}.tar"));
        let to = match form {
            "docker-archive" => format!("{form}:{}:skopeo:1", text(&copied)),
            _ => format!("{form}:{}:example.org/skopeo:2", text(&copied)),
        };
        let from = format!("docker://{busybox}");
        skopeo(&["copy", "-q", "--src-tls-verify=false", &from, &to]);
        let loaded = daemon.ctl(&["load", "-q", "-i", text(&copied)]).ok().stdout;
        assert!(loaded.starts_with("Loaded image: "), "{form}: {loaded}");
        let name = loaded.trim().rsplit(' ').next().expect("a name");
        assert_eq!(daemon.ctl(&["run", "--rm", name, "echo", "copied"]).ok().line(), "copied");
    }
    drop(registry.requests());
}

fn skopeo(arguments: &[&str]) -> String {
    run(Command::new("skopeo").args(arguments)).expect("skopeo runs").ok().stdout
}

#[test]
fn platforms_are_saved_loaded_and_removed_one_by_one() {
    let Fixture { daemon, registry, .. } = &Fixture::new();
    let of = |architecture: &str| {
        let layer = Layer::new().file("platform", 0o644, architecture.as_bytes());
        image::busybox()
            .expect("busybox")
            .architecture(architecture, None)
            .layer(layer)
            .build()
            .expect("an image")
    };
    let host = image::host_architecture();
    let (here, elsewhere) = (of(host), of("s390x"));
    registry
        .put_index("multi", "1", Flavour::Oci, &[("s390x", None, &elsewhere), (host, None, &here)])
        .expect("an index");
    let name = registry.reference("multi:1");
    daemon.ctl(&["pull", "-q", &name]).ok();
    daemon.ctl(&["pull", "-q", "--platform", "linux/s390x", &name]).ok();
    let architecture = |platform: &str| {
        let format = ["image", "inspect", "-f", "{{.Architecture}}", "--platform", platform, &name];
        daemon.ctl(&format)
    };
    assert_eq!(architecture("linux/s390x").ok().line(), "s390x");
    let folder = tempfile::tempdir().expect("a folder");
    let archive = folder.path().join("s390x.tar");
    daemon.ctl(&["save", "--platform", "linux/s390x", "-o", text(&archive), &name]).ok();
    let images: Value = serde_json::from_slice(&file_of(&archive, "manifest.json")).expect("JSON");
    let config = elsewhere.config_digest.replace("sha256:", "blobs/sha256/");
    assert_eq!(images[0]["Config"], json!(config));
    let other = Daemon::start();
    other.ctl(&["load", "--platform", "linux/s390x", "-i", text(&archive)]).ok();
    let found = ["image", "inspect", "-f", "{{.Id}}", "--platform", "linux/s390x", &name];
    assert_eq!(other.ctl(&found).ok().line(), elsewhere.config_digest);

    // All that is here, of images that differ in what is here of them.
    let second = registry.reference("multi:2");
    registry
        .put_index("multi", "2", Flavour::Docker, &[("s390x", None, &elsewhere), (host, None, &here)])
        .expect("an index");
    daemon.ctl(&["pull", "-q", &second]).ok();
    let all = folder.path().join("all.tar");
    daemon.ctl(&["save", "-o", text(&all), &name, &second]).ok();
    let images: Value = serde_json::from_slice(&file_of(&all, "manifest.json")).expect("JSON");
    assert_eq!(images[0]["Config"], json!(here.config_digest.replace("sha256:", "blobs/sha256/")));

    let removed = daemon.ctl(&["rmi", "--platform", "linux/s390x", &name]).ok();
    assert_eq!(removed.stdout, format!("Deleted: {}\n", elsewhere.digest()));
    longshore_tests::daemon::eventually("the platform is gone", || architecture("linux/s390x").code == 1);
    assert_eq!(daemon.ctl(&["run", "--rm", &name, "cat", "/platform"]).ok().line(), host);
}
