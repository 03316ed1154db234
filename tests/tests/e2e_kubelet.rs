//! A real kubelet, standalone on static pods, whose container runtime is a longshored (`LONGSHORE_KUBELET` says, at build time, where
//! it is).

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use longshore_proto::runtime::v1 as wire;
use longshore_tests::Fixture;
use longshore_tests::cri::Cri;
use longshore_tests::daemon::Settings;
use longshore_tests::kubelet::{Kubelet, NODE};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// A kubelet removes what is left of pods once a minute.
const PATIENCE: Duration = Duration::from_secs(150);

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// As part of a URL's query.
fn encoded(word: &str) -> String {
    word.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The kubelet is dropped before the daemon.
struct World {
    kubelet: Kubelet,
    f: Fixture,
    cri: Cri,
}

impl World {
    async fn new() -> World {
        let f = Fixture::with(Settings::default()).expect("a registry and a daemon");
        let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
        let kubelet = Kubelet::start(&f.daemon.socket()).expect("a kubelet");
        World { kubelet, f, cri }
    }

    /// A folder of the host that a pod writes to.
    fn host(&self) -> PathBuf {
        self.kubelet.path().join("host")
    }

    fn container(&self, name: &str, line: &str, more: Value) -> Value {
        let mut container = json!({
            "name": name,
            "image": self.f.busybox,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", line],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            container[key] = value.clone();
        }
        container
    }

    /// Init containers, one that goes on beside the others, probes of three kinds, limits, volumes, and a hook at the end.
    fn put_full(&self) {
        let work = json!([{ "name": "work", "mountPath": "/work" }]);
        let main = self.container(
            "main",
            "trap 'exit 0' TERM; mkdir /tmp/www; cp /work/all /tmp/www; httpd -p 8080 -h /tmp/www; echo begun; \
             while :; do sleep 0.2; done",
            json!({
                "volumeMounts": [
                    { "name": "work", "mountPath": "/work" },
                    { "name": "memory", "mountPath": "/memory" },
                    { "name": "host", "mountPath": "/host" },
                    { "name": "work", "mountPath": "/below", "subPath": "below" },
                ],
                "resources": {
                    "limits": { "cpu": "300m", "memory": "64Mi" },
                    "requests": { "cpu": "50m", "memory": "16Mi" },
                },
                "env": [{ "name": "ADDRESS", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } }],
                "startupProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1, "failureThreshold": 60 },
                "readinessProbe": { "httpGet": { "path": "/all", "port": 8080 }, "periodSeconds": 1 },
                "livenessProbe": { "exec": { "command": ["cat", "/work/all"] }, "periodSeconds": 1 },
                "lifecycle": { "preStop": { "exec": { "command": ["sh", "-c", "echo over > /host/over"] } } },
            }),
        );
        let first = "echo one > /work/first; mkdir /work/below; echo deep > /work/below/word";
        let second = "cat /work/first > /work/all; echo two >> /work/all";
        let beside = json!({ "restartPolicy": "Always" });
        self.kubelet.put(
            "full",
            &json!({
                "terminationGracePeriodSeconds": 5,
                "initContainers": [
                    self.container("first", first, json!({ "volumeMounts": work })),
                    self.container("second", second, json!({ "volumeMounts": work })),
                    self.container("beside", "exec sleep 100000", beside),
                ],
                "containers": [main],
                "volumes": [
                    { "name": "work", "emptyDir": {} },
                    { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "4Mi" } },
                    { "name": "host", "hostPath": { "path": self.host(), "type": "DirectoryOrCreate" } },
                ],
            }),
        );
    }

    fn put(&self, name: &str, containers: Value, more: Value) {
        let mut spec = json!({ "terminationGracePeriodSeconds": 1, "containers": containers });
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        self.kubelet.put(name, &spec);
    }

    async fn ready(&self, name: &str) {
        until(&format!("{name} is ready"), async || {
            let status = self.kubelet.status(name);
            let containers = status["containerStatuses"].as_array().cloned().unwrap_or_default();
            !containers.is_empty() && containers.iter().all(|one| one["ready"] == true)
        })
        .await;
    }

    /// Ids, states and restarts of all containers of these pods.
    fn told(&self, pods: &[&str]) -> Vec<Value> {
        let all = pods.iter().map(|name| self.kubelet.status(name));
        let parts = ["/initContainerStatuses", "/containerStatuses"];
        let told = |status: Value| parts.map(|part| status.pointer(part).cloned().unwrap_or_default());
        let statuses = all.flat_map(told).flat_map(|list| list.as_array().cloned().unwrap_or_default());
        statuses
            .map(|one| json!([one["containerID"], one["state"], one["restartCount"], one["name"]]))
            .collect()
    }

    /// Runs a program by the kubelet's `/exec`, over a WebSocket; what came on stdout, and the status at the end.
    async fn exec(&self, pod: &str, container: &str, command: &[&str], stdin: &str) -> (String, Value) {
        let mut url = format!(
            "wss://{}/exec/default/{pod}-{NODE}/{container}?input=1&output=1",
            self.kubelet.address()
        );
        for word in command {
            url += &format!("&command={}", encoded(word));
        }
        let mut tls = tokio::process::Command::new("openssl")
            .args(["s_client", "-quiet", "-connect", &self.kubelet.address()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("openssl runs");
        let (out, into) = (tls.stdout.take().expect("its output"), tls.stdin.take().expect("its input"));
        let mut request = url.into_client_request().expect("a request");
        request
            .headers_mut()
            .insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().expect("a header"));
        let opened = tokio_tungstenite::client_async(request, tokio::io::join(out, into));
        let (mut socket, _) = opened.await.expect("the kubelet takes a WebSocket");
        socket.send(Message::binary([b"\0", stdin.as_bytes()].concat())).await.expect("sent");
        socket.send(Message::binary(vec![255, 0])).await.expect("sent");
        let (mut stdout, mut status) = (String::new(), String::new());
        let read = async {
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Binary(bytes) if bytes[0] == 1 => {
                        stdout += &String::from_utf8_lossy(&bytes[1..])
                    }
                    Message::Binary(bytes) if bytes[0] == 3 => {
                        status += &String::from_utf8_lossy(&bytes[1..])
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("the command ends");
        tls.kill().await.expect("openssl ends");
        (stdout, serde_json::from_str(&status).expect("a status"))
    }

    /// What the kubelet tells of the use of a pod, once all of it is there.
    async fn statistics(&self, pod: &str) {
        let complete = |pod: &Value| {
            let network = &pod["network"];
            let number = |value: &Value| value.as_u64().unwrap_or(0) > 0;
            let of_containers = pod["containers"].as_array().is_some_and(|all| {
                !all.is_empty()
                    && all.iter().all(|one| {
                        number(&one["cpu"]["usageCoreNanoSeconds"])
                            && number(&one["memory"]["workingSetBytes"])
                    })
            });
            number(&pod["cpu"]["usageCoreNanoSeconds"])
                && number(&pod["memory"]["workingSetBytes"])
                && number(&pod["process_stats"]["process_count"])
                && network["name"] == "eth0"
                && number(&network["rxBytes"])
                && of_containers
        };
        until(&format!("statistics of {pod}"), async || {
            let summary = self.kubelet.ask("GET", "/stats/summary").expect("a summary");
            let summary: Value = serde_json::from_str(&summary).expect("JSON");
            let named = format!("{pod}-{NODE}");
            let mut pods = summary["pods"].as_array().into_iter().flatten();
            pods.any(|pod| pod["podRef"]["name"] == named.as_str() && complete(pod))
        })
        .await;
    }

    /// Pods and containers that the daemon knows, running or not.
    async fn known(&self) -> (usize, usize) {
        let pods = self.cri.runtime.clone().list_pod_sandbox(wire::ListPodSandboxRequest::default()).await;
        let containers =
            self.cri.runtime.clone().list_containers(wire::ListContainersRequest::default()).await;
        (
            pods.map_or(1, |all| all.into_inner().items.len()),
            containers.map_or(1, |all| all.into_inner().containers.len()),
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(
    not(all(have_kubelet, have_nft, have_curl, have_openssl)),
    ignore = "needs LONGSHORE_KUBELET=…, nft, curl and openssl"
)]
async fn a_kubelets_pods_live_through_both_restarts_and_leave_nothing() {
    let mut w = World::new().await;
    w.put_full();
    // On the host's network, where a kubelet once ended with a fault over the statistics that it got.
    w.put(
        "host",
        json!([w.container("main", "exec sleep 100000", json!({}))]),
        json!({ "hostNetwork": true }),
    );
    let pair = json!([
        w.container("one", "exec sleep 11111", json!({})),
        w.container("other", "exec sleep 22222", json!({}))
    ]);
    w.put("shared", pair, json!({ "shareProcessNamespace": true }));
    let failing = "echo bad news; echo last words > /dev/termination-log; exit 1";
    w.put("failing", json!([w.container("main", failing, json!({}))]), json!({}));
    let steady = ["full", "host", "shared"];
    for name in steady {
        w.ready(name).await;
    }

    let line = "cat; cat /work/all /below/word; df /memory | grep -c tmpfs; echo $ADDRESS; exit 7";
    let (out, status) = w.exec("full", "main", &["sh", "-c", line], "given\n").await;
    let address = w.kubelet.status("full")["podIP"].as_str().expect("an address").to_owned();
    assert_eq!(out, format!("given\none\ntwo\ndeep\n1\n{address}\n"), "{status}");
    assert_eq!(status["details"]["causes"][0]["message"], "7", "{status}");
    let log = w.kubelet.ask("GET", &format!("/containerLogs/default/full-{NODE}/main")).expect("a log");
    assert_eq!(log, "begun\n");
    let seen = w.kubelet.ask("POST", &format!("/run/default/shared-{NODE}/one?cmd=ps")).expect("it runs");
    assert!(seen.contains("sleep 11111") && seen.contains("sleep 22222"), "{seen}");
    w.statistics("full").await;

    // A container that fails is started again, after a while.
    let failing = || w.kubelet.status("failing")["containerStatuses"][0].clone();
    until("it is restarted", async || failing()["restartCount"].as_u64() >= Some(2)).await;
    until("it waits", async || failing()["state"]["waiting"]["reason"] == "CrashLoopBackOff").await;
    let end = failing()["lastState"]["terminated"].clone();
    assert_eq!(
        (&end["exitCode"], &end["reason"], &end["message"]),
        (&json!(1), &json!("Error"), &json!("last words\n"))
    );
    let restarts = failing()["restartCount"].as_u64();

    let before = w.told(&steady);
    w.f.daemon.kill();
    tokio::time::sleep(Duration::from_secs(2)).await;
    w.f.daemon.launch().expect("the daemon, again");
    w.cri = Cri::connect(&w.f.daemon.socket()).await.expect("a connection");
    let failing = || w.kubelet.status("failing")["containerStatuses"][0].clone();
    until("the kubelet has gone on", async || failing()["restartCount"].as_u64() > restarts).await;
    assert_eq!(w.told(&steady), before, "kill -9 of the daemon has changed something");
    w.kubelet.stop().expect("the kubelet ends");
    w.kubelet.launch().expect("the kubelet, again");
    until("the kubelet knows its pods again", async || w.told(&steady) == before).await;

    for name in ["full", "host", "shared", "failing"] {
        w.kubelet.take_away(name);
    }
    until("pods and containers are gone", async || w.known().await == (0, 0)).await;
    until("volumes are gone", async || {
        std::fs::read_dir(w.kubelet.volumes()).map_or(0, Iterator::count) == 0
    })
    .await;
    let over = std::fs::read_to_string(w.host().join("over")).expect("the hook at the end ran");
    assert_eq!(over, "over\n");
    until("logs are gone", async || std::fs::read_dir(w.kubelet.logs()).map_or(0, Iterator::count) == 0)
        .await;
}
