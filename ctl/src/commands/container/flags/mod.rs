//! The flags that run and create share: what a container is made from. One file for each of their subjects.

mod care;
mod isolation;
mod limits;
mod network;
mod storage;

use std::path::PathBuf;

use longshore_proto::longshore::engine::v1::{ContainerConfig, CreateRequest, PullPolicy};

use crate::auth;
use crate::cli::{Unbuilt, refused};
use crate::failure::Failure;
use crate::parse::{environment, number, pairs};

pub use limits::Live;

/// The most of a command line that is kept with a container.
const MAX_MADE_BY: usize = 4096;

/// Whether a pull is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    Normal,
    Quiet,
}

#[derive(clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Add an annotation to the container (passed through to the OCI runtime)
    #[arg(long, value_name = "KEY=VALUE", value_parser = pairs::annotation)]
    annotation: Vec<(String, String)>,
    /// Attach to STDIN, STDOUT or STDERR
    #[arg(short, long, value_name = "STREAM", value_parser = stream)]
    pub attach: Vec<String>,
    /// Write the container ID to the file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Skip image verification: signatures are not looked at
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = number::boolean)]
    disable_content_trust: Option<bool>,
    /// Overwrite the default ENTRYPOINT of the image; an empty one clears it
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Set environment variables; KEY alone takes the value from here
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = environment::variable)]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    pub interactive: bool,
    /// Set meta data on a container
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = pairs::label)]
    label: Vec<(String, String)>,
    /// Read in a line delimited file of labels
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// Assign a name to the container
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Platform of the image, as in linux/amd64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Pull the image before: `always`, `missing` (the default) or `never`
    #[arg(long, value_name = "always|missing|never", default_value = "missing", hide_default_value = true)]
    pull: String,
    /// Suppress the pull output
    #[arg(short, long)]
    quiet: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub tty: bool,
    /// Username or UID
    #[arg(short, long, value_name = "NAME|UID[:GROUP|GID]")]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,
    #[command(flatten)]
    network: network::Flags,
    #[command(flatten)]
    storage: storage::Flags,
    #[command(flatten)]
    limits: limits::Flags,
    #[command(flatten)]
    isolation: isolation::Flags,
    #[command(flatten)]
    care: care::Flags,
    /// The image, and what to run in it instead of its own command
    #[arg(value_name = "IMAGE [COMMAND] [ARG...]", required = true, num_args = 1.., trailing_var_arg = true)]
    image_and_args: Vec<String>,
}

/// docker's flags of run and create that there will not be.
pub const UNBUILT: &[Unbuilt] = &[
    refused("cpu-count", "it is for Windows; use --cpus"),
    refused("cpu-percent", "it is for Windows; use --cpus"),
    refused("gpus", "GPUs are devices with CDI names: use --device nvidia.com/gpu=all"),
    refused("io-maxbandwidth", "it is for Windows; use --device-read-bps and --device-write-bps"),
    refused("io-maxiops", "it is for Windows; use --device-read-iops and --device-write-iops"),
    refused("kernel-memory", "kernels have no such limit of its own any more; use --memory"),
    refused(
        "use-api-socket",
        "it would give the container the host; mount the socket with -v to do that knowingly",
    ),
];

/// Names of the standard streams, in small letters.
fn stream(text: &str) -> Result<String, String> {
    match text.to_lowercase().as_str() {
        name @ ("stdin" | "stdout" | "stderr") => Ok(name.to_string()),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".into()),
    }
}

impl Flags {
    pub fn verbosity(&self) -> Verbosity {
        if self.quiet { Verbosity::Quiet } else { Verbosity::Normal }
    }

    pub fn image(&self) -> &str {
        self.image_and_args.first().map_or("", String::as_str)
    }

    /// What the daemon is asked for.
    pub fn into_request(self) -> Result<CreateRequest, Failure> {
        let pull = pull_policy(&self.pull)?;
        let auth = match pull {
            PullPolicy::Never => None,
            PullPolicy::Missing | PullPolicy::Always => auth::for_image(self.image()),
        };
        let name = self.name.clone().unwrap_or_default();
        Ok(CreateRequest { name, pull: pull.into(), auth, config: Some(self.into_config()?) })
    }

    /// Whether the container goes when it has ended.
    pub fn auto_remove(&self) -> bool {
        self.care.rm
    }

    fn into_config(self) -> Result<ContainerConfig, Failure> {
        if self.disable_content_trust == Some(false) {
            return Err(Failure::Refused(
                "--disable-content-trust=false is not supported: signatures of images are not verified"
                    .into(),
            ));
        }
        let mut labels: std::collections::HashMap<_, _> =
            environment::labels(&self.label_file)?.into_iter().collect();
        labels.extend(self.label);
        let mut words = self.image_and_args.into_iter();
        let mut config = ContainerConfig {
            image: words.next().unwrap_or_default(),
            args: words.collect(),
            entrypoint_set: self.entrypoint.is_some(),
            entrypoint: self.entrypoint.into_iter().filter(|word| !word.is_empty()).collect(),
            env: environment::variables(&self.env_file, self.env)?,
            working_dir: self.workdir.unwrap_or_default(),
            user: self.user.unwrap_or_default(),
            tty: self.tty,
            open_stdin: self.interactive,
            labels,
            annotations: self.annotation.into_iter().collect(),
            platform: self.platform.unwrap_or_default(),
            made_by: made_by(std::env::args_os().map(|word| word.to_string_lossy().into_owned())),
            cidfile: self.cidfile.map(|path| whole_path(&path)).unwrap_or_default(),
            attach: match self.attach.is_empty() {
                false => self.attach,
                true if self.interactive => vec!["stdin".into(), "stdout".into(), "stderr".into()],
                true => vec!["stdout".into(), "stderr".into()],
            },
            ..ContainerConfig::default()
        };
        self.network.fill(&mut config)?;
        self.storage.fill(&mut config)?;
        self.limits.fill(&mut config)?;
        self.isolation.fill(&mut config)?;
        self.care.fill(&mut config)?;
        Ok(config)
    }
}

fn whole_path(path: &std::path::Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn pull_policy(text: &str) -> Result<PullPolicy, Failure> {
    match text {
        "missing" | "" => Ok(PullPolicy::Missing),
        "always" => Ok(PullPolicy::Always),
        "never" => Ok(PullPolicy::Never),
        other => Err(Failure::Refused(format!(
            "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
        ))),
    }
}

/// The command line, quoted for a shell where needed. Values of `-e` are the container's business and are shown by
/// inspect anyway.
fn made_by(arguments: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for argument in arguments {
        if !text.is_empty() {
            text.push(' ');
        }
        let plain = |c: char| c.is_alphanumeric() || "-_./:=@,+%".contains(c);
        match !argument.is_empty() && argument.chars().all(plain) {
            true => text.push_str(&argument),
            false => text.push_str(&format!("'{}'", argument.replace('\'', r"'\''"))),
        }
        if text.len() > MAX_MADE_BY {
            let end = (0..=MAX_MADE_BY).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
            text.truncate(end);
            text.push('…');
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_kept_as_a_shell_would_take_it() {
        let words = |text: &[&str]| made_by(text.iter().map(|word| word.to_string()));
        assert_eq!(
            words(&["longshore", "run", "x", "sh", "-c", "echo 'a b'"]),
            r"longshore run x sh -c 'echo '\''a b'\'''"
        );
        assert_eq!(words(&["a", ""]), "a ''");
        assert!(words(&["ä".repeat(10_000).as_str()]).len() < 5000);
    }
}
