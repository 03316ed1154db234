//! `ps`: the processes of a container, as the host's `ps` shows them.

use super::args::{Args, Reach};
use super::error::{Error, Result};
use super::list::FORMAT;
use super::state::say;
use super::store;
use super::{Global, Verb};
use std::process::Command;

pub const VERB: Verb = Verb {
    name: "ps",
    about: "show the processes of a container",
    operands: "<container-id> [ps options]",
    count: (1, usize::MAX),
    flags: &[FORMAT],
    reach: Reach::BeforeOperands,
    run,
};

fn run(global: &Global, args: &Args) -> Result<i32> {
    let folder = store::open(&global.root, args.id()?)?;
    let state = folder.read()?;
    let pids = match &state.container {
        Some(record) => record.open_cgroups()?.pids()?,
        None => Vec::new(),
    };
    match args.filled("format") {
        None | Some("table") => table(&pids, &args.operands[1..])?,
        Some("json") => {
            let numbers: Vec<String> = pids.iter().map(i32::to_string).collect();
            say(&if pids.is_empty() { "null".to_owned() } else { format!("[{}]", numbers.join(",")) })?;
        }
        Some(_) => return Err(Error::Config("invalid format option")),
    }
    Ok(0)
}

fn table(pids: &[i32], options: &[String]) -> Result<()> {
    let mut command = Command::new("ps");
    match options {
        [] => command.arg("-ef"),
        options => command.args(options),
    };
    let output = command.output().map_err(Error::io("run", "ps"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let output = format!("{} {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
        return Err(Error::Ps { output });
    }
    let mut lines = text.lines();
    let title = lines.next().unwrap_or_default();
    let column = title.split_whitespace().position(|name| name == "PID");
    let column = column.ok_or_else(|| Error::Ps { output: "couldn't find PID field in ps output".into() })?;
    say(title)?;
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|field| field.parse().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            say(line)?;
        }
    }
    Ok(())
}
