//! containerd.services.sandbox.v1: the store of records, and the controller of what runs.

mod controller;
mod store;

use jiff::Timestamp;
use longshore_proto::containerd::types;

use super::convert;
use crate::containers::Runtime;
use crate::labels::{from_hash, to_hash};
use crate::sandboxes::{Sandbox, SandboxRecord};

pub use controller::Controller;
pub use store::Store;

fn to_wire(sandbox: Sandbox) -> types::Sandbox {
    let Sandbox { id, record } = sandbox;
    let Runtime { name, options } = record.runtime;
    types::Sandbox {
        sandbox_id: id,
        runtime: Some(types::sandbox::Runtime { name, options: options.map(Into::into) }),
        spec: record.spec.map(Into::into),
        labels: to_hash(&record.labels),
        created_at: Some(convert::timestamp(record.created_at)),
        updated_at: Some(convert::timestamp(record.updated_at)),
        extensions: record.extensions.into_iter().map(|(key, value)| (key, value.into())).collect(),
        sandboxer: record.sandboxer,
    }
}

/// The times are the store's to give.
fn from_wire(asked: types::Sandbox) -> Sandbox {
    let runtime = asked.runtime.unwrap_or_default();
    let now = Timestamp::now();
    let record = SandboxRecord {
        labels: from_hash(asked.labels),
        runtime: Runtime { name: runtime.name, options: runtime.options.map(Into::into) },
        spec: asked.spec.map(Into::into),
        extensions: asked.extensions.into_iter().map(|(key, value)| (key, value.into())).collect(),
        sandboxer: asked.sandboxer,
        created_at: now,
        updated_at: now,
    };
    Sandbox { id: asked.sandbox_id, record }
}
