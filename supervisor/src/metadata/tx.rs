//! Reading and changing records: the same verbs on the store and inside a batch that is being made.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use sled::IVec;

use super::record::{Form, Record};
use super::table::{Row, Table};
use super::{key, sled_error};
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

/// Is called with a key and its value.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<()> + 'a;

/// Ordered raw reads: what the store and a batch in the making have in common.
pub trait Source {
    fn raw_get(&self, key: &[u8]) -> Result<Option<IVec>>;
    /// All records whose key begins with `prefix`, in order.
    fn raw_scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<()>;
}

/// Typed reads.
pub trait Reader {
    fn get<T: Record>(&self, table: &Table<T>, namespace: &Namespace, key: &str) -> Result<Option<T>>;
    fn contains<T>(&self, table: &Table<T>, namespace: &Namespace, key: &str) -> Result<bool>;
    /// The records of one namespace in the order of their keys.
    fn list<T: Record>(&self, table: &Table<T>, namespace: &Namespace) -> Result<Vec<Row<T>>>;
    /// The records of one namespace whose keys begin with `prefix`.
    fn list_prefix<T: Record>(
        &self,
        table: &Table<T>,
        namespace: &Namespace,
        prefix: &str,
    ) -> Result<Vec<Row<T>>>;
    /// The records of all namespaces.
    fn scan<T: Record>(&self, table: &Table<T>) -> Result<Vec<Row<T>>>;
    /// The keys of one namespace, in their order, of records that cannot be read, too.
    fn keys<T>(&self, table: &Table<T>, namespace: &Namespace) -> Result<Vec<String>>;
    /// What is kept of a record, to be looked at when it cannot be read.
    fn bytes<T>(&self, table: &Table<T>, namespace: &Namespace, key: &str) -> Result<Option<Vec<u8>>>;
    /// Whether the namespace has any record in this table.
    fn any<T>(&self, table: &Table<T>, namespace: &Namespace) -> Result<bool>;
}

impl<S: Source> Reader for S {
    fn get<T: Record>(&self, table: &Table<T>, namespace: &Namespace, name: &str) -> Result<Option<T>> {
        let full = key::record(table.tag, namespace, name)?;
        match self.raw_get(&full)? {
            None => Ok(None),
            Some(stored) => decode(self, table, &full, &stored).map(Some),
        }
    }

    fn contains<T>(&self, table: &Table<T>, namespace: &Namespace, name: &str) -> Result<bool> {
        Ok(self.raw_get(&key::record(table.tag, namespace, name)?)?.is_some())
    }

    fn list<T: Record>(&self, table: &Table<T>, namespace: &Namespace) -> Result<Vec<Row<T>>> {
        rows(self, table, &key::prefix(table.tag, namespace))
    }

    fn list_prefix<T: Record>(
        &self,
        table: &Table<T>,
        namespace: &Namespace,
        prefix: &str,
    ) -> Result<Vec<Row<T>>> {
        rows(self, table, &key::record(table.tag, namespace, prefix)?)
    }

    fn scan<T: Record>(&self, table: &Table<T>) -> Result<Vec<Row<T>>> {
        rows(self, table, &[table.tag])
    }

    fn keys<T>(&self, table: &Table<T>, namespace: &Namespace) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        self.raw_scan(&key::prefix(table.tag, namespace), &mut |full, _| {
            keys.extend(key::split(full).map(|(_, _, name)| name));
            Ok(())
        })?;
        Ok(keys)
    }

    fn bytes<T>(&self, table: &Table<T>, namespace: &Namespace, name: &str) -> Result<Option<Vec<u8>>> {
        let full = key::record(table.tag, namespace, name)?;
        let Some(stored) = self.raw_get(&full)? else { return Ok(None) };
        let bytes = whole(self, table, &full, &stored).map(|(_, bytes)| bytes.into_owned());
        Ok(Some(bytes.unwrap_or_else(|_| stored.to_vec())))
    }

    fn any<T>(&self, table: &Table<T>, namespace: &Namespace) -> Result<bool> {
        let mut found = false;
        self.raw_scan(&key::prefix(table.tag, namespace), &mut |_, _| {
            found = true;
            Ok(())
        })?;
        Ok(found)
    }
}

fn rows<S: Source + ?Sized, T: Record>(source: &S, table: &Table<T>, prefix: &[u8]) -> Result<Vec<Row<T>>> {
    let mut rows = Vec::new();
    source.raw_scan(prefix, &mut |full, stored| {
        if let Some((_, namespace, name)) = key::split(full) {
            let record = decode(source, table, full, stored)?;
            rows.push(Row { namespace, key: name, record });
        }
        Ok(())
    })?;
    Ok(rows)
}

pub(super) fn decode<S: Source + ?Sized, T: Record>(
    source: &S,
    table: &Table<T>,
    full: &[u8],
    stored: &[u8],
) -> Result<T> {
    let (form, bytes) = whole(source, table, full, stored)?;
    form.read(&bytes).map_err(|source| unreadable(table, full, source))
}

/// The record as a message; nothing if its table keeps none.
pub(super) fn message<S: Source + ?Sized, T: Record>(
    source: &S,
    table: &Table<T>,
    full: &[u8],
    name: &str,
    stored: &[u8],
) -> Result<Option<Vec<u8>>> {
    let (form, bytes) = whole(source, table, full, stored)?;
    if form == Form::Message {
        return Ok(Some(bytes.into_owned()));
    }
    let record: T = form.read(&bytes).map_err(|source| unreadable(table, full, source))?;
    Ok(record.to_message(name))
}

/// A record's bytes, put together from its pieces.
fn whole<'a, S: Source + ?Sized, T>(
    source: &S,
    table: &Table<T>,
    full: &[u8],
    stored: &'a [u8],
) -> Result<(Form, Cow<'a, [u8]>)> {
    let damaged = |why: &str| Error::Damaged {
        what: format!("metadata record {}/{}", table.name, String::from_utf8_lossy(&full[1..])),
        why: why.to_owned(),
    };
    let (form, first, further) = key::head(stored).ok_or_else(|| damaged("unknown form"))?;
    if further == 0 {
        return Ok((form, first.into()));
    }
    let mut whole = Vec::with_capacity(first.len() + usize::from(further) * key::MAX_PIECE);
    whole.extend_from_slice(first);
    for index in 0..further {
        let piece = source.raw_get(&key::piece(full, index))?.ok_or_else(|| damaged("a piece is missing"))?;
        whole.extend_from_slice(&piece);
    }
    Ok((form, whole.into()))
}

fn unreadable<T>(table: &Table<T>, full: &[u8], source: super::Unreadable) -> Error {
    let key = String::from_utf8_lossy(&full[1..]).replace('\0', "/");
    Error::Record { table: table.name, key, source }
}

/// A batch in the making: reads see its own changes; nothing is stored until it is applied as a whole.
pub struct Tx<'a> {
    tree: &'a sled::Tree,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'a> Tx<'a> {
    pub(super) fn new(tree: &'a sled::Tree) -> Self {
        Self { tree, changes: BTreeMap::new() }
    }

    pub(super) fn into_changes(self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        self.changes
    }

    pub fn put<T: Record + Serialize>(
        &mut self,
        table: &Table<T>,
        namespace: &Namespace,
        name: &str,
        record: &T,
    ) -> Result<()> {
        let full = key::record(table.tag, namespace, name)?;
        let (form, value) = match record.to_message(name) {
            Some(message) => (Form::Message, message),
            None => {
                let json = serde_json::to_vec(record);
                (Form::Json, json.map_err(|source| unreadable(table, &full, source.into()))?)
            }
        };
        if value.len() > key::MAX_RECORD {
            return Err(Error::ResourceExhausted {
                what: format!("{} record \"{name}\" of {} bytes", table.name, value.len()),
                limit: "bytes of one metadata record",
                max: key::MAX_RECORD as u64,
            });
        }
        self.remove_pieces(&full)?;
        let (head, further) = key::cut(form, &value);
        for (index, piece) in (0u16..).zip(further) {
            self.changes.insert(key::piece(&full, index), Some(piece.to_vec()));
        }
        self.changes.insert(full, Some(head));
        Ok(())
    }

    /// Whether there was such a record.
    pub fn delete<T>(&mut self, table: &Table<T>, namespace: &Namespace, name: &str) -> Result<bool> {
        let full = key::record(table.tag, namespace, name)?;
        let existed = self.remove_pieces(&full)?;
        if existed {
            self.changes.insert(full, None);
        }
        Ok(existed)
    }

    fn remove_pieces(&mut self, full: &[u8]) -> Result<bool> {
        let Some(stored) = self.raw_get(full)? else { return Ok(false) };
        if let Some((_, _, further)) = key::head(&stored) {
            for index in 0..further {
                self.changes.insert(key::piece(full, index), None);
            }
        }
        Ok(true)
    }
}

impl Source for Tx<'_> {
    fn raw_get(&self, key: &[u8]) -> Result<Option<IVec>> {
        match self.changes.get(key) {
            Some(changed) => Ok(changed.as_deref().map(IVec::from)),
            None => self.tree.raw_get(key),
        }
    }

    fn raw_scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        let changed = || self.changes.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        if changed().next().is_none() {
            return self.tree.raw_scan(prefix, visit);
        }
        let mut merged = BTreeMap::new();
        self.tree.raw_scan(prefix, &mut |key, value| {
            merged.insert(key.to_vec(), value.to_vec());
            Ok(())
        })?;
        for (key, value) in changed() {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        merged.iter().try_for_each(|(key, value)| visit(key, value))
    }
}

impl Source for sled::Tree {
    fn raw_get(&self, key: &[u8]) -> Result<Option<IVec>> {
        self.get(key).map_err(sled_error("reading a record"))
    }

    fn raw_scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<()> {
        for entry in self.scan_prefix(prefix) {
            let (key, value) = entry.map_err(sled_error("reading records"))?;
            visit(&key, &value)?;
        }
        Ok(())
    }
}
