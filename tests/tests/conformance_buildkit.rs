//! BuildKit, unmodified, with our daemon as its containerd worker: `LONGSHORE_BUILDKIT` says, at build time, in which folder
//! buildkitd and buildctl are.
#![cfg_attr(not(have_buildkit), allow(dead_code, unused_imports))]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use longshore_proto::containerd::services::snapshots::v1 as wire;
use longshore_tests::Fixture;
use longshore_tests::api::Api;
use longshore_tests::buildkit::Buildkit;
use longshore_tests::daemon::{PATIENCE, eventually};

/// buildkitd is dropped first.
struct Setup {
    buildkit: Buildkit,
    fixture: Fixture,
    context: PathBuf,
}

fn setup() -> Setup {
    let fixture = Fixture::new();
    let context = fixture.daemon.path().join("context");
    fs::create_dir(&context).expect("a folder");
    fs::write(context.join("file"), "copied\n").expect("a file");
    let dockerfile = format!(
        "FROM {base} AS first\nRUN echo first >/from-first && rm /etc/passwd && ln -s from-first /link\n\
        FROM {base}\nRUN echo built >/built && chown 7:8 /built && chmod 640 /built\n\
        COPY --from=first /from-first /link /\nCOPY file /file\n\
        RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/scratch echo x >/cache/x && cat /built >/scratch/y\n\
        CMD cat /built /file /link\n",
        base = fixture.busybox
    );
    fs::write(context.join("Dockerfile"), dockerfile).expect("a file");
    Setup { buildkit: Buildkit::start(&fixture.daemon).expect("buildkitd starts"), fixture, context }
}

#[test]
#[cfg_attr(not(have_buildkit), ignore = "needs BuildKit (LONGSHORE_BUILDKIT)")]
fn images_are_built_to_a_tar_a_name_and_a_registry() {
    let Setup { buildkit, fixture, context } = &setup();
    let archive = fixture.daemon.path().join("out.tar");
    buildkit.build(context, &format!("type=tar,dest={}", archive.display())).ok();
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(File::open(&archive).expect("the archive")).entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a path").display().to_string();
        let header = entry.header();
        let owner =
            (header.uid().expect("a uid"), header.gid().expect("a gid"), header.mode().expect("a mode"));
        let mut text = String::new();
        if header.size().is_ok_and(|size| size < 100) {
            entry.read_to_string(&mut text).expect("text");
        }
        found.insert(name, (text, owner));
    }
    assert_eq!(found["built"], ("built\n".to_owned(), (7, 8, 0o640)));
    assert_eq!(found["file"].0, "copied\n");
    assert!(!found.contains_key("cache/x") && !found.contains_key("scratch/y"), "{:?}", found.keys());

    // All steps are known by now.
    let again = buildkit.build(context, "type=image,name=example.com/mine:1,unpack=true").ok();
    assert!(again.stderr.contains("CACHED"), "{}", again.stderr);
    let pushed = fixture.registry.reference("built/mine:1");
    buildkit.build(context, &format!("type=image,name={pushed},push=true")).ok();
    let output = fixture.daemon.ctl(&["run", "--rm", &pushed]).ok();
    assert_eq!(output.stdout, "built\ncopied\nfirst\n");

    let failed = fixture.daemon.path().join("failed");
    fs::create_dir(&failed).expect("a folder");
    let dockerfile = format!("FROM {}\nRUN echo to the log; exit 9\n", fixture.busybox);
    fs::write(failed.join("Dockerfile"), dockerfile).expect("a file");
    let output = buildkit.build(&failed, "type=image,name=example.com/never:1").expect(1);
    assert!(
        output.stderr.contains("exit code: 9") && output.stderr.contains("to the log"),
        "{}",
        output.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(have_buildkit), ignore = "needs BuildKit (LONGSHORE_BUILDKIT)")]
async fn what_a_build_kept_goes_when_it_is_pruned_and_survives_our_daemon() {
    let mut setup = setup();
    let Setup { buildkit, fixture, context } = &mut setup;
    buildkit.build(context, "type=tar,dest=/dev/null").ok();
    let mut api = Api::connect(&fixture.daemon.socket()).await.expect("a channel");
    let mut snapshots = async || {
        let request = wire::ListSnapshotsRequest { snapshotter: "overlayfs".into(), ..Default::default() };
        let mut answers = api.snapshots.list(request).await.expect("a list").into_inner();
        let mut count = 0;
        while let Some(answer) = answers.message().await.expect("an answer") {
            count += answer.info.len();
        }
        count
    };
    assert!(snapshots().await > 3);
    // What buildkitd still looks at is not pruned yet, and the sweep that takes the rest is not part of the call.
    let deadline = Instant::now() + PATIENCE;
    while snapshots().await > 0 {
        assert!(Instant::now() < deadline, "snapshots are left");
        buildkit.buildctl(&["prune", "--all"]).ok();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    buildkit.build(context, "type=image,name=example.com/mine:1").ok();
    fixture.daemon.kill();
    fixture.daemon.launch().expect("the daemon comes up");
    fs::write(context.join("file"), "changed\n").expect("a file");
    let mut last = String::new();
    eventually("buildkitd is connected again", || {
        let output = buildkit.build(context, "type=image,name=example.com/mine:2");
        last = output.stderr;
        output.code == 0
    });
    assert!(last.contains("CACHED"), "{last}");
}
