//! Pushing from the command line: to Debian's registry, and to one that misbehaves.

use longshore_tests::docker_registry::DockerRegistry;
use longshore_tests::image::{self, Flavour, Layer};
use longshore_tests::registry::{Fault, Registry};
use longshore_tests::{Daemon, Fixture};

#[test]
#[cfg_attr(not(have_docker_registry), ignore = "needs docker-registry")]
fn a_push_says_what_docker_says() {
    let Fixture { daemon, busybox, .. } = &Fixture::pulled();
    let folder = tempfile::tempdir().expect("a folder");
    let registry = DockerRegistry::start(folder.path(), None).expect("docker-registry starts");
    let name = registry.reference("a/x");
    for tag in ["1", "2"] {
        daemon.ctl(&["tag", busybox, &format!("{name}:{tag}")]).ok();
    }
    let pushed = daemon.ctl(&["push", &format!("{name}:1")]).ok();
    let lines: Vec<&str> = pushed.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(lines[0], format!("The push refers to repository [{name}]"));
    let id = &lines[1][..12];
    assert!(id.chars().all(|c| c.is_ascii_hexdigit()), "{lines:?}");
    assert_eq!(lines[1..3], [format!("{id}: Preparing"), format!("{id}: Pushed")]);
    let last: Vec<&str> = lines[3].split(' ').collect();
    assert!(matches!(last[..], ["1:", "digest:", _, "size:", _]), "{last:?}");
    assert!(last[2].starts_with("sha256:") && last[4].parse::<u32>().is_ok(), "{last:?}");

    // All tags: the layer is there.
    let all = daemon.ctl(&["push", "-a", &name]).ok().stdout;
    assert_eq!(all.matches("Layer already exists").count(), 2, "{all}");
    assert!(all.contains("\n1: digest: ") && all.contains("\n2: digest: "), "{all}");
    assert_eq!(daemon.ctl(&["push", "-q", &format!("{name}:2")]).ok().line(), format!("{name}:2"));

    // Another repository of the same registry has it from the first one.
    let other = registry.reference("b/y:1");
    daemon.ctl(&["tag", busybox, &other]).ok();
    let mounted = daemon.ctl(&["push", &other]).ok().stdout;
    assert!(mounted.contains(": Mounted from a/x\n"), "{mounted}");

    // What was pushed can be pulled, all of it at once, too.
    for tag in ["1", "2"] {
        daemon.ctl(&["rmi", &format!("{name}:{tag}")]).ok();
    }
    let pulled = daemon.ctl(&["pull", "-a", &name]).ok().stdout;
    assert!(pulled.contains("1: Pulling from a/x\n") && pulled.contains("2: Pulling from a/x\n"), "{pulled}");
    assert_eq!(pulled.matches("Status: ").count(), 1, "{pulled}");
    assert!(pulled.ends_with(&format!("{name}\n")), "{pulled}");
    assert_eq!(daemon.ctl(&["run", "--rm", &format!("{name}:2"), "echo", "back"]).ok().line(), "back");
}

#[test]
fn what_cannot_be_pushed_is_refused_in_docker_s_words() {
    let Fixture { daemon, busybox, registry, .. } = &Fixture::pulled();
    for (arguments, stdout, stderr) in [
        (
            &["push", "nope:1"][..],
            "The push refers to repository [docker.io/library/nope]\n",
            "An image does not exist locally with the tag: nope\n",
        ),
        (&["push", "-a", busybox], "", "tag can't be used with --all-tags/-a\n"),
        (&["pull", "-a", busybox], "", "tag can't be used with --all-tags/-a\n"),
    ] {
        let refused = daemon.ctl(arguments).expect(1);
        assert_eq!((refused.stdout.as_str(), refused.stderr.as_str()), (stdout, stderr), "{arguments:?}");
    }
    let absent = registry.reference("library/busybox:absent");
    let refused = daemon.ctl(&["push", &absent]).expect(1);
    assert_eq!(refused.stderr, format!("tag does not exist: {absent}\n"));
    let digest = format!("{}@sha256:{}", registry.reference("library/busybox"), "a".repeat(64));
    assert_eq!(daemon.ctl(&["push", &digest]).expect(1).stderr, "cannot push a digest reference\n");
    // A registry that refuses says why.
    registry.fault("PUT /v2/denied/x/manifests", Fault::Status(403), None);
    let denied = registry.reference("denied/x:1");
    daemon.ctl(&["tag", busybox, &denied]).ok();
    assert!(daemon.ctl(&["push", &denied]).expect(1).stderr.contains("denied"));
    assert_eq!(daemon.ctl(&["pull", "a", "b"]).expect(1).code, 1);
}

#[test]
fn a_broken_upload_goes_on_and_one_platform_of_several_is_pushed_alone() {
    let daemon = &Daemon::start();
    let registry = Registry::start().expect("a registry");
    registry.be_strict();
    let here = image::busybox().expect("busybox").layer(Layer::new().file("large", 0o644, &vec![7; 3 << 20]));
    let here = here.build().expect("an image");
    let elsewhere = image::busybox().expect("busybox").architecture("s390x", None).build().expect("an image");
    let host = image::host_architecture();
    let index = registry
        .put_index("multi", "1", Flavour::Oci, &[("s390x", None, &elsewhere), (host, None, &here)])
        .expect("an index");
    let (from, to) = (registry.reference("multi:1"), registry.reference("copy:1"));
    daemon.ctl(&["pull", "-q", &from]).ok();

    // From another registry there is nothing to mount from.
    let other = Registry::start().expect("a registry");
    other.be_strict();
    other.fault("PATCH /v2/copy", Fault::CutUpload(1000), Some(1));
    other.fault("PUT /v2/copy/blobs", Fault::CutUpload(1000), Some(2));
    let there = other.reference("copy:1");
    daemon.ctl(&["tag", &from, &there]).ok();
    let pushed = daemon.ctl(&["push", &there]).ok().stdout;
    let digest = here.digest();
    assert!(pushed.contains(&format!("1: digest: {digest} size: {}", here.manifest.len())), "{pushed}");
    assert!(pushed.contains("only the available single-platform image was pushed"), "{pushed}");
    assert!(pushed.contains(&format!("{index} -> {digest}")), "{pushed}");
    assert_eq!(other.manifest("copy", "1").as_deref(), Some(&here.manifest[..]));
    assert!(other.manifest("copy", &index).is_none());

    // With all platforms here the whole index goes.
    daemon.ctl(&["pull", "-q", "--platform", "linux/s390x", &from]).ok();
    daemon.ctl(&["tag", &from, &to]).ok();
    let whole = daemon.ctl(&["push", &to]).ok().stdout;
    assert!(whole.contains(&format!("1: digest: {index}")) && !whole.contains("Info"), "{whole}");
    let one = registry.reference("one:1");
    daemon.ctl(&["tag", &from, &one]).ok();
    let one = daemon.ctl(&["push", "--platform", "linux/s390x", &one]).ok().stdout;
    assert!(one.contains(&elsewhere.digest()), "{one}");
}
