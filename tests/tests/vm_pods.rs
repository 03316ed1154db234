//! Checkpoints of pods' containers: really made where criu works (`make test-vm` has such a kernel), refused with its reason elsewhere.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use longshore_proto::containerd::services::containers::v1::GetContainerRequest;
use longshore_proto::runtime::v1 as wire;
use longshore_tests::Fixture;
use longshore_tests::cri::{self, Cri, Records};
use longshore_tests::daemon::{Settings, eventually};

fn criu_works() -> bool {
    let works = Command::new("criu").arg("check").output().is_ok_and(|said| said.status.success());
    println!("criu works: {works}");
    works
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

/// A daemon whose pods have networks with nothing in them: the machine has no nft.
fn without_nft(folder: &Path, criu: Option<&'static str>) -> Fixture {
    let (conf, bin) = (folder.join("conf"), folder.join("bin"));
    [&conf, &bin].into_iter().for_each(|folder| fs::create_dir(folder).expect("a folder"));
    let answer = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.52.0.2/24","interface":0}]}"#;
    let plugin = bin.join("nothing");
    fs::write(
        &plugin,
        format!("#!/bin/sh\ncat > /dev/null\n[ $CNI_COMMAND = ADD ] && echo '{answer}'\nexit 0\n"),
    )
    .expect("written");
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).expect("executable");
    let list = r#"{"cniVersion": "1.0.0", "name": "nothing", "plugins": [{"type": "nothing"}]}"#;
    fs::write(conf.join("10-nothing.conflist"), list).expect("written");
    let config = format!(
        "[cri]\nnetwork = \"cni\"\n[network]\ncni_configurations = [{conf:?}]\ncni_plugins = [{bin:?}]\n",
    );
    Fixture::with(Settings { config, criu, ..Settings::default() }).expect("a registry and a daemon")
}

/// A pod, its containers and where they log, as they are asked for again and again.
struct Wanted {
    pod: wire::PodSandboxConfig,
    containers: Vec<wire::ContainerConfig>,
    logs: PathBuf,
}

impl Wanted {
    fn new(name: &str, logs: PathBuf, containers: Vec<wire::ContainerConfig>) -> Wanted {
        let mut pod = cri::pod(name);
        pod.log_directory = logs.display().to_string();
        Wanted { pod, containers, logs }
    }

    /// The same as another pod, with another folder of logs.
    fn again(&self, logs: PathBuf) -> Wanted {
        let pod = wire::PodSandboxConfig {
            log_directory: logs.display().to_string(),
            linux: self.pod.linux.clone(),
            ..cri::pod(&self.pod.hostname)
        };
        Wanted { pod, containers: self.containers.clone(), logs }
    }

    fn share_processes(&mut self, mode: wire::NamespaceMode) {
        let linux = self.pod.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
        linux.and_then(|security| security.namespace_options.as_mut()).expect("options").set_pid(mode);
        for container in &mut self.containers {
            let linux = container.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
            linux.and_then(|security| security.namespace_options.as_mut()).expect("options").set_pid(mode);
        }
    }

    async fn run(&self, cri: &Cri) -> (String, Vec<String>) {
        let pod = cri.run_pod(&self.pod).await.expect("a pod");
        let mut ids = Vec::new();
        for container in &self.containers {
            let id = cri.create(&pod, container, &self.pod).await.expect("created");
            cri.start(&id).await.expect("started");
            ids.push(id);
        }
        (pod, ids)
    }

    /// The numbers that a container has said so far.
    fn said(&self, number: usize) -> Vec<u64> {
        numbers(&self.logs.join(&self.containers[number].log_path))
    }

    async fn restore(&self, cri: &Cri, from: &Path) -> Result<wire::RestorePodResponse, tonic::Status> {
        let request = wire::RestorePodRequest {
            checkpoint_path: from.display().to_string(),
            config: Some(self.pod.clone()),
            container_configs: self.containers.clone(),
            ..Default::default()
        };
        cri.runtime.clone().restore_pod(request).await.map(tonic::Response::into_inner)
    }
}

fn numbers(log: &Path) -> Vec<u64> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|line| line.rsplit_once("n=")?.1.trim().parse().ok()).collect()
}

async fn checkpoint(cri: &Cri, pod: &str, to: &Path, ids: &[String]) -> Result<(), tonic::Status> {
    let request = wire::CheckpointPodRequest {
        pod_sandbox_id: pod.to_owned(),
        output_path: to.display().to_string(),
        container_ids: ids.to_vec(),
        ..Default::default()
    };
    cri.runtime.clone().checkpoint_pod(request).await.map(drop)
}

/// Nothing of a pod or a checkpoint is there.
async fn assert_nothing_left(f: &Fixture, cri: &Cri) {
    let pods = cri.runtime.clone().list_pod_sandbox(wire::ListPodSandboxRequest::default()).await;
    assert!(pods.expect("a list").into_inner().items.is_empty(), "a pod is left");
    let all = cri.runtime.clone().list_containers(wire::ListContainersRequest::default()).await;
    assert!(all.expect("a list").into_inner().containers.is_empty(), "a container is left");
    let mut records = Records::connect(&f.daemon.socket()).await.expect("a connection");
    assert!(records.snapshots().await.expect("snapshots").is_empty(), "a snapshot is left");
    assert_no_pieces(f);
    assert!(f.daemon.cgroups().is_empty(), "a cgroup is left");
}

/// How many checkpoints are being made.
fn under_way(f: &Fixture) -> usize {
    fs::read_dir(f.daemon.root().join("checkpoints/pods")).map_or(0, Iterator::count)
}

/// How many notes of work on pods there are.
fn notes(f: &Fixture) -> usize {
    fs::read_dir(f.daemon.root().join("checkpoints/under-way")).map_or(0, Iterator::count)
}

/// What checkpoints are made of, and made from, is gone.
fn assert_no_pieces(f: &Fixture) {
    for folder in ["pods", "saved", "under-way"] {
        let folder = f.daemon.root().join("checkpoints").join(folder);
        assert_eq!(fs::read_dir(&folder).map_or(0, Iterator::count), 0, "{}", folder.display());
    }
}

fn counting(name: &str, image: &str) -> wire::ContainerConfig {
    let line = "echo mine > /written; n=0; while true; do n=$((n+1)); echo n=$n; sleep 1; done";
    cri::container(name, image, line)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_goes_on_from_its_checkpoint() {
    Box::pin(goes_on(wire::NamespaceMode::Container)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_with_shared_processes_goes_on_from_its_checkpoint() {
    Box::pin(goes_on(wire::NamespaceMode::Pod)).await;
}

async fn goes_on(processes: wire::NamespaceMode) {
    let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
    let f = without_nft(folder.path(), None);
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    let image = cri.pull(&f.busybox).await.expect("pulled");
    let containers = vec![counting("a", &image), counting("b", &image)];
    let mut wanted = Wanted::new("counted", folder.path().join("logs"), containers);
    wanted.share_processes(processes);
    let (pod, ids) = wanted.run(&cri).await;
    eventually("that both count", || wanted.said(0).len() > 2 && wanted.said(1).len() > 2);
    let output = folder.path().join("checkpoint");
    fs::create_dir(&output).expect("a folder");

    let made = checkpoint(&cri, &pod, &output, &ids).await;
    let before = [0, 1].map(|number| wanted.said(number).len());
    eventually("that both go on", || [0, 1].iter().all(|&number| wanted.said(number).len() > before[number]));
    assert_no_pieces(&f);
    if !criu_works() {
        let error = made.expect_err("there is no criu that works");
        assert!(error.message().contains("criu"), "{error}");
        assert_eq!(fs::read_dir(&output).expect("a list").count(), 0, "something is left in it");
        let again = wanted.again(folder.path().join("again"));
        cri.remove_pod(&pod).await.expect("removed");
        again.restore(&cri, &output).await.expect_err("nothing is there");
        assert_nothing_left(&f, &cri).await;
        return;
    }
    made.expect("a checkpoint");
    let saved = |name: &str| output.join("pod").join(name);
    assert!(saved("manifest.json").is_file() && saved("config.json").is_file());
    let last = [0, 1].map(|number| {
        let log = numbers(&saved(&format!("containers/{number}/container.log")));
        *log.last().expect("a number")
    });
    let error = checkpoint(&cri, &pod, &output, &ids).await.expect_err("it is not empty");
    assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
    cri.remove_pod(&pod).await.expect("removed");

    // Another program than the saved one is refused once the pod is made, of which nothing is left.
    let mut other = wanted.again(folder.path().join("other"));
    other.containers[1].command = vec!["sh".to_owned(), "-c".to_owned(), "true".to_owned()];
    let error = other.restore(&cri, &output).await.expect_err("another program");
    assert!(error.message().contains("arguments"), "{error}");
    assert_nothing_left(&f, &cri).await;

    let again = wanted.again(folder.path().join("again"));
    let restored = again.restore(&cri, &output).await.expect("restored");
    fs::remove_dir_all(&output).expect("it is not needed any more");
    let ids: Vec<&String> = ["a", "b"]
        .iter()
        .map(|name| {
            let found = restored.restored_containers.iter().find(|one| one.name == *name);
            &found.expect("each container").container_id
        })
        .collect();
    for (number, id) in ids.iter().enumerate() {
        assert_eq!(cri.status(id).await.expect("a status").state(), wire::ContainerState::ContainerCreated);
        assert!(again.said(number).is_empty(), "it ran before it was started");
        cri.start(id).await.expect("started");
    }
    eventually("that both count", || again.said(0).len() > 2 && again.said(1).len() > 2);
    for (number, last) in last.into_iter().enumerate() {
        let first = again.said(number)[0];
        assert!(first == last + 1 || first == last + 2, "it said {first} after {last}");
    }
    let mut seen = Vec::new();
    for id in &ids {
        let line = "cat /written; hostname; for kind in net ipc uts; do readlink /proc/self/ns/$kind; done";
        let said = cri.exec_sync(id, line, 30).await.expect("a process").stdout;
        seen.push(String::from_utf8_lossy(&said).into_owned());
    }
    assert!(seen[0].starts_with("mine\ncounted\n"), "{seen:?}");
    assert_eq!(seen[0], seen[1], "they share the pod's namespaces");
    let fresh =
        cri.create(&restored.pod_sandbox_id, &cri::container("c", &image, "sleep 1000"), &again.pod).await;
    let fresh = fresh.expect("created");
    cri.start(&fresh).await.expect("started");
    let line = "for kind in net ipc uts; do readlink /proc/self/ns/$kind; done";
    let said = cri.exec_sync(&fresh, line, 30).await.expect("a process").stdout;
    assert!(seen[0].ends_with(&*String::from_utf8_lossy(&said)), "{seen:?} {said:?}");
    assert_no_pieces(&f);
    cri.remove_pod(&restored.pod_sandbox_id).await.expect("removed");
    assert_nothing_left(&f, &cri).await;
}

/// A checkpoint of the pod's one container that criu has not made, with this archive of changes.
async fn forge(f: &Fixture, cri: &Cri, id: &str, to: &Path, change: &str) {
    let pod = to.join("pod");
    fs::create_dir_all(pod.join("containers/0/checkpoint")).expect("folders");
    let status = cri.status(id).await.expect("a status");
    let manifest = serde_json::json!({
        "version": 1,
        "runtime": "io.containerd.longshore.v1",
        "created_at": "2026-01-02T03:04:05Z",
        "pod": "x",
        "handler": "",
        "containers": [{ "name": "c", "id": id, "image": "x", "image_id": status.image_id }],
    });
    fs::write(pod.join("manifest.json"), manifest.to_string()).expect("written");
    let config = serde_json::json!({ "namespaces": { "network": "pod", "pid": "container", "ipc": "pod" } });
    fs::write(pod.join("config.json"), config.to_string()).expect("written");
    let mut records = Records::connect(&f.daemon.socket()).await.expect("a connection");
    let stored = records.containers.get(GetContainerRequest { id: id.to_owned() }).await.expect("a record");
    let spec = stored.into_inner().container.and_then(|container| container.spec).expect("a spec");
    fs::write(pod.join("containers/0/spec.dump"), spec.value).expect("written");
    fs::write(pod.join("containers/0/checkpoint/inventory.img"), "no image").expect("written");
    let mut tar =
        tar::Builder::new(fs::File::create(pod.join("containers/0/rootfs-diff.tar")).expect("made"));
    let mut header = tar::Header::new_gnu();
    header.as_gnu_mut().expect("a header").name[..change.len()].copy_from_slice(change.as_bytes());
    header.set_size(4);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append(&header, &b"mine"[..]).expect("written");
    tar.finish().expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_fails_leaves_nothing() {
    // It looks as if it worked, and does nothing.
    let criu = Some("#!/bin/sh\n[ \"$1\" = check ]\n");
    let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
    let mut f = without_nft(folder.path(), criu);
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    let image = cri.pull(&f.busybox).await.expect("pulled");
    let wanted = Wanted::new("forged", folder.path().join("logs"), vec![counting("c", &image)]);
    let (pod, ids) = wanted.run(&cri).await;
    let (output, good) = (folder.path().join("output"), folder.path().join("good"));
    fs::create_dir(&output).expect("a folder");

    // What makes no sense is refused before anything is frozen.
    let missing = folder.path().join("missing");
    let twice = [ids[0].clone(), ids[0].clone()];
    for (to, ids) in
        [(&missing, &ids[..]), (&output, &[]), (&output, &twice), (&PathBuf::from("output"), &ids)]
    {
        let error = checkpoint(&cri, &pod, to, ids).await.expect_err("refused");
        assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
    }
    fs::set_permissions(&output, fs::Permissions::from_mode(0o775)).expect("changed");
    let error = checkpoint(&cri, &pod, &output, &ids).await.expect_err("a group can write to it");
    assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
    assert!(error.message().contains("others can write"), "{error}");
    fs::set_permissions(&output, fs::Permissions::from_mode(0o755)).expect("changed");
    let other = cri.run_pod(&cri::pod("other")).await.expect("a pod");
    let error = checkpoint(&cri, &other, &output, &ids).await.expect_err("of another pod");
    assert!(error.message().contains("another pod"), "{error}");
    cri.remove_pod(&other).await.expect("removed");
    let options = [("speed".to_owned(), "high".to_owned())].into();
    let request = wire::CheckpointPodRequest {
        pod_sandbox_id: pod.clone(),
        output_path: output.display().to_string(),
        container_ids: ids.clone(),
        options,
    };
    let error = cri.runtime.clone().checkpoint_pod(request).await.expect_err("no such option");
    assert!(error.message().contains("speed"), "{error}");

    // It is frozen, criu fails, and it goes on.
    let error = checkpoint(&cri, &pod, &output, &ids).await.expect_err("no criu that works");
    assert!(error.message().contains("criu") || error.message().contains("dump"), "{error}");
    assert_eq!(fs::read_dir(&output).expect("a list").count(), 0, "something is left in it");
    assert_no_pieces(&f);
    let before = wanted.said(0).len();
    eventually("that it goes on", || wanted.said(0).len() > before);

    forge(&f, &cri, &ids[0], &good, "written-by-it").await;
    let change = |name: &str, change: &dyn Fn(&Path)| {
        let bad = folder.path().join(name);
        let copied = Command::new("cp").arg("-a").arg(&good).arg(&bad).status();
        assert!(copied.is_ok_and(|status| status.success()));
        change(&bad.join("pod"));
        bad
    };
    let bad = [
        (
            change("version", &|pod| fs::write(pod.join("manifest.json"), r#"{"version": 7}"#).unwrap()),
            "version 7",
        ),
        (change("no-json", &|pod| fs::write(pod.join("config.json"), "[[[").unwrap()), "cannot be read"),
        (
            change("link", &|pod| {
                fs::remove_dir_all(pod.join("containers/0/checkpoint")).unwrap();
                symlink("/etc", pod.join("containers/0/checkpoint")).unwrap();
            }),
            "no folder",
        ),
        (
            change("image-link", &|pod| {
                symlink("/etc/passwd", pod.join("containers/0/checkpoint/pages-1.img")).unwrap();
            }),
            "no regular file",
        ),
        (change("no-spec", &|pod| fs::remove_file(pod.join("containers/0/spec.dump")).unwrap()), "missing"),
        (
            change("spec", &|pod| fs::write(pod.join("containers/0/spec.dump"), "{}").unwrap()),
            "other arguments",
        ),
    ];
    let escaping = folder.path().join("escaping");
    forge(&f, &cri, &ids[0], &escaping, "../../../escaped").await;
    let forged = wanted.again(folder.path().join("forged"));
    let error = forged.restore(&cri, &good).await.map(drop);
    error.expect("restored beside the first one");
    let pods = cri.runtime.clone().list_pod_sandbox(wire::ListPodSandboxRequest::default()).await;
    for pod in pods.expect("a list").into_inner().items {
        cri.remove_pod(&pod.id).await.expect("removed");
    }
    assert_nothing_left(&f, &cri).await;

    let wanted = wanted.again(folder.path().join("again"));
    for (bad, why) in bad.iter().map(|(bad, why)| (bad, *why)).chain([(&escaping, "escaped")]) {
        let error = wanted.restore(&cri, bad).await.expect_err("refused");
        assert!(error.message().contains(why), "{why}: {error}");
        assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
        assert_nothing_left(&f, &cri).await;
    }
    let mut two = wanted.again(folder.path().join("two"));
    two.containers.push(counting("d", &image));
    let error = two.restore(&cri, &good).await.expect_err("one container too many");
    assert!(error.message().contains("asked for are c, d"), "{error}");
    let mut other = wanted.again(folder.path().join("other"));
    other.containers[0].working_dir = "/tmp".to_owned();
    let error = other.restore(&cri, &good).await.expect_err("another folder");
    assert!(error.message().contains("working directory"), "{error}");
    assert_nothing_left(&f, &cri).await;

    let restored = wanted.restore(&cri, &good).await.expect("restored");
    assert_eq!(wanted.restore(&cri, &good).await.expect("the same again"), restored);
    // One whose restore was not brought to its end, or could not be taken back, is nobody's.
    let note =
        f.daemon.root().join("checkpoints/under-way").join(format!("{}.0123", restored.pod_sandbox_id));
    fs::write(&note, "\"Restore\"").expect("written");
    let error = wanted.restore(&cri, &good).await.expect_err("it is going to be removed");
    assert_eq!(error.code(), tonic::Code::Unavailable, "{error}");
    fs::remove_file(&note).expect("removed");
    // What a restored container is started from outlives a daemon.
    f.daemon.stop().expect("it stops");
    f.daemon.launch().expect("started again");
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    let id = &restored.restored_containers[0].container_id;
    assert!(f.daemon.root().join("checkpoints/saved").join(id).join("inventory.img").exists());
    assert_eq!(cri.status(id).await.expect("a status").state(), wire::ContainerState::ContainerCreated);
    let error = cri.start(id).await.expect_err("criu does nothing");
    assert!(error.message().contains("criu") || error.message().contains("restore"), "{error}");
    let status = cri.status(id).await.expect("a status");
    assert_eq!(
        (status.state(), status.reason.as_str()),
        (wire::ContainerState::ContainerExited, "StartError")
    );
    fs::write(&note, "\"Restore\"").expect("written");
    f.daemon.kill();
    f.daemon.launch().expect("started again");
    eventually("that it is removed", || notes(&f) == 0);
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    assert_nothing_left(&f, &cri).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_frozen_when_the_daemon_died_runs_again() {
    // A dump that takes its time, and fails.
    let criu = Some("#!/bin/sh\n[ \"$1\" = check ] || exec sleep 4\n");
    let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
    let mut f = without_nft(folder.path(), criu);
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    let image = cri.pull(&f.busybox).await.expect("pulled");
    let containers = vec![counting("a", &image), counting("b", &image)];
    let wanted = Wanted::new("frozen", folder.path().join("logs"), containers);
    let (pod, ids) = wanted.run(&cri).await;
    eventually("that both count", || wanted.said(0).len() > 1 && wanted.said(1).len() > 1);
    let output = folder.path().join("output");
    fs::create_dir(&output).expect("a folder");
    let entries = |output: &Path| fs::read_dir(output).expect("a list").count();

    // Whoever asked goes away: what was begun is taken back.
    let (asking, to, of) = (cri.clone(), output.clone(), (pod.clone(), ids.clone()));
    let asked = tokio::spawn(async move { checkpoint(&asking, &of.0, &to, &of.1).await });
    eventually("that it is begun", || under_way(&f) > 0);
    let same = tokio::time::timeout(Duration::from_secs(1), checkpoint(&cri, &pod, &output, &ids)).await;
    assert!(same.is_err(), "it joins what is under way: {same:?}");
    let other = checkpoint(&cri, &pod, &output, &ids[..1]).await.expect_err("another one is under way");
    assert_eq!(other.code(), tonic::Code::Unavailable, "{other}");
    asked.abort();
    eventually("that it is taken back", || under_way(&f) == 0);
    assert_eq!(entries(&output), 0, "nothing is there before it is whole");
    let before = wanted.said(1).len();
    eventually("that it goes on", || wanted.said(1).len() > before);

    let asking = cri.clone();
    let (to, of) = (output.clone(), (pod.clone(), ids.clone()));
    let asked = tokio::spawn(async move { checkpoint(&asking, &of.0, &to, &of.1).await });
    eventually("that it is begun", || under_way(&f) > 0);
    std::thread::sleep(Duration::from_secs(1));
    let frozen = wanted.said(1).len();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(wanted.said(1).len(), frozen, "the second one is frozen while the first is written");
    f.daemon.kill();
    let _ = asked.await;
    f.daemon.launch().expect("started again");
    eventually("that both go on", || wanted.said(0).len() > frozen + 1 && wanted.said(1).len() > frozen + 1);
    assert_eq!((entries(&output), under_way(&f)), (0, 0), "something is left of it");
    eventually("that its note is gone", || notes(&f) == 0);
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    cri.remove_pod(&pod).await.expect("removed");
    assert_nothing_left(&f, &cri).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_frozen_when_the_daemon_was_stopped_runs_again() {
    // Longer than a daemon that is asked to stop waits.
    let criu = Some("#!/bin/sh\n[ \"$1\" = check ] || exec sleep 12\n");
    let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
    let mut f = without_nft(folder.path(), criu);
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    let image = cri.pull(&f.busybox).await.expect("pulled");
    let containers = vec![counting("a", &image), counting("b", &image)];
    let wanted = Wanted::new("stopped", folder.path().join("logs"), containers);
    let (pod, ids) = wanted.run(&cri).await;
    eventually("that both count", || wanted.said(0).len() > 1 && wanted.said(1).len() > 1);
    let output = folder.path().join("output");
    fs::create_dir(&output).expect("a folder");
    let (asking, to, of) = (cri.clone(), output.clone(), (pod.clone(), ids.clone()));
    let asked = tokio::spawn(async move { checkpoint(&asking, &of.0, &to, &of.1).await });
    eventually("that it is begun", || notes(&f) > 0);
    let (mut frozen, mut since) = (0, Instant::now());
    eventually("that the second one stands still", || {
        let said = wanted.said(1).len();
        if said != frozen {
            (frozen, since) = (said, Instant::now());
        }
        since.elapsed() > Duration::from_secs(3)
    });
    f.daemon.stop().expect("it stops");
    asked.abort();
    assert_eq!(wanted.said(1).len(), frozen, "the second one is frozen");
    assert_eq!(notes(&f), 1, "nobody has thawed them");
    f.daemon.launch().expect("started again");
    eventually("that both go on", || wanted.said(0).len() > frozen + 1 && wanted.said(1).len() > frozen + 1);
    eventually("that its note is gone", || notes(&f) == 0);
    assert_eq!((fs::read_dir(&output).expect("a list").count(), under_way(&f)), (0, 0), "something is left");
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    cri.remove_pod(&pod).await.expect("removed");
    assert_nothing_left(&f, &cri).await;
}
