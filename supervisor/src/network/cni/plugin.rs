//! Running one plugin: its request on stdin and in the environment, its answer on stdout.
//!
//! What always holds: it ends within a time, with all that it started; no more than a bound of what it says is kept.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::config::{NetworkList, plugin_type};
use super::error::{CniError, Result};

/// How long one plugin may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long the output of one that has ended may stay open, in the hands of what it started.
const LATE: Duration = Duration::from_secs(1);
/// Bytes that are read of what it says, on each stream.
const SAID: u64 = 1 << 20;
/// Characters of what is no result that are shown.
const SHOWN: usize = 200;

/// What a plugin is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Check,
    Del,
    /// Whether the network can be had.
    Status,
    /// What nobody has any more is removed.
    Collect,
}

impl Command {
    pub fn name(self) -> &'static str {
        match self {
            Command::Add => "ADD",
            Command::Check => "CHECK",
            Command::Del => "DEL",
            Command::Status => "STATUS",
            Command::Collect => "GC",
        }
    }
}

/// What all plugins of one attachment get.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub command: Command,
    pub network: &'a str,
    pub container: &'a str,
    /// Empty: it is gone.
    pub namespace: &'a str,
    pub interface: &'a str,
    /// `K=V` between semicolons.
    pub args: &'a str,
    pub folders: &'a [PathBuf],
    pub patience: Duration,
}

/// The words of a plugin that failed.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Failure {
    code: u64,
    msg: String,
    details: String,
}

/// Runs a plugin; its result, `Null` if it has none.
pub async fn run(call: Call<'_>, config: &Map<String, Value>) -> Result<Value> {
    let plugin = plugin_type(config).unwrap_or_default();
    let program = find(call.network, plugin, call.folders)?;
    let input = Value::Object(config.clone()).to_string();
    match tokio::time::timeout(call.patience, talk(call, &program, &input)).await {
        Ok(said) => {
            judge(call, plugin, said.map_err(|source| CniError::Run { plugin: plugin.to_owned(), source })?)
        }
        Err(_) => Err(CniError::Late {
            plugin: plugin.to_owned(),
            network: call.network.to_owned(),
            command: call.command.name(),
            seconds: call.patience.as_secs(),
        }),
    }
}

/// Whether all plugins of a network are there.
pub fn check(network: &NetworkList, folders: &[PathBuf]) -> Result<()> {
    let mut plugins = network.plugins.iter().filter_map(plugin_type);
    plugins.try_for_each(|plugin| find(&network.name, plugin, folders).map(drop))
}

fn find(network: &str, plugin: &str, folders: &[PathBuf]) -> Result<PathBuf> {
    let program = folders.iter().map(|folder| folder.join(plugin)).find(|path| path.is_file());
    program.ok_or_else(|| CniError::NoPlugin {
        plugin: plugin.to_owned(),
        network: network.to_owned(),
        folders: folders.to_vec(),
    })
}

struct Said {
    success: bool,
    out: Vec<u8>,
    err: Vec<u8>,
}

/// Ends a plugin's process group if the plugin is not waited for to its end.
struct Group(Option<rustix::process::Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

async fn talk(call: Call<'_>, program: &Path, input: &str) -> std::io::Result<Said> {
    let path = std::env::join_paths(call.folders).unwrap_or_default();
    let mut command = tokio::process::Command::new(program);
    command.env("CNI_COMMAND", call.command.name()).env("CNI_PATH", path);
    // The others are about no attachment.
    if !matches!(call.command, Command::Status | Command::Collect) {
        command.env("CNI_CONTAINERID", call.container).env("CNI_NETNS", call.namespace);
        command.env("CNI_IFNAME", call.interface).env("CNI_ARGS", call.args);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    let mut group = Group(pid);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let stdin = child.stdin.take();
    let write = async {
        if let Some(mut stdin) = stdin {
            // One that does not read its input says why otherwise.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read_out = async {
        if let Some(stdout) = stdout {
            let _ = stdout.take(SAID).read_to_end(&mut out).await;
        }
    };
    let read_err = async {
        if let Some(stderr) = stderr {
            let _ = stderr.take(SAID).read_to_end(&mut err).await;
        }
    };
    let status = {
        let streams = async { tokio::join!(write, read_out, read_err) };
        tokio::pin!(streams);
        tokio::select! {
            _ = &mut streams => child.wait().await?,
            status = child.wait() => {
                let _ = tokio::time::timeout(LATE, streams).await;
                status?
            }
        }
    };
    group.0 = None;
    Ok(Said { success: status.success(), out, err })
}

fn judge(call: Call<'_>, plugin: &str, said: Said) -> Result<Value> {
    let no_result = |why: String| CniError::NoResult {
        plugin: plugin.to_owned(),
        network: call.network.to_owned(),
        command: call.command.name(),
        why,
    };
    if said.out.len() as u64 >= SAID {
        return Err(no_result(format!("it says more than {SAID} bytes")));
    }
    if !said.success {
        let failure: Failure = serde_json::from_slice(&said.out).unwrap_or_default();
        let mut message = failure.msg;
        if !failure.details.is_empty() {
            message = format!("{message}: {}", failure.details);
        }
        if message.is_empty() {
            let words = String::from_utf8_lossy(&said.err);
            message = words.lines().next().unwrap_or("it says nothing").chars().take(500).collect();
        }
        return Err(CniError::Plugin {
            plugin: plugin.to_owned(),
            network: call.network.to_owned(),
            command: call.command.name(),
            code: failure.code,
            message,
        });
    }
    if call.command != Command::Add {
        return Ok(Value::Null);
    }
    if said.out.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&said.out).map_err(|error| {
        let said = String::from_utf8_lossy(&said.out);
        let said: String = said.trim().chars().take(SHOWN).collect();
        no_result(format!("{error}: {said:?}"))
    })
}
