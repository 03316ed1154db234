//! What a network costs: `run true` with each kind of network beside `run true` without, in interleaved rounds; and the processor
//! time of the daemon for each, the programs that it runs included.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::arena;
use crate::contestants::{Contestant, Longshore};
use crate::measure::{Call, median};
use crate::options::Options;
use crate::report::Report;
use crate::rows::order;

/// Rounds before those that count.
const WARM_UP: usize = 2;
/// Pause before a measurement, so that what the one before left to the kernel is not this one's.
const SETTLE: Duration = Duration::from_millis(30);
/// Starts of one kind in a row where processor time is counted, and the pause after them in which namespaces are made for the
/// next and addresses come to rest: they are part of the price.
const BLOCK: usize = 10;
const REST: Duration = Duration::from_millis(500);
/// Starts of each kind in all.
const STARTS: usize = 200;
const USER: &str = "bench-network";

/// The kinds, and their flags. All others are compared with the first.
const KINDS: [(&str, &[&str]); 4] = [
    ("none", &["--network", "none"]),
    ("default bridge", &[]),
    ("user network", &["--network", USER]),
    ("published port", &["-p", "80"]),
];

pub fn run(options: &Options, ours: &Longshore, report: &mut Report) -> Result<()> {
    ours.command(&["network", "create", USER]).time().context("a network of the user's")?;
    // A container that stays keeps its interface.
    ours.container(&["-d", "--name", "bench-stays", "--network", USER], &["sleep", "36000"]).time()?;
    let measured = times(options, ours, report).and_then(|()| processor(ours, report));
    ours.command(&["rm", "-f", "bench-stays"]).time()?;
    ours.command(&["network", "rm", USER]).time()?;
    measured
}

fn call(ours: &Longshore, kind: usize) -> Call {
    ours.container(&[&["--rm"], KINDS[kind].1].concat(), &["/bin/true"])
}

fn times(options: &Options, ours: &Longshore, report: &mut Report) -> Result<()> {
    let mut samples = [const { Vec::new() }; KINDS.len()];
    let mut seed = 0x2545_f491_4f6c_dd1d;
    for round in 0..options.rounds + WARM_UP {
        for kind in order(KINDS.len(), &mut seed) {
            if arena::stopping() {
                return Ok(());
            }
            std::thread::sleep(SETTLE);
            let call = call(ours, kind);
            let taken = ours.place().run(move || call.time())??;
            if round >= WARM_UP {
                samples[kind].push(taken.as_secs_f64() * 1000.0);
            }
        }
    }
    let medians: Vec<f64> = samples.iter().filter_map(|values| median(values)).collect();
    let Some((none, others)) = medians.split_first() else { return Ok(()) };
    for ((name, _), taken) in KINDS[1..].iter().zip(others) {
        report.compare(&format!("run true, {name}"), "ms", *taken, "network none", *none);
    }
    Ok(())
}

fn processor(ours: &Longshore, report: &mut Report) -> Result<()> {
    let (_, pid) = ours.api().context("no daemon")?;
    let mut spent = [0.0; KINDS.len()];
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..STARTS / BLOCK {
        for kind in order(KINDS.len(), &mut seed) {
            if arena::stopping() {
                return Ok(());
            }
            let before = milliseconds(pid)?;
            for _ in 0..BLOCK {
                let call = call(ours, kind);
                ours.place().run(move || call.time())??;
            }
            std::thread::sleep(REST);
            spent[kind] += milliseconds(pid)? - before;
        }
    }
    let each = spent.map(|all| all / STARTS as f64);
    for ((name, _), taken) in KINDS.iter().zip(each).skip(1) {
        report.compare(&format!("daemon's processor time, {name}"), "ms", taken, "network none", each[0]);
        report.alone(&format!("for the network alone, {name}"), "ms", taken - each[0]);
    }
    Ok(())
}

/// Processor time of a process, and of the programs that it ran and waited for.
fn milliseconds(pid: i32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the daemon is gone")?;
    let fields = text.rsplit(") ").next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum();
    let second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
    Ok(ticks * 1000.0 / second)
}
