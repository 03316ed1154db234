//! Making a container in a pod. It runs only when it is started.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::Pods;
use super::config::{ContainerConfig, PodConfig, Sharing, UserMaps};
use super::container::Container;
use super::events::Happened;
use super::flight::{Claim, Flight, as_text};
use super::logs;
use super::pod::{Doing, Pod};
use super::record::{ContainerRecord, State};
use super::saved::SavedContainer;
use super::spec::{self, Input};
use crate::content::store::blocking;
use crate::engine::images::LocalImage;
use crate::engine::names::new_id;
use crate::engine::signals;
use crate::engine::spec::layers::Layers;
use crate::error::{Error, Result};
use crate::snapshots::Mount;

/// Marks the snapshots of pods' containers.
pub(super) const LABEL: &str = "longshore.io/pod-container";

impl Pods {
    /// Makes a container and returns its id. Whoever asks for the same container again gets the same.
    pub async fn create(self: &Arc<Self>, pod: &str, config: ContainerConfig) -> Result<String> {
        let pod = self.pod(pod)?;
        if config.name.is_empty() {
            return Err(Error::invalid("container", "its metadata has no name"));
        }
        let asked = as_text("container", &config.name, &config)?;
        let name = name_of(&pod, &config);
        match self.claim_name(&pod, &config, asked.clone()) {
            Claim::Join(flight) => flight.join(&asked).await,
            Claim::Made(id) => {
                let container = self.container(&id)?;
                if container.state() == State::Created && container.read(|record| record.config == config) {
                    return Ok(id);
                }
                Err(Error::already_exists("container", format!("{name} (its id is {id})")))
            }
            Claim::Mine(reservation) => {
                let (pods, flight) = (self.clone(), reservation.flight());
                let made = flight.clone();
                self.background.spawn(async move {
                    let outcome = pods.make_container(&pod, (config, None), &flight).await;
                    reservation.settle(outcome);
                });
                made.landed().await
            }
        }
    }

    /// Makes a container with what was saved of it, in a pod that nobody else makes any in; takes the time that it takes.
    pub(super) async fn create_saved(
        self: &Arc<Self>,
        pod: &str,
        config: ContainerConfig,
        saved: Arc<SavedContainer>,
    ) -> Result<String> {
        let pod = self.pod(pod)?;
        let asked = as_text("container", &config.name, &config)?;
        let name = name_of(&pod, &config);
        let Claim::Mine(reservation) = self.claim_name(&pod, &config, asked) else {
            return Err(Error::already_exists("container", name));
        };
        let made = self.make_container(&pod, (config, Some(saved)), &reservation.flight()).await;
        let made = made.map_err(Arc::new);
        reservation.settle(made.clone().map_err(Error::Shared));
        made.map_err(Error::Shared)
    }

    fn claim_name(&self, pod: &Pod, config: &ContainerConfig, asked: String) -> Claim {
        let of_pod = pod.read(|record| record.config.name.to_string());
        let what = format!("container {} of pod {of_pod}", config.name);
        self.container_names.claim(&name_of(pod, config), what, asked)
    }

    async fn make_container(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        (config, saved): (ContainerConfig, Option<Arc<SavedContainer>>),
        flight: &Arc<Flight>,
    ) -> Result<String> {
        pod.check_ready()?;
        pod.read(|record| check_against_pod(&config, &record.config))?;
        // Where nothing waits for it but those who want this container.
        let sources = self.look_at_host(&config, flight).await?;
        flight.at("waiting for the pod");
        let _turn = pod.turn(Doing::Making(flight.clone())).await?;
        pod.check_ready()?;
        let (id, restored) = (new_id(), saved.is_some());
        match self.build_container(&id, pod, (config, saved), sources, flight).await {
            Ok(container) => {
                self.table().containers.insert(id.clone(), container);
                self.happened(&id, &pod.id, Happened::Created);
                Ok(id)
            }
            Err(error) => {
                flight.at("undoing what failed");
                if let Err(left) = self.clear_container(&id, &pod.id, restored).await {
                    tracing::warn!(container = %id, error = %left, "something is left of a container that was not made; the next start removes it");
                }
                Err(error)
            }
        }
    }

    async fn build_container(
        &self,
        id: &str,
        pod: &Arc<Pod>,
        (config, saved): (ContainerConfig, Option<Arc<SavedContainer>>),
        mut sources: HashMap<usize, String>,
        flight: &Flight,
    ) -> Result<Arc<Container>> {
        let users = pod.read(|record| record.config.namespaces.users.clone());
        flight.at("looking for its image");
        let (image, image_ref) = self.image_of(&config.image.image).await?;
        if let Some(saved) = saved.as_ref().filter(|saved| saved.kept.image_id != image.id.as_str()) {
            let why = format!("its image {} is not {}, which was saved", image.id, saved.kept.image_id);
            return Err(Error::invalid(format!("container {:?}", config.name), why));
        }
        config.mounts.iter().filter_map(|mount| mount.owners.as_ref()).try_for_each(UserMaps::check)?;
        sources.extend(self.mount_images(id, &pod.id, &config, users.as_ref()).await?);
        let pid_of = self.process_to_join(pod, &config)?.map(|(_, pid)| pid);
        flight.at("making its snapshot");
        // Nobody's until it is recorded.
        let _hold = self.engine.snapshotter()?.hold(&self.namespace, id).await;
        let mounts = self.snapshot(id, &image, users.as_ref()).await?;
        flight.at("making its specification");
        let (cgroup, by_systemd) = self.cgroup_of(pod, id);
        let stop_signal = match (config.stop_signal.as_str(), image.config.stop_signal.as_str()) {
            ("", "") => "SIGTERM".to_owned(),
            ("", of_image) => of_image.to_owned(),
            (own, _) => own.to_owned(),
        };
        signals::parse(&stop_signal)?;
        let of_saved = saved.as_ref().map(|_| mounts.clone());
        let log_path = pod.read(|record| logs::path_of(&record.config.log_directory, &config.log_path))?;
        let work = {
            let (config, pod_config) = (config.clone(), pod.read(|record| record.config.clone()));
            let (folder, shm, cgroup) =
                (self.folder(&pod.id), self.engine.shm_folder(&pod.id), cgroup.clone());
            let image = image.clone();
            let owners = users.as_ref().map(UserMaps::owners).transpose()?;
            move || {
                let layers = Layers::from_mounts(
                    mounts
                        .iter()
                        .map(|mount| (mount.kind.as_str(), mount.source.as_str(), mount.options.as_slice())),
                )
                .owned_by(owners);
                let (spec, user) = spec::generate(&Input {
                    config: &config,
                    pod: &pod_config,
                    image: &image,
                    layers: &layers,
                    folder: &folder,
                    shm: &shm,
                    cgroup: &cgroup,
                    pid_of,
                    sources: &sources,
                })?;
                let cwd = spec.process().as_ref().map(|process| process.cwd().display().to_string());
                layers.make_folder(cwd.as_deref().unwrap_or("/"))?;
                let json = serde_json::to_vec(&spec).map_err(|source| Error::Record {
                    table: "spec",
                    key: config.name.clone(),
                    source: source.into(),
                })?;
                Ok((json, user))
            }
        };
        let (spec, user) = blocking(work).await?;
        let restored = saved.is_some();
        if let (Some(saved), Some(mounts)) = (saved, of_saved) {
            flight.at("taking what was saved of it");
            self.take_saved(id, saved, (&spec, mounts)).await?;
        }
        let record = ContainerRecord {
            pod: pod.id.clone(),
            image_id: image.id.as_str().to_owned(),
            image_ref,
            log_path: log_path.map(|path| path.display().to_string()).unwrap_or_default(),
            stop_signal,
            cgroup,
            by_systemd,
            user,
            created_at: Timestamp::now(),
            state: State::Created,
            started_at: None,
            end: None,
            pid: 0,
            restored,
            config,
        };
        flight.at("recording it");
        let container = Container::new(id.to_owned(), spec.into(), record);
        self.keep_container(&container, self.engine.snapshotter()?.name()).await?;
        Ok(container)
    }

    async fn snapshot(&self, id: &str, image: &LocalImage, users: Option<&UserMaps>) -> Result<Vec<Mount>> {
        let snapshotter = self.engine.snapshotter()?;
        let parent = image.chain_id.clone().unwrap_or_default();
        let mut labels = crate::labels::Labels::from([(LABEL.to_owned(), id.to_owned())]);
        labels.extend(users.into_iter().flat_map(UserMaps::labels));
        let prepare = || snapshotter.prepare(&self.namespace, id, &parent, labels.clone(), None);
        match prepare().await {
            Err(error) if error.is_not_found() => {
                self.unpack_image(image).await?;
                prepare().await
            }
            prepared => prepared,
        }
    }

    /// The process whose pid namespace the container is to be in, and whose it is.
    pub(super) fn process_to_join(
        &self,
        pod: &Pod,
        config: &ContainerConfig,
    ) -> Result<Option<(String, u32)>> {
        let asked = &config.security.namespaces;
        match asked.pid {
            Sharing::Pod if pod.read(|record| record.pause) => {
                self.pause_pid(&pod.id).map(|pid| Some((pod.id.clone(), pid)))
            }
            Sharing::Target => {
                let target = self.container(&asked.target)?;
                if target.pod != pod.id {
                    return Err(Error::invalid("target container", "it is in another pod"));
                }
                match target.read(|record| (record.state, record.pid)) {
                    (State::Running, pid) => Ok(Some((target.id.clone(), pid))),
                    _ => {
                        Err(Error::precondition(format!("target container {}", target.id), "it does not run"))
                    }
                }
            }
            _ => Ok(None),
        }
    }

    fn cgroup_of(&self, pod: &Pod, id: &str) -> (String, bool) {
        pod.read(|record| self.cgroup_for(&record.config, id))
    }

    /// Where a cgroup of the pod's is, and whether systemd makes it.
    pub(super) fn cgroup_for(&self, pod: &PodConfig, id: &str) -> (String, bool) {
        match pod.cgroup_parent.trim_end_matches('/') {
            "" => (format!("{}/{id}", self.config.runtime.cgroup_parent), false),
            slice if self.parent_is_slice(pod) => {
                let name = slice.rsplit('/').next().unwrap_or(slice);
                (format!("{name}:longshore:{id}"), true)
            }
            parent => (format!("{parent}/{id}"), false),
        }
    }

    pub(super) fn parent_is_slice(&self, pod: &PodConfig) -> bool {
        pod.cgroup_parent.trim_end_matches('/').ends_with(".slice")
    }
}

fn name_of(pod: &Pod, config: &ContainerConfig) -> String {
    format!("{}_{}_{}", config.name, pod.id, config.attempt)
}

/// Refuses a container that would have more of the host than its pod, which is what admission has looked at.
fn check_against_pod(config: &ContainerConfig, pod: &PodConfig) -> Result<()> {
    let refuse = |asked: &str, mend: &str| {
        let why = format!("it asks for {asked}, and its pod was made without: {mend}");
        Err(Error::invalid(format!("container {:?}", config.name), why))
    };
    if config.security.privileged && !pod.privileged {
        return refuse("privileges", "make the pod privileged, too");
    }
    let (own, shared) = (&config.security.namespaces, &pod.namespaces);
    for (what, own, shared) in [
        ("the host's network", own.network, shared.network),
        ("the host's processes", own.pid, shared.pid),
        ("the host's IPC", own.ipc, shared.ipc),
    ] {
        if own == Sharing::Node && shared != Sharing::Node {
            return refuse(what, "ask for it in the pod's namespace options, too");
        }
    }
    if own.users.is_some() && own.users != shared.users {
        return refuse("a user namespace", "ask for the same one in the pod's namespace options");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_no_more_of_the_host_than_its_pod() {
        let mut pod = PodConfig::default();
        let with = |change: fn(&mut ContainerConfig)| {
            let mut config = ContainerConfig { name: "c".to_owned(), ..ContainerConfig::default() };
            change(&mut config);
            config
        };
        let all = [
            with(|config| config.security.privileged = true),
            with(|config| config.security.namespaces.pid = Sharing::Node),
            with(|config| config.security.namespaces.ipc = Sharing::Node),
            with(|config| config.security.namespaces.network = Sharing::Node),
        ];
        assert!(all.iter().all(|config| check_against_pod(config, &pod).is_err()));
        assert!(check_against_pod(&with(|_| {}), &pod).is_ok());
        pod.privileged = true;
        (pod.namespaces.pid, pod.namespaces.ipc) = (Sharing::Node, Sharing::Node);
        pod.namespaces.network = Sharing::Node;
        assert!(all.iter().all(|config| check_against_pod(config, &pod).is_ok()));
        assert!(check_against_pod(&with(|_| {}), &pod).is_ok());
        let of_own = with(|config| config.security.namespaces.users = Some(Default::default()));
        assert!(check_against_pod(&of_own, &pod).is_err());
    }
}
