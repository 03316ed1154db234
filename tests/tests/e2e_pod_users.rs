//! Pods with users of their own: root in such a pod is nobody in particular on the host.

use std::ops::Deref;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use longshore_proto::runtime::v1 as wire;
use longshore_tests::cri::{self, World};
use longshore_tests::daemon::{Settings, eventually};

struct Users(World);

impl Deref for Users {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

impl Users {
    async fn new() -> Users {
        Users(World::new(Settings::default()).await)
    }

    async fn run_pod(&self, name: &str, options: &wire::NamespaceOption) -> (String, wire::PodSandboxConfig) {
        let mut config = cri::pod(name);
        config.log_directory = self.logs.path().display().to_string();
        let security = wire::LinuxSandboxSecurityContext {
            namespace_options: Some(options.clone()),
            ..Default::default()
        };
        let sysctls = [("kernel.shm_rmid_forced", "1"), ("net.ipv4.ip_forward", "1")];
        let sysctls = sysctls.map(|(key, value)| (key.to_owned(), value.to_owned()));
        config.linux = Some(wire::LinuxPodSandboxConfig {
            security_context: Some(security),
            sysctls: if options.network() == wire::NamespaceMode::Node {
                Default::default()
            } else {
                sysctls.into()
            },
            ..Default::default()
        });
        (self.cri.run_pod(&config).await.expect("a pod"), config)
    }

    async fn run(
        &self,
        (pod, pod_config): &(String, wire::PodSandboxConfig),
        config: &wire::ContainerConfig,
    ) -> String {
        let id = self.cri.create(pod, config, pod_config).await.expect("created");
        self.cri.start(&id).await.expect("started");
        id
    }

    fn container(&self, name: &str, line: &str, options: &wire::NamespaceOption) -> wire::ContainerConfig {
        let mut config = cri::container(name, &self.image, line);
        let security = wire::LinuxContainerSecurityContext {
            namespace_options: Some(options.clone()),
            ..Default::default()
        };
        config.linux =
            Some(wire::LinuxContainerConfig { security_context: Some(security), ..Default::default() });
        config
    }

    /// What a shell in the container says.
    async fn said(&self, id: &str, line: &str) -> String {
        let said = self.cri.exec_sync(id, line, 10).await.expect("run");
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert_eq!(said.exit_code, 0, "{line}: {text}{}", String::from_utf8_lossy(&said.stderr));
        text.trim().to_owned()
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.logs.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    fn held(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        points.filter(|point| point.starts_with(self.f.daemon.state().join("pods"))).collect()
    }

    /// The process of the host's whose command line has this in it.
    fn process(&self, mark: &str) -> Option<PathBuf> {
        let all = std::fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
        all.into_iter().find(|path| {
            let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
            line.starts_with(b"sleep\0") && String::from_utf8_lossy(&line).contains(mark)
        })
    }
}

fn mapping(host: u32) -> Vec<wire::IdMapping> {
    vec![wire::IdMapping { container_id: 0, host_id: host, length: 65536 }]
}

fn users(host: u32, pid: wire::NamespaceMode) -> wire::NamespaceOption {
    let users = wire::UserNamespace {
        mode: wire::NamespaceMode::Pod.into(),
        uids: mapping(host),
        gids: mapping(host + 1000),
    };
    wire::NamespaceOption { pid: pid.into(), userns_options: Some(users), ..Default::default() }
}

fn volume(host: u32, from: &Path, to: &str) -> wire::Mount {
    wire::Mount {
        container_path: to.to_owned(),
        host_path: from.display().to_string(),
        uid_mappings: mapping(host),
        gid_mappings: mapping(host + 1000),
        ..Default::default()
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let found = std::fs::symlink_metadata(path).expect("a file");
    (found.uid(), found.gid())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(all(have_nft, have_owner_shifts)), ignore = "needs nft, and Linux 6.15 with user namespaces")]
async fn pods_with_users_of_their_own_own_their_files_and_nothing_of_the_host_s() {
    let mut w = Users::new().await;
    let status = w.cri.runtime.clone().status(wire::StatusRequest::default()).await.expect("a status");
    let features = status.into_inner().runtime_handlers.remove(0).features.expect("features");
    assert!(features.user_namespaces);

    let volumes = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
    std::fs::set_permissions(volumes.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
    std::fs::write(volumes.path().join("roots"), "text").expect("a file");
    std::os::unix::fs::chown(volumes.path().join("roots"), Some(0), Some(7)).expect("an owner");
    let mut pods = Vec::new();
    for (name, host) in [("one", 200_000), ("two", 400_000)] {
        let options = users(host, wire::NamespaceMode::Container);
        let pod = w.run_pod(name, &options).await;
        let mark = format!("10{host}");
        let mut config = w.container(name, &format!("touch /made; sleep {mark} & wait"), &options);
        config.working_dir = "/work/here".to_owned();
        config.mounts.push(volume(host, volumes.path(), "/volume"));
        let mut image = volume(host, Path::new(""), "/image");
        image.image = Some(wire::ImageSpec { image: w.image.clone(), ..Default::default() });
        image.readonly = true;
        config.mounts.push(image);
        let id = w.run(&pod, &config).await;
        eventually("its process", || w.process(&mark).is_some());
        pods.push((pod, id, host, mark, options));
    }

    for (pod, id, host, mark, _) in &pods {
        // The host sees other users than the container does.
        let process = w.process(mark).expect("a process");
        assert_eq!(owner(&process), (*host, host + 1000));
        let map = w.said(id, "cat /proc/self/uid_map").await;
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &host.to_string(), "65536"]);
        // Files of the image, of the writable layer, of volumes, of images, and those that the daemon makes.
        for path in
            ["/bin/sh", "/made", "/work/here", "/work", "/etc/hosts", "/image/bin/sh", "/dev/shm", "/volume"]
        {
            assert_eq!(w.said(id, &format!("stat -c %u:%g {path}")).await, "0:0", "{path}");
        }
        assert_eq!(w.said(id, "stat -c %u:%g /volume/roots").await, "0:7");
        // What is written to a volume is root's on the host, too.
        w.said(id, &format!("echo text > /volume/{host}; chown 5:6 /volume/{host}; echo more >> /etc/hosts"))
            .await;
        assert_eq!(owner(&volumes.path().join(host.to_string())), (5, 6));
        assert_eq!(w.said(id, "touch /dev/shm/a /volume/b && stat -c %u:%g /dev/shm/a").await, "0:0");
        assert_eq!(owner(&volumes.path().join("b")), (0, 0));
        // The network, the names and the settings are the pod's, and its root may change them.
        let shown =
            w.said(id, "hostname; cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_forward").await;
        assert_eq!(shown.split_whitespace().skip(1).collect::<Vec<_>>(), ["1", "1"]);
        let status = w.cri.pod_status(&pod.0).await.expect("a status").status.expect("one");
        let address = status.network.expect("a network").ip;
        assert!(w.said(id, "ip -4 addr show eth0").await.contains(&address));
        let options = status.linux.expect("linux").namespaces.expect("namespaces").options.expect("options");
        assert_eq!(options.userns_options.expect("users").uids, mapping(*host));
    }

    // A daemon that dies takes nothing along, and the next one makes containers in the same pod.
    w.0.restart().await;
    let (pod, id, host, mark, options) = &pods[0];
    assert!(w.process(mark).is_some());
    let before = w.said(id, "readlink /proc/self/ns/user; readlink /proc/self/ns/net").await;
    let more =
        w.container("more", "readlink /proc/self/ns/user; readlink /proc/self/ns/net; stat -c %u /", options);
    let more = w.run(pod, &more).await;
    assert_eq!(w.cri.ended(&more).await.exit_code, 0);
    let log = w.log("more");
    assert!(before.lines().all(|line| log.contains(line)) && log.ends_with(" 0\n"), "{before} {log}");

    // `procMount: Unmasked`.
    let masks = w.container("masks", "grep -c ' /proc/' /proc/self/mounts; true", options);
    let masks = w.run(pod, &masks).await;
    assert_eq!(w.cri.ended(&masks).await.exit_code, 0);
    assert!(w.log("masks").ends_with(" F 0\n"), "{}", w.log("masks"));

    // What cannot be is said.
    let refused = async |config: &wire::ContainerConfig| {
        w.cri.create(&pod.0, config, &pod.1).await.expect_err("refused").message().to_owned()
    };
    let mut others = w.container("others", "true", &users(host + 1, wire::NamespaceMode::Container));
    assert!(refused(&others).await.contains("a user namespace"));
    others = w.container("others", "true", options);
    if let Some(security) = others.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
        security.run_as_user = Some(wire::Int64Value { value: 70_000 });
    }
    assert!(refused(&others).await.contains("user 70000"));
    let mut odd = w.container("odd", "true", options);
    odd.mounts.push(volume(*host, Path::new("/proc/self/net"), "/odd"));
    let odd = w.cri.create(&pod.0, &odd, &pod.1).await.expect("created");
    let said = w.cri.start(&odd).await.expect_err("procfs cannot be mapped").message().to_owned();
    assert!(said.contains("cannot be mounted with mapped owners"), "{said}");

    for (pod, ..) in &pods {
        w.cri.remove_pod(&pod.0).await.expect("removed");
    }
    assert!(w.held().is_empty(), "{:?}", w.held());
    let folders = std::fs::read_dir(w.f.daemon.state().join("pods")).map_or(0, Iterator::count);
    assert_eq!(folders, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(all(have_nft, have_owner_shifts)), ignore = "needs nft, and Linux 6.15 with user namespaces")]
async fn processes_and_the_host_s_network_can_be_shared_with_users_of_one_s_own() {
    let w = Users::new().await;
    let shared = users(200_000, wire::NamespaceMode::Pod);
    let pod = w.run_pod("shared", &shared).await;
    let one = w.container("one", "sleep 54321", &shared);
    w.run(&pod, &one).await;
    let two = w.container("two", "ps -o pid,user,args", &shared);
    let two = w.run(&pod, &two).await;
    assert_eq!(w.cri.ended(&two).await.exit_code, 0);
    assert!(w.log("two").contains("sleep 54321"), "{}", w.log("two"));
    w.cri.remove_pod(&pod.0).await.expect("removed");

    let mut of_host = users(200_000, wire::NamespaceMode::Container);
    of_host.network = wire::NamespaceMode::Node.into();
    let pod = w.run_pod("host", &of_host).await;
    let three = w.container("three", "readlink /proc/self/ns/net; ls /sys/class/net; touch /sys/a", &of_host);
    let three = w.run(&pod, &three).await;
    assert_eq!(w.cri.ended(&three).await.exit_code, 1);
    let host = std::fs::read_link("/proc/self/ns/net").expect("a namespace").display().to_string();
    assert!(w.log("three").contains(&host) && w.log("three").contains(" lo\n"), "{}", w.log("three"));
    w.cri.remove_pod(&pod.0).await.expect("removed");
    assert!(w.held().is_empty(), "{:?}", w.held());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_shapes_of_users_are_refused_and_leave_nothing() {
    let w = Users::new().await;
    let refused = async |options: wire::UserNamespace, pid: wire::NamespaceMode| {
        let mut config = cri::pod("refused");
        let security = wire::LinuxSandboxSecurityContext {
            namespace_options: Some(wire::NamespaceOption {
                pid: pid.into(),
                userns_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        };
        config.linux =
            Some(wire::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() });
        w.cri.run_pod(&config).await.expect_err("refused").message().to_owned()
    };
    let own = wire::NamespaceMode::Container;
    let of = |mode: wire::NamespaceMode, uids: Vec<wire::IdMapping>, gids: Vec<wire::IdMapping>| {
        wire::UserNamespace { mode: mode.into(), uids, gids }
    };
    let pod = wire::NamespaceMode::Pod;
    let two = [mapping(1000), mapping(2000)].concat();
    assert!(refused(of(pod, two.clone(), two), own).await.contains("one is possible"));
    let mut late = mapping(1000);
    late[0].container_id = 1;
    assert!(refused(of(pod, late.clone(), late), own).await.contains("must begin with the container's id 0"));
    assert!(refused(of(pod, mapping(1000), Vec::new()), own).await.contains("needs a mapping of groups"));
    let node = wire::NamespaceMode::Node;
    assert!(refused(of(node, mapping(1), mapping(1)), own).await.contains("has no mappings"));
    for mode in [wire::NamespaceMode::Container, wire::NamespaceMode::Target] {
        assert!(refused(of(mode, Vec::new(), Vec::new()), own).await.contains("POD and NODE are"));
    }
    assert!(refused(of(pod, mapping(1000), mapping(1000)), node).await.contains("pid namespace of the host"));
    assert!(w.held().is_empty());
}
