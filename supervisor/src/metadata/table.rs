//! Tables: a name, a tag that prefixes the keys, and the type of the records.

use std::marker::PhantomData;

use crate::namespaces::Namespace;

/// A table of records of type `T`, keyed by namespace and key.
///
/// How they are kept is said in [`record`](super::record).
pub struct Table<T> {
    pub(super) name: &'static str,
    pub(super) tag: u8,
    record: PhantomData<fn() -> T>,
}

impl<T> Table<T> {
    const fn new(tag: u8, name: &'static str) -> Self {
        Self { name, tag, record: PhantomData }
    }

    /// The same table read as another type: one with fewer fields.
    pub const fn view<V>(&self) -> Table<V> {
        Table::new(self.tag, self.name)
    }

    /// Whether a key with this tag belongs to the table.
    pub fn has(&self, tag: u8) -> bool {
        self.tag == tag
    }
}

/// One record with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<T> {
    pub namespace: Namespace,
    pub key: String,
    pub record: T,
}

/// The schema: every table there is. A tag is never used again for something else.
pub mod tables {
    use super::Table;

    /// Key: the namespace's own name, in its own namespace.
    pub const NAMESPACES: Table<crate::namespaces::NamespaceRecord> = Table::new(1, "namespaces");
    /// Key: digest.
    pub const BLOBS: Table<crate::content::BlobRecord> = Table::new(2, "blobs");
    /// Key: name.
    pub const IMAGES: Table<crate::images::store::ImageRecord> = Table::new(3, "images");
    /// Key: container id.
    pub const CONTAINERS: Table<crate::containers::ContainerRecord> = Table::new(4, "containers");
    /// Key: lease id.
    pub const LEASES: Table<crate::leases::LeaseRecord> = Table::new(5, "leases");
    /// Key: `lease id \x1f type \x1f id`.
    pub const LEASE_RESOURCES: Table<()> = Table::new(6, "lease resources");
    // 7 and 8 were given to tables that were never stored.
    /// Settings of the daemon itself, in the namespace `daemon`: its UUID.
    pub const SETTINGS: Table<String> = Table::new(9, "settings");
    /// The engine's own records, by its keys.
    pub const ENGINE: Table<crate::engine::state::State> = Table::new(10, "engine");
    /// Key: sandbox id.
    pub const SANDBOXES: Table<crate::sandboxes::SandboxRecord> = Table::new(11, "sandboxes");
    /// Key: name of an activation.
    pub const MOUNTS: Table<crate::mounts::ActivationRecord> = Table::new(12, "mounts");
    /// Key: network id.
    pub const NETWORKS: Table<crate::network::record::Network> = Table::new(13, "networks");
    /// Key: name of a volume.
    pub const VOLUMES: Table<crate::engine::volumes::VolumeRecord> = Table::new(14, "volumes");
}

/// Tables that keep JSON.
mod json {
    use crate::metadata::Record;

    #[cfg(test)]
    impl Record for serde_json::Value {}
    impl Record for crate::namespaces::NamespaceRecord {}
    impl Record for crate::leases::LeaseRecord {}
    impl Record for crate::engine::state::State {}
    impl Record for crate::sandboxes::SandboxRecord {}
    impl Record for crate::mounts::ActivationRecord {}
    impl Record for crate::network::record::Network {}
    impl Record for crate::engine::volumes::VolumeRecord {}
}
