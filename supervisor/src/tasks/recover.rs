//! Finding the tasks of the daemon before this one.
//!
//! What always holds: afterwards every bundle belongs to a task or is gone; a task whose shim lives is followed again from
//! the last event that was published; one whose shim died is stopped, with its true exit code if there is one, until
//! it is deleted; what a client was never told about and never ran is removed. A shim that does not answer
//! holds up nobody else, and start-up for a few seconds only.

#![forbid(unsafe_code)]

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use longshore_proto::containerd::task::v3 as shim_task;
use longshore_proto::longshore::shim::v1 as shim;
use longshore_proto::ttrpc::Code;

use super::bundle::{self, Bundle, CreateRecord, tasks_folder};
use super::client::{Connection, Failure, Incoming};
use super::process::{ShimProcess, started_at};
use super::task::{NewTask, Process, Task};
use super::types::{Status, TaskStdio};
use super::{Inner, foreign, limits, monitor, orphan, wire};
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

/// What start-up found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Tasks whose shim answers.
    pub alive: usize,
    /// Tasks whose shim is gone.
    pub stopped: usize,
    /// Tasks whose shim does not answer yet.
    pub silent: usize,
    /// What was removed: tasks that were being made, and leftovers.
    pub discarded: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Alive,
    Stopped,
    Silent,
    Discarded,
}

/// Recovers every bundle of the state folder.
pub(super) async fn all(manager: &Arc<Inner>) -> Result<Recovered> {
    let folder = tasks_folder(&manager.state);
    let bundles = scan(&folder).map_err(|e| Error::io("reading the bundles in", &folder, e))?;
    manager.find_groups();
    let mut outcomes = futures::stream::iter(bundles)
        .map(|leftover| async move {
            let bundle = leftover.bundle.path().to_owned();
            let found = one(manager, leftover).await;
            tracing::debug!(bundle = %bundle.display(), ?found, "recovered");
            found
        })
        .buffer_unordered(limits::RECOVER_AT_ONCE);
    let mut recovered = Recovered::default();
    while let Some(found) = outcomes.next().await {
        match found {
            Found::Alive => recovered.alive += 1,
            Found::Stopped => recovered.stopped += 1,
            Found::Silent => recovered.silent += 1,
            Found::Discarded => recovered.discarded += 1,
        }
    }
    foreign::bundle::sweep_work(&manager.state, &manager.root);
    manager.sweep_groups().await;
    Ok(recovered)
}

/// A bundle that was there at start.
pub(super) struct Leftover {
    pub namespace: Namespace,
    pub id: String,
    pub bundle: Bundle,
}

fn scan(folder: &Path) -> io::Result<Vec<Leftover>> {
    let mut found = Vec::new();
    for (name, path) in folders(folder)? {
        let Ok(namespace) = Namespace::parse(&name) else { continue };
        for (id, path) in folders(&path)? {
            found.push(Leftover { namespace: namespace.clone(), id, bundle: Bundle::at(path) });
        }
        // Only if it is empty.
        let _ = std::fs::remove_dir(path);
    }
    Ok(found)
}

pub(super) fn folders(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            found.push((name, entry.path()));
        }
    }
    Ok(found)
}

/// What the socket of a bundle leads to.
enum Peer {
    Shim(Connection, ShimProcess),
    /// It listened once, and is gone.
    Dead,
    /// It never listened.
    Never,
}

async fn one(manager: &Arc<Inner>, leftover: Leftover) -> Found {
    let record = leftover.bundle.record().unwrap_or_default();
    if let Some(shim) = record.foreign.clone() {
        return foreign::recover::one(manager, leftover, record, shim).await;
    }
    match peer(manager, &leftover, &record).await {
        Ok(peer) => take_over(manager, leftover, record, peer).await,
        Err(error) => {
            keep_asking(manager, leftover, record, &error);
            Found::Silent
        }
    }
}

async fn take_over(manager: &Arc<Inner>, leftover: Leftover, record: CreateRecord, peer: Peer) -> Found {
    match peer {
        Peer::Shim(control, process) => adopt_in_time(manager, leftover, record, control, process).await,
        Peer::Dead => dead(manager, leftover, record).await,
        Peer::Never => {
            discard(manager, &leftover.namespace, &leftover.id, &leftover.bundle, &record.cgroups_path, None)
                .await;
            Found::Discarded
        }
    }
}

/// A shim that cannot be reached is not dead for that: its task is listed as Unknown until it can, or is gone.
fn keep_asking(manager: &Arc<Inner>, leftover: Leftover, record: CreateRecord, error: &io::Error) {
    let (container, namespace) = (&leftover.id, &leftover.namespace);
    tracing::error!(container, %namespace, %error, "cannot reach a shim; trying again in the background");
    let stdio = record.request.as_ref().map(wire::stdio_of_request).unwrap_or_default();
    manager.insert(Task::new(NewTask {
        namespace: leftover.namespace.clone(),
        id: leftover.id.clone(),
        bundle: leftover.bundle.clone(),
        cgroups_path: record.cgroups_path.clone(),
        shim: None,
        seat: None,
        control: None,
        init: Process::new(0, Status::Unknown, stdio),
    }));
    let (manager, wanted) = (manager.clone(), manager.want(&record));
    tokio::spawn(async move {
        let peer = loop {
            tokio::time::sleep(limits::RECONNECT).await;
            match peer(&manager, &leftover, &record).await {
                Ok(peer) => break peer,
                Err(error) => tracing::warn!(container = leftover.id, %error, "cannot reach a shim"),
            }
        };
        let (namespace, id) = (leftover.namespace.clone(), leftover.id.clone());
        if take_over(&manager, leftover, record, peer).await == Found::Discarded {
            manager.release(&namespace, &id);
        }
        drop(wanted);
    });
}

/// Connects, and waits for a shim that is only just moving into its bundle. An error says nothing about the shim.
async fn peer(manager: &Inner, leftover: &Leftover, record: &CreateRecord) -> io::Result<Peer> {
    let deadline = Instant::now() + limits::ASSIGN_IN_FLIGHT;
    // One that has several containers has listened before it had this bundle, which need not lead to it yet.
    let shared = manager.folder_of_shim(record);
    loop {
        let connected = match &shared {
            Some(folder) => bundle::connect(folder, limits::RECONNECT).await,
            None => leftover.bundle.connect(limits::RECONNECT).await,
        };
        let absent = match connected {
            Ok(socket) => return identify(socket, record),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Peer::Dead,
            Err(error) if error.kind() == io::ErrorKind::NotFound && shared.is_some() => Peer::Dead,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Peer::Never,
            Err(error) => return Err(error),
        };
        let lives = record.shim_pid > 0 && started_at(record.shim_pid) == Some(record.shim_started_at);
        if !lives {
            return Ok(absent);
        }
        if Instant::now() > deadline {
            let process = ShimProcess::open(record.shim_pid);
            // The pid may have changed hands before it was opened; afterwards it cannot.
            if let Ok(process) = process
                // One that has several containers may not be killed for one.
                && shared.is_none()
                && started_at(record.shim_pid) == Some(record.shim_started_at)
            {
                process.kill_and_wait(limits::SHIM_EXIT).await;
            }
            return Ok(absent);
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Makes sure that whoever answers is the shim of the bundle.
fn identify(socket: UnixStream, record: &CreateRecord) -> io::Result<Peer> {
    let pid = rustix::net::sockopt::socket_peercred(&socket)?.pid.as_raw_pid();
    let process = match ShimProcess::open(pid) {
        Ok(process) => process,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(Peer::Dead),
        Err(error) => return Err(error),
    };
    // Whoever has the pid now is the shim only if it was started when the shim was.
    if started_at(pid) != Some(record.shim_started_at) {
        return Ok(Peer::Dead);
    }
    Ok(Peer::Shim(Connection::new(socket)?, process))
}

/// Adopts a task; one whose shim takes long is listed as Unknown meanwhile.
async fn adopt_in_time(
    manager: &Arc<Inner>,
    leftover: Leftover,
    record: CreateRecord,
    control: Connection,
    process: ShimProcess,
) -> Found {
    let stdio = record.request.as_ref().map(wire::stdio_of_request).unwrap_or_default();
    let (process, seat) = if record.group.is_empty() {
        (Arc::new(process), None)
    } else {
        let seat = manager.sit_again(&leftover.namespace, &record, process).await;
        (seat.process().clone(), Some(seat))
    };
    let task = Task::new(NewTask {
        namespace: leftover.namespace,
        id: leftover.id,
        bundle: leftover.bundle,
        cgroups_path: record.cgroups_path,
        shim: Some(process),
        seat,
        control: Some(control.clone()),
        init: Process::new(0, Status::Unknown, stdio),
    });
    manager.insert(task.clone());
    let adopting = tokio::spawn(adopt(manager.clone(), task.clone(), control));
    match tokio::time::timeout(limits::RECONNECT, adopting).await {
        Ok(found) => found.unwrap_or(Found::Silent),
        Err(_) => {
            tracing::warn!(container = task.id, "a shim does not answer; it is asked on in the background");
            Found::Silent
        }
    }
}

/// Asks a shim what became of its container, and follows it from there.
async fn adopt(manager: Arc<Inner>, task: Arc<Task>, mut control: Connection) -> Found {
    let (events, state) = loop {
        match ask(&manager, &task, &control).await {
            Ok(answer) => break answer,
            // The shim is stopped or very busy. It may not be killed for that: the container is well.
            Err(Failure::TimedOut(_)) => {}
            Err(Failure::Refused(error)) if error.code == Code::NotFound => {
                drop(control);
                return reject(&manager, &task).await;
            }
            Err(failure) => {
                tracing::warn!(container = task.id, %failure, "a shim does not say how its container is");
                if let Some(process) = &task.shim
                    && !process.ended_within(limits::SHIM_EXIT).await
                {
                    if task.is_shared() {
                        // It has others, too. Perhaps it is only the connection.
                        if let Ok(next) = task.own_connection("recover").await {
                            task.state().control = Some(next.clone());
                            control = next;
                        }
                        continue;
                    }
                    process.kill_and_wait(limits::SHIM_EXIT).await;
                }
                task.drained.cancel();
                monitor::bury(&manager, &task).await;
                return Found::Stopped;
            }
        }
    };
    let status = wire::status(state.status());
    if matches!(status, Status::Created | Status::Unknown) && !task.bundle.is_acknowledged() {
        drop((control, events));
        return reject(&manager, &task).await;
    }
    {
        let mut current = task.state();
        current.init.created(state.pid);
        match status {
            Status::Running | Status::Paused => current.init.started(state.pid),
            _ => {}
        }
        if status == Status::Paused {
            current.init.paused();
        }
    }
    if status == Status::Stopped && task.state().init.status() != Status::Stopped {
        monitor::end(&manager, &task, "");
    }
    restore_exec_stdio(&task, &control).await;
    task.note_forwarded();
    monitor::watch(&manager, task, events);
    Found::Alive
}

type Answer = (Incoming<shim::Event>, shim_task::StateResponse);

/// Replays the shim's events, then asks for the state: both come on one connection, so that the replay is complete when
/// the state is there.
async fn ask(manager: &Inner, task: &Task, control: &Connection) -> Result<Answer, Failure> {
    let forwarded = task.bundle.forwarded();
    let request = shim_task::StateRequest { id: task.id.clone(), exec_id: String::new() };
    let follow = shim::EventsRequest { after: task.state().sequence, id: task.id.clone() };
    let (mut events, state) = control.pipeline(|p| {
        let events = p.server_stream(wire::SHIM, "Events", &follow)?;
        let state = p.unary::<_, shim_task::StateResponse>(wire::TASK, "State", &request, limits::DELETE)?;
        Ok((events, state))
    })?;
    let replay = |event: &shim::Event| {
        if task.apply(event) && event.sequence > forwarded.sequence {
            monitor::publish_event(manager, task, event);
        }
    };
    let state = state.answer();
    tokio::pin!(state);
    let state = loop {
        tokio::select! {
            Some(Ok(event)) = events.next() => replay(&event),
            state = &mut state => break state?,
        }
    };
    while let Some(Ok(event)) = events.try_next() {
        replay(&event);
    }
    Ok((events, state))
}

/// Events do not say where an exec's stdio goes; the shim does.
async fn restore_exec_stdio(task: &Task, control: &Connection) {
    let execs: Vec<String> = task.state().execs.keys().cloned().collect();
    for exec_id in execs {
        let request = shim_task::StateRequest { id: task.id.clone(), exec_id: exec_id.clone() };
        let state: Result<shim_task::StateResponse, _> =
            control.unary(wire::TASK, "State", &request, limits::RECONNECT).await;
        let Ok(state) = state else { continue };
        if let Some(exec) = task.state().execs.get_mut(&exec_id) {
            exec.stdio = wire::stdio_of_state(&state);
        }
    }
}

/// Removes a task that was never acknowledged and does not run.
async fn reject(manager: &Inner, task: &Task) -> Found {
    let control = {
        let mut state = task.state();
        state.removed = true;
        state.control.take()
    };
    let seat = task.seat().take();
    match seat {
        Some(seat) => {
            tracing::info!(container = task.id, "removed a task that was never finished");
            manager.stand_up(seat, control, task.place(), true).await;
        }
        None => {
            drop(control);
            let (namespace, process) = (&task.namespace, task.shim.as_deref());
            discard(manager, namespace, &task.id, &task.bundle, &task.cgroups_path, process).await;
        }
    }
    manager.release(&task.namespace, &task.id);
    Found::Discarded
}

/// Removes a bundle and whatever belongs to it.
async fn discard(
    manager: &Inner,
    namespace: &Namespace,
    id: &str,
    bundle: &Bundle,
    cgroups_path: &str,
    process: Option<&ShimProcess>,
) {
    tracing::info!(container = id, "removed a task that was never finished");
    if let Some(process) = process
        && !process.kill_and_wait(limits::SHIM_EXIT).await
    {
        tracing::error!(container = id, pid = process.pid(), "a shim cannot be killed");
    }
    foreign::driven::clean_up(manager, namespace, id, bundle).await;
    if bundle.has_init() || process.is_some() {
        orphan::remove(manager, id, cgroups_path, Some(bundle)).await;
    }
    bundle.remove();
}

/// Keeps what is known of a task whose shim died while no daemon was there.
async fn dead(manager: &Arc<Inner>, leftover: Leftover, record: CreateRecord) -> Found {
    let Leftover { namespace, id, bundle } = leftover;
    manager.forget_shim(&record);
    let existed = bundle.exit_record("").is_some() || bundle.has_init() || bundle.is_acknowledged();
    if !existed {
        discard(manager, &namespace, &id, &bundle, &record.cgroups_path, None).await;
        return Found::Discarded;
    }
    let stdio = record.request.as_ref().map(wire::stdio_of_request).unwrap_or_default();
    let forwarded = bundle.forwarded();
    foreign::driven::clean_up(manager, &namespace, &id, &bundle).await;
    orphan::remove(manager, &id, &record.cgroups_path, Some(&bundle)).await;
    let task = Task::new(NewTask {
        namespace,
        id,
        bundle,
        cgroups_path: record.cgroups_path,
        shim: None,
        seat: None,
        control: None,
        init: Process::new(0, Status::Running, stdio),
    });
    task.drained.cancel();
    task.state().sequence = forwarded.sequence;
    for exec_id in task.bundle.exited_execs() {
        task.state().exec(exec_id.clone()).stdio = TaskStdio::default();
        settle(manager, &task, &exec_id, forwarded.exited);
    }
    settle(manager, &task, "", forwarded.exited);
    task.note_forwarded();
    manager.insert(task);
    Found::Stopped
}

/// Ends a process of a dead shim, and publishes it unless that was done before.
fn settle(manager: &Inner, task: &Task, exec_id: &str, published: bool) {
    let record = task.bundle.exit_record(exec_id);
    if let (true, Some(record)) = (published, record) {
        let mut state = task.state();
        let process = if exec_id.is_empty() { Some(&mut state.init) } else { state.execs.get_mut(exec_id) };
        if let Some(process) = process {
            process.pid = record.pid;
            process.exited(wire::exit(&record));
        }
        return;
    }
    monitor::end(manager, task, exec_id);
}
