//! The command line: flags over the configuration file over defaults.

use std::path::PathBuf;

use clap::Parser;

use crate::config::{Config, ConfigError};

/// The longshore daemon: runs containers and keeps images.
#[derive(Debug, Parser)]
#[command(name = "longshored", version, about, max_term_width = 100)]
pub struct Flags {
    /// Configuration file (TOML). Without it /etc/longshore/config.toml is read if it exists.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where content, snapshots and metadata are kept [default: /var/lib/longshore].
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Where bundles and sockets of running containers are [default: /run/longshore].
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Unix socket of the API [default: /run/longshore/longshore.sock].
    #[arg(long, value_name = "SOCK")]
    pub address: Option<PathBuf>,
    /// error, warn, info, debug, trace, or a filter such as "info,longshored::gc=debug" [default: info].
    #[arg(long, value_name = "L")]
    pub log_level: Option<String>,
}

impl Flags {
    pub fn configuration(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(root) = &self.root {
            config.root.clone_from(root);
        }
        if let Some(state) = &self.state {
            config.state.clone_from(state);
            if self.address.is_none() && config.address == Config::default().address {
                config.address = state.join("longshore.sock");
            }
        }
        if let Some(address) = &self.address {
            let text = address.to_string_lossy();
            config.address = text.strip_prefix("unix://").map_or_else(|| address.clone(), PathBuf::from);
        }
        if let Some(level) = &self.log_level {
            config.log_level.clone_from(level);
        }
        config.check()?;
        Ok(config)
    }
}
