//! The transfer service: every pair of places between which an image can go, with registries and archives that misbehave.

use std::io::Write;
use std::time::Duration;

use longshore_proto::containerd::services::transfer::v1 as transfer;
use longshore_proto::containerd::types::transfer as types;
use longshore_tests::Fixture;
use longshore_tests::daemon::{Settings, eventually};
use longshore_tests::image::{self, Flavour, Image, ImageBuilder, Layer, Packing};
use longshore_tests::registry::{Access, Fault, Registry};
use longshore_tests::transfer::{
    Transfers, host, import_store, leased, named, pack, platform, pull_store, registry, send,
};
use prost::Message;
use serde_json::{Value, json};
use tokio_stream::StreamExt;
use tonic::Code;

async fn client(fixture: &Fixture) -> Transfers {
    Transfers::connect(&fixture.daemon.socket()).await.expect("connected")
}

fn small(text: &str) -> ImageBuilder {
    ImageBuilder::new().layer(Layer::new().file("file", 0o644, text.as_bytes()))
}

/// A layer that does not shrink, of this many bytes.
fn noise(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for chunk in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let length = chunk.len();
        chunk.copy_from_slice(&state.to_le_bytes()[..length]);
    }
    Layer::new().file("noise", 0o644, &bytes).bytes()
}

fn events(all: &[types::Progress]) -> Vec<String> {
    all.iter().map(|event| format!("{} {}", event.event, event.name)).collect()
}

async fn nothing_left(client: &mut Transfers) {
    assert_eq!(client.left_over().await, (0, 0), "no lease and no ingest is left");
}

#[tokio::test]
async fn a_pull_stores_unpacks_and_reports() {
    let fixture = Fixture::new();
    let mut client = client(&fixture).await;
    let name = &fixture.busybox;
    let mut store = pull_store(name);
    store.labels.insert("mine".into(), "yes".into());
    store.extra_references.push(types::ImageReference { name: "extra:1".into(), ..Default::default() });
    let (seen, result) = client.run(pack("OCIRegistry", &registry(name)), pack("ImageStore", &store)).await;
    result.expect("pulled");
    let seen_events = events(&seen);
    assert_eq!(seen_events[0], format!("Resolving from OCI Registry ({name}) "));
    assert_eq!(seen_events[1], format!("Pulling from OCI Registry ({name}) "));
    assert_eq!(seen_events[2], format!("fetching image content {name}"));
    assert!(
        seen_events.contains(&format!("saved {name}")) && seen_events.contains(&"saved extra:1".to_owned())
    );
    assert_eq!(seen_events.last(), Some(&format!("Completed pull from OCI Registry ({name}) ")));
    let layer: Vec<&types::Progress> =
        seen.iter().filter(|event| event.name.starts_with("layer-sha256:")).collect();
    assert_eq!(layer.first().map(|event| event.event.as_str()), Some("waiting"));
    let last = layer.last().expect("a layer");
    assert_eq!((last.event.as_str(), last.progress), ("extracted", last.total));
    assert!(last.parents[0].starts_with("manifest-sha256:"), "{:?}", last.parents);
    let top = seen.iter().find(|event| event.name.starts_with("manifest-")).expect("a manifest");
    assert_eq!(top.parents, std::slice::from_ref(name));
    let image = client.image(name).await.expect("the image");
    assert_eq!(image.labels.get("mine").map(String::as_str), Some("yes"));
    let extra = client.image("extra:1").await.expect("the other name");
    assert_eq!(extra.labels.get("containerd.io/gc.bref.image"), Some(name));
    assert_eq!(fixture.daemon.ctl(&["version"]).code, 0);
    let blobs = client.blobs().await;
    assert_eq!(blobs.len(), 3, "{blobs:?}");
    let source = format!("containerd.io/distribution.source.{}", fixture.registry.address());
    assert!(blobs.iter().all(|blob| blob.labels.get(&source).map(String::as_str) == Some("library/busybox")));
    assert!(blobs.iter().any(|blob| blob.labels.contains_key("containerd.io/gc.ref.snapshot.overlayfs")));
    nothing_left(&mut client).await;
    // Again: nothing is fetched.
    let (seen, result) = client.run(pack("OCIRegistry", &registry(name)), pack("ImageStore", &store)).await;
    result.expect("pulled again");
    assert!(events(&seen).iter().any(|event| event.starts_with("already exists layer-")));
    client.delete_images().await;
    assert!(client.blobs().await.is_empty(), "what nothing names goes");
}

#[tokio::test]
async fn platforms_metadata_and_limits_select_what_is_fetched() {
    let fixture = Fixture::new();
    let mut client = client(&fixture).await;
    let build =
        |architecture: &str| small(architecture).architecture(architecture, None).build().expect("an image");
    let (one, two, three) = (build(image::host_architecture()), build("s390x"), build("ppc64le"));
    let images = [(image::host_architecture(), None, &one), ("s390x", None, &two), ("ppc64le", None, &three)];
    fixture.registry.put_index("multi", "1", Flavour::Oci, &images).expect("an index");
    let name = fixture.registry.reference("multi:1");
    let has = |blobs: &[longshore_proto::containerd::services::content::v1::Info], digest: &str| {
        blobs.iter().any(|blob| blob.digest == digest)
    };
    // Metadata of all, layers of one.
    client.pull(&name).await.expect("pulled");
    let blobs = client.blobs().await;
    assert!(
        has(&blobs, &one.layer_digests[0]) && has(&blobs, &two.digest()) && has(&blobs, &three.config_digest)
    );
    assert!(!has(&blobs, &two.layer_digests[0]) && !has(&blobs, &three.layer_digests[0]));
    client.delete_images().await;
    assert!(client.blobs().await.is_empty());
    // Nothing of the others.
    let store = types::ImageStore { all_metadata: false, ..pull_store(&name) };
    let to = pack("ImageStore", &store);
    client.run(pack("OCIRegistry", &registry(&name)), to).await.1.expect("pulled");
    let blobs = client.blobs().await;
    assert!(has(&blobs, &one.layer_digests[0]) && !has(&blobs, &two.digest()), "{blobs:?}");
    client.delete_images().await;
    // All layers, none unpacked.
    let store = named(&name);
    client.run(pack("OCIRegistry", &registry(&name)), pack("ImageStore", &store)).await.1.expect("pulled");
    let blobs = client.blobs().await;
    assert!([&one, &two, &three].iter().all(|image| has(&blobs, &image.layer_digests[0])));
    assert!(!blobs.iter().any(|blob| blob.labels.contains_key("containerd.io/gc.ref.snapshot.overlayfs")));
    client.delete_images().await;
    // At most one manifest.
    let store = types::ImageStore { manifest_limit: 1, platforms: vec![platform("s390x")], ..named(&name) };
    client.run(pack("OCIRegistry", &registry(&name)), pack("ImageStore", &store)).await.1.expect("pulled");
    let blobs = client.blobs().await;
    assert!(has(&blobs, &two.layer_digests[0]) && !has(&blobs, &one.digest()), "{blobs:?}");
    client.delete_images().await;
    // A platform that is not offered is named, with those that are.
    let store = types::ImageStore { platforms: vec![platform("riscv64")], ..named(&name) };
    let error =
        client.run(pack("OCIRegistry", &registry(&name)), pack("ImageStore", &store)).await.1.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    assert!(error.message().contains("linux/riscv64") && error.message().contains("linux/s390x"), "{error}");
    nothing_left(&mut client).await;
}

/// An artifact: its config is no image's.
#[tokio::test]
async fn what_is_no_image_travels_as_well() {
    let fixture = Fixture::new();
    let mut client = client(&fixture).await;
    let (config, layer) = (b"{}".to_vec(), b"some document".to_vec());
    let (config_digest, layer_digest) = (image::digest(&config), image::digest(&layer));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": Flavour::Oci.manifest(), "artifactType": "text/example",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config_digest, "size": config.len()},
        "layers": [{"mediaType": "text/plain", "digest": layer_digest, "size": layer.len()}],
    });
    fixture.registry.put_blob(&config_digest, config.into());
    fixture.registry.put_blob(&layer_digest, layer.into());
    fixture.registry.put_manifest("artifact", "1", Flavour::Oci.manifest(), manifest.to_string().into());
    let name = fixture.registry.reference("artifact:1");
    client.pull(&name).await.expect("pulled, though there is nothing to unpack");
    assert_eq!(client.blobs().await.len(), 3);
    let target = Registry::start().expect("another registry");
    target.be_strict();
    client.push(&name, &target.reference("copy:1")).await.expect("pushed");
    assert_eq!(target.manifest("copy", "1"), fixture.registry.manifest("artifact", "1"));
    let archive = client.export(&[&name], types::ImageExportStream::default()).await.expect("exported");
    client.delete_images().await;
    client.import(archive, import_store("import")).await.expect("imported");
    assert_eq!(client.image_names().await, [name]);
}

#[tokio::test]
async fn a_push_sends_what_is_missing_children_first() {
    let fixture = Fixture::new();
    let mut client = client(&fixture).await;
    let name = &fixture.busybox;
    client.pull(name).await.expect("pulled");
    let target = Registry::start().expect("a registry");
    target.be_strict();
    let there = target.reference("deep/er/copy:tag");
    let (seen, result) =
        client.run(pack("ImageStore", &named(name)), pack("OCIRegistry", &registry(&there))).await;
    result.expect("pushed");
    assert_eq!(
        target.manifest("deep/er/copy", "tag"),
        fixture.registry.manifest("library/busybox", "latest")
    );
    let seen = events(&seen);
    assert_eq!(seen[0], format!("Pushing to OCI Registry ({there}) "));
    assert_eq!(seen[1], format!("pushing content {name}"));
    assert!(seen.contains(&format!("pushed content {name}")), "{seen:?}");
    assert_eq!(seen.last(), Some(&format!("Completed push to OCI Registry ({there}) ")));
    assert!(seen.iter().any(|event| event.starts_with("complete layer-")), "{seen:?}");
    // Again: nothing is sent.
    target.forget_requests();
    client.push(name, &there).await.expect("pushed again");
    assert!(target.requests().iter().all(|request| request.starts_with("HEAD") || request == "GET /v2/"));
    // Into another repository of the same registry: mounted.
    client.pull(&there).await.expect("pulled from there");
    target.forget_requests();
    client.push(name, &target.reference("deep/other:1")).await.expect("pushed elsewhere");
    let requests = target.requests();
    assert!(
        requests.iter().any(|request| request.contains("mount=sha256") && request.contains("from=deep")),
        "{requests:?}"
    );
    assert!(
        !requests
            .iter()
            .any(|request| request.starts_with("PATCH") || request.contains("PUT /v2/deep/other/blobs")),
        "{requests:?}"
    );
    // By digest, and under a digest that is another's.
    let digest = client.image(name).await.and_then(|image| image.target).expect("a target").digest;
    let by_digest = format!("{}@{digest}", target.reference("by/digest"));
    client.push(name, &by_digest).await.expect("pushed by digest");
    assert!(target.manifest("by/digest", &digest).is_some());
    let wrong = format!("{}@{}", target.reference("by/digest"), image::digest(b"x"));
    assert_eq!(client.push(name, &wrong).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(client.push("nothing", &there).await.unwrap_err().code(), Code::NotFound);
    nothing_left(&mut client).await;
}

#[tokio::test]
async fn an_index_is_pushed_whole_or_one_platform_is_missed() {
    let fixture = Fixture::new();
    let mut client = client(&fixture).await;
    let build =
        |architecture: &str| small(architecture).architecture(architecture, None).build().expect("an image");
    let (one, two) = (build(image::host_architecture()), build("s390x"));
    let images = [(image::host_architecture(), None, &one), ("s390x", None, &two)];
    let digest = fixture.registry.put_index("multi", "1", Flavour::Docker, &images).expect("an index");
    let name = fixture.registry.reference("multi:1");
    client.pull(&name).await.expect("pulled for this platform");
    let target = Registry::start().expect("a registry");
    target.be_strict();
    let there = target.reference("multi:1");
    let error = client.push(&name, &there).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    assert!(error.message().contains(&two.layer_digests[0]), "the blob is named: {error}");
    // One platform of an index: the registry refuses an index that dangles.
    let from = types::ImageStore { platforms: vec![host()], ..named(&name) };
    let to = pack("OCIRegistry", &registry(&there));
    let error = client.run(pack("ImageStore", &from), to).await.1.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert!(error.message().contains("missing there"), "{error}");
    client
        .run(pack("OCIRegistry", &registry(&name)), pack("ImageStore", &named(&name)))
        .await
        .1
        .expect("all");
    client.push(&name, &there).await.expect("pushed");
    assert_eq!(target.manifest("multi", "1").map(|body| image::digest(&body)), Some(digest));
}

#[tokio::test]
async fn uploads_that_break_go_on() {
    let fixture = Fixture::new();
    let mut client = client(&fixture).await;
    // Two chunks and a bit.
    let big = ImageBuilder::new().packed_layer(noise(35 << 20), Packing::Plain).build().expect("an image");
    let layer = big.layer_digests[0].clone();
    fixture.registry.put("big", "1", &big);
    let name = fixture.registry.reference("big:1");
    let store = named(&name);
    client.run(pack("OCIRegistry", &registry(&name)), pack("ImageStore", &store)).await.1.expect("pulled");
    let count = |target: &Registry, method: &str| {
        target.requests().iter().filter(|request| request.starts_with(method)).count()
    };
    let faults: [(&str, &str, Fault); 6] = [
        ("a chunk is cut", "PATCH /v2/big", Fault::CutUpload(5 << 20)),
        ("a chunk fails", "PATCH /v2/big", Fault::Status(503)),
        ("the end fails", "PUT /v2/big/blobs", Fault::Status(500)),
        ("the upload is forgotten", "PATCH /v2/big", Fault::ForgetUpload),
        ("no chunks are known", "PATCH /v2/big", Fault::Status(405)),
        ("the manifest fails", "PUT /v2/big/manifests", Fault::Status(502)),
    ];
    for (what, path, fault) in faults {
        let target = Registry::start().expect("a registry");
        target.be_strict();
        target.fault(path, fault, Some(1));
        client
            .push(&name, &target.reference("big:1"))
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(target.blob(&layer).map(|blob| image::digest(&blob)), Some(layer.clone()), "{what}");
        if what == "no chunks are known" {
            assert_eq!(count(&target, "PATCH"), 1, "then it is sent whole");
        }
        if what == "a chunk is cut" {
            assert!(count(&target, "GET /v2/big/blobs/uploads/") >= 1, "it is asked what is there");
        }
    }
    // Faults that do not pass end the push, with the registry's words.
    let target = Registry::start().expect("a registry");
    target.fault("POST /v2/big/blobs/uploads", Fault::Status(403), None);
    let error = client.push(&name, &target.reference("big:1")).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied, "{error}");
    nothing_left(&mut client).await;
}

#[tokio::test]
async fn credentials_are_asked_for_over_a_stream() {
    let fixture = Fixture::new();
    let mut client = client(&fixture).await;
    let user = ("me".to_owned(), "secret".to_owned());
    let name = fixture.busybox.clone();
    for access in [
        Access::Basic { user: user.0.clone(), password: user.1.clone() },
        Access::Bearer { user: Some(user.clone()) },
    ] {
        fixture.registry.set_access(access);
        assert_eq!(client.pull(&name).await.unwrap_err().code(), Code::Unauthenticated);
        for (secret, expected) in [("wrong", Code::Unauthenticated), ("secret", Code::Ok)] {
            let id = format!("auth-{}", rand::random::<u64>());
            let mut stream = client.stream(&id).await.expect("a stream");
            let asked = tokio::spawn(async move {
                let mut hosts = Vec::new();
                while let Some(Ok(any)) = stream.from_daemon.next().await {
                    let request = types::AuthRequest::decode(any.value.as_slice()).expect("a question");
                    hosts.push(request.host);
                    let answer = types::AuthResponse {
                        auth_type: types::AuthType::Credentials as i32,
                        username: "me".into(),
                        secret: secret.into(),
                        expire_at: None,
                    };
                    stream.to_daemon.send(pack("AuthResponse", &answer)).await.expect("answered");
                }
                hosts
            });
            let mut from = registry(&name);
            from.resolver = Some(types::RegistryResolver { auth_stream: id, ..Default::default() });
            let result =
                client.run(pack("OCIRegistry", &from), pack("ImageStore", &pull_store(&name))).await.1;
            assert_eq!(result.map_or_else(|status| status.code(), |()| Code::Ok), expected);
            assert_eq!(asked.await.expect("asked"), [fixture.registry.address().to_string()], "asked once");
        }
    }
    // A push says what it needs, whatever the challenge says.
    fixture.registry.set_access(Access::Bearer { user: None });
    fixture.registry.forget_requests();
    client.push(&name, &fixture.registry.reference("pushed/here:1")).await.expect("pushed");
    let scope = "scope=repository%3Apushed%2Fhere%3Apull%2Cpush";
    let requests = fixture.registry.requests();
    assert!(requests.iter().any(|request| request.contains(scope)), "{requests:?}");
}

#[tokio::test]
async fn a_hosts_directory_and_headers_decide_who_is_asked() {
    let fixture = Fixture::new();
    let mut client = client(&fixture).await;
    let mirror = Registry::start().expect("a mirror");
    mirror.put("library/busybox", "latest", &small("from the mirror").build().expect("an image"));
    let folder = fixture.daemon.path().join("hosts");
    let own = folder.join("registry.example");
    std::fs::create_dir_all(&own).expect("a folder");
    let text = format!(
        "server = \"https://registry.invalid\"\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        mirror.address()
    );
    std::fs::write(own.join("hosts.toml"), text).expect("a file");
    let name = "registry.example/library/busybox:latest";
    let resolver = types::RegistryResolver { host_dir: folder.display().to_string(), ..Default::default() };
    let mut from = registry(name);
    from.resolver = Some(resolver.clone());
    client.run(pack("OCIRegistry", &from), pack("ImageStore", &pull_store(name))).await.1.expect("pulled");
    assert_eq!(client.image_names().await, [name]);
    assert!(mirror.requests().iter().any(|request| request.contains("/blobs/")));
    // The mirror may not be pushed to.
    let error = client.run(pack("ImageStore", &named(name)), pack("OCIRegistry", &from)).await.1.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    for (bad, resolver) in [
        ("relative", types::RegistryResolver { host_dir: "here".into(), ..Default::default() }),
        ("scheme", types::RegistryResolver { default_scheme: "ftp".into(), ..Default::default() }),
        (
            "header",
            types::RegistryResolver {
                headers: [("bad name".to_owned(), "x".to_owned())].into(),
                ..Default::default()
            },
        ),
    ] {
        let mut from = registry(name);
        from.resolver = Some(resolver);
        let error = client.run(pack("OCIRegistry", &from), pack("ImageStore", &pull_store(name))).await.1;
        assert_eq!(error.unwrap_err().code(), Code::InvalidArgument, "{bad}");
    }
    // What is said to a registry can be watched.
    let mut logs = client.stream("logs").await.expect("a stream");
    let name = &fixture.busybox;
    let mut from = registry(name);
    from.resolver = Some(types::RegistryResolver {
        logs_stream: "logs".into(),
        http_debug: types::HttpDebug::Debug as i32,
        headers: [("x-secret".to_owned(), "hidden".to_owned())].into(),
        ..Default::default()
    });
    let window = types::WindowUpdate { update: 1 << 20 };
    logs.to_daemon.send(pack("WindowUpdate", &window)).await.expect("a window");
    client.run(pack("OCIRegistry", &from), pack("ImageStore", &pull_store(name))).await.1.expect("pulled");
    let mut text = String::new();
    while let Some(Ok(any)) = logs.from_daemon.next().await {
        text += &String::from_utf8_lossy(&types::Data::decode(any.value.as_slice()).expect("data").data);
    }
    assert!(
        text.contains("/manifests/latest -> 200 OK") && text.contains("> x-secret: <not shown>"),
        "{text}"
    );
}

#[tokio::test]
async fn archives_make_the_round() {
    // Nothing is collected behind the test's back.
    let config = "[gc]\ndelay_ms = 60000\n".to_owned();
    let fixture = Fixture::with(Settings { config, ..Settings::default() }).expect("a registry and a daemon");
    let mut client = client(&fixture).await;
    let name = fixture.busybox.clone();
    client.pull(&name).await.expect("pulled");
    client
        .run(pack("ImageStore", &named(&name)), pack("ImageStore", &named("docker.io/library/again:2")))
        .await
        .1
        .expect("tagged");
    let names = [name.as_str(), "docker.io/library/again:2"];
    let archive = client.export(&names, types::ImageExportStream::default()).await.expect("exported");
    let again = client.export(&names, types::ImageExportStream::default()).await.expect("exported");
    assert_eq!(archive, again, "the same images make the same archive");
    let files = files(&archive);
    let docker: Value = serde_json::from_slice(&files["manifest.json"]).expect("docker's list");
    assert_eq!(docker[0]["RepoTags"], json!([name, "again:2"]));
    let index: Value = serde_json::from_slice(&files["index.json"]).expect("an index");
    assert_eq!(index["manifests"][1]["annotations"]["io.containerd.image.name"], "docker.io/library/again:2");
    assert_eq!(index["manifests"][1]["annotations"]["org.opencontainers.image.ref.name"], "2");
    let without = types::ImageExportStream { skip_compatibility_manifest: true, ..Default::default() };
    let plain = client.export(&names, without).await.expect("exported");
    assert!(!self::files(&plain).contains_key("manifest.json"));
    let target = client.image(&name).await.and_then(|image| image.target).expect("a target").digest;
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        client.delete_images().await;
        assert!(client.blobs().await.is_empty());
        let packed = image::pack(&archive, packing).expect("packed");
        let (seen, result) =
            client.import_as(packed, import_store("import"), types::ImageImportStream::default()).await;
        result.unwrap_or_else(|error| panic!("{packing:?}: {error}"));
        let seen = events(&seen);
        assert_eq!(
            (seen[0].as_str(), seen.last().map(String::as_str)),
            ("Importing ", Some("Completed import "))
        );
        assert!(seen.contains(&format!("saved {name}")), "{seen:?}");
        let mut stored = client.image_names().await;
        stored.sort();
        let mut expected = names.map(str::to_owned);
        expected.sort();
        assert_eq!(stored, expected, "{packing:?}");
        assert_eq!(
            client.image(&name).await.and_then(|image| image.target).expect("a target").digest,
            target
        );
        nothing_left(&mut client).await;
        assert_eq!(client.blobs().await.len(), 4, "with the archive's index, until it is collected");
    }
    // It was unpacked, and it runs.
    let chain = client
        .blobs()
        .await
        .iter()
        .find_map(|blob| blob.labels.get("containerd.io/gc.ref.snapshot.overlayfs").cloned());
    assert!(chain.is_some(), "unpacked");
    // Deleted and collected, all of it goes, the index too.
    client.delete_images().await;
    assert!(client.blobs().await.is_empty());
}

fn files(archive: &[u8]) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let mut files = std::collections::BTreeMap::new();
    for entry in archive.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").display().to_string();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).expect("read");
        files.insert(name, bytes);
    }
    files
}

/// What `docker save` writes: plain layers, a link to one of them, tags.
fn docker_archive(image: &Image, tags: &[&str]) -> Vec<u8> {
    let mut archive = Layer::new();
    let config = format!("{}.json", image.config_digest.trim_start_matches("sha256:"));
    archive = archive
        .file(&config, 0o644, &image.blobs[&image.config_digest])
        .dir("one/", 0o755)
        .dir("two/", 0o755);
    archive = archive.file("one/layer.tar", 0o644, &image.blobs[&image.layer_digests[0]]).file(
        "one/VERSION",
        0o644,
        b"1.0",
    );
    archive = archive.symlink("two/layer.tar", "../one/layer.tar");
    let list = json!([{"Config": config, "RepoTags": tags, "Layers": ["two/layer.tar"]}]);
    archive
        .file("manifest.json", 0o644, list.to_string().as_bytes())
        .file("repositories", 0o644, b"{}")
        .bytes()
}

#[tokio::test]
async fn dockers_archives_are_imported() {
    let fixture = Fixture::new();
    let mut client = client(&fixture).await;
    let tar = Layer::new().file("hello", 0o644, b"hello").bytes();
    let built = ImageBuilder::new().packed_layer(tar.clone(), Packing::Plain).build().expect("an image");
    let archive = docker_archive(&built, &["app:1", "quay.io/me/app:2"]);
    client.import(archive.clone(), import_store("import")).await.expect("imported");
    let mut names = client.image_names().await;
    names.sort();
    assert_eq!(names, ["docker.io/library/app:1", "quay.io/me/app:2"]);
    let target = client.image(&names[0]).await.and_then(|image| image.target).expect("a target");
    assert_eq!(target.media_type, Flavour::Docker.manifest());
    assert_eq!(target.annotations.get("org.opencontainers.image.ref.name").map(String::as_str), Some("1"));
    client.delete_images().await;
    // Compressed on the way.
    let compress = types::ImageImportStream { force_compress: true, ..Default::default() };
    client.import_as(archive.clone(), import_store("import"), compress).await.1.expect("imported");
    let blobs = client.blobs().await;
    let diff_id = image::digest(&tar);
    let packed = blobs.iter().find(|blob| {
        blob.labels.get("containerd.io/uncompressed") == Some(&diff_id) && blob.digest != diff_id
    });
    assert!(packed.is_some(), "{blobs:?}");
    client.delete_images().await;
    // Only what a prefix names, with digests on demand.
    let prefix = |name: &str, add_digest: bool| types::ImageStore {
        extra_references: vec![types::ImageReference {
            name: name.into(),
            is_prefix: true,
            add_digest,
            ..Default::default()
        }],
        ..Default::default()
    };
    client.import(archive.clone(), prefix("quay.io/me", false)).await.expect("imported");
    assert_eq!(client.image_names().await, ["quay.io/me/app:2"]);
    client.import(archive, prefix("other", true)).await.expect("imported");
    let names = client.image_names().await;
    assert!(names.iter().any(|name| name.starts_with("other@sha256:")), "{names:?}");
    nothing_left(&mut client).await;
}

#[tokio::test]
async fn hostile_archives_are_refused_and_leave_nothing() {
    let fixture = Fixture::new();
    let mut client = client(&fixture).await;
    let built = ImageBuilder::new().packed_layer(noise(100_000), Packing::Plain).build().expect("an image");
    let good = docker_archive(&built, &["app:1"]);
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    let list = |value: Value| Layer::new().file("manifest.json", 0o644, value.to_string().as_bytes());
    let entry = |name: &str, digest: &str| json!({"schemaVersion": 2, "manifests": [{"mediaType": name, "digest": digest, "size": 9}]});
    let index = |value: Value| {
        Layer::new().file("oci-layout", 0o644, layout).file("index.json", 0o644, value.to_string().as_bytes())
    };
    let digits = "a".repeat(64);
    let bomb = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        let zeroes = vec![0u8; 1 << 20];
        let mut header = tar::Header::new_ustar();
        header.set_path("blobs/x").expect("a name");
        header.set_size(1 << 30);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        encoder.write_all(header.as_bytes()).expect("written");
        for _ in 0..(1 << 10) {
            encoder.write_all(&zeroes).expect("written");
        }
        encoder.finish().expect("finished")
    };
    let gzip = image::pack(&good, Packing::Gzip).expect("packed");
    let hostile: Vec<(&str, Vec<u8>, Code, &str)> = vec![
        ("nothing", Vec::new(), Code::InvalidArgument, "neither an OCI layout"),
        ("no archive", b"hello".to_vec(), Code::InvalidArgument, "header"),
        ("a cut archive", good[..good.len() / 2].to_vec(), Code::InvalidArgument, "ends in the middle"),
        ("a cut gzip stream", gzip[..gzip.len() / 2].to_vec(), Code::InvalidArgument, "image archive"),
        (
            "a name that leads out",
            Layer::new().file("../x", 0o644, b"x").bytes(),
            Code::InvalidArgument,
            "..",
        ),
        (
            "an absolute name",
            Layer::new().file("/etc/x", 0o644, b"x").bytes(),
            Code::InvalidArgument,
            "absolute",
        ),
        (
            "a misnamed blob",
            Layer::new().file(&format!("blobs/sha256/{digits}"), 0o644, b"x").bytes(),
            Code::InvalidArgument,
            "not what its name says",
        ),
        ("no config", list(json!([{"Config": "x.json", "Layers": []}])).bytes(), Code::NotFound, "x.json"),
        (
            "a link out",
            list(json!([{"Config": "c", "Layers": []}])).symlink("c", "../../etc/passwd").bytes(),
            Code::InvalidArgument,
            "leads to",
        ),
        (
            "a link loop",
            list(json!([{"Config": "c", "Layers": []}])).symlink("c", "d").symlink("d", "c").bytes(),
            Code::NotFound,
            "not in it",
        ),
        (
            "broken JSON",
            Layer::new().file("manifest.json", 0o644, b"[{").bytes(),
            Code::InvalidArgument,
            "manifest.json",
        ),
        (
            "a bad tag",
            {
                let config = list(json!([{"Config": "c", "RepoTags": ["UPPER:tag:x"], "Layers": []}]));
                config.file("c", 0o644, b"{}").bytes()
            },
            Code::InvalidArgument,
            "no image reference",
        ),
        (
            "two lists",
            list(json!([])).file("manifest.json", 0o644, b"[]").bytes(),
            Code::InvalidArgument,
            "twice",
        ),
        (
            "only repositories",
            Layer::new().file("repositories", 0o644, b"{}").bytes(),
            Code::InvalidArgument,
            "older than 1.10",
        ),
        (
            "another layout",
            Layer::new().file("oci-layout", 0o644, br#"{"imageLayoutVersion":"9"}"#).bytes(),
            Code::InvalidArgument,
            "version",
        ),
        ("no index", Layer::new().file("oci-layout", 0o644, layout).bytes(), Code::NotFound, "index.json"),
        (
            "a missing manifest",
            index(entry(Flavour::Oci.manifest(), &image::digest(b"gone"))).bytes(),
            Code::NotFound,
            "is not in it",
        ),
        (
            "a malformed digest",
            index(entry(Flavour::Oci.manifest(), "sha256:../../x")).bytes(),
            Code::InvalidArgument,
            "digest",
        ),
        (
            "a huge list",
            {
                let text = format!("[{}]", " ".repeat(5 << 20));
                Layer::new().file("manifest.json", 0o644, text.as_bytes()).bytes()
            },
            Code::ResourceExhausted,
            "limit",
        ),
        ("a bomb", bomb, Code::ResourceExhausted, "bomb"),
    ];
    for (what, archive, code, words) in hostile {
        let error = client.import(archive, import_store("import")).await.expect_err(what);
        assert_eq!(error.code(), code, "{what}: {error}");
        assert!(error.message().contains(words), "{what}: {error}");
    }
    assert!(client.image_names().await.is_empty());
    nothing_left(&mut client).await;
    fixture.daemon.ctl(&["image", "prune", "-f"]);
    let mut left = Vec::new();
    for _ in 0..100 {
        left = client.blobs().await;
        if left.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(left.is_empty(), "{left:?}");
    client.import(good, import_store("import")).await.expect("a good one is still taken");
}

#[tokio::test]
async fn an_export_tells_what_is_missing_before_it_begins() {
    let fixture = Fixture::new();
    let mut client = client(&fixture).await;
    let build =
        |architecture: &str| small(architecture).architecture(architecture, None).build().expect("an image");
    let (one, two) = (build(image::host_architecture()), build("s390x"));
    let images = [(image::host_architecture(), None, &one), ("s390x", None, &two)];
    fixture.registry.put_index("multi", "1", Flavour::Oci, &images).expect("an index");
    let name = fixture.registry.reference("multi:1");
    client.pull(&name).await.expect("pulled");
    let one_only = client.export(&[&name], types::ImageExportStream::default()).await.expect("exported");
    let have = files(&one_only);
    let path = |digest: &str| format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
    assert!(have.contains_key(&path(&one.layer_digests[0])) && !have.contains_key(&path(&two.digest())));
    let all = types::ImageExportStream { all_platforms: true, ..Default::default() };
    let error = client.export(&[&name], all.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    assert!(error.message().contains(&two.layer_digests[0]), "{error}");
    let other = types::ImageExportStream { platforms: vec![platform("riscv64")], ..Default::default() };
    assert_eq!(client.export(&[&name], other).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.export(&["nothing"], all.clone()).await.unwrap_err().code(), Code::NotFound);
    client
        .run(pack("OCIRegistry", &registry(&name)), pack("ImageStore", &named(&name)))
        .await
        .1
        .expect("all");
    let whole = client.export(&[&name], all).await.expect("exported");
    assert!(files(&whole).contains_key(&path(&two.layer_digests[0])));
    // The archive of one platform has an index that names others: it is taken for that platform, and for all.
    let all_platforms = types::ImageStore { platforms: Vec::new(), ..import_store("import") };
    for store in [import_store("import"), all_platforms] {
        client.delete_images().await;
        client.import(one_only.clone(), store).await.expect("imported");
        assert_eq!(client.image_names().await, [name.as_str()]);
    }
    // But not for one that it lacks.
    let other = types::ImageStore { platforms: vec![platform("s390x")], ..import_store("import") };
    client.delete_images().await;
    let error = client.import(one_only, other).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
}

#[tokio::test]
async fn a_clients_lease_holds_what_is_made() {
    let fixture = Fixture::new();
    let mut client = client(&fixture).await;
    let name = fixture.busybox.clone();
    let lease = client.leases.create(longshore_proto::containerd::services::leases::v1::CreateRequest {
        id: "mine".into(),
        ..Default::default()
    });
    lease.await.expect("a lease");
    let request = transfer::TransferRequest {
        source: Some(pack("OCIRegistry", &registry(&name))),
        destination: Some(pack("ImageStore", &pull_store(&name))),
        options: None,
    };
    client.transfer.transfer(leased(request, "mine")).await.expect("pulled without progress");
    client.delete_images().await;
    assert_eq!(client.blobs().await.len(), 3, "the lease holds them");
    assert_eq!(client.left_over().await, (1, 0));
}

#[tokio::test]
async fn streams_are_named_once_and_bytes_pass_through() {
    let fixture = Fixture::new();
    let mut client = client(&fixture).await;
    let held = client.stream("one").await.expect("a stream");
    assert_eq!(client.stream("one").await.err().map(|status| status.code()), Some(Code::AlreadyExists));
    drop(held);
    let mut free = false;
    for _ in 0..100 {
        free = client.stream("one").await.is_ok();
        if free {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(free, "its name is free when the client has gone");
    for size in [0, 11, 17 * 11 * 1024] {
        let bytes: Vec<u8> = b"somecontent".iter().copied().cycle().take(size).collect();
        let (from, to) =
            (client.stream("from").await.expect("a stream"), client.stream("to").await.expect("a stream"));
        tokio::spawn(send(from, bytes.clone()));
        let receiving = tokio::spawn(longshore_tests::transfer::receive(to));
        let media_type = "application/octet-stream".to_owned();
        let import = types::ImageImportStream {
            stream: "from".into(),
            media_type: media_type.clone(),
            ..Default::default()
        };
        let export = types::ImageExportStream { stream: "to".into(), media_type, ..Default::default() };
        client
            .run(pack("ImageImportStream", &import), pack("ImageExportStream", &export))
            .await
            .1
            .expect("echoed");
        assert_eq!(receiving.await.expect("received"), bytes);
        for name in ["from", "to"] {
            for _ in 0..100 {
                if client.stream(name).await.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // What is not there, or not known.
    let missing = types::ImageImportStream { stream: "nowhere".into(), ..Default::default() };
    let to = || pack("ImageStore", &named("x"));
    assert_eq!(
        client.run(pack("ImageImportStream", &missing), to()).await.1.unwrap_err().code(),
        Code::NotFound
    );
    let path = types::ContainerPath { container_id: "c".into(), ..Default::default() };
    let error = client.run(pack("ContainerPath", &path), to()).await.1.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    assert!(error.message().contains("ContainerPath"), "{error}");
    let mut garbage = pack("OCIRegistry", &registry("x"));
    garbage.value = vec![0xff; 10];
    assert_eq!(client.run(garbage, to()).await.1.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_transfer() {
    let fixture = Fixture::new();
    let mut client = client(&fixture).await;
    fixture.registry.fault("/blobs/", Fault::Slow(20_000), None);
    let name = fixture.busybox.clone();
    let request = transfer::TransferRequest {
        source: Some(pack("OCIRegistry", &registry(&name))),
        destination: Some(pack("ImageStore", &pull_store(&name))),
        options: None,
    };
    let mut other = client.clone();
    let pulling = tokio::spawn(async move { other.transfer.transfer(request).await });
    tokio::time::sleep(Duration::from_millis(700)).await;
    pulling.abort();
    // An import that breaks off in the middle.
    let mut stream = client.stream("cut").await.expect("a stream");
    let import = types::ImageImportStream { stream: "cut".into(), ..Default::default() };
    let mut other = client.clone();
    let importing = tokio::spawn(async move {
        let request = transfer::TransferRequest {
            source: Some(pack("ImageImportStream", &import)),
            destination: Some(pack("ImageStore", &import_store("import"))),
            options: None,
        };
        other.transfer.transfer(request).await
    });
    stream.from_daemon.next().await.expect("a window").expect("a window");
    let mut header = tar::Header::new_ustar();
    header.set_path("blobs/x").expect("a name");
    header.set_size(1 << 20);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    let data = types::Data { data: header.as_bytes().to_vec() };
    stream.to_daemon.send(pack("Data", &data)).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    let error = importing.await.expect("it ends").unwrap_err();
    assert!(matches!(error.code(), Code::Unavailable | Code::InvalidArgument), "{error}");
    assert!(client.image_names().await.is_empty());
    // What the pull had fetched may be gone on with for a while; the import leaves nothing.
    let runtime = tokio::runtime::Handle::current();
    let socket = fixture.daemon.socket();
    tokio::task::spawn_blocking(move || {
        eventually("the leases of the transfers end", || {
            runtime.block_on(async {
                let mut client = Transfers::connect(&socket).await.expect("connected");
                let leases = client
                    .leases
                    .list(longshore_proto::containerd::services::leases::v1::ListRequest::default())
                    .await
                    .expect("leases")
                    .into_inner()
                    .leases;
                leases.iter().all(|lease| {
                    lease.labels.get("longshore.io/purpose").map(String::as_str) == Some("resume")
                })
            })
        });
    })
    .await
    .expect("waited");
}
