//! Runs commands and times them.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Longest time that anything may take before the contestant is out.
const PATIENCE: Duration = Duration::from_secs(600);

/// A command to be run somewhere: what is needed to make a [`Command`] of it there.
#[derive(Clone, Debug)]
pub struct Call {
    program: PathBuf,
    args: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Call {
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), environment: Vec::new() }
    }

    pub fn args<S: AsRef<str>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub fn path(mut self, path: &Path) -> Self {
        self.args.push(path.display().to_string());
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.environment.iter().cloned());
        command.env(super::arena::MARK, super::arena::mark());
        command.stdin(Stdio::null());
        command
    }

    /// Runs to the end; how long that took.
    pub fn time(&self) -> Result<Duration> {
        let mut complaint = tempfile::tempfile()?;
        let mut command = self.command();
        command.stdout(Stdio::null()).stderr(complaint.try_clone()?);
        let start = Instant::now();
        let mut child = command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        let status = wait(&mut child)?;
        let taken = start.elapsed();
        if !status.success() {
            let mut text = String::new();
            std::io::Seek::rewind(&mut complaint)?;
            complaint.read_to_string(&mut text)?;
            bail!("{} {}: {status}: {}", self.program.display(), self.args.join(" "), tail(text.trim()));
        }
        Ok(taken)
    }

    /// Starts a daemon whose output goes to `log`. In a process group of its own, so that an interrupt at the terminal reaches only us.
    pub fn start(&self, log: &Path) -> Result<Child> {
        let log = std::fs::File::options().create(true).append(true).open(log)?;
        let mut command = self.command();
        command.stdout(log.try_clone()?).stderr(log).process_group(0);
        command.spawn().with_context(|| format!("starting {}", self.program.display()))
    }
}

fn wait(child: &mut Child) -> Result<std::process::ExitStatus> {
    let pid = nix::unistd::Pid::from_raw(child.id().try_into()?);
    let (done, finished) = std::sync::mpsc::channel::<()>();
    // Waiting blocks, so that polling costs no time; a watcher ends what takes for ever.
    let watcher = std::thread::spawn(move || {
        if finished.recv_timeout(PATIENCE).is_err_and(|e| e == std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    });
    let status = child.wait();
    drop(done);
    let _ = watcher.join();
    Ok(status?)
}

/// The end of a long text.
pub fn tail(text: &str) -> &str {
    let start = text.len().saturating_sub(600);
    let start = (start..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    &text[start..]
}

/// The median; of nothing, nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The value that so many of a hundred do not exceed; of nothing, nothing.
pub fn percentile(values: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&values, 99), Some(198.0));
        assert_eq!(percentile(&[3.0, 1.0], 99), Some(3.0));
        assert_eq!(percentile(&[], 99), None);
    }

    #[test]
    fn a_command_that_fails_says_why() {
        let error = Call::new("/bin/sh").args(["-c", "echo no such thing >&2; exit 3"]).time().err();
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains("no such thing") && text.contains("exit status: 3"), "{text}");
    }
}
