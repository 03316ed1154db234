//! Moves output from a process to its sink and its attached clients, and stdin the other way. It is the only place
//! that reads output, and it reads only what everybody has room for.

use std::time::Duration;

use rustix::io::Errno;

use super::input::Fed;
use super::output::{Sink, Written};
use crate::limits;
use crate::poll::{Channel, Flags, Stream, Token};
use crate::server::Shim;
use crate::timers::Timer;

/// When a pump stops, besides when somebody has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When it has probably read all there is, or a client has no room.
    Short,
    /// When nothing is left to read: the process has exited. What it left is no more than a pipe holds, and clients
    /// get it whatever their windows say, so that the log is whole and nobody slow is waited for.
    Empty,
}

/// The number of a stream's field in `AttachOutput`.
fn tag(stream: Stream) -> u32 {
    match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    }
}

impl Shim {
    /// Output can be read.
    pub fn on_output(&mut self, serial: u32, stream: Stream) {
        self.pump(serial, stream, Until::Short);
    }

    /// Moves output, at most [`limits::TURN`] bytes.
    pub fn pump(&mut self, serial: u32, stream: Stream, until: Until) {
        let mut scratch = self.take_scratch();
        let mut moved = 0;
        while moved < limits::TURN {
            let room = match until {
                Until::Short => self.room(serial, stream),
                Until::Empty => self.sink_room(serial, stream),
            };
            let room = room.min(scratch.len());
            let output = self.processes.get(&serial).and_then(|process| process.io.output(stream));
            let Some(source) = output.and_then(|output| output.source()) else { break };
            let Some(target) = scratch.get_mut(..room).filter(|target| !target.is_empty()) else {
                self.stop_output(serial, stream);
                break;
            };
            match rustix::io::read(source, target) {
                Ok(count @ 1..) => {
                    self.deliver(serial, stream, scratch.get(..count).unwrap_or_default());
                    moved += count;
                    if until == Until::Short && count < room {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // End of file; for a terminal EIO, when the last process has closed it.
                Ok(_) | Err(_) => {
                    self.end_output(serial, stream);
                    break;
                }
            }
        }
        self.return_scratch(scratch);
    }

    /// How many bytes the sink has room for: any number, unless it has not taken the last ones yet.
    fn sink_room(&self, serial: u32, stream: Stream) -> usize {
        let Some(process) = self.processes.get(&serial) else { return 0 };
        let is_clear = process.io.output(stream).is_some_and(|output| output.is_clear());
        if is_clear && !process.io.is_log_blocked() { usize::MAX } else { 0 }
    }

    /// How many bytes everybody who takes part has room for.
    fn room(&self, serial: u32, stream: Stream) -> usize {
        let Some(process) = self.processes.get(&serial) else { return 0 };
        if self.sink_room(serial, stream) == 0 {
            return 0;
        }
        let clients = process.attachments.iter().filter(|client| client.wants(stream));
        clients
            .map(|client| match self.connections.get(&client.connection) {
                Some(connection) if connection.is_full() => 0,
                _ => client.room(),
            })
            .min()
            .unwrap_or(usize::MAX)
    }

    /// Gives output to the sink, then to every client.
    fn deliver(&mut self, serial: u32, stream: Stream, bytes: &[u8]) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let written = match process.io.output_mut(stream) {
            Some(output) if !matches!(output.sink, Sink::Log) => output.write(bytes),
            _ => Written::All,
        };
        let logs = matches!(process.io.output(stream).map(|output| &output.sink), Some(Sink::Log));
        if let Some(log) = process.io.log_mut().filter(|_| logs) {
            log.append(stream, bytes, std::time::SystemTime::now());
        }
        for client in process.attachments.iter_mut().filter(|client| client.wants(stream)) {
            if let Some(connection) = self.connections.get_mut(&client.connection) {
                connection.send_bytes(client.stream, tag(stream), bytes);
                client.sent(bytes.len());
            }
        }
        self.after_write(serial, stream, written);
    }

    /// Waits for what a sink needs to take the rest.
    fn after_write(&mut self, serial: u32, stream: Stream, written: Written) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let log_waits = process.io.is_log_waiting();
        let Some(output) = process.io.output_mut(stream) else { return };
        if let Sink::Fifo { fd, is_watched, .. } = &mut output.sink {
            let wants = written == Written::WaitsForRoom;
            let token = Token::Stdio(serial, Channel::Sink(stream));
            if wants && !*is_watched {
                *is_watched = self.poll.add(&*fd, token, Flags::OUT).is_ok();
            } else if !wants && *is_watched {
                self.poll.remove(&*fd);
                *is_watched = false;
            }
        }
        if log_waits || written == Written::WaitsForDisk {
            self.retry_later(serial);
        }
    }

    fn retry_later(&mut self, serial: u32) {
        self.retry_after(serial, limits::RETRY);
    }

    fn retry_after(&mut self, serial: u32, pause: Duration) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        if !process.awaits_retry {
            process.awaits_retry = true;
            self.timers.set(pause, Timer::Retry(serial));
        }
    }

    /// A FIFO has room again.
    pub fn on_room(&mut self, serial: u32, stream: Stream) {
        let output = self.processes.get_mut(&serial).and_then(|process| process.io.output_mut(stream));
        let Some(written) = output.map(|output| output.flush()) else { return };
        self.after_write(serial, stream, written);
        self.settle(serial);
        self.resume_output(serial);
    }

    /// A disk may have room again, or a FIFO that nobody had opened may have been read.
    pub fn retry_output(&mut self, serial: u32) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        process.awaits_retry = false;
        if let Some(log) = process.io.log_mut() {
            log.flush();
        }
        let log_waits = process.io.is_log_waiting();
        for stream in Stream::BOTH {
            self.on_room(serial, stream);
        }
        if log_waits {
            self.retry_later(serial);
        } else {
            self.settle(serial);
        }
    }

    /// Stops reading until [`Shim::resume_output`]. A pipe that is not watched at all cannot wake the loop.
    fn stop_output(&mut self, serial: u32, stream: Stream) {
        let process = self.processes.get_mut(&serial);
        let Some(output) = process.and_then(|process| process.io.output_mut(stream)) else { return };
        if output.is_watched {
            output.is_watched = false;
            if let Some(source) = output.source() {
                self.poll.remove(source);
            }
        }
    }

    /// Reads output as far as there is room for it.
    pub fn resume_output(&mut self, serial: u32) {
        for stream in Stream::BOTH {
            if self.room(serial, stream) == 0 {
                continue;
            }
            let process = self.processes.get_mut(&serial);
            let Some(output) = process.and_then(|process| process.io.output_mut(stream)) else { continue };
            if output.is_watched {
                continue;
            }
            let Some(source) = output.source() else { continue };
            let token = Token::Stdio(serial, Channel::Source(stream));
            output.is_watched = self.poll.add(source, token, Flags::IN).is_ok();
        }
        self.watch_fifo(serial);
    }

    fn end_output(&mut self, serial: u32, stream: Stream) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let terminal = process.paths.terminal;
        if let Some(source) = process.io.output_mut(stream).and_then(|output| output.take_source()) {
            self.poll.remove(&source);
        }
        if let Some(log) = process.io.log_mut() {
            log.finish(stream, std::time::SystemTime::now());
        }
        self.after_write(serial, stream, Written::All);
        if terminal {
            self.close_input(serial);
        }
        self.settle(serial);
    }

    /// After the end of its source an output goes when its sink has taken everything and nobody may still come for it; when
    /// both are gone and the process has ended, whoever waits for that hears of it.
    pub fn settle(&mut self, serial: u32) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let late = process.exited.is_some_and(|exited| exited.elapsed() > limits::READER);
        let mut unread = false;
        for stream in Stream::BOTH {
            let is_over = process.io.output(stream).is_some_and(|o| o.source().is_none() && o.is_clear());
            if !is_over {
                continue;
            }
            if process.io.output(stream).is_some_and(|o| !late && o.awaits_reader()) {
                unread = true;
                continue;
            }
            if let Some(Sink::Fifo { fd, .. }) = process.io.take_output(stream).map(|output| output.sink) {
                self.poll.remove(fd);
            }
        }
        if process.announced && process.io.is_drained() {
            self.end_attachments(serial);
            self.delete_if_settled(serial);
        }
        if unread {
            self.retry_after(serial, limits::UNREAD);
        }
    }

    /// A child that is no process of a container has ended: perhaps a logging program, or what compresses a log.
    pub fn logger_exited(&mut self, pid: i32) {
        let is_it = |process: &mut crate::process::Process| {
            process.io.logger_mut().take_if(|logger| logger.pid == pid).is_some()
        };
        let found = self.processes.iter_mut().find_map(|(serial, process)| is_it(process).then_some(*serial));
        if let Some(serial) = found {
            self.settle(serial);
            return;
        }
        let compressed = |process: &mut crate::process::Process| {
            process.io.log_mut().is_some_and(|log| log.child_ended(pid))
        };
        let found =
            self.processes.iter_mut().find_map(|(serial, process)| compressed(process).then_some(*serial));
        if let Some(serial) = found {
            self.settle(serial);
            self.resume_output(serial);
        }
    }

    /// A logging program has had its time after the end of its streams.
    pub fn end_logger(&mut self, serial: u32) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        if let Some(logger) = process.io.logger_mut() {
            logger.end();
            self.timers.set(limits::LOGGER_STOP, Timer::Logger(serial));
        }
    }

    /// Ends output of an exec that has ended and is to be deleted, where nobody takes it: what the exec has started may hold it,
    /// and fill it, for ever.
    pub fn end_unwanted_output(&mut self, serial: u32) {
        for stream in Stream::BOTH {
            let Some(process) = self.processes.get(&serial) else { return };
            let is_going = !process.is_init() && process.exited.is_some() && !process.deleters.is_empty();
            let goes_nowhere =
                process.io.output(stream).is_some_and(|output| matches!(output.sink, Sink::Discard));
            if is_going && goes_nowhere && !process.attachments.iter().any(|client| client.wants(stream)) {
                self.end_output(serial, stream);
            }
        }
    }

    /// Gives up output that nobody will end or take any more.
    pub fn abandon_output(&mut self, serial: u32) {
        for stream in Stream::BOTH {
            self.end_output(serial, stream);
            let process = self.processes.get_mut(&serial);
            if let Some(output) = process.and_then(|process| process.io.output_mut(stream)) {
                output.give_up();
            }
        }
        if let Some(process) = self.processes.get_mut(&serial) {
            process.io.abandon_log();
        }
        self.end_logger(serial);
    }

    /// Writes stdin that waits, and lets its sources go on or wait.
    pub fn feed_input(&mut self, serial: u32) {
        let Some(input) = self.processes.get_mut(&serial).and_then(|process| process.io.input_mut()) else {
            return;
        };
        let mut taken = Vec::new();
        let fed = input.feed(|client, count| taken.push((client, count)));
        let waits = fed == Fed::Waits;
        if waits != input.is_watched {
            let token = Token::Stdio(serial, Channel::Stdin);
            if waits {
                input.is_watched = self.poll.add(input.fd(), token, Flags::OUT).is_ok();
            } else {
                self.poll.remove(input.fd());
                input.is_watched = false;
            }
        }
        self.tell_taken(&taken);
        if fed == Fed::Ended {
            self.close_input(serial);
        } else {
            self.watch_fifo(serial);
        }
        self.release_held(serial);
    }

    /// The FIFO is read only while nothing waits for the process.
    fn watch_fifo(&mut self, serial: u32) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let Some(input) = process.io.input_mut() else { return };
        let wants = input.waiting() == 0;
        if wants == input.is_fifo_watched {
            return;
        }
        let Some(fifo) = input.fifo() else { return };
        if wants {
            let token = Token::Stdio(serial, Channel::StdinFifo);
            input.is_fifo_watched = self.poll.add(fifo, token, Flags::IN).is_ok();
        } else {
            self.poll.remove(fifo);
            input.is_fifo_watched = false;
        }
    }

    /// A client has written to the FIFO of stdin, or the last one has closed it.
    pub fn on_stdin_fifo(&mut self, serial: u32) {
        let mut scratch = self.take_scratch();
        if let Some(input) = self.processes.get_mut(&serial).and_then(|process| process.io.input_mut())
            && let Some(fifo) = input.fifo()
        {
            match rustix::io::read(fifo, &mut scratch) {
                Ok(count @ 1..) => input.push(scratch.get(..count).unwrap_or_default().to_vec(), None),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Ok(_) | Err(_) => {
                    input.take_fifo().iter().for_each(|fifo| self.poll.remove(fifo));
                    input.close();
                }
            }
        }
        self.return_scratch(scratch);
        self.feed_input(serial);
    }

    /// Closes stdin; what waits for it goes nowhere.
    pub fn close_input(&mut self, serial: u32) {
        let input = self.processes.get_mut(&serial).and_then(|process| process.io.take_input());
        if let Some(mut input) = input {
            self.poll.remove(input.fd());
            input.take_fifo().iter().for_each(|fifo| self.poll.remove(fifo));
        }
        self.release_held(serial);
    }
}
