//! How processes end: reaped, recorded on disk, and only then told.
//!
//! What always holds: the record is on disk before anybody hears of the exit, and as soon as the process has ended even if
//! the news must wait for its start to be told; what the process wrote before it ended has been read when it is told, unless
//! somebody who takes part is slow; an exec's exit is told before the first process's.

use std::time::{Instant, SystemTime};

use longshore_proto::containerd::events::{TaskExit, TaskOom};
use longshore_proto::longshore::shim::v1::ExitRecord;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitStatus};

use crate::commands::Turn;
use crate::driver::Step;
use crate::events::What;
use crate::poll::Stream;
use crate::process::{Phase, Process};
use crate::server::{Life, Shim};
use crate::signals::Taken;
use crate::stdio::Until;
use crate::task::wait_response;
use crate::timers::Timer;
use crate::{bundle, limits, report};

/// The exit code of a process that could not be started for a reason other than its program.
pub const NOT_STARTED: u8 = 128;

impl Shim {
    /// Reaps every child that has ended: processes of the container, and orphans that the kernel gave to us.
    pub fn reap(&mut self) {
        while let Some(taken) = self.signals.take() {
            if taken == Taken::Terminate && self.life == Life::Waiting {
                self.life = Life::Done;
            }
        }
        self.note_early_ends();
        while let Some((pid, status)) = self.next_ended() {
            if self.is_commands_end(pid, status) {
                continue;
            }
            let ended = |(_, process): &(&u32, &Process)| process.pid == pid && process.is_alive();
            let found = self.processes.iter().find(ended).map(|(serial, _)| *serial);
            if let (Some(serial), Some(code)) = (found, exit_code(status)) {
                self.exited(serial, code);
            } else {
                self.logger_exited(pid);
            }
        }
    }

    /// A first process may end while its start is still going on: its poststart hooks run, or another runtime's command. It stays a
    /// zombie until that is over, so that nobody else gets its number meanwhile, and its exit is told after its start; but the record
    /// is on disk at once.
    fn note_early_ends(&mut self) {
        let starting: Vec<(u32, i32)> = self
            .processes
            .iter()
            .filter(|(serial, process)| {
                let known = process.is_init() && process.pid > 0 && process.early_record.is_none();
                known && process.is_alive() && self.commands.starts(**serial)
            })
            .map(|(serial, process)| (*serial, process.pid))
            .collect();
        for (serial, pid) in starting {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let Some(number) = Pid::from_raw(pid) else { continue };
            let Ok(Some(status)) = rustix::process::waitid(WaitId::Pid(number), options) else { continue };
            let signal = status.terminating_signal().map(|signal| 128 + signal);
            let code = status.exit_status().or(signal).and_then(|code| u32::try_from(code).ok());
            if let Some(record) = code.and_then(|code| self.record(serial, code))
                && let Some(process) = self.processes.get_mut(&serial)
            {
                process.early_record = Some(record);
            }
        }
    }

    /// Writes the record of an exit to disk.
    fn record(&self, serial: u32, code: u32) -> Option<ExitRecord> {
        let process = self.processes.get(&serial)?;
        let task = self.tasks.get(&*process.container);
        let early = process.early_record.as_ref();
        let record = ExitRecord {
            container_id: process.container.to_string(),
            exec_id: process.exec_id.clone(),
            pid: process.wire_pid(),
            exit_status: process.unusable.map_or(code, u32::from),
            exited_at: early.map_or_else(|| Some(SystemTime::now().into()), |early| early.exited_at),
            oom_killed: task.is_some_and(|task| task.ooms > process.ooms_before),
            started_at: process.started_at.map(Into::into),
        };
        if let Some(task) = task
            && let Err(error) = bundle::write_exit(&task.place.folder, &record)
        {
            // The exit is true all the same, and whoever is connected must hear of it.
            report::error(&process.container, &error);
        }
        Some(record)
    }

    /// A process has ended with this exit code.
    pub fn exited(&mut self, serial: u32, code: u32) {
        let Some(container) = self.processes.get(&serial).map(|process| process.container.clone()) else {
            return;
        };
        self.check_ooms(&container);
        let Some(record) = self.record(serial, code) else { return };
        let Some(process) = self.processes.get_mut(&serial) else { return };
        process.phase = Phase::Stopped(record);
        process.exited = Some(Instant::now());
        process.handle = None;
        let is_init = process.is_init();
        Stream::BOTH.into_iter().for_each(|stream| self.pump(serial, stream, Until::Empty));
        self.close_input(serial);
        if is_init {
            self.leave_network();
            self.end_the_others(&container);
        }
        self.timers.set(limits::DRAIN, Timer::Drain(serial));
        self.announce_what_may_be(&container);
        self.settle(serial);
        if is_init {
            self.sandbox_lost_a_container();
        }
    }

    /// Nothing of the host leads to the container any more, nor to others of its pod if it was the last.
    pub fn leave_network(&mut self) {
        if !self.processes.values().any(|process| process.is_init() && process.is_alive()) {
            self.close_dns();
            self.release_ports();
        }
    }

    /// Processes that share someone else's pid namespace do not end with the first one by themselves.
    fn end_the_others(&mut self, container: &str) {
        let is_pods = self.is_pods();
        let Some(task) = self.tasks.get(container).filter(|task| task.shares_pids) else { return };
        let init = task.init;
        let Some(Ok(step)) = task.driver.as_ref().map(|driver| driver.kill_all(libc::SIGKILL, is_pods))
        else {
            return;
        };
        let turn = match step {
            Step::Beside(_) => Turn::Process(init),
            Step::Done | Step::Run(_) => Turn::None,
        };
        // What it cannot end ends with the container's deletion.
        self.go_through(step, turn, |_, _| {});
    }

    /// Tells every exit of a container that is still to be told: execs first, and the first process's after all of them.
    pub fn announce_what_may_be(&mut self, container: &str) {
        let is_untold = |process: &Process| process.exit_record().is_some() && !process.announced;
        let theirs = self.processes.iter().filter(|(_, process)| *process.container == *container);
        let execs = theirs.filter(|(_, process)| !process.is_init());
        let untold: Vec<u32> =
            execs.clone().filter_map(|(serial, process)| is_untold(process).then_some(*serial)).collect();
        // One that another runtime is starting lives, as far as is known.
        let lives = |serial: u32, process: &Process| {
            process.is_alive() || self.commands.is_busy(&Turn::Process(serial))
        };
        let others_live = execs.into_iter().any(|(serial, process)| lives(*serial, process));
        untold.iter().for_each(|serial| self.announce(*serial));
        let Some(init) = self.tasks.get(container).map(|task| task.init) else { return };
        if !others_live && self.processes.get(&init).is_some_and(is_untold) {
            self.announce(init);
        }
    }

    fn announce(&mut self, serial: u32) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let Phase::Stopped(record) = &process.phase else { return };
        let exit = TaskExit {
            container_id: record.container_id.clone(),
            id: if process.is_init() { record.container_id.clone() } else { record.exec_id.clone() },
            pid: record.pid,
            exit_status: record.exit_status,
            exited_at: record.exited_at,
        };
        process.announced = true;
        let response = wait_response(process);
        let waiters = std::mem::take(&mut process.waiters);
        self.emit(&What::Exit(exit));
        waiters.into_iter().for_each(|waiter| self.answer(waiter, &response));
        self.settle(serial);
    }

    /// Output was awaited long enough.
    pub fn on_drain_timeout(&mut self, serial: u32) {
        let Some(process) = self.processes.get(&serial) else { return };
        if process.exited.is_none_or(|exited| exited.elapsed() < limits::DRAIN) {
            return;
        }
        if !process.announced {
            self.announce(serial);
        }
        Stream::BOTH.into_iter().for_each(|stream| self.pump(serial, stream, Until::Empty));
        self.abandon_output(serial);
        self.settle(serial);
    }

    /// The container ran out of memory, or its cgroup changed.
    pub fn on_oom(&mut self, init: u32) {
        let Some(container) = self.processes.get(&init).map(|process| process.container.clone()) else {
            return;
        };
        let driver = self.tasks.get(&*container).and_then(|task| task.driver.as_ref());
        let Some(oom) = driver.and_then(|driver| driver.oom_fd()) else { return };
        // Either an eventfd, or a control file whose reading acknowledges the change.
        let mut counter = [0u8; 64];
        if rustix::io::pread(oom, &mut counter, 0).is_err() {
            let _ = rustix::io::read(oom, &mut counter[..8]);
        }
        self.check_ooms(&container);
    }

    /// Reports out-of-memory kills that were not reported yet.
    fn check_ooms(&mut self, container: &str) {
        let Some(task) = self.tasks.get_mut(container) else { return };
        let Some(count) = task.driver.as_ref().map(|driver| driver.oom_kills()) else { return };
        if count <= task.ooms {
            return;
        }
        task.ooms = count;
        self.emit(&What::Oom(TaskOom { container_id: container.to_owned() }));
    }
}

/// The exit code as shells give it; `None` for a child that has only stopped.
fn exit_code(status: WaitStatus) -> Option<u32> {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => return None,
    };
    u32::try_from(code).ok()
}
