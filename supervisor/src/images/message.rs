//! An image as the message that clients are sent, which is also how its record is kept.

use longshore_proto::containerd::services::images::v1 as wire;
use prost::Message;

use super::store::{Image, ImageRecord};
use crate::error::Error;
use crate::labels::{from_hash, to_hash};
use crate::messages::{descriptor, from_descriptor, recorded, timestamp};
use crate::metadata::{Record, Unreadable};

impl From<Image> for wire::Image {
    fn from(image: Image) -> Self {
        Self {
            labels: to_hash(&image.labels),
            target: Some(descriptor(image.target)),
            created_at: Some(timestamp(image.created_at)),
            updated_at: Some(timestamp(image.updated_at)),
            name: image.name,
        }
    }
}

impl Record for ImageRecord {
    fn to_message(&self, key: &str) -> Option<Vec<u8>> {
        Some(wire::Image::from(Image::new(key, self.clone())).encode_to_vec())
    }

    fn from_message(message: &[u8]) -> Result<Self, Unreadable> {
        let message = wire::Image::decode(message)?;
        let target = message.target.ok_or_else(|| Error::invalid("image target", "is missing"))?;
        Ok(Self {
            target: from_descriptor(target)?,
            labels: from_hash(message.labels),
            created_at: recorded(message.created_at)?,
            updated_at: recorded(message.updated_at)?,
        })
    }
}
