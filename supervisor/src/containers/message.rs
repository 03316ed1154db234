//! A container as the message that clients are sent, which is also how its record is kept.

use longshore_proto::containerd::services::containers::v1 as wire;
use prost::Message;

use super::{Container, ContainerRecord, Runtime};
use crate::error::Result;
use crate::labels::{from_hash, to_hash};
use crate::messages::{recorded, timestamp};
use crate::metadata::{Record, Unreadable};

impl From<Container> for wire::Container {
    fn from(container: Container) -> Self {
        let Runtime { name, options } = container.runtime;
        Self {
            id: container.id,
            labels: to_hash(&container.labels),
            image: container.image,
            runtime: Some(wire::container::Runtime { name, options: options.map(Into::into) }),
            spec: container.spec.map(Into::into),
            snapshotter: container.snapshotter,
            snapshot_key: container.snapshot_key,
            created_at: Some(timestamp(container.created_at)),
            updated_at: Some(timestamp(container.updated_at)),
            extensions: container.extensions.into_iter().map(|(key, value)| (key, value.into())).collect(),
            sandbox: container.sandbox_id,
        }
    }
}

impl Container {
    /// What a client asks for. Its times are now.
    pub fn asked(asked: wire::Container) -> Self {
        let runtime = asked.runtime.unwrap_or_default();
        let runtime = Runtime { name: runtime.name, options: runtime.options.map(Into::into) };
        let mut container = Self::new(asked.id, runtime);
        container.labels = from_hash(asked.labels);
        container.image = asked.image;
        container.spec = asked.spec.map(Into::into);
        container.snapshotter = asked.snapshotter;
        container.snapshot_key = asked.snapshot_key;
        container.extensions = asked.extensions.into_iter().map(|(key, value)| (key, value.into())).collect();
        container.sandbox_id = asked.sandbox;
        container
    }

    /// What was kept, with its times.
    pub fn kept(message: &[u8]) -> Result<Self, Unreadable> {
        let mut message = wire::Container::decode(message)?;
        let (created_at, updated_at) = (message.created_at.take(), message.updated_at.take());
        let container = Self::asked(message);
        Ok(Self { created_at: recorded(created_at)?, updated_at: recorded(updated_at)?, ..container })
    }
}

impl Record for ContainerRecord {
    fn to_message(&self, key: &str) -> Option<Vec<u8>> {
        let container = Container::from_record(key.to_owned(), self.clone());
        Some(wire::Container::from(container).encode_to_vec())
    }

    fn from_message(message: &[u8]) -> Result<Self, Unreadable> {
        Ok(Container::kept(message)?.into_record())
    }
}
