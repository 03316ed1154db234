//! Devices by name: the Container Device Interface. A vendor puts JSON or YAML files into /etc/cdi or /var/run/cdi that say what a
//! container needs for `vendor.com/class=name`: device nodes, mounts, variables, hooks, groups, interfaces, a class of the cache. The
//! format is that of CDI 1.1.
//!
//! What always holds: the files are the host's, as trusted as its programs; what a file says is done whole, or the container is not
//! made; one that cannot be understood is named, with the reason, where a device is missing.

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::{
    Hook, HookBuilder, Hooks, LinuxDevice, LinuxDeviceCgroup, LinuxIntelRdt, LinuxNetDevice, Mount,
    MountBuilder, Spec,
};
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
    /// Groups that the process is in, too.
    pub groups: Vec<u32>,
    /// Interfaces of the host's that are moved into the container, by their names on the host.
    pub interfaces: HashMap<String, LinuxNetDevice>,
    pub cache: Option<LinuxIntelRdt>,
}

impl Edits {
    /// Puts into a specification what does not depend on anything else that is in there. Variables, nodes and rules are its maker's to
    /// put in their place.
    pub fn finish(self, spec: &mut Spec) {
        if !self.mounts.is_empty() {
            let mut mounts = spec.mounts().clone().unwrap_or_default();
            mounts.extend(self.mounts);
            spec.set_mounts(Some(mounts));
        }
        if self.hooks != Hooks::default() {
            spec.set_hooks(Some(self.hooks));
        }
        if !self.groups.is_empty()
            && let Some(mut process) = spec.process().clone()
        {
            let mut user = process.user().clone();
            let mut groups = user.additional_gids().clone().unwrap_or_default();
            groups.extend(&self.groups);
            user.set_additional_gids(Some(groups));
            process.set_user(user);
            spec.set_process(Some(process));
        }
        let Some(mut linux) = spec.linux().clone() else { return };
        if !self.interfaces.is_empty() {
            linux.set_net_devices(Some(self.interfaces));
        }
        if self.cache.is_some() {
            linux.set_intel_rdt(self.cache);
        }
        spec.set_linux(Some(linux));
    }
}

/// Whether a `--device` names a device of a vendor's.
pub fn is_name(text: &str) -> bool {
    !text.starts_with('/')
        && text.split_once('=').is_some_and(|(kind, name)| kind.contains('/') && !name.is_empty())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    /// Of the format; unknown fields tell of what is too new.
    #[serde(rename = "cdiVersion")]
    _version: String,
    kind: String,
    /// For the vendor's own tools.
    #[serde(default, rename = "annotations")]
    _annotations: HashMap<String, String>,
    #[serde(default)]
    devices: Vec<Named>,
    #[serde(default, rename = "containerEdits")]
    edits: Wanted,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    #[serde(default, rename = "annotations")]
    _annotations: HashMap<String, String>,
    #[serde(default, rename = "containerEdits")]
    edits: Wanted,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Wanted {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    net_devices: Vec<Interface>,
    mounts: Vec<WantedMount>,
    hooks: Vec<WantedHook>,
    intel_rdt: Option<Cache>,
    additional_gids: Vec<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Node {
    path: String,
    host_path: String,
    /// `b`, `c`, `u` or `p`; empty: as on the host.
    r#type: String,
    major: i64,
    minor: i64,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Interface {
    host_interface_name: String,
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WantedMount {
    host_path: String,
    container_path: String,
    /// Empty: a bind mount.
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
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

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Cache {
    #[serde(rename = "closID")]
    class: String,
    l3_cache_schema: String,
    mem_bw_schema: String,
    schemata: Vec<String>,
    enable_monitoring: bool,
    /// What monitoring was before version 1.1.
    #[serde(rename = "enableCMT")]
    cache_monitoring: bool,
    #[serde(rename = "enableMBM")]
    memory_monitoring: bool,
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
            match parse(&path) {
                Some(Ok(file)) => files.push(file),
                Some(Err(why)) => passed_over.push(format!("{} ({why})", path.display())),
                None => {}
            }
        }
    }
    (files, passed_over)
}

/// What a file says; `None`: by its name it is none of a vendor's.
fn parse(path: &Path) -> Option<Result<File, String>> {
    let extension = path.extension().and_then(|extension| extension.to_str())?;
    if !matches!(extension, "json" | "yaml" | "yml") {
        return None;
    }
    Some(bounded(path).and_then(|text| match extension {
        "json" => serde_json::from_str(&text).map_err(|error| error.to_string()),
        _ => serde_saphyr::from_str(&text).map_err(|error| first_line(&error.to_string())),
    }))
}

fn bounded(path: &Path) -> Result<String, String> {
    let words = |error: std::io::Error| error.to_string();
    let meta = path.metadata().map_err(words)?;
    match (meta.is_file(), meta.len() <= MAX_FILE) {
        (true, true) => std::fs::read_to_string(path).map_err(words),
        (true, false) => Err(format!("it is larger than {MAX_FILE} bytes")),
        (false, _) => Err("it is no regular file".to_owned()),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

impl Edits {
    fn add(&mut self, wanted: &Wanted) -> Result<()> {
        self.env.extend(wanted.env.iter().cloned());
        for node in &wanted.device_nodes {
            let (nodes, rules) = node.made()?;
            self.nodes.extend(nodes);
            self.rules.extend(rules);
        }
        for mount in &wanted.mounts {
            let kind = if mount.r#type.is_empty() { "bind" } else { &mount.r#type };
            let mut options = mount.options.clone();
            if kind == "bind" && !options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind")) {
                options.push("rbind".into());
            }
            let made = MountBuilder::default()
                .destination(mount.container_path.as_str())
                .typ(kind)
                .source(mount.host_path.as_str())
                .options(options);
            self.mounts.push(made.build().map_err(Error::oci)?);
        }
        for interface in &wanted.net_devices {
            let mut device = LinuxNetDevice::default();
            device.set_name(Some(interface.name.clone()));
            self.interfaces.insert(interface.host_interface_name.clone(), device);
        }
        // Root's own group is no group of a device's.
        self.groups.extend(wanted.additional_gids.iter().filter(|&&gid| gid != 0));
        if let Some(cache) = &wanted.intel_rdt {
            self.cache = Some(cache.made());
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
            // At the same point as its successor, and before all of those.
            "prestart" => {
                let all = hooks.create_runtime().clone().unwrap_or_default();
                hooks.set_create_runtime(Some([vec![hook], all].concat()))
            }
            "createRuntime" => hooks.set_create_runtime(and(hooks.create_runtime())),
            "createContainer" => hooks.set_create_container(and(hooks.create_container())),
            "startContainer" => hooks.set_start_container(and(hooks.start_container())),
            "poststart" => hooks.set_poststart(and(hooks.poststart())),
            "poststop" => hooks.set_poststop(and(hooks.poststop())),
            other => {
                return Err(Error::invalid(
                    format!("hook {other} of a CDI device"),
                    "prestart, createRuntime, createContainer, startContainer, poststart and poststop are known",
                ));
            }
        };
        Ok(())
    }
}

impl Node {
    /// The node, or those below a folder of the host's, with their rules.
    fn made(&self) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>)> {
        let (mut nodes, rules) = if self.r#type.is_empty() {
            devices::of_host(&Device {
                host_path: if self.host_path.is_empty() { self.path.clone() } else { self.host_path.clone() },
                container_path: self.path.clone(),
                permissions: self.permissions.clone(),
            })?
        } else {
            devices::described(&self.path, &self.r#type, (self.major, self.minor), &self.permissions)?
        };
        for node in &mut nodes {
            if let Some(mode) = self.file_mode {
                node.set_file_mode(Some(mode));
            }
            if let Some(uid) = self.uid {
                node.set_uid(Some(uid));
            }
            if let Some(gid) = self.gid {
                node.set_gid(Some(gid));
            }
        }
        Ok((nodes, rules))
    }
}

impl Cache {
    fn made(&self) -> LinuxIntelRdt {
        let text = |text: &String| (!text.is_empty()).then(|| text.clone());
        let mut rdt = LinuxIntelRdt::default();
        rdt.set_clos_id(text(&self.class));
        rdt.set_l3_cache_schema(text(&self.l3_cache_schema));
        rdt.set_mem_bw_schema(text(&self.mem_bw_schema));
        rdt.set_schemata((!self.schemata.is_empty()).then(|| self.schemata.clone()));
        let monitored = self.enable_monitoring || self.cache_monitoring || self.memory_monitoring;
        rdt.set_enable_monitoring(monitored.then_some(true));
        rdt
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
        std::fs::write(folder.path().join("README"), "for people").unwrap();
        let edits = edits_in(&[folder.path()], &["vendor.com/class=a", "vendor.com/class=b"]).unwrap();
        assert_eq!(edits.env, ["ALL=1", "A=1"]);
        assert_eq!(edits.nodes[0].path(), Path::new("/dev/a"));
        assert_eq!((edits.rules.len(), edits.mounts.len()), (1, 1));
        assert_eq!(edits.hooks.create_container().as_ref().unwrap().len(), 1);
        let said = edits_in(&[folder.path()], &["vendor.com/class=c"]).unwrap_err().for_people();
        assert!(
            said.contains("unresolvable CDI devices vendor.com/class=c")
                && said.contains("w.yaml (")
                && said.contains("cdiVersion")
                && !said.contains("README"),
            "{said}"
        );
    }

    #[test]
    fn every_kind_of_edit_in_yaml() {
        let folder = tempfile::tempdir().unwrap();
        let yaml = r#"
cdiVersion: "1.1.0"
kind: vendor.com/net
annotations: {made-by: hand}
devices:
- name: "0"
  annotations: {}
  containerEdits:
    env: [ "A=1" ]
    deviceNodes:
    - {path: /dev/made, type: c, major: 1, minor: 3, fileMode: 0o640, uid: 7, gid: 8, permissions: r}
    netDevices:
    - hostInterfaceName: eth9
      name: inside
    mounts:
    - {hostPath: tmpfs, containerPath: /run/v, type: tmpfs, options: [nosuid]}
    hooks:
    - {hookName: createRuntime, path: /bin/second}
    - {hookName: prestart, path: /bin/first, timeout: 3}
    additionalGids: [0, 44]
    intelRdt:
      closID: cos
      l3CacheSchema: "L3:0=f"
      enableCMT: true
"#;
        std::fs::write(folder.path().join("v.yaml"), yaml).unwrap();
        let edits = edits_in(&[folder.path()], &["vendor.com/net=0"]).unwrap();
        let node = &edits.nodes[0];
        assert_eq!((node.major(), node.minor(), node.file_mode()), (1, 3, Some(0o640)));
        assert_eq!((node.uid(), node.gid()), (Some(7), Some(8)));
        assert_eq!(edits.rules[0].access().as_deref(), Some("r"));
        assert_eq!(edits.interfaces["eth9"].name().as_deref(), Some("inside"));
        assert_eq!(edits.mounts[0].typ().as_deref(), Some("tmpfs"));
        let hooks = edits.hooks.create_runtime().clone().unwrap();
        assert_eq!(hooks[0].path(), Path::new("/bin/first"));
        assert_eq!(edits.groups, [44]);
        let cache = edits.cache.unwrap();
        assert_eq!((cache.clos_id().as_deref(), cache.enable_monitoring()), (Some("cos"), &Some(true)));
        let unknown = yaml.replace("netDevices", "quantumDevices");
        std::fs::write(folder.path().join("v.yaml"), unknown).unwrap();
        let said = edits_in(&[folder.path()], &["vendor.com/net=0"]).unwrap_err().for_people();
        assert!(said.contains("v.yaml (") && said.contains("quantumDevices"), "{said}");
    }

    #[test]
    fn what_a_specification_has_stays_beside_the_edits() {
        let mut spec = Spec::default();
        let before = spec.mounts().as_ref().map_or(0, Vec::len);
        Edits::default().finish(&mut spec);
        assert_eq!(spec, Spec::default());
        let mount = Mount::default();
        let interfaces = HashMap::from([("eth9".to_owned(), LinuxNetDevice::default())]);
        let cache = Some(LinuxIntelRdt::default());
        let edits = Edits { mounts: vec![mount], groups: vec![44], interfaces, cache, ..Edits::default() };
        edits.finish(&mut spec);
        assert_eq!(spec.mounts().as_ref().map_or(0, Vec::len), before + 1);
        let user = spec.process().as_ref().unwrap().user().clone();
        assert!(user.additional_gids().as_ref().unwrap().contains(&44));
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.net_devices().as_ref().unwrap().contains_key("eth9") && linux.intel_rdt().is_some());
    }

    #[test]
    fn names() {
        assert!(is_name("vendor.com/class=name"));
        for other in ["/dev/a=b", "a=b", "vendor.com/class=", "vendor.com/class"] {
            assert!(!is_name(other), "{other}");
        }
    }
}
