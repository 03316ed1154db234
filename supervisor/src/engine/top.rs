//! The processes of a container as `ps` shows them. The usual columns are read from /proc here; other arguments go to
//! the host's ps, whose rows are kept where their PID is one of the container's. Nothing of the container is run.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Engine;
use super::conflict::Conflict;
use super::state::{Refused, Status};
use crate::content::store::blocking;
use crate::error::{Error, Result};

const TITLES: [&str; 8] = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];

/// Longest output of ps that is read.
const MAX_OUTPUT: usize = 8 << 20;

/// Longest command line that is shown.
const MAX_COMMAND: usize = 4096;

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    pub titles: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Engine {
    /// `arguments` are those of ps; empty: `-ef`.
    pub async fn top(self: &Arc<Self>, text: &str, arguments: &[String]) -> Result<Processes> {
        let entry = self.find(text)?;
        let status = entry.status();
        if !status.is_live() {
            let why = if status == Status::Restarting { Refused::Restarting } else { Refused::NotRunning };
            return Err(Conflict::State { id: entry.id.clone(), why }.into());
        }
        let pids: Vec<u32> =
            self.tasks.pids(&self.namespace, &entry.id).await?.into_iter().map(|task| task.pid).collect();
        self.happened(&entry, "top", &[]);
        if arguments.is_empty() || *arguments == ["-ef"] {
            return blocking(move || Ok(table(&pids))).await;
        }
        let output = match ps(&with_pids(arguments, &pids)).await {
            Ok(listed) => listed,
            // Some options of ps do not go with a list of processes.
            Err(_) => ps(arguments).await?,
        };
        filter(&output, &pids.into_iter().collect())
    }
}

/// Options that choose columns and no processes would show those of the caller's terminal: these are named.
fn with_pids(arguments: &[String], pids: &[u32]) -> Vec<String> {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    arguments.iter().cloned().chain([format!("-q{}", pids.join(","))]).collect()
}

/// What the host's ps says.
async fn ps(arguments: &[String]) -> Result<String> {
    let output = tokio::process::Command::new("ps").args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(10), output)
        .await
        .map_err(|_| Error::Timeout { what: "ps".to_owned(), seconds: 10 })?
        .map_err(|source| Error::io("running the host's", "ps", source))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Error::invalid("ps", said.lines().next().unwrap_or("failed").to_owned()));
    }
    if output.stdout.len() > MAX_OUTPUT {
        return Err(Error::ResourceExhausted {
            what: "the output of ps".to_owned(),
            limit: "bytes of ps output",
            max: MAX_OUTPUT as u64,
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Keeps the rows whose PID column names one of `pids`, and the threads (`-`) below them.
fn filter(output: &str, pids: &HashSet<u32>) -> Result<Processes> {
    let mut lines = output.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let Some(column) = titles.iter().position(|title| title == "PID") else {
        return Err(Error::invalid("ps", "Couldn't find PID field in ps output"));
    };
    let mut within = false;
    let rows = lines
        .filter_map(|line| {
            let cells: Vec<String> = words(line, titles.len());
            let cell = cells.get(column)?;
            if cell != "-" {
                within = cell.parse().is_ok_and(|pid| pids.contains(&pid));
            }
            within.then_some(cells)
        })
        .collect();
    Ok(Processes { titles, rows })
}

/// At most `count` words; the last one takes the rest of the line.
fn words(line: &str, count: usize) -> Vec<String> {
    let mut cells = Vec::with_capacity(count);
    let mut rest = line.trim();
    while cells.len() + 1 < count {
        let Some((word, tail)) = rest.split_once(char::is_whitespace) else { break };
        cells.push(word.to_owned());
        rest = tail.trim_start();
    }
    cells.push(rest.to_owned());
    cells
}

fn table(pids: &[u32]) -> Processes {
    let users = users();
    let (boot, now) = (boot_time(), Timestamp::now());
    let mut pids = pids.to_vec();
    pids.sort_unstable();
    // A process that is gone by now has no row.
    let rows = pids.iter().filter_map(|&pid| row(pid, &users, boot, now)).collect();
    Processes { titles: TITLES.iter().map(|&title| title.to_owned()).collect(), rows }
}

fn row(pid: u32, users: &HashMap<u32, String>, boot: i64, now: Timestamp) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let stat = Stat::parse(&stat)?;
    let uid = effective_uid(pid)?;
    let started = Timestamp::from_second(boot + stat.start_ticks / ticks()).ok()?;
    let cpu_seconds = stat.cpu_ticks / ticks();
    let lived = now.duration_since(started).as_secs().max(1);
    Some(vec![
        users.get(&uid).cloned().unwrap_or_else(|| uid.to_string()),
        pid.to_string(),
        stat.parent.to_string(),
        (cpu_seconds * 100 / lived).min(99).to_string(),
        start_time(started, now),
        terminal(stat.terminal),
        format!("{:02}:{:02}:{:02}", cpu_seconds / 3600, cpu_seconds / 60 % 60, cpu_seconds % 60),
        command(pid, &stat.name),
    ])
}

struct Stat {
    name: String,
    parent: i32,
    terminal: i32,
    cpu_ticks: i64,
    start_ticks: i64,
}

impl Stat {
    /// The name may hold anything, brackets and spaces included: it ends at the last bracket.
    fn parse(text: &str) -> Option<Stat> {
        let (before, after) = text.rsplit_once(')')?;
        let name = before.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = after.split_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<i64>().ok());
        Some(Stat {
            name,
            parent: i32::try_from(number(1)?).ok()?,
            terminal: i32::try_from(number(4)?).unwrap_or(0),
            cpu_ticks: number(11)? + number(12)?,
            start_ticks: number(19)?,
        })
    }
}

fn effective_uid(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn command(pid: u32, name: &str) -> String {
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if raw.is_empty() {
        return format!("[{name}]");
    }
    let text: Vec<String> = raw
        .split(|&b| b == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let mut line: String = text.join(" ").chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if line.len() > MAX_COMMAND {
        let cut = (0..=MAX_COMMAND).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
        line.truncate(cut);
    }
    line
}

/// The host's names of users, as the host's ps shows them.
fn users() -> HashMap<u32, String> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            Some((uid, name.to_owned()))
        })
        .collect()
}

fn boot_time() -> i64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|rest| rest.trim().parse().ok())
        .unwrap_or(0)
}

fn ticks() -> i64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1)
}

fn start_time(started: Timestamp, now: Timestamp) -> String {
    let (then, today) = (started.to_zoned(TimeZone::system()), now.to_zoned(TimeZone::system()));
    if then.date() == today.date() {
        then.strftime("%H:%M").to_string()
    } else {
        then.strftime("%b%d").to_string()
    }
}

fn terminal(number: i32) -> String {
    let number = u32::try_from(number).unwrap_or(0);
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xf_ff00));
    match major {
        0 => "?".to_owned(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let text = "42 (a) b (c) S 1 42 42 34816 42 4194304 0 0 0 0 150 50 0 0 20 0 1 0 12345 0 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(
            (stat.name.as_str(), stat.parent, stat.cpu_ticks, stat.start_ticks),
            ("a) b (c", 1, 200, 12345)
        );
        assert_eq!(terminal(stat.terminal), "pts/0");
    }

    #[test]
    fn own_process_has_a_row() {
        let table = table(&[std::process::id(), u32::MAX]);
        assert_eq!(table.titles.len(), 8);
        assert_eq!(table.rows.len(), 1);
        assert_eq!(table.rows[0].len(), 8);
    }

    #[test]
    fn rows_of_ps_are_filtered_by_pid() {
        let output = "  PID TTY CMD\n    1 ?   init --flag x\n   22 pts/0 sh\n";
        let kept = filter(output, &[1].into()).unwrap();
        assert_eq!(kept.rows, [["1", "?", "init --flag x"]]);
        let threads = filter("PID LWP\n1 -\n- 1\n2 -\n- 2\n3 -\n", &[2].into()).unwrap();
        assert_eq!(threads.rows, [["2", "-"], ["-", "2"]]);
        assert!(filter("CMD\nx\n", &HashSet::new()).is_err());
    }
}
