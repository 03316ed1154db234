//! Commands of other OCI runtimes, which run while the loop goes on, what our own waits for others in, and the requests that
//! wait for them.
//!
//! What always holds: a process has one command at a time, except that nothing makes a SIGKILL wait; what is asked of it meanwhile is
//! done afterwards, in the order in which it came; a command ends by itself, or is killed when its time is up; what was to
//! come after it comes in any case, whether its caller is still there or not.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use longshore_proto::ttrpc::{Flags, Request};
use prost::Message;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, WaitOptions, WaitStatus};

use crate::connection::Open;
use crate::dispatch::Answer;
use crate::driver::{Heard, KILL, Leaves, Order, Running, Step};
use crate::error::{Error, Result};
use crate::limits;
use crate::poll::{Flags as Ready, Token};
use crate::process::{Caller, Process};
use crate::server::Shim;
use crate::timers::Timer;

/// Whose turn it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A container's that is being made.
    Creation(Rc<str>),
    /// A process's, by its serial number; the first one's is its container's.
    Process(u32),
    /// Nobody's: what cannot wait.
    None,
}

/// What comes after a command.
type Then = Box<dyn FnOnce(&mut Shim, Result<()>)>;

enum State {
    Waiting(Box<Order>),
    Running(Box<Running>),
    /// The runtime library is at work in a thread; a byte of this pipe, or its end, is the thread's.
    Beside(OwnedFd),
    /// It is to be, once there are fewer threads.
    BesideLater(Box<dyn FnOnce() + Send>),
}

struct Job {
    state: State,
    turn: Turn,
    leaves: Leaves,
    then: Then,
}

/// A request that is not handled yet.
struct Waiting {
    turn: Turn,
    caller: Caller,
    flags: Flags,
    request: Request,
}

/// Every command and what waits for it.
#[derive(Default)]
pub struct Commands {
    /// By number, in the order in which they were asked for.
    jobs: BTreeMap<u32, Job>,
    next: u32,
    waiting: VecDeque<Waiting>,
}

impl Commands {
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether a command has this turn.
    pub fn is_busy(&self, turn: &Turn) -> bool {
        *turn != Turn::None && self.jobs.values().any(|job| job.turn == *turn)
    }

    /// How many containers are being made.
    pub fn makings(&self) -> usize {
        let made = |job: &Job| match &job.turn {
            Turn::Creation(id) => Some(id.clone()),
            Turn::Process(_) | Turn::None => None,
        };
        self.jobs.values().filter_map(made).collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Whether a container of this name is being made.
    pub fn makes(&self, id: &str) -> bool {
        self.jobs.values().any(|job| matches!(&job.turn, Turn::Creation(made) if **made == *id))
    }

    /// Whether a process is being started.
    pub fn starts(&self, serial: u32) -> bool {
        let is_it = |job: &Job| job.turn == Turn::Process(serial) && job.leaves == Leaves::Process;
        self.jobs.values().any(is_it)
    }

    fn running(&self) -> impl Iterator<Item = (u32, &Running)> {
        self.jobs.iter().filter_map(|(number, job)| match &job.state {
            State::Running(running) => Some((*number, &**running)),
            State::Waiting(_) | State::Beside(_) | State::BesideLater(_) => None,
        })
    }

    fn threads(&self) -> usize {
        self.count(|state| matches!(state, State::Beside(_)))
    }

    /// How many jobs are in a state.
    fn count(&self, state: fn(&State) -> bool) -> usize {
        self.jobs.values().filter(|job| state(&job.state)).count()
    }

    fn take_number(&mut self) -> u32 {
        while self.jobs.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = number.wrapping_add(1);
        number
    }

    /// Whether a process may come to be that is not known yet.
    fn may_leave_a_process(&self) -> bool {
        let is_beside = |job: &Job| matches!(job.state, State::Beside(_)) && job.leaves == Leaves::Process;
        let beside = self.jobs.values().any(is_beside);
        beside || self.running().any(|(_, running)| running.leaves() == Leaves::Process)
    }

    /// Forgets requests of callers that are gone.
    pub fn forget(&mut self, which: impl Fn(&Caller) -> bool) {
        self.waiting.retain(|waiting| !which(&waiting.caller));
    }

    fn next_waiting(&mut self, turn: &Turn) -> Option<Waiting> {
        let at = self.waiting.iter().position(|waiting| waiting.turn == *turn)?;
        self.waiting.remove(at)
    }
}

impl Shim {
    /// Goes on after a step: at once, or when its command has ended. Answers the caller.
    pub fn after<A: Message>(
        &mut self,
        caller: Caller,
        turn: Turn,
        step: Step,
        then: impl FnOnce(&mut Self, Result<()>) -> Result<A> + 'static,
    ) -> Result<Answer> {
        match step {
            Step::Done => then(self, Ok(())).map(|answer| Answer::Now(answer.encode_to_vec())),
            Step::Run(_) | Step::Beside(_) => {
                let answer = self.keep_open(caller);
                self.go_through(step, turn, move |shim, result| {
                    let answer = then(shim, result);
                    shim.reply(caller, answer);
                });
                Ok(answer)
            }
        }
    }

    /// Goes on after a step that nobody is answered for.
    pub fn go_through(&mut self, step: Step, turn: Turn, then: impl FnOnce(&mut Self, Result<()>) + 'static) {
        match step {
            Step::Done => then(self, Ok(())),
            Step::Run(order) => self.launch(order, turn, then),
            Step::Beside(work) => self.beside_leaving(Leaves::Nothing, turn, work, then),
        }
    }

    /// Answers a call that was kept open, unless its caller has given up.
    pub fn reply<A: Message>(&mut self, caller: Caller, answer: Result<A>) {
        let open = self.connections.get(&caller.connection).and_then(|c| c.streams.get(&caller.stream));
        if open != Some(&Open::Call) {
            return;
        }
        match answer {
            Ok(answer) => self.answer(caller, &answer),
            Err(error) => self.fail(caller, &error),
        }
    }

    /// Answers a call that was kept open as its handler would have.
    pub fn resolve(&mut self, caller: Caller, outcome: Result<Answer>) {
        match outcome {
            Ok(Answer::Later) => {}
            Ok(Answer::Now(payload)) => {
                let connection = self.connections.get_mut(&caller.connection);
                if let Some(connection) =
                    connection.filter(|open| open.streams.get(&caller.stream) == Some(&Open::Call))
                {
                    connection.answer_raw(caller.stream, payload);
                }
            }
            // Nobody asks for a turn who has it.
            Ok(Answer::InTurn(_)) => self.reply(caller, Err::<(), _>(Error::Finished)),
            Err(error) => self.reply(caller, Err::<(), _>(error)),
        }
    }

    /// Runs a command as soon as there is room for it; `then` comes in any case, at once if it cannot be run.
    pub fn launch(
        &mut self,
        order: Box<Order>,
        turn: Turn,
        then: impl FnOnce(&mut Self, Result<()>) + 'static,
    ) {
        let running = self.commands.running().count();
        if self.commands.count(|state| matches!(state, State::Waiting(_))) >= limits::COMMANDS_WAITING {
            let limit = limits::COMMANDS_WAITING;
            return then(self, Err(Error::Limit { what: "commands of OCI runtimes that wait", limit }));
        }
        let number = self.commands.take_number();
        let room = if order.verb == KILL { 2 * limits::COMMANDS } else { limits::COMMANDS };
        let leaves = order.leaves;
        let job = Job { state: State::Waiting(order), turn, leaves, then: Box::new(then) };
        self.commands.jobs.insert(number, job);
        if running < room {
            self.run_command(number);
        }
    }

    /// Has a thread do what the runtime library may take long for, because it waits for somebody else's program. `then` comes in
    /// any case. The work may leave a process.
    pub fn beside<T: Send + 'static>(
        &mut self,
        turn: Turn,
        work: impl FnOnce() -> Result<T> + Send + 'static,
        then: impl FnOnce(&mut Self, Result<T>) + 'static,
    ) {
        self.beside_leaving(Leaves::Process, turn, work, then);
    }

    fn beside_leaving<T: Send + 'static>(
        &mut self,
        leaves: Leaves,
        turn: Turn,
        work: impl FnOnce() -> Result<T> + Send + 'static,
        then: impl FnOnce(&mut Self, Result<T>) + 'static,
    ) {
        let waiting = self.commands.count(|state| matches!(state, State::BesideLater(_)));
        if waiting >= limits::COMMANDS_WAITING {
            let limit = limits::COMMANDS_WAITING;
            return then(
                self,
                Err(Error::Limit { what: "steps of containers that wait for a thread", limit }),
            );
        }
        let number = self.commands.take_number();
        let (send, outcome) = std::sync::mpsc::channel();
        let work = Box::new(move || {
            let _ = send.send(work());
        });
        let lost = Error::System { doing: "run a thread", source: std::io::ErrorKind::Interrupted.into() };
        let then = move |shim: &mut Self, began: Result<()>| {
            let outcome = began.and_then(|()| outcome.recv().unwrap_or(Err(lost)));
            then(shim, outcome);
        };
        let job = Job { state: State::BesideLater(work), turn, leaves, then: Box::new(then) };
        self.commands.jobs.insert(number, job);
        self.use_free_threads();
    }

    fn run_beside(&mut self, number: u32) {
        let Some(Job { state: State::BesideLater(work), turn, leaves, then }) =
            self.commands.jobs.remove(&number)
        else {
            return;
        };
        let began = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from).and_then(
            |(ended, end)| {
                let work = move || {
                    work();
                    // A process that another thread makes may hold the pipe open for a while, so that its end would come late.
                    let _ = rustix::io::write(&end, &[0]);
                };
                std::thread::Builder::new().stack_size(limits::THREAD_STACK).spawn(work)?;
                Ok(ended)
            },
        );
        let ended = match began {
            Ok(ended) => ended,
            Err(source) => {
                then(self, Err(Error::System { doing: "start a thread", source }));
                return self.turn_is_over(&turn);
            }
        };
        // It cannot fail for a new pipe, but for lack of memory; then the outcome is waited for.
        let heard = self.poll.add(&ended, Token::Command(number), Ready::IN);
        self.commands.jobs.insert(number, Job { state: State::Beside(ended), turn, leaves, then });
        if heard.is_err() {
            self.beside_ended(number);
        }
    }

    fn use_free_threads(&mut self) {
        while self.commands.threads() < limits::THREADS {
            let is_later = |(_, job): &(&u32, &Job)| matches!(job.state, State::BesideLater(_));
            let Some(next) = self.commands.jobs.iter().find(is_later).map(|(number, _)| *number) else {
                break;
            };
            self.run_beside(next);
        }
    }

    fn beside_ended(&mut self, number: u32) {
        let Some(Job { state: State::Beside(ended), turn, then, .. }) = self.commands.jobs.remove(&number)
        else {
            return;
        };
        self.poll.remove(&ended);
        self.use_free_threads();
        then(self, Ok(()));
        self.turn_is_over(&turn);
        // What has ended meanwhile, and was left because it might have been what is known now.
        self.reap();
    }

    fn run_command(&mut self, number: u32) {
        let Some(Job { state: State::Waiting(order), turn, leaves, then }) =
            self.commands.jobs.remove(&number)
        else {
            return;
        };
        let running = match order.spawn() {
            Ok(running) => running,
            Err(error) => {
                then(self, Err(error));
                return self.turn_is_over(&turn);
            }
        };
        if let Some(said) = running.said() {
            // Not heard, it is as if it had said nothing.
            let _ = self.poll.add(said, Token::Command(number), Ready::IN);
        }
        self.timers.set(running.limit(), Timer::Command(number));
        let state = State::Running(Box::new(running));
        self.commands.jobs.insert(number, Job { state, turn, leaves, then });
    }

    /// A command says something.
    pub fn on_command(&mut self, number: u32) {
        if matches!(self.commands.jobs.get(&number), Some(Job { state: State::Beside(_), .. })) {
            return self.beside_ended(number);
        }
        let mut scratch = self.take_scratch();
        if let Some(Job { state: State::Running(running), .. }) = self.commands.jobs.get_mut(&number)
            && running.hear(&mut scratch) == Heard::All
            && let Some(said) = running.said()
        {
            self.poll.remove(said);
        }
        self.return_scratch(scratch);
    }

    /// The time of a command is up.
    pub fn on_command_timeout(&mut self, number: u32) {
        let Some(Job { state: State::Running(running), .. }) = self.commands.jobs.get_mut(&number) else {
            return;
        };
        if running.kill() {
            // It does not even die. Whenever it does, it is reaped as somebody unknown.
            self.command_ended(number, None);
            self.reap();
        } else {
            self.timers.set(limits::RUNTIME_END, Timer::Command(number));
        }
    }

    /// Goes on after a command, and then with what had to wait for it.
    fn command_ended(&mut self, number: u32, status: Option<WaitStatus>) {
        self.on_command(number);
        let Some(Job { state: State::Running(running), turn, then, .. }) = self.commands.jobs.remove(&number)
        else {
            return;
        };
        if let Some(said) = running.said() {
            self.poll.remove(said);
        }
        then(self, running.verdict(status));
        self.turn_is_over(&turn);
        let is_waiting = |(_, job): &(&u32, &Job)| matches!(job.state, State::Waiting(_));
        let next = self.commands.jobs.iter().find(is_waiting).map(|(number, _)| *number);
        if let Some(next) = next
            && self.commands.running().count() < limits::COMMANDS
        {
            self.run_command(next);
        }
    }

    /// Handles the requests that have waited for this turn, until one takes it again.
    fn turn_is_over(&mut self, turn: &Turn) {
        while !self.commands.is_busy(turn) {
            let Some(waiting) = self.commands.next_waiting(turn) else { break };
            self.on_request(waiting.caller, waiting.flags, &waiting.request);
        }
        if let Turn::Process(serial) = turn {
            self.delete_if_settled(*serial);
        }
        self.watch_loneliness();
    }

    /// Keeps a request until its turn has come.
    pub fn wait_for_turn(
        &mut self,
        caller: Caller,
        flags: Flags,
        request: &Request,
        turn: Turn,
    ) -> Result<()> {
        let waiting = &mut self.commands.waiting;
        let bytes: usize = waiting.iter().map(|waiting| waiting.request.payload.len()).sum();
        if waiting.len() >= limits::COMMANDS_WAITING
            || bytes + request.payload.len() > limits::WAITING_REQUESTS
        {
            let limit = limits::COMMANDS_WAITING;
            return Err(Error::Limit { what: "requests that wait for an OCI runtime", limit });
        }
        let mut request = request.clone();
        request.metadata = Vec::new();
        waiting.push_back(Waiting { turn, caller, flags, request });
        self.keep_open(caller);
        Ok(())
    }

    /// Takes a child that has ended, and whose end may be told.
    ///
    /// While a command may leave a process that is not known yet, only known ones are taken: the end of a process that is known
    /// too late would be lost. One that is being started ends, for us, after that.
    pub fn next_ended(&self) -> Option<(i32, WaitStatus)> {
        if !self.commands.may_leave_a_process() {
            let ended = rustix::process::wait(WaitOptions::NOHANG).ok().flatten();
            return ended.map(|(pid, status)| (pid.as_raw_nonzero().get(), status));
        }
        let has_started =
            |(serial, process): &(&u32, &Process)| process.is_alive() && !self.commands.starts(**serial);
        let processes = self.processes.iter().filter(has_started).map(|(_, process)| process.pid);
        let loggers = self.processes.values().filter_map(|process| process.io.logger_pid());
        let commands = self.commands.running().map(|(_, running)| running.pid());
        processes.chain(loggers).chain(commands).find_map(|pid| {
            let number = Pid::from_raw(pid)?;
            let ended = rustix::process::waitpid(Some(number), WaitOptions::NOHANG).ok().flatten()?;
            Some((pid, ended.1))
        })
    }

    /// Whether a child that has ended was a command; then it is seen to.
    pub fn is_commands_end(&mut self, pid: i32, status: WaitStatus) -> bool {
        let found = self.commands.running().find(|(_, running)| running.pid() == pid);
        let number = found.map(|(number, _)| number);
        if let Some(number) = number {
            self.command_ended(number, Some(status));
        }
        number.is_some()
    }
}
