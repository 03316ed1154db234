//! Tasks through containerd's API: what becomes of them when a shim hangs or dies, a caller goes away, or the daemon is
//! killed.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use longshore_proto::containerd::events as ev;
use longshore_proto::containerd::services::events::v1::SubscribeRequest;
use longshore_proto::containerd::services::tasks::v1 as tasks;
use longshore_proto::containerd::v1::types::Status as TaskStatus;
use longshore_tests::api::{self, Api, NAMESPACE};
use longshore_tests::daemon::{Daemon, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;
use serde_json::{Value, json};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(30);

struct Host {
    daemon: Daemon,
    root: PathBuf,
}

impl Host {
    fn new() -> Host {
        let daemon = Daemon::start();
        let root = api::rootfs(daemon.path()).expect("a root file system");
        Host { daemon, root }
    }

    async fn api(&self) -> Api {
        Api::connect(&self.daemon.socket()).await.expect("the daemon answers")
    }

    fn cgroup(&self, id: &str) -> String {
        format!("/{}/{id}", self.daemon.cgroup_parent())
    }

    fn spec(&self, id: &str, words: &[&str]) -> Value {
        api::spec(&self.root, &self.cgroup(id), words)
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.daemon.state().join("tasks").join(NAMESPACE).join(id)
    }

    fn shim(&self, id: &str) -> Pid {
        let text = fs::read_to_string(self.bundle(id).join("shim.pid")).expect("the shim's pid");
        Pid::from_raw(text.trim().parse().expect("a number"))
    }

    /// Makes a container and its task; its pid.
    async fn created(&self, api: &mut Api, id: &str, words: &[&str]) -> u32 {
        api.container(id, &self.spec(id, words)).await.expect("a container");
        api.create(id).await.expect("a task")
    }

    async fn started(&self, api: &mut Api, id: &str, words: &[&str]) -> u32 {
        self.created(api, id, words).await;
        api.start(id).await.expect("it starts")
    }

    fn has_cgroup(&self, id: &str) -> bool {
        let path = self.cgroup(id);
        fs::read_dir("/sys/fs/cgroup")
            .expect("cgroups")
            .flatten()
            .any(|hierarchy| hierarchy.path().join(path.trim_start_matches('/')).exists())
    }

    #[track_caller]
    fn is_gone(&self, id: &str) {
        assert!(!self.bundle(id).exists(), "the bundle is left");
        assert!(!self.has_cgroup(id), "a cgroup is left");
    }
}

fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim_start().starts_with('Z'))
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_lives_from_create_to_delete_and_its_events_are_in_order() {
    let host = Host::new();
    let mut api = host.api().await;
    let filters = vec![format!("namespace=={NAMESPACE},topic~=|^/tasks/|")];
    let mut events =
        api.events.subscribe(SubscribeRequest { filters }).await.expect("a subscription").into_inner();
    let pid = host.created(&mut api, "one", &["sh", "-c", "exit 7"]).await;
    assert_eq!(api.get("one").await.expect("it is there").status(), TaskStatus::Created);
    assert_eq!(api.create("one").await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(api.start("one").await.expect("it starts"), pid);
    assert_eq!(in_time("the end", api.wait("one")).await.expect("an exit"), 7);
    let stopped = api.get("one").await.expect("it is there");
    assert_eq!((stopped.status(), stopped.exit_status), (TaskStatus::Stopped, 7));
    assert_eq!(api.kill("one", 15).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(api.delete("one").await.expect("it is deleted"), 7);
    assert_eq!(api.get("one").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(api.delete("one").await.unwrap_err().code(), Code::NotFound);
    host.is_gone("one");
    let mut topics = Vec::new();
    while topics.last().map(String::as_str) != Some("/tasks/delete") {
        let event = in_time("an event", events.message()).await.expect("no error").expect("an event");
        assert!(!event.event.expect("a payload").type_url.contains('/'), "the name is bare");
        topics.push(event.topic);
    }
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]);
    // The id is free again.
    api.create("one").await.expect("a task again");
    assert_eq!(api.delete("one").await.expect("one that never started"), 137);
    host.is_gone("one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_cannot_be_made_leaves_nothing() {
    let host = Host::new();
    let mut api = host.api().await;
    let mut spec = host.spec("bad", &["true"]);
    spec["mounts"][0]["type"] = json!("nosuchfs");
    api.container("bad", &spec).await.expect("a container");
    for _ in 0..3 {
        let error = api.create("bad").await.unwrap_err();
        assert!(error.message().contains("bad") && error.message().contains("create"), "{error}");
        host.is_gone("bad");
    }
    assert_eq!(api.get("bad").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(api.create("unknown").await.unwrap_err().code(), Code::NotFound);
    let checkpoint = tasks::CheckpointTaskRequest { container_id: "bad".into(), ..Default::default() };
    assert_eq!(api.tasks.checkpoint(checkpoint).await.unwrap_err().code(), Code::NotFound);

    api.container("missing", &host.spec("missing", &["/no/such/program"])).await.expect("a container");
    let error = api.create("missing").await.unwrap_err();
    assert!(error.message().contains("/no/such/program"), "{error}");
    host.is_gone("missing");

    // Only the kernel knows that this one cannot be executed.
    fs::write(host.root.join("bin/broken"), "#!/no/such/interpreter\n").expect("a script");
    fs::set_permissions(host.root.join("bin/broken"), Permissions::from_mode(0o755)).expect("its mode");
    host.created(&mut api, "broken", &["/bin/broken"]).await;
    let error = api.start("broken").await.unwrap_err();
    assert!(error.message().contains("/bin/broken"), "{error}");
    assert_eq!(in_time("its end", api.wait("broken")).await.expect("an exit"), 127);
    assert_eq!(api.delete("broken").await.expect("it is deleted"), 127);
    host.is_gone("broken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_hangs_hurts_its_own_callers_only() {
    let host = Host::new();
    let mut api = host.api().await;
    host.started(&mut api, "hung", &["sleep", "1000"]).await;
    host.started(&mut api, "well", &["sleep", "1000"]).await;
    kill(host.shim("hung"), Signal::SIGSTOP).expect("the shim is stopped");
    let mut other = api.clone();
    let began = Instant::now();
    let hung = tokio::spawn(async move { other.kill("hung", 9).await });
    let listed = api.tasks.list(tasks::ListTasksRequest::default()).await.expect("a list").into_inner();
    assert_eq!(listed.tasks.len(), 2);
    assert_eq!(api.get("hung").await.expect("it is there").status(), TaskStatus::Running);
    api.kill("well", 9).await.expect("the other is killed");
    assert_eq!(in_time("the other's end", api.wait("well")).await.expect("an exit"), 137);
    api.delete("well").await.expect("the other is deleted");
    assert!(began.elapsed() < Duration::from_secs(5), "the other waited: {:?}", began.elapsed());
    let error = in_time("the error", hung).await.expect("no panic").unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert!(error.message().contains("hung") && error.message().contains("kill"), "{error}");
    kill(host.shim("hung"), Signal::SIGCONT).expect("the shim goes on");
    // The request that was given up arrives all the same.
    assert_eq!(in_time("its end", api.wait("hung")).await.expect("an exit"), 137);
    api.delete("hung").await.expect("it is deleted");
    host.is_gone("hung");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_dies_is_the_end_of_its_container_told_once() {
    let host = Host::new();
    let mut api = host.api().await;
    let filters = vec!["topic==\"/tasks/exit\"".to_owned()];
    let mut events =
        api.events.subscribe(SubscribeRequest { filters }).await.expect("a subscription").into_inner();
    let pid = host.started(&mut api, "victim", &["sh", "-c", "sleep 1000 & sleep 1000"]).await;
    let mut waiting = api.clone();
    let wait = tokio::spawn(async move { waiting.wait("victim").await });
    kill(host.shim("victim"), Signal::SIGKILL).expect("the shim is killed");
    assert_eq!(in_time("the end", wait).await.expect("no panic").expect("an exit"), 137);
    assert!(!is_alive(Pid::from_raw(pid as i32)), "the container is killed with its shim");
    assert!(!host.has_cgroup("victim"), "its cgroups are removed");
    let event = in_time("the event", events.message()).await.expect("no error").expect("an event");
    let exit = ev::TaskExit::decode(event.event.expect("a payload").value.as_slice()).expect("an exit");
    assert_eq!((exit.container_id.as_str(), exit.exit_status, exit.pid), ("victim", 137, pid));
    assert_eq!(api.get("victim").await.expect("it is there").status(), TaskStatus::Stopped);
    assert_eq!(api.kill("victim", 9).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(api.delete("victim").await.expect("it is deleted"), 137);
    host.is_gone("victim");
    let more = tokio::time::timeout(Duration::from_millis(300), events.message()).await;
    assert!(more.is_err(), "told twice: {more:?}");
}

/// A spec whose creation takes long, because a hook does.
fn slow(host: &Host, id: &str) -> Value {
    let mut spec = host.spec(id, &["sleep", "1000"]);
    spec["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", "sleep 2"] }] });
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_leaves_nothing() {
    let host = Host::new();
    let mut api = host.api().await;
    api.container("left", &slow(&host, "left")).await.expect("a container");
    let mut other = host.api().await;
    let create = tokio::spawn(async move { other.create("left").await });
    eventually("the creation is under way", || host.bundle("left").join("shim.pid").exists());
    let shim = host.shim("left");
    create.abort();
    let _ = create.await;
    eventually("everything is taken back", || {
        !host.bundle("left").exists() && !is_alive(shim) && !host.has_cgroup("left")
    });
    assert_eq!(api.get("left").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_was_being_made_when_the_daemon_died_is_removed() {
    let mut host = Host::new();
    let mut api = host.api().await;
    api.container("half", &slow(&host, "half")).await.expect("a container");
    let create = tokio::spawn(async move { api.create("half").await });
    eventually("the creation is under way", || host.bundle("half").join("shim.pid").exists());
    let shim = host.shim("half");
    host.daemon.kill();
    let _ = create.await;
    host.daemon.launch().expect("the daemon starts again");
    let mut api = host.api().await;
    eventually("everything is taken back", || {
        !host.bundle("half").exists() && !is_alive(shim) && !host.has_cgroup("half")
    });
    assert_eq!(api.get("half").await.unwrap_err().code(), Code::NotFound);
    // It was stored, so it is kept, and can be tried again.
    api.create("half").await.expect("a task");
    api.delete("half").await.expect("it is deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_daemon_finds_every_task_as_it_is() {
    let mut host = Host::new();
    let mut api = host.api().await;
    let running = host.started(&mut api, "running", &["sleep", "1000"]).await;
    let created = host.created(&mut api, "created", &["sh", "-c", "exit 3"]).await;
    host.started(&mut api, "exits", &["sh", "-c", "sleep 0.5; exit 9"]).await;
    host.started(&mut api, "exited", &["sh", "-c", "exit 4"]).await;
    host.started(&mut api, "orphan", &["sleep", "1000"]).await;
    host.started(&mut api, "paused", &["sleep", "1000"]).await;
    let pause = tasks::PauseTaskRequest { container_id: "paused".into() };
    api.tasks.pause(pause).await.expect("it is paused");
    let process =
        json!({ "args": ["sleep", "1000"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0} });
    let exec = tasks::ExecProcessRequest {
        container_id: "running".into(),
        exec_id: "more".into(),
        spec: Some(prost_types::Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: serde_json::to_vec(&process).expect("JSON"),
        }),
        ..Default::default()
    };
    api.tasks.exec(exec.clone()).await.expect("an exec");
    assert_eq!(api.tasks.exec(exec).await.unwrap_err().code(), Code::AlreadyExists);
    let start = tasks::StartRequest { container_id: "running".into(), exec_id: "more".into() };
    let exec_pid = api.tasks.start(start).await.expect("it starts").into_inner().pid;
    assert_eq!(in_time("an end", api.wait("exited")).await.expect("an exit"), 4);

    host.daemon.kill();
    let orphan = host.shim("orphan");
    kill(orphan, Signal::SIGKILL).expect("a shim is killed");
    eventually("the shim is gone", || !is_alive(orphan));
    eventually("one exits meanwhile", || host.bundle("exits").join("exit/init").exists());
    host.daemon.launch().expect("the daemon starts again");

    let mut api = host.api().await;
    for (id, status, pid) in
        [("running", TaskStatus::Running, running), ("created", TaskStatus::Created, created)]
    {
        let found = api.get(id).await.expect("it is found");
        assert_eq!((found.status(), found.pid), (status, pid), "{id}");
    }
    assert_eq!(api.get("paused").await.expect("it is found").status(), TaskStatus::Paused);
    for (id, code) in [("exits", 9), ("exited", 4), ("orphan", 137)] {
        let found = api.get(id).await.expect("it is found");
        assert_eq!((found.status(), found.exit_status), (TaskStatus::Stopped, code), "{id}");
        assert_eq!(in_time("the exit", api.wait(id)).await.expect("an exit"), code, "{id}");
        assert_eq!(api.delete(id).await.expect("it is deleted"), code, "{id}");
        host.is_gone(id);
    }
    let get = tasks::GetRequest { container_id: "running".into(), exec_id: "more".into() };
    let found = api.tasks.get(get).await.expect("the exec").into_inner().process.expect("it");
    assert_eq!((found.status(), found.pid, found.id.as_str()), (TaskStatus::Running, exec_pid, "more"));
    assert_eq!(api.start("created").await.expect("it starts"), created);
    assert_eq!(in_time("its end", api.wait("created")).await.expect("an exit"), 3);
    api.delete("created").await.expect("it is deleted");
    let resume = tasks::ResumeTaskRequest { container_id: "paused".into() };
    api.tasks.resume(resume).await.expect("it is resumed");
    for id in ["running", "paused"] {
        api.kill(id, 9).await.expect("it is killed");
        assert_eq!(in_time("its end", api.wait(id)).await.expect("an exit"), 137);
        api.delete(id).await.expect("it is deleted");
        host.is_gone(id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shim_that_hangs_at_start_up_holds_up_nobody_else() {
    let mut host = Host::new();
    let mut api = host.api().await;
    host.started(&mut api, "hung", &["sleep", "1000"]).await;
    let pid = host.started(&mut api, "well", &["sleep", "1000"]).await;
    let shim = host.shim("hung");
    kill(shim, Signal::SIGSTOP).expect("the shim is stopped");
    host.daemon.kill();
    let began = Instant::now();
    host.daemon.launch().expect("the daemon starts again");
    assert!(began.elapsed() < Duration::from_secs(8), "it waited for the one: {:?}", began.elapsed());
    let mut api = host.api().await;
    assert_eq!(api.get("hung").await.expect("it is listed").status(), TaskStatus::Unknown);
    let well = api.get("well").await.expect("it is found");
    assert_eq!((well.status(), well.pid), (TaskStatus::Running, pid));
    assert_eq!(api.create("hung").await.unwrap_err().code(), Code::AlreadyExists);
    kill(shim, Signal::SIGCONT).expect("the shim goes on");
    let deadline = Instant::now() + PATIENCE;
    while api.get("hung").await.expect("it is listed").status() != TaskStatus::Running {
        assert!(Instant::now() < deadline, "it is never found again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for id in ["hung", "well"] {
        api.kill(id, 9).await.expect("it is killed");
        assert_eq!(in_time("its end", api.wait(id)).await.expect("an exit"), 137);
        api.delete(id).await.expect("it is deleted");
        host.is_gone(id);
    }
}

#[test]
fn what_a_shim_has_to_say_is_in_the_daemons_log() {
    let longshore_tests::Fixture { daemon, busybox, .. } = &longshore_tests::Fixture::pulled();
    let id = daemon.ctl(&["run", "-d", busybox, "sleep", "1000"]).ok().line().to_owned();
    let namespaces = fs::read_dir(daemon.state().join("tasks")).expect("a folder").flatten();
    let bundle =
        namespaces.map(|namespace| namespace.path().join(&id)).find(|path| path.exists()).expect("a bundle");
    // Where the exit record goes is not there: a failure of which only the log hears.
    fs::rename(bundle.join("exit"), bundle.join("away")).expect("it can be moved");
    daemon.ctl(&["kill", &id]).ok();
    eventually("the log says so", || {
        let log = daemon.log_text();
        log.lines().any(|line| line.contains("ERROR shim:") && line.contains("exit/") && line.contains(&id))
    });
    let _ = fs::rename(bundle.join("away"), bundle.join("exit"));
    daemon.ctl(&["rm", "-f", &id]).ok();
}
