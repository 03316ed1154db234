//! Checkpoints of pods' containers: really made where criu works (`make test-vm` has such a kernel), refused with its reason elsewhere.

use std::path::Path;
use std::process::Command;

use longshore_proto::runtime::v1 as wire;
use longshore_tests::Fixture;
use longshore_tests::cri::{self, Cri};
use longshore_tests::daemon::{Settings, eventually};

fn criu_works() -> bool {
    Command::new("criu").arg("check").output().is_ok_and(|said| said.status.success())
}

/// The names in an archive, without those within its folders.
fn names(archive: &Path) -> Vec<String> {
    let file = std::fs::File::open(archive).expect("an archive");
    let mut archive = tar::Archive::new(file);
    let entries = archive.entries().expect("entries");
    let paths = entries.map(|entry| entry.expect("an entry").path().expect("a path").into_owned());
    let mut names: Vec<String> = paths
        .filter(|path| path.components().count() == 1)
        .map(|path| path.display().to_string().trim_end_matches('/').to_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_of_a_pod_is_written_to_an_archive_and_runs_on() {
    let f = Fixture::with(Settings::default()).expect("a registry and a daemon");
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    let image = cri.pull(&f.busybox).await.expect("pulled");
    let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
    let mut config = cri::pod("frozen");
    config.log_directory = folder.path().join("logs").display().to_string();
    let of_host = wire::NamespaceOption {
        network: wire::NamespaceMode::Node.into(),
        pid: wire::NamespaceMode::Container.into(),
        ..Default::default()
    };
    let security =
        wire::LinuxSandboxSecurityContext { namespace_options: Some(of_host.clone()), ..Default::default() };
    config.linux =
        Some(wire::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() });
    config.hostname.clear();
    let pod = cri.run_pod(&config).await.expect("a pod");
    let line = "echo mine > /written; echo ready; while true; do sleep 1; done";
    let mut wanted = cri::container("c", &image, line);
    let security =
        wire::LinuxContainerSecurityContext { namespace_options: Some(of_host), ..Default::default() };
    wanted.linux =
        Some(wire::LinuxContainerConfig { security_context: Some(security), ..Default::default() });
    let id = cri.create(&pod, &wanted, &config).await.expect("created");
    cri.start(&id).await.expect("started");
    let log = folder.path().join("logs/c.log");
    eventually("its line", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("ready")));

    let place = folder.path().join("checkpoint.tar");
    let ask = async |location: &str, timeout: i64| {
        let request = wire::CheckpointContainerRequest {
            container_id: id.clone(),
            location: location.to_owned(),
            timeout,
        };
        cri.runtime.clone().checkpoint_container(request).await.map(drop)
    };
    for (location, timeout) in [("", 0), ("relative.tar", 0), ("/tmp/x", -1)] {
        let error = ask(location, timeout).await.expect_err("refused");
        assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
    }
    let made = ask(&place.display().to_string(), 60).await;
    match criu_works() {
        true => {
            made.expect("a checkpoint");
            let names = names(&place);
            for name in
                ["checkpoint", "config.dump", "container.log", "rootfs-diff.tar", "spec.dump", "status.dump"]
            {
                assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
            }
        }
        false => {
            let error = made.expect_err("there is no criu that works");
            assert!(error.message().contains("criu"), "{error}");
            assert!(!place.exists());
        }
    }
    let said = cri.exec_sync(&id, "cat /written", 10).await.expect("it runs on");
    assert_eq!(said.stdout, b"mine\n");
    let left = std::fs::read_dir(f.daemon.root().join("checkpoints/pods")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "what it was made of is left");
    cri.remove_pod(&pod).await.expect("removed");
}
