//! `Attach`: clients that take part in a process's stdio.

use longshore_proto::longshore::shim::v1::attach_output::What;
use longshore_proto::longshore::shim::v1::{AttachInput, AttachOutput, AttachStart};

use crate::connection::Open;
use crate::error::{Error, Result};
use crate::limits;
use crate::process::Caller;
use crate::server::Shim;
use crate::stdio::{Attachment, Client};
use crate::task::resize;

fn output(what: What) -> AttachOutput {
    AttachOutput { what: Some(what) }
}

impl Shim {
    /// A message of an attached client, or the first of one that wants to be.
    pub fn attach_input(&mut self, caller: Caller, input: AttachInput) {
        let serial = match (self.attached_to(caller), &input.start) {
            (Some(serial), _) => serial,
            (None, Some(start)) => match self.attach(caller, start) {
                Ok(serial) => serial,
                Err(error) => return self.leave_stream(caller, &error),
            },
            (None, None) => {
                let why = "must be in the first message".to_owned();
                return self.leave_stream(caller, &Error::BadField { field: "start", why });
            }
        };
        if input.detach {
            self.detach(serial, caller);
            if let Some(connection) = self.connections.get_mut(&caller.connection) {
                connection.end(caller.stream);
            }
            return;
        }
        self.apply(serial, caller, input);
    }

    fn apply(&mut self, serial: u32, caller: Caller, input: AttachInput) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let same = |client: &&mut Attachment| {
            (client.connection, client.stream) == (caller.connection, caller.stream)
        };
        let Some(client) = process.attachments.iter_mut().find(same) else { return };
        let sends = client.stdin;
        client.consumed(input.consumed);
        if let Some(window) = &input.resize {
            // A terminal that is gone has no size; its client will hear that it ended.
            let _ = resize(process, window);
        }
        if let Some(stdin) = process.io.input_mut().filter(|_| sends) {
            stdin.push(input.stdin, Some((caller.connection, caller.stream)));
            if input.close_stdin {
                stdin.close();
            }
            self.feed_input(serial);
            self.hold_if_much_waits(serial, caller);
        } else if sends && process.is_made() {
            // Nobody reads it: the client need not wait for that.
            self.tell_taken(&[((caller.connection, caller.stream), input.stdin.len())]);
        } else if sends {
            if !input.stdin.is_empty() {
                process.early_stdin.push(((caller.connection, caller.stream), input.stdin));
            }
            process.early_close |= input.close_stdin;
            self.hold_if_much_waits(serial, caller);
        }
        if input.consumed > 0 {
            self.resume_output(serial);
        }
    }

    fn hold_if_much_waits(&mut self, serial: u32, caller: Caller) {
        let waiting = self.processes.get(&serial).map_or(0, |process| process.waiting_stdin());
        if waiting < limits::WAITING_STDIN {
            return;
        }
        // Held back, a connection could not bring the `Start` that would make the process read.
        if !self.processes.get(&serial).is_some_and(|process| process.is_running()) {
            let limit = limits::WAITING_STDIN;
            return self
                .leave_stream(caller, &Error::Limit { what: "bytes of stdin before the start", limit });
        }
        if let Some(connection) = self.connections.get_mut(&caller.connection) {
            connection.held_by = Some(serial);
        }
    }

    fn attach(&mut self, caller: Caller, start: &AttachStart) -> Result<u32> {
        let id = if start.id.is_empty() { self.assigned()?.id.clone() } else { start.id.clone() };
        let serial = self.serial(&id, &start.exec_id)?;
        let Some(process) = self.processes.get_mut(&serial) else { return Err(Error::Finished) };
        let Some(connection) = self.connections.get_mut(&caller.connection) else { return Ok(serial) };
        connection.streams.insert(caller.stream, Open::Attached(serial));
        connection.send(caller.stream, &output(What::Attached(())));
        process.attachments.push(Attachment::new(caller.connection, caller.stream, start));
        self.settle(serial);
        Ok(serial)
    }

    fn attached_to(&self, caller: Caller) -> Option<u32> {
        match self.connections.get(&caller.connection)?.streams.get(&caller.stream)? {
            Open::Attached(serial) => Some(*serial),
            _ => None,
        }
    }

    /// The client sends no more; it still gets output.
    pub fn attach_half_closed(&mut self, caller: Caller) {
        let Some(serial) = self.attached_to(caller) else { return };
        self.stdin_gone(serial, |client| {
            (client.connection, client.stream) == (caller.connection, caller.stream)
        });
    }

    /// Ends a client's stream with an error.
    pub fn leave_stream(&mut self, caller: Caller, error: &Error) {
        if let Some(serial) = self.attached_to(caller) {
            self.detach(serial, caller);
        }
        self.fail(caller, error);
    }

    fn detach(&mut self, serial: u32, caller: Caller) {
        let is_it =
            |client: &Attachment| (client.connection, client.stream) == (caller.connection, caller.stream);
        self.forget_clients(serial, is_it);
    }

    /// A connection is gone, and with it its clients.
    pub fn detach_connection(&mut self, serial: u32, connection: u32) {
        self.forget_clients(serial, |client| client.connection == connection);
    }

    fn forget_clients(&mut self, serial: u32, which: impl Fn(&Attachment) -> bool) {
        self.stdin_gone(serial, &which);
        if let Some(process) = self.processes.get_mut(&serial) {
            process.attachments.retain(|client| !which(client));
        }
        self.resume_output(serial);
        self.end_unwanted_output(serial);
    }

    /// Clients that sent stdin send no more. With `stdin_once` the first of them ends it.
    fn stdin_gone(&mut self, serial: u32, which: impl Fn(&Attachment) -> bool) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let mut sent = false;
        for client in process.attachments.iter_mut().filter(|client| which(client)) {
            sent |= client.stdin;
            client.stdin = false;
        }
        if !(sent && process.stdin_once) {
            return;
        }
        process.early_close = true;
        if let Some(input) = process.io.input_mut() {
            input.close();
        }
        self.feed_input(serial);
    }

    /// Tells clients how much of their stdin went to the process.
    pub fn tell_taken(&mut self, taken: &[(Client, usize)]) {
        for ((connection, stream), count) in taken {
            let Some(connection) = self.connections.get_mut(connection) else { continue };
            if matches!(connection.streams.get(stream), Some(Open::Attached(_))) && *count > 0 {
                connection.send(*stream, &output(What::StdinTaken(*count as u64)));
            }
        }
    }

    /// Connections that were held back by a process's waiting stdin go on.
    pub fn release_held(&mut self, serial: u32) {
        let waiting = self.processes.get(&serial).map_or(0, |process| process.waiting_stdin());
        if waiting >= limits::WAITING_STDIN {
            return;
        }
        for connection in self.connections.values_mut() {
            if connection.held_by == Some(serial) {
                connection.held_by = None;
            }
        }
    }

    /// Forgets a process of which nothing more will be heard: whoever still waits for it is told.
    pub fn forget_process(&mut self, serial: u32) {
        let Some(process) = self.processes.remove(&serial) else { return };
        let gone = Error::NoProcess { id: process.container.to_string(), exec_id: process.exec_id };
        let clients = process.attachments.iter().map(|client| (client.connection, client.stream));
        let waiters = process.waiters.iter().map(|caller| (caller.connection, caller.stream));
        for (connection, stream) in clients.chain(waiters) {
            self.fail(Caller { connection, stream }, &gone);
        }
        for connection in self.connections.values_mut().filter(|c| c.held_by == Some(serial)) {
            connection.held_by = None;
        }
    }

    /// The process has ended and all output is out: its clients hear how.
    pub fn end_attachments(&mut self, serial: u32) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let clients = std::mem::take(&mut process.attachments);
        let Some(record) = process.exit_record().filter(|_| !clients.is_empty()).cloned() else { return };
        for client in clients {
            if let Some(connection) = self.connections.get_mut(&client.connection) {
                connection.send(client.stream, &output(What::Exited(record.clone())));
                connection.end(client.stream);
            }
        }
    }
}
