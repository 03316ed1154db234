//! The first process of a pod whose containers see each other's processes: the shim's own init, which holds the pid namespace
//! and reaps. Pods without that have no such process.

use std::sync::Arc;
use std::time::Duration;

use longshore_proto::longshore::shim::v1 as shim;
use oci_spec::runtime::{
    LinuxBuilder, LinuxNamespaceType, MountBuilder, ProcessBuilder, RootBuilder, SpecBuilder, UserBuilder,
};

use super::Pods;
use super::config::{PodConfig, Sharing, UserMaps};
use super::namespaces::Files;
use super::pod::{Doing, Pod};
use super::stop::until_available;
use super::users;
use crate::any::Any;
use crate::content::store::blocking;
use crate::engine::spec::{capabilities, devices, mounts, namespaces};
use crate::error::{Error, Result};
use crate::tasks::{CreateTask, KillScope, ProcessId, Status, TaskStdio};

/// How long it may take to end when it is killed.
const KILLED: Duration = Duration::from_secs(30);

/// How unlikely the kernel is to choose it when memory runs short, as other runtimes have it.
const OOM_SCORE: i32 = -998;

impl Pods {
    pub(super) async fn start_pause(&self, id: &str, config: &PodConfig) -> Result<()> {
        let root = self.folder(id).join("root");
        let (below, users) = (root.clone(), config.namespaces.users.clone());
        blocking(move || {
            let folders = ["proc", "dev"].map(|name| below.join(name));
            for folder in &folders {
                std::fs::create_dir_all(folder)
                    .map_err(|error| Error::io("making the folder", folder, error))?;
            }
            match &users {
                Some(users) => users::give(&[&folders[..], &[below]].concat(), users),
                None => Ok(()),
            }
        })
        .await?;
        let spec = self.pause_spec(id, config, &root)?;
        let options = shim::CreateOptions {
            pause: true,
            systemd_cgroup: self.parent_is_slice(config),
            ..shim::CreateOptions::default()
        };
        let task = CreateTask {
            spec: spec.into(),
            rootfs: Vec::new(),
            stdio: TaskStdio::default(),
            options: Some(Any::pack("longshore.shim.v1.CreateOptions", &options)),
            runtime: config.handler.clone(),
            checkpoint: None,
            join: None,
            group: Some(id.to_owned()),
        };
        self.tasks.create_attach_start(&self.namespace, id, task, None).await.map(drop)
    }

    fn pause_spec(&self, id: &str, config: &PodConfig, root: &std::path::Path) -> Result<Vec<u8>> {
        let files = Files::of(&self.folder(id));
        let shared = &config.namespaces;
        let mut all =
            vec![namespaces::own(LinuxNamespaceType::Mount)?, namespaces::own(LinuxNamespaceType::Pid)?];
        if shared.network != Sharing::Node {
            all.push(namespaces::at(LinuxNamespaceType::Network, files.network())?);
            all.push(namespaces::at(LinuxNamespaceType::Uts, files.uts())?);
        }
        if shared.ipc != Sharing::Node {
            all.push(namespaces::at(LinuxNamespaceType::Ipc, files.ipc())?);
        }
        if shared.users.is_some() {
            all.push(namespaces::at(LinuxNamespaceType::User, files.user())?);
        }
        let nobody = shared.users.as_ref().map_or(65535, UserMaps::somebody);
        let user = UserBuilder::default().uid(nobody).gid(nobody).build().map_err(Error::oci)?;
        let nothing = oci_spec::runtime::Capabilities::new();
        let mut process = ProcessBuilder::default()
            .args(vec!["pause".to_owned()])
            .cwd("/")
            .user(user)
            .capabilities(capabilities::sets(&nothing, nobody)?)
            .no_new_privileges(true)
            .build()
            .map_err(Error::oci)?;
        process.set_rlimits(None);
        if capabilities::available().contains(&oci_spec::runtime::Capability::SysResource) {
            // The pod ends with it: it is the last to go when memory runs short.
            process.set_oom_score_adj(Some(OOM_SCORE));
        }
        let proc = MountBuilder::default()
            .destination("/proc")
            .typ("proc")
            .source("proc")
            .options(["nosuid", "noexec", "nodev"].map(str::to_owned).to_vec())
            .build()
            .map_err(Error::oci)?;
        let (cgroup, _) = self.cgroup_for(config, id);
        let resources =
            super::spec::resources(&super::config::Resources::default(), Some(devices::default_rules()?))?;
        let mut linux = LinuxBuilder::default()
            .namespaces(all)
            .resources(resources)
            .cgroups_path(cgroup)
            .masked_paths(mounts::masked_paths())
            .readonly_paths(mounts::readonly_paths())
            .build()
            .map_err(Error::oci)?;
        if let Some(maps) = &shared.users {
            linux.set_uid_mappings(Some(users::to_spec(&maps.uids)?));
            linux.set_gid_mappings(Some(users::to_spec(&maps.gids)?));
        }
        let root = RootBuilder::default().path(root).readonly(false).build().map_err(Error::oci)?;
        let mut spec = SpecBuilder::default()
            .version("1.2.0")
            .root(root)
            .mounts(vec![proc])
            .process(process)
            .linux(linux)
            .build()
            .map_err(Error::oci)?;
        spec.set_hostname(None);
        serde_json::to_vec(&spec).map_err(|source| Error::Record {
            table: "spec",
            key: id.to_owned(),
            source: source.into(),
        })
    }

    /// Its process, which has the pid namespace.
    pub(super) fn pause_pid(&self, pod: &str) -> Result<u32> {
        let info = self.tasks.get(&self.namespace, pod, ProcessId::Init)?;
        match info.status {
            Status::Running => Ok(info.pid),
            _ => Err(Error::precondition(format!("pod sandbox {pod}"), "its first process has ended")),
        }
    }

    /// Whether a pod that has one has it no more. One whose shim does not answer may still be there.
    pub(super) fn lost_its_pause(&self, pod: &Pod) -> bool {
        if !pod.read(|record| record.pause) {
            return false;
        }
        match self.tasks.get(&self.namespace, &pod.id, ProcessId::Init) {
            Ok(info) => info.exit.is_some() || !matches!(info.status, Status::Running | Status::Unknown),
            Err(_) => true,
        }
    }

    /// Ends it; one that is not there has ended.
    pub(super) async fn stop_pause(&self, pod: &str) -> Result<()> {
        if self.tasks.get(&self.namespace, pod, ProcessId::Init).is_err() {
            return Ok(());
        }
        let kill = signal_kill();
        let ask = || self.tasks.kill(&self.namespace, pod, ProcessId::Init, kill, KillScope::All);
        match until_available(ask).await {
            Ok(()) => {
                let wait = self.tasks.wait(&self.namespace, pod, ProcessId::Init);
                if tokio::time::timeout(KILLED, wait).await.is_err() {
                    return Err(Error::Timeout {
                        what: format!(
                            "the first process of pod sandbox {pod}: it was killed, and is still there"
                        ),
                        seconds: KILLED.as_secs(),
                    });
                }
            }
            Err(error) if error.code() == tonic::Code::NotFound => {}
            Err(error) => return Err(error),
        }
        self.try_delete_task(pod).await
    }

    /// It ended by itself, and every process of the pod's namespace with it.
    pub(super) async fn pause_ended(self: &Arc<Self>, pod: &Arc<Pod>) {
        let why = "it is being stopped, since its first process has ended";
        let _turn = pod.turn_in_time(Doing::verb(why)).await;
        if !pod.is_ready() || !self.lost_its_pause(pod) {
            return;
        }
        tracing::warn!(pod = %pod.id, "the pod's first process has ended; the pod is stopped");
        if let Err(error) = self.stop_turned(pod).await {
            tracing::warn!(pod = %pod.id, %error, "a pod without its first process cannot be stopped yet");
        }
    }
}

fn signal_kill() -> u32 {
    crate::engine::signals::KILL.unsigned_abs()
}
