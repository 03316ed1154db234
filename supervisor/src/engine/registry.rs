//! The engine's containers in memory: found by name, id or a unique beginning of the id. The lock of the registry
//! and the lock of a record are held for moments only, never over I/O; verbs that change what a container does take
//! its `turn`, so that they come one after another for one container and never wait for another's.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::watch;

use super::config::Record;
use super::conflict::Conflict;
use super::names;
use super::state::{Exit, Refused, State, Status};
use crate::error::{Error, Result};

/// What those who wait for a container see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    pub status: Status,
    /// Number of the newest run that is over: its output complete, its task gone.
    pub ended: u64,
    pub last_exit: Option<Exit>,
    pub removed: bool,
}

/// One container.
#[derive(Debug)]
pub struct Entry {
    pub id: String,
    record: Mutex<Record>,
    /// Held by a verb that starts, ends or removes it.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    phase: watch::Sender<Phase>,
    /// Restarts under way: an end that they cause does not remove the container.
    restarts: AtomicUsize,
    /// Read while a signal is sent and told of; written, for a moment, before an end is told: first the signal, then what came of it.
    pub signalling: tokio::sync::RwLock<()>,
}

/// Keeps a container whose end would remove it, until this is dropped.
pub struct Kept(Arc<Entry>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.restarts.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Entry {
    pub fn new(id: String, record: Record) -> Arc<Entry> {
        let state = &record.state;
        let ended = state.run.saturating_sub(u64::from(state.status.is_live()));
        let phase = Phase { status: state.status, ended, last_exit: last_exit(state), removed: false };
        Arc::new(Entry {
            id,
            record: Mutex::new(record),
            turn: Arc::default(),
            phase: watch::Sender::new(phase),
            restarts: AtomicUsize::new(0),
            signalling: tokio::sync::RwLock::default(),
        })
    }

    /// For a restart, whose stop is no end.
    pub fn keep(self: &Arc<Self>) -> Kept {
        self.restarts.fetch_add(1, Ordering::SeqCst);
        Kept(self.clone())
    }

    pub fn is_kept(&self) -> bool {
        self.restarts.load(Ordering::SeqCst) > 0
    }

    /// The record as it is now.
    pub fn record(&self) -> Record {
        self.lock().clone()
    }

    pub fn name(&self) -> String {
        self.lock().name.clone()
    }

    pub fn status(&self) -> Status {
        self.lock().state.status
    }

    pub fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Looks at the record without copying it.
    pub fn read<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.lock())
    }

    /// Changes the record and tells those who wait.
    pub fn change<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        let mut record = self.lock();
        let result = change(&mut record);
        let status = record.state.status;
        drop(record);
        self.phase.send_if_modified(|phase| std::mem::replace(&mut phase.status, status) != status);
        result
    }

    /// A transition of the state; a refusal names the container.
    pub fn transition(&self, step: impl FnOnce(&mut State) -> Result<(), Refused>) -> Result<State> {
        self.change(|record| step(&mut record.state).map(|()| record.state.clone()))
            .map_err(|why| Error::Conflict(Conflict::State { id: self.id.clone(), why }))
    }

    /// A run is over in every respect.
    pub fn ended(&self) {
        self.over(false);
    }

    /// The container is gone.
    pub fn removed(&self) {
        self.over(true);
    }

    fn over(&self, removed: bool) {
        let (run, exit) = self.read(|record| (record.state.run, last_exit(&record.state)));
        self.phase.send_modify(|phase| {
            phase.removed |= removed;
            phase.ended = run;
            phase.last_exit = exit;
        });
    }

    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Resolves when the current run is over in every respect; at once if there is none.
    pub async fn until_stopped(&self) {
        let mut phase = self.watch();
        let (run, between) =
            self.read(|record| (record.state.run, record.state.status == Status::Restarting));
        // Between two runs the next one is waited for, unless it never comes.
        let over = |now: &Phase| now.ended >= run + u64::from(between) || (between && !now.status.is_up());
        // An error means that the entry is gone, and the container with it.
        let _ = phase.wait_for(|now| over(now) || now.removed).await;
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn last_exit(state: &State) -> Option<Exit> {
    let at = state.finished_at?;
    Some(Exit { code: state.exit_code, oom_killed: state.oom_killed, at })
}

#[derive(Default)]
struct Index {
    by_id: BTreeMap<String, Arc<Entry>>,
    /// Name → id; also of containers that are being made.
    names: HashMap<String, String>,
}

/// All containers.
#[derive(Default)]
pub struct Registry {
    index: RwLock<Index>,
}

impl Registry {
    /// Takes a name for a container that is being made; without one, makes one up.
    pub fn reserve(self: &Arc<Self>, name: Option<&str>, id: &str) -> Result<Reservation> {
        let mut index = self.write();
        let name = match name {
            Some(name) => {
                if let Some(holder) = index.names.get(name) {
                    return Err(in_use(name, holder));
                }
                name.to_owned()
            }
            None => names::generate(|name| index.names.contains_key(name)),
        };
        index.names.insert(name.clone(), id.to_owned());
        Ok(Reservation { registry: self.clone(), name, kept: false })
    }

    /// Adds a container whose name was reserved, or was read from its record at start.
    pub fn insert(&self, entry: Arc<Entry>) {
        let mut index = self.write();
        index.names.insert(entry.name(), entry.id.clone());
        index.by_id.insert(entry.id.clone(), entry);
    }

    /// Forgets a container and frees its name.
    pub fn remove(&self, entry: &Entry) {
        let mut index = self.write();
        let name = entry.name();
        if index.names.get(&name).is_some_and(|holder| *holder == entry.id) {
            index.names.remove(&name);
        }
        index.by_id.remove(&entry.id);
    }

    /// Gives a container another name, if nobody has it.
    pub fn rename(&self, entry: &Entry, name: &str) -> Result<String> {
        let mut index = self.write();
        if let Some(holder) = index.names.get(name) {
            return Err(in_use(name, holder));
        }
        let old = entry.name();
        index.names.remove(&old);
        index.names.insert(name.to_owned(), entry.id.clone());
        entry.change(|record| name.clone_into(&mut record.name));
        Ok(old)
    }

    /// The container that `text` names: its name, its id, or a beginning that no other id shares.
    pub fn find(&self, text: &str) -> Result<Arc<Entry>> {
        let index = self.read();
        let bare = text.strip_prefix('/').unwrap_or(text);
        if let Some(entry) = index.by_id.get(bare) {
            return Ok(entry.clone());
        }
        if let Some(entry) = index.names.get(bare).and_then(|id| index.by_id.get(id)) {
            return Ok(entry.clone());
        }
        if names::is_id_prefix(bare) {
            let mut matches = index
                .by_id
                .range(bare.to_owned()..)
                .take_while(|(id, _)| id.starts_with(bare))
                .map(|(_, e)| e);
            match (matches.next(), matches.next()) {
                (Some(entry), None) => return Ok(entry.clone()),
                (Some(_), Some(_)) => {
                    return Err(Error::invalid(
                        format!("container {text}"),
                        "multiple IDs found with provided prefix: give more digits",
                    ));
                }
                _ => {}
            }
        }
        Err(Error::not_found("container", text))
    }

    pub fn get(&self, id: &str) -> Option<Arc<Entry>> {
        self.read().by_id.get(id).cloned()
    }

    /// Everything, in no order that means anything.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.read().by_id.values().cloned().collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn in_use(name: &str, holder: &str) -> Error {
    Error::Conflict(Conflict::NameInUse { name: name.to_owned(), id: holder.to_owned() })
}

/// A name that is taken for a container in the making; given back unless kept.
pub struct Reservation {
    registry: Arc<Registry>,
    pub name: String,
    kept: bool,
}

impl Reservation {
    /// The container exists: the name is its own now.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.kept {
            self.registry.write().names.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::config::ContainerConfig;

    fn entry(id: &str, name: &str) -> Arc<Entry> {
        let record = Record {
            name: name.to_owned(),
            config: ContainerConfig::default(),
            image_id: String::new(),
            image_ref: String::new(),
            snapshotter: String::new(),
            process_args: Vec::new(),
            entrypoint_words: 0,
            process_env: Vec::new(),
            process_cwd: "/".to_owned(),
            user: String::new(),
            stop_signal: 15,
            stdin_once: false,
            health_shell: Vec::new(),
            volumes: Vec::new(),
            exposed: Vec::new(),
            mounts: None,
            mounted_images: Vec::new(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            state: State::created(),
        };
        Entry::new(id.to_owned(), record)
    }

    #[test]
    fn found_by_name_id_and_unique_prefix() {
        let registry = Arc::new(Registry::default());
        registry.insert(entry("abc1", "web"));
        registry.insert(entry("abd2", "abc"));
        assert_eq!(registry.find("web").unwrap().id, "abc1");
        assert_eq!(registry.find("/web").unwrap().id, "abc1");
        assert_eq!(registry.find("abc").unwrap().id, "abd2", "a name wins over a prefix");
        assert_eq!(registry.find("abd").unwrap().id, "abd2");
        assert!(registry.find("ab").unwrap_err().to_string().contains("multiple IDs"));
        assert!(registry.find("zz").unwrap_err().is_not_found());
        assert!(registry.find("").unwrap_err().is_not_found());
    }

    #[test]
    fn names_are_taken_once_and_given_back() {
        let registry = Arc::new(Registry::default());
        let held = registry.reserve(Some("web"), "1").unwrap();
        let text = registry.reserve(Some("web"), "2").err().unwrap().to_string();
        assert!(
            text.starts_with("Conflict. The container name \"/web\" is already in use by container \"1\"."),
            "{text}"
        );
        drop(held);
        registry.reserve(Some("web"), "2").unwrap().keep();
        let web = entry("2", "web");
        registry.insert(web.clone());
        registry.insert(entry("3", "db"));
        assert!(registry.rename(&web, "db").is_err());
        registry.rename(&web, "www").unwrap();
        assert!(registry.find("web").is_err());
        registry.remove(&web);
        registry.reserve(Some("www"), "4").unwrap();
    }
}
