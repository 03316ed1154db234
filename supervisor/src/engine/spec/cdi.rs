//! Devices by name: the Container Device Interface. A vendor puts JSON files into /etc/cdi or /var/run/cdi that say what a
//! container needs for `vendor.com/class=name`: device nodes, mounts, variables and hooks. The files are the host's, as
//! trusted as its programs; those that cannot be read or are not JSON are passed over and named where a device is missing.

use std::path::Path;

use oci_spec::runtime::{Hook, HookBuilder, Hooks, LinuxDevice, LinuxDeviceCgroup, Mount, MountBuilder};
use serde::Deserialize;

use super::devices;
use crate::engine::config::Device;
use crate::error::{Error, Result};

/// Where vendors put their files; the later folder wins.
const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Largest file, and most of them, that are read.
const MAX_FILE: u64 = 4 << 20;
const MAX_FILES: usize = 256;

/// What the devices of a container come to.
#[derive(Debug, Default)]
pub struct Edits {
    pub nodes: Vec<LinuxDevice>,
    pub rules: Vec<LinuxDeviceCgroup>,
    pub mounts: Vec<Mount>,
    pub env: Vec<String>,
    pub hooks: Hooks,
}

/// Whether a `--device` names a device of a vendor's.
pub fn is_name(text: &str) -> bool {
    !text.starts_with('/')
        && text.split_once('=').is_some_and(|(kind, name)| kind.contains('/') && !name.is_empty())
}

#[derive(Debug, Deserialize)]
struct File {
    kind: String,
    #[serde(default)]
    devices: Vec<Named>,
    #[serde(default, rename = "containerEdits")]
    edits: Wanted,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
    #[serde(default, rename = "containerEdits")]
    edits: Wanted,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wanted {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<WantedMount>,
    hooks: Vec<WantedHook>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: String,
    #[serde(default)]
    host_path: String,
    #[serde(default)]
    permissions: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WantedMount {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WantedHook {
    hook_name: String,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    timeout: Option<i64>,
}

/// What the devices with these names need.
pub fn edits(names: &[&str]) -> Result<Edits> {
    edits_in(&FOLDERS.map(Path::new), names)
}

fn edits_in(folders: &[&Path], names: &[&str]) -> Result<Edits> {
    let mut all = Edits::default();
    if names.is_empty() {
        return Ok(all);
    }
    let (files, passed_over) = read(folders);
    let mut whole: Vec<&str> = Vec::new();
    for name in names {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        let found =
            files.iter().rev().filter(|file| file.kind == kind).find_map(|file| {
                file.devices.iter().find(|each| each.name == device).map(|named| (file, named))
            });
        let Some((file, named)) = found else {
            let mut why = format!("no file of {} has it", FOLDERS.join(" or "));
            if !passed_over.is_empty() {
                why.push_str(&format!("; these were passed over: {}", passed_over.join(", ")));
            }
            return Err(Error::invalid(
                format!("CDI device injection failed: unresolvable CDI devices {name}"),
                why,
            ));
        };
        // What a file says for all of its devices is done once.
        if !whole.contains(&kind) {
            whole.push(kind);
            all.add(&file.edits)?;
        }
        all.add(&named.edits)?;
    }
    Ok(all)
}

fn read(folders: &[&Path]) -> (Vec<File>, Vec<String>) {
    let (mut files, mut passed_over) = (Vec::new(), Vec::new());
    for folder in folders {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).take(MAX_FILES).collect();
        paths.sort();
        for path in paths {
            let json = path.extension().is_some_and(|extension| extension == "json");
            let small = path.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_FILE);
            let read = (json && small).then(|| std::fs::read(&path).ok()).flatten();
            match read.map(|bytes| serde_json::from_slice::<File>(&bytes)) {
                Some(Ok(file)) => files.push(file),
                Some(Err(error)) => passed_over.push(format!("{} ({error})", path.display())),
                None => {
                    passed_over.push(format!("{} (only readable JSON of at most 4 MiB is)", path.display()))
                }
            }
        }
    }
    (files, passed_over)
}

impl Edits {
    fn add(&mut self, wanted: &Wanted) -> Result<()> {
        self.env.extend(wanted.env.iter().cloned());
        for node in &wanted.device_nodes {
            let device = Device {
                host_path: if node.host_path.is_empty() { node.path.clone() } else { node.host_path.clone() },
                container_path: node.path.clone(),
                permissions: node.permissions.clone(),
            };
            let (nodes, rules) = devices::of_host(&device)?;
            self.nodes.extend(nodes);
            self.rules.extend(rules);
        }
        for mount in &wanted.mounts {
            let mut options = mount.options.clone();
            if !options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind")) {
                options.push("rbind".into());
            }
            let made = MountBuilder::default()
                .destination(mount.container_path.as_str())
                .typ("bind")
                .source(mount.host_path.as_str())
                .options(options);
            self.mounts.push(made.build().map_err(Error::oci)?);
        }
        wanted.hooks.iter().try_for_each(|hook| self.add_hook(hook))
    }

    fn add_hook(&mut self, wanted: &WantedHook) -> Result<()> {
        let mut hook = HookBuilder::default().path(wanted.path.as_str());
        if !wanted.args.is_empty() {
            hook = hook.args(wanted.args.clone());
        }
        if !wanted.env.is_empty() {
            hook = hook.env(wanted.env.clone());
        }
        if let Some(timeout) = wanted.timeout {
            hook = hook.timeout(timeout);
        }
        let hook = hook.build().map_err(Error::oci)?;
        let hooks = &mut self.hooks;
        let and =
            |all: &Option<Vec<Hook>>| Some([all.clone().unwrap_or_default(), vec![hook.clone()]].concat());
        match wanted.hook_name.as_str() {
            "createRuntime" => hooks.set_create_runtime(and(hooks.create_runtime())),
            "createContainer" => hooks.set_create_container(and(hooks.create_container())),
            "startContainer" => hooks.set_start_container(and(hooks.start_container())),
            "poststart" => hooks.set_poststart(and(hooks.poststart())),
            "poststop" => hooks.set_poststop(and(hooks.poststop())),
            other => {
                return Err(Error::invalid(
                    format!("hook {other} of a CDI device"),
                    "createRuntime, createContainer, startContainer, poststart and poststop are known",
                ));
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_brings_nodes_mounts_variables_and_hooks() {
        let folder = tempfile::tempdir().unwrap();
        let json = r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/class",
            "containerEdits": {"env": ["ALL=1"]},
            "devices": [{"name": "a", "containerEdits": {
                "env": ["A=1"], "deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/null"}],
                "mounts": [{"hostPath": "/lib", "containerPath": "/lib/a", "options": ["ro"]}],
                "hooks": [{"hookName": "createContainer", "path": "/bin/true", "args": ["true"]}]}},
             {"name": "b"}]}"#;
        std::fs::write(folder.path().join("v.json"), json).unwrap();
        std::fs::write(folder.path().join("w.yaml"), "kind: x").unwrap();
        let edits = edits_in(&[folder.path()], &["vendor.com/class=a", "vendor.com/class=b"]).unwrap();
        assert_eq!(edits.env, ["ALL=1", "A=1"]);
        assert_eq!(edits.nodes[0].path(), Path::new("/dev/a"));
        assert_eq!((edits.rules.len(), edits.mounts.len()), (1, 1));
        assert_eq!(edits.hooks.create_container().as_ref().unwrap().len(), 1);
        let said = edits_in(&[folder.path()], &["vendor.com/class=c"]).unwrap_err().for_people();
        assert!(
            said.contains("unresolvable CDI devices vendor.com/class=c") && said.contains("w.yaml"),
            "{said}"
        );
    }

    #[test]
    fn names() {
        assert!(is_name("vendor.com/class=name"));
        for other in ["/dev/a=b", "a=b", "vendor.com/class=", "vendor.com/class"] {
            assert!(!is_name(other), "{other}");
        }
    }
}
