//! The flags before the command: which daemon, where settings are, how much is said.

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::contexts::{Choice, Store};
use crate::endpoint::DEFAULT_HOST;
use crate::failure::Failure;
use crate::output::print;

/// docker's levels. Only `debug` says more than the commands themselves do.
const LEVELS: [&str; 5] = ["debug", "info", "warn", "error", "fatal"];

/// Those that take a value, for who has to step over them.
pub const WITH_VALUE: [&str; 7] = ["-H", "--host", "-c", "--context", "--config", "-l", "--log-level"];

/// Adds them to the root.
pub fn define(root: Command) -> Command {
    let text = |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value);
    let switch = |name: &'static str| Arg::new(name).long(name);
    root.arg(text("config", "FOLDER").help(
        "Location of client config files: contexts, and config.json (default: LONGSHORE_CONFIG, else ~/.config/longshore)",
    ))
    .arg(text("context", "NAME").short('c').help(
        "Name of the context to use to connect to the daemon (overrides LONGSHORE_HOST, LONGSHORE_CONTEXT and \
         'longshore context use')",
    ))
    .arg(switch("debug").short('D').action(ArgAction::SetTrue).help("Enable debug mode: say what is connected to"))
    .arg(text("host", "unix://SOCKET|ssh://HOST").short('H').help(format!(
        "Daemon socket to connect to (default: LONGSHORE_HOST, else the context in use, else {DEFAULT_HOST})"
    )))
    .arg(text("log-level", "LEVEL").short('l').help(
        "Set the logging level (\"debug\", \"info\", \"warn\", \"error\", \"fatal\"; default \"info\")",
    ))
    .arg(switch("version").short('v').action(ArgAction::Version).help("Print version information and quit"))
    .arg(switch("help").action(ArgAction::Help).help("Print help"))
}

/// What they come to.
pub fn read(matches: &mut ArgMatches) -> Result<(Store, Choice), Failure> {
    let level = matches.remove_one::<String>("log-level").unwrap_or_else(|| "info".into());
    if !LEVELS.contains(&level.as_str()) {
        return Err(Failure::message(format!("Unable to parse logging level: {level}")));
    }
    if level == "debug" || matches.get_flag("debug") {
        print::show_debug();
    }
    let store = Store::new(matches.remove_one::<String>("config").filter(|path| !path.is_empty()).as_deref());
    let choice = Choice { host: matches.remove_one("host"), context: matches.remove_one("context") };
    Ok((store, choice))
}

/// What is said about docker's flags for TLS.
pub fn refuse_tls(flag: &str) -> Option<String> {
    let name = flag.split('=').next().unwrap_or(flag);
    matches!(name, "--tls" | "--tlscacert" | "--tlscert" | "--tlskey" | "--tlsverify").then(|| {
        format!(
            "longshore: {name}: the daemon listens on a Unix socket, not on TCP with TLS: name it with \
             -H unix://SOCKET, or a host that ssh reaches with -H ssh://[USER@]HOST"
        )
    })
}
