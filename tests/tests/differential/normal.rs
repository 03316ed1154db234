//! What is the same although it reads differently: ids, times, the program's name, the layout of tables.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;

use super::script::Command;
use super::side::Said;

/// Patterns and what stands for them, applied in this order.
static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        // The newer client's words after a refusal, the older client's, and ours.
        (r"(?m)^See 'docker [^']*--help'( for more information)?\.?\n?", ""),
        (r"(?m)\n?^Usage:  docker .*\n?", ""),
        (r"(?m)\n?^Run 'docker [^']*--help' for more information\n?", ""),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "<time>"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? [+-]\d{4} [A-Z]+", "<time>"),
        (r"(About an? (minute|hour)|Less than a second|\d+ (second|minute|hour|day|week|month|year)s?)", "<span>"),
        (r"\b127\.0\.0\.1:\d{4,5}\b", "<registry>"),
        (r"\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b", "<mac>"),
        (r" {2,}", "  "),
        (r"(?m)[ \t]+$", ""),
        (r"\n{2,}", "\n"),
    ]
    .into_iter()
    .map(|(pattern, stands)| (Regex::new(pattern).expect("a pattern"), stands))
    .collect()
});

static IDS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b").expect("a pattern"));

/// One text in normal form. Ids are numbered as they come.
fn normal(text: &str) -> String {
    let mut text = text.replace("longshored", "dockerd").replace("longshore", "docker").replace("Longshore", "Docker");
    let mut ids: Vec<String> = Vec::new();
    let numbered = |found: &Captures<'_>| {
        let id = &found[0];
        let known = ids.iter().position(|known| known.starts_with(id) || id.starts_with(known.as_str()));
        let number = known.unwrap_or_else(|| {
            ids.push(id.to_string());
            ids.len() - 1
        });
        format!("<{}id {number}>", if id.len() == 12 { "short " } else { "" })
    };
    text = IDS.replace_all(&text, numbered).into_owned();
    for (pattern, stands) in RULES.iter() {
        text = pattern.replace_all(&text, *stands).into_owned();
    }
    text.trim().to_string()
}

/// What of two answers differs, in words; nothing if nothing does.
pub fn differing(command: &Command, theirs: &Said, ours: &Said, json: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut look = |what: &str, theirs: String, ours: String| {
        if theirs != ours {
            found.push(format!("  {what}\n    docker:    {theirs:?}\n    longshore: {ours:?}"));
        }
    };
    look("exit code", theirs.code.to_string(), ours.code.to_string());
    look("stderr", normal(&theirs.stderr), normal(&ours.stderr));
    let files = |said: &Said| format!("{:#?}", said.files.iter().map(|(name, text)| (name, normal(text))).collect::<Vec<_>>());
    look("files", files(theirs), files(ours));
    match command.json {
        true => found.extend(differing_json(&theirs.stdout, &ours.stdout, json)),
        false => {
            let text = |said: &Said| {
                let text = normal(&said.stdout);
                let mut lines: Vec<&str> = text.lines().collect();
                if command.unordered {
                    lines.sort_unstable();
                }
                lines.join("\n")
            };
            look("stdout", text(theirs), text(ours));
        }
    }
    found
}

fn differing_json(theirs: &str, ours: &str, meant: &BTreeMap<String, String>) -> Vec<String> {
    let parse = |text: &str| serde_json::from_str::<Value>(text);
    let (theirs, ours) = match (parse(theirs), parse(ours)) {
        (Ok(theirs), Ok(ours)) => (theirs, ours),
        (theirs, ours) => return vec![format!("  not JSON: {:?} {:?}", theirs.err(), ours.err())],
    };
    let mut found = Vec::new();
    walk("", &theirs, Some(&ours), meant, &mut found);
    found
}

/// Every field of docker's, with ours.
fn walk(path: &str, theirs: &Value, ours: Option<&Value>, meant: &BTreeMap<String, String>, found: &mut Vec<String>) {
    if meant.contains_key(path) {
        return;
    }
    let below = |name: &str| format!("{path}.{name}").trim_start_matches('.').to_string();
    match (theirs, ours) {
        (Value::Object(theirs), Some(Value::Object(ours))) => {
            for (name, value) in theirs {
                walk(&below(name), value, ours.get(name), meant, found);
            }
        }
        (Value::Array(theirs), Some(Value::Array(ours))) if theirs.len() == ours.len() => {
            for (theirs, ours) in theirs.iter().zip(ours) {
                walk(&below("*"), theirs, Some(ours), meant, found);
            }
        }
        (theirs, None) => found.push(format!("  {path} is missing; docker has {theirs}")),
        (theirs, Some(ours)) if normal(&theirs.to_string()) == normal(&ours.to_string()) => {}
        (theirs, Some(ours)) => found.push(format!("  {path}\n    docker:    {theirs}\n    longshore: {ours}")),
    }
}
