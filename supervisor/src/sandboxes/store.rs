//! Sandbox records: what a sandbox is made from. Whether it runs is the controller's knowledge.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::any::Any;
use crate::containers::Runtime;
use crate::error::{Error, Result};
use crate::filters::{self, Adaptor, Filter};
use crate::folders;
use crate::labels::{self, Labels};
use crate::metadata::{Db, Reader, tables};
use crate::namespaces::{self, Namespace, check_identifier};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    #[serde(default)]
    pub runtime: Runtime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Any>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, Any>,
    /// The name of the controller.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandboxer: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    pub id: String,
    pub record: SandboxRecord,
}

impl Adaptor for Sandbox {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["id"] => Some(self.id.clone()),
            ["labels", key @ ..] => filters::label(&self.record.labels, key),
            _ => None,
        }
    }
}

pub struct SandboxStore {
    db: Arc<Db>,
}

impl SandboxStore {
    pub fn new(db: Arc<Db>) -> Self {
        Self { db }
    }

    pub fn get(&self, namespace: &Namespace, id: &str) -> Result<Sandbox> {
        let record = self.db.get(&tables::SANDBOXES, namespace, id)?;
        record
            .map(|record| Sandbox { id: id.to_owned(), record })
            .ok_or_else(|| Error::not_found("sandbox", id))
    }

    /// Sandboxes that match, in the order of their ids.
    pub fn list(&self, namespace: &Namespace, filter: &Filter) -> Result<Vec<Sandbox>> {
        let rows = self.db.list(&tables::SANDBOXES, namespace)?;
        let sandboxes = rows.into_iter().map(|row| Sandbox { id: row.key, record: row.record });
        Ok(sandboxes.filter(|sandbox| filter.matches(sandbox)).collect())
    }

    /// All sandboxes, for a start: a record that cannot be read holds up no other. `mend` makes one that can be of what is kept (as JSON;
    /// null if it is none), and what was kept is a file of the folder `aside` from then on; where that cannot be written, the record stays as
    /// it is, too. Without one it stays, and is left out.
    pub fn read_back(
        &self,
        namespace: &Namespace,
        aside: &Path,
        mend: impl Fn(&str, &serde_json::Value) -> Option<SandboxRecord>,
    ) -> Result<Vec<Sandbox>> {
        let mut all = Vec::new();
        for id in self.db.keys(&tables::SANDBOXES, namespace)? {
            let record = match self.db.get(&tables::SANDBOXES, namespace, &id) {
                Ok(record) => record,
                Err(error @ (Error::Record { .. } | Error::Damaged { .. })) => {
                    let bytes = self.db.bytes(&tables::SANDBOXES, namespace, &id)?.unwrap_or_default();
                    let mended = mend(&id, &serde_json::from_slice(&bytes).unwrap_or_default());
                    match &mended {
                        None => {
                            tracing::error!(sandbox = %id, %error, "a record cannot be read, and is left alone")
                        }
                        Some(record) => {
                            if let Err(left) = self.set_aside((namespace, &id), aside, &bytes, record, &error)
                            {
                                tracing::warn!(sandbox = %id, error = %left, "a record that cannot be read stays where it is; the next start tries it again");
                            }
                        }
                    }
                    mended
                }
                Err(error) => return Err(error),
            };
            all.extend(record.map(|record| Sandbox { id, record }));
        }
        Ok(all)
    }

    fn set_aside(
        &self,
        (namespace, id): (&Namespace, &str),
        aside: &Path,
        bytes: &[u8],
        record: &SandboxRecord,
        why: &Error,
    ) -> Result<()> {
        check_identifier("sandbox", id)?;
        let path = aside.join(format!("sandbox-{id}"));
        std::fs::create_dir_all(aside)
            .and_then(|()| folders::replace(&path, &path.with_extension("new"), |file| file.write_all(bytes)))
            .map_err(|error| Error::io("setting a record aside as", &path, error))?;
        tracing::error!(sandbox = %id, %why, aside = %path.display(), "a record cannot be read: it is set aside, and what can be told of it is kept");
        self.db.write_lazy(|tx| tx.put(&tables::SANDBOXES, namespace, id, record))
    }

    /// Stores a new sandbox; its times are set to now.
    pub async fn create(&self, namespace: &Namespace, mut sandbox: Sandbox) -> Result<Sandbox> {
        sandbox.record.created_at = Timestamp::now();
        sandbox.record.updated_at = sandbox.record.created_at;
        settle(&mut sandbox)?;
        self.db
            .write(|tx| {
                if tx.contains(&tables::SANDBOXES, namespace, &sandbox.id)? {
                    return Err(Error::already_exists("sandbox", &sandbox.id));
                }
                namespaces::ensure(tx, namespace)?;
                tx.put(&tables::SANDBOXES, namespace, &sandbox.id, &sandbox.record)
            })
            .await?;
        Ok(sandbox)
    }

    /// Changes what `fields` names (`labels[.KEY]`, `extensions[.KEY]`, `spec`, `runtime`); all of these if it is empty.
    pub async fn update(
        &self,
        namespace: &Namespace,
        changed: Sandbox,
        fields: &[String],
    ) -> Result<Sandbox> {
        self.db
            .write(|tx| {
                let record: Option<SandboxRecord> = tx.get(&tables::SANDBOXES, namespace, &changed.id)?;
                let record = record.ok_or_else(|| Error::not_found("sandbox", &changed.id))?;
                let mut sandbox = Sandbox { id: changed.id.clone(), record };
                apply(&mut sandbox.record, &changed, fields)?;
                settle(&mut sandbox)?;
                sandbox.record.updated_at = Timestamp::now();
                tx.put(&tables::SANDBOXES, namespace, &sandbox.id, &sandbox.record)?;
                Ok(sandbox)
            })
            .await
    }

    /// Deletes the record; what its labels referred to is left to the collector.
    pub async fn delete(&self, namespace: &Namespace, id: &str) -> Result<()> {
        let existed = self.db.write(|tx| tx.delete(&tables::SANDBOXES, namespace, id)).await?;
        if existed { Ok(()) } else { Err(Error::not_found("sandbox", id)) }
    }
}

/// Drops what is empty, and refuses what no sandbox can be.
fn settle(sandbox: &mut Sandbox) -> Result<()> {
    check_identifier("sandbox", &sandbox.id)?;
    labels::settle(&mut sandbox.record.labels)?;
    if sandbox.record.extensions.keys().any(String::is_empty) {
        return Err(Error::invalid(format!("sandbox \"{}\"", sandbox.id), "has an extension without a name"));
    }
    Ok(())
}

fn apply(record: &mut SandboxRecord, changed: &Sandbox, fields: &[String]) -> Result<()> {
    let refuse = |field: &str| {
        Error::invalid(format!("sandbox \"{}\"", changed.id), format!("its {field} cannot be changed"))
    };
    if fields.is_empty() {
        if record.runtime.name != changed.record.runtime.name {
            return Err(refuse("runtime's name"));
        }
        let all = ["labels", "extensions", "spec", "runtime"].map(str::to_owned);
        return apply(record, changed, &all);
    }
    for field in fields {
        if let Some(key) = field.strip_prefix("labels.") {
            labels::set(&mut record.labels, key, &changed.record.labels);
        } else if let Some(key) = field.strip_prefix("extensions.") {
            match changed.record.extensions.get(key) {
                Some(value) => record.extensions.insert(key.to_owned(), value.clone()),
                None => record.extensions.remove(key),
            };
        } else {
            match field.as_str() {
                "labels" => record.labels.clone_from(&changed.record.labels),
                "extensions" => record.extensions.clone_from(&changed.record.extensions),
                "spec" => record.spec.clone_from(&changed.record.spec),
                "runtime" => record.runtime.clone_from(&changed.record.runtime),
                _ => return Err(refuse(&format!("field {field:?}"))),
            }
        }
    }
    Ok(())
}
