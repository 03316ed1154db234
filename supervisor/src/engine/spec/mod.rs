//! From what the user asked for and what the image says to the OCI runtime specification of one container, with
//! docker's defaults. Nothing here touches the container's files: who the process is was resolved before.

pub mod capabilities;
pub mod devices;
pub mod env;
pub mod layers;
pub mod live;
pub mod mounts;
pub mod resources;
pub mod seccomp;
pub mod user;

use std::path::Path;
use std::sync::OnceLock;

use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, Process, ProcessBuilder,
    RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use crate::engine::config::{Access, Record};
use crate::engine::network;
use crate::error::{Error, Result};
use user::Identity;

/// What a spec is made from.
pub struct Input<'a> {
    pub id: &'a str,
    pub record: &'a Record,
    pub identity: &'a Identity,
    /// Folder of this container's `hosts`, `hostname` and `resolv.conf`.
    pub files: &'a Path,
    pub network: &'a network::Namespace,
    pub cgroup_parent: &'a str,
    pub hostname: &'a str,
}

/// The container's spec.
pub fn generate(input: &Input<'_>) -> Result<Spec> {
    let config = &input.record.config;
    let privileged = config.privileged;
    let bounding = capabilities::resolve(&config.cap_add, &config.cap_drop, privileged)?;
    let process = process(&ProcessInput {
        args: &input.record.process_args,
        env: env::with_home(input.record.process_env.clone(), &input.identity.home),
        cwd: &input.record.process_cwd,
        tty: config.tty,
        identity: input.identity,
        bounding: &bounding,
    })?;
    let mounts = mounts::mounts(&mounts::Extra {
        files: input.files,
        read_only_files: if config.read_only_rootfs { Access::ReadOnly } else { Access::ReadWrite },
        binds: &config.mounts,
        privileged,
    })?;
    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(config.read_only_rootfs)
        .build()
        .map_err(Error::oci)?;
    SpecBuilder::default()
        .version("1.2.0")
        .root(root)
        .hostname(input.hostname)
        .mounts(mounts)
        .process(process)
        .linux(linux(input, &bounding)?)
        .build()
        .map_err(Error::oci)
}

/// What a process is made from: the container's first or one of `exec`.
pub struct ProcessInput<'a> {
    pub args: &'a [String],
    pub env: Vec<String>,
    pub cwd: &'a str,
    pub tty: bool,
    pub identity: &'a Identity,
    pub bounding: &'a oci_spec::runtime::Capabilities,
}

/// The `process` of a spec.
pub fn process(input: &ProcessInput<'_>) -> Result<Process> {
    let user = UserBuilder::default()
        .uid(input.identity.uid)
        .gid(input.identity.gid)
        .additional_gids(input.identity.groups.clone())
        .build()
        .map_err(Error::oci)?;
    let mut process = ProcessBuilder::default()
        .terminal(input.tty)
        .user(user)
        .args(input.args.to_vec())
        .env(input.env.clone())
        .cwd(if input.cwd.is_empty() { "/" } else { input.cwd })
        .capabilities(capabilities::sets(input.bounding, input.identity.uid)?)
        .no_new_privileges(false)
        .build()
        .map_err(Error::oci)?;
    // The builder's defaults are those of a demonstration: a limit on open files that docker does not set.
    process.set_rlimits(None);
    if let Some(score) = oom_score() {
        process.set_oom_score_adj(Some(score));
    }
    Ok(process)
}

fn linux(input: &Input<'_>, bounding: &oci_spec::runtime::Capabilities) -> Result<Linux> {
    let privileged = input.record.config.privileged;
    let rules = if privileged { devices::privileged_rules()? } else { devices::default_rules()? };
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(input.network, privileged)?)
        .resources(resources::resources(&input.record.config.limits, rules)?)
        .cgroups_path(format!("{}/{}", input.cgroup_parent, input.id))
        .masked_paths(if privileged { Vec::new() } else { mounts::masked_paths() })
        .readonly_paths(if privileged { Vec::new() } else { mounts::readonly_paths() })
        .build()
        .map_err(Error::oci)?;
    if privileged {
        linux.set_devices(Some(devices::host_devices(Path::new("/dev"))?));
    } else {
        linux.set_seccomp(Some(seccomp::default_profile(bounding)?));
    }
    Ok(linux)
}

fn namespaces(network: &network::Namespace, privileged: bool) -> Result<Vec<LinuxNamespace>> {
    let mut kinds = vec![
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
    ];
    if !privileged {
        kinds.push(LinuxNamespaceType::Cgroup);
    }
    let mut all = kinds
        .into_iter()
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build().map_err(Error::oci))
        .collect::<Result<Vec<_>>>()?;
    let of_network = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Network);
    match network {
        network::Namespace::New => all.push(of_network.build().map_err(Error::oci)?),
        network::Namespace::At(path) => all.push(of_network.path(path).build().map_err(Error::oci)?),
        network::Namespace::Host => {}
    }
    Ok(all)
}

/// The daemon's own score if it is not zero: lowering needs a privilege that restricted hosts withhold, so a
/// container gets zero only where that is possible, and nothing is written where nothing changes.
fn oom_score() -> Option<i32> {
    static OWN: OnceLock<Option<i32>> = OnceLock::new();
    *OWN.get_or_init(|| {
        let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse().ok()?;
        (own != 0).then_some(own.max(0))
    })
}
