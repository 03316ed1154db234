//! The command line as Go's flag packages read it, which is what callers of runc write: `-flag` is `--flag`, values follow
//! or come after `=`, switches take `=true` and `=false`, and flags may come after operands.

use super::Verb;
use super::error::{Error, Result};

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Switch,
    Value,
    /// A value, any number of times.
    List,
}

/// A flag that is understood.
pub struct Flag {
    pub name: &'static str,
    pub short: Option<char>,
    pub kind: Kind,
    pub help: &'static str,
}

impl Flag {
    pub const fn switch(name: &'static str, help: &'static str) -> Flag {
        Flag { name, short: None, kind: Kind::Switch, help }
    }

    pub const fn value(name: &'static str, help: &'static str) -> Flag {
        Flag { name, short: None, kind: Kind::Value, help }
    }

    pub const fn list(name: &'static str, help: &'static str) -> Flag {
        Flag { name, short: None, kind: Kind::List, help }
    }

    pub const fn or(self, short: char) -> Flag {
        Flag { short: Some(short), ..self }
    }

    fn is(&self, name: &str) -> bool {
        self.name == name || self.short.is_some_and(|short| name.len() == 1 && name.starts_with(short))
    }
}

/// How far flags are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Anywhere,
    /// Up to the first operand; what follows belongs to somebody else.
    BeforeOperands,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Args {
    flags: Vec<(&'static str, String)>,
    pub operands: Vec<String>,
}

impl Args {
    /// Whether a switch is on.
    pub fn has(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }

    /// The last value of a flag.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.flags.iter().rev().find(|(flag, _)| *flag == name).map(|(_, value)| value.as_str())
    }

    /// The last value of a flag unless it is empty.
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.value(name).filter(|value| !value.is_empty())
    }

    /// Every value of a flag.
    pub fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.flags.iter().filter(move |(flag, _)| *flag == name).map(|(_, value)| value.as_str())
    }

    /// A flag's value as a number.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let parse = |value: &str| {
            value.parse().map_err(|_| Error::Usage {
                why: format!("invalid value {value:?} for flag -{name}: not a number in range"),
            })
        };
        self.filled(name).map(parse).transpose()
    }

    /// The first operand: the container's id.
    pub fn id(&self) -> Result<&str> {
        match self.operands.first().map(String::as_str) {
            None | Some("") => Err(Error::EmptyId),
            Some(id) => Ok(id),
        }
    }
}

/// The words after the program's name.
pub fn words() -> Result<Vec<String>> {
    std::env::args_os()
        .skip(1)
        .map(|word| {
            word.into_string().map_err(|word| Error::Usage { why: format!("argument {word:?} is not UTF-8") })
        })
        .collect()
}

/// Reads the flags before the verb; answers what follows them.
pub fn parse_global<'a>(flags: &'static [Flag], words: &'a [String]) -> Result<(Args, &'a [String])> {
    let parsed = parse(flags, Reach::BeforeOperands, words)?;
    let rest = &words[words.len() - parsed.operands.len()..];
    Ok((parsed, rest))
}

const HELP: Flag = Flag { name: "help", short: Some('h'), kind: Kind::Switch, help: "" };

/// Reads flags and operands.
pub fn parse(flags: &'static [Flag], reach: Reach, words: &[String]) -> Result<Args> {
    let mut args = Args::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            args.operands.extend(rest.by_ref().cloned());
            break;
        }
        let name = match word.strip_prefix('-') {
            // A negative number is a value: no flag begins with a digit.
            Some(name) if !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) => {
                name.strip_prefix('-').unwrap_or(name)
            }
            _ => {
                args.operands.push(word.clone());
                if reach == Reach::BeforeOperands {
                    args.operands.extend(rest.by_ref().cloned());
                }
                continue;
            }
        };
        let (name, given) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        };
        let flag = flags.iter().chain([&HELP]).find(|flag| flag.is(name));
        let flag =
            flag.ok_or_else(|| Error::Usage { why: format!("flag provided but not defined: -{name}") })?;
        let value = match (flag.kind, given) {
            (Kind::Switch, None) => "true".to_owned(),
            (Kind::Switch, Some(value)) => truth(name, value)?.to_string(),
            (_, Some(value)) => value.to_owned(),
            (_, None) => {
                let value = rest.next().cloned();
                value.ok_or_else(|| Error::Usage { why: format!("flag needs an argument: -{name}") })?
            }
        };
        args.flags.push((flag.name, value));
    }
    Ok(args)
}

fn truth(name: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::Usage { why: format!("invalid boolean value {value:?} for -{name}") }),
    }
}

/// Refuses too few and too many operands.
pub fn check_count(verb: &Verb, given: usize) -> Result<()> {
    let (least, most) = verb.count;
    let (how, number) = match (least == most, given < least, given > most) {
        (_, false, false) => return Ok(()),
        (true, ..) => ("exactly", least),
        (false, true, _) => ("a minimum of", least),
        (false, false, _) => ("a maximum of", most),
    };
    Err(Error::Usage { why: format!("{:?} requires {how} {number} argument(s)", verb.name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag::value("bundle", "").or('b'),
        Flag::switch("no-subreaper", ""),
        Flag::list("env", "").or('e'),
        Flag::value("memory-swap", ""),
    ];

    fn read(reach: Reach, words: &[&str]) -> Result<Args> {
        parse(FLAGS, reach, &words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        let args = read(Reach::Anywhere, &["-no-subreaper", "--bundle=/b", "id"]).unwrap();
        assert!(args.has("no-subreaper"));
        assert_eq!(args.value("bundle"), Some("/b"));
        assert_eq!(args.operands, ["id"]);
    }

    #[test]
    fn flags_may_follow_operands() {
        let args = read(Reach::Anywhere, &["id", "-b", "/b", "--no-subreaper=false"]).unwrap();
        assert_eq!((args.value("bundle"), args.has("no-subreaper")), (Some("/b"), false));
        let args = read(Reach::BeforeOperands, &["-e", "A=1", "--env=B=2", "id", "ls", "-b", "--"]).unwrap();
        assert_eq!(args.list("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert_eq!(args.operands, ["id", "ls", "-b", "--"]);
    }

    #[test]
    fn negative_numbers_are_values() {
        let args = read(Reach::Anywhere, &["--memory-swap", "-1", "id", "-9"]).unwrap();
        assert_eq!(args.number::<i64>("memory-swap").unwrap(), Some(-1));
        assert_eq!(args.operands, ["id", "-9"]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert_eq!(
            read(Reach::Anywhere, &["--nope"]).unwrap_err().to_string(),
            "flag provided but not defined: -nope"
        );
        assert!(read(Reach::Anywhere, &["--bundle"]).is_err());
        assert!(read(Reach::Anywhere, &["--no-subreaper=maybe"]).is_err());
    }
}
