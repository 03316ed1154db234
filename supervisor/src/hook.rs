//! `longshored oci-hook -- PROGRAM ARGUMENT…`: an OCI hook whose arguments and environment may name the container.
//!
//! What always holds: the container's state comes on stdin, as a runtime gives it to any hook; what stands in `{{…}}` and is
//! not known is refused before the program is run. Known are `id`, `bundle`, `rootfs`, `pid`, `status`, and
//! `annotation "KEY"`.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;

/// Longest state in bytes: its annotations are the client's.
const MAX_STATE: u64 = 16 * 1024 * 1024;

/// What a runtime tells its hooks.
#[derive(Debug, Default, Deserialize)]
struct State {
    #[serde(default)]
    id: String,
    #[serde(default)]
    bundle: String,
    #[serde(default)]
    pid: i64,
    #[serde(default)]
    status: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Spec {
    root: Option<Root>,
}

#[derive(Debug, Deserialize)]
struct Root {
    path: String,
}

/// Runs the program in place of this one; returns only if that fails.
pub fn run(words: &[String]) -> anyhow::Result<()> {
    let mut text = String::new();
    std::io::stdin().take(MAX_STATE).read_to_string(&mut text).context("reading the state on stdin")?;
    let state: State = serde_json::from_str(&text).context("reading the state on stdin")?;
    let Some((program, arguments)) = words.split_first() else { bail!("oci-hook: no program is named") };
    let mut command = Command::new(render(program, &state)?);
    for argument in arguments {
        command.arg(render(argument, &state)?);
    }
    for (name, value) in std::env::vars() {
        if value.contains("{{") {
            command.env(name, render(&value, &state)?);
        }
    }
    Err(command.exec()).with_context(|| format!("running the hook {program}"))
}

fn render(text: &str, state: &State) -> anyhow::Result<String> {
    let (mut rendered, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((expression, tail)) = after.split_once("}}") else { bail!("{text:?}: {{{{ is not closed") };
        rendered.push_str(before);
        rendered.push_str(&value(expression.trim(), state).with_context(|| format!("in {text:?}"))?);
        rest = tail;
    }
    rendered.push_str(rest);
    Ok(rendered)
}

fn value(expression: &str, state: &State) -> anyhow::Result<String> {
    Ok(match expression {
        "id" => state.id.clone(),
        "bundle" => state.bundle.clone(),
        "rootfs" => rootfs(&state.bundle)?,
        "pid" => state.pid.to_string(),
        "status" => state.status.clone(),
        other => {
            let key = other.strip_prefix("annotation").map(str::trim);
            let key = key.and_then(|key| key.strip_prefix('"')?.strip_suffix('"'));
            let Some(key) = key else {
                bail!("{other:?} is not known: there are id, bundle, rootfs, pid, status, annotation \"KEY\"")
            };
            state.annotations.get(key).cloned().unwrap_or_default()
        }
    })
}

/// The spec's root, from the bundle if it is relative.
fn rootfs(bundle: &str) -> anyhow::Result<String> {
    let path = Path::new(bundle).join("config.json");
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let spec: Spec = serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
    let root = spec.root.with_context(|| format!("{} has no root", path.display()))?;
    Ok(Path::new(bundle).join(root.path).display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_in() {
        let bundle = tempfile::tempdir().unwrap();
        std::fs::write(bundle.path().join("config.json"), r#"{"root":{"path":"rootfs"}}"#).unwrap();
        let folder = bundle.path().display().to_string();
        let annotations = BTreeMap::from([("a b".to_owned(), "c".to_owned())]);
        let state =
            State { id: "i".into(), bundle: folder.clone(), pid: 7, status: "created".into(), annotations };
        for (text, expected) in [
            ("plain", "plain".to_owned()),
            ("--pid={{pid}}", "--pid=7".to_owned()),
            ("{{ id }}/{{status}}", "i/created".to_owned()),
            ("{{rootfs}}", format!("{folder}/rootfs")),
            ("{{annotation \"a b\"}}{{annotation \"x\"}}.", "c.".to_owned()),
        ] {
            assert_eq!(render(text, &state).unwrap(), expected);
        }
        for bad in ["{{pid", "{{.State}}", "{{annotation x}}"] {
            render(bad, &state).unwrap_err();
        }
    }
}
