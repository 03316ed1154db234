//! `leakcheck before FILE` notes what is on the host; `leakcheck after FILE` fails if there is more now.

use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use longshore_tests::leaks;

/// Processes that are ending may take a moment.
const GRACE: Duration = Duration::from_secs(5);

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "before", file] => {
            let lines: Vec<String> = leaks::inventory().into_iter().collect();
            fs::write(file, lines.join("\n")).with_context(|| format!("writing {file}"))?;
            Ok(ExitCode::SUCCESS)
        }
        [_, "after", file] => {
            let before = fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
            let before: BTreeSet<String> = before.lines().map(str::to_owned).collect();
            let deadline = Instant::now() + GRACE;
            loop {
                let left: Vec<String> = leaks::inventory().difference(&before).cloned().collect();
                if left.is_empty() {
                    println!("nothing is left behind");
                    return Ok(ExitCode::SUCCESS);
                }
                if Instant::now() > deadline {
                    eprintln!("left behind:\n  {}", left.join("\n  "));
                    return Ok(ExitCode::FAILURE);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        _ => bail!("usage: leakcheck before|after FILE"),
    }
}
