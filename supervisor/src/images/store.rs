//! Image records: a name in a namespace, and the descriptor it stands for.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use longshore_proto::containerd::services::images::v1 as wire;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::content::Descriptor;
use crate::error::{Error, Result};
use crate::events::EventBus;
use crate::filters::{self, Adaptor, Filter};
use crate::labels::{self, Labels, to_hash};
use crate::leases::{self, Resource};
use crate::metadata::{Db, Reader, Tx, tables};
use crate::namespaces::{self, Namespace};

/// Longest image name in bytes.
pub const MAX_NAME: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    pub target: Descriptor,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Fully qualified, such as `docker.io/library/hello-world:latest`.
    pub name: String,
    pub target: Descriptor,
    pub labels: Labels,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Image {
    pub(super) fn new(name: &str, record: ImageRecord) -> Self {
        let ImageRecord { target, labels, created_at, updated_at } = record;
        Self { name: name.to_owned(), target, labels, created_at, updated_at }
    }
}

impl Adaptor for Image {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["name"] => Some(self.name.clone()),
            ["target", "digest"] => Some(self.target.digest.to_string()),
            ["target", "mediatype"] => Some(self.target.media_type.clone()),
            ["labels", key @ ..] => filters::label(&self.labels, key),
            ["annotations", key @ ..] => filters::label(&self.target.annotations, key),
            _ => None,
        }
    }
}

/// What a request says beside what it is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances<'a> {
    /// The time to record, for images that are built to be the same every time.
    pub at: Option<Timestamp>,
    /// The lease that holds an image which would expire.
    pub lease: Option<&'a str>,
}

pub struct ImageStore {
    db: Arc<Db>,
    events: Arc<EventBus>,
}

impl ImageStore {
    pub fn new(db: Arc<Db>, events: Arc<EventBus>) -> Self {
        Self { db, events }
    }

    pub fn get(&self, namespace: &Namespace, name: &str) -> Result<Image> {
        self.db
            .get(&tables::IMAGES, namespace, name)?
            .map(|record| Image::new(name, record))
            .ok_or_else(|| Error::not_found("image", name))
    }

    /// Images that match, in the order of their names.
    pub fn list(&self, namespace: &Namespace, filter: &Filter) -> Result<Vec<Image>> {
        let rows = self.db.list(&tables::IMAGES, namespace)?;
        let images = rows.into_iter().map(|row| Image::new(&row.key, row.record));
        Ok(images.filter(|image| filter.matches(image)).collect())
    }

    /// As [`Self::get`]: the message that clients are sent.
    pub fn message(&self, namespace: &Namespace, name: &str) -> Result<Vec<u8>> {
        let message = self.db.message(&tables::IMAGES, namespace, name)?;
        message.ok_or_else(|| Error::not_found("image", name))
    }

    /// As [`Self::list`]: the messages that clients are sent.
    pub fn messages(&self, namespace: &Namespace, filter: &Filter) -> Result<Vec<Vec<u8>>> {
        if !filter.is_everything() {
            let images = self.list(namespace, filter)?.into_iter();
            return Ok(images.map(|image| wire::Image::from(image).encode_to_vec()).collect());
        }
        let messages = self.db.messages(&tables::IMAGES, namespace, None, usize::MAX)?;
        Ok(messages.into_iter().map(|(_, message)| message).collect())
    }

    pub async fn create(
        &self,
        namespace: &Namespace,
        name: &str,
        target: Descriptor,
        labels: Labels,
        circumstances: Circumstances<'_>,
    ) -> Result<Image> {
        let now = circumstances.at.unwrap_or_else(Timestamp::now);
        let mut record = ImageRecord { target, labels, created_at: now, updated_at: now };
        settle(name, &mut record)?;
        self.db
            .write(|tx| {
                if tx.contains(&tables::IMAGES, namespace, name)? {
                    return Err(Error::already_exists("image", name));
                }
                hold(tx, namespace, name, &record, circumstances.lease)?;
                store(tx, namespace, name, &record)
            })
            .await?;
        self.created(namespace, name, &record.labels);
        Ok(Image::new(name, record))
    }

    /// Creates the image, or points an existing one to `target` and adds `labels`: what a pull does.
    pub async fn put(
        &self,
        namespace: &Namespace,
        name: &str,
        target: Descriptor,
        labels: Labels,
    ) -> Result<Image> {
        let now = Timestamp::now();
        let (record, existed) = self
            .db
            .write(|tx| {
                let earlier = tx.get(&tables::IMAGES, namespace, name)?;
                let existed = earlier.is_some();
                let mut record = earlier.unwrap_or(ImageRecord {
                    target: target.clone(),
                    labels: Labels::new(),
                    created_at: now,
                    updated_at: now,
                });
                record.target = target;
                record.labels.extend(labels);
                record.updated_at = now;
                settle(name, &mut record)?;
                store(tx, namespace, name, &record)?;
                Ok((record, existed))
            })
            .await?;
        if existed {
            self.updated(namespace, name, &record.labels)
        } else {
            self.created(namespace, name, &record.labels)
        }
        Ok(Image::new(name, record))
    }

    /// Changes what `mask` names (`labels`, `labels.KEY`, `target`, `annotations`); everything if it is empty.
    pub async fn update(
        &self,
        namespace: &Namespace,
        name: &str,
        target: Option<Descriptor>,
        labels: Labels,
        mask: &[String],
        circumstances: Circumstances<'_>,
    ) -> Result<Image> {
        let record = self
            .db
            .write(|tx| {
                let mut record: ImageRecord = tx
                    .get(&tables::IMAGES, namespace, name)?
                    .ok_or_else(|| Error::not_found("image", name))?;
                apply_mask(&mut record, target, labels, mask)?;
                record.updated_at = circumstances.at.unwrap_or_else(Timestamp::now);
                settle(name, &mut record)?;
                hold(tx, namespace, name, &record, circumstances.lease)?;
                store(tx, namespace, name, &record)?;
                Ok(record)
            })
            .await?;
        self.updated(namespace, name, &record.labels);
        Ok(Image::new(name, record))
    }

    /// Deletes the record and takes it out of the lease; what it referred to is left to the collector. With `target`, only
    /// if it is still that.
    pub async fn delete(
        &self,
        namespace: &Namespace,
        name: &str,
        target: Option<&Descriptor>,
        lease: Option<&str>,
    ) -> Result<()> {
        self.db
            .write(|tx| {
                let record: ImageRecord = tx
                    .get(&tables::IMAGES, namespace, name)?
                    .ok_or_else(|| Error::not_found("image", name))?;
                if let Some(target) = target
                    && target.digest != record.target.digest
                {
                    return Err(Error::not_found("image", format!("{name}@{}", target.digest)));
                }
                if let Some(lease) = lease {
                    leases::release(tx, namespace, lease, &Resource::Image(name.to_owned()))?;
                }
                tx.delete(&tables::IMAGES, namespace, name).map(drop)
            })
            .await?;
        self.deleted(namespace, name);
        Ok(())
    }

    fn created(&self, namespace: &Namespace, name: &str, labels: &Labels) {
        let event = wire::ImageCreate { name: name.to_owned(), labels: to_hash(labels) };
        self.events.publish_message(
            namespace,
            "/images/create",
            "containerd.services.images.v1.ImageCreate",
            &event,
        );
    }

    fn updated(&self, namespace: &Namespace, name: &str, labels: &Labels) {
        let event = wire::ImageUpdate { name: name.to_owned(), labels: to_hash(labels) };
        self.events.publish_message(
            namespace,
            "/images/update",
            "containerd.services.images.v1.ImageUpdate",
            &event,
        );
    }

    /// Tells that the image is gone; the collector does, too, for those that expired.
    pub fn deleted(&self, namespace: &Namespace, name: &str) {
        let event = wire::ImageDelete { name: name.to_owned() };
        self.events.publish_message(
            namespace,
            "/images/delete",
            "containerd.services.images.v1.ImageDelete",
            &event,
        );
    }
}

fn store(tx: &mut Tx<'_>, namespace: &Namespace, name: &str, record: &ImageRecord) -> Result<()> {
    namespaces::ensure(tx, namespace)?;
    tx.put(&tables::IMAGES, namespace, name, record)
}

/// An image that has no time to expire is a root by itself; one that has is held by the lease as long as that lives.
fn hold(
    tx: &mut Tx<'_>,
    namespace: &Namespace,
    name: &str,
    record: &ImageRecord,
    lease: Option<&str>,
) -> Result<()> {
    match lease {
        Some(lease) if record.labels.contains_key(leases::EXPIRE) => {
            leases::hold(tx, namespace, lease, &Resource::Image(name.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Drops what is empty, and refuses what no image can be.
fn settle(name: &str, record: &mut ImageRecord) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid("image name", "must not be empty"));
    }
    if name.len() > MAX_NAME || name.contains('\0') {
        return Err(Error::invalid(
            "image name",
            format!("is longer than {MAX_NAME} bytes or contains a NUL byte"),
        ));
    }
    if record.target.media_type.is_empty() {
        return Err(Error::invalid(format!("image \"{name}\""), "its target has no media type"));
    }
    if record.target.size == 0 {
        return Err(Error::invalid(
            format!("image \"{name}\""),
            "its target's size must be greater than zero",
        ));
    }
    record.target.annotations.retain(|_, value| !value.is_empty());
    labels::settle(&mut record.labels)
}

fn apply_mask(
    record: &mut ImageRecord,
    target: Option<Descriptor>,
    labels: Labels,
    mask: &[String],
) -> Result<()> {
    let target =
        || target.clone().ok_or_else(|| Error::invalid("image target", "must be given to be updated"));
    if mask.is_empty() {
        record.target = target()?;
        record.labels = labels;
        return Ok(());
    }
    for path in mask {
        if let Some(key) = path.strip_prefix("labels.") {
            labels::set(&mut record.labels, key, &labels);
            continue;
        }
        if let Some(key) = path.strip_prefix("annotations.") {
            labels::set(&mut record.target.annotations, key, &target()?.annotations);
            continue;
        }
        match path.as_str() {
            "labels" => record.labels.clone_from(&labels),
            "target" => record.target = target()?,
            "annotations" => record.target.annotations = target()?.annotations,
            _ => {
                return Err(Error::invalid(
                    "update mask",
                    format!("image has no field {path:?} that can be updated"),
                ));
            }
        }
    }
    Ok(())
}
