//! Cache and memory bandwidth by Intel's Resource Director Technology: one group of the kernel's resctrl file system.
//!
//! What always holds: only what this container made is removed, when the container is deleted or does not come to be.

use crate::{Error, Result};
use oci_spec::runtime::{Linux, LinuxIntelRdt};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel's documentation has it mounted.
const RESCTRL: &str = "/sys/fs/resctrl";
const RDTGROUP_SUPER_MAGIC: u64 = 0x0765_5821;

/// What a config asks for.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The control group's folder.
    folder: PathBuf,
    owner: Owner,
    /// Lines for its schemata file, in order.
    schemata: Vec<String>,
    /// The monitoring group's folder.
    monitor: Option<PathBuf>,
}

/// Whose the control group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The container's alone, named by its id.
    Container,
    /// Named by `closID`: made if there are schemata, but never removed.
    Shared,
}

/// The groups that a container is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    folder: PathBuf,
    made: Option<PathBuf>,
    monitor: Option<PathBuf>,
    /// Removes what was made if the container does not come to be.
    #[serde(skip)]
    armed: bool,
}

fn invalid(field: &str, why: impl Into<String>) -> Error {
    Error::InvalidSpec { field: format!("linux.intelRdt{field}"), why: why.into() }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { doing, path: path.into(), source }
}

/// Reads the config; an error if it asks for something and the host has no resctrl.
pub(crate) fn plan(linux: &Linux, id: &str) -> Result<Option<Plan>> {
    let Some(rdt) = linux.intel_rdt() else { return Ok(None) };
    let top = Path::new(RESCTRL);
    let mounted = rustix::fs::statfs(top).is_ok_and(|fs| fs.f_type as u64 == RDTGROUP_SUPER_MAGIC);
    if !mounted {
        return Err(invalid("", format!("this host has no resctrl file system mounted at {RESCTRL:?}")));
    }
    plan_in(top, rdt, id).map(Some)
}

pub(crate) fn plan_in(top: &Path, rdt: &LinuxIntelRdt, id: &str) -> Result<Plan> {
    let class = rdt.clos_id().as_deref().filter(|class| !class.is_empty());
    let name = class.unwrap_or(id);
    let is_one_name =
        !name.contains('/') && !matches!(name, "" | "." | ".." | "info" | "mon_groups" | "mon_data");
    if !is_one_name && class != Some("/") {
        return Err(invalid(".closID", format!("{name:?} is no name of a group")));
    }
    let mut schemata = Vec::new();
    for (field, start, schema) in
        [(".l3CacheSchema", "", rdt.l3_cache_schema()), (".memBwSchema", "MB:", rdt.mem_bw_schema())]
    {
        let Some(schema) = schema.as_deref().filter(|schema| !schema.is_empty()) else { continue };
        if schema.contains('\n') || !schema.starts_with(start) {
            return Err(invalid(field, format!("{schema:?} must be one line that starts with {start:?}")));
        }
        schemata.push(schema.to_owned());
    }
    for schema in rdt.schemata().iter().flatten() {
        if schema.contains('\n') {
            return Err(invalid(".schemata", format!("{schema:?} must be one line")));
        }
        schemata.push(schema.clone());
    }
    let folder = if name == "/" { top.to_owned() } else { top.join(name) };
    let monitor = (*rdt.enable_monitoring() == Some(true)).then(|| folder.join("mon_groups").join(id));
    let owner = if class.is_some() { Owner::Shared } else { Owner::Container };
    Ok(Plan { folder, owner, schemata, monitor })
}

impl Plan {
    /// Puts a process there, with everything that it will fork.
    pub(crate) fn enter(&self, pid: i32) -> Result<Group> {
        self.enter_by(pid, |path, line| fs::write(path, line))
    }

    fn enter_by(&self, pid: i32, write: impl Fn(&Path, String) -> io::Result<()>) -> Result<Group> {
        let mut group = Group { folder: self.folder.clone(), made: None, monitor: None, armed: true };
        if self.folder.is_dir() {
            self.compare()?;
        } else if self.owner == Owner::Shared && self.schemata.is_empty() {
            let why = format!("{:?} does not exist, and there is no schema to make it with", self.folder);
            return Err(invalid(".closID", why));
        } else {
            fs::create_dir(&self.folder).map_err(failed("make the resctrl group", &self.folder))?;
            group.made = (self.owner == Owner::Container).then(|| self.folder.clone());
            if let Err(error) = self.write_schemata(write) {
                // Nobody else can be in it: it is not what anybody asked for.
                group.made = Some(self.folder.clone());
                return Err(error);
            }
        }
        if let Some(monitor) = &self.monitor {
            fs::create_dir(monitor).map_err(failed("make the resctrl monitoring group", monitor))?;
            group.monitor = Some(monitor.clone());
        }
        group.add(pid)?;
        Ok(group)
    }

    fn write_schemata(&self, write: impl Fn(&Path, String) -> io::Result<()>) -> Result<()> {
        let path = self.folder.join("schemata");
        for line in &self.schemata {
            write(&path, format!("{line}\n")).map_err(failed("write the resctrl schemata", &path))?;
        }
        Ok(())
    }

    /// A group that is there already must be as the config wants it.
    fn compare(&self) -> Result<()> {
        if self.schemata.is_empty() {
            return Ok(());
        }
        let path = self.folder.join("schemata");
        let text = fs::read_to_string(&path).map_err(failed("read the resctrl schemata", &path))?;
        let has: Vec<&str> = text.lines().map(str::trim).collect();
        match self.schemata.iter().find(|schema| !has.contains(&schema.trim())) {
            None => Ok(()),
            Some(schema) => Err(invalid(
                ".closID",
                format!("{:?} exists with other schemata than {schema:?}", self.folder),
            )),
        }
    }
}

impl Group {
    /// Moves one more process of the container there.
    pub(crate) fn add(&self, pid: i32) -> Result<()> {
        let path = self.monitor.as_ref().unwrap_or(&self.folder).join("tasks");
        fs::write(&path, pid.to_string()).map_err(failed("join the resctrl group by", &path))
    }

    /// The container has come to be.
    pub(crate) fn keep(mut self) -> Group {
        self.armed = false;
        self
    }

    /// Takes away what was made.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.armed = false;
        self.take_away()
    }

    fn take_away(&self) -> Result<()> {
        for folder in [&self.monitor, &self.made].into_iter().flatten() {
            match fs::remove_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove the resctrl group", folder)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.armed {
            let _ = self.take_away();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rdt(text: &str) -> LinuxIntelRdt {
        serde_json::from_str(text).unwrap()
    }

    /// An ordinary folder in the place of resctrl: it has no files of its own, so removal empties it first.
    fn empty(folder: &Path) {
        for file in ["schemata", "tasks"] {
            let _ = fs::remove_file(folder.join(file));
        }
    }

    #[test]
    fn a_group_of_the_container_comes_and_goes_with_it() {
        let top = tempfile::tempdir().unwrap();
        let plan =
            plan_in(top.path(), &rdt(r#"{"l3CacheSchema":"L3:0=f","memBwSchema":"MB:0=20"}"#), "c1").unwrap();
        let group = plan.enter(42).unwrap();
        let folder = top.path().join("c1");
        assert_eq!(fs::read_to_string(folder.join("tasks")).unwrap(), "42");
        assert_eq!(fs::read_to_string(folder.join("schemata")).unwrap(), "MB:0=20\n");
        empty(&folder);
        group.keep().remove().unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn a_shared_group_stays_and_must_fit() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("gold");
        let missing = plan_in(top.path(), &rdt(r#"{"closID":"gold"}"#), "c1").unwrap();
        assert!(missing.enter(42).is_err() && !folder.exists());
        let plan = plan_in(top.path(), &rdt(r#"{"closID":"gold","schemata":["L3:0=f"]}"#), "c1").unwrap();
        plan.enter(42).unwrap().remove().unwrap();
        assert!(folder.exists());
        plan.enter(43).unwrap();
        let other = plan_in(top.path(), &rdt(r#"{"closID":"gold","schemata":["L3:0=3"]}"#), "c1").unwrap();
        assert!(other.enter(42).unwrap_err().to_string().contains("other schemata"));
    }

    #[test]
    fn a_group_whose_schemata_are_refused_goes_again() {
        let top = tempfile::tempdir().unwrap();
        for text in [r#"{"closID":"gold","schemata":["L3:0=f"]}"#, r#"{"l3CacheSchema":"L3:0=f"}"#] {
            let plan = plan_in(top.path(), &rdt(text), "c1").unwrap();
            let refuse = |_: &Path, _: String| Err(io::Error::from_raw_os_error(libc::EINVAL));
            let error = plan.enter_by(42, refuse).unwrap_err().to_string();
            assert!(error.contains("schemata"), "{error}");
            assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0, "{text}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for class in ["../x", "a/b", "..", "info"] {
            let text = format!(r#"{{"closID":"{class}"}}"#);
            assert!(plan_in(Path::new("/nowhere"), &rdt(&text), "c1").is_err(), "{class}");
        }
        assert!(plan_in(Path::new("/nowhere"), &rdt(r#"{"memBwSchema":"MB:0=1\nL3:0=1"}"#), "c1").is_err());
    }
}
