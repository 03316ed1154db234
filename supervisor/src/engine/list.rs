//! Which containers there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use super::Engine;
use super::config::{Mount, Record};
use super::filters::{Filters, ago};
use super::network::publish::{self, ShownPort};
use super::registry::Entry;
use super::state::{State, Status};
use crate::error::{Error, Result};

const FILTERS: [&str; 16] = [
    "ancestor",
    "before",
    "since",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "status",
    "volume",
    "label!",
];

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Stopped ones too.
    pub all: bool,
    pub filters: Vec<String>,
    /// Only the newest, stopped ones included; 0: no limit.
    pub last: usize,
    /// Count the bytes.
    pub size: bool,
}

/// One line of `ps`.
#[derive(Clone, Debug)]
pub struct Summary {
    pub id: String,
    pub name: String,
    pub image: String,
    pub image_id: String,
    pub command: String,
    pub created_at: Timestamp,
    pub status: Status,
    pub status_text: String,
    pub labels: BTreeMap<String, String>,
    pub network: String,
    pub mounts: Vec<Mount>,
    pub ports: Vec<ShownPort>,
    /// Bytes of the writable layer.
    pub size_rw: u64,
    /// Bytes of all layers.
    pub size_root_fs: u64,
}

impl Engine {
    /// Newest first.
    pub async fn list(&self, request: &ListRequest) -> Result<Vec<Summary>> {
        let filters = Filters::parse(&request.filters, &FILTERS)?;
        check_values(&filters)?;
        let all = request.all || request.last > 0 || filters.has("status");
        let selection = self.selection(&filters).await?;
        let now = Timestamp::now();
        let mut found: Vec<Summary> = self
            .registry
            .all()
            .iter()
            .filter(|entry| all || entry.status().is_up())
            .filter_map(|entry| {
                entry.read(|record| {
                    let networks = self.networks_of(record);
                    selection.takes(entry, record, &networks).then(|| summary(entry, record, networks, now))
                })
            })
            .collect();
        found.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        if request.last > 0 {
            found.truncate(request.last);
        }
        if request.size {
            for one in &mut found {
                self.measure(one).await;
            }
        }
        Ok(found)
    }

    /// The summary of one container.
    pub fn summary(&self, entry: &Entry) -> Summary {
        entry.read(|record| summary(entry, record, self.networks_of(record), Timestamp::now()))
    }

    async fn measure(&self, summary: &mut Summary) {
        let Ok(entry) = self.find(&summary.id) else { return };
        let Ok(snapshotter) = entry.read(|record| self.snapshotter_of(record)) else { return };
        let mut key = summary.id.clone();
        while let Ok(usage) = snapshotter.usage(&self.namespace, &key).await {
            if key == summary.id {
                summary.size_rw = usage.size;
            }
            summary.size_root_fs += usage.size;
            match snapshotter.stat(&self.namespace, &key).await {
                Ok(info) if info.parent.as_ref().is_some_and(|parent| !parent.is_empty()) => {
                    key = info.parent.unwrap_or_default();
                }
                _ => break,
            }
        }
    }

    async fn selection<'a>(&self, filters: &'a Filters) -> Result<Selection<'a>> {
        let created = |text: &String| self.find(text).map(|entry| entry.read(|record| record.created_at));
        let moments = |key: &str| filters.values(key).iter().map(created).collect::<Result<Vec<_>>>();
        let mut ancestors = HashMap::new();
        for text in filters.values("ancestor") {
            let id = match self.find_image(text).await {
                Ok((image, _)) => {
                    self.open_image(&image, "").await.ok().map(|local| local.id.as_str().to_owned())
                }
                Err(_) => None,
            };
            ancestors.insert(text.as_str(), id);
        }
        let mut names = Vec::new();
        for text in filters.values("name") {
            let pattern = regex::RegexBuilder::new(text).size_limit(1 << 20).build();
            names.push(pattern.map_err(|error| {
                Error::invalid(format!("invalid filter 'name={text}'"), error.to_string())
            })?);
        }
        let mut exited = Vec::new();
        for text in filters.values("exited") {
            let code = text.parse::<u32>();
            exited.push(code.map_err(|_| {
                Error::invalid(format!("invalid filter 'exited={text}'"), "must be an exit code")
            })?);
        }
        Ok(Selection {
            filters,
            before: moments("before")?,
            since: moments("since")?,
            ancestors,
            names,
            exited,
            networks: filters
                .values("network")
                .iter()
                .filter_map(|text| Some((text.as_str(), self.networks.find(text).ok()?.name.clone())))
                .collect(),
        })
    }
}

struct Selection<'a> {
    filters: &'a Filters,
    before: Vec<Timestamp>,
    since: Vec<Timestamp>,
    ancestors: HashMap<&'a str, Option<String>>,
    names: Vec<regex::Regex>,
    exited: Vec<u32>,
    /// What a filter's text says → name of the network.
    networks: HashMap<&'a str, String>,
}

impl Selection<'_> {
    fn takes(&self, entry: &Entry, record: &Record, networks: &[String]) -> bool {
        let filters = self.filters;
        let state = &record.state;
        self.before.iter().all(|moment| record.created_at < *moment)
            && self.since.iter().all(|moment| record.created_at > *moment)
            && (self.names.is_empty()
                || self
                    .names
                    .iter()
                    .any(|name| name.is_match(&record.name) || name.is_match(&format!("/{}", record.name))))
            && (self.exited.is_empty()
                || (state.status == Status::Exited && self.exited.contains(&state.exit_code)))
            && filters.any("id", |id| entry.id.starts_with(id))
            && filters.any("status", |status| state.status.as_str() == status)
            && filters.any("network", |text| {
                networks.iter().any(|name| self.networks.get(text).map_or(text, String::as_str) == name)
            })
            && filters.any("volume", |volume| {
                record.mounts().iter().any(|mount| mount.source == volume || mount.target == volume)
            })
            && filters.any("health", |health| {
                health == state.health.as_ref().map_or("none", |health| health.status.as_str())
            })
            && filters.any("ancestor", |image| {
                record.config.image == image
                    || self
                        .ancestors
                        .get(image)
                        .is_some_and(|id| id.as_deref() == Some(record.image_id.as_str()))
            })
            && filters.any("publish", |text| publish::filter_takes(text, publish::host_ports(&state.ports)))
            && filters.any("expose", |text| publish::filter_takes(text, publish::exposed(record).into_iter()))
            && filters.any("is-task", |task| task == "false")
            && filters.any("isolation", |isolation| isolation == "default")
            && filters.labels(|key| record.config.labels.get(key))
    }
}

/// Refuses what no container could have.
fn check_values(filters: &Filters) -> Result<()> {
    const STATUSES: [&str; 7] = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];
    const HEALTHS: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];
    if let Some(status) = filters.values("status").iter().find(|one| !STATUSES.contains(&one.as_str())) {
        return Err(Error::invalid(
            format!("invalid filter 'status={status}'"),
            format!("use {}", STATUSES.join(", ")),
        ));
    }
    if let Some(health) = filters.values("health").iter().find(|one| !HEALTHS.contains(&one.as_str())) {
        return Err(Error::invalid(
            format!("Unrecognised filter value for health: {health}"),
            format!("use {}", HEALTHS.join(", ")),
        ));
    }
    for key in ["publish", "expose"] {
        if let Some(text) = filters.values(key).iter().find(|text| !publish::is_filter(text)) {
            return Err(Error::invalid(
                format!("error while looking up for {key} {text}"),
                "write a port or a range of ports, as in 80, 53/udp or 8000-8080/tcp",
            ));
        }
    }
    Ok(())
}

fn summary(entry: &Entry, record: &Record, networks: Vec<String>, now: Timestamp) -> Summary {
    Summary {
        id: entry.id.clone(),
        name: record.name.clone(),
        image: record.config.image.clone(),
        image_id: record.image_id.clone(),
        command: record.command(),
        created_at: record.created_at,
        status: record.state.status,
        status_text: status_text(&record.state, now),
        labels: record.config.labels.clone(),
        network: networks.join(","),
        mounts: record.mounts().to_vec(),
        ports: if record.state.status.is_live() { publish::shown(record) } else { Vec::new() },
        size_rw: 0,
        size_root_fs: 0,
    }
}

/// `Up 3 minutes`, `Exited (0) 2 hours ago`.
pub fn status_text(state: &State, now: Timestamp) -> String {
    let since = |moment: Option<Timestamp>| ago(moment.unwrap_or(now), now);
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => match &state.health {
            Some(health) => format!("Up {} ({})", since(state.started_at), health.status.in_brackets()),
            None => format!("Up {}", since(state.started_at)),
        },
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, since(state.finished_at)),
        Status::Paused => format!("Up {} (Paused)", since(state.started_at)),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, since(state.finished_at)),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
    }
}

/// Sorts containers by age, newest first.
pub fn newest_first(entries: &mut [Arc<Entry>]) {
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.read(|record| record.created_at)));
}
