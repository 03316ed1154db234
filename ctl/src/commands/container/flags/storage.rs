//! The flags about volumes and other mounts.

use longshore_proto::longshore::engine::v1::{ContainerConfig, Mount};

use crate::failure::Failure;
use crate::parse::volume::Wrong;
use crate::parse::{mount, pairs, volume};

#[derive(clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Attach a filesystem mount to the container
    #[arg(long, value_name = "type=TYPE,source=SOURCE,target=PATH[,…]", value_parser = mount::mount)]
    mount: Vec<Mount>,
    /// Mount the container's root filesystem as read only
    #[arg(long)]
    read_only: bool,
    /// Storage driver options for the container
    #[arg(long, value_name = "KEY=VALUE")]
    storage_opt: Vec<String>,
    /// Mount a tmpfs directory
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    tmpfs: Vec<String>,
    /// Mount a folder of the host, a named volume, or an anonymous one
    #[arg(short, long, value_name = "[SOURCE:]PATH[:OPTIONS]")]
    volume: Vec<String>,
    /// Optional volume driver for the container
    #[arg(long, value_name = "DRIVER")]
    volume_driver: Option<String>,
    /// Mount volumes from the specified container(s)
    #[arg(long, value_name = "CONTAINER[:ro|rw]")]
    volumes_from: Vec<String>,
}

impl Flags {
    /// Writes down what was asked for.
    pub fn fill(self, config: &mut ContainerConfig) -> Result<(), Failure> {
        for text in &self.volume {
            config.mounts.push(volume::volume(text).map_err(|wrong| match wrong {
                Wrong::Spec(text) => Failure::Refused(text),
                Wrong::Volume(text) => Failure::message(text),
            })?);
        }
        config.mounts.extend(self.mount);
        config.mounts.extend(self.tmpfs.iter().map(|text| mount::tmpfs(text)));
        config.read_only_rootfs = self.read_only;
        config.volume_driver = self.volume_driver.unwrap_or_default();
        config.volumes_from = self.volumes_from;
        for text in &self.storage_opt {
            let (key, value) = pairs::storage_option(text).map_err(Failure::Refused)?;
            config.storage_opt.insert(key, value);
        }
        Ok(())
    }
}
