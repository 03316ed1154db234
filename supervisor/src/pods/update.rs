//! Limits of a container of a pod, changed while it runs or before; its log, opened anew; what a pod is given.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use longshore_runtime::cgroups::CgroupPaths;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::OFlags;

use super::Pods;
use super::config::{Map, Resources};
use super::container::Container;
use super::pod::{Doing, Pod};
use super::record::{ContainerRecord, PodState, State};
use super::spec;
use crate::any::Any;
use crate::content::store::blocking;
use crate::engine::process::FirstProcess;
use crate::error::{Error, Result};

/// The type URL of limits.
const RESOURCES_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// What the kernel gives a cgroup that nobody has set limits of.
const CPU_PERIOD: i64 = 100_000;
const CPU_SHARES: i64 = 1024;

impl Resources {
    /// With what `change` says; what it does not say stays.
    fn changed(&self, change: &Resources) -> Resources {
        let number = |old: i64, new: i64| if new == 0 { old } else { new };
        let text = |old: &String, new: &String| if new.is_empty() { old.clone() } else { new.clone() };
        let mut unified = self.unified.clone();
        unified.extend(change.unified.clone());
        Resources {
            cpu_period: number(self.cpu_period, change.cpu_period),
            cpu_quota: number(self.cpu_quota, change.cpu_quota),
            cpu_shares: number(self.cpu_shares, change.cpu_shares),
            memory: number(self.memory, change.memory),
            memory_swap: number(self.memory_swap, change.memory_swap),
            oom_score_adj: number(self.oom_score_adj, change.oom_score_adj),
            cpuset_cpus: text(&self.cpuset_cpus, &change.cpuset_cpus),
            cpuset_mems: text(&self.cpuset_mems, &change.cpuset_mems),
            huge_pages: if change.huge_pages.is_empty() {
                self.huge_pages.clone()
            } else {
                change.huge_pages.clone()
            },
            unified,
        }
    }
}

impl Resources {
    /// These limits, with what undoes `tried` where there were none.
    /// `files`: what control files said before it was tried.
    fn instead_of(&self, tried: &Resources, files: &Map) -> Resources {
        let number = |old: i64, new: i64, none: i64| if old == 0 && new != 0 { none } else { old };
        let list = |old: &String, new: &String, all: &str| match old.is_empty() && !new.is_empty() {
            // Every one that the host has.
            true => std::fs::read_to_string(all).unwrap_or_default().trim().to_owned(),
            false => old.clone(),
        };
        let known = |size: &String| self.huge_pages.iter().any(|(known, _)| known == size);
        let mut unified = self.unified.clone();
        for (file, value) in &tried.unified {
            let Some(earlier) = files.get(file).and_then(|text| as_before(file, value, text)) else {
                continue;
            };
            unified.entry(file.clone()).or_insert(earlier);
        }
        let unlimited = tried.huge_pages.iter().filter(|(size, _)| !known(size));
        Resources {
            cpu_period: number(self.cpu_period, tried.cpu_period, CPU_PERIOD),
            cpu_quota: number(self.cpu_quota, tried.cpu_quota, -1),
            cpu_shares: number(self.cpu_shares, tried.cpu_shares, CPU_SHARES),
            memory: number(self.memory, tried.memory, -1),
            memory_swap: number(self.memory_swap, tried.memory_swap, -1),
            cpuset_cpus: list(&self.cpuset_cpus, &tried.cpuset_cpus, "/sys/devices/system/cpu/online"),
            cpuset_mems: list(&self.cpuset_mems, &tried.cpuset_mems, "/sys/devices/system/node/online"),
            huge_pages: self
                .huge_pages
                .iter()
                .cloned()
                .chain(unlimited.map(|(size, _)| (size.clone(), u64::MAX)))
                .collect(),
            unified,
            ..self.clone()
        }
    }
}

/// What undoes the writing of `value` to a control file that said `text`. `None`: nothing that is known.
fn as_before(file: &str, value: &str, text: &str) -> Option<String> {
    let text = text.trim_end();
    let device = value.split_whitespace().next().filter(|word| word.contains(':'));
    let Some(device) = device else {
        return match (file, text.lines().count()) {
            // All else is of single devices.
            ("io.weight", _) => text.lines().next().map(str::to_owned),
            // An empty text would not be written.
            (_, 0) => Some("\n".to_owned()),
            (_, 1) => Some(text.to_owned()),
            _ => None,
        };
    };
    let of_device = |line: &&str| line.split_whitespace().next() == Some(device);
    let unset = || match file {
        "io.max" => Some(format!("{device} rbps=max wbps=max riops=max wiops=max")),
        "io.weight" => Some(format!("{device} default")),
        "io.latency" => Some(format!("{device} target=0")),
        _ => None,
    };
    text.lines().find(of_device).map(str::to_owned).or_else(unset)
}

impl Pods {
    /// Changes a container's limits: all that is asked for, or nothing.
    pub async fn update(self: &Arc<Self>, id: &str, change: &Resources) -> Result<()> {
        let container = self.container(id)?;
        let turn = container.turn.clone().lock_owned().await;
        let (pods, change) = (self.clone(), change.clone());
        // What is changed is recorded, too, whatever becomes of the caller.
        let work = async move {
            let _turn = turn;
            pods.update_turned(&container, &change).await
        };
        self.background
            .spawn(work)
            .await
            .unwrap_or(Err(Error::Lost { what: "changing a container's limits" }))
    }

    async fn update_turned(&self, container: &Container, change: &Resources) -> Result<()> {
        let (state, before) = container.read(|record| (record.state, record.config.resources.clone()));
        if !matches!(state, State::Created | State::Running) {
            return Err(Error::precondition(format!("container {}", container.id), "it has ended"));
        }
        let after = before.changed(change);
        if state == State::Running {
            let files = self.control_files(container, &change.unified).await?;
            let mut changed = self.apply(container, &after).await;
            if changed.is_ok() && after.oom_score_adj != before.oom_score_adj {
                changed = adjust_oom_score(container, &after);
            }
            if let Err(error) = changed {
                if let Err(left) = self.apply(container, &before.instead_of(&after, &files)).await {
                    tracing::warn!(container = %container.id, error = %left, "limits are not as they were before");
                }
                return Err(error);
            }
        }
        container.change(|record| record.config.resources = after);
        self.save_container(container).await
    }

    /// What control files say that are about to be changed.
    async fn control_files(&self, container: &Container, changed: &Map) -> Result<Map> {
        let names: Vec<String> = changed.keys().cloned().collect();
        if names.is_empty() {
            return Ok(Map::new());
        }
        let cgroup = container.read(|record| record.cgroup.clone());
        let read = move || {
            let unreadable = |error: longshore_runtime::Error| {
                Error::unavailable(format!("cgroup {cgroup}"), error.to_string())
            };
            let cgroups = CgroupPaths::open(&cgroup).map_err(unreadable)?;
            Ok(names
                .into_iter()
                .filter_map(|name| Some((name.clone(), cgroups.unified_file(&name)?)))
                .collect())
        };
        blocking(read).await
    }

    async fn apply(&self, container: &Container, resources: &Resources) -> Result<()> {
        let made = spec::resources(resources, None)?;
        let json = serde_json::to_vec(&made).map_err(|source| Error::Record {
            table: "resources",
            key: container.id.clone(),
            source: source.into(),
        })?;
        let resources = Some(Any::new(RESOURCES_URL, json));
        self.tasks.update(&self.namespace, &container.id, resources, std::collections::HashMap::new()).await
    }

    /// Has a container's log opened anew, after it was renamed.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let container = self.running(id)?;
        // It may have gone together with the file.
        self.make_log_folder(&container).await?;
        self.tasks.reopen_log(&self.namespace, &container.id).await
    }

    /// Keeps what a pod as a whole is given.
    pub async fn update_pod(
        self: &Arc<Self>,
        id: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<()> {
        let pod = self.pod(id)?;
        let turn = pod.turn(Doing::verb("what it is given is being changed")).await?;
        let pods = self.clone();
        let work = async move {
            let _turn = turn;
            pods.update_pod_turned(&pod, overhead, resources).await
        };
        self.background.spawn(work).await.unwrap_or(Err(Error::Lost { what: "changing a pod" }))
    }

    async fn update_pod_turned(
        &self,
        pod: &Pod,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<()> {
        if pod.state() == PodState::Unreadable {
            let why = "its record cannot be read by this version: stop and remove it";
            return Err(Error::precondition(format!("pod sandbox {}", pod.id), why));
        }
        pod.change(|record| {
            record.config.overhead = overhead.or(record.config.overhead.take());
            record.config.resources = resources.or(record.config.resources.take());
        });
        self.save_pod(pod).await
    }
}

/// How likely the kernel is to choose the first process, and those that it starts from now on, when memory runs short.
fn adjust_oom_score(container: &Container, resources: &Resources) -> Result<()> {
    let pid = container.read(|record| record.pid);
    let file = FirstProcess::of(pid, &container.id)?.open("oom_score_adj", OFlags::WRONLY)?;
    let score = spec::oom_score(resources).to_string();
    std::fs::File::from(file)
        .write_all(score.as_bytes())
        .map_err(|error| Error::io("writing", format!("/proc/{pid}/oom_score_adj"), error))
}

/// The specification that a container is started from: its limits may have changed since it was made, and where the pid
/// namespace is that it joins.
pub(super) fn as_it_starts(
    container: &Container,
    record: &ContainerRecord,
    processes: Option<&str>,
) -> Result<Bytes> {
    let unreadable = |source: serde_json::Error| Error::Record {
        table: "spec",
        key: container.id.clone(),
        source: source.into(),
    };
    let mut spec: Spec = serde_json::from_slice(&container.spec).map_err(unreadable)?;
    let Some(mut linux) = spec.linux().clone() else { return Ok(container.spec.clone()) };
    let devices = linux.resources().as_ref().and_then(|resources| resources.devices().clone());
    let resources = spec::resources(&record.config.resources, devices)?;
    let score = spec::oom_score(&record.config.resources);
    let same_score = spec.process().as_ref().is_none_or(|process| process.oom_score_adj() == Some(score));
    if processes.is_none() && linux.resources().as_ref() == Some(&resources) && same_score {
        return Ok(container.spec.clone());
    }
    if let Some(process) = spec.process_mut() {
        process.set_oom_score_adj(Some(score));
    }
    if let (Some(path), Some(namespaces)) = (processes, linux.namespaces_mut()) {
        let joined = namespaces.iter_mut().filter(|one| one.typ() == LinuxNamespaceType::Pid);
        joined.for_each(|one| {
            one.set_path(Some(path.into()));
        });
    }
    linux.set_resources(Some(resources));
    spec.set_linux(Some(linux));
    Ok(serde_json::to_vec(&spec).map_err(unreadable)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_back_is_written_though_there_was_no_limit_before() {
        let before = Resources { memory: 1 << 20, ..Resources::default() };
        let change = Resources {
            memory: 2 << 20,
            cpu_quota: 5000,
            huge_pages: vec![("2MB".to_owned(), 1)],
            ..Resources::default()
        };
        let back = before.instead_of(&before.changed(&change), &Map::new());
        assert_eq!((back.memory, back.cpu_quota, back.cpu_period), (1 << 20, -1, 0));
        assert_eq!(back.huge_pages, [("2MB".to_owned(), u64::MAX)]);
        assert_eq!(before.instead_of(&before, &Map::new()), before);
    }

    #[test]
    fn control_files_say_again_what_they_said() {
        let map = |pairs: &[(&str, &str)]| -> Map {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let before = Resources { unified: map(&[("memory.high", "1000")]), ..Resources::default() };
        let tried = map(&[
            ("memory.high", "2000"),
            ("memory.low", "5"),
            ("cpuset.cpus", "0"),
            ("io.max", "8:0 rbps=1"),
        ]);
        let change = Resources { unified: tried, ..Resources::default() };
        let files = map(&[
            ("memory.high", "1000\n"),
            ("memory.low", "0\n"),
            ("cpuset.cpus", "\n"),
            ("io.max", "8:16 rbps=2\n"),
        ]);
        let back = before.instead_of(&before.changed(&change), &files).unified;
        let unlimited = "8:0 rbps=max wbps=max riops=max wiops=max";
        let wanted =
            [("memory.high", "1000"), ("memory.low", "0"), ("cpuset.cpus", "\n"), ("io.max", unlimited)];
        assert_eq!(back, map(&wanted));
        let two = "default 100\n8:16 200\n";
        assert_eq!(as_before("io.weight", "300", two).as_deref(), Some("default 100"));
        assert_eq!(as_before("io.weight", "8:16 300", two).as_deref(), Some("8:16 200"));
        assert_eq!(as_before("io.weight", "8:0 300", two).as_deref(), Some("8:0 default"));
        assert_eq!(as_before("misc.max", "a 1", two), None);
    }

    #[test]
    fn what_is_not_said_stays() {
        let before =
            Resources { memory: 1 << 20, cpu_shares: 100, cpuset_cpus: "0".into(), ..Resources::default() };
        let after = before.changed(&Resources { memory: 2 << 20, ..Resources::default() });
        assert_eq!((after.memory, after.cpu_shares, after.cpuset_cpus.as_str()), (2 << 20, 100, "0"));
    }
}
