//! A content store in another process: another daemon of ours, or a real containerd. The local folder is a cache of what it keeps.
#![cfg_attr(not(have_ctr), allow(dead_code, unused_imports))]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use longshore_proto::containerd::services::content::v1 as wire;
use longshore_tests::containerd::Containerd;
use longshore_tests::daemon::{Output, Settings, eventually, finish};
use longshore_tests::{Daemon, Fixture, image};
use tonic::Request;
use tonic::transport::Endpoint;

/// A daemon whose bytes are kept behind this socket.
fn fixture(socket: &Path) -> Fixture {
    let config = format!(
        "[content]\nstore = \"far\"\n[proxy_plugins.far]\ntype = \"content\"\naddress = {socket:?}\ntimeout_seconds = 10\n"
    );
    Fixture::with(Settings { config, ..Settings::default() }).expect("a daemon")
}

fn listed(output: Output) -> BTreeSet<String> {
    output.ok().stdout.lines().map(str::to_owned).collect()
}

fn blobs(daemon: &Daemon, namespace: &str) -> BTreeSet<String> {
    listed(daemon.ctr(&["-n", namespace, "content", "ls", "-q"]))
}

fn file(daemon: &Daemon, digest: &str) -> PathBuf {
    daemon.root().join("content/blobs").join(digest.replacen(':', "/", 1))
}

/// Deletes everything that a daemon has cached; how much it was.
fn forget(daemon: &Daemon) -> usize {
    let folder = daemon.root().join("content/blobs/sha256");
    let files = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    files.map(|path| fs::remove_file(path).expect("deleted")).count()
}

fn get(daemon: &Daemon, digest: &str) -> Output {
    daemon.ctr(&["content", "get", digest])
}

/// Writes a blob by `ctr`.
fn ingest(daemon: &Daemon, namespace: &str, data: &[u8]) -> Output {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(daemon.socket()).args(["-n", namespace, "content", "ingest"]);
    command.args([
        "--expected-digest",
        &image::digest(data),
        "--expected-size",
        &data.len().to_string(),
        "a-ref",
    ]);
    // A file: where something is there already, ctr seeks.
    let path = daemon.path().join("ingested");
    fs::write(&path, data).expect("written");
    command.stdin(fs::File::open(path).expect("a file")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("ctr runs");
    finish(child).expect("ctr ends")
}

fn collect(daemon: &Daemon) {
    daemon.ctr(&["leases", "create", "--id", "nudge"]).ok();
    daemon.ctr(&["leases", "delete", "--sync", "nudge"]).ok();
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn what_is_not_here_is_fetched_and_verified() {
    let mut plugin = Daemon::start();
    let Fixture { mut daemon, registry, busybox } = fixture(&plugin.socket());
    daemon.ctl(&["pull", "-q", &busybox]).ok();
    let pulled = blobs(&daemon, "default");
    assert!(pulled.len() >= 3, "{pulled:?}");
    assert_eq!(pulled, blobs(&plugin, "longshore"), "every blob is there when the pull ends");
    let plugins = daemon.ctr(&["plugins", "ls", "-d", "id==far"]).ok().stdout;
    assert!(plugins.contains("io.containerd.content.v1"), "{plugins}");

    daemon.stop().expect("stopped");
    assert!(forget(&daemon) >= 3);
    daemon.launch().expect("started");
    assert_eq!(blobs(&daemon, "default"), pulled, "the records stay");
    let archive = daemon.path().join("a.tar").display().to_string();
    daemon.ctr(&["images", "export", &archive, &busybox]).ok();
    assert_eq!(daemon.ctl(&["run", "--rm", &busybox, "echo", "hello"]).ok().stdout, "hello\n");
    for digest in &pulled {
        let data = fs::read(file(&daemon, digest)).expect("cached again");
        assert_eq!(image::digest(&data), *digest);
    }

    // Wrong bytes are told, and do not become the blob's file.
    let digest = pulled.first().expect("a blob");
    let theirs = file(&plugin, digest);
    let data = fs::read(&theirs).expect("the plugin's file");
    let mut wrong = data.clone();
    wrong[0] ^= 1;
    for (wrong, why) in [(wrong, "its digest is"), ([&data[..], b"more"].concat(), "")] {
        forget(&daemon);
        fs::write(&theirs, &wrong).expect("changed");
        let refused = get(&daemon, digest);
        if !why.is_empty() {
            assert!(refused.code != 0 && refused.stderr.contains(why), "{refused:?}");
            assert!(!file(&daemon, digest).exists());
        }
    }
    fs::write(&theirs, &data).expect("changed back");
    get(&daemon, digest).ok();
    assert_eq!(fs::read(file(&daemon, digest)).expect("cached again"), data);

    // While it is away.
    plugin.kill();
    get(&daemon, digest).ok();
    forget(&daemon);
    let refused = get(&daemon, digest);
    assert!(refused.code != 0 && refused.stderr.contains("is it running"), "{refused:?}");
    let refused = ingest(&daemon, "default", b"new");
    assert!(refused.code != 0 && refused.stderr.contains("is it running"), "{refused:?}");
    registry.put(
        "library/other",
        "latest",
        &image::busybox()
            .expect("busybox")
            .layer(image::Layer::new().file("more", 0o644, b"more"))
            .build()
            .expect("an image"),
    );
    let refused = daemon.ctl(&["pull", "-q", &registry.reference("library/other:latest")]);
    assert!(refused.code != 0 && refused.stderr.contains("is it running"), "{refused:?}");
    daemon.ctl(&["ps"]).ok();
    daemon.kill();
    daemon.launch().expect("a daemon starts without its plugin");
    assert_eq!(blobs(&daemon, "default"), pulled);
    plugin.launch().expect("the plugin starts again");
    eventually("the plugin is found again", || get(&daemon, digest).code == 0);

    // What is collected while it is away is deleted there later.
    plugin.kill();
    forget(&daemon);
    daemon.ctl(&["rmi", &busybox]).ok();
    eventually("the records are gone", || {
        collect(&daemon);
        blobs(&daemon, "default").is_empty()
    });
    plugin.launch().expect("the plugin starts again");
    eventually("deleted there, too", || {
        collect(&daemon);
        blobs(&plugin, "longshore").is_empty()
    });
    daemon.ctl(&["pull", "-q", &busybox]).ok();
    assert_eq!(blobs(&plugin, "longshore"), pulled);
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn what_the_plugin_has_is_not_sent_again() {
    let plugin = Daemon::start();
    let Fixture { daemon, .. } = fixture(&plugin.socket());
    let data = b"there already".repeat(1000);
    let digest = image::digest(&data);
    ingest(&plugin, "longshore", &data).ok();
    ingest(&daemon, "default", &data).ok();
    assert!(blobs(&daemon, "default").contains(&digest));
    assert!(!file(&daemon, &digest).exists(), "recorded without its bytes");
    assert_eq!(get(&daemon, &digest).ok().stdout.as_bytes(), data);

    // A send goes on where one was broken off; one that began with something else starts over.
    for (name, begun_right) in [("right", true), ("wrong", false)] {
        let data = name.repeat(500_000).into_bytes();
        let digest = image::digest(&data);
        let begun = if begun_right { data[..1_000_000].to_vec() } else { vec![b'x'; 1_000_000] };
        begin(&plugin.socket(), &digest, data.len(), begun);
        ingest(&daemon, "default", &data).ok();
        let kept = fs::read(file(&plugin, &digest)).expect("the plugin's file");
        assert!(kept == data, "{name}");
    }
}

/// Leaves a part of a blob in the plugin, as a daemon does that dies on the way.
fn begin(socket: &Path, digest: &str, total: usize, data: Vec<u8>) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let url = format!("unix://{}", socket.display());
        let channel = Endpoint::from_shared(url).expect("a url").connect().await.expect("connected");
        let mut message = wire::WriteContentRequest {
            r#ref: format!("longshore-{digest}"),
            total: i64::try_from(total).expect("a size"),
            expected: digest.to_owned(),
            data,
            ..wire::WriteContentRequest::default()
        };
        message.set_action(wire::WriteAction::Write);
        let mut request = Request::new(tokio_stream::iter([message]));
        request.metadata_mut().insert("containerd-namespace", "longshore".parse().expect("a header"));
        let mut client = wire::content_client::ContentClient::new(channel);
        let mut answers = client.write(request).await.expect("begun").into_inner();
        assert_eq!(answers.message().await.expect("an answer").expect("an answer").offset, 1_000_000);
        assert!(answers.message().await.expect("the end").is_none());
    });
}

#[test]
#[cfg_attr(not(have_ctr), ignore = "needs ctr (package containerd)")]
fn a_real_containerd_can_keep_the_bytes() {
    let containerd = Containerd::any();
    let there = || listed(containerd.ctr(&["-n", "longshore", "content", "ls", "-q"]));
    let Fixture { mut daemon, busybox, registry: _registry } = fixture(&containerd.socket());
    daemon.ctl(&["pull", "-q", &busybox]).ok();
    let pulled = blobs(&daemon, "default");
    assert!(pulled.len() >= 3 && pulled == there(), "{pulled:?}");
    daemon.stop().expect("stopped");
    forget(&daemon);
    daemon.launch().expect("started");
    let archive = daemon.path().join("a.tar").display().to_string();
    daemon.ctr(&["images", "export", &archive, &busybox]).ok();
    assert_eq!(daemon.ctl(&["run", "--rm", &busybox, "echo", "hello"]).ok().stdout, "hello\n");
    daemon.ctl(&["rmi", &busybox]).ok();
    eventually("deleted there, too", || {
        collect(&daemon);
        there().is_empty()
    });
}
