//! What a collection needs to know of each record: nothing more of it is kept in memory.
//!
//! Those of records that are kept as messages name the messages' fields by their numbers.

use prost::Message;
use serde::Deserialize;

use crate::labels::Labels;
use crate::metadata::{Record, Unreadable};
use crate::mounts::State;

/// An image.
#[derive(Clone, PartialEq, Message, Deserialize)]
pub struct ImageView {
    #[serde(default)]
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: Labels,
    #[prost(message, required, tag = "3")]
    target: TargetView,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
struct TargetView {
    #[prost(string, tag = "2")]
    digest: String,
}

impl ImageView {
    /// Of what the image stands for.
    pub fn digest(&self) -> &str {
        &self.target.digest
    }
}

/// A container without its spec.
#[derive(Clone, PartialEq, Message, Deserialize)]
pub struct ContainerView {
    #[serde(default)]
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: Labels,
    #[serde(default)]
    #[prost(string, tag = "6")]
    pub snapshotter: String,
    #[serde(default)]
    #[prost(string, tag = "7")]
    pub snapshot_key: String,
}

/// A blob.
#[derive(Clone, PartialEq, Message, Deserialize)]
pub struct BlobView {
    #[serde(default)]
    #[prost(btree_map = "string, string", tag = "5")]
    pub labels: Labels,
}

/// Any record that is kept as JSON.
#[derive(Deserialize)]
pub struct LabelsView {
    #[serde(default)]
    pub labels: Labels,
}

/// An activation of mounts without what it mounts.
#[derive(Deserialize)]
pub struct MountView {
    pub id: u64,
    pub state: State,
    #[serde(default)]
    pub lease: Option<String>,
    #[serde(default)]
    pub labels: Labels,
}

impl Record for ImageView {
    fn from_message(message: &[u8]) -> Result<Self, Unreadable> {
        Ok(Self::decode(message)?)
    }
}

impl Record for ContainerView {
    fn from_message(message: &[u8]) -> Result<Self, Unreadable> {
        Ok(Self::decode(message)?)
    }
}

impl Record for BlobView {
    fn from_message(message: &[u8]) -> Result<Self, Unreadable> {
        Ok(Self::decode(message)?)
    }
}

impl Record for LabelsView {}
impl Record for MountView {}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::containers::{Container, Runtime};
    use crate::content::{BlobRecord, Descriptor, Digest};
    use crate::images::store::ImageRecord;

    fn labels() -> Labels {
        [("a".to_owned(), "b".to_owned())].into()
    }

    /// Of a record as it is kept, and as an earlier version kept it.
    fn views<T: Record + serde::Serialize, V: Record>(record: &T) -> [V; 2] {
        let message = V::from_message(&record.to_message("key").unwrap()).unwrap();
        [message, serde_json::from_slice(&serde_json::to_vec(record).unwrap()).unwrap()]
    }

    #[test]
    fn each_view_is_of_the_fields_it_names() {
        let (at, digest) = (Timestamp::UNIX_EPOCH, Digest::of(b"x"));
        let blob = BlobRecord { size: 5, labels: labels(), created_at: at, updated_at: at };
        for view in views::<_, BlobView>(&blob) {
            assert_eq!(view.labels, labels());
        }
        let target =
            Descriptor { media_type: "m".into(), digest: digest.clone(), size: 7, annotations: labels() };
        let image = ImageRecord { target, labels: labels(), created_at: at, updated_at: at };
        for view in views::<_, ImageView>(&image) {
            assert_eq!((view.digest(), &view.labels), (digest.as_str(), &labels()));
        }
        let runtime = Runtime { name: "r".into(), options: None };
        let mut container = Container::new("c", runtime);
        container.labels = labels();
        (container.snapshotter, container.snapshot_key) = ("overlayfs".into(), "k".into());
        for view in views::<_, ContainerView>(&container.into_record()) {
            assert_eq!((view.snapshotter.as_str(), view.snapshot_key.as_str()), ("overlayfs", "k"));
            assert_eq!(view.labels, labels());
        }
    }
}
