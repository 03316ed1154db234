//! Making an activation's mounts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::loopback::{self, Access};
use super::plan::{Plan, Step, Transform, plan};
use super::{
    Activation, ActivationRecord, ActiveMount, MAX_MOUNTS, MAX_NAME, MountManager, State, format, mkdir,
    mkfs, system,
};
use crate::content::store::blocking;
use crate::error::{Error, Result};
use crate::labels::{self, Labels};
use crate::metadata::{Reader, tables};
use crate::namespaces::{self, Namespace};
use crate::snapshots::Mount;

/// What is to be activated, and how.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub mounts: Vec<Mount>,
    pub labels: Labels,
    /// Everything is mounted here, and what is left is one bind mount of it.
    pub temporary: bool,
    /// Types, or prefixes as in `format/*`, that the runtime handles itself.
    pub allowed: Vec<String>,
    pub lease: Option<String>,
}

impl MountManager {
    /// Makes the mounts that the runtime cannot. Unimplemented if there is none: the mounts can be used as they are. AlreadyExists if the
    /// name is active. What was begun is brought to an end, whether or not the caller waits for it.
    pub async fn activate(
        self: &Arc<Self>,
        namespace: &Namespace,
        name: &str,
        wanted: Wanted,
    ) -> Result<Activation> {
        let (manager, namespace, name) = (Arc::clone(self), namespace.clone(), name.to_owned());
        let work = tokio::spawn(async move { manager.activate_now(&namespace, &name, wanted).await });
        work.await.map_err(|_| Error::Lost { what: "activating mounts" })?
    }

    async fn activate_now(
        self: &Arc<Self>,
        namespace: &Namespace,
        name: &str,
        mut wanted: Wanted,
    ) -> Result<Activation> {
        if name.is_empty() || name.len() > MAX_NAME || name.contains(char::is_control) {
            let shown: String = name.chars().take(64).collect();
            let why = format!("must have 1 to {MAX_NAME} bytes and no control characters");
            return Err(Error::invalid(format!("mount name {shown:?}"), why));
        }
        if wanted.mounts.len() > MAX_MOUNTS {
            let what = format!("mount \"{name}\": {} mounts", wanted.mounts.len());
            let max = MAX_MOUNTS as u64;
            return Err(Error::ResourceExhausted { what, limit: "mounts of one activation", max });
        }
        labels::settle(&mut wanted.labels)?;
        let Some(plan) = plan(&wanted.mounts, wanted.temporary, &wanted.allowed) else {
            return Err(Error::Unimplemented { what: format!("mount \"{name}\": what needs no activation") });
        };
        let _turn = self.turn(namespace, name).await;
        if let Some(stale) = self.db.get(&tables::MOUNTS, namespace, name)? {
            if stale.state == State::Active {
                return Err(Error::already_exists("mount", name));
            }
            self.take_down(stale.id).await?;
        }
        let mut record = ActivationRecord {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            state: State::Making,
            labels: wanted.labels,
            lease: wanted.lease,
            active: Vec::new(),
            system: Vec::new(),
        };
        self.put(namespace, name, &record).await?;
        let (manager, id, temporary) = (Arc::clone(self), record.id, wanted.temporary);
        let made = blocking(move || manager.make(id, plan, temporary)).await;
        let stored = match made {
            Ok((active, system)) => {
                record = ActivationRecord { state: State::Active, active, ..record };
                record.system = system.into_iter().map(Into::into).collect();
                self.put(namespace, name, &record).await
            }
            Err(error) => Err(error),
        };
        match stored {
            Ok(()) => Ok(Activation::new(name, record)),
            Err(error) => {
                let undone = self.take_down(id).await;
                if let Err(error) = undone.and(self.forget(namespace, name).await) {
                    tracing::error!(%namespace, name, "cannot undo an activation: {error}");
                }
                Err(error)
            }
        }
    }

    async fn put(&self, namespace: &Namespace, name: &str, record: &ActivationRecord) -> Result<()> {
        self.db
            .write(|tx| {
                namespaces::ensure(tx, namespace)?;
                if let Some(lease) = &record.lease
                    && !tx.contains(&tables::LEASES, namespace, lease)?
                {
                    return Err(Error::not_found("lease", lease));
                }
                tx.put(&tables::MOUNTS, namespace, name, record)
            })
            .await
    }

    // Blocks. What was made of a plan that fails is the caller's to take down.
    fn make(&self, id: u64, plan: Plan, temporary: bool) -> Result<(Vec<ActiveMount>, Vec<Mount>)> {
        self.folder.create(id)?;
        let Plan { mut steps, here } = plan;
        let mut rest = steps.split_off(here);
        let mut active = Vec::with_capacity(steps.len());
        for (index, mut step) in steps.into_iter().enumerate() {
            self.transform(&mut step, &active)?;
            let mounted_at = Timestamp::now();
            let point = if step.mount.kind == "loop" {
                let read_only = step.mount.options.iter().any(|option| option == "ro");
                let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
                let device = loopback::attach(&step.mount.source, access)?;
                // The note comes first, so that a kept device is always known.
                let point = self.folder.link(id, index, &device.path)?;
                device.keep()?;
                point
            } else {
                let point = self.folder.make_place(id, index)?;
                system::mount(&step.mount, &point)?;
                point
            };
            let mount_point = point.display().to_string();
            active.push(ActiveMount { mount: step.mount.into(), mounted_at, mount_point });
        }
        if let Some(first) = rest.first_mut() {
            self.transform(first, &active)?;
        }
        let mut system: Vec<Mount> = rest.into_iter().map(|step| step.mount).collect();
        if let (true, Some(last)) = (temporary, active.last()) {
            let (kind, source) = ("bind".to_owned(), last.mount_point.clone());
            system.push(Mount { kind, source, target: String::new(), options: vec!["rbind".to_owned()] });
        }
        Ok((active, system))
    }

    fn transform(&self, step: &mut Step, earlier: &[ActiveMount]) -> Result<()> {
        for transform in &step.transforms {
            match transform {
                Transform::Format => format::apply(&mut step.mount, earlier)?,
                Transform::Mkdir => mkdir::apply(&mut step.mount, &self.roots)?,
                Transform::Mkfs => mkfs::apply(&mut step.mount, &self.roots)?,
            }
        }
        Ok(())
    }
}
