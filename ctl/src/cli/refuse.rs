//! What is said about arguments that could not be read, in docker's words, with the exit codes that docker gives.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use super::{Entry, Unbuilt, globals, group, root};
use crate::commands;
use crate::failure::OWN_FAULT;
use crate::output::print;

/// What is said about arguments that could not be read; help and version come through here, too.
pub fn refuse(error: &clap::Error, arguments: &[OsString]) -> u8 {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let (path, entry) = named(arguments);
    let invalid = text(ContextKind::InvalidArg).unwrap_or_default();
    if let Some(flag) = entry.and_then(|entry| unbuilt(entry, &invalid)) {
        let why = match flag.reason {
            "" => "is not built yet in this version".to_string(),
            reason => format!("is not supported: {reason}"),
        };
        print::note(format!(
            "longshore: --{} {why}\n\nRun 'longshore {path} --help' for what there is",
            flag.long
        ));
        return OWN_FAULT;
    }
    if let Some(said) = globals::refuse_tls(&invalid) {
        print::note(said);
        return OWN_FAULT;
    }
    let message = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return show(&error.render().ansi_or_plain()),
        ErrorKind::MissingSubcommand => return help_of(&path),
        ErrorKind::InvalidSubcommand => {
            return unknown_command(&path, &text(ContextKind::InvalidSubcommand).unwrap_or_default(), error);
        }
        ErrorKind::UnknownArgument if !invalid.starts_with('-') => return wrong_count(&path, entry),
        ErrorKind::MissingRequiredArgument | ErrorKind::TooFewValues | ErrorKind::TooManyValues
            if !invalid.starts_with('-') =>
        {
            return wrong_count(&path, entry);
        }
        ErrorKind::UnknownArgument => unknown_flag(&invalid, arguments),
        ErrorKind::InvalidValue if text(ContextKind::InvalidValue).is_none_or(|value| value.is_empty()) => {
            format!("flag needs an argument: {}", flag_name(&invalid))
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => invalid_value(error, &invalid, entry),
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8".to_string(),
        _ => error.to_string().trim_start_matches("error: ").lines().next().unwrap_or_default().to_string(),
    };
    let tip = match text(ContextKind::SuggestedArg) {
        Some(near) => format!("\n\nDid you mean '{near}'?"),
        None => String::new(),
    };
    let space = if path.is_empty() { "" } else { " " };
    let usage = entry.map_or("[OPTIONS] COMMAND", |entry| entry.usage);
    print::note(format!(
        "{message}{tip}\n\nUsage:  longshore{space}{path} {usage}\n\nRun 'longshore{space}{path} --help' for more information"
    ));
    OWN_FAULT
}

/// The flag of docker's that an unknown one is.
fn unbuilt(entry: &Entry, invalid: &str) -> Option<&'static Unbuilt> {
    let name = flag_name(invalid);
    entry.unbuilt.iter().find(|flag| match name.strip_prefix("--") {
        Some(long) => flag.long == long,
        None => {
            flag.short.is_some_and(|short| name.strip_prefix('-').is_some_and(|name| name.starts_with(short)))
        }
    })
}

/// Prints help, to stdout: it was asked for.
fn show(text: &str) -> u8 {
    match print::out(text) {
        Ok(()) => 0,
        Err(failure) => failure.exit_code(1),
    }
}

/// What there is below a noun, or below nothing.
fn help_of(path: &str) -> u8 {
    let mut root = root();
    let help = match path {
        "" => root.render_help(),
        group => root.find_subcommand_mut(group).map(Command::render_help).unwrap_or_default(),
    };
    show(&help.to_string())
}

/// `invalid argument "x" for "-m, --memory" flag: invalid size: 'x'`.
fn invalid_value(error: &clap::Error, invalid: &str, entry: Option<&Entry>) -> String {
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.as_str(),
        _ => "",
    };
    let why = match (std::error::Error::source(error), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => source.to_string(),
        (None, Some(ContextValue::Strings(valid))) => format!("it must be one of {}", valid.join(", ")),
        (None, _) => "it makes no sense here".into(),
    };
    match invalid.starts_with('-') {
        true => format!("invalid argument {value:?} for \"{}\" flag: {why}", spelled(invalid, entry)),
        false => format!("invalid argument {value:?}: {why}"),
    }
}

/// The command that the arguments name, as far as it can be told without reading the flags.
fn named(arguments: &[OsString]) -> (String, Option<&'static Entry>) {
    let mut words = arguments.iter().skip(1).filter_map(|argument| argument.to_str());
    while let Some(word) = words.next() {
        match word {
            flag if globals::WITH_VALUE.contains(&flag) => drop(words.next()),
            flag if flag.starts_with('-') => {}
            name => {
                let known = |table: &'static [Entry], name: &str| {
                    table.iter().find(|entry| entry.name == name || entry.aliases.contains(&name))
                };
                let Some(group) = group(name) else {
                    let entry = known(commands::TOP, name);
                    return (entry.map(|entry| entry.name.to_string()).unwrap_or_default(), entry);
                };
                return match words.find(|word| !word.starts_with('-')).and_then(|verb| known(group, verb)) {
                    Some(entry) => (format!("{name} {}", entry.name), Some(entry)),
                    None => (name.to_string(), None),
                };
            }
        }
    }
    (String::new(), None)
}

fn unknown_command(path: &str, name: &str, error: &clap::Error) -> u8 {
    let space = if path.is_empty() { "" } else { " " };
    if path.is_empty() && commands::UNBUILT.contains(&name) {
        print::note(format!("longshore: 'longshore {name}' is not built yet in this version"));
        return 1;
    }
    if let Some((_, why)) = commands::REFUSED.iter().find(|(refused, _)| path.is_empty() && *refused == name)
    {
        print::note(format!("longshore: 'longshore {name}' is not supported: {why}"));
        return 1;
    }
    let near = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::String(near)) => format!("\n\nDid you mean '{near}'?"),
        Some(ContextValue::Strings(near)) if !near.is_empty() => {
            // clap has the nearest last.
            let near: Vec<&str> = near.iter().rev().map(String::as_str).collect();
            format!("\n\nDid you mean '{}'?", near.join("' or '"))
        }
        _ => String::new(),
    };
    print::note(format!(
        "longshore: unknown command: longshore{space}{path} {name}{near}\n\nRun 'longshore{space}{path} --help' for more information"
    ));
    1
}

fn wrong_count(path: &str, entry: Option<&Entry>) -> u8 {
    let Some(entry) = entry else {
        print::note("longshore: wrong number of arguments\n\nRun 'longshore --help' for more information");
        return 1;
    };
    print::note(format!(
        "longshore: 'longshore {path}' {}\n\nUsage:  longshore {path} {}\n\nRun 'longshore {path} --help' for more information",
        entry.arguments.words(),
        entry.usage
    ));
    1
}

/// `unknown flag: --foo`, `unknown shorthand flag: 'x' in -xyz`.
fn unknown_flag(invalid: &str, arguments: &[OsString]) -> String {
    if invalid.starts_with("--") {
        let name = invalid.split('=').next().unwrap_or(invalid);
        return format!("unknown flag: {name}");
    }
    let short = invalid.chars().nth(1).unwrap_or('-');
    let within = arguments.iter().filter_map(|argument| argument.to_str()).find(|argument| {
        argument.starts_with('-') && !argument.starts_with("--") && argument.contains(short)
    });
    format!("unknown shorthand flag: {short:?} in {}", within.unwrap_or(invalid))
}

/// `--memory <BYTES>` without its value's name.
fn flag_name(invalid: &str) -> &str {
    invalid.split([' ', '=', '[']).next().unwrap_or(invalid)
}

/// `-m, --memory`: the flag with its short form, as docker names it.
fn spelled(invalid: &str, entry: Option<&Entry>) -> String {
    let long = flag_name(invalid);
    let Some(entry) = entry else { return long.to_string() };
    let command = (entry.define)(Command::new(entry.name));
    let short = command
        .get_arguments()
        .find(|arg| arg.get_long().is_some_and(|name| long.strip_prefix("--") == Some(name)))
        .and_then(Arg::get_short);
    match short {
        Some(short) => format!("-{short}, {long}"),
        None => long.to_string(),
    }
}

/// Help keeps its colours only on a terminal.
trait AnsiOrPlain {
    fn ansi_or_plain(&self) -> String;
}

impl AnsiOrPlain for clap::builder::StyledStr {
    fn ansi_or_plain(&self) -> String {
        use std::io::IsTerminal;
        let plain = !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some();
        if plain { self.to_string() } else { self.ansi().to_string() }
    }
}
