//! The transfer service with programs of others: Debian's docker-registry, skopeo and umoci, and a newer containerd's `ctr`, whose
//! image commands use it (`LONGSHORE_NEWER_CTR` says, at build time, where it is).
#![cfg_attr(not(have_skopeo), allow(dead_code, unused_imports))]

use std::fs;
use std::path::Path;
use std::process::Command;

use longshore_proto::containerd::types::transfer as types;
use longshore_tests::daemon::{Output, run};
use longshore_tests::docker_registry::DockerRegistry;
use longshore_tests::image::{ImageBuilder, Layer, Packing};
use longshore_tests::transfer::{Transfers, import_store, named, pack, pull_store, registry};
use longshore_tests::{Daemon, Fixture};

fn tool(name: &str, args: &[&str]) -> Output {
    run(Command::new(name).args(args)).expect("the tool runs")
}

fn skopeo(args: &[&str]) -> Output {
    let mut all = vec!["--insecure-policy"];
    all.extend(args);
    tool("skopeo", &all)
}

async fn client(daemon: &Daemon) -> Transfers {
    Transfers::connect(&daemon.socket()).await.expect("connected")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[tokio::test]
#[cfg_attr(not(all(have_skopeo, have_umoci)), ignore = "needs skopeo and umoci")]
async fn skopeo_and_umoci_read_what_is_exported_and_make_what_is_imported() {
    let fixture = Fixture::new();
    let mut client = client(&fixture.daemon).await;
    let name = fixture.busybox.clone();
    client.pull(&name).await.expect("pulled");
    let archive = client.export(&[&name], types::ImageExportStream::default()).await.expect("exported");
    let folder = fixture.daemon.path().join("exchange");
    let layout = folder.join("layout");
    fs::create_dir_all(&layout).expect("a folder");
    let file = folder.join("image.tar");
    fs::write(&file, archive).expect("a file");
    tool("tar", &["-xf", &text(&file), "-C", &text(&layout)]).ok();
    assert_eq!(tool("umoci", &["ls", "--layout", &text(&layout)]).ok().line(), "latest");
    let bundle = folder.join("bundle");
    let image = format!("{}:latest", text(&layout));
    tool("umoci", &["unpack", "--image", &image, &text(&bundle)]).ok();
    assert!(bundle.join("rootfs/bin/busybox").exists(), "umoci unpacks it");
    skopeo(&["copy", &format!("oci-archive:{}", text(&file)), &format!("dir:{}", text(&folder.join("dir")))])
        .ok();
    let loaded = format!("dir:{}", text(&folder.join("docker")));
    skopeo(&["copy", &format!("docker-archive:{}", text(&file)), &loaded]).ok();

    let source = format!("docker://{name}");
    let docker = folder.join("docker.tar");
    let oci = folder.join("oci.tar");
    let tagged = format!("docker-archive:{}:docker.io/library/from-skopeo:1", text(&docker));
    skopeo(&["copy", "--src-tls-verify=false", &source, &tagged]).ok();
    let tagged = format!("oci-archive:{}:two", text(&oci));
    skopeo(&["copy", "--src-tls-verify=false", &source, &tagged]).ok();
    client.delete_images().await;
    for (file, expected) in [
        (&docker, "docker.io/library/from-skopeo:1"),
        (&oci, "example.com/imported:two"),
        (&file, name.as_str()),
    ] {
        let archive = fs::read(file).expect("the archive");
        client.import(archive, import_store("example.com/imported")).await.expect("imported");
        assert_eq!(client.image_names().await, [expected], "{}", file.display());
        client.delete_images().await;
    }
    // umoci adds a tag to the layout that was exported.
    tool("umoci", &["tag", "--image", &image, "again"]).ok();
    let packed = folder.join("again.tar");
    tool("tar", &["-cf", &text(&packed), "-C", &text(&layout), "."]).ok();
    client
        .import(fs::read(&packed).expect("the archive"), import_store("example.com/imported"))
        .await
        .expect("imported");
    assert!(client.image_names().await.contains(&name), "{:?}", client.image_names().await);
}

/// More than a chunk, which does not shrink.
fn large() -> ImageBuilder {
    let mut noise = vec![0u8; 20 << 20];
    let mut state = 88_172_645_463_325_252u64;
    for byte in &mut noise {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state.to_le_bytes()[3];
    }
    ImageBuilder::new().packed_layer(Layer::new().file("noise", 0o644, &noise).bytes(), Packing::Plain)
}

#[tokio::test]
#[cfg_attr(not(all(have_docker_registry, have_htpasswd)), ignore = "needs docker-registry and htpasswd")]
async fn a_real_registry_takes_large_blobs_and_asks_for_a_password() {
    let fixture = Fixture::new();
    let mut client = client(&fixture.daemon).await;
    fixture.registry.put("large", "1", &large().build().expect("an image"));
    let from = fixture.registry.reference("large:1");
    client.pull(&from).await.expect("pulled");
    let server = DockerRegistry::start(&fixture.daemon.path().join("registry"), Some(("me", "secret")))
        .expect("a registry");
    let to = server.reference("private/large:1");
    assert_eq!(client.push(&from, &to).await.unwrap_err().code(), tonic::Code::Unauthenticated);
    let mut destination = registry(&to);
    destination.resolver = Some(types::RegistryResolver {
        headers: [("authorization".to_owned(), "Basic bWU6c2VjcmV0".to_owned())].into(),
        ..Default::default()
    });
    let (seen, result) =
        client.run(pack("ImageStore", &named(&from)), pack("OCIRegistry", &destination)).await;
    result.expect("pushed");
    assert!(seen.iter().any(|event| event.event == "complete" && event.name.starts_with("layer-")));
    client.delete_images().await;
    client
        .run(pack("OCIRegistry", &destination), pack("ImageStore", &pull_store(&to)))
        .await
        .1
        .expect("pulled back");
}

/// `ctr` of a newer containerd, in its default namespace.
fn newer(daemon: &Daemon, args: &[&str]) -> Output {
    let mut command = Command::new(option_env!("LONGSHORE_NEWER_CTR").unwrap_or_default());
    run(command.arg("--address").arg(daemon.socket()).args(args)).expect("ctr runs")
}

#[test]
#[cfg_attr(not(have_newer_ctr), ignore = "needs a newer ctr")]
fn a_newer_ctrs_image_commands_work() {
    let Fixture { daemon, registry, busybox } = &Fixture::new();
    let pulled = newer(daemon, &["images", "pull", "--label", "a=b", busybox]).ok().stdout;
    assert!(pulled.contains("saved") && pulled.contains("extracted"), "{pulled}");
    assert!(newer(daemon, &["images", "ls", "labels.a==b"]).ok().stdout.contains(busybox.as_str()));
    newer(daemon, &["images", "tag", busybox, "docker.io/library/mine:1"]).ok();
    let there = registry.reference("pushed/by-ctr:1");
    registry.be_strict();
    let pushed =
        newer(daemon, &["images", "push", "--plain-http", &there, "docker.io/library/mine:1"]).ok().stdout;
    assert!(pushed.contains("pushed content"), "{pushed}");
    assert_eq!(registry.manifest("pushed/by-ctr", "1"), registry.manifest("library/busybox", "latest"));
    let file = text(&daemon.path().join("out.tar"));
    newer(daemon, &["images", "export", &file, busybox, "docker.io/library/mine:1"]).ok();
    for namespace in ["one", "two"] {
        newer(daemon, &["-n", namespace, "images", "import", "--local=false", &file]).ok();
        let names = newer(daemon, &["-n", namespace, "images", "ls", "-q"]).ok().stdout;
        assert!(names.contains(busybox.as_str()) && names.contains("docker.io/library/mine:1"), "{names}");
    }
    let output = newer(daemon, &["-n", "one", "run", "--rm", busybox, "c1", "echo", "imported"]);
    assert_eq!(output.ok().stdout, "imported\n");
    // The way around the service.
    let local = text(&daemon.path().join("local.tar"));
    newer(daemon, &["images", "pull", "--local", "--plain-http", busybox]).ok();
    newer(
        daemon,
        &["images", "push", "--local", "--plain-http", &registry.reference("pushed/local:1"), busybox],
    )
    .ok();
    newer(daemon, &["images", "export", "--local", &local, busybox]).ok();
    newer(daemon, &["-n", "three", "images", "import", "--local", &local]).ok();
    // Errors are told.
    let missing = newer(daemon, &["images", "pull", &registry.reference("not/there:1")]);
    assert!(missing.code != 0 && missing.stderr.contains("not found"), "{missing:?}");
    let missing = newer(daemon, &["images", "push", &there, "not-there:1"]);
    assert!(missing.code != 0 && missing.stderr.contains("not found"), "{missing:?}");
    let bad = text(&daemon.path().join("config.toml"));
    assert_ne!(newer(daemon, &["images", "import", &bad]).code, 0);
}

#[test]
#[cfg_attr(
    not(all(have_newer_ctr, have_docker_registry, have_htpasswd)),
    ignore = "needs a newer ctr, docker-registry and htpasswd"
)]
fn a_newer_ctr_gives_its_credentials_when_they_are_asked_for() {
    let Fixture { daemon, busybox, .. } = &Fixture::new();
    newer(daemon, &["images", "pull", busybox]).ok();
    let server =
        DockerRegistry::start(&daemon.path().join("registry"), Some(("me", "secret"))).expect("a registry");
    let there = server.reference("private/busybox:1");
    let refused = newer(daemon, &["images", "push", "--user", "me:wrong", &there, busybox]);
    assert!(refused.code != 0 && refused.stderr.contains("unauthorized"), "{refused:?}");
    newer(daemon, &["images", "push", "--user", "me:secret", &there, busybox]).ok();
    newer(daemon, &["-n", "other", "images", "pull", "--user", "me:secret", &there]).ok();
    let output = newer(daemon, &["-n", "other", "run", "--rm", &there, "c1", "echo", "private"]);
    assert_eq!(output.ok().stdout, "private\n");
}
