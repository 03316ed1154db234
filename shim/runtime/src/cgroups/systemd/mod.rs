//! Cgroups that systemd makes: transient scopes and slices, asked for over D-Bus.
//!
//! What always holds: limits go to systemd as properties of the unit, so that it knows them when it applies its own view
//! again, and to the control files, as systemd knows fewer; a unit that was not completely made is stopped again.

mod bus;
mod properties;
mod value;
mod variant;

use super::Mode;
use crate::sys::process as sys;
use crate::{Error, Result};
pub(crate) use bus::Manager;
use bus::{Connection, Failure};
use oci_spec::runtime::{LinuxResources, Spec};
use rustix::fd::AsFd;
pub(super) use value::Value;

/// Where units go if the config does not say, and how ours are called.
const SYSTEM_SLICE: &str = "system.slice";
const USER_SLICE: &str = "user.slice";
const PREFIX: &str = "longshore";
/// Longest name of a unit.
const NAME_MAX: usize = 255;
/// Present on a host that runs systemd (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// One unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    manager: Manager,
    slice: String,
    name: String,
}

/// A child that holds a new scope until the container's init is in it, as systemd makes no empty scopes.
pub(crate) struct Placeholder(Option<sys::Child>);

impl Drop for Placeholder {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            let _ = sys::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
            let _ = sys::wait(child.pidfd.as_fd(), sys::Reap::Take);
        }
    }
}

impl Unit {
    /// Reads `slice:prefix:name`; nothing at all is a scope named after the container.
    pub(crate) fn parse(cgroups_path: &str, id: &str) -> Result<Unit> {
        let root = !crate::rootless::is_rootless();
        let (manager, usual) =
            if root { (Manager::System, SYSTEM_SLICE) } else { (Manager::User, USER_SLICE) };
        let parts: Vec<&str> = cgroups_path.split(':').collect();
        let (slice, prefix, name) = match parts.as_slice() {
            [""] => ("", PREFIX, id),
            [slice, prefix, name] => (*slice, *prefix, *name),
            _ => return Err(invalid(format!("{cgroups_path:?} is not of the form slice:prefix:name"))),
        };
        let slice = if slice.is_empty() { usual } else { slice };
        let name = match (name.ends_with(".slice"), prefix) {
            (true, _) => name.to_owned(),
            (false, "") => format!("{name}.scope"),
            (false, prefix) => format!("{prefix}-{name}.scope"),
        };
        let unit = Unit { manager, slice: slice.into(), name };
        expand(&unit.slice)?;
        if unit.is_slice() {
            expand(&unit.name)?;
        }
        let fine = |c: u8| c.is_ascii_alphanumeric() || b":-_.\\@".contains(&c);
        if unit.name.len() > NAME_MAX || unit.name.starts_with(".") || !unit.name.bytes().all(fine) {
            let why = format!(
                "{:?} is no name of a unit: letters, digits and :-_.\\@, {NAME_MAX} at most",
                unit.name
            );
            return Err(invalid(why));
        }
        Ok(unit)
    }

    fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }

    /// The cgroup's path below the root of each hierarchy, without a leading slash.
    pub(crate) fn path(&self) -> Result<String> {
        let above = match self.manager {
            Manager::System => String::new(),
            Manager::User => {
                self.connect()?.property("ControlGroup").map_err(self.failed("ask systemd for its cgroup"))?
            }
        };
        let path = match self.is_slice() {
            true => format!("{above}{}", expand(&self.name)?),
            false => format!("{above}{}/{}", expand(&self.slice)?, self.name),
        };
        Ok(crate::paths::clean(&path))
    }

    /// For [`Unit::from_record`].
    pub(crate) fn record(&self) -> String {
        let manager = if self.manager == Manager::System { "system" } else { "user" };
        format!("{manager}:{}:{}", self.slice, self.name)
    }

    pub(crate) fn from_record(record: &str) -> Option<Unit> {
        let mut parts = record.splitn(3, ':');
        let manager = match parts.next()? {
            "system" => Manager::System,
            "user" => Manager::User,
            _ => return None,
        };
        Some(Unit { manager, slice: parts.next()?.into(), name: parts.next()?.into() })
    }

    fn connect(&self) -> Result<Connection> {
        if !std::path::Path::new(BOOTED).is_dir() {
            return Err(Error::NoSystemd);
        }
        Connection::open(self.manager).map_err(self.failed("connect to systemd for"))
    }

    fn failed(&self, doing: &'static str) -> impl Fn(Failure) -> Error {
        let unit = self.name.clone();
        move |failure| Error::Systemd { doing, unit: unit.clone(), why: failure.to_string() }
    }

    /// Makes the unit with the limits of a new container.
    pub(crate) fn start(&self, spec: &Spec, id: &str, mode: Mode) -> Result<Placeholder> {
        let mut connection = self.connect()?;
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let mut list = vec![("Description", Value::str(format!("longshore container {id}")))];
        let placeholder = if self.is_slice() {
            list.push(("Wants", Value::Array("s".into(), vec![Value::str(self.slice.as_str())])));
            Placeholder(None)
        } else {
            let child = sys::spawn(0, None, hold).map_err(|errno| Error::System {
                doing: "clone a process for the scope",
                source: errno.into(),
            })?;
            list.push(("Slice", Value::str(self.slice.as_str())));
            list.push(("Delegate", Value::Bool(true)));
            list.push(("PIDs", Value::Array("u".into(), vec![Value::U32(child.pid.unsigned_abs())])));
            Placeholder(Some(child))
        };
        let io = if mode == Mode::V2 { "IOAccounting" } else { "BlockIOAccounting" };
        list.extend(
            ["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"]
                .map(|name| (name, Value::Bool(true))),
        );
        list.push(("DefaultDependencies", Value::Bool(false)));
        let mut list: Vec<(String, Value)> =
            list.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        if let Some(resources) = resources {
            list.extend(properties::of_new(resources, mode)?);
        }
        list.extend(properties::of_annotations(spec)?);
        self.start_transient(&mut connection, list)?;
        Ok(placeholder)
    }

    fn start_transient(&self, connection: &mut Connection, list: Vec<(String, Value)>) -> Result<()> {
        let arguments = [
            Value::str(self.name.as_str()),
            Value::str("replace"),
            properties::to_wire(list),
            Value::Array("(sa(sv))".into(), Vec::new()),
        ];
        let started = match connection.job("StartTransientUnit", &arguments) {
            Err(Failure::Refused { name, .. }) if name.ends_with(".UnitExists") => {
                if self.is_slice() {
                    // Its end would be the end of everything in it.
                    let why =
                        "it exists already, and may have others in it; name a slice of the container's own";
                    return Err(Error::Systemd { doing: "start", unit: self.name.clone(), why: why.into() });
                }
                // Perhaps one that failed and is only remembered.
                let _ = connection.call("ResetFailedUnit", &arguments[..1]);
                connection.job("StartTransientUnit", &arguments)
            }
            other => other,
        };
        match started.map_err(self.failed("start"))?.as_str() {
            "done" => Ok(()),
            result => {
                let _ = connection.call("ResetFailedUnit", &arguments[..1]);
                let why = format!("its job ended with {result:?}; see the journal");
                Err(Error::Systemd { doing: "start", unit: self.name.clone(), why })
            }
        }
    }

    /// Tells systemd of changed limits.
    pub(crate) fn update(&self, resources: &LinuxResources, mode: Mode) -> Result<()> {
        let list = properties::of_update(resources, mode)?;
        if list.is_empty() {
            return Ok(());
        }
        let arguments = [Value::str(self.name.as_str()), Value::Bool(true), properties::to_wire(list)];
        self.connect()?.call("SetUnitProperties", &arguments).map(drop).map_err(self.failed("change"))
    }

    /// Moves a process into it: by systemd, which may where an ordinary user may not.
    pub(crate) fn attach(&self, pid: i32) -> Result<()> {
        let pids = Value::Array("u".into(), vec![Value::U32(pid.unsigned_abs())]);
        let arguments = [Value::str(self.name.as_str()), Value::str("/"), pids];
        self.connect()?
            .call("AttachProcessesToUnit", &arguments)
            .map(drop)
            .map_err(self.failed("add a process to"))
    }

    /// Whether an ordinary user's processes must be moved by systemd.
    pub(crate) fn moves_processes(&self) -> bool {
        self.manager == Manager::User
    }

    /// Stops it; one that is gone is success.
    pub(crate) fn stop(&self) -> Result<()> {
        let mut connection = self.connect()?;
        let arguments = [Value::str(self.name.as_str()), Value::str("replace")];
        match connection.job("StopUnit", &arguments) {
            Err(Failure::Refused { name, .. }) if name.ends_with(".NoSuchUnit") => return Ok(()),
            other => other.map_err(self.failed("stop"))?,
        };
        let _ = connection.call("ResetFailedUnit", &arguments[..1]);
        Ok(())
    }
}

/// The path of a container whose config names none, as [`Unit::parse`] takes it.
pub(super) fn usual_path(id: &str) -> String {
    format!(":{PREFIX}:{id}")
}

/// What the placeholder does: nothing, until it is killed or its parent is gone.
fn hold() -> i32 {
    let _ = sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
    let _ = sys::close_range(0, u32::MAX);
    loop {
        sys::pause();
    }
}

fn invalid(why: String) -> Error {
    Error::InvalidSpec { field: "linux.cgroupsPath".into(), why }
}

/// `test-a.slice` is the cgroup `/test.slice/test-a.slice`; `-.slice` is the root.
fn expand(slice: &str) -> Result<String> {
    let refused = || invalid(format!("{slice:?} is no name of a slice"));
    let stem = slice.strip_suffix(".slice").filter(|stem| !stem.contains('/')).ok_or_else(refused)?;
    if stem == "-" {
        return Ok(String::new());
    }
    let (mut path, mut prefix) = (String::new(), String::new());
    for part in stem.split('-') {
        if part.is_empty() || part == "." || part == ".." {
            return Err(refused());
        }
        path.push_str(&format!("/{prefix}{part}.slice"));
        prefix.push_str(&format!("{part}-"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_nest_by_their_names() {
        assert_eq!(expand("test-a-b.slice").unwrap(), "/test.slice/test-a.slice/test-a-b.slice");
        assert_eq!(expand("-.slice").unwrap(), "");
        for name in ["test", ".slice", "-test.slice", "test--a.slice", "a/b.slice", "...slice"] {
            assert!(expand(name).is_err(), "{name}");
        }
    }

    #[test]
    fn units_are_named_by_the_cgroups_path() {
        let unit = Unit::parse("machine.slice:libpod:abc", "x").unwrap();
        assert_eq!((unit.slice.as_str(), unit.name.as_str()), ("machine.slice", "libpod-abc.scope"));
        assert_eq!(Unit::parse("", "x").unwrap().name, "longshore-x.scope");
        assert_eq!(Unit::parse(&usual_path("x"), "").unwrap(), Unit::parse("", "x").unwrap());
        assert_eq!(Unit::parse(":cri:x", "x").unwrap().name, "cri-x.scope");
        assert_eq!(Unit::parse("a.slice::x", "x").unwrap().name, "x.scope");
        assert_eq!(Unit::parse("::a-b.slice", "x").unwrap().name, "a-b.slice");
        assert_eq!(Unit::from_record(&unit.record()).unwrap(), unit);
        for path in ["/a/b", "a:b", "a:b:c", "a.slice:b:c/d", "a.slice:b:c d", "a.slice:b:c:d"] {
            assert!(Unit::parse(path, "x").is_err(), "{path}");
        }
    }
}
