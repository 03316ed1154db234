//! What most end-to-end tests begin with: a registry that serves busybox, and a daemon.

use anyhow::Result;

use crate::daemon::{Daemon, Settings};
use crate::image;
use crate::registry::Registry;

/// A registry and a daemon. The daemon is dropped first.
pub struct Fixture {
    pub daemon: Daemon,
    pub registry: Registry,
    /// Reference of a busybox image in the registry.
    pub busybox: String,
}

impl Fixture {
    pub fn new() -> Fixture {
        Fixture::with(Settings::default()).expect("a registry and a daemon start")
    }

    pub fn with(settings: Settings) -> Result<Fixture> {
        let registry = Registry::start()?;
        registry.put("library/busybox", "latest", &image::busybox()?.build()?);
        let busybox = registry.reference("library/busybox:latest");
        Ok(Fixture { daemon: Daemon::with(settings)?, registry, busybox })
    }

    /// With the image pulled already.
    pub fn pulled() -> Fixture {
        let fixture = Fixture::new();
        fixture.daemon.ctl(&["pull", "-q", &fixture.busybox]).ok();
        fixture
    }
}

impl Default for Fixture {
    fn default() -> Self {
        Fixture::new()
    }
}
