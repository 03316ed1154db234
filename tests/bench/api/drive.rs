//! Load: connections that each keep some calls under way, and begin the next as soon as one is answered.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use longshore_tests::h2::{Connection, DATA, GOAWAY, HEADERS};

use super::Target;

const CONNECTIONS: usize = 4;

/// What a connection calls.
pub trait Script {
    /// Headers and message of the slot's next call.
    fn next(&mut self, slot: usize) -> (&[u8], &[u8]);

    /// Whether something was begun in the slot that the next call ends.
    fn is_open(&self, _slot: usize) -> bool {
        false
    }
}

/// What a turn showed.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Calls a second.
    pub rate: f64,
    /// Microseconds within which 99 of 100 calls were answered.
    pub p99: f64,
    /// Microseconds of the daemon's CPU per call.
    pub cpu: f64,
    /// Microseconds of the client's CPU per call: what they have to share.
    pub client: f64,
}

/// CPU time since then, of the daemon and of this program.
pub struct Spent {
    pid: i32,
    daemon: f64,
    client: f64,
}

impl Spent {
    pub fn begin(pid: i32) -> Result<Self> {
        Ok(Self { pid, daemon: cpu(pid)?, client: cpu(std::process::id() as i32)? })
    }

    /// Of each of so many calls.
    pub fn each(&self, calls: f64) -> Result<(f64, f64)> {
        let (daemon, client) = (cpu(self.pid)? - self.daemon, cpu(std::process::id() as i32)? - self.client);
        Ok((daemon / calls, client / calls))
    }
}

/// CPU time of a process, in microseconds; the kernel counts in hundredths of a second.
fn cpu(pid: i32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the daemon's CPU time")?;
    let rest = text.rsplit(')').next().unwrap_or_default();
    let ticks = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    Ok(ticks.sum::<f64>() * 10_000.0)
}

pub fn p99(mut micros: Vec<u32>) -> f64 {
    micros.sort_unstable();
    micros.get(micros.len() * 99 / 100).copied().map_or(0.0, f64::from)
}

/// One turn.
pub fn run(
    target: &Target,
    at_once: usize,
    turn: Duration,
    script: fn(usize) -> Box<dyn Script>,
) -> Result<Figures> {
    let spent = Spent::begin(target.pid)?;
    let began = Instant::now();
    let outcomes: Vec<Result<Vec<u32>>> = std::thread::scope(|scope| {
        let connections = (0..CONNECTIONS).map(|number| {
            scope.spawn(move || connection(target, at_once, began + turn, &mut *script(number)))
        });
        let connections: Vec<_> = connections.collect();
        connections.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(anyhow!("a thread ended")))).collect()
    });
    let taken = began.elapsed();
    let mut all = Vec::new();
    for micros in outcomes {
        all.extend(micros?);
    }
    ensure!(!all.is_empty(), "no call was answered");
    let calls = all.len() as f64;
    let (cpu, client) = spent.each(calls)?;
    Ok(Figures { rate: calls / taken.as_secs_f64(), p99: p99(all), cpu, client })
}

struct Call {
    slot: usize,
    began: Instant,
    answered: bool,
}

/// One connection's calls, each with the microseconds it took.
fn connection(target: &Target, at_once: usize, until: Instant, script: &mut dyn Script) -> Result<Vec<u32>> {
    let mut connection = Connection::open(&target.socket)?;
    let mut calls: HashMap<u32, Call> = HashMap::new();
    let mut free: Vec<usize> = (0..at_once).collect();
    let mut micros = Vec::new();
    let mut out = Vec::new();
    loop {
        let over = Instant::now() >= until;
        free.retain(|&slot| {
            if connection.window < 16 * 1024 || (over && !script.is_open(slot)) {
                return true;
            }
            let (headers, message) = script.next(slot);
            let stream = connection.call(&mut out, headers, message);
            calls.insert(stream, Call { slot, began: Instant::now(), answered: false });
            false
        });
        if !out.is_empty() {
            connection.write(&out)?;
            out.clear();
        }
        if over && calls.is_empty() {
            return Ok(micros);
        }
        loop {
            let frame = connection.skim().context("reading an answer")?;
            if frame.kind == GOAWAY {
                bail!("the daemon ended the connection");
            }
            if let Some(call) = calls.get_mut(&frame.stream) {
                call.answered |= frame.kind == DATA;
                if frame.ends() {
                    // An answer that failed has no message.
                    ensure!(call.answered && frame.kind == HEADERS, "a call failed");
                    micros.push(call.began.elapsed().as_micros() as u32);
                    free.push(call.slot);
                    calls.remove(&frame.stream);
                }
            }
            if !connection.has_frame() {
                break;
            }
        }
    }
}
