//! Changes of an image's config as lines of a Dockerfile: what `commit -c` and `import -c` take.
//!
//! What always holds: a line that is not understood changes nothing and is refused in docker's words.

use serde_json::{Map, Value, json};

use crate::engine::conflict::Conflict;
use crate::engine::signals;
use crate::error::{Error, Result};

/// Most lines, and bytes of all of them.
const MAX_LINES: usize = 1024;
const MAX_BYTES: usize = 1 << 20;

/// Applies lines to the `config` object of an image.
pub fn apply(config: &mut Map<String, Value>, lines: &[String]) -> Result<()> {
    let bytes: usize = lines.iter().map(String::len).sum();
    for (limit, is, max) in
        [("changes of one image", lines.len(), MAX_LINES), ("bytes of one image's changes", bytes, MAX_BYTES)]
    {
        if is > max {
            return Err(Error::ResourceExhausted { what: "change".to_owned(), limit, max: max as u64 });
        }
    }
    lines.iter().try_for_each(|line| apply_one(config, line.trim()))
}

fn apply_one(config: &mut Map<String, Value>, line: &str) -> Result<()> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (name, rest) = (word.to_ascii_uppercase(), rest.trim());
    let needs_one = || {
        if rest.is_empty() { refuse(&format!("{name} requires at least one argument")) } else { Ok(()) }
    };
    match name.as_str() {
        "CMD" => set(config, "Cmd", command(rest)),
        "ENTRYPOINT" => set(config, "Entrypoint", command(rest)),
        "ENV" => {
            needs_one()?;
            environment(config, pairs("ENV", rest)?);
        }
        "LABEL" => {
            needs_one()?;
            let pairs = pairs("LABEL", rest)?;
            with_object(config, "Labels", |labels| {
                labels.extend(pairs.into_iter().map(|(key, value)| (key, Value::String(value))));
            });
        }
        "EXPOSE" => {
            needs_one()?;
            for port in words(rest)? {
                let ports = ports(&port)?;
                with_object(config, "ExposedPorts", |exposed| {
                    exposed.extend(ports.into_iter().map(|port| (port, json!({}))));
                });
            }
        }
        "ONBUILD" => {
            needs_one()?;
            let trigger = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            match trigger.as_str() {
                "ONBUILD" => return refuse("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
                "FROM" | "MAINTAINER" => {
                    return refuse(&format!("{trigger} isn't allowed as an ONBUILD trigger"));
                }
                _ => with_list(config, "OnBuild", |triggers| triggers.push(rest.into())),
            }
        }
        "USER" => {
            exactly_one("USER", rest)?;
            set(config, "User", rest.into());
        }
        "VOLUME" => {
            needs_one()?;
            for place in json_words(rest).map_or_else(|| words(rest), Ok)? {
                let place = place.trim();
                if place.is_empty() {
                    return refuse("VOLUME specified can not be an empty string");
                }
                with_object(config, "Volumes", |volumes| {
                    volumes.insert(place.to_owned(), json!({}));
                });
            }
        }
        "WORKDIR" => {
            exactly_one("WORKDIR", rest)?;
            let before = config.get("WorkingDir").and_then(Value::as_str).unwrap_or_default();
            let path = std::path::Path::new("/").join(before).join(rest);
            set(config, "WorkingDir", crate::engine::volumes::clean(&path.display().to_string()).into());
        }
        "STOPSIGNAL" => {
            exactly_one("STOPSIGNAL", rest)?;
            if signals::parse(rest).is_err() {
                return refuse(&format!("invalid signal: {rest}"));
            }
            set(config, "StopSignal", rest.into());
        }
        "HEALTHCHECK" => {
            needs_one()?;
            set(config, "Healthcheck", health(rest)?);
        }
        _ => return refuse(&format!("{} is not a valid change command", word.to_ascii_lowercase())),
    }
    Ok(())
}

fn refuse<T>(why: &str) -> Result<T> {
    Err(Conflict::Change { why: why.to_owned() }.into())
}

fn exactly_one(name: &str, rest: &str) -> Result<()> {
    if rest.is_empty() { refuse(&format!("{name} requires exactly one argument")) } else { Ok(()) }
}

fn set(config: &mut Map<String, Value>, key: &str, value: Value) {
    config.insert(key.to_owned(), value);
}

/// Changes the object at `key`; what is there and is none, is replaced.
fn with_object(config: &mut Map<String, Value>, key: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut map = match config.remove(key) {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    change(&mut map);
    config.insert(key.to_owned(), Value::Object(map));
}

/// The same for a list.
fn with_list(config: &mut Map<String, Value>, key: &str, change: impl FnOnce(&mut Vec<Value>)) {
    let mut list = match config.remove(key) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    change(&mut list);
    config.insert(key.to_owned(), Value::Array(list));
}

/// A JSON list of words, or a line for the shell.
fn command(rest: &str) -> Value {
    match json_words(rest) {
        Some(words) => words.into(),
        None if rest.is_empty() => Value::Null,
        None => json!(["/bin/sh", "-c", rest]),
    }
}

fn json_words(rest: &str) -> Option<Vec<String>> {
    serde_json::from_str(rest).ok()
}

/// Words of a line, with quotes and backslashes as in a Dockerfile.
fn words(line: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut begun, mut quote) = (Vec::new(), String::new(), false, None);
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None, '"' | '\'') => (quote, begun) = (Some(letter), true),
            (Some(open), letter) if letter == open => quote = None,
            (None | Some('"'), '\\') => {
                begun = true;
                word.extend(letters.next());
            }
            (None, letter) if letter.is_whitespace() => {
                if std::mem::take(&mut begun) {
                    words.push(std::mem::take(&mut word));
                }
            }
            (_, letter) => {
                begun = true;
                word.push(letter);
            }
        }
    }
    if quote.is_some() {
        return refuse("a quote is not closed");
    }
    if begun {
        words.push(word);
    }
    Ok(words)
}

/// `key=value …`, or the older `key value`.
fn pairs(name: &str, rest: &str) -> Result<Vec<(String, String)>> {
    let first = rest.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        return match rest.split_once(char::is_whitespace) {
            Some((key, value)) => Ok(vec![(key.to_owned(), value.trim().to_owned())]),
            None => refuse(&format!("{name} must have two arguments")),
        };
    }
    let mut found = Vec::new();
    for word in words(rest)? {
        match word.split_once('=') {
            Some(("", _)) => return refuse(&format!("{name} names can not be blank")),
            Some((key, value)) => found.push((key.to_owned(), value.to_owned())),
            None => {
                return refuse(&format!(
                    "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
                ));
            }
        }
    }
    Ok(found)
}

fn environment(config: &mut Map<String, Value>, pairs: Vec<(String, String)>) {
    with_list(config, "Env", |list| {
        for (key, value) in pairs {
            let entry = Value::String(format!("{key}={value}"));
            let same = |old: &Value| old.as_str().and_then(|old| old.split('=').next()) == Some(key.as_str());
            match list.iter_mut().find(|old| same(old)) {
                Some(old) => *old = entry,
                None => list.push(entry),
            }
        }
    });
}

/// `80`, `80/udp`, `80-82`.
fn ports(text: &str) -> Result<Vec<String>> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return refuse(&format!("Invalid proto: {protocol}"));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if first <= last => {
            Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
        }
        _ => refuse(&format!("Invalid containerPort: {range}")),
    }
}

/// `NONE`, or `[--interval=…] CMD …`.
fn health(rest: &str) -> Result<Value> {
    let mut check = Map::new();
    let mut rest = rest;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        rest = after.trim_start();
        let (name, value) = flag.split_once('=').unwrap_or((flag, ""));
        let key = match name {
            "interval" => "Interval",
            "timeout" => "Timeout",
            "start-period" => "StartPeriod",
            "start-interval" => "StartInterval",
            "retries" => "Retries",
            _ => return refuse(&format!("Unknown flag: {name}")),
        };
        let number = if key == "Retries" {
            value.parse::<i64>().ok().filter(|count| *count >= 1)
        } else {
            crate::engine::filters::duration(value).and_then(|time| i64::try_from(time.as_nanos()).ok())
        };
        match number {
            Some(number) => check.insert(key.to_owned(), number.into()),
            None => return refuse(&format!("invalid value for --{name}: {value:?}")),
        };
    }
    let (kind, line) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let test = match kind.to_ascii_uppercase().as_str() {
        "NONE" if line.trim().is_empty() && check.is_empty() => json!(["NONE"]),
        "NONE" => return refuse("HEALTHCHECK NONE takes no arguments"),
        "CMD" if line.trim().is_empty() => return refuse("Missing command after HEALTHCHECK CMD"),
        "CMD" => match json_words(line.trim()) {
            Some(mut words) => {
                words.insert(0, "CMD".to_owned());
                words.into()
            }
            None => json!(["CMD-SHELL", line.trim()]),
        },
        other => return refuse(&format!("Unknown type {other:?} in HEALTHCHECK (try CMD)")),
    };
    check.insert("Test".to_owned(), test);
    Ok(Value::Object(check))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(lines: &[&str]) -> Result<Value> {
        let mut config = json!({"Env": ["PATH=/bin", "A=1"], "WorkingDir": "/srv"});
        let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        let Value::Object(map) = &mut config else { return Ok(Value::Null) };
        apply(map, &lines)?;
        Ok(config)
    }

    #[test]
    fn every_instruction() {
        let config = changed(&[
            "ENV A=b \"C=d e\"",
            "ENV OLD way it was",
            "CMD [\"x\",\"y\"]",
            "entrypoint foo bar",
            "EXPOSE 80 53/udp 90-91",
            "VOLUME /q",
            "VOLUME [\"/r\"]",
            "WORKDIR rel",
            "LABEL l=m n=\"o p\"",
            "USER 5",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN x",
            "HEALTHCHECK --interval=5s --retries=2 CMD true",
        ])
        .unwrap();
        assert_eq!(
            config,
            json!({
                "Env": ["PATH=/bin", "A=b", "C=d e", "OLD=way it was"],
                "Cmd": ["x", "y"],
                "Entrypoint": ["/bin/sh", "-c", "foo bar"],
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "90/tcp": {}, "91/tcp": {}},
                "Volumes": {"/q": {}, "/r": {}},
                "WorkingDir": "/srv/rel",
                "Labels": {"l": "m", "n": "o p"},
                "User": "5",
                "StopSignal": "SIGINT",
                "OnBuild": ["RUN x"],
                "Healthcheck": {"Interval": 5_000_000_000_i64, "Retries": 2, "Test": ["CMD-SHELL", "true"]},
            })
        );
    }

    #[test]
    fn refused_in_dockers_words() {
        for (line, why) in [
            ("RUN x", "run is not a valid change command"),
            ("FOO", "foo is not a valid change command"),
            ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
            ("STOPSIGNAL NOPE", "invalid signal: NOPE"),
            ("COPY a b", "copy is not a valid change command"),
            ("ENV", "ENV requires at least one argument"),
            ("ENV a", "ENV must have two arguments"),
            ("LABEL", "LABEL requires at least one argument"),
            ("EXPOSE", "EXPOSE requires at least one argument"),
            ("EXPOSE x", "Invalid containerPort: x"),
            ("ENV a=\"b", "a quote is not closed"),
        ] {
            assert_eq!(changed(&[line]).unwrap_err().for_people(), why, "{line}");
        }
        assert_eq!(changed(&["CMD"]).unwrap()["Cmd"], Value::Null);
    }
}
