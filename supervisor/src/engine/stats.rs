//! What containers use, read from their cgroups and from their first process's network counters.

use std::collections::HashMap;
use std::sync::Arc;

use super::Engine;
use super::process::FirstProcess;
use super::registry::Entry;
use super::system::host_memory;
use crate::content::store::blocking;
use crate::error::{Error, Result};
use longshore_runtime::cgroups::{CgroupPaths, Mode};

/// One container's use at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    pub id: String,
    pub name: String,
    /// Percent of one CPU since the sample before.
    pub cpu_percent: f64,
    pub cpu_nanos: u64,
    pub memory_bytes: u64,
    /// The limit, or the host's memory.
    pub memory_limit: u64,
    pub net_rx: u64,
    pub net_tx: u64,
    pub block_read: u64,
    pub block_write: u64,
    pub pids: u64,
}

/// What was seen before, to tell rates.
#[derive(Default)]
pub struct Before {
    cpu: HashMap<String, (std::time::Instant, u64)>,
}

impl Engine {
    /// The containers that are asked for: all that run, or with `all` every one.
    pub fn stats_targets(&self, names: &[String], all: bool) -> Result<Vec<Arc<Entry>>> {
        if !names.is_empty() {
            return names.iter().map(|name| self.find(name)).collect();
        }
        let mut entries = self.registry.all();
        entries.retain(|entry| all || entry.status().is_up());
        super::list::newest_first(&mut entries);
        Ok(entries)
    }

    /// One sample of each; one that does not run uses nothing.
    pub async fn sample(&self, entries: Vec<Arc<Entry>>, before: Before) -> Result<(Vec<Sample>, Before)> {
        let parent = self.config.runtime.cgroup_parent.clone();
        blocking(move || Ok(sample_all(&entries, before, &parent))).await
    }
}

fn sample_all(entries: &[Arc<Entry>], mut before: Before, parent: &str) -> (Vec<Sample>, Before) {
    let mut samples = Vec::with_capacity(entries.len());
    for entry in entries {
        let state = entry.state();
        let mut sample = Sample { id: entry.id.clone(), name: entry.name(), ..Sample::default() };
        if state.status.is_live() {
            let parent = entry.read(|record| super::spec::cgroup_parent(&record.config, parent).to_owned());
            match fill(&mut sample, &parent, state.pid) {
                Ok(()) => {}
                // It may have ended just now.
                Err(error) => tracing::debug!(container = %entry.id, %error, "no statistics"),
            }
        }
        let now = std::time::Instant::now();
        if let Some((then, nanos)) = before.cpu.insert(entry.id.clone(), (now, sample.cpu_nanos)) {
            let elapsed = now.duration_since(then).as_secs_f64().max(1e-3);
            let used = sample.cpu_nanos.saturating_sub(nanos);
            #[allow(clippy::cast_precision_loss)]
            let used = used as f64 / 1e9;
            sample.cpu_percent = used / elapsed * 100.0;
        }
        samples.push(sample);
    }
    (samples, before)
}

fn fill(sample: &mut Sample, parent: &str, pid: u32) -> Result<()> {
    let stats =
        CgroupPaths::open(&format!("{parent}/{}", sample.id)).and_then(|cgroups| cgroups.stats()).map_err(
            |error| Error::unavailable(format!("statistics of container {}", sample.id), error.to_string()),
        )?;
    sample.cpu_nanos = stats.cpu.as_ref().map_or(0, |cpu| cpu.total);
    sample.pids = stats.pids.as_ref().map_or(0, |pids| pids.current);
    let host = host_memory();
    sample.memory_limit = host;
    if let Some(memory) = &stats.memory {
        let inactive = match stats.mode {
            Mode::V2 => "inactive_file",
            Mode::V1 | Mode::Hybrid => "total_inactive_file",
        };
        // Pages of files that were not used lately can be had back at once; docker does not count them.
        sample.memory_bytes = memory.usage.usage.saturating_sub(memory.get(inactive));
        sample.memory_limit = memory.usage.limit.min(host);
    }
    for entry in &stats.blkio.io_service_bytes {
        match entry.op.to_ascii_lowercase().as_str() {
            "read" => sample.block_read += entry.value,
            "write" => sample.block_write += entry.value,
            _ => {}
        }
    }
    (sample.net_rx, sample.net_tx) = network(&FirstProcess::of(pid, &sample.id)?.read("net/dev")?);
    Ok(())
}

/// Bytes over all interfaces of the process's network namespace but loopback.
fn network(text: &str) -> (u64, u64) {
    let (mut received, mut sent) = (0_u64, 0_u64);
    for line in text.lines().skip(2) {
        let Some((name, counters)) = line.split_once(':') else { continue };
        if name.trim() == "lo" {
            continue;
        }
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        received += counters.first().copied().unwrap_or(0);
        sent += counters.get(8).copied().unwrap_or(0);
    }
    (received, sent)
}
