//! Kubernetes' way: a pod and a container in it, by CRI, ourselves beside containerd's CRI plugin, with the same CNI plugins and
//! in the host's network; and what idle pods take.

mod node;
mod pause;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::arena::{self, Arena};
use crate::contestants::group;
use crate::measure::{median, percentile};
use crate::memory::{self, Memory};
use crate::options::Options;
use crate::report::Report;
use crate::rows::order;
use node::{Net, Node, Running, WORKLOAD};

/// Rounds before those that count.
const WARM_UP: usize = 3;
/// Pause before a measurement, so that what the one before left to the kernel is not this one's.
const SETTLE: Duration = Duration::from_millis(50);
/// Pods for the memory rows.
const IDLE: usize = 20;
/// Until what was started has come to rest.
const REST: Duration = Duration::from_secs(3);

const KINDS: [(&str, Net); 2] =
    [("pod + container start, CNI bridge", Net::Plugins), ("pod + container start, host network", Net::Host)];
/// Which nobody else has: compared with the others' first kind.
const BUILT_IN: &str = "pod + container start, our built-in network";

/// What is made of many times.
type Figure = fn(&[f64]) -> Option<f64>;

pub fn run(options: &Options, arena: &Arena, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let ours = Node::longshore(arena, "pods-longshore", "cni").await.context("longshore as a node")?;
        let built_in = Node::longshore(arena, "pods-built-in", "built-in").await;
        let built_in = built_in.context("longshore as a node without CNI")?;
        let mut nodes = vec![ours];
        if options.wants("ctr") {
            let others = [None, options.containerd.as_deref()];
            for at in
                others.into_iter().enumerate().filter(|(n, at)| *n == 0 || at.is_some()).map(|(_, at)| at)
            {
                match Node::containerd(arena, at).await {
                    Ok(node) => nodes.push(node),
                    Err(why) => report.missing("containerd", "pods", format!("{why:#}")),
                }
            }
        }
        let outcome = match starts(options, &nodes, &built_in, report).await {
            Ok(()) => idle(&nodes, report).await,
            failed => failed,
        };
        nodes.into_iter().chain([built_in]).for_each(Node::end);
        outcome
    })
}

/// One pod after the other, everybody in turn.
async fn starts(options: &Options, nodes: &[Node], built_in: &Node, report: &mut Report) -> Result<()> {
    let mut samples = vec![vec![Vec::new(); nodes.len()]; KINDS.len()];
    let mut seed = 0x2545_f491_4f6c_dd1d;
    let mut out = vec![false; nodes.len()];
    let mut own = Vec::new();
    for round in 0..options.pods + WARM_UP {
        if !arena::stopping() {
            tokio::time::sleep(SETTLE).await;
            let taken = once(built_in, &format!("p{round}"), Net::Plugins).await.context(BUILT_IN)?;
            if round >= WARM_UP {
                own.push(taken.as_secs_f64() * 1000.0);
            }
        }
        for (kind, (what, net)) in KINDS.iter().enumerate() {
            for index in order(nodes.len(), &mut seed) {
                if out[index] || arena::stopping() {
                    continue;
                }
                tokio::time::sleep(SETTLE).await;
                match once(&nodes[index], &format!("p{round}-{kind}"), *net).await {
                    Ok(taken) if round >= WARM_UP => samples[kind][index].push(taken.as_secs_f64() * 1000.0),
                    Ok(_) => {}
                    Err(why) if index == 0 => return Err(why.context(format!("longshore: {what}"))),
                    Err(why) => {
                        out[index] = true;
                        report.missing(&nodes[index].name, what, format!("{why:#}"));
                    }
                }
            }
        }
    }
    let mut without = samples[0].clone();
    without[0] = own;
    samples.push(without);
    for (what, samples) in KINDS.iter().map(|(what, _)| *what).chain([BUILT_IN]).zip(&samples) {
        let figures: [(&str, Figure); 2] = [("median", median), ("p99", |values| percentile(values, 99))];
        for (which, figure) in figures {
            let name = format!("{what}, {which}");
            let all: Vec<Option<f64>> = samples.iter().map(|values| figure(values)).collect();
            compare(report, &name, "ms", nodes, &all)?;
        }
    }
    Ok(())
}

async fn once(node: &Node, name: &str, net: Net) -> Result<Duration> {
    let (running, taken) = node.run(name, net).await?;
    node.remove(running).await?;
    Ok(taken)
}

/// What pods take that do nothing, without the processes of their containers.
async fn idle(nodes: &[Node], report: &mut Report) -> Result<()> {
    // Pages of a program that was just built count as dirty until they are written back.
    nix::unistd::sync();
    let mut figures = Vec::new();
    for node in nodes {
        if arena::stopping() {
            return Ok(());
        }
        let before = Usage::of(node);
        let mut pods: Vec<Running> = Vec::new();
        let mut failed = None;
        for number in 0..IDLE {
            match node.run(&format!("idle{number}"), Net::Plugins).await {
                Ok((running, _)) => pods.push(running),
                Err(why) => failed = Some(why),
            }
        }
        tokio::time::sleep(REST).await;
        let after = Usage::of(node);
        for pod in pods {
            node.remove(pod).await?;
        }
        match failed {
            None => figures.push(Some((before, after))),
            Some(why) => {
                report.missing(&node.name, "idle pods", format!("{why:#}"));
                figures.push(None);
            }
        }
    }
    type Figure = fn(&Usage) -> f64;
    let rows: [(&str, Figure); 4] = [
        ("memory per idle pod, everything, PSS", |usage| usage.all.pss),
        ("memory per idle pod, everything, Private_Dirty", |usage| usage.all.private_dirty),
        ("memory per idle pod, the daemon's growth, PSS", |usage| usage.daemon.pss),
        ("memory per idle pod, shims and pause, PSS", |usage| usage.all.pss - usage.daemon.pss),
    ];
    for (name, figure) in rows {
        let each = |(before, after): &(Usage, Usage)| (figure(after) - figure(before)) / IDLE as f64;
        let all: Vec<Option<f64>> = figures.iter().map(|figure| figure.as_ref().map(each)).collect();
        compare(report, name, "KiB", nodes, &all)?;
    }
    Ok(())
}

struct Usage {
    all: Memory,
    daemon: Memory,
}

impl Usage {
    fn of(node: &Node) -> Self {
        let mut pids = memory::processes(&node.owner, &[group(&node.owner)]);
        pids.retain(|pid| memory::name(*pid) != WORKLOAD);
        Self { all: Memory::sum(&pids), daemon: Memory::sum(&node.daemon()) }
    }
}

/// One row per peer; ours must be there.
fn compare(
    report: &mut Report,
    name: &str,
    unit: &'static str,
    nodes: &[Node],
    figures: &[Option<f64>],
) -> Result<()> {
    let ours = figures.first().copied().flatten().with_context(|| format!("{name}: nothing of ours"))?;
    let mut alone = true;
    for (node, theirs) in nodes.iter().zip(figures).skip(1) {
        if let Some(theirs) = theirs {
            report.compare(name, unit, ours, &node.name, *theirs);
            alone = false;
        }
    }
    if alone {
        report.alone(name, unit, ours);
    }
    Ok(())
}
