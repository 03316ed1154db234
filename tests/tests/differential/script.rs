//! The scripts: scenarios of shell lines, and the differences that are meant.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// One line.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Line")]
pub struct Command {
    pub run: String,
    /// The name of the meant difference.
    pub differs: Option<String>,
    /// The difference does not show each time.
    pub sometimes: bool,
    /// Both print JSON: every field of docker's is in ours, with the same value.
    pub json: bool,
    /// Lines come in no order.
    pub unordered: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Plain(String),
    Detailed(Detailed),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Detailed {
    run: String,
    differs: Option<String>,
    #[serde(default)]
    sometimes: bool,
    #[serde(default)]
    json: bool,
    #[serde(default)]
    unordered: bool,
}

impl From<Line> for Command {
    fn from(line: Line) -> Command {
        match line {
            Line::Plain(run) => Command { run, ..Command::default() },
            Line::Detailed(Detailed { run, differs, sometimes, json, unordered }) => {
                Command { run, differs, sometimes, json, unordered }
            }
        }
    }
}

/// Lines that run one after another in a folder of their own, and clean up after themselves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    pub commands: Vec<Command>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    scenario: Vec<Scenario>,
}

impl Scenario {
    /// Those of all files that `takes` takes by their names, in the files' order.
    pub fn read_all(folder: &Path, takes: impl Fn(&str) -> bool) -> Vec<Scenario> {
        let mut paths: Vec<_> = fs::read_dir(folder)
            .expect("tests/differential")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.ends_with(".toml") && name != "differences.toml" && takes(&name)
            })
            .collect();
        paths.sort();
        let mut scenarios = Vec::new();
        for path in paths {
            let text = fs::read_to_string(&path).expect("a script");
            let file: File =
                toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            scenarios.extend(file.scenario);
        }
        scenarios
    }
}

/// `differences.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Differences {
    /// By their names, each in the words of docs/docker.md.
    pub known: BTreeMap<String, String>,
    /// Rows of docs/docker.md that no command shows, by words of theirs, with the reason.
    pub unshown: BTreeMap<String, String>,
    /// Fields of JSON by their paths (`*` for any element), with the name of the difference.
    pub json: BTreeMap<String, String>,
}

impl Differences {
    pub fn read(path: &Path) -> Differences {
        let text = fs::read_to_string(path).expect("differences.toml");
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}
