//! What a container is to have mounted: what the user asked for, what other containers have, and the image's volumes. Volumes that
//! are not there are made.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::make::{Made, Wanted};
use crate::engine::Engine;
use crate::engine::config::{Access, ContainerConfig, Mount, MountKind, VolumeOptions};
use crate::error::{Error, Result};

/// What a container that does not exist yet has: given back when this is dropped, unless it was kept.
pub struct Acquired {
    engine: Arc<Engine>,
    id: String,
    volumes: Vec<String>,
    /// Made for this container just now.
    new: Vec<String>,
    pub mounts: Vec<Mount>,
    kept: bool,
}

impl Acquired {
    /// The container exists.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Acquired {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // A container that exists keeps what it had before it was to be changed.
        let entry = self.engine.registry.get(&self.id);
        let has = |name: &String| {
            let volume = |mount: &Mount| mount.kind == MountKind::Volume && mount.source == *name;
            entry.as_ref().is_some_and(|entry| entry.read(|record| record.mounts().iter().any(volume)))
        };
        for name in self.volumes.iter().filter(|name| !has(name)) {
            self.engine.volumes.let_go(name, &self.id);
        }
        let (engine, new) = (self.engine.clone(), std::mem::take(&mut self.new));
        if !new.is_empty() {
            self.engine.background.spawn(async move { engine.remove_anonymous(&new).await });
        }
    }
}

impl Engine {
    /// Everything that the container `id` is to have mounted, in docker's order: of two with one target the later one counts.
    pub(in crate::engine) async fn resolve_mounts(
        self: &Arc<Self>,
        id: &str,
        config: &ContainerConfig,
        image_volumes: impl Iterator<Item = &String>,
    ) -> Result<Acquired> {
        let mut wanted: Vec<Mount> = Vec::new();
        for text in &config.volumes_from {
            for mount in self.mounts_of_another(text)? {
                put(&mut wanted, mount);
            }
        }
        for mount in &config.mounts {
            let target = clean(&mount.target);
            put(&mut wanted, Mount { target, ..mount.clone() });
        }
        for target in image_volumes {
            let target = clean(target);
            if target != "/" && !wanted.iter().any(|mount| mount.target == target) {
                let driver = config.volume_driver.clone();
                let volume = VolumeOptions { driver, ..VolumeOptions::default() };
                wanted.push(Mount { kind: MountKind::Volume, target, volume, ..Mount::default() });
            }
        }
        let mut acquired = Acquired {
            engine: self.clone(),
            id: id.to_owned(),
            volumes: Vec::new(),
            new: Vec::new(),
            mounts: Vec::with_capacity(wanted.len()),
            kept: false,
        };
        for mut mount in wanted {
            match mount.kind {
                MountKind::Volume => self.acquire(&mut mount, config, &mut acquired).await?,
                // Images are never written to.
                MountKind::Image => mount.access = Access::ReadOnly,
                MountKind::Bind | MountKind::Tmpfs => {}
            }
            acquired.mounts.push(mount);
        }
        Ok(acquired)
    }

    async fn acquire(
        self: &Arc<Self>,
        mount: &mut Mount,
        config: &ContainerConfig,
        acquired: &mut Acquired,
    ) -> Result<()> {
        let own = &mount.volume.driver;
        let driver = if own.is_empty() { config.volume_driver.clone() } else { own.clone() };
        let wanted = Wanted {
            name: mount.source.clone(),
            driver,
            labels: mount.volume.labels.clone(),
            options: mount.volume.driver_options.clone(),
        };
        let (name, mut record) = wanted.checked()?;
        record.goes_with = (record.anonymous && config.auto_remove).then(|| acquired.id.clone());
        mount.volume.anonymous |= record.anonymous;
        mount.source.clone_from(&name);
        // Noted first: what is made from here on is given back.
        acquired.volumes.push(name.clone());
        let made = self.ensure_volume(&name, record, Some(&acquired.id)).await?;
        if made == Made::Now {
            acquired.new.push(name);
        }
        Ok(())
    }

    /// `NAME|ID[:ro|rw]`: the mounts of another container, but those in memory.
    fn mounts_of_another(&self, text: &str) -> Result<Vec<Mount>> {
        let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
        if name.is_empty() {
            return Err(Error::invalid("malformed volumes-from specification", text));
        }
        let mut read_only = false;
        for word in mode.split(',') {
            match word {
                "ro" => read_only = true,
                "rw" | "z" | "Z" => {}
                _ => return Err(Error::invalid("invalid mode", mode)),
            }
        }
        let entry = self.find(name)?;
        let mounts = entry.read(|record| record.mounts().to_vec());
        let inherit = |mut mount: Mount| {
            if read_only {
                mount.access = Access::ReadOnly;
            }
            // It was filled for the container that it was made for.
            mount.volume.no_copy = true;
            mount
        };
        Ok(mounts.into_iter().filter(|mount| mount.kind != MountKind::Tmpfs).map(inherit).collect())
    }
}

fn put(wanted: &mut Vec<Mount>, mount: Mount) {
    wanted.retain(|other| other.target != mount.target);
    wanted.push(mount);
}

/// A target without `.`, `..`, and slashes that mean nothing.
pub fn clean(target: &str) -> String {
    let mut path = PathBuf::from("/");
    for part in Path::new(target).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                path.pop();
            }
            _ => {}
        }
    }
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_stay_below_the_root() {
        for (given, want) in
            [("/a/", "/a"), ("/../../x", "/x"), ("rel/./y", "/rel/y"), ("/a/../..", "/"), ("//a//b", "/a/b")]
        {
            assert_eq!(clean(given), want);
        }
    }
}
