//! containerd's API, call by call: how many a second a daemon answers, how long the slowest take, and what each costs it.
//!
//! What always holds: every daemon has the same records; the load comes from a client that costs next to nothing; everybody
//! takes turns, and the medians of the rounds are compared.

mod drive;
mod fanout;
mod seed;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use longshore_proto::containerd::services as wire;
use longshore_tests::h2::{call_headers, message};
use prost::Message;

use crate::arena;
use crate::contestants::Contestant;
use crate::measure::median;
use crate::options::Options;
use crate::report::Report;
use crate::rows::order;
use drive::{Figures, Script};
use seed::{BLOBS, CONTAINERS, NAMESPACE};

/// Turns that everybody takes.
const ROUNDS: usize = 7;
/// How long a turn lasts.
const TURN: Duration = Duration::from_millis(700);

/// A daemon under load.
#[derive(Clone)]
pub struct Target {
    pub name: &'static str,
    pub socket: PathBuf,
    pub pid: i32,
}

/// One row's load: makes the script of a connection, by the connection's number.
struct Job {
    name: &'static str,
    /// Calls that a connection has under way at one time.
    at_once: usize,
    script: fn(usize) -> Box<dyn Script>,
}

const JOBS: [Job; 5] = [
    Job { name: "Containers.Get", at_once: 8, script: |_| constant(CONTAINERS_GET, &get_container()) },
    Job { name: "Containers.List (100)", at_once: 2, script: |_| constant(CONTAINERS_LIST, &[]) },
    Job { name: "Images.List (50)", at_once: 2, script: |_| constant(IMAGES_LIST, &[]) },
    Job { name: "Content.Info", at_once: 8, script: |_| constant(CONTENT_INFO, &content_info()) },
    Job { name: "Snapshots.Prepare+Remove", at_once: 2, script: |number| Box::new(Snapshots::new(number)) },
];

const CONTAINERS_GET: &str = "/containerd.services.containers.v1.Containers/Get";
const CONTAINERS_LIST: &str = "/containerd.services.containers.v1.Containers/List";
const IMAGES_LIST: &str = "/containerd.services.images.v1.Images/List";
const CONTENT_INFO: &str = "/containerd.services.content.v1.Content/Info";
const PREPARE: &str = "/containerd.services.snapshots.v1.Snapshots/Prepare";
const REMOVE: &str = "/containerd.services.snapshots.v1.Snapshots/Remove";

fn get_container() -> Vec<u8> {
    wire::containers::v1::GetContainerRequest { id: seed::container(CONTAINERS / 2) }.encode_to_vec()
}

fn content_info() -> Vec<u8> {
    wire::content::v1::InfoRequest { digest: seed::digest(BLOBS / 2) }.encode_to_vec()
}

/// The same call again and again.
struct Constant {
    headers: Vec<u8>,
    message: Vec<u8>,
}

fn constant(path: &str, request: &[u8]) -> Box<dyn Script> {
    Box::new(Constant { headers: call_headers(path, NAMESPACE), message: message(request) })
}

impl Script for Constant {
    fn next(&mut self, _: usize) -> (&[u8], &[u8]) {
        (&self.headers, &self.message)
    }
}

/// In each slot a snapshot is prepared, then removed, then the next prepared.
struct Snapshots {
    connection: usize,
    headers: [Vec<u8>; 2],
    message: Vec<u8>,
    steps: Vec<u64>,
}

impl Snapshots {
    fn new(connection: usize) -> Self {
        let headers = [PREPARE, REMOVE].map(|path| call_headers(path, NAMESPACE));
        Self { connection, headers, message: Vec::new(), steps: Vec::new() }
    }
}

impl Script for Snapshots {
    fn next(&mut self, slot: usize) -> (&[u8], &[u8]) {
        self.steps.resize(self.steps.len().max(slot + 1), 0);
        let step = self.steps[slot];
        self.steps[slot] += 1;
        let (snapshotter, key) =
            ("overlayfs".to_owned(), format!("bench-{}-{slot}-{}", self.connection, step / 2));
        if step.is_multiple_of(2) {
            let labels = [("containerd.io/gc.root".to_owned(), "bench".to_owned())].into();
            let request = wire::snapshots::v1::PrepareSnapshotRequest {
                snapshotter,
                key,
                parent: String::new(),
                labels,
            };
            self.message = message(&request.encode_to_vec());
            (&self.headers[0], &self.message)
        } else {
            let request = wire::snapshots::v1::RemoveSnapshotRequest { snapshotter, key };
            self.message = message(&request.encode_to_vec());
            (&self.headers[1], &self.message)
        }
    }

    fn is_open(&self, slot: usize) -> bool {
        self.steps.get(slot).is_some_and(|step| step % 2 == 1)
    }
}

/// Measures every row with every daemon that has a socket.
pub fn run(_: &Options, all: &[Box<dyn Contestant>], report: &mut Report) -> Result<()> {
    let mut targets = Vec::new();
    for contestant in all {
        let Some((socket, pid)) = contestant.api() else { continue };
        let target = Target { name: contestant.name(), socket, pid };
        match seed::run(&target) {
            Ok(()) => targets.push(target),
            Err(why) if target.name == "longshore" => return Err(why.context("making records")),
            Err(why) => report.missing(target.name, "the API's rows", format!("{why:#}")),
        }
    }
    ensure!(targets.first().is_some_and(|target| target.name == "longshore"), "no socket of ours");
    let mut outcome = Ok(());
    for job in &JOBS {
        let measure = |target: &Target| drive::run(target, job.at_once, TURN, job.script);
        outcome = outcome.and(row(job.name, &targets, measure, report));
    }
    outcome.and(row("Events, to 100 subscribers", &targets, fanout::run, report))
}

/// One row: everybody in turn, in a shuffled order.
fn row(
    name: &str,
    targets: &[Target],
    measure: impl Fn(&Target) -> Result<Figures>,
    report: &mut Report,
) -> Result<()> {
    eprintln!("API: {name}");
    let mut samples: Vec<Vec<Figures>> = vec![Vec::new(); targets.len()];
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    for round in 0..=ROUNDS {
        for index in order(targets.len(), &mut seed) {
            if arena::stopping() {
                return Ok(());
            }
            match measure(&targets[index]) {
                // The first turn warms up.
                Ok(figures) if round > 0 => samples[index].push(figures),
                Ok(_) => {}
                Err(why) if index == 0 => return Err(why.context(format!("{name}: ours"))),
                Err(why) => report.missing(targets[index].name, name, format!("{why:#}")),
            }
        }
    }
    type Figure = fn(&Figures) -> f64;
    let figures: [(&str, &'static str, Figure); 4] = [
        ("", "1/s", |figures| figures.rate),
        (", p99", "us", |figures| figures.p99),
        (", the daemon's CPU for each", "us", |figures| figures.cpu),
        (", the client's CPU for each", "us", |figures| figures.client),
    ];
    for (what, unit, figure) in figures {
        let of = |samples: &[Figures]| median(&samples.iter().map(figure).collect::<Vec<_>>());
        let ours = of(&samples[0]).with_context(|| format!("{name}: nothing of ours"))?;
        let mut compared = false;
        for (target, samples) in targets.iter().zip(&samples).skip(1) {
            if let Some(theirs) = of(samples) {
                report.compare(&format!("{name}{what}"), unit, ours, target.name, theirs);
                compared = true;
            }
        }
        if !compared {
            report.alone(&format!("{name}{what}"), unit, ours);
        }
    }
    Ok(())
}
