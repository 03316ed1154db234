//! The flags that run and create share: what a container is made from.

use std::path::PathBuf;

use longshore_proto::longshore::engine::v1::{ContainerConfig, CreateRequest, Mount, PullPolicy, Resources};

use crate::auth;
use crate::cli::{Unbuilt, long, short};
use crate::failure::Failure;
use crate::parse::pairs::LogOption;
use crate::parse::{environment, number, pairs, size, volume};

/// The most of a command line that is kept with a container.
const MAX_MADE_BY: usize = 4096;

/// Whether a pull is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    Normal,
    Quiet,
}

#[derive(clap::Args)]
pub struct Flags {
    /// Add Linux capabilities
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// Write the container ID to the file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Number of CPUs
    #[arg(long, value_name = "DECIMAL", value_parser = number::nano_cpus)]
    pub cpus: Option<i64>,
    /// Overwrite the default ENTRYPOINT of the image; an empty one clears it
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,
    /// Set environment variables; KEY alone takes the value from here
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = environment::variable)]
    pub env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Container host name
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    pub interactive: bool,
    /// Set meta data on a container
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = pairs::label)]
    pub label: Vec<(String, String)>,
    /// Read in a line delimited file of labels
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<PathBuf>,
    /// Log options: max-size (-1 for no rotation) and max-file; without them the daemon rotates as it is configured
    #[arg(long, value_name = "KEY=VALUE", value_parser = pairs::log_option)]
    pub log_opt: Vec<LogOption>,
    /// Memory limit
    #[arg(short, long, value_name = "BYTES", value_parser = size::memory)]
    pub memory: Option<i64>,
    /// Assign a name to the container
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The container's network: `none`, `host`, or `default`, which has the loopback device only until bridge
    /// networks are built
    #[arg(long, visible_alias = "net", value_name = "none|host|default", value_parser = network)]
    pub network: Option<String>,
    /// Limit the number of processes; -1 for unlimited
    #[arg(long, value_name = "NUMBER", value_parser = number::integer)]
    pub pids_limit: Option<i64>,
    /// Platform of the image, as in linux/amd64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// Give extended privileges to this container
    #[arg(long)]
    pub privileged: bool,
    /// Pull the image before: `always`, `missing` (the default) or `never`
    #[arg(long, value_name = "always|missing|never", default_value = "missing", hide_default_value = true)]
    pub pull: String,
    /// Suppress the pull output
    #[arg(short, long)]
    pub quiet: bool,
    /// Mount the container's root filesystem as read only
    #[arg(long)]
    pub read_only: bool,
    /// Automatically remove the container when it exits
    #[arg(long)]
    pub rm: bool,
    /// Signal to stop the container
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Timeout (in seconds) to stop a container; -1 for ever
    #[arg(long, value_name = "SECONDS", value_parser = number::seconds)]
    pub stop_timeout: Option<i32>,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub tty: bool,
    /// Username or UID
    #[arg(short, long, value_name = "NAME|UID[:GROUP|GID]")]
    pub user: Option<String>,
    /// Bind mount a folder or a file of the host
    #[arg(short, long, value_name = "HOST:CONTAINER[:ro]", value_parser = volume::bind)]
    pub volume: Vec<Mount>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "PATH")]
    pub workdir: Option<String>,
    /// The image, and what to run in it instead of its own command
    #[arg(value_name = "IMAGE [COMMAND] [ARG...]", required = true, num_args = 1.., trailing_var_arg = true)]
    pub image_and_args: Vec<String>,
}

/// docker's flags of run and create that are not built yet.
pub const UNBUILT: &[Unbuilt] = &[
    long("add-host"),
    long("annotation"),
    long("blkio-weight"),
    long("blkio-weight-device"),
    long("cgroup-parent"),
    long("cgroupns"),
    long("cpu-period"),
    long("cpu-quota"),
    long("cpu-rt-period"),
    long("cpu-rt-runtime"),
    short('c', "cpu-shares"),
    long("cpuset-cpus"),
    long("cpuset-mems"),
    long("device"),
    long("device-cgroup-rule"),
    long("device-read-bps"),
    long("device-read-iops"),
    long("device-write-bps"),
    long("device-write-iops"),
    long("disable-content-trust"),
    long("dns"),
    long("dns-option"),
    long("dns-search"),
    long("domainname"),
    long("expose"),
    long("gpus"),
    long("group-add"),
    long("health-cmd"),
    long("health-interval"),
    long("health-retries"),
    long("health-start-interval"),
    long("health-start-period"),
    long("health-timeout"),
    long("init"),
    long("ip"),
    long("ip6"),
    long("ipc"),
    long("isolation"),
    long("kernel-memory"),
    long("link"),
    long("link-local-ip"),
    long("log-driver"),
    long("mac-address"),
    long("memory-reservation"),
    long("memory-swap"),
    long("memory-swappiness"),
    long("mount"),
    long("network-alias"),
    long("no-healthcheck"),
    long("oom-kill-disable"),
    long("oom-score-adj"),
    long("pid"),
    short('p', "publish"),
    short('P', "publish-all"),
    long("restart"),
    long("runtime"),
    long("security-opt"),
    long("shm-size"),
    long("storage-opt"),
    long("sysctl"),
    long("tmpfs"),
    long("ulimit"),
    long("use-api-socket"),
    long("userns"),
    long("uts"),
    long("volume-driver"),
    long("volumes-from"),
];

fn network(text: &str) -> Result<String, String> {
    match text {
        "default" | "none" | "host" => Ok(text.to_string()),
        "" => Err("no name set for network".into()),
        other => Err(format!(
            "the network '{other}' is not built yet: none, host and default (loopback only) are there"
        )),
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

    fn into_config(self) -> Result<ContainerConfig, Failure> {
        let mut labels: std::collections::HashMap<_, _> =
            environment::labels(&self.label_file)?.into_iter().collect();
        labels.extend(self.label);
        let mut words = self.image_and_args.into_iter();
        Ok(ContainerConfig {
            image: words.next().unwrap_or_default(),
            args: words.collect(),
            entrypoint_set: self.entrypoint.is_some(),
            entrypoint: self.entrypoint.into_iter().filter(|word| !word.is_empty()).collect(),
            env: environment::variables(&self.env_file, self.env)?,
            working_dir: self.workdir.unwrap_or_default(),
            user: self.user.unwrap_or_default(),
            hostname: self.hostname.unwrap_or_default(),
            tty: self.tty,
            open_stdin: self.interactive,
            labels,
            mounts: self.volume,
            network_mode: self.network.unwrap_or_default(),
            read_only_rootfs: self.read_only,
            cap_add: self.cap_add,
            cap_drop: self.cap_drop,
            privileged: self.privileged,
            resources: Some(Resources {
                memory: self.memory.unwrap_or(0),
                nano_cpus: self.cpus.unwrap_or(0),
                pids: self.pids_limit.unwrap_or(0).max(0),
                ..Resources::default()
            }),
            auto_remove: self.rm,
            stop_signal: self.stop_signal.unwrap_or_default(),
            stop_timeout: self.stop_timeout,
            log: pairs::log_config(&self.log_opt),
            platform: self.platform.unwrap_or_default(),
            made_by: made_by(std::env::args_os().map(|word| word.to_string_lossy().into_owned())),
            ..ContainerConfig::default()
        })
    }
}

fn pull_policy(text: &str) -> Result<PullPolicy, Failure> {
    match text {
        "missing" | "" => Ok(PullPolicy::Missing),
        "always" => Ok(PullPolicy::Always),
        "never" => Ok(PullPolicy::Never),
        other => Err(Failure::message(format!(
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
