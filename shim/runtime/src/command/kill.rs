//! `kill`: a signal to the first process, or to all.

use super::args::{Args, Flag, Reach};
use super::error::{Error, Result};
use super::store::{self, Status};
use super::{Global, Verb};
use nix::sys::signal::Signal;
use std::os::fd::AsFd;
use std::str::FromStr;

pub const VERB: Verb = Verb {
    name: "kill",
    about: "send a signal (default: SIGTERM) to the container's first process",
    operands: "<container-id> [signal]",
    count: (1, 2),
    flags: &[Flag::switch("all", "send it to every process of the container").or('a')],
    reach: Reach::Anywhere,
    run,
};

fn run(global: &Global, args: &Args) -> Result<i32> {
    let folder = store::open(&global.root, args.id()?)?;
    let state = folder.read()?;
    let signal = parse(args.operands.get(1).map_or("SIGTERM", String::as_str))?;
    let all = args.has("all");
    let status = folder.status(&state)?;
    let record = match state.container.as_ref().filter(|_| status != Status::Stopped) {
        Some(record) => record,
        // Without a pid namespace of its own a container may leave processes behind.
        None if all => {
            if let Some(record) = &state.container {
                record.open_cgroups()?.kill_all(signal)?;
            }
            return Ok(0);
        }
        None => return Err(Error::NotRunning),
    };
    let cgroups = record.open_cgroups()?;
    // The end of the first process ends the others only in a pid namespace.
    if all || signal == libc::SIGKILL && !record.has_pid_namespace() {
        cgroups.kill_all(signal)?;
    } else {
        let pidfd = record.process().ok_or(Error::NotRunning)?;
        longshore_runtime::signal(pidfd.as_fd(), signal).map_err(|error| match error {
            longshore_runtime::Error::NotRunning => Error::NotRunning,
            other => other.into(),
        })?;
    }
    if signal == libc::SIGKILL && status == Status::Paused {
        // What is frozen does not die.
        cgroups.thaw()?;
    }
    Ok(0)
}

/// A signal by number, or by name with or without `SIG`.
pub fn parse(text: &str) -> Result<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return match (0..=64).contains(&number) {
            true => Ok(number),
            false => Err(Error::Signal(text.into())),
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(real_time) = real_time(name) {
        return Ok(real_time);
    }
    let signal = Signal::from_str(&format!("SIG{name}"));
    signal.map(|signal| signal as i32).map_err(|_| Error::Signal(text.into()))
}

/// `RTMIN+3`, `RTMAX-1`, and the old names for other signals.
fn real_time(name: &str) -> Option<i32> {
    let number = match name {
        "IOT" => libc::SIGIOT,
        "CLD" => libc::SIGCHLD,
        "POLL" => libc::SIGPOLL,
        name => {
            let (base, rest) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
                (Some(rest), _) => (34, rest),
                (_, Some(rest)) => (64, rest),
                _ => return None,
            };
            let offset: i32 = if rest.is_empty() { 0 } else { rest.parse().ok()? };
            base + offset
        }
    };
    (1..=64).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_any_name() {
        for (text, number) in
            [("9", 9), ("KILL", 9), ("SIGTERM", 15), ("sigusr1", 10), ("RTMIN+3", 37), ("0", 0)]
        {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        assert!(parse("NOPE").is_err() && parse("65").is_err() && parse("RTMIN+99").is_err());
    }
}
