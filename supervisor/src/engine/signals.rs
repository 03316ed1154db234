//! Signals by name or number, as `--stop-signal` and `kill -s` take them.

use crate::error::{Error, Result};

/// SIGTERM, what stops a container that does not say otherwise.
pub const TERM: i32 = libc::SIGTERM;
pub const KILL: i32 = libc::SIGKILL;

const NAMES: [(&str, i32); 34] = [
    ("ABRT", libc::SIGABRT),
    ("ALRM", libc::SIGALRM),
    ("BUS", libc::SIGBUS),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("FPE", libc::SIGFPE),
    ("HUP", libc::SIGHUP),
    ("ILL", libc::SIGILL),
    ("INT", libc::SIGINT),
    ("IO", libc::SIGIO),
    ("IOT", libc::SIGIOT),
    ("KILL", libc::SIGKILL),
    ("PIPE", libc::SIGPIPE),
    ("POLL", libc::SIGPOLL),
    ("PROF", libc::SIGPROF),
    ("PWR", libc::SIGPWR),
    ("QUIT", libc::SIGQUIT),
    ("SEGV", libc::SIGSEGV),
    ("STKFLT", libc::SIGSTKFLT),
    ("STOP", libc::SIGSTOP),
    ("SYS", libc::SIGSYS),
    ("TERM", libc::SIGTERM),
    ("TRAP", libc::SIGTRAP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("VTALRM", libc::SIGVTALRM),
    ("WINCH", libc::SIGWINCH),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
];

/// Lowest and highest real-time signal that a program can use (glibc keeps two for itself).
const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;

/// The number of a signal: `KILL`, `SIGKILL`, `sigkill`, `9`, `RTMIN+3`.
pub fn parse(text: &str) -> Result<i32> {
    let refuse = || Error::invalid("signal", format!("Invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=RT_MAX).contains(&number) { Ok(number) } else { Err(refuse()) };
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(name, _)| *name == bare) {
        return Ok(*number);
    }
    let number = match (bare.strip_prefix("RTMIN"), bare.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(RT_MIN),
        (_, Some("")) => Some(RT_MAX),
        (Some(more), _) => more.strip_prefix('+').and_then(|n| n.parse::<i32>().ok()).map(|n| RT_MIN + n),
        (_, Some(less)) => less.strip_prefix('-').and_then(|n| n.parse::<i32>().ok()).map(|n| RT_MAX - n),
        _ => None,
    };
    number.filter(|number| (RT_MIN..=RT_MAX).contains(number)).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_signal() {
        for (text, want) in [("KILL", 9), ("sigterm", 15), ("9", 9), ("SIGRTMIN+3", 37), ("rtmax", 64)] {
            assert_eq!(parse(text).unwrap(), want, "{text}");
        }
        for bad in ["", "0", "65", "-1", "SIGNOPE", "RTMIN+99", "RTMAX+1", "SIG"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
