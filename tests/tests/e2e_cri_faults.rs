//! Pods on a host where things go wrong: folders of logs that vanish, hang or lead elsewhere, a full disk, records of a newer daemon,
//! files of /etc that are written full.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use longshore_proto::containerd::services::containers::v1 as containers;
use longshore_proto::containerd::services::sandbox::v1 as sandboxes;
use longshore_proto::runtime::v1 as wire;
use longshore_tests::cri::{Records, World};
use longshore_tests::daemon::{Settings, eventually};

const LINES: &str = "while :; do echo line; sleep 0.05; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn a_folder_of_logs_that_vanishes_is_made_again_and_no_link_in_its_place_is_followed() {
    let w = World::new(Settings::default()).await;
    let config = w.pod("logs");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let id = w.cri.create(&pod, &w.container("c", LINES), &config).await.expect("created");
    fs::remove_dir_all(w.folder()).expect("removed before the start");
    w.cri.start(&id).await.expect("started");
    eventually("there is a line", || w.log("c").contains("line"));
    fs::remove_dir_all(w.folder()).expect("removed while it runs");
    w.reopen(&id).await.expect("reopened");
    eventually("there is a line again", || w.log("c").contains("line"));

    // Whoever can write to the folder of logs leads nobody out of it.
    let elsewhere = w.logs.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder");
    fs::rename(w.folder().join("c"), w.folder().join("kept")).expect("renamed");
    symlink(&elsewhere, w.folder().join("c")).expect("linked");
    let error = w.reopen(&id).await.unwrap_err();
    assert!(error.message().contains("is a link"), "{error}");
    let second = w.cri.create(&pod, &w.container("d", "echo no"), &config).await.expect("created");
    symlink(&elsewhere, w.folder().join("d")).expect("linked");
    let error = w.cri.start(&second).await.unwrap_err();
    assert!(error.message().contains("is a link"), "{error}");
    let ended = w.cri.ended(&second).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (128, "StartError"));
    assert_eq!(fs::read_dir(&elsewhere).expect("the folder").count(), 0);
    assert_eq!(w.cri.status(&id).await.expect("a status").state(), wire::ContainerState::ContainerRunning);
    fs::remove_file(w.folder().join("c")).expect("removed");
    w.reopen(&id).await.expect("reopened");
    eventually("there is a line once more", || w.log("c").contains("line"));
    w.cri.remove_pod(&pod).await.expect("removed");
}

/// Bytes on the file system of a daemon with a small one.
const SMALL: u64 = 40 << 20;

/// A file that takes all room but this.
fn fill(path: &Path, room: u64) {
    use std::io::Write;
    let mut file = fs::File::create(path).expect("a file");
    let block = vec![b'x'; 4096];
    while file.write_all(&block).is_ok() {}
    let length = file.metadata().expect("its length").len();
    file.set_len(length.saturating_sub(room)).expect("made shorter");
}

/// Kilobytes of room that a call finds.
const ROOM: [u64; 7] = [0, 4, 8, 16, 32, 64, 256];

/// Does something while the disk has no more room than this, and says whether that was refused for it.
async fn with_room<T>(
    w: &World,
    room: Option<u64>,
    work: impl Future<Output = Result<T, tonic::Status>>,
) -> Option<T> {
    let Some(kilobytes) = room else { return Some(work.await.expect("there is room")) };
    let filler = w.f.daemon.path().join("filler");
    fill(&filler, kilobytes << 10);
    let done = work.await;
    fs::remove_file(&filler).expect("room");
    done.inspect_err(|error| assert!(error.message().contains("space"), "with {kilobytes} KiB: {error}")).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn a_full_disk_is_said_and_leaves_nothing_and_with_room_all_goes_on() {
    let w = World::new(Settings { tmpfs: Some(SMALL), ..Settings::default() }).await;
    let mut records = Records::connect(&w.f.daemon.socket()).await.expect("a connection");
    let mut refused = [0; 4];
    for (call, kilobytes) in (0..4).flat_map(|call| ROOM.map(|room| (call, room))) {
        let at = |number: usize| (number == call).then_some(kilobytes);
        let (config, wanted) = (w.pod("full"), w.container("c", "exec sleep 1000"));
        let pod = match with_room(&w, at(0), w.cri.run_pod(&config)).await {
            Some(pod) => pod,
            None => {
                refused[0] += 1;
                w.cri.run_pod(&config).await.expect("the same call, with room")
            }
        };
        let id = match with_room(&w, at(1), Box::pin(w.cri.create(&pod, &wanted, &config))).await {
            Some(id) => id,
            None => {
                refused[1] += 1;
                w.cri.create(&pod, &wanted, &config).await.expect("the same call, with room")
            }
        };
        let id = match with_room(&w, at(2), w.cri.start(&id)).await {
            Some(()) => id,
            // A container is started once: the kubelet makes the next.
            None => {
                refused[2] += 1;
                assert_eq!(w.cri.ended(&id).await.reason, "StartError");
                let metadata = Some(wire::ContainerMetadata { name: "c".to_owned(), attempt: 1 });
                let next = wire::ContainerConfig { metadata, ..wanted };
                let id = w.cri.create(&pod, &next, &config).await.expect("created");
                w.cri.start(&id).await.expect("started, with room");
                id
            }
        };
        assert_eq!(w.cri.exec_sync(&id, "true", 20).await.expect("it runs").exit_code, 0);
        if with_room(&w, at(3), w.cri.remove_pod(&pod)).await.is_none() {
            refused[3] += 1;
            w.cri.remove_pod(&pod).await.expect("the same call, with room");
        }
        let round = format!("call {call} with {kilobytes} KiB");
        assert!(w.pods_folder_is_empty(), "{round}");
        assert_eq!(w.f.daemon.mounts(), Vec::<PathBuf>::new(), "{round}");
        assert_eq!(records.snapshots().await.expect("a list"), Vec::<String>::new(), "{round}");
        eventually("no cgroup is left", || w.f.daemon.cgroups().iter().all(|name| name.len() < 64));
    }
    println!("refused for want of room: {refused:?} of pods, containers, starts and removals");
    assert!(refused[0] > 0, "nothing was full");
}

/// A file system whose server never answers.
#[cfg(have_fuse)]
struct Hung {
    server: Option<fs::File>,
    place: PathBuf,
}

#[cfg(have_fuse)]
impl Hung {
    fn at(place: PathBuf) -> Hung {
        use std::os::fd::AsRawFd;
        fs::create_dir(&place).expect("a folder");
        let server = fs::File::options().read(true).write(true).open("/dev/fuse").expect("FUSE");
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let none = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("hung"), &place, Some("fuse"), none, Some(data.as_str())).expect("mounted");
        Hung { server: Some(server), place }
    }
}

#[cfg(have_fuse)]
impl Drop for Hung {
    fn drop(&mut self) {
        // Whoever waits gets an error.
        self.server = None;
        let _ = nix::mount::umount2(&self.place, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg(have_fuse)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn folders_of_logs_that_hang_hold_up_their_own_pods_only() {
    let w = World::new(Settings::default()).await;
    let hung = Hung::at(w.logs.path().join("hung"));
    // More than the daemon has workers.
    let work: Vec<_> = (0..6)
        .map(|number| {
            let mut config = w.pod(&format!("hung{number}"));
            config.log_directory = hung.place.join(format!("pod{number}")).display().to_string();
            let cri = w.cri.clone();
            tokio::spawn(async move { cri.run_pod(&config).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    let config = w.pod("well");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let id = w.cri.create(&pod, &w.container("c", "exec sleep 1000"), &config).await.expect("created");
    w.cri.start(&id).await.expect("started");
    w.cri.remove_pod(&pod).await.expect("removed");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(work.iter().all(|one| !one.is_finished()), "they hang");
    drop(hung);
    for one in work {
        let error = one.await.expect("it ran").unwrap_err();
        assert!(error.message().contains("folder of logs"), "{error}");
    }
    assert!(w.pods_folder_is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg(have_fuse)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn a_pod_is_stopped_and_removed_while_paths_that_its_containers_name_hang() {
    let w = World::new(Settings::default()).await;
    let hung = Hung::at(w.logs.path().join("hung"));
    let config = w.pod("volume");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let mut wanted = w.container("c", "exec sleep 1000");
    let (host_path, container_path) = (hung.place.join("data").display().to_string(), "/data".to_owned());
    wanted.mounts = vec![wire::Mount { host_path, container_path, ..Default::default() }];
    let (cri, of_pod, config_of_pod) = (w.cri.clone(), pod.clone(), config.clone());
    let create = tokio::spawn(async move { cri.create(&of_pod, &wanted, &config_of_pod).await });
    // One whose log would be there is not started, and holds nobody up.
    let mut logging = w.container("d", "exec sleep 1000");
    logging.log_path = "led/d/0.log".to_owned();
    let id = w.cri.create(&pod, &logging, &config).await.expect("created");
    let of_logs = Hung::at(w.folder().join("led"));
    let (cri, started) = (w.cri.clone(), id.clone());
    let start = tokio::spawn(async move { cri.start(&started).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!create.is_finished() && !start.is_finished(), "they hang");
    let begun = Instant::now();
    w.cri.remove(&id).await.expect("removed");
    w.cri.stop_pod(&pod).await.expect("stopped");
    w.cri.remove_pod(&pod).await.expect("removed");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(!create.is_finished() && !start.is_finished(), "they hang still");
    drop((hung, of_logs));
    create.await.expect("it ran").unwrap_err();
    start.await.expect("it ran").unwrap_err();
    assert!(w.pods_folder_is_empty());
    assert_eq!(w.f.daemon.mounts(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn views_of_images_go_with_their_container_though_the_host_was_started_anew() {
    let mut w = World::new(Settings::default()).await;
    let config = w.pod("views");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let mut wanted = w.container("c", "exec sleep 1000");
    wanted.mounts = vec![wire::Mount {
        container_path: "/image".to_owned(),
        image: Some(wire::ImageSpec { image: w.image.clone(), ..Default::default() }),
        readonly: true,
        ..Default::default()
    }];
    let id = w.cri.create(&pod, &wanted, &config).await.expect("created");
    w.f.daemon.kill();
    // What the state folder has does not outlive the host's run.
    for place in w.f.daemon.mounts() {
        // One below another goes with it.
        let _ = nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH);
    }
    fs::remove_dir_all(w.f.daemon.state().join("pods")).expect("gone");
    w.restart().await;
    let mut records = Records::connect(&w.f.daemon.socket()).await.expect("a connection");
    assert_eq!(records.snapshots().await.expect("a list").len(), 2, "the container's own, and the view");
    w.cri.remove(&id).await.expect("removed");
    assert_eq!(records.snapshots().await.expect("a list"), Vec::<String>::new());
    w.cri.remove_pod(&pod).await.expect("removed");
    assert_eq!(w.f.daemon.mounts(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn a_pod_whose_shims_have_just_died_is_stopped_at_once() {
    let w = World::new(Settings::default()).await;
    for round in 0..12 {
        let mut config = w.pod("shims");
        if round % 2 == 1 {
            // With a first process of the pod's own.
            let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
            security.expect("given").namespace_options = Some(wire::NamespaceOption::default());
        }
        let pod = w.cri.run_pod(&config).await.expect("a pod");
        let mut wanted = w.container("c", "exec sleep 1000");
        let security = wire::LinuxContainerSecurityContext {
            namespace_options: config
                .linux
                .as_ref()
                .and_then(|linux| linux.security_context.as_ref()?.namespace_options.clone()),
            ..Default::default()
        };
        wanted.linux =
            Some(wire::LinuxContainerConfig { security_context: Some(security), ..Default::default() });
        let id = w.cri.create(&pod, &wanted, &config).await.expect("created");
        w.cri.start(&id).await.expect("started");
        for shim in w.f.daemon.shims() {
            let shim = nix::unistd::Pid::from_raw(shim);
            nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("killed");
        }
        tokio::time::sleep(Duration::from_micros(700 * (round / 2))).await;
        w.cri.stop_pod(&pod).await.expect("stopped");
        w.cri.remove_pod(&pod).await.expect("removed");
    }
    assert!(w.pods_folder_is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn what_containers_write_to_the_files_of_etc_takes_nothing_from_the_host() {
    let w = World::new(Settings::default()).await;
    let config = w.pod("etc");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let line = "echo more >> /etc/hosts && dd if=/dev/zero of=/etc/resolv.conf bs=64k count=64";
    let id = w.cri.create(&pod, &w.container("c", line), &config).await.expect("created");
    w.cri.start(&id).await.expect("started");
    assert_eq!(w.cri.ended(&id).await.exit_code, 1, "{}", w.log("c"));
    let file = w.f.daemon.state().join("pods").join(&pod).join("etc/resolv.conf");
    assert!(fs::metadata(file).expect("the file").len() <= 1 << 20);
    w.cri.remove_pod(&pod).await.expect("removed");
    assert_eq!(w.f.daemon.mounts(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn records_that_cannot_be_read_lose_no_pod_and_no_name() {
    let mut w = World::new(Settings::default()).await;
    let config = w.pod("newer");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let id = w.cri.create(&pod, &w.container("c", LINES), &config).await.expect("created");
    w.cri.start(&id).await.expect("started");

    // As a newer daemon would have written them.
    let mut records = Records::connect(&w.f.daemon.socket()).await.expect("a connection");
    let with_a_new_state = |any: &mut prost_types::Any| {
        let text = String::from_utf8(std::mem::take(&mut any.value)).expect("JSON");
        any.value = text.replace("\"state\":\"", "\"state\":\"new-").into_bytes();
    };
    let field = "longshore.pods.v1.Container";
    let request = containers::GetContainerRequest { id: id.clone() };
    let mut stored = records.containers.get(request).await.expect("a record").into_inner().container;
    stored
        .as_mut()
        .and_then(|one| one.extensions.get_mut(field))
        .map(with_a_new_state)
        .expect("an extension");
    let update_mask = Some(prost_types::FieldMask { paths: vec![format!("extensions.{field}")] });
    let request = containers::UpdateContainerRequest { container: stored, update_mask };
    records.containers.update(request).await.expect("written");
    let field = "longshore.pods.v1.Pod";
    let request = sandboxes::StoreGetRequest { sandbox_id: pod.clone() };
    let mut stored = records.sandboxes.get(request).await.expect("a record").into_inner().sandbox;
    stored
        .as_mut()
        .and_then(|one| one.extensions.get_mut(field))
        .map(with_a_new_state)
        .expect("an extension");
    let request =
        sandboxes::StoreUpdateRequest { sandbox: stored, fields: vec![format!("extensions.{field}")] };
    records.sandboxes.update(request).await.expect("written");

    w.restart().await;
    let status = w.cri.pod_status(&pod).await.expect("it is kept").status.expect("one");
    assert_eq!(status.state(), wire::PodSandboxState::SandboxNotready);
    assert_eq!(status.metadata, config.metadata);
    assert_eq!(w.cri.status(&id).await.expect("it is kept").state(), wire::ContainerState::ContainerRunning);
    let said = w.cri.exec_sync(&id, "ip addr show eth0 | grep -c inet", 20).await.expect("it runs");
    assert_eq!(said.exit_code, 0, "its network is kept");
    let error = w.cri.run_pod(&config).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::AlreadyExists, "{error}");
    w.cri.remove_pod(&pod).await.expect("removed");
    assert!(w.pods_folder_is_empty());
    let fresh = w.cri.run_pod(&config).await.expect("its name is free");
    w.cri.remove_pod(&fresh).await.expect("removed");
}

/// A plugin that gives an address at once, and takes two seconds to take it back.
const SLOW: &str = r#"#!/bin/sh
[ "$CNI_COMMAND" = DEL ] && sleep 2
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.9.9.9/32"}]}'
exit 0
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn nothing_starts_in_a_pod_that_is_being_stopped() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
    fs::write(folder.path().join("slow"), SLOW).expect("written");
    fs::set_permissions(folder.path().join("slow"), PermissionsExt::from_mode(0o755)).expect("executable");
    let list = r#"{"cniVersion": "0.4.0", "name": "lab", "plugins": [{"type": "slow"}]}"#;
    fs::write(folder.path().join("10-lab.conflist"), list).expect("written");
    let at = folder.path().display();
    let config = format!("[network]\ncni_configurations = [\"{at}\"]\ncni_plugins = [\"{at}\"]\n");
    let mut w = World::new(Settings { config, ..Settings::default() }).await;
    let config = w.pod("stopping");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let mut ids = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let wanted = w.container(name, "exec sleep 1000");
        ids.push(w.cri.create(&pod, &wanted, &config).await.expect("created"));
    }
    w.cri.start(&ids[0]).await.expect("started");
    let (cri, stopped) = (w.cri.clone(), pod.clone());
    let stop = tokio::spawn(async move { cri.stop_pod(&stopped).await });
    // At once with the stop, and while the plugin takes its time.
    let early = w.cri.start(&ids[1]).await;
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let status = w.cri.pod_status(&pod).await.expect("a status").status.expect("one");
    assert_eq!(status.state(), wire::PodSandboxState::SandboxNotready);
    let error = w.cri.start(&ids[2]).await.unwrap_err();
    assert!(error.message().contains("is not ready"), "{error}");
    // Who is killed in the midst of it goes on with it.
    w.restart().await;
    let _ = stop.await;
    assert!(w.cri.start(&ids[3]).await.is_err());
    w.cri.stop_pod(&pod).await.expect("stopped");
    for id in &ids {
        let state = w.cri.status(id).await.expect("a status").state();
        assert_ne!(state, wire::ContainerState::ContainerRunning, "{early:?}");
    }
    w.cri.remove_pod(&pod).await.expect("removed");
    assert!(w.pods_folder_is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn limits_that_are_refused_in_part_are_not_changed_at_all() {
    let w = World::new(Settings::default()).await;
    let config = w.pod("limits");
    let pod = w.cri.run_pod(&config).await.expect("a pod");
    let id = w.cri.create(&pod, &w.container("c", "exec sleep 1000"), &config).await.expect("created");
    w.cri.start(&id).await.expect("started");
    let limit = async || {
        let line =
            "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true";
        let said = w.cri.exec_sync(&id, line, 20).await.expect("run");
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let before = limit().await;
    assert!(!before.is_empty());
    let change = async |cpus: &str| {
        let limits = wire::LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            oom_score_adj: 500,
            cpuset_cpus: cpus.to_owned(),
            ..Default::default()
        };
        let request = wire::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(limits),
            ..Default::default()
        };
        w.cri.runtime.clone().update_container_resources(request).await.map(drop)
    };
    change("4095").await.unwrap_err();
    let score = async || w.cri.exec_sync(&id, "cat /proc/1/oom_score_adj", 20).await.expect("run").stdout;
    assert_eq!(score().await, b"0\n");
    assert_eq!(limit().await, before);
    change("").await.expect("changed");
    assert_eq!(limit().await.trim(), (64 << 20).to_string());
    assert_eq!(score().await, b"500\n");
    w.cri.remove_pod(&pod).await.expect("removed");
}
