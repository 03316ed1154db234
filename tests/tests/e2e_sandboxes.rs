//! Sandboxes through containerd's API: a shim that holds a pod, its containers in that shim, and what a `kill -9` of the daemon
//! or of the shim makes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_proto::containerd::events as ev;
use longshore_proto::containerd::services::events::v1::SubscribeRequest;
use longshore_proto::containerd::services::sandbox::v1 as wire;
use longshore_proto::containerd::types::{Envelope, Sandbox, sandbox::Runtime};
use longshore_tests::api::{self, Api};
use longshore_tests::daemon::{Daemon, Settings, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;
use tonic::{Code, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(30);
const SANDBOXER: &str = "shim";

struct Host {
    daemon: Daemon,
    api: Api,
    root: PathBuf,
}

impl Host {
    async fn new() -> Host {
        let daemon = Daemon::with(Settings::default()).expect("a daemon");
        let root = api::rootfs(daemon.path()).expect("a root file system");
        let api = Api::connect(&daemon.socket()).await.expect("the daemon answers");
        Host { daemon, api, root }
    }

    async fn restart(&mut self) {
        self.daemon.kill();
        self.daemon.launch().expect("the daemon starts again");
        self.api = Api::connect(&self.daemon.socket()).await.expect("the daemon answers");
    }

    /// Record and sandbox, as containerd's client makes them.
    async fn created(&mut self, id: &str) {
        let sandbox = sandbox(id, "io.containerd.runc.v2");
        let record = wire::StoreCreateRequest { sandbox: Some(sandbox.clone()) };
        self.api.sandbox_records.create(record).await.expect("a record");
        self.create(sandbox).await.expect("a sandbox");
    }

    async fn create(&mut self, sandbox: Sandbox) -> Result<(), Status> {
        let request = wire::ControllerCreateRequest {
            sandbox_id: sandbox.sandbox_id.clone(),
            sandboxer: SANDBOXER.into(),
            sandbox: Some(sandbox),
            ..Default::default()
        };
        self.api.sandboxes.create(request).await.map(drop)
    }

    async fn start(&mut self, id: &str) -> Result<wire::ControllerStartResponse, Status> {
        let request = wire::ControllerStartRequest { sandbox_id: id.into(), sandboxer: SANDBOXER.into() };
        Ok(self.api.sandboxes.start(request).await?.into_inner())
    }

    async fn status(&mut self, id: &str) -> wire::ControllerStatusResponse {
        let request = wire::ControllerStatusRequest {
            sandbox_id: id.into(),
            sandboxer: SANDBOXER.into(),
            verbose: true,
        };
        self.api.sandboxes.status(request).await.expect("a status").into_inner()
    }

    async fn wait(&mut self, id: &str) -> Result<u32, Status> {
        wait(&mut self.api, id).await
    }

    async fn stop(&mut self, id: &str) -> Result<(), Status> {
        let request = wire::ControllerStopRequest {
            sandbox_id: id.into(),
            sandboxer: SANDBOXER.into(),
            timeout_secs: 5,
        };
        self.api.sandboxes.stop(request).await.map(drop)
    }

    async fn shutdown(&mut self, id: &str) -> Result<(), Status> {
        let request = wire::ControllerShutdownRequest { sandbox_id: id.into(), sandboxer: SANDBOXER.into() };
        self.api.sandboxes.shutdown(request).await.map(drop)
    }

    /// A container of the sandbox, running.
    async fn member(&mut self, id: &str, sandbox: &str, words: &[&str]) -> u32 {
        let cgroup = format!("/{}/{id}", self.daemon.cgroup_parent());
        let spec = api::spec(&self.root, &cgroup, words);
        self.api.container_in(id, &spec, sandbox).await.expect("a container");
        self.api.create(id).await.expect("a task");
        self.api.start(id).await.expect("it starts")
    }

    async fn events(&mut self) -> Streaming<Envelope> {
        let filters = vec!["topic~=|^/sandboxes/|".to_owned()];
        self.api.events.subscribe(SubscribeRequest { filters }).await.expect("events").into_inner()
    }

    /// The processes of shims that work in the sandbox's bundle.
    fn shims_of(&self, id: &str) -> Vec<i32> {
        let bundle = self.daemon.state().join("sandboxes/tasks").join(api::NAMESPACE).join(id);
        processes().into_iter().filter(|pid| works_in(*pid, &bundle)).collect()
    }
}

async fn wait(api: &mut Api, id: &str) -> Result<u32, Status> {
    let request = wire::ControllerWaitRequest { sandbox_id: id.into(), sandboxer: SANDBOXER.into() };
    let wait = api.sandboxes.wait(request);
    Ok(tokio::time::timeout(PATIENCE, wait).await.expect("it ends")?.into_inner().exit_status)
}

fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn works_in(pid: i32, folder: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder)
}

fn parent_of(pid: u32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    fields.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()).unwrap_or(0)
}

fn sandbox(id: &str, runtime: &str) -> Sandbox {
    Sandbox {
        sandbox_id: id.into(),
        runtime: Some(Runtime { name: runtime.into(), options: None }),
        sandboxer: SANDBOXER.into(),
        ..Default::default()
    }
}

async fn next(events: &mut Streaming<Envelope>) -> Envelope {
    let next = tokio::time::timeout(PATIENCE, events.message()).await.expect("an event in time");
    next.expect("no error").expect("an event")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_in_one_shim_and_outlives_the_daemon() {
    let mut host = Host::new().await;
    let mut events = host.events().await;
    host.created("pod").await;
    assert_eq!(next(&mut events).await.topic, "/sandboxes/create");
    let again = host.create(sandbox("pod", "io.containerd.runc.v2")).await.expect_err("it is taken");
    assert_eq!(again.code(), Code::AlreadyExists, "{again:?}");
    let started = host.start("pod").await.expect("it starts");
    assert_eq!(next(&mut events).await.topic, "/sandboxes/start");
    assert!(
        started.pid > 0 && started.address.starts_with("ttrpc+unix://") && started.version == 3,
        "{started:?}"
    );
    let shims = host.shims_of("pod");
    assert_eq!(shims.len(), 1, "the sandbox is one shim");

    let platform = wire::ControllerPlatformRequest { sandbox_id: "pod".into(), sandboxer: SANDBOXER.into() };
    let platform = host.api.sandboxes.platform(platform).await.expect("a platform").into_inner().platform;
    assert_eq!(platform.expect("a platform").os, "linux");
    let one = host.member("one", "pod", &["sleep", "1000"]).await;
    let two = host.member("two", "pod", &["sh", "-c", "exit 7"]).await;
    assert!(two > 0 && parent_of(one) == shims[0], "the container's parent is the sandbox's shim");
    assert_eq!(host.api.wait("two").await.expect("it ends"), 7);

    host.restart().await;
    assert_eq!(host.status("pod").await.state, "SANDBOX_READY");
    assert_eq!(host.shims_of("pod"), shims, "the shim is the same");
    assert_eq!(host.api.delete("two").await.expect("it goes"), 7);
    let three = host.member("three", "pod", &["sleep", "1000"]).await;
    assert_eq!(parent_of(three), shims[0]);

    let mut events = host.events().await;
    host.stop("pod").await.expect("it stops");
    assert_eq!(host.wait("pod").await.expect("it ended"), 0);
    let exit = next(&mut events).await;
    assert_eq!(exit.topic, "/sandboxes/exit");
    let payload = exit.event.expect("a payload");
    assert_eq!(payload.type_url, "containerd.events.SandboxExit");
    let payload = ev::SandboxExit::decode(payload.value.as_slice()).expect("its message");
    assert_eq!((payload.sandbox_id.as_str(), payload.exit_status), ("pod", 0));
    for id in ["one", "three"] {
        host.api.wait(id).await.expect("it ended with its sandbox");
        host.api.delete(id).await.expect("it goes");
    }
    host.shutdown("pod").await.expect("it is shut down");
    assert!(host.shims_of("pod").is_empty() && !host.daemon.state().join("sandboxes/tasks/test").exists());
    assert_eq!(host.shutdown("pod").await.expect_err("it is gone").code(), Code::NotFound);
    host.stop("pod").await.expect("what is gone is stopped");
    let gone = host.status("pod").await;
    assert!(gone.exited_at.is_some() && gone.state.is_empty(), "{gone:?}");
    let delete = wire::StoreDeleteRequest { sandbox_id: "pod".into() };
    host.api.sandbox_records.delete(delete).await.expect("the record goes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_ends_with_its_shim_whoever_watches() {
    let mut host = Host::new().await;
    for id in ["watched", "unwatched"] {
        host.created(id).await;
        host.start(id).await.expect("it starts");
    }
    let mut events = host.events().await;
    let shim = host.shims_of("watched")[0];
    let mut other = host.api.clone();
    let waiting = tokio::spawn(async move { wait(&mut other, "watched").await });
    kill(Pid::from_raw(shim), Signal::SIGKILL).expect("the shim is there");
    let exit = next(&mut events).await;
    assert_eq!(exit.topic, "/sandboxes/exit");
    let exit = ev::SandboxExit::decode(exit.event.expect("a payload").value.as_slice()).expect("its message");
    assert_eq!((exit.sandbox_id.as_str(), exit.exit_status), ("watched", 137));
    assert_eq!(waiting.await.expect("no panic").expect("it ended"), 137);

    let shim = host.shims_of("unwatched")[0];
    host.daemon.kill();
    kill(Pid::from_raw(shim), Signal::SIGKILL).expect("the shim is there");
    host.daemon.launch().expect("the daemon starts again");
    host.api = Api::connect(&host.daemon.socket()).await.expect("the daemon answers");
    assert_eq!(host.wait("unwatched").await.expect_err("it is gone").code(), Code::NotFound);
    eventually("nothing is left", || !host.daemon.state().join("sandboxes/tasks/test").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_sandbox_is_refused_and_leaves_nothing() {
    let mut host = Host::new().await;
    for (id, runtime, code) in [
        ("a b", "io.containerd.runc.v2", Code::InvalidArgument),
        ("s", "", Code::InvalidArgument),
        ("s", "io.containerd.none.v9", Code::NotFound),
        // A shim that says nothing.
        ("s", "/bin/true", Code::Unavailable),
    ] {
        let refused = host.create(sandbox(id, runtime)).await.expect_err("it is refused");
        assert_eq!(refused.code(), code, "{refused:?}");
    }
    for (sandboxer, code) in [("", Code::InvalidArgument), ("podsandbox", Code::NotFound)] {
        let request = wire::ControllerStartRequest { sandbox_id: "s".into(), sandboxer: sandboxer.into() };
        let refused = host.api.sandboxes.start(request).await.expect_err("there is none");
        assert_eq!(refused.code(), code, "{sandboxer}");
    }
    assert_eq!(host.start("s").await.expect_err("it was never made").code(), Code::NotFound);
    assert_eq!(host.wait("s").await.expect_err("it was never made").code(), Code::NotFound);
    assert!(!host.daemon.state().join("sandboxes/tasks/test").exists(), "no bundle is left");

    // A container of a sandbox that is recorded but does not run has nowhere to go.
    let record = wire::StoreCreateRequest { sandbox: Some(sandbox("idle", "io.containerd.runc.v2")) };
    host.api.sandbox_records.create(record).await.expect("a record");
    let spec = api::spec(&host.root, &format!("/{}/c", host.daemon.cgroup_parent()), &["true"]);
    host.api.container_in("c", &spec, "idle").await.expect("a container");
    assert_eq!(host.api.create("c").await.expect_err("no shim").code(), Code::NotFound);
    // One that nobody recorded is a name only.
    host.api.container_in("d", &spec, "unknown").await.expect("a container");
    host.api.create("d").await.expect("a task");
    host.api.start("d").await.expect("it starts");
    assert_eq!(host.api.wait("d").await.expect("it ends"), 0);
    host.api.delete("d").await.expect("it goes");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(have_containerd_shim_runc_v2), ignore = "needs containerd-shim-runc-v2 (package containerd)")]
async fn a_shim_that_knows_no_sandboxes_says_so_and_goes() {
    let mut host = Host::new().await;
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut paths = std::env::split_paths(&folders).map(|folder| folder.join("containerd-shim-runc-v2"));
    let shim = paths.find(|path| path.exists()).expect("the shim").display().to_string();
    let refused = host.create(sandbox("s", &shim)).await.expect_err("it knows no sandboxes");
    assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
    assert!(host.shims_of("s").is_empty(), "the shim is gone");
    assert!(!host.daemon.state().join("sandboxes/tasks/test").exists(), "no bundle is left");
    host.create(sandbox("s", "io.containerd.runc.v2")).await.expect("the id is free");
    host.shutdown("s").await.expect("it is shut down");
}
