//! A daemon with containers of one shim over one snapshotter, for tests that do the same with several.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_proto::containerd::events as ev;
use longshore_proto::containerd::runc::v1::Options as RuncOptions;
use longshore_proto::containerd::services::events::v1::SubscribeRequest;
use longshore_proto::containerd::services::tasks::v1 as tasks;
use longshore_proto::containerd::types::Envelope;
use nix::unistd::Pid;
use prost::Message;
use serde_json::{Value, json};
use tonic::{Status, Streaming};

use crate::api::{self, Api, NAMESPACE};
use crate::daemon::{Daemon, Settings};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shim {
    Own,
    /// The host's, as `io.containerd.runc.v2` in the configuration.
    Host,
    /// By its path.
    Newer,
}

impl Shim {
    pub fn runtime(self) -> &'static str {
        match self {
            Self::Own => "io.containerd.longshore.v1",
            Self::Host => "io.containerd.runc.v2",
            Self::Newer => option_env!("LONGSHORE_NEWER_SHIM").unwrap_or_default(),
        }
    }
}

/// The host's shim under the name that is ours by default.
pub fn config() -> String {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::split_paths(&folders)
        .map(|folder| folder.join("containerd-shim-runc-v2"))
        .find(|path| path.exists());
    match path {
        Some(path) => format!("[runtime.runtimes.\"io.containerd.runc.v2\"]\npath = {path:?}\n"),
        None => String::new(),
    }
}

/// A daemon with a shim and a snapshotter.
pub struct Host {
    pub daemon: Daemon,
    pub shim: Shim,
    pub snapshotter: &'static str,
    pub api: Api,
}

impl Host {
    pub async fn new(shim: Shim, snapshotter: &'static str) -> Host {
        let daemon = Daemon::with(Settings { config: config(), ..Settings::default() }).expect("a daemon");
        let root = api::rootfs(daemon.path()).expect("a root file system");
        let mut api = Api::connect(&daemon.socket()).await.expect("the daemon answers");
        api.base(snapshotter, "base", &root).await.expect("a base");
        Host { daemon, shim, snapshotter, api }
    }

    pub fn spec(&self, id: &str, words: &[&str]) -> Value {
        let cgroup = format!("/{}/{id}", self.daemon.cgroup_parent());
        let mut spec = api::spec(Path::new("rootfs"), &cgroup, words);
        spec["root"]["readonly"] = json!(false);
        spec
    }

    pub async fn created(&mut self, id: &str, words: &[&str]) -> u32 {
        let spec = self.spec(id, words);
        self.created_of(id, &spec).await
    }

    pub async fn created_of(&mut self, id: &str, spec: &Value) -> u32 {
        let request = self.request(id, spec).await;
        self.api.tasks.create(request).await.expect("a task").into_inner().pid
    }

    /// A stored container of this spec, and the request that makes its task.
    pub async fn request(&mut self, id: &str, spec: &Value) -> tasks::CreateTaskRequest {
        self.api.container_by(id, spec, self.shim.runtime()).await.expect("a container");
        let rootfs = self.api.prepare(self.snapshotter, id, "base").await.expect("a snapshot");
        tasks::CreateTaskRequest {
            container_id: id.into(),
            rootfs,
            stdout: format!("file://{}", self.output(id).display()),
            stderr: format!("file://{}", self.output(id).display()),
            options: self.options(),
            ..Default::default()
        }
    }

    /// runc keeps its records by namespace and id, and daemons of other tests run beside this one.
    pub fn options(&self) -> Option<prost_types::Any> {
        let root = self.daemon.path().join("runc").display().to_string();
        let options = RuncOptions { root, ..RuncOptions::default() };
        (self.shim != Shim::Own).then(|| prost_types::Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: options.encode_to_vec(),
        })
    }

    pub async fn started(&mut self, id: &str, words: &[&str]) -> u32 {
        self.created(id, words).await;
        self.api.start(id).await.expect("it starts")
    }

    /// Adds a process and starts it; its pid.
    pub async fn exec(&mut self, id: &str, exec_id: &str, words: &[&str]) -> u32 {
        let process =
            json!({ "args": words, "cwd": "/", "env": ["PATH=/bin"], "user": { "uid": 0, "gid": 0 } });
        let exec = tasks::ExecProcessRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
            spec: Some(prost_types::Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
                value: serde_json::to_vec(&process).expect("JSON"),
            }),
            ..Default::default()
        };
        self.api.tasks.exec(exec).await.expect("an exec");
        let start = tasks::StartRequest { container_id: id.into(), exec_id: exec_id.into() };
        self.api.tasks.start(start).await.expect("it starts").into_inner().pid
    }

    pub async fn wait_exec(&mut self, id: &str, exec_id: &str) -> Result<u32, Status> {
        let wait = tasks::WaitRequest { container_id: id.into(), exec_id: exec_id.into() };
        Ok(in_time("an exec's end", self.api.tasks.wait(wait)).await?.into_inner().exit_status)
    }

    pub async fn delete_exec(&mut self, id: &str, exec_id: &str) -> u32 {
        let delete = tasks::DeleteProcessRequest { container_id: id.into(), exec_id: exec_id.into() };
        self.api.tasks.delete_process(delete).await.expect("it is deleted").into_inner().exit_status
    }

    pub async fn subscribe(&mut self) -> Streaming<Envelope> {
        let filters = vec![format!("namespace=={NAMESPACE},topic~=|^/tasks/|")];
        self.api.events.subscribe(SubscribeRequest { filters }).await.expect("a subscription").into_inner()
    }

    pub async fn restart(&mut self) {
        self.daemon.launch().expect("the daemon starts again");
        self.api = Api::connect(&self.daemon.socket()).await.expect("the daemon answers");
    }

    pub fn output(&self, id: &str) -> PathBuf {
        self.daemon.path().join(format!("{id}.out"))
    }

    pub fn bundle(&self, id: &str) -> PathBuf {
        self.daemon.state().join("tasks").join(NAMESPACE).join(id)
    }

    pub fn shim_of(&self, id: &str) -> Pid {
        let text = fs::read_to_string(self.bundle(id).join("shim.pid")).expect("the shim's pid");
        Pid::from_raw(text.trim().parse().expect("a number"))
    }

    pub fn has_cgroup(&self, id: &str) -> bool {
        let name = format!("{}/{id}", self.daemon.cgroup_parent());
        let hierarchies = fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten();
        hierarchies.into_iter().any(|hierarchy| hierarchy.path().join(&name).exists())
    }

    #[track_caller]
    pub fn is_gone(&self, id: &str) {
        assert!(!self.bundle(id).exists(), "the bundle is left");
        assert!(!self.has_cgroup(id), "a cgroup is left");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let bundle = self.bundle(id).display().to_string();
        assert!(!mounts.contains(&bundle), "a mount is left");
        assert!(
            !self.daemon.root().join("work").join(NAMESPACE).join(id).exists(),
            "its working folder is left"
        );
    }
}

pub fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim_start().starts_with('Z'))
}

pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// The topic of an event, with the process that it is about.
pub fn title(event: &Envelope) -> String {
    let value = event.event.as_ref().expect("a payload").value.as_slice();
    let process = match event.topic.as_str() {
        "/tasks/exit" => ev::TaskExit::decode(value).expect("an exit").id,
        "/tasks/delete" => {
            let deleted = ev::TaskDelete::decode(value).expect("a deletion");
            if deleted.id.is_empty() { deleted.container_id } else { deleted.id }
        }
        _ => String::new(),
    };
    format!("{} {process}", event.topic).trim().to_owned()
}

/// What is told until `last`.
pub async fn titles_until(events: &mut Streaming<Envelope>, last: &str) -> Vec<String> {
    let mut titles: Vec<String> = Vec::new();
    while titles.last().map(String::as_str) != Some(last) {
        let event = in_time(&format!("{last} after {titles:?}"), events.message()).await;
        titles.push(title(&event.expect("no error").expect("an event")));
    }
    titles
}

/// What is still told within a moment.
pub async fn rest(events: &mut Streaming<Envelope>) -> Vec<String> {
    let mut titles = Vec::new();
    while let Ok(event) = tokio::time::timeout(Duration::from_millis(500), events.message()).await {
        titles.push(title(&event.expect("no error").expect("an event")));
    }
    titles
}

/// Makes the calling thread, and no other, somebody else to the kernel.
pub fn become_in_this_thread(uid: u32, gid: u32) {
    use rustix::process::{Gid, Uid};
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_groups(&[]).expect("these tests are root's");
    rustix::thread::set_thread_res_gid(None, gid, None).expect("these tests are root's");
    rustix::thread::set_thread_res_uid(None, uid, None).expect("these tests are root's");
}
