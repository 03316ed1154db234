//! What is the same although it reads differently: ids, times, the program's name, the layout of tables.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;

use super::script::Command;
use super::side::Said;

/// Patterns and what stands for them, applied in this order.
static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        // What the older client says of a wrong number of arguments.
        (r#"(?ms)^"(docker [^"]*)" (requires|accepts) (exactly )?([^\n]*?)\.\n.*"#, "docker: '$1' $2 $4"),
        // The chain of programs that docker names.
        (r"failed to create shim task: |OCI runtime (create|exec) failed: |runc create failed: |exec failed: |unable to start container process: ", ""),
        (r"(?m): unknown\.?$", ""),
        (r#"(?m)^time="[^\n]*\n?"#, ""),
        (r"(?m)\n?^Did you mean .*\n?", ""),
        (r"(No such image: [^:\s]+):latest", "$1"),
        (r"(?m)^((docker|Error)[^\n]*[^.])\.$", "$1"),
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

static IDS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b").expect("a pattern"));

/// `b=2,a=1`: docker shows maps in no order.
static PAIRS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[\w.-]+=[\w.-]*(,[\w.-]+=[\w.-]*)+").expect("a pattern"));

/// One text in normal form. Ids are numbered as they come.
fn normal(text: &str) -> String {
    let mut text =
        text.replace("longshored", "dockerd").replace("longshore", "docker").replace("Longshore", "Docker");
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
    text = PAIRS
        .replace_all(&text, |found: &Captures<'_>| {
            let mut pairs: Vec<&str> = found[0].split(',').collect();
            pairs.sort_unstable();
            pairs.join(",")
        })
        .into_owned();
    for (pattern, stands) in RULES.iter() {
        text = pattern.replace_all(&text, *stands).into_owned();
    }
    text.trim().to_string()
}

/// What of two answers differs, in words; nothing if nothing does.
pub fn differing(
    command: &Command,
    theirs: &Said,
    ours: &Said,
    json: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut found = Vec::new();
    let mut look = |what: &str, theirs: String, ours: String| {
        if theirs != ours {
            found.push(format!("  {what}\n    docker:    {theirs:?}\n    longshore: {ours:?}"));
        }
    };
    look("exit code", theirs.code.to_string(), ours.code.to_string());
    if !has_their_words(&theirs.stderr, &ours.stderr) {
        look("stderr", normal(&theirs.stderr), normal(&ours.stderr));
    }
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

/// Files that differ when a scenario is over.
pub fn differing_files(theirs: &Said, ours: &Said) -> Vec<String> {
    let names: BTreeSet<&String> = theirs.files.keys().chain(ours.files.keys()).collect();
    let of = |said: &Said, name: &String| said.files.get(name).map(|text| normal(text));
    names
        .into_iter()
        .filter(|name| of(theirs, name) != of(ours, name))
        .map(|name| {
            format!(
                "  file {name}\n    docker:    {:?}\n    longshore: {:?}",
                of(theirs, name),
                of(ours, name)
            )
        })
        .collect()
}

/// Whether ours is silent where theirs is, and otherwise has each of their lines' words, whatever their case and whatever
/// else it says: errors may say more, and newer clients and engines begin them otherwise.
fn has_their_words(theirs: &str, ours: &str) -> bool {
    const BEGINNINGS: [&str; 4] =
        ["docker: ", "error response from daemon: ", "error: ", "invalid argument "];
    let (theirs, ours) = (normal(theirs).to_lowercase(), normal(ours).to_lowercase());
    if theirs.is_empty() || ours.is_empty() {
        return theirs.is_empty() && ours.is_empty();
    }
    theirs.lines().all(|line| {
        let mut core = line;
        while let Some(rest) = BEGINNINGS.iter().find_map(|beginning| core.strip_prefix(beginning)) {
            core = rest;
        }
        ours.contains(core.trim_end_matches('.'))
    })
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
fn walk(
    path: &str,
    theirs: &Value,
    ours: Option<&Value>,
    meant: &BTreeMap<String, String>,
    found: &mut Vec<String>,
) {
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
        (theirs, Some(ours)) => {
            found.push(format!("  {path}\n    docker:    {theirs}\n    longshore: {ours}"))
        }
    }
}
