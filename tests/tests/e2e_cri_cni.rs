//! Pods' networks by CNI: what plugins are told, whether they are ready, and the reference plugins together.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use longshore_proto::runtime::v1 as wire;
use longshore_tests::Fixture;
use longshore_tests::cri::{self, Cri};
use longshore_tests::daemon::Settings;

/// A daemon whose pods have networks of CNI, with plugins of this test's own beside the reference ones.
struct World {
    folder: tempfile::TempDir,
    f: Fixture,
    cri: Cri,
}

async fn world(plugins: &[(&str, String)], lists: &[(&str, String)]) -> World {
    let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
    for name in ["bin", "conf"] {
        std::fs::create_dir(folder.path().join(name)).expect("a folder");
    }
    for (name, script) in plugins {
        put_plugin(folder.path(), name, script);
    }
    for (name, text) in lists {
        let text = text.replace("FOLDER", &folder.path().display().to_string());
        std::fs::write(folder.path().join("conf").join(name), text).expect("written");
    }
    let config = format!(
        "[cri]\nnetwork = \"cni\"\n[network]\ncni_configurations = [\"{0}/conf\"]\ncni_plugins = [\"{0}/bin\", \"/usr/lib/cni\"]\n",
        folder.path().display()
    );
    let f = Fixture::with(Settings { config, ..Settings::default() }).expect("a registry and a daemon");
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    World { folder, f, cri }
}

fn put_plugin(folder: &Path, name: &str, script: &str) {
    let path = folder.join("bin").join(name);
    let log = folder.join("log");
    let text = format!(
        "#!/bin/sh\ninput=$(cat)\necho \"$CNI_COMMAND $CNI_ARGS $input\" >> {}\n{script}\n",
        log.display()
    );
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
}

impl World {
    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Why the network is not ready; empty: it is.
    async fn unready(&self) -> String {
        let answer = self.cri.runtime.clone().status(wire::StatusRequest { verbose: false }).await;
        let conditions = answer.expect("a status").into_inner().status.expect("one").conditions;
        let network = conditions.into_iter().find(|one| one.r#type == "NetworkReady").expect("a condition");
        assert_eq!(network.status, network.message.is_empty());
        network.message
    }
}

const ANSWER: &str = r#"case $CNI_COMMAND in
ADD) echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.52.0.2/24","interface":0}]}';;
STATUS) [ -e FOLDER/down ] && echo '{"code":50,"msg":"the agent is not there"}' && exit 1;;
esac
exit 0"#;

fn told() -> (&'static str, String) {
    let list = r#"{"cniVersion": "1.1.0", "name": "told", "plugins": [{"type": "teller", "capabilities": {
        "portMappings": true, "bandwidth": true, "dns": true, "ipRanges": true, "cgroupPath": true,
        "io.kubernetes.cri.pod-annotations": true}}]}"#;
    ("10-told.conflist", list.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn plugins_are_told_what_the_pod_asks_for_and_say_whether_they_are_ready() {
    let w = world(&[], &[]).await;
    assert!(w.unready().await.contains("there is no CNI configuration in"), "{}", w.unready().await);
    let mut pod = cri::pod("told");
    let error = w.cri.run_pod(&pod).await.unwrap_err();
    assert!(error.message().contains("there is no CNI configuration in"), "{error}");
    // It comes later, as on a node of kubeadm's.
    let folder = w.folder.path().display().to_string();
    put_plugin(w.folder.path(), "teller", &ANSWER.replace("FOLDER", &folder));
    std::fs::write(w.folder.path().join("conf").join(told().0), told().1).expect("written");
    assert_eq!(w.unready().await, "");
    std::fs::write(w.folder.path().join("down"), "").expect("written");
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert!(w.unready().await.contains("the agent is not there"), "{}", w.unready().await);
    std::fs::remove_file(w.folder.path().join("down")).expect("removed");

    let range = wire::NetworkConfig { pod_cidr: "10.52.0.0/24,fd00:52::/64".to_owned() };
    let config = Some(wire::RuntimeConfig { network_config: Some(range) });
    let request = wire::UpdateRuntimeConfigRequest { runtime_config: config };
    w.cri.runtime.clone().update_runtime_config(request).await.expect("taken");
    pod.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "10M".into());
    pod.annotations.insert("kubernetes.io/egress-bandwidth".into(), "fast".into());
    let error = w.cri.run_pod(&pod).await.unwrap_err();
    assert!(error.message().contains("egress-bandwidth"), "{error}");
    pod.annotations.insert("kubernetes.io/egress-bandwidth".into(), "1Mi".into());
    pod.dns_config = Some(wire::DnsConfig { servers: vec!["192.0.2.53".into()], ..Default::default() });
    pod.port_mappings.push(wire::PortMapping { container_port: 80, host_port: 8080, ..Default::default() });
    let id = w.cri.run_pod(&pod).await.expect("a pod");
    let log = w.log();
    let add = log.lines().rfind(|line| line.starts_with("ADD")).expect("an ADD").to_owned();
    for part in [
        "K8S_POD_NAMESPACE=test;K8S_POD_NAME=told;",
        r#""ingressRate":10000000"#,
        r#""egressRate":1048576"#,
        r#""ipRanges":[[{"subnet":"10.52.0.0/24"}],[{"subnet":"fd00:52::/64"}]]"#,
        r#""servers":["192.0.2.53"]"#,
        r#""hostPort":8080"#,
        r#""kubernetes.io/egress-bandwidth":"1Mi""#,
    ] {
        assert!(add.contains(part), "{part}: {add}");
    }
    let mut odd = cri::pod("odd");
    odd.metadata.as_mut().expect("some").uid = "a;K8S_POD_NAME=other".to_owned();
    let error = w.cri.run_pod(&odd).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
    // The next daemon tells which pods there are.
    let mut w = w;
    w.f.daemon.kill();
    w.f.daemon.launch().expect("it starts again");
    w.cri = Cri::connect(&w.f.daemon.socket()).await.expect("a connection");
    let deadline = Instant::now() + Duration::from_secs(20);
    let live = format!(r#"[{{"containerID":"{id}","ifname":"eth0"}}]"#);
    while !w.log().lines().any(|line| line.starts_with("GC") && line.contains(&live)) {
        assert!(Instant::now() < deadline, "{}", w.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    w.cri.remove_pod(&id).await.expect("removed");
    assert!(w.log().lines().any(|line| line.starts_with("DEL") && line.contains("prevResult")));
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("it runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Bridge, host ports, firewall, bandwidth and settings, in a network namespace of the test's own: two of them have rules of their own.
#[test]
#[cfg_attr(
    not(all(have_nft, have_ip, have_cni_plugins, have_iptables, have_tbf)),
    ignore = "needs nft, ip, iptables, tc, a kernel with ifb and tbf, and the CNI plugins (containernetworking-plugins)"
)]
fn the_reference_plugins_work_together_and_leave_nothing() {
    let list = r#"{"cniVersion": "1.0.0", "name": "lab", "plugins": [
        {"type": "bridge", "bridge": "lab0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": "FOLDER/leases", "ranges": [[{"subnet": "10.53.0.0/24"}]],
                  "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        {"type": "firewall"},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}]}"#;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
            run("ip", &["link", "set", "lo", "up"]);
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(together(list));
        });
        thread.join().expect("no panic");
    });
}

async fn together(list: &str) {
    let w = world(&[], &[("10-lab.conflist", list.to_owned())]).await;
    assert_eq!(w.unready().await, "");
    let image = w.cri.pull(&w.f.busybox).await.expect("pulled");
    let mut pod = cri::pod("lab");
    pod.port_mappings.push(wire::PortMapping { container_port: 80, host_port: 8053, ..Default::default() });
    pod.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "10M".into());
    pod.annotations.insert("kubernetes.io/egress-bandwidth".into(), "5M".into());
    let id = w.cri.run_pod(&pod).await.expect("a pod");
    let shaped = run("tc", &["qdisc", "show"]);
    assert!(shaped.contains("rate 10Mbit") && shaped.contains("rate 5Mbit"), "{shaped}");
    let address =
        w.cri.pod_status(&id).await.expect("a status").status.expect("one").network.expect("one").ip;
    assert!(address.starts_with("10.53.0."), "{address}");
    let line =
        "cat /proc/sys/net/ipv4/conf/eth0/arp_filter; echo hello > /tmp/x; exec httpd -f -p 80 -h /tmp";
    let wanted = cri::container("web", &image, &format!("mkdir -p /tmp; {line}"));
    let container = w.cri.create(&id, &wanted, &pod).await.expect("created");
    w.cri.start(&container).await.expect("started");
    let asked =
        w.cri.exec_sync(&container, "cat /proc/sys/net/ipv4/conf/eth0/arp_filter", 10).await.expect("run");
    assert_eq!(asked.stdout, b"1\n");
    let rules = run("iptables-save", &[]);
    assert!(rules.contains("--dport 8053") && rules.contains(&format!("{address}:80")), "{rules}");
    assert!(rules.contains("CNI-FORWARD") && rules.contains(&format!("{address}/32")), "{rules}");
    w.cri.remove_pod(&id).await.expect("removed");
    let rules = run("iptables-save", &[]);
    assert!(!rules.contains("8053") && !rules.contains(&address), "{rules}");
    assert!(!run("tc", &["qdisc", "show"]).contains("tbf"));
    let leases = std::fs::read_dir(w.folder.path().join("leases/lab")).into_iter().flatten().flatten();
    assert_eq!(leases.filter(|entry| entry.file_name().to_string_lossy().starts_with("10.")).count(), 0);
}
