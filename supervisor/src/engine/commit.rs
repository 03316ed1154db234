//! `commit`: a container's changes become a layer, and with the image below an image of its own, which is unpacked at once.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Engine;
use super::config::Record;
use super::images::assemble::{self, Assembled};
use super::images::instructions;
use super::registry::Entry;
use super::state::Status;
use crate::diff::{self, Wanted};
use crate::error::{Error, Result};
use crate::images::held::Held;
use crate::images::reference::Reference;

/// Whether the container stands still while its files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    Yes,
    No,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Commit {
    pub container: String,
    /// `NAME[:TAG]`; empty: the image has no name.
    pub reference: String,
    pub author: String,
    pub comment: String,
    /// Lines of a Dockerfile.
    pub changes: Vec<String>,
    pub pause: Pause,
}

impl Engine {
    /// Returns the image's id.
    pub async fn commit(self: &Arc<Self>, request: Commit) -> Result<String> {
        let entry = self.find(&request.container)?;
        let reference = assemble::target(&request.reference)?;
        let record = entry.record();
        let parent = self.image_of(&record).await?;
        // A line that makes no sense is refused before anything is done.
        let config = config(&record, &parent.document, &request.changes)?;
        let engine = self.clone();
        // Carried through even if the client goes away: the container is not left paused.
        let work = async move {
            let held = Held::begin(&engine.leases, &engine.gc, &engine.namespace).await?;
            let made = engine.commit_held(&held, &entry, &request, config, parent, reference.as_ref()).await;
            held.end().await;
            let id = made?;
            let name = reference.as_ref().map(Reference::familiar).unwrap_or_default();
            let more = [("comment", request.comment), ("imageID", id.clone()), ("imageRef", name)];
            engine.happened(&entry, "commit", &more);
            Ok(id)
        };
        self.carry("committing a container", work).await
    }

    async fn commit_held(
        self: &Arc<Self>,
        held: &Held,
        entry: &Arc<Entry>,
        request: &Commit,
        config: Map<String, Value>,
        parent: assemble::Parent,
        reference: Option<&Reference>,
    ) -> Result<String> {
        let frozen = self.freeze(entry, request.pause).await?;
        let layer = self.layer_of(held, entry).await;
        // A container that has ended meanwhile needs no thawing.
        if frozen
            && let Err(error) = self.unpause_entry(entry).await
            && entry.status().is_live()
        {
            return Err(error);
        }
        let layer = layer?;
        let now = Timestamp::now();
        let history = json!({
            "created": now.to_string(),
            "created_by": entry.read(Record::arguments),
            "author": request.author,
            "comment": request.comment,
        });
        let assembled =
            Assembled { parent, layer, config, history, author: request.author.clone(), created: now };
        self.assemble_image(held, assembled, reference).await
    }

    async fn freeze(self: &Arc<Self>, entry: &Arc<Entry>, pause: Pause) -> Result<bool> {
        if pause == Pause::No || entry.status() != Status::Running {
            return Ok(false);
        }
        match self.pause(&entry.id).await {
            Ok(()) => Ok(true),
            // It ended, or was paused, in the meantime.
            Err(_) if entry.status() != Status::Running => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn layer_of(self: &Arc<Self>, held: &Held, entry: &Entry) -> Result<assemble::Layer> {
        let sides = self.sides(entry).await?;
        let wanted = Wanted { lease: Some(held.lease().to_owned()), ..Wanted::default() };
        let both = (sides.below.clone(), sides.above.clone());
        let made = diff::make(&self.content, &self.namespace, both, wanted).await;
        self.leave(sides).await;
        let descriptor = made?;
        let labels = self.content.info(&self.namespace, &descriptor.digest)?.labels;
        let diff_id = labels.get(diff::UNCOMPRESSED).cloned().ok_or_else(|| Error::Damaged {
            what: format!("layer {}", descriptor.digest),
            why: "its diffID is not known".to_owned(),
        })?;
        Ok(assemble::Layer { descriptor, diff_id })
    }
}

/// The image's config as the container has changed it.
fn config(record: &Record, parent: &Value, changes: &[String]) -> Result<Map<String, Value>> {
    let mut config = parent.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
    let own = &record.config;
    let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
    if let Some(entrypoint) = &own.entrypoint {
        set("Entrypoint", json!(entrypoint));
        set("Cmd", Value::Null);
    }
    if !own.args.is_empty() {
        set("Cmd", json!(own.args));
    }
    if !record.user.is_empty() {
        set("User", json!(record.user));
    }
    if !own.working_dir.is_empty() {
        set("WorkingDir", json!(own.working_dir));
    }
    if !own.stop_signal.is_empty() {
        set("StopSignal", json!(own.stop_signal));
    }
    if !own.labels.is_empty() {
        set("Labels", json!(own.labels));
    }
    let image: Vec<String> = parent
        .pointer("/config/Env")
        .and_then(Value::as_array)
        .map(|env| env.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    // A name alone was taken away, and is the image's business no more.
    let mut env = super::spec::env::with_images(&own.env, &image);
    env.retain(|entry| entry.contains('='));
    set("Env", json!(env));
    let anonymous = record.mounts().iter().filter(|mount| mount.volume.anonymous);
    let volumes: Map<String, Value> = anonymous.map(|mount| (mount.target.clone(), json!({}))).collect();
    if !volumes.is_empty() {
        set("Volumes", Value::Object(volumes));
    }
    instructions::apply(&mut config, changes)?;
    config.retain(|_, value| !value.is_null());
    Ok(config)
}
