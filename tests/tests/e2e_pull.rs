//! Pulling: what registries may do, and what they do wrong.

use std::time::Duration;

use longshore_tests::daemon::{Settings, eventually};
use longshore_tests::image::{self, Flavour, ImageBuilder, Layer, Packing};
use longshore_tests::registry::{Access, Fault, Registry};
use longshore_tests::{Daemon, Fixture};
use rand::RngExt;
use serde_json::json;

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rand::rng().fill(&mut bytes[..]);
    bytes
}

/// busybox and a layer of this many incompressible bytes.
fn large(length: usize) -> image::Image {
    let layer = Layer::new().file("large", 0o644, &noise(length));
    image::busybox().expect("busybox").layer(layer).build().expect("an image")
}

fn blob_fetches(registry: &Registry, digest: &str) -> usize {
    let needle = format!("/blobs/{digest}");
    registry.requests().iter().filter(|line| line.starts_with("GET") && line.contains(&needle)).count()
}

#[test]
fn every_packing_and_media_type_is_unpacked() {
    let Fixture { daemon, registry, .. } = &Fixture::new();
    for flavour in [Flavour::Oci, Flavour::Docker] {
        for packing in [Packing::Gzip, Packing::Zstd, Packing::Plain] {
            let name = format!("test/{flavour:?}-{packing:?}").to_lowercase();
            let image = image::busybox()
                .expect("busybox")
                .flavour(flavour)
                .packed_layer(Layer::new().file("marker", 0o644, b"unpacked\n").bytes(), packing)
                .build()
                .expect("an image");
            registry.put(&name, "1", &image);
            let output = daemon
                .ctl(&["run", "--rm", &registry.reference(&format!("{name}:1")), "cat", "/marker"])
                .ok();
            assert_eq!(output.stdout, "unpacked\n", "{name}");
        }
    }
}

#[test]
fn an_index_gives_the_hosts_platform() {
    let Fixture { daemon, registry, .. } = &Fixture::new();
    let image = |text: &str, architecture: &str| {
        image::busybox()
            .expect("busybox")
            .architecture(architecture, None)
            .layer(Layer::new().file("platform", 0o644, text.as_bytes()))
            .build()
            .expect("an image")
    };
    let host = image::host_architecture();
    let (right, wrong) = (image("right", host), image("wrong", "s390x"));
    let digest = registry
        .put_index("multi", "1", Flavour::Oci, &[("s390x", None, &wrong), (host, None, &right)])
        .expect("an index");
    let reference = registry.reference("multi:1");
    assert!(daemon.ctl(&["pull", &reference]).ok().stdout.contains(&digest));
    assert_eq!(daemon.ctl(&["run", "--rm", &reference, "cat", "/platform"]).ok().stdout, "right");
    let by_digest = registry.reference(&format!("multi@{digest}"));
    assert_eq!(daemon.ctl(&["run", "--rm", &by_digest, "cat", "/platform"]).ok().stdout, "right");

    registry.put_index("foreign", "1", Flavour::Docker, &[("s390x", None, &wrong)]).expect("an index");
    let refused = daemon.ctl(&["pull", &registry.reference("foreign:1")]).expect(1);
    assert!(refused.stderr.contains("linux/"), "the platform is named: {}", refused.stderr);
}

#[test]
fn layers_whiteouts_links_and_modes_arrive() {
    let Fixture { daemon, registry, .. } = &Fixture::new();
    let image = image::busybox()
        .expect("busybox")
        .layer(
            Layer::new()
                .dir("d/", 0o750)
                .file("d/gone", 0o644, b"x")
                .file("d/stays", 0o640, b"stays")
                .dir("opaque/", 0o755)
                .file("opaque/lower", 0o644, b"x")
                .file("was-file", 0o644, b"x"),
        )
        .layer(
            Layer::new()
                .file("d/.wh.gone", 0o644, b"")
                .file("opaque/.wh..wh..opq", 0o644, b"")
                .file("opaque/upper", 0o644, b"x")
                .hardlink("d/linked", "d/own")
                .file("d/own", 0o4755, b"own"),
        );
    // A hard link may only name what is there already.
    registry.put("bad-link", "1", &image.build().expect("an image"));
    let refused = daemon.ctl(&["pull", &registry.reference("bad-link:1")]).expect(1);
    assert!(refused.stderr.contains("d/linked"), "{}", refused.stderr);

    let image = image::busybox()
        .expect("busybox")
        .layer(
            Layer::new()
                .dir("d/", 0o750)
                .file("d/gone", 0o644, b"x")
                .file("d/stays", 0o640, b"stays")
                .dir("opaque/", 0o755)
                .file("opaque/lower", 0o644, b"x"),
        )
        .layer(
            Layer::new()
                .file("d/.wh.gone", 0o644, b"")
                .file("opaque/.wh..wh..opq", 0o644, b"")
                .file("opaque/upper", 0o644, b"x")
                .file("d/own", 0o4755, b"own")
                .hardlink("d/linked", "d/own"),
        );
    registry.put("layers", "1", &image.build().expect("an image"));
    let script = "ls /d; ls /opaque; stat -c '%a %n' /d /d/stays /d/own; stat -c %h /d/linked";
    let output = daemon.ctl(&["run", "--rm", &registry.reference("layers:1"), "sh", "-c", script]).ok();
    assert_eq!(output.stdout, "linked\nown\nstays\nupper\n750 /d\n640 /d/stays\n4755 /d/own\n2\n");
}

#[test]
fn registries_ask_for_basic_and_bearer_credentials() {
    let registry = Registry::start().expect("a registry");
    registry.put("private", "1", &image::busybox().expect("busybox").build().expect("an image"));
    let config =
        format!("[registry.auth.\"{}\"]\nusername = \"me\"\npassword = \"secret\"\n", registry.address());
    let stranger = Daemon::start();
    let known = Daemon::with(Settings { config, ..Settings::default() }).expect("a daemon");
    let reference = registry.reference("private:1");
    for access in [
        Access::Basic { user: "me".into(), password: "secret".into() },
        Access::Bearer { user: Some(("me".into(), "secret".into())) },
    ] {
        registry.set_access(access);
        let refused = stranger.ctl(&["pull", &reference]).expect(1);
        assert!(
            refused.stderr.to_lowercase().contains("unauthorized") || refused.stderr.contains("denied"),
            "{}",
            refused.stderr
        );
        known.ctl(&["pull", &reference]).ok();
        known.ctl(&["rmi", &reference]).ok();
    }
    registry.set_access(Access::Bearer { user: None });
    stranger.ctl(&["pull", &reference]).ok();
}

#[test]
fn what_a_registry_does_wrong_has_its_own_error() {
    let Fixture { daemon, registry, .. } = &Fixture::new();
    let image = large(300_000);
    registry.put("test/bad", "1", &image);
    let reference = registry.reference("test/bad:1");
    let blob = image.layer_digests[1].clone();
    let cases: Vec<(&str, Fault, &str)> = vec![
        ("/manifests/1", Fault::Status(404), "not found"),
        ("/manifests/1", Fault::Status(401), "unauthorized"),
        ("/manifests/1", Fault::Status(403), "denied"),
        ("/manifests/1", Fault::Status(500), "500"),
        (&blob, Fault::Status(404), &blob),
        (&blob, Fault::Status(500), &blob),
        (&blob, Fault::Corrupt, &blob),
        (&blob, Fault::CutAfter(1000), &blob),
        (&blob, Fault::Endless, &blob),
    ];
    for (path, fault, expected) in cases {
        let shown = format!("{path} {fault:?}");
        registry.fault(path, fault, None);
        let refused = daemon.ctl(&["pull", &reference]);
        registry.clear_faults();
        assert_eq!(refused.code, 1, "{shown}: {refused:?}");
        assert!(refused.stderr.to_lowercase().contains(expected), "{shown}: {}", refused.stderr);
        assert_eq!(daemon.ctl(&["images", "-q"]).ok().line(), "", "{shown}: no image is left");
    }
    daemon.ctl(&["pull", &reference]).ok();
}

#[test]
fn passing_faults_are_lived_through() {
    let Fixture { daemon, registry, .. } = &Fixture::new();
    let image = large(3_000_000);
    registry.put("test/shaky", "1", &image);
    let reference = registry.reference("test/shaky:1");
    let blob = image.layer_digests[1].clone();
    for (path, fault) in [
        ("/manifests/1", Fault::TooMany(1)),
        ("/manifests/1", Fault::Status(503)),
        (blob.as_str(), Fault::TooMany(1)),
        (blob.as_str(), Fault::Status(502)),
        (blob.as_str(), Fault::CutAfter(700_000)),
        (blob.as_str(), Fault::IgnoreRange),
        (blob.as_str(), Fault::Stall(Duration::from_secs(1))),
    ] {
        let shown = format!("{path} {fault:?}");
        registry.fault(path, fault, Some(1));
        let pulled = daemon.ctl(&["pull", &reference]);
        assert_eq!(pulled.code, 0, "{shown}: {pulled:?}");
        daemon.ctl(&["rmi", &reference]).ok();
        eventually("the image's blobs are collected", || {
            let listed = daemon.ctl(&["images", "-q"]);
            listed.line().is_empty()
        });
    }
}

#[test]
fn two_pulls_of_one_image_fetch_it_once() {
    let Fixture { daemon, registry, .. } = &Fixture::new();
    let image = large(2_000_000);
    registry.put("test/shared", "1", &image);
    let reference = registry.reference("test/shared:1");
    let blob = image.layer_digests[1].clone();
    registry.fault(&blob, Fault::Slow(2_000_000), None);
    let outputs: Vec<_> = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| daemon.ctl(&["pull", &reference]))).collect();
        pulls.into_iter().map(|pull| pull.join().expect("a pull ends")).collect()
    });
    for output in outputs {
        output.ok();
    }
    let fetched = blob_fetches(registry, &blob);
    let chunks: std::collections::BTreeSet<_> = registry
        .requests()
        .into_iter()
        .filter(|line| line.starts_with("GET") && line.contains(&blob))
        .collect();
    assert_eq!(fetched, chunks.len(), "no range is fetched twice: {:?}", registry.requests());
}

#[test]
fn an_interrupted_pull_goes_on_where_it_was() {
    let mut fixture = Fixture::new();
    let image = large(24_000_000);
    fixture.registry.put("test/resumed", "1", &image);
    let reference = fixture.registry.reference("test/resumed:1");
    let blob = image.layer_digests[1].clone();
    fixture.registry.fault(&blob, Fault::Slow(8_000_000), None);
    let mut pull = fixture
        .daemon
        .ctl_command(&["pull", &reference])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("longshore starts");
    eventually("the layer is being fetched", || blob_fetches(&fixture.registry, &blob) > 0);
    std::thread::sleep(Duration::from_millis(1500));
    fixture.daemon.kill();
    let _ = pull.kill();
    pull.wait().expect("the client ends");
    fixture.registry.clear_faults();
    fixture.registry.forget_requests();
    fixture.daemon.launch().expect("the daemon starts again");
    fixture.daemon.ctl(&["pull", &reference]).ok();
    let first_bytes = fixture.registry.requests().iter().any(|line| {
        line.contains(&blob) && (line.contains("bytes=0-") || !line.contains('[')) && line.starts_with("GET")
    });
    assert!(!first_bytes, "the beginning is not fetched again: {:?}", fixture.registry.requests());
    fixture.daemon.ctl(&["run", "--rm", &reference, "test", "-s", "/large"]).ok();
}

#[test]
fn hostile_images_are_refused_by_name_of_the_rule() {
    let Fixture { daemon, registry, .. } = &Fixture::new();
    let outside = daemon.path().join("outside");
    std::fs::create_dir(&outside).expect("a folder");
    let target = outside.display().to_string();
    let hostile: Vec<(&str, Layer)> = vec![
        ("dotdot", Layer::new().file("../escaped", 0o644, b"x")),
        ("through-link", Layer::new().symlink("way", &target).file("way/escaped", 0o644, b"x")),
        ("hard-link", Layer::new().hardlink("stolen", "../../../../etc/shadow")),
        ("root-replaced", Layer::new().file("./", 0o644, b"x")),
        ("whiteout-of-nothing", Layer::new().file(".wh.", 0o644, b"")),
        ("whiteout-of-parent", Layer::new().file("d/.wh...", 0o644, b"")),
        ("overlay-device", Layer::new().raw("dev0", tar::EntryType::Char, 0o644, (0, 0), "", b"")),
    ];
    for (name, layer) in hostile {
        let image = image::busybox().expect("busybox").layer(layer).build().expect("an image");
        registry.put(name, "1", &image);
        let refused = daemon.ctl(&["pull", &registry.reference(&format!("{name}:1"))]);
        if name == "through-link" {
            // Resolved inside the image's own root, or refused: either way nothing is written outside.
            assert!(refused.code == 0 || refused.code == 1, "{refused:?}");
        } else {
            assert_eq!(refused.code, 1, "{name}: {refused:?}");
            assert!(
                refused.stderr.contains(&image.layer_digests[1]),
                "{name} names its layer: {}",
                refused.stderr
            );
        }
        assert_eq!(std::fs::read_dir(&outside).expect("a folder").count(), 0, "{name} wrote outside");
    }

    let bomb = ImageBuilder::new().packed_layer(vec![0; 1 << 30], Packing::Zstd).build().expect("an image");
    registry.put("bomb", "1", &bomb);
    let refused = daemon.ctl(&["pull", &registry.reference("bomb:1")]).expect(1);
    assert!(refused.stderr.contains(&bomb.layer_digests[0]), "{}", refused.stderr);

    let both = json!({"schemaVersion": 2, "mediaType": Flavour::Oci.manifest(), "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": image::digest(b"x"), "size": 1}, "layers": [], "manifests": []});
    registry.put_manifest("both", "1", Flavour::Oci.manifest(), both.to_string().into());
    daemon.ctl(&["pull", &registry.reference("both:1")]).expect(1);
    registry.put_manifest("huge", "1", Flavour::Oci.manifest(), vec![b' '; 5 << 20].into());
    daemon.ctl(&["pull", &registry.reference("huge:1")]).expect(1);
    registry.put_manifest("nonsense", "1", Flavour::Oci.manifest(), "{".into());
    daemon.ctl(&["pull", &registry.reference("nonsense:1")]).expect(1);
    assert_eq!(
        daemon.ctl(&["images", "-q"]).ok().line().lines().count(),
        usize::from(daemon.ctl(&["images"]).ok().stdout.contains("through-link"))
    );
}

#[test]
fn a_full_disk_is_an_error_and_no_end() {
    let settings = Settings { tmpfs: Some(24 << 20), ..Settings::default() };
    let fixture = Fixture::with(settings).expect("a fixture");
    let Fixture { daemon, registry, busybox } = &fixture;
    registry.put("test/large", "1", &large(40_000_000));
    let refused = daemon.ctl(&["pull", &registry.reference("test/large:1")]).expect(1);
    assert!(refused.stderr.contains("space"), "{}", refused.stderr);
    daemon.ctl(&["run", "--rm", busybox, "true"]).ok();
}

#[test]
fn malformed_references_are_refused_as_docker_does() {
    let daemon = Daemon::start();
    for reference in
        ["library/UPPER", "a b", "x:", "x@sha256:12", ":latest", "-x/..", "http://x/y", "x//y", "a@b@c"]
    {
        let refused = daemon.ctl(&["pull", "--", reference]).expect(1);
        assert!(
            refused.stderr.contains("invalid reference format")
                || refused.stderr.contains("must be lowercase"),
            "{reference}: {}",
            refused.stderr
        );
        daemon.ctl(&["run", "--", reference]).expect(125);
    }
}

#[test]
fn ranges_that_arrive_together_are_noted_one_after_the_other() {
    let Fixture { daemon, registry, .. } = &Fixture::new();
    for round in 0..3 {
        registry.put("test/wide", "1", &large(48_000_000));
        let pulled = daemon.ctl(&["pull", &registry.reference("test/wide:1")]);
        assert_eq!(pulled.code, 0, "round {round}: {pulled:?}");
    }
}
