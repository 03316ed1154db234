//! The command line, which is containerd's where both have the same: flags over the configuration file over defaults.

use std::path::{Path, PathBuf};

use clap::{ArgAction, Parser, Subcommand};

use crate::config::{Config, ConfigError};

/// The longshore daemon: runs containers and keeps images.
#[derive(Debug, Parser)]
#[command(name = "longshored", about, max_term_width = 100)]
pub struct Flags {
    /// Configuration file (TOML). Without it /etc/longshore/config.toml is read if it exists.
    #[arg(short, long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Where content, snapshots and metadata are kept [default: /var/lib/longshore].
    #[arg(long, value_name = "DIR", global = true)]
    pub root: Option<PathBuf>,
    /// Where bundles and sockets of running containers are [default: /run/longshore].
    #[arg(long, value_name = "DIR", global = true)]
    pub state: Option<PathBuf>,
    /// Unix socket of the API [default: /run/longshore/longshore.sock].
    #[arg(short, long, value_name = "SOCK", global = true)]
    pub address: Option<PathBuf>,
    /// error, warn, info, debug, trace, or a filter such as "info,longshored::gc=debug" [default: info].
    #[arg(short, long, value_name = "L", global = true)]
    pub log_level: Option<String>,
    /// Print the version: name, package, version, revision.
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub version: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What is done instead of running the daemon.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// As an OCI hook: run a program whose arguments name the container, as in `-- /bin/ps --pid {{pid}}`.
    OciHook {
        #[arg(last = true, required = true, value_name = "WORD")]
        words: Vec<String>,
    },
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Every key with its default.
    Default,
    /// What the daemon would run with: defaults, file and flags.
    Dump,
    /// The file in today's form, with every key.
    Migrate,
}

impl Flags {
    pub fn configuration(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(root) = &self.root {
            config.root = absolute("root", root)?;
        }
        if let Some(state) = &self.state {
            config.state = absolute("state", state)?;
            if self.address.is_none() && config.address == Config::default().address {
                config.address = config.state.join("longshore.sock");
            }
        }
        if let Some(address) = &self.address {
            let text = address.to_string_lossy();
            let address = text.strip_prefix("unix://").map_or_else(|| address.clone(), PathBuf::from);
            config.address = absolute("address", &address)?;
        }
        if let Some(level) = &self.log_level {
            config.log_level = known_level(level);
        }
        config.check()?;
        Ok(config)
    }

    /// What a subcommand about the configuration prints.
    pub fn show(&self, command: ConfigCommand) -> Result<String, ConfigError> {
        match command {
            ConfigCommand::Default => Config::default().to_toml(),
            ConfigCommand::Dump => self.configuration()?.to_toml(),
            ConfigCommand::Migrate => Config::load(self.config.as_deref())?.to_toml(),
        }
    }
}

/// A path on the command line is taken from where the command was given.
fn absolute(key: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|_| ConfigError::Value {
        key,
        value: path.display().to_string(),
        why: "cannot be made an absolute path",
    })
}

/// containerd's levels above error, which here are the same as that.
fn known_level(level: &str) -> String {
    if matches!(level, "fatal" | "panic") { "error".to_owned() } else { level.to_owned() }
}
