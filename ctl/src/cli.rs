//! The command line as a whole: which verbs there are, how their arguments are read, and what is said about
//! arguments that make no sense.

mod complete;
mod globals;
mod help;
mod refuse;

use std::any::TypeId;
use std::ffi::OsString;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::client::Context;
use crate::commands::{self, NOUNS};
use crate::failure::{Failure, OWN_FAULT};
use crate::output::print;
use crate::parse::number;

/// One command. Implemented by each verb's arguments.
pub trait Verb: clap::Args + Send + 'static {
    const ABOUT: &'static str;
    /// What comes after the command's name in its usage.
    const USAGE: &'static str;
    const ARGUMENTS: Arguments;
    /// docker's flags that are not built yet: refused by name.
    const UNBUILT: &'static [Unbuilt] = &[];
    const MANNERS: Manners = Manners::Plain;
    /// For programs, not for people: left out of help.
    const HIDDEN: bool = false;

    /// Does it; the exit code is 0 unless the verb knows better.
    fn run(self, context: &Context) -> impl Future<Output = Result<u8, Failure>>;
}

/// How many positional arguments a verb takes.
#[derive(Clone, Copy)]
pub enum Arguments {
    None,
    Exactly(usize),
    AtLeast(usize),
    AtMost(usize),
    Between(usize, usize),
    Any,
}

impl Arguments {
    fn words(self) -> String {
        let count = |number: usize| format!("{number} argument{}", if number == 1 { "" } else { "s" });
        match self {
            Arguments::None | Arguments::Any => "accepts no arguments".into(),
            Arguments::Exactly(number) => format!("requires {}", count(number)),
            Arguments::AtLeast(number) => format!("requires at least {}", count(number)),
            Arguments::AtMost(number) => format!("requires at most {}", count(number)),
            Arguments::Between(least, most) => {
                format!("requires at least {least} and at most {}", count(most))
            }
        }
    }
}

/// How failures are told.
#[derive(Clone, Copy, PartialEq)]
pub enum Manners {
    /// The message; exit code 1.
    Plain,
    /// `longshore: ` before it, a word about `--help` after it; exit code 125: 1 would be the container's.
    Run,
}

/// A flag that docker has and this version has not. It is not defined, so that it costs nothing: it is looked for
/// when an unknown flag is refused.
#[derive(Clone, Copy)]
pub struct Unbuilt {
    pub long: &'static str,
    pub short: Option<char>,
    /// Why there will not be one, and what to do instead; empty: it is not built yet.
    pub reason: &'static str,
}

/// A flag without a short form.
pub const fn long(long: &'static str) -> Unbuilt {
    Unbuilt { long, short: None, reason: "" }
}

/// A flag with one.
pub const fn short(short: char, long: &'static str) -> Unbuilt {
    Unbuilt { long, short: Some(short), reason: "" }
}

/// A flag that there will not be.
pub const fn refused(long: &'static str, reason: &'static str) -> Unbuilt {
    Unbuilt { long, short: None, reason }
}

type Running<'a> = Pin<Box<dyn Future<Output = Result<u8, Failure>> + 'a>>;

/// A verb in the table of commands.
#[derive(Clone, Copy)]
pub struct Entry {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    about: &'static str,
    usage: &'static str,
    arguments: Arguments,
    unbuilt: &'static [Unbuilt],
    manners: Manners,
    hidden: bool,
    verb: fn() -> TypeId,
    define: fn(Command) -> Command,
    start: for<'a> fn(&'a Context, &'a mut ArgMatches) -> Running<'a>,
}

impl Entry {
    pub const fn of<V: Verb>(name: &'static str, aliases: &'static [&'static str]) -> Entry {
        Entry {
            name,
            aliases,
            about: V::ABOUT,
            usage: V::USAGE,
            arguments: V::ARGUMENTS,
            unbuilt: V::UNBUILT,
            manners: V::MANNERS,
            hidden: V::HIDDEN,
            verb: TypeId::of::<V>,
            define: define::<V>,
            start: start::<V>,
        }
    }

    /// Whether it is the same verb, perhaps by another name.
    pub fn is_same(&self, other: &Entry) -> bool {
        (self.verb)() == (other.verb)()
    }

    fn command(&self, group: &str) -> Command {
        let usage = format!("longshore {group}{} {}", self.name, self.usage);
        let command = Command::new(self.name)
            .about(self.about)
            .override_usage(usage.trim_end().to_string())
            .visible_aliases(self.aliases)
            .hide(self.hidden);
        let command = match HELP_WANTED.load(Ordering::Relaxed) {
            true => help::of_verb(command, self, group),
            false => command,
        };
        command.defer(self.define)
    }
}

/// The verbs below one word.
pub struct Noun {
    pub name: &'static str,
    pub about: &'static str,
    pub verbs: &'static [Entry],
}

fn start<'a, V: Verb>(context: &'a Context, matches: &'a mut ArgMatches) -> Running<'a> {
    Box::pin(async move {
        let verb = V::from_arg_matches_mut(matches).map_err(|error| Failure::usage(error.to_string()))?;
        verb.run(context).await
    })
}

/// Whether some argument has the form `--flag=value`, the only one in which a switch can be given a value.
static SWITCHES_TAKE_VALUES: AtomicBool = AtomicBool::new(false);

/// Whether help, completions or pages may have to be shown: what only they need is left out otherwise.
static HELP_WANTED: AtomicBool = AtomicBool::new(true);

fn define<V: Verb>(command: Command) -> Command {
    let mut command = V::augment_args(command)
        // What flags share may come with words of its own, which are not the verb's.
        .about(V::ABOUT)
        .long_about(None)
        // The last of two `--name` counts, as with docker.
        .args_override_self(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .arg(Arg::new("help").long("help").action(ArgAction::Help).help("Print help"));
    command = command.mut_args(any_value);
    if SWITCHES_TAKE_VALUES.load(Ordering::Relaxed) {
        command = command.mut_args(switch_with_value);
    }
    if HELP_WANTED.load(Ordering::Relaxed) { help::in_order(command) } else { command }
}

/// A flag takes the next argument for its value, whatever it looks like, as Go's flags do: `--name -x`.
fn any_value(arg: Arg) -> Arg {
    match !arg.is_positional() && arg.get_action().takes_values() {
        true => arg.allow_hyphen_values(true),
        false => arg,
    }
}

/// `--rm=false` as Go's flags allow it.
fn switch_with_value(arg: Arg) -> Arg {
    match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .hide_default_value(true)
            .value_parser(number::boolean),
        _ => arg,
    }
}

/// The verbs of the noun that `command` is named after.
fn verbs(command: Command) -> Command {
    let name = command.get_name().to_string();
    let command = command
        .override_usage(format!("longshore {name} COMMAND"))
        .disable_help_subcommand(true)
        .disable_help_flag(true)
        .arg(Arg::new("help").long("help").action(ArgAction::Help).help("Print help"))
        .subcommands(group(&name).unwrap_or_default().iter().map(|verb| verb.command(&format!("{name} "))));
    if HELP_WANTED.load(Ordering::Relaxed) { help::of_noun(command) } else { command }
}

/// The tree. What is below a noun or a verb is only defined when it was asked for.
pub fn root() -> Command {
    let root =
        Command::new("longshore")
            .about("Runs containers")
            .override_usage("longshore [OPTIONS] COMMAND")
            .subcommand_required(true)
            .disable_version_flag(true)
            .disable_help_flag(true)
            .version(concat!("version ", env!("CARGO_PKG_VERSION")))
            .subcommands(commands::TOP.iter().map(|verb| verb.command("")))
            .subcommands(NOUNS.iter().map(|noun| {
                Command::new(noun.name).about(noun.about).subcommand_required(true).defer(verbs)
            }));
    let root = globals::define(root);
    if HELP_WANTED.load(Ordering::Relaxed) { help::of_root(root) } else { root }
}

/// The whole tree, everything in it defined: for manual pages and completions.
pub fn whole() -> Command {
    let mut root = root();
    root.build();
    root
}

/// Runs the command that `arguments` name; the result is the exit code.
pub fn main(arguments: Vec<OsString>) -> u8 {
    if arguments.get(1).is_some_and(|word| word == complete::WORD) {
        return complete::answer(&arguments[2..]);
    }
    let with_value = |argument: &OsString| {
        let bytes = argument.as_encoded_bytes();
        bytes.starts_with(b"-") && bytes.contains(&b'=')
    };
    SWITCHES_TAKE_VALUES.store(arguments.iter().any(with_value), Ordering::Relaxed);
    let for_help = |argument: &OsString| argument == "help" || argument == "--help";
    HELP_WANTED.store(arguments.iter().any(for_help), Ordering::Relaxed);
    let mut matches = match root().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => {
            HELP_WANTED.store(true, Ordering::Relaxed);
            return refuse::refuse(&error, &arguments);
        }
    };
    let (store, choice) = match globals::read(&mut matches) {
        Ok(read) => read,
        Err(failure) => {
            print::note(failure.to_string());
            return 1;
        }
    };
    let Some((path, entry, mut matches)) = find(matches) else { return OWN_FAULT };
    match execute(&Context::new(store, choice), &entry, &mut matches) {
        Ok(code) => code,
        Err(failure) => tell(&failure, &entry, &path),
    }
}

fn execute(context: &Context, entry: &Entry, matches: &mut ArgMatches) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Failure::message(format!("starting: {error}")))?;
    let result = runtime.block_on((entry.start)(context, matches));
    // A blocked read of stdin must not keep us.
    runtime.shutdown_background();
    result
}

/// The verb that was asked for, by its path (`container run`), and its own arguments.
fn find(mut matches: ArgMatches) -> Option<(String, Entry, ArgMatches)> {
    let (name, inner) = matches.remove_subcommand()?;
    let in_table = |table: &[Entry], name: &str| table.iter().find(|entry| entry.name == name).copied();
    let Some(group) = group(&name) else {
        return Some((name.clone(), in_table(commands::TOP, &name)?, inner));
    };
    let mut inner = inner;
    let (verb, matches) = inner.remove_subcommand()?;
    Some((format!("{name} {verb}"), in_table(group, &verb)?, matches))
}

fn group(name: &str) -> Option<&'static [Entry]> {
    NOUNS.iter().find(|noun| noun.name == name).map(|noun| noun.verbs)
}

fn tell(failure: &Failure, entry: &Entry, path: &str) -> u8 {
    let otherwise = match entry.manners {
        Manners::Run => OWN_FAULT,
        Manners::Plain => 1,
    };
    let code = failure.exit_code(otherwise);
    match failure {
        Failure::Silent { .. } | Failure::BrokenPipe => {}
        Failure::Refused(_) => {
            print::note(format!(
                "longshore: {failure}\n\nRun 'longshore {path} --help' for more information"
            ));
        }
        _ if entry.manners == Manners::Run && code >= OWN_FAULT => {
            print::note(format!(
                "longshore: {failure}\n\nRun 'longshore {path} --help' for more information"
            ));
        }
        Failure::Usage(text) => {
            print::note(format!("{text}\n\nRun 'longshore {path} --help' for more information"));
        }
        _ => print::note(failure.to_string()),
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        let mut root = root();
        root.build();
        root.debug_assert();
    }

    #[test]
    fn everything_is_sound_with_switches_that_take_values() {
        SWITCHES_TAKE_VALUES.store(true, Ordering::Relaxed);
        let mut root = root();
        root.build();
        root.debug_assert();
        SWITCHES_TAKE_VALUES.store(false, Ordering::Relaxed);
    }
}
