//! `Delete`: forgets a process that has ended, and with the first process the container. Answered when all output
//! has reached where it goes, or after [`crate::limits::DRAIN`].

use longshore_proto::containerd::events::TaskDelete;
use longshore_proto::containerd::task::v3::{DeleteRequest, DeleteResponse};

use crate::dispatch::Answer;
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::events::What;
use crate::process::{Caller, Phase};
use crate::server::Shim;
use crate::timers::Timer;
use crate::{bundle, limits, report};

impl Shim {
    pub fn delete(&mut self, caller: Caller, request: &DeleteRequest) -> Result<Answer> {
        let (serial, process) = self.named(&request.id, &request.exec_id)?;
        match &process.phase {
            Phase::Running => return Err(Error::WrongState { operation: "delete", state: "running" }),
            Phase::Added(_) => {
                self.forget_process(serial);
                return Ok(Answer::Now(Vec::new()));
            }
            // A container that was to be restored has no process yet.
            Phase::Created if process.pid == 0 => self.exited(serial, 128 + 9),
            // Never started: it ends here, and its exit answers this call.
            Phase::Created => self.kill_process(serial, libc::SIGKILL)?,
            Phase::Stopped(_) => {}
        }
        let answer = self.keep_open(caller);
        if let Some(process) = self.processes.get_mut(&serial) {
            process.deleters.push(caller);
            if process.io.has_logger() {
                self.timers.set(limits::LOGGER_GRACE, Timer::Logger(serial));
            }
        }
        self.delete_if_settled(serial);
        Ok(answer)
    }

    /// Answers the `Delete` calls of a process once it has ended in every respect.
    pub fn delete_if_settled(&mut self, serial: u32) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        if process.deleters.is_empty() || !process.announced || !process.io.is_drained() {
            return;
        }
        let callers = std::mem::take(&mut process.deleters);
        let result = if process.is_init() { self.delete_container(serial) } else { self.delete_exec(serial) };
        for caller in callers {
            match &result {
                Ok(response) => self.answer(caller, response),
                Err(error) => self.fail(caller, error),
            }
        }
        self.watch_loneliness();
    }

    fn delete_exec(&mut self, serial: u32) -> Result<DeleteResponse> {
        let response = self.last_words(serial)?;
        if let Some(process) = self.processes.get(&serial)
            && let Some(task) = self.tasks.get(&*process.container)
        {
            bundle::remove_exit(&task.place.folder, &process.exec_id);
        }
        self.forget_process(serial);
        Ok(response)
    }

    fn delete_container(&mut self, serial: u32) -> Result<DeleteResponse> {
        let response = self.last_words(serial)?;
        let id = self.processes.get(&serial).ok_or(Error::Finished)?.container.clone();
        let task = self.tasks.get_mut(&*id).ok_or(Error::Finished)?;
        if let Some(oom) = task.driver.as_ref().and_then(Driver::oom_fd) {
            self.poll.remove(oom);
        }
        // Another runtime can be asked again if it fails.
        if let Some(Driver::Command(command)) = &task.driver {
            command.delete()?;
        }
        match task.driver.take() {
            Some(Driver::Library(container)) => container.delete()?,
            Some(Driver::Command(_)) => {}
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
        Ok(response)
    }

    fn last_words(&self, serial: u32) -> Result<DeleteResponse> {
        let process = self.processes.get(&serial).ok_or(Error::Finished)?;
        let record = process.exit_record().ok_or(Error::Finished)?;
        Ok(DeleteResponse {
            pid: process.wire_pid(),
            exit_status: record.exit_status,
            exited_at: record.exited_at,
        })
    }
}
