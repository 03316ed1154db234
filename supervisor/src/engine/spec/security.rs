//! `--security-opt`: what it says, and the seccomp profile that comes of it. A profile is in Docker's format, which is
//! the runtime specification's with rules that hang on capabilities, architectures and kernel versions.

use std::collections::BTreeSet;

use oci_spec::runtime::{Arch, Capabilities, LinuxSeccomp};
use serde::Deserialize;

use super::seccomp;
use crate::engine::config::ContainerConfig;
use crate::error::{Error, Result};

/// Most rules of one profile.
const MAX_RULES: usize = 10_000;

/// What system calls a container may make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    #[default]
    Default,
    Unconfined,
    /// Docker's JSON.
    Own(String),
}

/// All options of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    pub no_new_privileges: bool,
    pub seccomp: Profile,
    /// Name of an AppArmor profile; empty: none.
    pub apparmor: String,
    /// Nothing of /proc and /sys is hidden or read-only.
    pub bare_system_paths: bool,
    pub writable_cgroups: bool,
    /// What has no effect on this host.
    pub warnings: Vec<String>,
}

impl Security {
    /// Reads the options; the later of two that contradict each other counts.
    pub fn parse(config: &ContainerConfig) -> Result<Security> {
        let mut security = Security::default();
        for option in &config.security_opt {
            security.take(option)?;
        }
        // A privileged container's calls are not filtered unless a profile was named.
        if config.privileged && security.seccomp == Profile::Default {
            security.seccomp = Profile::Unconfined;
        }
        Ok(security)
    }

    fn take(&mut self, option: &str) -> Result<()> {
        let invalid = |why: &str| Error::invalid(format!("invalid --security-opt 2: {option:?}"), why);
        let (key, value) = match option.split_once('=').or_else(|| option.split_once(':')) {
            Some(pair) => pair,
            None => (option, ""),
        };
        let flag = || match value {
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(invalid("it is true or false")),
        };
        match (key, value) {
            ("no-new-privileges", _) => self.no_new_privileges = flag()?,
            ("writable-cgroups", _) => self.writable_cgroups = flag()?,
            ("seccomp", "unconfined") => self.seccomp = Profile::Unconfined,
            ("seccomp", "builtin" | "default") => self.seccomp = Profile::Default,
            ("seccomp", json) => {
                parse(json)?;
                self.seccomp = Profile::Own(json.to_owned());
            }
            ("systempaths", "unconfined") => self.bare_system_paths = true,
            ("apparmor", "unconfined" | "") => self.apparmor.clear(),
            ("apparmor", name) if apparmor_is_enabled() => name.clone_into(&mut self.apparmor),
            ("apparmor", _) => self.idle(option, "AppArmor"),
            ("label", "disable") | ("disable", _) => {}
            ("label", _) if !selinux_is_enabled() => self.idle(option, "SELinux"),
            ("label", _) => {
                return Err(Error::precondition(
                    format!("--security-opt {option}"),
                    "SELinux labels of single containers are not supported: label=disable is",
                ));
            }
            _ => {
                return Err(invalid(
                    "no-new-privileges, seccomp, apparmor, label, systempaths and writable-cgroups are known",
                ));
            }
        }
        Ok(())
    }

    fn idle(&mut self, option: &str, what: &str) {
        self.warnings
            .push(format!("{what} is not enabled on this host: --security-opt {option} has no effect."));
    }

    /// The filter for a process whose bounding set is `capabilities`; `None`: nothing is filtered.
    pub fn filter(&self, capabilities: &Capabilities) -> Result<Option<LinuxSeccomp>> {
        match &self.seccomp {
            Profile::Unconfined => Ok(None),
            Profile::Default => seccomp::default_profile(capabilities).map(Some),
            Profile::Own(json) => parse(json)?.filter(capabilities).map(Some),
        }
    }
}

fn apparmor_is_enabled() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

fn selinux_is_enabled() -> bool {
    std::path::Path::new("/sys/fs/selinux/enforce").exists()
}

/// A profile as Docker writes it. What both formats have is kept as it is and read by the runtime's types.
#[derive(Debug, Deserialize)]
struct Written {
    #[serde(default, rename = "archMap")]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct ArchMap {
    architecture: Arch,
    #[serde(default, rename = "subArchitectures")]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    /// The older format names one call.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
    /// For people.
    #[serde(default)]
    #[expect(dead_code, reason = "only kept out of what the runtime reads")]
    comment: Option<String>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

/// When a rule counts.
#[derive(Debug, Default, Deserialize)]
struct Filter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default, rename = "minKernel")]
    min_kernel: Option<String>,
}

fn parse(json: &str) -> Result<Written> {
    let decoding = |why: String| Error::invalid("Decoding seccomp profile failed", why);
    let written: Written = serde_json::from_str(json).map_err(|error| decoding(error.to_string()))?;
    if !written.rest.contains_key("defaultAction") {
        return Err(decoding("it has no defaultAction".into()));
    }
    if written.arch_map.as_ref().is_some_and(|map| !map.is_empty())
        && written
            .rest
            .get("architectures")
            .is_some_and(|value| value.as_array().is_some_and(|a| !a.is_empty()))
    {
        return Err(Error::invalid(
            "'architectures' and 'archMap' were specified in the seccomp profile",
            "use either 'architectures' or 'archMap'",
        ));
    }
    let rules = written.syscalls.as_deref().unwrap_or_default();
    if rules.len() > MAX_RULES {
        return Err(Error::ResourceExhausted {
            what: "seccomp profile".into(),
            limit: "rules of one profile",
            max: MAX_RULES as u64,
        });
    }
    for rule in rules {
        if rule.name.is_some() && rule.names.is_some() {
            return Err(Error::invalid(
                "'name' and 'names' were specified in the seccomp profile",
                "use either 'name' or 'names'",
            ));
        }
    }
    Ok(written)
}

impl Written {
    fn filter(self, capabilities: &Capabilities) -> Result<LinuxSeccomp> {
        let mut profile = self.rest;
        let bounding: BTreeSet<String> =
            capabilities.iter().map(|cap| format!("CAP_{}", shout(cap))).collect();
        if let Some(map) = self.arch_map {
            let native = native();
            for entry in map.into_iter().filter(|entry| Some(entry.architecture) == native) {
                let all = [vec![entry.architecture], entry.sub_architectures.unwrap_or_default()].concat();
                let value = serde_json::to_value(all).map_err(decode)?;
                profile.insert("architectures".into(), value);
            }
        }
        let mut rules = Vec::new();
        for rule in self.syscalls.unwrap_or_default() {
            let counts = rule.includes.as_ref().is_none_or(|filter| filter.includes(&bounding))
                && !rule.excludes.as_ref().is_some_and(|filter| filter.excludes(&bounding));
            if !counts {
                continue;
            }
            let mut written = rule.rest;
            let names = rule.names.or(rule.name.map(|name| vec![name])).unwrap_or_default();
            written.insert("names".into(), names.into());
            // Go's encoder writes what is not there as null.
            written.retain(|_, value| !value.is_null());
            rules.push(serde_json::Value::Object(written));
        }
        profile.insert("syscalls".into(), rules.into());
        profile.retain(|_, value| !value.is_null());
        serde_json::from_value(profile.into()).map_err(decode)
    }
}

fn decode(error: serde_json::Error) -> Error {
    Error::invalid("Decoding seccomp profile failed", error.to_string())
}

/// `SysAdmin` as `SYS_ADMIN`.
fn shout(capability: &oci_spec::runtime::Capability) -> String {
    capability.to_string().trim_start_matches("CAP_").to_uppercase()
}

fn native() -> Option<Arch> {
    Some(match std::env::consts::ARCH {
        "x86_64" => Arch::ScmpArchX86_64,
        "aarch64" => Arch::ScmpArchAarch64,
        "s390x" => Arch::ScmpArchS390x,
        "riscv64" => Arch::ScmpArchRiscv64,
        _ => return None,
    })
}

/// Go's name for the architecture, which profiles use.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Filter {
    /// Every condition holds.
    fn includes(&self, capabilities: &BTreeSet<String>) -> bool {
        let arches = self.arches.as_deref().unwrap_or_default();
        let caps = self.caps.as_deref().unwrap_or_default();
        (arches.is_empty() || arches.iter().any(|arch| arch == go_arch()))
            && caps.iter().all(|cap| capabilities.contains(cap))
            && self.min_kernel.as_deref().is_none_or(kernel_is_at_least)
    }

    /// Some condition holds.
    fn excludes(&self, capabilities: &BTreeSet<String>) -> bool {
        self.arches.iter().flatten().any(|arch| arch == go_arch())
            || self.caps.iter().flatten().any(|cap| capabilities.contains(cap))
            || self.min_kernel.as_deref().is_some_and(kernel_is_at_least)
    }
}

/// `4.8` of the kernel that runs.
fn kernel_is_at_least(wanted: &str) -> bool {
    let release = rustix::system::uname();
    let number = |text: &str| {
        let mut parts = text.split('.').map(|part| {
            part.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().unwrap_or(0)
        });
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    number(&release.release().to_string_lossy()) >= number(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn security(options: &[&str], privileged: bool) -> Result<Security> {
        let security_opt = options.iter().map(|&option| option.to_owned()).collect();
        Security::parse(&ContainerConfig { security_opt, privileged, ..Default::default() })
    }

    #[test]
    fn options() {
        assert!(security(&["no-new-privileges"], false).unwrap().no_new_privileges);
        assert!(!security(&["no-new-privileges=false"], false).unwrap().no_new_privileges);
        assert!(security(&["systempaths=unconfined"], false).unwrap().bare_system_paths);
        assert_eq!(security(&["seccomp=unconfined"], false).unwrap().seccomp, Profile::Unconfined);
        assert_eq!(security(&[], true).unwrap().seccomp, Profile::Unconfined);
        assert_eq!(security(&[], false).unwrap().seccomp, Profile::Default);
        for wrong in ["foo=bar", "no-new-privileges=x", "systempaths=foo", "x"] {
            let said = security(&[wrong], false).unwrap_err().for_people();
            assert!(said.starts_with(&format!("invalid --security-opt 2: {wrong:?}")), "{said}");
        }
    }

    #[test]
    fn docker_s_profiles_become_the_runtime_s() {
        let json = r#"{
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}, "excludes": {}},
                {"name": "mount", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]},
                 "args": [{"index": 0, "value": 5, "op": "SCMP_CMP_MASKED_EQ"}]},
                {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"names": ["never"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}}
            ]}"#;
        let security = security(&[&format!("seccomp={json}")], false).unwrap();
        let names = |capabilities: &Capabilities| -> Vec<String> {
            let made = security.filter(capabilities).unwrap().unwrap();
            made.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
        };
        assert_eq!(names(&Capabilities::new()), ["read", "write", "clone", "ptrace"]);
        let admin = [oci_spec::runtime::Capability::SysAdmin].into();
        assert_eq!(names(&admin), ["read", "write", "mount", "ptrace"]);
        if cfg!(target_arch = "x86_64") {
            let made = security.filter(&Capabilities::new()).unwrap().unwrap();
            assert_eq!(made.architectures().as_ref().unwrap().len(), 2);
        }
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        for wrong in
            ["{", "{}", r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"]}]}"#]
        {
            assert!(security(&[&format!("seccomp={wrong}")], false).is_err(), "{wrong}");
        }
    }
}
