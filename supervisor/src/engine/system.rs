//! The daemon and its host, and what happens in it.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::Engine;
use super::filters::Filters;
use super::history::Event;
use super::state::Status;
use crate::error::{Error, Result};

/// What `info` shows.
#[derive(Clone, Debug, Default)]
pub struct Info {
    pub containers: u32,
    pub running: u32,
    pub paused: u32,
    pub stopped: u32,
    pub images: u32,
    pub snapshotter: String,
    pub cgroups: &'static str,
    pub kernel: String,
    pub operating_system: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub name: String,
    pub root: String,
    pub state: String,
    pub insecure_registries: Vec<String>,
    pub mirrors: Vec<String>,
    pub warnings: Vec<String>,
    /// Names this installation.
    pub id: String,
    pub os_version: String,
    pub runtimes: Vec<String>,
    pub logging_driver: &'static str,
    pub log_drivers: Vec<String>,
    pub security_options: Vec<String>,
    /// About the file system below the snapshotter.
    pub driver_status: Vec<(&'static str, String)>,
    pub ipv4_forwarding: bool,
    pub swap_limit: bool,
}

impl Engine {
    pub async fn info(&self) -> Result<Info> {
        let images = self.image_groups().await?.len();
        let mut runtimes: Vec<String> = self.config.runtime.runtimes.keys().cloned().collect();
        runtimes
            .extend((!runtimes.iter().any(|name| name == super::RUNTIME)).then(|| super::RUNTIME.to_owned()));
        runtimes.sort();
        let mut info = Info {
            snapshotter: self.snapshotter()?.name().to_owned(),
            cgroups: cgroups(),
            kernel: kernel(),
            operating_system: operating_system(),
            cpus: std::thread::available_parallelism()
                .map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            memory_bytes: host_memory(),
            name: read_line("/proc/sys/kernel/hostname"),
            root: self.config.root.display().to_string(),
            state: self.config.state.display().to_string(),
            insecure_registries: self.config.registry.insecure.clone(),
            warnings: warnings().into_iter().chain(self.db.rebuilt().map(rebuilt)).collect(),
            images: u32::try_from(images).unwrap_or(u32::MAX),
            mirrors: self.config.registry.mirrors.get("docker.io").cloned().unwrap_or_default(),
            id: self.uuid.to_string(),
            os_version: of_os_release("VERSION_ID").unwrap_or_default(),
            runtimes,
            logging_driver: "json-file",
            log_drivers: vec!["json-file".to_owned()],
            security_options: vec!["name=seccomp,profile=builtin".to_owned()],
            driver_status: file_system(&self.config.root)
                .map(|name| ("Backing Filesystem", name))
                .into_iter()
                .collect(),
            ipv4_forwarding: read_line("/proc/sys/net/ipv4/ip_forward") == "1",
            swap_limit: covers_swap(),
            ..Info::default()
        };
        for entry in self.registry.all() {
            info.containers += 1;
            match entry.status() {
                Status::Running => info.running += 1,
                Status::Paused => info.paused += 1,
                _ => info.stopped += 1,
            }
        }
        Ok(info)
    }

    /// Events since a moment that the filters select, and those to come.
    pub fn listen(&self, since: Option<Timestamp>, filters: &[String]) -> Result<Listener> {
        let filters = Filters::parse(
            filters,
            &["container", "image", "label", "type", "event", "daemon", "network", "volume", "scope"],
        )?;
        let (past, coming) = self.history.listen(since);
        let past = past.into_iter().filter(|event| selects(&filters, event)).collect();
        Ok(Listener { past, coming, filters })
    }
}

/// A listener's end.
pub struct Listener {
    pub past: Vec<Arc<Event>>,
    coming: broadcast::Receiver<Arc<Event>>,
    filters: Filters,
}

impl Listener {
    /// The next event; an error if this listener was too slow and missed some.
    pub async fn next(&mut self) -> Result<Arc<Event>> {
        loop {
            match self.coming.recv().await {
                Ok(event) if selects(&self.filters, &event) => return Ok(event),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    return Err(Error::ResourceExhausted {
                        what: format!("{missed} events were not read in time"),
                        limit: "waiting events of one listener",
                        max: super::history::KEPT as u64,
                    });
                }
                Err(broadcast::error::RecvError::Closed) => {
                    return Err(Error::Lost { what: "the event history" });
                }
            }
        }
    }
}

fn selects(filters: &Filters, event: &Event) -> bool {
    let name = event.attributes.get("name").map_or("", String::as_str);
    let image = event.attributes.get("image").map_or("", String::as_str);
    let is_container = event.subject == super::history::Subject::Container;
    let is_volume = event.subject == super::history::Subject::Volume;
    filters.any("type", |kind| kind == event.subject.as_str())
        && filters.any("event", |action| is_action(action, &event.action))
        && filters.any("container", |text| {
            is_container && (event.actor.starts_with(text) || name == text.trim_start_matches('/'))
        })
        && filters.any("image", |text| {
            let own = if is_container { image } else { name };
            own == text || event.actor == text || own.split(':').next() == Some(text)
        })
        && filters.labels(|key| event.attributes.get(key))
        && filters.any("network", |text| {
            event.subject == super::history::Subject::Network
                && (event.actor.starts_with(text) || name == text)
        })
        && filters.any("volume", |text| is_volume && event.actor == text)
        && !filters.has("daemon")
}

/// `exec_create`, `exec_start` and `health_status` stand for all actions that begin so.
fn is_action(wanted: &str, action: &str) -> bool {
    let kinds = ["exec_create", "exec_start", "health_status"];
    wanted == action
        || (kinds.contains(&wanted) && action.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(':')))
}

fn cgroups() -> &'static str {
    match longshore_runtime::cgroups::mode() {
        longshore_runtime::cgroups::Mode::V1 => "v1",
        longshore_runtime::cgroups::Mode::V2 => "v2",
        longshore_runtime::cgroups::Mode::Hybrid => "hybrid",
    }
}

/// The kernel's release.
pub fn kernel() -> String {
    read_line("/proc/sys/kernel/osrelease")
}

/// Bytes of the host's memory.
pub fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

fn operating_system() -> String {
    of_os_release("PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned())
}

fn of_os_release(key: &str) -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim_matches('"').to_owned())
}

/// The type of the file system that a folder is on, by the longest mount point above it.
fn file_system(folder: &std::path::Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let text = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = text.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let point = crate::mounts::table::path(place.split(' ').nth(4)?);
        Some((point, kind.split(' ').next()?.to_owned()))
    });
    mounts
        .filter(|(point, _)| folder.starts_with(point))
        .max_by_key(|(point, _)| point.as_os_str().len())
        .map(|(_, kind)| kind)
}

fn covers_swap() -> bool {
    use std::path::Path;
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
        || Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
}

fn read_line(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn rebuilt(mark: std::path::PathBuf) -> String {
    format!(
        "the metadata store was rebuilt from an older export: what no record knows of is kept, and nothing starts by itself, \
         until {} is removed and longshored started again",
        mark.display()
    )
}

/// What this host lacks and longshore does without.
fn warnings() -> Vec<String> {
    let mut warnings = Vec::new();
    if !covers_swap() {
        warnings.push("No swap limit support: memory limits do not cover swap".to_owned());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(u64::MAX);
    // CAP_SYS_RESOURCE has number 24.
    if bounding & (1 << 24) == 0 {
        warnings.push(
            "CAP_SYS_RESOURCE is missing: limits cannot be raised over the host's, nor OOM scores lowered"
                .to_owned(),
        );
    }
    if read_line("/sys/module/apparmor/parameters/enabled") == "Y" {
        warnings.push(
            "containers have no AppArmor profile of their own: name a loaded one by --security-opt apparmor=PROFILE"
                .to_owned(),
        );
    }
    warnings
}
