//! `Delete`: forgets a process that has ended, and with the first process the container. Answered when all output
//! has reached where it goes, or after [`crate::limits::DRAIN`]; output of an exec that goes nowhere is not waited for.

use longshore_proto::containerd::events::TaskDelete;
use longshore_proto::containerd::task::v3::{DeleteRequest, DeleteResponse};

use crate::commands::Turn;
use crate::dispatch::Answer;
use crate::driver::{Driver, Step};
use crate::error::{Error, Result};
use crate::events::What;
use crate::process::{Caller, Phase};
use crate::server::Shim;
use crate::timers::Timer;
use crate::{bundle, limits, report};

/// A process that was deleted, and who has asked for that.
struct Deleted {
    response: DeleteResponse,
    callers: Vec<Caller>,
}

/// Removes a container.
type Removal = Box<dyn FnOnce() -> Result<Vec<String>> + Send>;

impl Shim {
    pub fn delete(&mut self, caller: Caller, request: &DeleteRequest) -> Result<Answer> {
        let serial = self.serial(&request.id, &request.exec_id)?;
        let turn = Turn::Process(serial);
        if self.commands.is_busy(&turn) {
            return Ok(Answer::InTurn(turn));
        }
        let (_, process) = self.named(&request.id, &request.exec_id)?;
        match &process.phase {
            Phase::Running => return Err(Error::WrongState { operation: "delete", state: "running" }),
            Phase::Added(_) => {
                self.forget_process(serial);
                return Ok(Answer::Now(Vec::new()));
            }
            // A container that was to be restored has no process yet.
            Phase::Created if process.pid == 0 => self.exited(serial, 128 + 9),
            Phase::Created | Phase::Stopped(_) => {}
        }
        let answer = self.keep_open(caller);
        if let Some(process) = self.processes.get_mut(&serial) {
            process.deleters.push(caller);
            if process.io.has_logger() {
                self.timers.set(limits::LOGGER_GRACE, Timer::Logger(serial));
            }
        }
        self.end_what_never_ran(serial);
        self.end_unwanted_output(serial);
        self.delete_if_settled(serial);
        Ok(answer)
    }

    /// Ends a container and deletes it, for nobody.
    pub fn delete_unasked(&mut self, init: u32) {
        let Some(process) = self.processes.get_mut(&init) else { return };
        if process.deleters.is_empty() {
            process.deleters.push(Caller::NOBODY);
        }
        if matches!(process.phase, Phase::Created) && process.pid == 0 {
            self.exited(init, 128 + 9);
        }
        // One that has ended needs no signal, and one that does not end is killed again.
        let _ = self.kill_process(init, libc::SIGKILL, |_, _| {});
        self.delete_if_settled(init);
    }

    /// A process that was never started ends when it is deleted, and its exit answers that call.
    fn end_what_never_ran(&mut self, serial: u32) {
        if !matches!(self.processes.get(&serial).map(|process| &process.phase), Some(Phase::Created)) {
            return;
        }
        let tell = move |shim: &mut Self, result| match result {
            Ok(()) | Err(Error::Finished) => {}
            Err(error) => shim.fail_deleters(serial, &error),
        };
        if let Err(error) = self.kill_process(serial, libc::SIGKILL, tell) {
            tell(self, Err(error));
        }
    }

    /// Answers the `Delete` calls of a process once it has ended in every respect.
    pub fn delete_if_settled(&mut self, serial: u32) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let is_settled = process.announced && process.io.is_drained();
        let turn = Turn::Process(serial);
        if process.deleters.is_empty() || !is_settled || self.commands.is_busy(&turn) {
            return;
        }
        if !process.is_init() {
            let deleted = self.delete_exec(serial);
            return self.deleted(serial, deleted);
        }
        let container = process.container.clone();
        if self.is_pods()
            && let Some(removal) = self.take_removal(&container)
        {
            // What its processes hang in must not hold up other containers of the pod.
            return self.beside(turn, removal, move |shim, result| {
                let deleted = result.and_then(|warnings| {
                    shim.forget_cgroup(serial, &warnings);
                    shim.delete_container(serial)
                });
                shim.deleted(serial, deleted);
            });
        }
        let driver = self.tasks.get(&*container).and_then(|task| task.driver.as_ref());
        let step = match driver {
            Some(Driver::Command(command)) => command.delete(),
            Some(Driver::Library(_)) | None => Step::Done,
        };
        // Another runtime can be asked again if it fails.
        self.go_through(step, turn, move |shim, result| {
            let deleted = result.and_then(|()| shim.delete_container(serial));
            shim.deleted(serial, deleted);
        });
    }

    /// Takes out of a task that is being deleted what our own runtime has made, or has left after a first attempt; what removes it
    /// answers warnings.
    fn take_removal(&mut self, id: &str) -> Option<Removal> {
        let task = self.tasks.get_mut(id)?;
        if let Some(oom) = task.driver.as_ref().and_then(Driver::oom_fd) {
            self.poll.remove(oom);
        }
        match task.driver.take() {
            Some(Driver::Library(container)) => Some(Box::new(move || Ok(container.delete()?))),
            None if !task.cgroup.is_empty() => {
                let cgroup = task.cgroup.clone();
                Some(Box::new(move || {
                    longshore_runtime::cgroups::remove_orphan(&cgroup)?;
                    Ok(Vec::new())
                }))
            }
            other => {
                task.driver = other;
                None
            }
        }
    }

    /// The container's cgroups are gone.
    fn forget_cgroup(&mut self, init: u32, warnings: &[String]) {
        let Some(process) = self.processes.get(&init) else { return };
        for warning in warnings {
            report::warn(&process.container, warning);
        }
        if let Some(task) = self.tasks.get_mut(&*process.container) {
            task.cgroup.clear();
        }
    }

    /// Answers the `Delete` calls of a process.
    fn deleted(&mut self, serial: u32, result: Result<Deleted>) {
        match result {
            Ok(Deleted { response, callers }) => {
                callers.into_iter().for_each(|caller| self.reply(caller, Ok(response)));
            }
            Err(error) => self.fail_deleters(serial, &error),
        }
        self.watch_loneliness();
    }

    fn fail_deleters(&mut self, serial: u32, error: &Error) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let callers = std::mem::take(&mut process.deleters);
        callers.into_iter().for_each(|caller| self.fail(caller, error));
    }

    fn delete_exec(&mut self, serial: u32) -> Result<Deleted> {
        let deleted = self.last_words(serial)?;
        if let Some(process) = self.processes.get(&serial)
            && let Some(task) = self.tasks.get(&*process.container)
        {
            bundle::remove_exit(&task.place.folder, &process.exec_id);
        }
        self.forget_process(serial);
        Ok(deleted)
    }

    /// Forgets a container, which another runtime has deleted already.
    fn delete_container(&mut self, serial: u32) -> Result<Deleted> {
        let deleted = self.last_words(serial)?;
        let response = deleted.response;
        let id = self.processes.get(&serial).ok_or(Error::Finished)?.container.clone();
        let task = self.tasks.get_mut(&*id).ok_or(Error::Finished)?;
        if let Some(oom) = task.driver.as_ref().and_then(Driver::oom_fd) {
            self.poll.remove(oom);
        }
        match task.driver.take() {
            Some(Driver::Library(container)) => {
                for warning in container.delete()? {
                    report::warn(&id, &warning);
                }
            }
            Some(Driver::Command(command)) => command.forget(),
            None if task.cgroup.is_empty() => {}
            None => longshore_runtime::cgroups::remove_orphan(&task.cgroup)?,
        }
        if let Some(rootfs) = &task.rootfs {
            rootfs.unmount()?;
        }
        if let Some(state) = &task.state
            && let Err(error) = super::state_folder::remove(state)
        {
            report::warn(&id, &error);
        }
        self.tasks.remove(&*id);
        let theirs = self.processes.iter().filter(|(_, process)| process.container == id);
        let serials: Vec<u32> = theirs.map(|(serial, _)| *serial).collect();
        serials.into_iter().for_each(|serial| self.forget_process(serial));
        self.emit(&What::Delete(TaskDelete {
            container_id: id.to_string(),
            pid: response.pid,
            exit_status: response.exit_status,
            exited_at: response.exited_at,
            // As containerd's own shim has it for the first process.
            id: String::new(),
        }));
        Ok(deleted)
    }

    fn last_words(&self, serial: u32) -> Result<Deleted> {
        let process = self.processes.get(&serial).ok_or(Error::Finished)?;
        let record = process.exit_record().ok_or(Error::Finished)?;
        let response = DeleteResponse {
            pid: process.wire_pid(),
            exit_status: record.exit_status,
            exited_at: record.exited_at,
        };
        Ok(Deleted { response, callers: process.deleters.clone() })
    }
}
