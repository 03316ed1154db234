//! Shims that have all containers of a group, such as a pod: the group's first container takes one from the pool, and it leaves
//! with the last.
//!
//! What always holds: a shim of a group has a folder of its own, `<state>/shims/<pid>-<time of start>`, where it listens, and
//! to which the bundles of its containers lead; whoever has a seat keeps the shim, and nobody else does; a shim that does not
//! answer gets no further containers; a container is ended and removed without touching the others.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longshore_proto::containerd::task::v3 as task;
use longshore_proto::longshore::shim::v1 as shim;
use longshore_proto::ttrpc::Code;

use super::bundle::{self, Bundle, CreateRecord};
use super::client::{Connection, Failure};
use super::foreign::driven;
use super::pool::WaitingShim;
use super::process::{ShimProcess, started_at};
use super::types::ProcessId;
use super::{Inner, Slot, delete, delete_request, limits, orphan, wire};
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

type Key = (Namespace, String);

/// The groups that have a shim.
#[derive(Default)]
pub struct Groups {
    by_name: Mutex<HashMap<Key, Arc<Group>>>,
    /// While containers of the daemon before this one are being found, a shim without one may have others yet: none is ended.
    finding: AtomicBool,
    /// Folders of shims that cannot be reached for a container of theirs, which has no seat.
    wanted: Mutex<Vec<PathBuf>>,
}

/// A group's shims: one, unless it does not answer, is full, or died.
struct Group {
    key: Key,
    carriers: tokio::sync::Mutex<Vec<Arc<Carrier>>>,
}

/// A shim of a group.
struct Carrier {
    process: Arc<ShimProcess>,
    started_at: u64,
    folder: PathBuf,
    /// The connection that the pool has left, for the first container.
    first: Mutex<Option<Connection>>,
    /// Changed by who has the group's turn.
    seats: AtomicUsize,
    closed: AtomicBool,
}

impl Carrier {
    fn takes_more(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
            && self.seats.load(Ordering::Relaxed) < limits::CONTAINERS_PER_SHIM
            && !self.process.has_ended()
    }

    fn take_first(&self) -> Option<Connection> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Its last container is gone.
    async fn end(&self, control: Option<&Connection>) {
        if !self.process.has_ended() {
            let control = match control.cloned().or_else(|| self.take_first()) {
                Some(control) => Some(control),
                None => {
                    let socket = bundle::connect(&self.folder, limits::REQUEST).await;
                    socket.and_then(Connection::new).ok()
                }
            };
            if let Some(control) = &control {
                delete::shut_down(control, "");
            }
            if !self.process.ended_within(limits::SHIM_EXIT).await {
                tracing::warn!(pid = self.process.pid(), "killed a shim that did not leave");
                self.process.kill_and_wait(limits::SHIM_EXIT).await;
            }
        }
        remove_folder(&self.folder);
    }
}

/// A container's place in a shim; to be given back by [`Inner::leave`].
pub struct Seat {
    group: Arc<Group>,
    carrier: Arc<Carrier>,
}

impl Seat {
    pub fn process(&self) -> &Arc<ShimProcess> {
        &self.carrier.process
    }

    pub fn started_at(&self) -> u64 {
        self.carrier.started_at
    }

    pub fn group(&self) -> &str {
        &self.group.key.1
    }

    /// Where the shim listens.
    pub fn folder(&self) -> &Path {
        &self.carrier.folder
    }

    /// Has the shim end and forget a container, and leave its others alone. Whether nothing of the container is left there.
    async fn evict(&self, control: &mut Option<Connection>, id: &str) -> bool {
        if let Some(control) = control {
            match evict(control, id).await {
                // Perhaps it is only the connection.
                Err(Failure::Closed(_)) => {}
                evicted => return evicted.is_ok(),
            }
        }
        *control = self.connect().await.ok();
        match control {
            Some(control) => evict(control, id).await.is_ok(),
            None => false,
        }
    }

    /// Lets nobody else take a seat there.
    pub fn close(&self) {
        self.carrier.closed.store(true, Ordering::Relaxed);
    }

    /// Whether the next container of this group is taken here.
    pub fn is_of(&self, namespace: &Namespace, group: &str) -> bool {
        self.group.key.0 == *namespace && self.group.key.1 == group && self.carrier.takes_more()
    }

    /// A connection of the container's own.
    ///
    /// # Errors
    /// The shim is gone, or takes no connections.
    pub async fn connect(&self) -> io::Result<Connection> {
        match self.carrier.take_first() {
            Some(first) => Ok(first),
            None => Connection::new(bundle::connect(&self.carrier.folder, limits::REQUEST).await?),
        }
    }
}

/// A container in a shim, or what was begun of it.
pub struct Place<'a> {
    pub namespace: &'a Namespace,
    pub id: &'a str,
    pub cgroups_path: &'a str,
    pub bundle: Option<&'a Bundle>,
}

/// As long as it is there, a shim that cannot be reached is not ended for having no container.
pub struct Wanted {
    inner: Arc<Inner>,
    folder: PathBuf,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let mut wanted = self.inner.groups.wanted();
        if let Some(at) = wanted.iter().position(|folder| *folder == self.folder) {
            wanted.swap_remove(at);
        }
    }
}

/// A seat that nobody has yet.
struct Fresh {
    inner: Arc<Inner>,
    seat: Option<Seat>,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let Some(seat) = self.seat.take() else { return };
        let inner = self.inner.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { inner.leave(seat, None).await });
        }
    }
}

impl Groups {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Group>>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, namespace: &Namespace, name: &str) -> Arc<Group> {
        let key = (namespace.clone(), name.to_owned());
        let new = || Arc::new(Group { key: key.clone(), carriers: tokio::sync::Mutex::default() });
        self.lock().entry(key.clone()).or_insert_with(new).clone()
    }

    fn wanted(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, group: &Arc<Group>) -> bool {
        self.lock().get(&group.key).is_some_and(|known| Arc::ptr_eq(known, group))
    }

    fn forget(&self, group: &Group) {
        self.lock().remove(&group.key);
    }
}

impl Inner {
    /// A seat in the shim of a group, which is made if there is none. If the caller goes away it is given back.
    ///
    /// # Errors
    /// No shim can be had.
    pub(super) async fn join(self: &Arc<Self>, namespace: &Namespace, group: &str) -> Result<Seat> {
        let (inner, namespace, group) = (self.clone(), namespace.clone(), group.to_owned());
        let take = async move {
            let seat = inner.take_seat(&namespace, &group).await?;
            Ok(Fresh { inner, seat: Some(seat) })
        };
        let lost = || Error::Lost { what: "a seat in a shim" };
        let mut fresh = tokio::spawn(take).await.unwrap_or_else(|_| Err(lost()))?;
        fresh.seat.take().ok_or_else(lost)
    }

    async fn take_seat(&self, namespace: &Namespace, name: &str) -> Result<Seat> {
        loop {
            let group = self.groups.get(namespace, name);
            let mut carriers = group.carriers.lock().await;
            if !self.groups.has(&group) {
                // The last one has left meanwhile.
                continue;
            }
            let open = carriers.iter().find(|carrier| carrier.takes_more()).cloned();
            let carrier = match open {
                Some(carrier) => carrier,
                None => match self.new_carrier(namespace, name).await {
                    Ok(carrier) => {
                        carriers.push(carrier.clone());
                        carrier
                    }
                    Err(error) => {
                        if carriers.is_empty() {
                            self.groups.forget(&group);
                        }
                        return Err(error);
                    }
                },
            };
            carrier.seats.fetch_add(1, Ordering::Relaxed);
            drop(carriers);
            return Ok(Seat { group, carrier });
        }
    }

    /// A shim of the pool for a group. One that died while it waited is replaced once.
    async fn new_carrier(&self, namespace: &Namespace, name: &str) -> Result<Arc<Carrier>> {
        match self.assign(self.pool.take()?, namespace, name).await {
            Err((_, Failure::Closed(_))) => {}
            other => return other.map_err(|(error, _)| error),
        }
        self.assign(self.pool.fresh()?, namespace, name).await.map_err(|(error, _)| error)
    }

    async fn assign(
        &self,
        waiting: WaitingShim,
        namespace: &Namespace,
        name: &str,
    ) -> Result<Arc<Carrier>, (Error, Failure)> {
        let WaitingShim { process, started_at, socket } = waiting;
        let folder = folder_of(&self.state, process.pid(), started_at);
        let failed = |failure: Failure| (wire::failure(name, "make the shim of a group", &failure), failure);
        let lost = |error: io::Error| {
            let error = Error::io("making the shim of a group in", &folder, error);
            let failure = Failure::Refused(longshore_proto::ttrpc::CallError {
                code: Code::Unknown,
                message: error.to_string(),
            });
            (error, failure)
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(lost)?;
        let request = shim::AssignRequest {
            namespace: namespace.as_str().to_owned(),
            id: name.to_owned(),
            bundle: folder.to_string_lossy().into_owned(),
            shared: true,
        };
        let assigned = match Connection::new(socket) {
            Err(error) => Err(lost(error)),
            Ok(control) => {
                let answer = control.unary(wire::SHIM, "Assign", &request, limits::REQUEST).await;
                answer.map(|_: shim::AssignResponse| control).map_err(failed)
            }
        };
        match assigned {
            Ok(control) => Ok(Arc::new(Carrier {
                process: Arc::new(process),
                started_at,
                folder,
                first: Mutex::new(Some(control)),
                seats: AtomicUsize::new(0),
                closed: AtomicBool::new(false),
            })),
            Err(why) => {
                process.kill_and_wait(limits::SHIM_EXIT).await;
                remove_folder(&folder);
                Err(why)
            }
        }
    }

    /// Gives a seat back. With the last one the shim goes, which `control` may lead to.
    pub(super) async fn leave(&self, seat: Seat, control: Option<&Connection>) {
        let Seat { group, carrier } = seat;
        {
            let mut carriers = group.carriers.lock().await;
            if carrier.seats.fetch_sub(1, Ordering::Relaxed) > 1 || self.groups.finding.load(Ordering::SeqCst)
            {
                return;
            }
            carriers.retain(|other| !Arc::ptr_eq(other, &carrier));
            if carriers.is_empty() && self.groups.has(&group) {
                self.groups.forget(&group);
            }
        }
        if !self.groups.wanted().contains(&carrier.folder) {
            carrier.end(control).await;
        }
    }

    /// Ends and removes a container, or what was begun of it, and gives its seat back. `began`: the shim may have made something.
    pub(super) async fn stand_up(
        &self,
        seat: Seat,
        mut control: Option<Connection>,
        place: Place<'_>,
        began: bool,
    ) {
        let Place { namespace, id, cgroups_path, bundle } = place;
        if began && !seat.evict(&mut control, id).await {
            // It may be stuck: whatever it was doing for this container fails when the container's processes are gone.
            seat.close();
            if let Some(bundle) = bundle {
                driven::clean_up(self, namespace, id, bundle).await;
            }
            orphan::remove(self, id, cgroups_path, bundle).await;
        }
        if let Some(bundle) = bundle {
            bundle.remove();
        }
        self.leave(seat, control.as_ref()).await;
    }

    /// Keeps a container's shim, which cannot be reached, from being ended for having no container.
    pub(super) fn want(self: &Arc<Self>, record: &CreateRecord) -> Option<Wanted> {
        let folder = self.folder_of_shim(record)?;
        self.groups.wanted().push(folder.clone());
        Some(Wanted { inner: self.clone(), folder })
    }

    /// Where a container's shim listens, if it may have others.
    pub(super) fn folder_of_shim(&self, record: &CreateRecord) -> Option<PathBuf> {
        let is_shared = !record.group.is_empty();
        is_shared.then(|| folder_of(&self.state, record.shim_pid, record.shim_started_at))
    }

    /// Removes the folder of a shim that is gone.
    pub(super) fn forget_shim(&self, record: &CreateRecord) {
        if let Some(folder) = self.folder_of_shim(record)
            && started_at(record.shim_pid) != Some(record.shim_started_at)
        {
            remove_folder(&folder);
        }
    }

    /// The seat that a container of the daemon before this one has.
    pub(super) async fn sit_again(
        &self,
        namespace: &Namespace,
        record: &CreateRecord,
        process: ShimProcess,
    ) -> Seat {
        loop {
            let group = self.groups.get(namespace, &record.group);
            let mut carriers = group.carriers.lock().await;
            if !self.groups.has(&group) {
                continue;
            }
            let folder = folder_of(&self.state, record.shim_pid, record.shim_started_at);
            let known = carriers.iter().find(|carrier| carrier.folder == folder).cloned();
            let carrier = known.unwrap_or_else(|| {
                let carrier = Arc::new(Carrier {
                    process: Arc::new(process),
                    started_at: record.shim_started_at,
                    folder,
                    first: Mutex::default(),
                    seats: AtomicUsize::new(0),
                    closed: AtomicBool::new(false),
                });
                carriers.push(carrier.clone());
                carrier
            });
            carrier.seats.fetch_add(1, Ordering::Relaxed);
            drop(carriers);
            return Seat { group, carrier };
        }
    }

    /// From now on until [`Inner::sweep_groups`] containers of the daemon before this one are given their seats.
    pub(super) fn find_groups(&self) {
        self.groups.finding.store(true, Ordering::SeqCst);
    }

    /// Ends shims without a container, and removes folders of those that are gone. At start, after all bundles were looked at.
    pub(super) async fn sweep_groups(&self) {
        self.groups.finding.store(false, Ordering::SeqCst);
        let folders = super::recover::folders(&bundle::shims_folder(&self.state)).unwrap_or_default();
        if folders.is_empty() {
            return;
        }
        let used = self.used_folders();
        let groups: Vec<Arc<Group>> = self.groups.lock().values().cloned().collect();
        for group in groups {
            self.sweep_group(&group, &used).await;
        }
        for (name, folder) in folders {
            let Some((pid, started)) = parse(&name) else { continue };
            if started_at(pid) == Some(started) {
                if used.contains(&folder) {
                    continue;
                }
                // The number may have changed hands before it was opened; afterwards it cannot.
                if let Ok(process) = ShimProcess::open(pid)
                    && started_at(pid) == Some(started)
                {
                    tracing::warn!(pid, "ended a shim without a container");
                    process.kill_and_wait(limits::SHIM_EXIT).await;
                }
            }
            remove_folder(&folder);
        }
    }

    /// Folders that bundles lead to.
    fn used_folders(&self) -> HashSet<PathBuf> {
        let tasks: Vec<Bundle> = {
            let slots = self.slots();
            let all = slots.values().flat_map(HashMap::values);
            all.filter_map(|slot| match slot {
                Slot::Task(task) => Some(task.bundle.clone()),
                Slot::Making(_) | Slot::Reserved => None,
            })
            .collect()
        };
        let records = tasks.iter().filter_map(Bundle::record).filter(|record| !record.group.is_empty());
        records.map(|record| folder_of(&self.state, record.shim_pid, record.shim_started_at)).collect()
    }

    /// Ends shims whose seats were all given back while containers were found.
    async fn sweep_group(&self, group: &Arc<Group>, used: &HashSet<PathBuf>) {
        let mut carriers = group.carriers.lock().await;
        let is_empty = |carrier: &Arc<Carrier>| carrier.seats.load(Ordering::Relaxed) == 0;
        let empty: Vec<Arc<Carrier>> = carriers.extract_if(.., |carrier| is_empty(carrier)).collect();
        for carrier in empty {
            // One that has a container that could not be reached yet is that one's.
            if !used.contains(&carrier.folder) {
                carrier.end(None).await;
            }
        }
        if carriers.is_empty() && self.groups.has(group) {
            self.groups.forget(group);
        }
    }
}

fn folder_of(state: &Path, pid: i32, started_at: u64) -> PathBuf {
    bundle::shims_folder(state).join(format!("{pid}-{started_at}"))
}

fn parse(name: &str) -> Option<(i32, u64)> {
    let (pid, started) = name.split_once('-')?;
    Some((pid.parse().ok().filter(|pid| *pid > 0)?, started.parse().ok()?))
}

fn remove_folder(folder: &Path) {
    for name in ["shim.sock", "shim.pid"] {
        let _ = fs::remove_file(folder.join(name));
    }
    if let Err(error) = fs::remove_dir(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "cannot remove the folder of a shim");
    }
    // Fails while there are others.
    let _ = folder.parent().map(fs::remove_dir);
}

async fn evict(control: &Connection, id: &str) -> Result<(), Failure> {
    let kill = task::KillRequest {
        id: id.to_owned(),
        exec_id: String::new(),
        signal: libc::SIGKILL.unsigned_abs(),
        all: true,
    };
    let wait = task::WaitRequest { id: id.to_owned(), exec_id: String::new() };
    let delete = delete_request(id, ProcessId::Init);
    // One that has ended is not found, and is deleted all the same. One that is being made is killed when it is there.
    unless_gone(control.unary::<_, ()>(wire::TASK, "Kill", &kill, limits::DELETE).await.map(Some))?;
    let ended = control.unary::<_, task::WaitResponse>(wire::TASK, "Wait", &wait, limits::DELETE).await;
    if unless_gone(ended.map(Some))?.is_none() {
        return Ok(());
    }
    let deleted =
        control.unary::<_, task::DeleteResponse>(wire::TASK, "Delete", &delete, limits::DELETE).await;
    unless_gone(deleted.map(Some)).map(drop)
}

/// None: there is no such container.
fn unless_gone<T>(answer: Result<Option<T>, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Err(Failure::Refused(why)) if why.code == Code::NotFound => Ok(None),
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_names_its_shim() {
        let folder = folder_of(Path::new("/run/x"), 12, 345);
        assert_eq!(folder, Path::new("/run/x/shims/12-345"));
        assert_eq!(parse("12-345"), Some((12, 345)));
        for bad in ["", "12", "-1-5", "0-5", "a-5", "12-", "12-b"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
