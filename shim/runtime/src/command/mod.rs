//! The command: one verb a file; here the global flags, and what becomes of a verb's outcome.
//!
//! What always holds: the process has one thread; a failure is one line in the log and one on stderr, and exit code 1,
//! except where callers expect another (`exec`: 255 if the process was not started).

mod args;
mod checkpoint;
mod config;
mod console;
mod create;
mod delete;
mod error;
mod events;
mod exec;
mod features;
mod foreground;
mod help;
mod kill;
mod launch;
mod limits;
mod list;
mod log;
mod notify;
mod pause;
mod pidfile;
mod ps;
mod restore;
mod resume;
mod run;
mod sealed;
mod spec;
mod start;
mod state;
mod store;
mod terminal;
mod time;
mod update;

use args::{Args, Flag, Kind, Reach};
use error::{Error, Result};
use log::{Format, Log};
use longshore_runtime::rootless::{Cgroups, set_cgroups};
use std::path::PathBuf;

/// What callers take as the version of the command.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The runtime-spec that is implemented.
pub const SPEC_VERSION: &str = "1.2.0";

/// A verb of the command line.
pub struct Verb {
    pub name: &'static str,
    pub about: &'static str,
    /// What follows the flags, for the help.
    pub operands: &'static str,
    /// How many operands: at least, at most.
    pub count: (usize, usize),
    pub flags: &'static [Flag],
    /// Whether flags may follow operands.
    pub reach: Reach,
    pub run: fn(&Global, &Args) -> Result<i32>,
}

const VERBS: &[&Verb] = &[
    &checkpoint::VERB,
    &create::VERB,
    &delete::VERB,
    &events::VERB,
    &exec::VERB,
    &features::VERB,
    &kill::VERB,
    &list::VERB,
    &pause::VERB,
    &ps::VERB,
    &restore::VERB,
    &resume::VERB,
    &run::VERB,
    &spec::VERB,
    &start::VERB,
    &state::VERB,
    &update::VERB,
];

const GLOBAL_FLAGS: &[Flag] = &[
    Flag {
        name: "root",
        short: None,
        kind: Kind::Value,
        help: "folder of the containers' state (should be in a tmpfs)",
    },
    Flag {
        name: "log",
        short: None,
        kind: Kind::Value,
        help: "file that the log is appended to (default: stderr)",
    },
    Flag { name: "log-format", short: None, kind: Kind::Value, help: "text (default) or json" },
    Flag { name: "debug", short: None, kind: Kind::Switch, help: "log what is being done" },
    Flag {
        name: "systemd-cgroup",
        short: None,
        kind: Kind::Switch,
        help: "make cgroups through systemd; cgroupsPath is SLICE:PREFIX:NAME",
    },
    Flag {
        name: "rootless",
        short: None,
        kind: Kind::Value,
        help: "do without cgroups that cannot be made: true, false, or auto (default)",
    },
    Flag {
        name: "criu",
        short: None,
        kind: Kind::Value,
        help: "the criu program for checkpoint and restore (default: criu)",
    },
    Flag { name: "help", short: Some('h'), kind: Kind::Switch, help: "show help" },
    Flag { name: "version", short: Some('v'), kind: Kind::Switch, help: "print the version" },
];

/// What holds for every verb.
pub struct Global {
    pub root: PathBuf,
    /// Whether the root was named on the command line.
    pub root_is_named: bool,
    pub log: Log,
    pub systemd_cgroup: bool,
    pub criu: PathBuf,
}

/// Runs the command line; answers the exit code.
pub fn main() -> i32 {
    let mut log = Log::default();
    match dispatch(&mut log) {
        Ok(code) => code,
        Err(error) => {
            log.fatal(&error);
            error.exit_code()
        }
    }
}

fn dispatch(log: &mut Log) -> Result<i32> {
    let words = args::words()?;
    let (global, rest) = args::parse_global(GLOBAL_FLAGS, &words)?;
    let named = rest.first().map(String::as_str);
    if global.has("version") {
        help::version();
        return Ok(0);
    }
    let (name, rest) = match named {
        None => (None, rest),
        Some("help" | "h") => (rest.get(1).map(String::as_str), &rest[..0]),
        Some(name) if global.has("help") => (Some(name), &rest[..0]),
        Some(name) => (Some(name), &rest[1..]),
    };
    let asked_for_help = matches!(named, None | Some("help" | "h")) || global.has("help");
    let Some(name) = name else {
        help::overview(VERBS, GLOBAL_FLAGS);
        return Ok(0);
    };
    let settings = settings(&global, log)?;
    let verb =
        VERBS.iter().find(|verb| verb.name == name).ok_or_else(|| Error::NoVerb { name: name.into() })?;
    if asked_for_help
        || rest.iter().any(|word| matches!(word.as_str(), "--help" | "-help"))
            && verb.reach == Reach::Anywhere
    {
        help::of_verb(verb);
        return Ok(0);
    }
    let parsed = args::parse(verb.flags, verb.reach, rest)?;
    if parsed.has("help") {
        help::of_verb(verb);
        return Ok(0);
    }
    args::check_count(verb, parsed.operands.len())?;
    settings.log.debug(|| format!("{name} {:?}", parsed.operands));
    (verb.run)(&settings, &parsed)
}

fn settings(parsed: &Args, log: &mut Log) -> Result<Global> {
    let format = match parsed.value("log-format") {
        None | Some("" | "text") => Format::Text,
        Some("json") => Format::Json,
        Some(_) => return Err(Error::Config("invalid log-format: text or json")),
    };
    *log = Log::open(parsed.value("log").filter(|path| !path.is_empty()), format, parsed.has("debug"))?;
    set_cgroups(match parsed.value("rootless") {
        None | Some("auto") => Cgroups::Auto,
        Some("true" | "1" | "t" | "T" | "TRUE" | "True") => Cgroups::Optional,
        Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Cgroups::Required,
        Some(_) => return Err(Error::Config("invalid value for flag --rootless: true, false or auto")),
    });
    let root = match parsed.value("root").filter(|path| !path.is_empty()) {
        Some(path) => std::path::absolute(path).map_err(Error::io("find", path))?,
        None => store::default_root(),
    };
    Ok(Global {
        root,
        root_is_named: parsed.value("root").is_some(),
        log: log.clone(),
        systemd_cgroup: parsed.has("systemd-cgroup"),
        criu: parsed.value("criu").filter(|path| !path.is_empty()).unwrap_or("criu").into(),
    })
}
