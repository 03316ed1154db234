//! Exec, attach and port-forward of pods' containers: over a WebSocket of the test's own, and by an unmodified `crictl`
//! (`LONGSHORE_CRICTL` says, at build time, where it is), which speaks SPDY, too.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use longshore_proto::runtime::v1 as wire;
use longshore_tests::Fixture;
use longshore_tests::cri::{self, Cri};
use longshore_tests::daemon::{Settings, eventually};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// A pod with one container.
struct World {
    f: Fixture,
    cri: Cri,
    pod: String,
    container: String,
    _logs: tempfile::TempDir,
}

async fn world(line: &str, change: impl FnOnce(&mut wire::ContainerConfig)) -> World {
    let f = Fixture::with(Settings::default()).expect("a registry and a daemon");
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    let image = cri.pull(&f.busybox).await.expect("pulled");
    let logs = tempfile::Builder::new().prefix("longshore-test-").tempdir().expect("a folder");
    let config =
        wire::PodSandboxConfig { log_directory: logs.path().display().to_string(), ..cri::pod("streams") };
    let pod = cri.run_pod(&config).await.expect("a pod");
    let mut wanted = cri::container("main", &image, line);
    wanted.log_path.clear();
    change(&mut wanted);
    let container = cri.create(&pod, &wanted, &config).await.expect("created");
    cri.start(&container).await.expect("started");
    World { f, cri, pod, container, _logs: logs }
}

async fn sleeper() -> World {
    world("exec sleep 1000", |_| {}).await
}

type Socket = WebSocketStream<TcpStream>;

async fn open(url: &str, protocol: &str) -> Socket {
    let host = url.trim_start_matches("http://").split('/').next().expect("a host");
    let socket = TcpStream::connect(host).await.expect("the streaming server");
    let mut request = url.replace("http://", "ws://").into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().expect("a header"));
    tokio_tungstenite::client_async(request, socket).await.expect("a WebSocket").0
}

/// What came in each channel until the server closed, or until one of them has `what`.
async fn read_until(socket: &mut Socket, what: &str) -> [String; 5] {
    let mut channels = <[String; 5]>::default();
    let read = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(bytes) = message {
                channels[usize::from(bytes[0])] += &String::from_utf8_lossy(&bytes[1..]);
                if !what.is_empty() && channels.iter().any(|channel| channel.contains(what)) {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("the server answers");
    channels
}

impl World {
    async fn exec(&self, line: &str, tty: bool) -> Socket {
        let request = wire::ExecRequest {
            container_id: self.container.clone(),
            cmd: ["sh", "-c", line].map(str::to_owned).to_vec(),
            tty,
            stdin: true,
            stdout: true,
            stderr: !tty,
        };
        let url = self.cri.runtime.clone().exec(request).await.expect("a URL").into_inner().url;
        open(&url, "v5.channel.k8s.io").await
    }

    /// The daemon is to leave nothing behind.
    async fn over(self) {
        self.cri.stop_pod(&self.pod).await.expect("stopped");
        self.cri.remove_pod(&self.pod).await.expect("removed");
    }

    /// Sockets of the daemon.
    fn sockets(&self) -> usize {
        let links = self.of_daemon("fd").filter_map(|entry| std::fs::read_link(entry).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    }

    /// Threads of the daemon that are within a pod's network.
    fn threads_within(&self) -> usize {
        let names =
            self.of_daemon("task").filter_map(|entry| std::fs::read_to_string(entry.join("comm")).ok());
        names.filter(|name| name.trim() == "pod").count()
    }

    fn of_daemon(&self, folder: &str) -> impl Iterator<Item = PathBuf> {
        let pid = self.f.daemon.pid().expect("it runs");
        let entries = std::fs::read_dir(format!("/proc/{pid}/{folder}")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path())
    }

    /// What an unmodified crictl does.
    fn crictl(&self, words: &[&str]) -> Command {
        let socket = format!("unix://{}", self.f.daemon.socket().display());
        let mut command = Command::new(option_env!("LONGSHORE_CRICTL").unwrap_or_default());
        command.args(["-c", "/dev/null", "-r", &socket, "-i", &socket, "-t", "20s"]).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn processes(&self) -> String {
        let said = self.cri.exec_sync(&self.container, "ps", 10).await.expect("run");
        String::from_utf8_lossy(&said.stdout).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn an_exec_has_its_stdin_its_exit_code_and_its_terminals_size() {
    let w = sleeper().await;
    let mut socket = w.exec("cat; echo problem >&2; exit 3", false).await;
    socket.send(Message::binary(b"\0some words\n".to_vec())).await.expect("sent");
    socket.send(Message::binary(vec![255, 0])).await.expect("sent");
    let [_, out, err, status, _] = read_until(&mut socket, "").await;
    assert_eq!((out.as_str(), err.as_str()), ("some words\n", "problem\n"));
    let status: serde_json::Value = serde_json::from_str(&status).expect("a status");
    assert_eq!(status["details"]["causes"][0]["message"], "3", "{status}");

    let mut socket = w.exec("stty size; read a; stty size", true).await;
    socket.send(Message::binary(b"\x04{\"Width\":123,\"Height\":45}".to_vec())).await.expect("sent");
    let first = read_until(&mut socket, "\n").await;
    assert_eq!(first[1], "45 123\r\n");
    socket.send(Message::binary(b"\x04{\"Width\":80,\"Height\":24}".to_vec())).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(300)).await;
    socket.send(Message::binary(b"\0\n".to_vec())).await.expect("sent");
    let [_, out, _, status, _] = read_until(&mut socket, "").await;
    assert!(out.ends_with("24 80\r\n") && status.contains("Success"), "{out:?} {status}");

    // All of a flood, then the status.
    let mut socket = w.exec("head -c 8000000 /dev/zero | tr '\\0' x", false).await;
    let [_, out, _, status, _] = read_until(&mut socket, "").await;
    assert_eq!((out.len(), status.contains("Success")), (8_000_000, true));
    w.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn an_exec_ends_with_its_stdin_when_its_client_goes() {
    let w = sleeper().await;
    let mut socket = w.exec("echo begun; cat; exit 0", false).await;
    read_until(&mut socket, "begun").await;
    assert!(w.processes().await.contains("cat"));
    drop(socket);
    let deadline = Instant::now() + Duration::from_secs(10);
    while w.processes().await.contains("cat") {
        assert!(Instant::now() < deadline, "it is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    w.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn an_attached_client_leaves_stdin_open_for_the_next_one() {
    let open_stdin = |config: &mut wire::ContainerConfig| config.stdin = true;
    let w = world("while read line; do echo \"got $line\"; done; echo over", open_stdin).await;
    for word in ["first", "second"] {
        let request = wire::AttachRequest {
            container_id: w.container.clone(),
            stdin: true,
            tty: false,
            stdout: true,
            stderr: true,
        };
        let url = w.cri.runtime.clone().attach(request).await.expect("a URL").into_inner().url;
        let mut socket = open(&url, "v5.channel.k8s.io").await;
        socket.send(Message::binary(format!("\0{word}\n").into_bytes())).await.expect("sent");
        let shown = read_until(&mut socket, &format!("got {word}\n")).await;
        assert!(!shown[1].contains("over"), "{shown:?}");
        socket.send(Message::binary(vec![255, 0])).await.expect("sent");
        socket.close(None).await.expect("closed");
    }
    w.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn ports_are_forwarded_and_what_is_not_there_is_refused() {
    let w = world("while true; do echo answer | nc -l -p 80; done", |_| {}).await;
    let forward =
        |ports: &[i32]| wire::PortForwardRequest { pod_sandbox_id: w.pod.clone(), port: ports.to_vec() };
    let mut runtime = w.cri.runtime.clone();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let url = runtime.port_forward(forward(&[80])).await.expect("a URL").into_inner().url;
        let mut socket = open(&url, "v4.channel.k8s.io").await;
        let [data, error, ..] = read_until(&mut socket, "answer").await;
        if data.ends_with("answer\n") {
            break;
        }
        // The container has only just begun.
        assert!(error.contains("efused") && Instant::now() < deadline, "{data:?} {error:?}");
    }
    let url = runtime.port_forward(forward(&[81])).await.expect("a URL").into_inner().url;
    let [_, error, ..] = read_until(&mut open(&url, "v4.channel.k8s.io").await, "").await;
    assert!(error.contains("port 81") && error.contains("refused"), "{error:?}");

    runtime.port_forward(forward(&[70_000])).await.expect_err("no such port");
    let nobody = wire::PortForwardRequest { pod_sandbox_id: "nobody".into(), port: Vec::new() };
    assert_eq!(runtime.port_forward(nobody).await.expect_err("no such pod").code(), tonic::Code::NotFound);
    w.cri.stop(&w.container, 0).await.expect("stopped");
    let exec = wire::ExecRequest {
        container_id: w.container.clone(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    runtime.exec(exec).await.expect_err("it does not run");
    w.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(all(have_nft, have_crictl)), ignore = "needs nft and LONGSHORE_CRICTL")]
async fn crictl_runs_commands_over_both_transports() {
    let w = sleeper().await;
    for transport in ["spdy", "websocket"] {
        let words =
            ["exec", "-i", "--transport", transport, &w.container, "sh", "-c", "cat; echo no >&2; exit 3"];
        let mut child = w.crictl(&words).spawn().expect("crictl runs");
        let mut stdin = child.stdin.take().expect("piped");
        std::io::Write::write_all(&mut stdin, b"through crictl\n").expect("written");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "through crictl\n", "{transport}");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains("no\n") && stderr.contains("exit code 3"), "{transport}: {stderr}");
    }
    // Nothing of a client is left in the daemon.
    let before = w.sockets();
    for _ in 0..5 {
        w.crictl(&["exec", "--transport", "spdy", &w.container, "true"]).output().expect("crictl runs");
    }
    eventually("the clients' sockets are closed", || w.sockets() <= before);
    w.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
async fn a_port_that_does_not_answer_holds_up_nobody_and_ends_with_its_client() {
    let w = sleeper().await;
    let network = w.f.daemon.state().join("pods").join(&w.pod).join("ns/net");
    // A server within the pod whose queue is full.
    let full = std::thread::spawn(move || {
        let file = std::fs::File::open(network).expect("the pod's network");
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("within");
        let server = std::net::TcpListener::bind("127.0.0.1:81").expect("a port");
        nix::sys::socket::listen(&server, nix::sys::socket::Backlog::new(0).expect("none"))
            .expect("listening");
        let address = server.local_addr().expect("an address");
        let connect = |_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let waiting: Vec<_> = (0..8).map_while(connect).collect();
        (server, waiting)
    });
    let (_server, waiting) = full.join().expect("made");
    assert!(waiting.len() < 8, "the queue is not full");
    let before = w.sockets();
    let request = wire::PortForwardRequest { pod_sandbox_id: w.pod.clone(), port: vec![81; 64] };
    let url = w.cri.runtime.clone().port_forward(request).await.expect("a URL").into_inner().url;
    let socket = open(&url, "v4.channel.k8s.io").await;
    eventually("all of them connect", || w.sockets() >= before + 64);
    eventually("no thread waits for them", || w.threads_within() == 0);
    let begun = Instant::now();
    assert_eq!(w.cri.exec_sync(&w.container, "exit 3", 5).await.expect("run").exit_code, 3);
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(socket);
    let begun = Instant::now();
    eventually("nothing is left of them", || w.sockets() <= before);
    assert!(begun.elapsed() < Duration::from_secs(5), "they had to time out: {:?}", begun.elapsed());
    w.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(all(have_nft, have_crictl)), ignore = "needs nft and LONGSHORE_CRICTL")]
async fn crictl_has_terminals_and_ports_over_both_transports() {
    let w = world("while true; do echo answer | nc -l -p 80; done", |config| config.stdin = true).await;
    for transport in ["spdy", "websocket"] {
        let crictl = w.crictl(&["exec", "-it", "--transport", transport, &w.container, "stty", "size"]);
        let words: Vec<_> = std::iter::once(crictl.get_program()).chain(crictl.get_args()).collect();
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let line = format!("stty cols 101 rows 32; exec {}", words.join(" "));
        let shown = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output();
        let shown = String::from_utf8_lossy(&shown.expect("script runs").stdout).into_owned();
        assert!(shown.contains("32 101"), "{transport}: {shown}");

        let words = ["port-forward", "--transport", transport, &w.pod, ":80"];
        let mut child = w.crictl(&words).spawn().expect("crictl runs");
        let mut said = String::new();
        let mut stdout = child.stdout.take().expect("piped");
        // "Forwarding from 127.0.0.1:41234 -> 80"
        while !said.contains(" -> ") {
            let mut bytes = [0; 256];
            let count = stdout.read(&mut bytes).expect("read");
            assert!(count > 0, "{transport}: {said}");
            said += &String::from_utf8_lossy(&bytes[..count]);
        }
        let address = said.split(' ').find(|word| word.starts_with("127.0.0.1:")).expect("an address");
        for _ in 0..2 {
            let mut answer = String::new();
            eventually("the port answers", || {
                answer.clear();
                let stream = std::net::TcpStream::connect(address);
                stream
                    .is_ok_and(|mut stream| stream.read_to_string(&mut answer).is_ok() && !answer.is_empty())
            });
            assert_eq!(answer, "answer\n", "{transport}");
        }
        child.kill().expect("killed");
        child.wait().expect("it ends");
    }
    w.over().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(all(have_nft, have_crictl)), ignore = "needs nft and LONGSHORE_CRICTL")]
async fn crictl_shows_and_changes_what_there_is() {
    let w = world("echo from within; exec sleep 1000", |config| config.log_path = "main.log".into()).await;
    let (pod, container) = (w.pod.as_str(), w.container.as_str());
    let run = |words: &[&str]| {
        let output = w.crictl(words).output().expect("crictl runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    eventually("there is a log", || run(&["logs", "--tail", "1", container]).1 == "from within\n");
    for (words, part) in [
        (&["version"][..], "RuntimeName:  longshore"),
        (&["info"], "RuntimeReady"),
        (&["runtime-config"], "CGROUPFS"),
        (&["pods", "-q", "--no-trunc"], pod),
        (&["pods", "--state", "Ready", "--name", "streams"], "Ready"),
        (&["inspectp", pod], "SANDBOX_READY"),
        (&["ps", "-q", "--no-trunc", "--pod", pod], container),
        (&["inspect", container], "CONTAINER_RUNNING"),
        (&["images"], "busybox"),
        (&["inspecti", &w.f.busybox], "sha256:"),
        (&["imagefsinfo"], "inodesUsed"),
        (&["stats"], "main"),
        (&["statsp"], "streams"),
        (&["metricdescs"], "container_cpu_usage_seconds_total"),
        (&["metricsp"], pod),
        (&["logs", "--timestamps", container], "Z from within"),
        (&["exec", "-s", container, "echo", "said"], "said"),
        (&["update", "--memory", "33554432", container], container),
        (&["inspect", container], "\"memoryLimitInBytes\": \"33554432\""),
        (&["stop", "--timeout", "0", container], container),
        (&["ps", "-a"], "Exited"),
        (&["rm", container], container),
        (&["stopp", pod], "Stopped"),
        (&["pods", "--state", "NotReady", "-q"], &pod[..12]),
        (&["rmp", pod], "Removed"),
        (&["rmi", "--prune"], "Deleted"),
        (&["images", "-q"], ""),
    ] {
        let (done, shown) = run(words);
        assert!(done && shown.contains(part), "{words:?}: {shown}");
    }
    let (done, _) = run(&["inspect", container]);
    assert!(!done, "it is gone");
}
