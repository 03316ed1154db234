//! A connection to systemd: calls and their answers over a message bus, or straight to the manager's private socket.
//!
//! What always holds: one caller, one call at a time; every wait ends by a deadline; no message is larger than a bound.

use super::value::{Reader, Value, pad};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long systemd may take to answer, or to finish a job.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest message that is read.
const MESSAGE_MAX: usize = 1 << 20;
/// Most signals that are kept until somebody asks for them; the oldest go first.
const SIGNALS_MAX: usize = 1024;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const BUS: &str = "org.freedesktop.DBus";
const JOB_REMOVED: &str = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// Which systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manager {
    /// The host's.
    System,
    /// The calling user's own.
    User,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// systemd or the bus said so: name and text of the error.
    Refused {
        name: String,
        text: String,
    },
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Io(error)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Refused { text, name } if text.is_empty() => f.write_str(name),
            Failure::Refused { text, .. } => f.write_str(text),
            Failure::Io(error) => error.fmt(f),
        }
    }
}

pub(crate) struct Connection {
    stream: UnixStream,
    serial: u32,
    /// Whether a bus is between us and systemd.
    bus: bool,
    /// `JobRemoved` as they came: job and result.
    removed: VecDeque<(String, String)>,
}

/// One message that came.
struct Message {
    kind: u8,
    reply_to: Option<u32>,
    member: Option<String>,
    error: Option<String>,
    body: Vec<Value>,
}

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

impl Connection {
    /// Connects, and asks to be told of jobs that end.
    pub(crate) fn open(manager: Manager) -> Result<Connection, Failure> {
        let (stream, bus) = connect(manager)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut connection = Connection { stream, serial: 0, bus, removed: VecDeque::new() };
        connection.authenticate()?;
        if bus {
            connection.call_at(BUS, "/org/freedesktop/DBus", BUS, "Hello", &[])?;
            connection.call_at(BUS, "/org/freedesktop/DBus", BUS, "AddMatch", &[Value::str(JOB_REMOVED)])?;
        }
        connection.call("Subscribe", &[])?;
        Ok(connection)
    }

    /// Calls a method of systemd's manager.
    pub(crate) fn call(&mut self, method: &str, arguments: &[Value]) -> Result<Vec<Value>, Failure> {
        self.call_at(SYSTEMD, MANAGER_PATH, MANAGER, method, arguments)
    }

    /// A property of the manager, as text.
    pub(crate) fn property(&mut self, name: &str) -> Result<String, Failure> {
        let arguments = [Value::str(MANAGER), Value::str(name)];
        let answer =
            self.call_at(SYSTEMD, MANAGER_PATH, "org.freedesktop.DBus.Properties", "Get", &arguments)?;
        answer
            .first()
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| odd("a property that is no text"))
    }

    /// Calls a method that makes a job, and waits for its end: the job's result (`done`, `failed`, …).
    pub(crate) fn job(&mut self, method: &str, arguments: &[Value]) -> Result<String, Failure> {
        let answer = self.call(method, arguments)?;
        let job =
            answer.first().and_then(Value::as_str).ok_or_else(|| odd("an answer without a job"))?.to_owned();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.removed.iter().position(|(removed, _)| *removed == job) {
                return Ok(self.removed.remove(at).map(|(_, result)| result).unwrap_or_default());
            }
            let message = self.receive(deadline)?;
            self.note(message);
        }
    }

    fn call_at(
        &mut self,
        to: &str,
        path: &str,
        interface: &str,
        method: &str,
        arguments: &[Value],
    ) -> Result<Vec<Value>, Failure> {
        self.serial += 1;
        let serial = self.serial;
        let to = self.bus.then_some(to);
        self.stream.write_all(&encode(serial, to, path, interface, method, arguments))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.receive(deadline)?;
            match message.kind {
                METHOD_RETURN if message.reply_to == Some(serial) => return Ok(message.body),
                ERROR if message.reply_to == Some(serial) => {
                    let text = message.body.first().and_then(Value::as_str).unwrap_or_default().to_owned();
                    return Err(Failure::Refused { name: message.error.unwrap_or_default(), text });
                }
                _ => self.note(message),
            }
        }
    }

    fn note(&mut self, message: Message) {
        if message.kind != SIGNAL || message.member.as_deref() != Some("JobRemoved") {
            return;
        }
        let text = |at: usize| message.body.get(at).and_then(Value::as_str).map(str::to_owned);
        if let (Some(job), Some(result)) = (text(1), text(3)) {
            if self.removed.len() == SIGNALS_MAX {
                self.removed.pop_front();
            }
            self.removed.push_back((job, result));
        }
    }

    /// The kernel says who we are: nothing is to be proved. All is said at once: systemd overlooks a message that arrives
    /// together with `BEGIN`.
    fn authenticate(&mut self) -> Result<(), Failure> {
        let id: String =
            crate::rootless::uid_outside().to_string().bytes().map(|b| format!("{b:02x}")).collect();
        self.stream.write_all(format!("\0AUTH EXTERNAL {id}\r\nBEGIN\r\n").as_bytes())?;
        let deadline = Instant::now() + PATIENCE;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            if line.len() > 512 {
                return Err(odd("a long answer to the authentication"));
            }
            let mut byte = [0];
            self.read(&mut byte, deadline)?;
            line.extend(byte);
        }
        if !line.starts_with(b"OK") {
            return Err(odd("no to the authentication"));
        }
        Ok(())
    }

    fn read(&mut self, into: &mut [u8], deadline: Instant) -> io::Result<()> {
        let late = || io::Error::other(format!("no answer within {} s", PATIENCE.as_secs()));
        let mut rest = into;
        while !rest.is_empty() {
            // Asked anew for every piece: many small ones must not take longer than one.
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
            self.stream.set_read_timeout(Some(left.ok_or_else(late)?.max(Duration::from_millis(1))))?;
            match self.stream.read(rest) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => rest = &mut rest[length..],
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Err(late()),
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Instant) -> Result<Message, Failure> {
        let mut bytes = vec![0; 16];
        self.read(&mut bytes, deadline)?;
        let word =
            |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
        if bytes[0] != b'l' || bytes[3] != 1 {
            return Err(odd("a message of another byte order or version"));
        }
        let (body, fields) = (word(4), word(12));
        let total =
            fields.checked_next_multiple_of(8).and_then(|fields| fields.checked_add(16)?.checked_add(body));
        let total = total.filter(|total| *total <= MESSAGE_MAX).ok_or_else(|| odd("a message over 1 MiB"))?;
        bytes.resize(total, 0);
        self.read(&mut bytes[16..], deadline)?;
        decode(&bytes, fields).ok_or_else(|| odd("a message that is not well-formed"))
    }
}

fn odd(what: &str) -> Failure {
    Failure::Io(io::Error::new(io::ErrorKind::InvalidData, format!("got {what}")))
}

/// The sockets where systemd may be reached, and whether a bus listens there.
fn sockets(manager: Manager) -> Vec<(PathBuf, bool)> {
    if manager == Manager::System {
        return vec![("/run/systemd/private".into(), false), ("/run/dbus/system_bus_socket".into(), true)];
    }
    let mut sockets = Vec::new();
    if let Ok(address) = std::env::var("DBUS_SESSION_BUS_ADDRESS") {
        let path = address.split([';', ',']).find_map(|part| part.strip_prefix("unix:path="));
        sockets.extend(path.map(|path| (PathBuf::from(path), true)));
    }
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| format!("/run/user/{}", crate::rootless::uid_outside()).into());
    sockets.push((folder.join("systemd/private"), false));
    sockets.push((folder.join("bus"), true));
    sockets
}

fn connect(manager: Manager) -> Result<(UnixStream, bool), Failure> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for (path, bus) in sockets(manager) {
        match connect_to(&path) {
            Ok(stream) => return Ok((stream, bus)),
            Err(error) => last = io::Error::new(error.kind(), format!("connect to {path:?}: {error}")),
        }
    }
    Err(last.into())
}

/// A connection, if it is taken within the bound.
fn connect_to(path: &Path) -> io::Result<UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

fn encode(
    serial: u32,
    to: Option<&str>,
    path: &str,
    interface: &str,
    method: &str,
    arguments: &[Value],
) -> Vec<u8> {
    let mut body = Vec::new();
    arguments.iter().for_each(|argument| argument.write(&mut body));
    let signature: String = arguments.iter().map(Value::signature).collect();
    let field = |code: u8, value: Value| Value::Struct(vec![Value::Byte(code), Value::variant(value)]);
    let mut fields = vec![
        field(1, Value::Path(path.into())),
        field(2, Value::str(interface)),
        field(3, Value::str(method)),
    ];
    fields.extend(to.map(|to| field(6, Value::str(to))));
    if !signature.is_empty() {
        fields.push(field(8, Value::Signature(signature)));
    }
    let mut message = vec![b'l', METHOD_CALL, 0, 1];
    message.extend((body.len() as u32).to_le_bytes());
    message.extend(serial.to_le_bytes());
    Value::Array("(yv)".into(), fields).write(&mut message);
    pad(&mut message, 8);
    message.extend(body);
    message
}

fn decode(bytes: &[u8], fields: usize) -> Option<Message> {
    let mut message = Message { kind: bytes[1], reply_to: None, member: None, error: None, body: Vec::new() };
    let mut signature = String::new();
    let list = Reader::new(bytes, 12).all("a(yv)")?;
    let [Value::Array(_, list)] = list.as_slice() else { return None };
    for field in list {
        let Value::Struct(field) = field else { return None };
        let [Value::Byte(code), Value::Variant(value)] = field.as_slice() else { return None };
        match (code, &**value) {
            (3, Value::Str(member)) => message.member = Some(member.clone()),
            (4, Value::Str(error)) => message.error = Some(error.clone()),
            (5, Value::U32(serial)) => message.reply_to = Some(*serial),
            (8, Value::Signature(text)) => signature = text.clone(),
            _ => {}
        }
    }
    let body = (16 + fields).next_multiple_of(8);
    // What nobody here waits for may have any form.
    if message.kind != SIGNAL || message.member.as_deref() == Some("JobRemoved") {
        let at = bytes.get(body..)?;
        message.body = Reader::new(at, 0).all(&signature)?;
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that sends a byte now and then.
    #[test]
    fn a_deadline_holds_for_all_pieces_together() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let trickle = std::thread::spawn(move || {
            while theirs.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let mut connection = Connection { stream: ours, serial: 0, bus: false, removed: VecDeque::new() };
        let began = Instant::now();
        let error = connection.read(&mut [0; 4096], began + Duration::from_millis(200)).unwrap_err();
        assert!(error.to_string().contains("no answer"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(5));
        drop(connection);
        trickle.join().unwrap();
    }

    #[test]
    fn messages_are_framed() {
        let bytes = encode(
            7,
            Some(SYSTEMD),
            MANAGER_PATH,
            MANAGER,
            "StopUnit",
            &[Value::str("a.scope"), Value::str("replace")],
        );
        let fields = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        let message = decode(&bytes, fields).unwrap();
        assert_eq!((message.kind, message.member.as_deref()), (METHOD_CALL, Some("StopUnit")));
        assert_eq!(message.body, [Value::str("a.scope"), Value::str("replace")]);
    }
}
