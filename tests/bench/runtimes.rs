//! The rows of bare OCI runtimes: `longshore-runtime` against crun and runc, all in the same view of the host, as crun 1.8
//! refuses hosts with both cgroup versions.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::arena::{self, Arena};
use crate::contestants::oci::Runtime;
use crate::measure::{Call, median};
use crate::options::Options;
use crate::report::Report;
use crate::rows::order;

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
    let run = |runtime: &Runtime, round: usize| runtime.run_call(&format!("r{round}"));
    interleaved(options, &all, "longshore-runtime: run true", run, report)?;
    let sleepers = all.iter().map(|runtime| runtime.sleeper("e")).collect::<Result<Vec<_>>>();
    let outcome = sleepers.and_then(|_| {
        let exec = |runtime: &Runtime, _: usize| runtime.exec_call("e");
        interleaved(options, &all, "longshore-runtime: exec true", exec, report)
    });
    all.iter().for_each(|runtime| runtime.end_sleeper("e"));
    outcome?;
    smallest_limits(&all, report)
}

/// Everybody in turn, in a shuffled order; medians in milliseconds.
fn interleaved(
    options: &Options,
    all: &[Runtime],
    name: &str,
    call: impl Fn(&Runtime, usize) -> Call,
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
            let taken = all[index].time(call(&all[index], round))?;
            if round >= WARM_UP {
                samples[index].push(taken.as_secs_f64() * 1000.0);
            }
        }
    }
    let medians: Vec<f64> = samples.iter().filter_map(|values| median(values)).collect();
    let Some((ours, peers)) = medians.split_first() else { return Ok(()) };
    for (peer, theirs) in all[1..].iter().zip(peers) {
        report.compare(name, "ms", *ours, peer.label(), *theirs);
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
