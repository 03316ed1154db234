//! What a container may be asked for and this version does not do: refused by name, never ignored.

use super::config::ContainerConfig;
use crate::error::{Error, Result};

/// Refuses the first wish that would not be fulfilled.
pub fn check(config: &ContainerConfig) -> Result<()> {
    let wishes = [("storage options", !config.storage_opt.is_empty())];
    match wishes.iter().find(|(_, wished)| *wished) {
        None => Ok(()),
        Some((what, _)) => Err(Error::invalid(*what, "not built yet in this version")),
    }
}
