//! What the kernel alone takes: `longshore-floor`.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::Result;
use longshore_tests::daemon::program;

use super::{Contestant, Network, call};
use crate::arena::Arena;
use crate::measure::Call;
use crate::place::Place;

/// Whether a network namespace is made, too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Net {
    Shared,
    Own,
}

pub struct Floor {
    folder: PathBuf,
    net: Net,
    place: Place,
}

impl Floor {
    pub fn new(arena: &Arena, net: Net) -> Result<Self> {
        let folder = arena.path().join(if net == Net::Own { "floor-net" } else { "floor" });
        for name in ["u", "w", "m"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        symlink(&arena.rootfs, folder.join("l"))?;
        Ok(Self { folder, net, place: Place::host()? })
    }
}

impl Contestant for Floor {
    fn name(&self) -> &'static str {
        if self.net == Net::Own { "floor with a netns" } else { "floor" }
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn run(&self, network: Network, _id: &str) -> Option<Call> {
        let call = call(&program("longshore-floor"), "floor").path(&self.folder);
        let call = if self.net == Net::Own { call.args(["net"]) } else { call };
        (network == Network::None).then_some(call)
    }
}
