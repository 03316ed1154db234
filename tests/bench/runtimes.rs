//! The rows of bare OCI runtimes: `longshore-runtime` against crun and runc, all in the same view of the host, as crun 1.8
//! refuses hosts with both cgroup versions.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::arena::{self, Arena};
use crate::contestants::oci::Runtime;
use crate::measure::median;
use crate::options::Options;
use crate::report::Report;
use crate::rows::order;
use crate::shim::ShimPath;

/// Rounds before those that count.
const WARM_UP: usize = 2;
/// Pause before a measurement, so that what the one before left to the kernel is not this one's.
const SETTLE: Duration = Duration::from_millis(30);
/// Memory limits that are tried, in KiB; a limit holds if the program runs twice in a row.
const LIMITS_KIB: [u64; 16] =
    [128, 192, 256, 320, 384, 448, 512, 640, 768, 1024, 1536, 2048, 3072, 4096, 6144, 12288];

/// Measures everything. A peer that fails is named in the report and left out; a failure of ours is the outcome.
pub fn run(options: &Options, arena: &Arena, report: &mut Report) -> Result<()> {
    let mut all = vec![Runtime::longshore(arena).context("longshore-runtime")?];
    for (name, make) in [("crun", Runtime::crun as fn(&Arena) -> Result<Runtime>), ("runc", Runtime::runc_v1)]
    {
        match make(arena).and_then(|peer| peer.can_run().map(|()| peer)) {
            Ok(peer) if options.wants(name) => all.push(peer),
            Ok(_) => {}
            Err(why) => report.missing(name, "bare runtime", format!("{why:#}")),
        }
    }
    let run = |index: usize, round: usize| {
        let runtime: &Runtime = &all[index];
        runtime.time(runtime.run_call(&format!("r{round}")))
    };
    let names: Vec<&str> = all.iter().map(Runtime::label).collect();
    interleaved(options, &names, "longshore-runtime: run true", run, report)?;
    through_a_shim(options, arena, &all, report)?;
    let sleepers = all.iter().map(|runtime| runtime.sleeper("e")).collect::<Result<Vec<_>>>();
    let outcome = sleepers.and_then(|_| {
        let exec = |index: usize, _: usize| {
            let runtime: &Runtime = &all[index];
            runtime.time(runtime.exec_call("e"))
        };
        interleaved(options, &names, "longshore-runtime: exec true", exec, report)
    });
    all.iter().for_each(|runtime| runtime.end_sleeper("e"));
    outcome?;
    smallest_limits(&all, report)
}

/// The same container through a shim that runs already, beside `run` of everybody.
fn through_a_shim(options: &Options, arena: &Arena, all: &[Runtime], report: &mut Report) -> Result<()> {
    let bundle = all.first().context("no runtime")?.bundle_of_true();
    let shim = ShimPath::new(arena, &bundle).context("the path through the shim")?;
    let names: Vec<&str> = std::iter::once("shim").chain(all.iter().map(Runtime::label)).collect();
    let measure = |index: usize, round: usize| match index.checked_sub(1) {
        None => shim.run(&format!("s{round}")),
        Some(index) => all[index].time(all[index].run_call(&format!("t{round}"))),
    };
    interleaved(options, &names, "warm shim: create, start, wait, delete true", measure, report)
}

/// Everybody in turn, in a shuffled order; medians in milliseconds. The first is ours.
fn interleaved(
    options: &Options,
    all: &[&str],
    name: &str,
    measure: impl Fn(usize, usize) -> Result<Duration>,
    report: &mut Report,
) -> Result<()> {
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); all.len()];
    let mut seed = 0x2545_f491_4f6c_dd1d;
    for round in 0..options.rounds + WARM_UP {
        for index in order(all.len(), &mut seed) {
            if arena::stopping() {
                return Ok(());
            }
            std::thread::sleep(SETTLE);
            let taken = measure(index, round)?;
            if round >= WARM_UP {
                samples[index].push(taken.as_secs_f64() * 1000.0);
            }
        }
    }
    let medians: Vec<f64> = samples.iter().filter_map(|values| median(values)).collect();
    let Some((ours, peers)) = medians.split_first() else { return Ok(()) };
    for (peer, theirs) in all[1..].iter().zip(peers) {
        report.compare(name, "ms", *ours, peer, *theirs);
    }
    Ok(())
}

/// The smallest memory limit with which `true` runs.
fn smallest_limits(all: &[Runtime], report: &mut Report) -> Result<()> {
    let name = "longshore-runtime: smallest memory limit that starts true";
    let mut found = Vec::new();
    for runtime in all {
        let mut smallest = None;
        for limit in LIMITS_KIB.into_iter().rev() {
            if arena::stopping()
                || (0..2).any(|try_| runtime.run_limited(limit, &format!("l{limit}-{try_}")).is_err())
            {
                break;
            }
            smallest = Some(limit as f64);
        }
        found.push(smallest);
    }
    let ours =
        found.first().copied().flatten().context("no memory limit starts true under longshore-runtime")?;
    for (peer, theirs) in all[1..].iter().zip(&found[1..]) {
        match theirs {
            Some(theirs) => report.compare(name, "KiB", ours, peer.label(), *theirs),
            None => report.missing(peer.label(), name, "none of those tried"),
        }
    }
    Ok(())
}
