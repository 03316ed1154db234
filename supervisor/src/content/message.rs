//! What is known of a blob as the message that clients are sent, which is also how its record is kept.

use longshore_proto::containerd::services::content::v1 as wire;
use prost::Message;

use super::{BlobInfo, BlobRecord};
use crate::labels::{from_hash, to_hash};
use crate::messages::{from_size, recorded, size, timestamp};
use crate::metadata::{Record, Unreadable};

fn message(digest: &str, record: &BlobRecord) -> wire::Info {
    wire::Info {
        digest: digest.to_owned(),
        size: size(record.size),
        created_at: Some(timestamp(record.created_at)),
        updated_at: Some(timestamp(record.updated_at)),
        labels: to_hash(&record.labels),
    }
}

impl From<BlobInfo> for wire::Info {
    fn from(info: BlobInfo) -> Self {
        let BlobInfo { digest, size, labels, created_at, updated_at } = info;
        message(digest.as_str(), &BlobRecord { size, labels, created_at, updated_at })
    }
}

impl Record for BlobRecord {
    fn to_message(&self, key: &str) -> Option<Vec<u8>> {
        Some(message(key, self).encode_to_vec())
    }

    fn from_message(message: &[u8]) -> Result<Self, Unreadable> {
        let message = wire::Info::decode(message)?;
        Ok(Self {
            size: from_size("content size", message.size)?,
            labels: from_hash(message.labels),
            created_at: recorded(message.created_at)?,
            updated_at: recorded(message.updated_at)?,
        })
    }
}
