//! The rows of the table: what is measured, in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::api;
use crate::arena::{self, Arena};
use crate::contestants::{self, Companions, Contestant, Longshore, Network, group};
use crate::measure::{Call, median};
use crate::memory::{self, Memory};
use crate::network;
use crate::options::Options;
use crate::payload;
use crate::pods;
use crate::report::Report;
use crate::runtimes;

/// Containers that are started at one time.
const AT_ONCE: usize = 8;
/// Rounds of parallel starts.
const START_ROUNDS: usize = 3;
/// Rounds before those that count.
const WARM_UP: usize = 2;

/// Pause before a measurement.
const SETTLE: Duration = Duration::from_millis(30);

/// Measurements by contestant, in the order of the contestants.
type Samples = Vec<Vec<f64>>;

/// Measures everything. A peer that fails is named in the report and left out; a failure of ours is the outcome.
pub fn run(options: &Options, arena: &Arena, report: &mut Report) -> Result<()> {
    let mut pods_outcome = Ok(());
    if options.wants_row("pods") && options.pods > 0 {
        pods_outcome = pods::run(options, arena, report);
        if options.rows == ["pods"] {
            return pods_outcome;
        }
    }
    let ours = Longshore::new(arena).context("longshore")?;
    let network = match options.wants_row("network") {
        true => network::run(options, &ours, report),
        false => Ok(()),
    };
    let mut all: Vec<Box<dyn Contestant>> = vec![Box::new(ours)];
    all.extend(contestants::peers(options, arena, report));
    let mut outcome = pods_outcome.and(network).and(rows(options, &mut all, report));
    if options.wants_row("runtime") {
        outcome = outcome.and(runtimes::run(options, arena, report));
    }
    all.iter_mut().for_each(|contestant| contestant.end());
    outcome
}

fn rows(options: &Options, all: &mut [Box<dyn Contestant>], report: &mut Report) -> Result<()> {
    let mut outcome = Ok(());
    if options.wants_row("memory") {
        outcome = outcome.and(idle_daemons(all, report));
    }
    if options.wants_row("run") {
        outcome = outcome.and(run_true(options, all, report));
    }
    if options.wants_row("api") {
        outcome = outcome.and(api::run(options, all, report));
    }
    if options.wants_row("start") && options.starts > 0 {
        outcome = outcome.and(parallel_starts(options, all, report));
    }
    if options.wants_row("memory") && options.idle > 0 {
        outcome = outcome.and(idle_containers(options, all, report));
    }
    if options.wants_row("pull") && options.pull_mib > 0 {
        outcome = outcome.and(pulls(options, all, report));
    }
    outcome
}

/// Daemons that were just started and have pulled one image.
fn idle_daemons(all: &[Box<dyn Contestant>], report: &mut Report) -> Result<()> {
    std::thread::sleep(Duration::from_secs(1));
    let mut figures = Vec::new();
    for contestant in all.iter().filter(|contestant| contestant.has_daemon()) {
        let (daemons, _) = split(&**contestant, &[]);
        figures.push((contestant.name(), Memory::sum(&daemons)));
    }
    let Some(((_, ours), peers)) = figures.split_first() else { return Ok(()) };
    for (peer, theirs) in peers {
        report.compare("idle daemon, resident", "MiB", ours.rss / 1024.0, peer, theirs.rss / 1024.0);
    }
    if peers.is_empty() {
        report.alone("idle daemon, resident", "MiB", ours.rss / 1024.0);
    }
    Ok(())
}

/// A contestant's daemons, and the companions of its containers. Processes inside containers are neither.
fn split(contestant: &dyn Contestant, cgroups: &[String]) -> (Vec<i32>, Vec<i32>) {
    let inside: BTreeSet<i32> = cgroups.iter().flat_map(|cgroup| memory::in_cgroups(cgroup)).collect();
    let all = memory::processes(contestant.name(), &[]);
    let outside = all.into_iter().filter(|pid| !inside.contains(pid));
    let kind = contestant.companions();
    outside.partition(|pid| match kind {
        Companions::None => true,
        Companions::Named(name) => !memory::name(*pid).starts_with(name),
        Companions::AllBut(daemon) => *pid == daemon,
    })
}

/// A shuffled order, so that nobody always comes after the same one and pays for its cleaning up.
pub fn order(count: usize, seed: &mut u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        order.swap(last, (*seed % (last as u64 + 1)) as usize);
    }
    order
}

/// Runs of `true`, one after the other, everybody in turn.
fn run_true(options: &Options, all: &mut [Box<dyn Contestant>], report: &mut Report) -> Result<()> {
    let mut samples: BTreeMap<&str, Samples> = BTreeMap::new();
    let kinds = [("run true, no network", Network::None), ("run true, default network", Network::Default)];
    let mut out: BTreeMap<(&str, usize), String> = BTreeMap::new();
    let mut seed = 0x2545_f491_4f6c_dd1d;
    for round in 0..options.rounds + WARM_UP {
        for (name, network) in kinds {
            let samples = samples.entry(name).or_insert_with(|| vec![Vec::new(); all.len()]);
            for index in order(all.len(), &mut seed) {
                let contestant = &all[index];
                if out.contains_key(&(name, index)) || arena::stopping() {
                    continue;
                }
                let id = format!("{}-r{round}", group(contestant.name()).replace(' ', "-"));
                let Some(call) = contestant.run(network, &id) else { continue };
                // What the one before left to the kernel (namespaces, cgroups) is not this one's.
                std::thread::sleep(SETTLE);
                match contestant.place().run(move || call.time())? {
                    Ok(taken) if round >= WARM_UP => samples[index].push(taken.as_secs_f64() * 1000.0),
                    Ok(_) => {}
                    Err(why) => drop(out.insert((name, index), format!("{why:#}"))),
                }
            }
        }
    }
    for ((name, index), why) in &out {
        report.missing(all[*index].name(), name, why);
    }
    for (name, _) in kinds {
        let samples = samples.remove(name).unwrap_or_default();
        compare(report, name, "ms", all, &samples)?;
    }
    Ok(())
}

/// One row per peer; ours must be there.
fn compare(
    report: &mut Report,
    name: &str,
    unit: &'static str,
    all: &[Box<dyn Contestant>],
    samples: &Samples,
) -> Result<()> {
    let ours = samples
        .first()
        .and_then(|values| median(values))
        .with_context(|| format!("{name}: nothing of ours"))?;
    let mut peers = 0;
    for (contestant, values) in all.iter().zip(samples).skip(1) {
        if let Some(theirs) = median(values) {
            report.compare(name, unit, ours, contestant.name(), theirs);
            peers += 1;
        }
    }
    if peers == 0 {
        report.alone(name, unit, ours);
    }
    Ok(())
}

/// So many containers started, some at one time.
fn parallel_starts(options: &Options, all: &mut [Box<dyn Contestant>], report: &mut Report) -> Result<()> {
    let name = format!("start {}, {AT_ONCE} at a time", options.starts);
    let mut samples: Samples = vec![Vec::new(); all.len()];
    let mut out = BTreeMap::new();
    for round in 0..START_ROUNDS {
        for (index, contestant) in all.iter().enumerate() {
            if out.contains_key(&index) || arena::stopping() {
                continue;
            }
            let ids = ids(&**contestant, &format!("s{round}"), options.starts);
            match start_all(&**contestant, &ids) {
                Ok(Some(taken)) => samples[index].push(options.starts as f64 / taken.as_secs_f64()),
                Ok(None) => {}
                Err(why) => drop(out.insert(index, format!("{why:#}"))),
            }
            remove_all(&**contestant, &ids, report);
        }
    }
    for (index, why) in &out {
        report.missing(all[*index].name(), &name, why);
    }
    compare(report, &name, "1/s", all, &samples)
}

fn ids(contestant: &dyn Contestant, what: &str, count: usize) -> Vec<String> {
    let group = group(contestant.name()).replace(' ', "-");
    (0..count).map(|number| format!("{group}-{what}-{number}")).collect()
}

/// Starts containers that sleep; how long that took, `None` if the contestant cannot.
fn start_all(contestant: &dyn Contestant, ids: &[String]) -> Result<Option<Duration>> {
    let calls: Option<Vec<Call>> = ids.iter().map(|id| contestant.start(id)).collect();
    let Some(calls) = calls else { return Ok(None) };
    contestant.place().run(move || {
        let next = AtomicUsize::new(0);
        let start = Instant::now();
        let failures: Vec<anyhow::Error> = std::thread::scope(|scope| {
            let work = || {
                while let Some(call) = calls.get(next.fetch_add(1, Ordering::Relaxed)) {
                    call.time()?;
                }
                Ok(())
            };
            let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .filter_map(|t| t.join().unwrap_or_else(|_| Err(anyhow!("a thread ended"))).err())
                .collect()
        });
        match failures.into_iter().next() {
            Some(failure) => Err(failure),
            None => Ok(Some(start.elapsed())),
        }
    })?
}

fn remove_all(contestant: &dyn Contestant, ids: &[String], report: &mut Report) {
    for call in contestant.remove(ids) {
        let outcome = contestant.place().run(move || call.time());
        if let Err(why) = outcome.and_then(|taken| taken) {
            report.missing(contestant.name(), "removing containers", format!("{why:#}"));
        }
    }
}

/// Memory of containers that only sleep.
fn idle_containers(options: &Options, all: &mut [Box<dyn Contestant>], report: &mut Report) -> Result<()> {
    // Pages of a program that was just built count as dirty until they are written back.
    nix::unistd::sync();
    let mut figures = Vec::new();
    for contestant in all.iter().filter(|contestant| contestant.companions() != Companions::None) {
        if arena::stopping() {
            break;
        }
        let ids = ids(&**contestant, "m", options.idle);
        let cgroups = [group(contestant.name())];
        let before = Memory::sum(&memory::processes(contestant.name(), &cgroups));
        let outcome = start_all(&**contestant, &ids);
        if let Ok(Some(_)) = outcome {
            std::thread::sleep(Duration::from_secs(2));
            figures.push((contestant.name(), Idle::measure(&**contestant, &cgroups, before, options.idle)));
        } else if let Err(why) = outcome {
            report.missing(contestant.name(), "idle containers", format!("{why:#}"));
        }
        remove_all(&**contestant, &ids, report);
    }
    let ours = figures.iter().find(|(name, _)| *name == "longshore").map(|(_, idle)| idle);
    let ours = ours.context("idle containers: nothing of ours")?;
    let peers = || figures.iter().filter(|(name, _)| *name != "longshore");
    let count = options.idle;
    type Figure = fn(&Idle) -> f64;
    let rows: [(String, &'static str, Figure); 4] = [
        ("memory per idle container, everything".to_owned(), "MiB", |idle| idle.everything / 1024.0),
        (format!("daemon with {count} idle containers, resident"), "MiB", |idle| idle.daemon / 1024.0),
        ("shim per idle container, PSS (median)".to_owned(), "KiB", |idle| idle.companion_pss),
        ("shim per idle container, Private_Dirty (median)".to_owned(), "KiB", |idle| idle.companion_dirty),
    ];
    for (name, unit, figure) in rows {
        let mut compared = false;
        for (peer, theirs) in peers().filter(|(_, theirs)| figure(theirs) > 0.0) {
            report.compare(&name, unit, figure(ours), peer, figure(theirs));
            compared = true;
        }
        if !compared {
            report.alone(&name, unit, figure(ours));
        }
    }
    report.alone("shim per idle container, PSS (largest)", "KiB", ours.companion_pss_max);
    report.alone("shim per idle container, Private_Dirty (largest)", "KiB", ours.companion_dirty_max);
    Ok(())
}

/// In KiB.
struct Idle {
    /// Growth of the proportional memory of all processes, per container.
    everything: f64,
    daemon: f64,
    companion_pss: f64,
    companion_dirty: f64,
    companion_pss_max: f64,
    companion_dirty_max: f64,
}

impl Idle {
    fn measure(contestant: &dyn Contestant, cgroups: &[String], before: Memory, count: usize) -> Self {
        let all = memory::processes(contestant.name(), cgroups);
        let (daemons, companions) = split(contestant, cgroups);
        let companions: Vec<Memory> = companions.into_iter().map(Memory::of).collect();
        let pss: Vec<f64> = companions.iter().map(|memory| memory.pss).collect();
        let dirty: Vec<f64> = companions.iter().map(|memory| memory.private_dirty).collect();
        let largest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        Self {
            everything: (Memory::sum(&all).pss - before.pss) / count as f64,
            daemon: Memory::sum(&daemons).rss,
            companion_pss: median(&pss).unwrap_or(0.0),
            companion_dirty: median(&dirty).unwrap_or(0.0),
            companion_pss_max: largest(&pss),
            companion_dirty_max: largest(&dirty),
        }
    }
}

/// The large image, pulled by daemons that have nothing.
fn pulls(options: &Options, all: &mut [Box<dyn Contestant>], report: &mut Report) -> Result<()> {
    eprintln!("making an image of {} MiB", options.pull_mib);
    let large = payload::image(options.pull_mib)?;
    let name = format!("pull and unpack {:.0} MiB of gzip", payload::size(&large));
    let mut samples: Samples = vec![Vec::new(); all.len()];
    let mut out = BTreeMap::new();
    for contestant in all.iter() {
        if let Some(registry) = contestant.registry() {
            registry.put("bench/large", "latest", &large);
        }
    }
    for _ in 0..options.pulls {
        for (index, contestant) in all.iter_mut().enumerate() {
            if out.contains_key(&index) || arena::stopping() {
                continue;
            }
            let Some(call) = contestant.pull() else { continue };
            let outcome = contestant.restart().and_then(|()| contestant.place().run(move || call.time())?);
            match outcome {
                Ok(taken) => samples[index].push(taken.as_secs_f64()),
                Err(why) => drop(out.insert(index, format!("{why:#}"))),
            }
            // The next one gets the memory.
            if let Err(why) = contestant.restart() {
                out.insert(index, format!("{why:#}"));
            }
        }
    }
    for (index, why) in &out {
        report.missing(all[*index].name(), &name, why);
    }
    compare(report, &name, "s", all, &samples)
}
