//! What could come next on a command line that is being typed: commands, flags, and the names of what there is.
//!
//! The shells' scripts (`longshore completion SHELL`) run `longshore __complete WORDS…`, the last word being the one
//! under the cursor, and get a line for each candidate (`word TAB description`), or `:files` where the shell's own
//! names of files belong. What always holds: nothing is said on stderr, and the daemon has a bounded time to answer.

use std::ffi::OsString;
use std::io::Read;
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, Command};

use super::whole;
use crate::output::print;

/// The word that asks for this.
pub const WORD: &str = "__complete";
/// What a shell shows instead of our candidates.
const FILES: &str = ":files";
/// How long the daemon may take to tell names.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than a terminal shows.
const MAX_NAMES: u64 = 256 << 10;

/// Prints the candidates for the last of `words`.
pub fn answer(words: &[OsString]) -> u8 {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let text: String = candidates(&whole(), &words, &mut names).into_iter().map(|line| line + "\n").collect();
    u8::from(print::out(&text).is_err())
}

/// Which names of the daemon's, or of the user's, belong somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Containers(&'static [&'static str]),
    Images,
    Networks,
    Volumes,
    Contexts,
}

const EVERY: Names = Names::Containers(&["-a"]);
const RUNNING: Names = Names::Containers(&[]);
const STOPPED: Names = Names::Containers(&["-a", "--filter", "status=created", "--filter", "status=exited"]);

/// What a value can be.
enum Values {
    Words(Vec<String>),
    Of(Names),
    Files,
    Nothing,
}

type Lookup<'a> = &'a mut dyn FnMut(&[String], Names) -> Vec<String>;

fn candidates(root: &Command, words: &[String], lookup: Lookup<'_>) -> Vec<String> {
    let Some((last, before)) = words.split_last() else { return Vec::new() };
    let mut command = root;
    let mut path = String::new();
    let mut globals = Vec::new();
    let mut positionals: usize = 0;
    let mut words = before.iter();
    while let Some(word) = words.next() {
        let Some(flag) =
            word.strip_prefix('-').filter(|rest| !rest.is_empty() && positionals < free(command))
        else {
            match command.find_subcommand(word) {
                Some(inner) if positionals == 0 => {
                    path = format!("{path} {}", inner.get_name()).trim_start().to_string();
                    command = inner;
                }
                _ => positionals += 1,
            }
            continue;
        };
        let takes_next = !flag.contains('=') && find(command, word).is_some_and(takes_value);
        let value = if takes_next { words.next() } else { None };
        if takes_next && value.is_none() {
            return values_of(find(command, word), last, &globals, lookup);
        }
        if path.is_empty() {
            globals.push(word.clone());
            globals.extend(value.cloned());
        }
    }
    if let Some((flag, value)) = last.split_once('=').filter(|_| last.starts_with("--")) {
        let found = values_of(find(command, flag), value, &globals, lookup);
        let whole = |line: String| if line == FILES { line } else { format!("{flag}={line}") };
        return found.into_iter().map(whole).collect();
    }
    if last.starts_with('-') && positionals < free(command) {
        return flags(command, last);
    }
    if command.has_subcommands() && positionals == 0 {
        return subcommands(command, last);
    }
    let values = argument(command, &path, positionals);
    shown(values, last, &globals, lookup)
}

/// From which argument on everything belongs to the container's command.
fn free(command: &Command) -> usize {
    let trailing = command.get_positionals().position(Arg::is_trailing_var_arg_set);
    trailing.map_or(usize::MAX, |at| at + 1)
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
        && arg.get_num_args().is_none_or(|count| count.min_values() > 0)
}

/// The flag that a word names; of a cluster such as `-it` the last one.
fn find<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let by_long = |name: &str| {
        command.get_arguments().find(|arg| {
            arg.get_long() == Some(name)
                || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
        })
    };
    match word.strip_prefix("--") {
        Some(name) => by_long(name),
        None => {
            let short = word.chars().next_back()?;
            command.get_arguments().find(|arg| arg.get_short() == Some(short))
        }
    }
}

fn flags(command: &Command, start: &str) -> Vec<String> {
    let mut found: Vec<String> = command
        .get_arguments()
        .filter(|arg| !arg.is_positional() && !arg.is_hide_set())
        .filter_map(|arg| {
            let name = format!("--{}", arg.get_long()?);
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            name.starts_with(start).then(|| format!("{name}\t{}", first_line(&help)))
        })
        .collect();
    found.sort();
    found
}

fn subcommands(command: &Command, start: &str) -> Vec<String> {
    let mut found: Vec<String> = command
        .get_subcommands()
        .filter(|inner| !inner.is_hide_set() && inner.get_name().starts_with(start))
        .map(|inner| {
            let about = inner.get_about().map(ToString::to_string).unwrap_or_default();
            format!("{}\t{}", inner.get_name(), first_line(&about))
        })
        .collect();
    found.sort();
    found
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn values_of(arg: Option<&Arg>, start: &str, globals: &[String], lookup: Lookup<'_>) -> Vec<String> {
    let Some(arg) = arg else { return Vec::new() };
    let values = match arg.get_long().unwrap_or_default() {
        "network" | "net" => Values::Of(Names::Networks),
        "volumes-from" | "link" => Values::Of(EVERY),
        "context" | "from" => Values::Of(Names::Contexts),
        "format" => Values::Words(vec!["json".into(), "table".into()]),
        "restart" => Values::Words(["no", "on-failure", "always", "unless-stopped"].map(String::from).into()),
        "cidfile" | "env-file" | "label-file" | "volume" | "mount" | "device" | "config" | "input"
        | "output" | "iidfile" => Values::Files,
        _ => words_of(arg),
    };
    shown(values, start, globals, lookup)
}

/// The words that an argument's definition lists, by its parser or as `one|two` in the name of its value.
fn words_of(arg: &Arg) -> Values {
    let possible: Vec<String> =
        arg.get_possible_values().iter().map(|value| value.get_name().to_string()).collect();
    let named = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    match named {
        _ if !possible.is_empty() => Values::Words(possible),
        Some(named) if named.contains('|') => {
            let plain = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            Values::Words(named.split('|').filter(plain).map(str::to_string).collect())
        }
        _ => Values::Nothing,
    }
}

/// What the argument at a place can be.
fn argument(command: &Command, path: &str, at: usize) -> Values {
    let positionals: Vec<&Arg> = command.get_positionals().collect();
    let Some(arg) = positionals.get(at).or(positionals.last()) else { return Values::Nothing };
    let many = arg.get_num_args().is_some_and(|count| count.max_values() > 1);
    if at >= positionals.len() && (!many || arg.is_trailing_var_arg_set()) {
        return Values::Nothing;
    }
    let noun = path.split(' ').next().unwrap_or_default();
    let verb = path.split(' ').next_back().unwrap_or_default();
    match (noun, verb) {
        ("context", "create" | "import") if at == 0 => Values::Nothing,
        ("context", _) if at == 0 => Values::Of(Names::Contexts),
        ("context", _) => Values::Files,
        ("network", "connect" | "disconnect") if at == 1 => Values::Of(EVERY),
        ("network", "create") | ("volume", "create") => Values::Nothing,
        ("network", _) => Values::Of(Names::Networks),
        ("volume", _) => Values::Of(Names::Volumes),
        ("image", "inspect" | "history" | "push" | "rm" | "save" | "tag") => Values::Of(Names::Images),
        (_, "run" | "create" | "images" | "rmi" | "history" | "push" | "save" | "tag") => {
            Values::Of(Names::Images)
        }
        (_, "import" | "load") => Values::Files,
        (_, "start") => Values::Of(STOPPED),
        (_, "stop" | "kill" | "exec" | "attach" | "top" | "pause" | "unpause" | "stats" | "port")
            if at == 0 || many =>
        {
            Values::Of(RUNNING)
        }
        (_, "rename" | "commit") if at == 1 => Values::Nothing,
        (_, "cp") => Values::Files,
        (
            _,
            "rm" | "logs" | "restart" | "wait" | "inspect" | "rename" | "diff" | "export" | "update"
            | "commit",
        ) => Values::Of(EVERY),
        _ => words_of(arg),
    }
}

fn shown(values: Values, start: &str, globals: &[String], lookup: Lookup<'_>) -> Vec<String> {
    let words = match values {
        Values::Nothing => Vec::new(),
        Values::Files => return vec![FILES.into()],
        Values::Words(words) => words,
        Values::Of(kind) => lookup(globals, kind),
    };
    words.into_iter().filter(|word| word.starts_with(start)).collect()
}

/// Names by the verbs that people use for them, from the daemon that the words before name.
fn names(globals: &[String], kind: Names) -> Vec<String> {
    let (verb, format): (Vec<&str>, &str) = match kind {
        Names::Containers(more) => ([&["ps"], more].concat(), "{{.Names}}"),
        Names::Images => (vec!["images"], "{{.Repository}}:{{.Tag}}"),
        Names::Networks => (vec!["network", "ls"], "{{.Name}}"),
        Names::Volumes => (vec!["volume", "ls"], "{{.Name}}"),
        Names::Contexts => (vec!["context", "ls"], "{{.Name}}"),
    };
    let Ok(program) = std::env::current_exe() else { return Vec::new() };
    let mut command = Program::new(program);
    command.args(globals).args(verb).args(["--format", format]);
    let text = output_of(command).unwrap_or_default();
    text.lines().filter(|name| !name.is_empty() && !name.contains("<none>")).map(str::to_string).collect()
}

/// What a program prints within our patience; it is ended with it.
fn output_of(mut command: Program) -> Option<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let stdout = child.stdout.take()?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stdout.take(MAX_NAMES).read_to_string(&mut text);
        text
    });
    let deadline = Instant::now() + PATIENCE;
    while !reader.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let late = !reader.is_finished();
    let _ = child.kill();
    let _ = child.wait();
    if late { None } else { reader.join().ok() }
}

#[cfg(test)]
mod tests {
    use super::super::globals;
    use super::*;

    fn ask(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_string).collect();
        let mut lookup = |globals: &[String], kind: Names| vec![format!("{kind:?}{}", globals.concat())];
        let found = candidates(&whole(), &words, &mut lookup);
        found.into_iter().map(|line| line.split('\t').next().unwrap_or_default().to_string()).collect()
    }

    #[test]
    fn what_could_come_next() {
        for (line, expected) in [
            ("vers", &["version"][..]),
            ("container st", &["start", "stats", "stop"]),
            ("run --ne", &["--network", "--network-alias"]),
            ("run --pull ", &["always", "missing", "never"]),
            ("run --pull=n", &["--pull=never"]),
            ("run --env-file ", &[":files"]),
            ("completion ", &["bash", "zsh", "fish"]),
            ("run -it --name x Im", &["Images"]),
            ("run -it busybox -", &[]),
            ("-H ", &[]),
            ("nonsense --x y ", &[]),
        ] {
            assert_eq!(ask(line), expected, "{line}");
        }
        assert!(ask("").contains(&"container".to_string()) && !ask("system ").contains(&"dial-stdio".into()));
        for (line, kind) in [
            ("stop ", "Containers([])"),
            ("rm a b ", "Containers([\"-a\"])"),
            ("run -it -e A=1 ", "Images"),
            ("--host unix:///x exec -it ", "Containers([])--hostunix:///x"),
            ("run --network ", "Networks"),
            ("context use ", "Contexts"),
            (
                "container start ",
                "Containers([\"-a\", \"--filter\", \"status=created\", \"--filter\", \"status=exited\"])",
            ),
            ("rmi ", "Images"),
        ] {
            assert_eq!(ask(line), [kind], "{line}");
        }
    }

    #[test]
    fn a_flag_before_the_command_takes_its_value() {
        for flag in globals::WITH_VALUE {
            assert!(find(&whole(), flag).is_some_and(takes_value), "{flag}");
        }
    }
}
