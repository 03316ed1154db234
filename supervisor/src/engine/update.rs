//! Changing a container that exists. Limits and the restart policy count at once, also while it runs; ports, mounts and
//! the environment, which docker cannot change at all, at the next start, and nothing of the writable layer is lost.

use std::sync::Arc;

use oci_spec::runtime::LinuxPidsBuilder;

use super::Engine;
use super::config::{ContainerConfig, Limits, Mount, MountKind, PortBinding, RestartPolicy};
use super::registry::Entry;
use super::spec::{env, kernel, resources};
use super::state::Status;
use crate::any::Any;
use crate::error::{Error, Result};

/// The type URL of limits as the runtime reads them.
const RESOURCES_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// What is to be another than before.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// What is 0 or empty stays.
    pub limits: Limits,
    /// The limit on processes is taken away.
    pub unlimited_pids: bool,
    pub restart: Option<RestartPolicy>,
    /// Added; one of the same container port, protocol and host address is replaced.
    pub publish: Vec<PortBinding>,
    /// Taken away: every one of this container port and protocol, and of this host port if that is not 0.
    pub unpublish: Vec<PortBinding>,
    /// Added; one with the same target is replaced.
    pub mounts: Vec<Mount>,
    /// Targets of mounts that are taken away.
    pub unmount: Vec<String>,
    /// `KEY=value`; a bare KEY takes the variable away.
    pub env: Vec<String>,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Updated {
    pub warnings: Vec<String>,
    /// The container runs, and something counts only when it is started again.
    pub at_next_start: bool,
}

impl Engine {
    /// Changes a container; durable when this returns. If the kernel refuses the new limits, nothing is changed.
    pub async fn update(self: &Arc<Self>, text: &str, update: Update) -> Result<Updated> {
        let entry = self.find(text)?;
        let turn = entry.turn.clone().lock_owned().await;
        let engine = self.clone();
        // What was begun is carried through even if the client goes away.
        let work = async move {
            let policy = update.restart.clone();
            let updated = engine.change(&entry, update).await.map_err(|error| match error {
                Error::InvalidArgument { what, why } => {
                    Error::invalid(format!("Cannot update container {}", entry.id), format!("{what}: {why}"))
                }
                other => other,
            })?;
            drop(turn);
            if let Some(policy) = policy {
                // One that waits to be started again may not wait any more.
                engine.set_restart_policy(&entry.id, policy).await?;
            }
            Ok(updated)
        };
        self.carry("changing a container", work).await
    }

    async fn change(self: &Arc<Self>, entry: &Arc<Entry>, mut update: Update) -> Result<Updated> {
        let status = entry.status();
        if matches!(status, Status::Removing | Status::Dead) {
            return Err(Error::precondition(
                format!("Cannot update container {}", entry.id),
                "container is marked for removal and cannot be \"update\"",
            ));
        }
        let live = matches!(status, Status::Running | Status::Paused);
        let before = entry.read(|record| record.config.clone());
        let mut after = before.clone();
        let warnings = kernel::kernel().fit(&mut update.limits);
        merge(&mut after.limits, &update)?;
        change_config(&mut after, &update)?;
        super::create::check(&after)?;
        let (left, mut mounts) = self.parted(entry, &update, live)?;
        let wanted = ContainerConfig {
            mounts: update.mounts.clone(),
            volume_driver: after.volume_driver.clone(),
            ..ContainerConfig::default()
        };
        let acquired = self.resolve_mounts(&entry.id, &wanted, std::iter::empty()).await?;
        mounts.extend(acquired.mounts.iter().cloned());
        let images = self.mounted_images(&mounts).await?;
        if Engine::wants_copy_up(&acquired.mounts) {
            let (rootfs, _) = self.mounts_of(entry, entry.state().run == 0).await?;
            self.populate_volumes(&entry.id, &acquired.mounts, &rootfs).await?;
        }
        let relimited = live && after.limits != before.limits;
        if relimited {
            self.limit(&entry.id, &after.limits, before.limits.pids).await?;
        }
        let next = after.publish != before.publish || after.mounts != before.mounts || !update.env.is_empty();
        let limits = after.limits.clone();
        let undo = entry.change(|record| {
            let process_env = env::merge(&record.process_env, &update.env);
            (
                std::mem::replace(&mut record.config, after),
                std::mem::replace(&mut record.process_env, process_env),
                record.mounts.replace(mounts.clone()),
                std::mem::replace(&mut record.mounted_images, images),
            )
        });
        if let Err(error) = self.save_record(entry).await {
            // What was not kept was not changed.
            entry.change(|record| {
                (record.config, record.process_env, record.mounts, record.mounted_images) = undo;
            });
            if relimited && let Err(error) = self.limit(&entry.id, &before.limits, limits.pids).await {
                tracing::warn!(container = %entry.id, %error, "the limits before an update that failed could not be set again");
            }
            return Err(error);
        }
        acquired.keep();
        for volume in left.iter().filter(|mount| mount.kind == MountKind::Volume) {
            if !mounts.iter().any(|mount| mount.kind == MountKind::Volume && mount.source == volume.source) {
                self.volumes.let_go(&volume.source, &entry.id);
            }
        }
        self.happened(entry, "update", &[]);
        Ok(Updated { warnings, at_next_start: live && next })
    }

    /// What is mounted and shall not be any more, and what stays. A volume is not taken from under a container that runs.
    fn parted(&self, entry: &Entry, update: &Update, live: bool) -> Result<(Vec<Mount>, Vec<Mount>)> {
        let goes = |mount: &Mount| {
            update.unmount.iter().any(|target| is_at(mount, target))
                || update.mounts.iter().any(|new| is_at(mount, &new.target))
        };
        let (left, kept): (Vec<Mount>, Vec<Mount>) =
            entry.read(|record| record.mounts().to_vec()).into_iter().partition(goes);
        match left.iter().find(|mount| mount.kind == MountKind::Volume) {
            Some(volume) if live => Err(Error::precondition(
                format!("Cannot update container {}", entry.id),
                format!("the volume at {} is in use: stop the container first", volume.target),
            )),
            _ => Ok((left, kept)),
        }
    }

    /// Gives a container that runs other limits.
    async fn limit(&self, id: &str, limits: &Limits, pids_before: Option<i64>) -> Result<()> {
        let mut resources = resources::resources(limits, None)?;
        if limits.pids.is_none() && pids_before.is_some() {
            // What is not named stays as it is: that there is no limit any more is said by -1.
            let unlimited = LinuxPidsBuilder::default().limit(-1_i64).build().map_err(Error::oci)?;
            resources.set_pids(Some(unlimited));
        }
        let json = serde_json::to_vec(&resources).map_err(|source| Error::Record {
            table: "limits",
            key: id.to_owned(),
            source: source.into(),
        })?;
        let resources = Some(Any::new(RESOURCES_URL, json));
        self.tasks.update(&self.namespace, id, resources, Default::default()).await
    }
}

/// The limits as they shall be, in docker's order of what stands in whose way.
fn merge(limits: &mut Limits, update: &Update) -> Result<()> {
    let new = &update.limits;
    let conflict = |why: &str| Err(Error::invalid("Conflicting options", why));
    if new.nano_cpus.is_some() && (limits.cpu_period > 0 || limits.cpu_quota > 0) {
        return conflict("Nano CPUs cannot be updated as CPU Period or Quota has already been set");
    }
    if limits.nano_cpus.is_some() && new.cpu_period > 0 {
        return conflict("CPU Period cannot be updated as NanoCPUs has already been set");
    }
    if limits.nano_cpus.is_some() && new.cpu_quota > 0 {
        return conflict("CPU Quota cannot be updated as NanoCPUs has already been set");
    }
    if let Some(memory) = new.memory
        && limits.memory_swap > 0
        && new.memory_swap == 0
        && memory > limits.memory_swap
    {
        return Err(Error::invalid(
            "Memory limit should be smaller than already set memoryswap limit",
            "update the memoryswap at the same time",
        ));
    }
    for (own, new) in [
        (&mut limits.memory, new.memory),
        (&mut limits.nano_cpus, new.nano_cpus),
        (&mut limits.pids, new.pids),
    ] {
        if new.is_some() {
            *own = new;
        }
    }
    if update.unlimited_pids {
        limits.pids = None;
    }
    for (own, new) in [
        (&mut limits.cpu_shares, new.cpu_shares),
        (&mut limits.cpu_period, new.cpu_period),
        (&mut limits.cpu_quota, new.cpu_quota),
        (&mut limits.cpu_realtime_period, new.cpu_realtime_period),
        (&mut limits.cpu_realtime_runtime, new.cpu_realtime_runtime),
        (&mut limits.memory_reservation, new.memory_reservation),
        (&mut limits.memory_swap, new.memory_swap),
    ] {
        if new != 0 {
            *own = new;
        }
    }
    if new.blkio_weight != 0 {
        limits.blkio_weight = new.blkio_weight;
    }
    for (own, new) in
        [(&mut limits.cpuset_cpus, &new.cpuset_cpus), (&mut limits.cpuset_mems, &new.cpuset_mems)]
    {
        if !new.is_empty() {
            own.clone_from(new);
        }
    }
    Ok(())
}

fn change_config(config: &mut ContainerConfig, update: &Update) -> Result<()> {
    if let Some(policy) = &update.restart {
        if config.auto_remove && *policy != RestartPolicy::default() {
            return Err(Error::invalid(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
                "make the container again without --rm",
            ));
        }
        config.restart = policy.clone();
    }
    for gone in &update.unpublish {
        let before = config.publish.len();
        config.publish.retain(|port| !is_meant(port, gone));
        if config.publish.len() == before {
            let port = format!("{}/{}", gone.container_port, gone.protocol.name());
            return Err(Error::invalid(format!("unpublish {port}"), "no such port is published"));
        }
    }
    for new in &update.publish {
        let same = |port: &PortBinding| {
            (port.container_port, port.protocol, &port.host_ip)
                == (new.container_port, new.protocol, &new.host_ip)
        };
        config.publish.retain(|port| !same(port));
        config.publish.push(new.clone());
    }
    for target in &update.unmount {
        let before = config.mounts.len();
        config.mounts.retain(|mount| !is_at(mount, target));
        if config.mounts.len() == before {
            return Err(Error::invalid(format!("unmount {target}"), "nothing was asked to be mounted there"));
        }
    }
    for new in &update.mounts {
        config.mounts.retain(|mount| !is_at(mount, &new.target));
        config.mounts.push(new.clone());
    }
    config.env = env::merge(&config.env, &update.env);
    Ok(())
}

fn is_meant(port: &PortBinding, gone: &PortBinding) -> bool {
    (port.container_port, port.protocol) == (gone.container_port, gone.protocol)
        && (gone.host_port_first == 0 || gone.host_port_first == port.host_port_first)
        && (gone.host_ip.is_empty() || gone.host_ip == port.host_ip)
}

fn is_at(mount: &Mount, target: &str) -> bool {
    mount.target.trim_end_matches('/') == target.trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::{Protocol, RestartCondition};

    #[test]
    fn what_is_not_named_stays() {
        let mut limits = Limits { memory: Some(64 << 20), cpu_shares: 7, pids: Some(9), ..Limits::default() };
        let new = Limits { memory: Some(128 << 20), cpuset_cpus: "0".into(), ..Limits::default() };
        merge(&mut limits, &Update { limits: new, unlimited_pids: true, ..Update::default() }).unwrap();
        assert_eq!((limits.memory, limits.cpu_shares, limits.pids), (Some(128 << 20), 7, None));
        assert_eq!(limits.cpuset_cpus, "0");
    }

    #[test]
    fn docker_s_words_for_what_stands_in_the_way() {
        let said = |own: Limits, new: Limits| {
            merge(&mut { own }, &Update { limits: new, ..Update::default() }).unwrap_err().for_people()
        };
        let nano = Limits { nano_cpus: Some(500_000_000), ..Limits::default() };
        let period = Limits { cpu_period: 1000, ..Limits::default() };
        assert!(said(nano, period).contains("CPU Period cannot be updated as NanoCPUs has already been set"));
        let swap = Limits { memory: Some(1 << 20), memory_swap: 2 << 20, ..Limits::default() };
        let memory = Limits { memory: Some(3 << 20), ..Limits::default() };
        assert!(
            said(swap, memory)
                .starts_with("Memory limit should be smaller than already set memoryswap limit")
        );
    }

    #[test]
    fn ports_and_mounts_come_and_go() {
        let port = |container_port, host: u16| PortBinding {
            container_port,
            protocol: Protocol::Tcp,
            host_port_first: host,
            host_port_last: host,
            ..PortBinding::default()
        };
        let mount = |target: &str| Mount { target: target.into(), source: "/s".into(), ..Mount::default() };
        let mut config = ContainerConfig {
            publish: vec![port(80, 8080), port(81, 8081)],
            mounts: vec![mount("/a"), mount("/b")],
            env: vec!["A=1".into()],
            ..ContainerConfig::default()
        };
        let update = Update {
            publish: vec![port(80, 9090)],
            unpublish: vec![port(81, 0)],
            mounts: vec![mount("/c")],
            unmount: vec!["/a/".into()],
            env: vec!["A=2".into()],
            ..Update::default()
        };
        change_config(&mut config, &update).unwrap();
        assert_eq!(config.publish, [port(80, 9090)]);
        let targets: Vec<_> = config.mounts.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!((targets, config.env), (vec!["/b", "/c"], vec!["A=2".to_owned()]));
        let mut config = ContainerConfig { auto_remove: true, ..ContainerConfig::default() };
        let always = RestartPolicy { condition: RestartCondition::Always, ..RestartPolicy::default() };
        for update in [
            Update { unpublish: vec![port(1, 0)], ..Update::default() },
            Update { unmount: vec!["/x".into()], ..Update::default() },
            Update { restart: Some(always), ..Update::default() },
        ] {
            assert!(change_config(&mut config, &update).is_err(), "{update:?}");
        }
    }
}
