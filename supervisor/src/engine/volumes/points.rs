//! A container's mounts as `inspect` shows them.

use crate::engine::Engine;
use crate::engine::config::{Access, MountKind, Record};

/// One mount, in docker's fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    pub kind: &'static str,
    /// Of a volume.
    pub name: String,
    /// Path on the host.
    pub source: String,
    pub target: String,
    pub driver: &'static str,
    /// As `-v` was given it.
    pub mode: String,
    pub access: Access,
    pub propagation: String,
}

impl Engine {
    pub(in crate::engine) fn mount_points(&self, record: &Record) -> Vec<MountPoint> {
        record
            .mounts()
            .iter()
            // What `--tmpfs` gives is no mount point with docker.
            .filter(|mount| mount.kind != MountKind::Tmpfs || mount.tmpfs.options.is_empty())
            .map(|mount| {
                let volume = mount.kind == MountKind::Volume;
                let read_only = mount.access == Access::ReadOnly;
                MountPoint {
                    kind: match mount.kind {
                        MountKind::Bind => "bind",
                        MountKind::Volume => "volume",
                        MountKind::Tmpfs => "tmpfs",
                        MountKind::Image => "image",
                    },
                    name: if volume { mount.source.clone() } else { String::new() },
                    source: match mount.kind {
                        MountKind::Volume => self.volumes.data(&mount.source).display().to_string(),
                        MountKind::Tmpfs => String::new(),
                        _ => mount.source.clone(),
                    },
                    target: mount.target.clone(),
                    driver: if volume { super::DRIVER } else { "" },
                    mode: match mount.kind {
                        MountKind::Volume if !mount.volume.anonymous => "z",
                        MountKind::Bind if mount.bind.create_source && read_only => "ro",
                        _ => "",
                    }
                    .to_owned(),
                    access: mount.access,
                    propagation: match mount.kind {
                        MountKind::Bind if mount.bind.propagation.is_empty() => "rprivate".to_owned(),
                        MountKind::Bind => mount.bind.propagation.clone(),
                        _ => String::new(),
                    },
                }
            })
            .collect()
    }
}
