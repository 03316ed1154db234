//! From what the user asked for and what the image says to the OCI runtime specification of one container, with
//! docker's defaults. Nothing here touches the container's files: who the process is was resolved before.

pub mod capabilities;
pub mod cdi;
pub mod devices;
pub mod env;
pub mod kernel;
pub mod layers;
pub mod live;
pub mod mounts;
pub mod namespaces;
pub mod resources;
pub mod seccomp;
pub mod security;
pub mod ulimits;
pub mod user;

use std::path::Path;
use std::sync::OnceLock;

use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxNamespace, LinuxNamespaceType, PosixRlimit, Process, ProcessBuilder,
    RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use crate::engine::config::{Access, ContainerConfig, Device, Record, Ulimit};
use crate::engine::network;
use crate::error::{Error, Result};
use namespaces::{Ipc, Joins};
use security::Security;
use user::Identity;

/// What a spec is made from.
pub struct Input<'a> {
    pub id: &'a str,
    pub record: &'a Record,
    pub identity: &'a Identity,
    /// What the user has mounted, volumes by the paths of their folders.
    pub mounts: &'a [crate::engine::config::Mount],
    /// Folder of this container's `hosts`, `hostname` and `resolv.conf`.
    pub files: &'a Path,
    pub network: &'a network::Namespace,
    pub cgroup_parent: &'a str,
    pub hostname: &'a str,
    /// Whose namespaces are joined.
    pub joins: &'a Joins,
    /// The folder of the shared memory that this container shows to others, or that of the one that it joins.
    pub shm: Option<&'a Path>,
    /// Limits of processes that the daemon gives to all containers.
    pub default_ulimits: &'a [Ulimit],
}

/// The container's spec.
pub fn generate(input: &Input<'_>) -> Result<Spec> {
    let config = &input.record.config;
    let privileged = config.privileged;
    let security = Security::parse(config)?;
    let bounding = capabilities::resolve(&config.cap_add, &config.cap_drop, privileged)?;
    let names =
        config.devices.iter().map(|device| device.host_path.as_str()).filter(|name| cdi::is_name(name));
    let vendors = cdi::edits(&names.collect::<Vec<_>>())?;
    let process = process(&ProcessInput {
        args: &input.record.process_args,
        env: env::with_home(env::merge(&input.record.process_env, &vendors.env), &input.identity.home),
        cwd: &input.record.process_cwd,
        tty: config.tty,
        identity: input.identity,
        bounding: &bounding,
        rlimits: ulimits::rlimits(&config.ulimits, input.default_ulimits)?,
        no_new_privileges: security.no_new_privileges,
        apparmor: &security.apparmor,
        oom_score_adj: config.oom_score_adj,
    })?;
    let mounts = mounts::mounts(&mounts::Extra {
        files: input.files,
        read_only_files: if config.read_only_rootfs { Access::ReadOnly } else { Access::ReadWrite },
        binds: input.mounts,
        privileged,
        writable_cgroups: security.writable_cgroups,
        shm: shm(config, input.shm)?,
    })?;
    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(config.read_only_rootfs)
        .build()
        .map_err(Error::oci)?;
    let mut spec = SpecBuilder::default()
        .version("1.2.0")
        .root(root)
        .hostname(input.hostname)
        .mounts(mounts)
        .process(process)
        .linux(linux(input, &security, &bounding, &vendors)?)
        .build()
        .map_err(Error::oci)?;
    vendors.finish(&mut spec);
    if config.uts_mode == "host" {
        // The names are the host's.
        spec.set_hostname(None);
    } else if !config.domainname.is_empty() {
        spec.set_domainname(Some(config.domainname.clone()));
    }
    if !config.annotations.is_empty() {
        let pairs = config.annotations.iter().map(|(key, value)| (key.clone(), value.clone()));
        spec.set_annotations(Some(pairs.collect()));
    }
    Ok(spec)
}

fn shm<'a>(config: &ContainerConfig, shared: Option<&'a Path>) -> Result<mounts::Shm<'a>> {
    let missing = || Error::invalid("IPC mode", "the shared memory to be shared is not there");
    Ok(match Ipc::parse(&config.ipc_mode)? {
        Ipc::Private => mounts::Shm::Own(config.shm_size),
        Ipc::NoShm => mounts::Shm::None,
        Ipc::Host => mounts::Shm::Shared(Path::new("/dev/shm")),
        Ipc::Shareable | Ipc::Container(_) => mounts::Shm::Shared(shared.ok_or_else(missing)?),
    })
}

/// Adds the groups of `--group-add`; `open` opens the container's /etc/group.
pub fn add_groups(
    identity: &mut Identity,
    config: &ContainerConfig,
    open: impl FnMut() -> Result<Option<std::fs::File>>,
) -> Result<()> {
    for gid in user::more_groups(&config.group_add, open)? {
        if !identity.groups.contains(&gid) && identity.groups.len() < user::MAX_GROUPS {
            identity.groups.push(gid);
        }
    }
    Ok(())
}

/// What can be refused before anything is looked up.
pub fn check(config: &ContainerConfig) -> Result<()> {
    namespaces::check(config)?;
    namespaces::check_sysctls(config)?;
    ulimits::check(&config.ulimits)?;
    Security::parse(config)?;
    resources::check(&config.limits)?;
    config.device_cgroup_rules.iter().try_for_each(|rule| devices::parse_rule(rule).map(drop))?;
    if !(-1000..=1000).contains(&config.oom_score_adj) {
        return Err(Error::invalid(
            format!("Invalid value {}", config.oom_score_adj),
            "range for oom score adj is [-1000, 1000]",
        ));
    }
    if config.shm_size < 0 {
        return Err(Error::invalid("SHM size can not be less than 0", config.shm_size.to_string()));
    }
    let words = [&config.cgroup_parent, &config.domainname, &config.runtime];
    let annotations = config.annotations.iter().flat_map(|(key, value)| [key, value]);
    let sysctls = config.sysctls.iter().flat_map(|(key, value)| [key, value]);
    if words.into_iter().chain(annotations).chain(sysctls).any(|word| word.contains('\0')) {
        return Err(Error::invalid("argument", "contains NUL"));
    }
    if config.annotations.keys().any(String::is_empty) {
        return Err(Error::invalid("annotation", "it has no name"));
    }
    if Path::new(&config.cgroup_parent).components().any(|part| part.as_os_str() == "..") {
        return Err(Error::invalid(
            format!("cgroup-parent {}", config.cgroup_parent),
            "it must not contain '..'",
        ));
    }
    Ok(())
}

/// The folder of cgroups that the container's is in.
pub(super) fn cgroup_parent<'a>(config: &'a ContainerConfig, daemons: &'a str) -> &'a str {
    match config.cgroup_parent.trim_end_matches('/') {
        "" if config.cgroup_parent.is_empty() => daemons,
        own => own,
    }
}

/// What a process is made from: the container's first or one of `exec`.
pub struct ProcessInput<'a> {
    pub args: &'a [String],
    pub env: Vec<String>,
    pub cwd: &'a str,
    pub tty: bool,
    pub identity: &'a Identity,
    pub bounding: &'a oci_spec::runtime::Capabilities,
    pub rlimits: Option<Vec<PosixRlimit>>,
    pub no_new_privileges: bool,
    /// Empty: none.
    pub apparmor: &'a str,
    /// 0: the daemon's, if that is not below.
    pub oom_score_adj: i32,
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
        .no_new_privileges(input.no_new_privileges)
        .build()
        .map_err(Error::oci)?;
    // The builder's defaults are those of a demonstration: a limit on open files that docker does not set.
    process.set_rlimits(input.rlimits.clone());
    if !input.apparmor.is_empty() {
        process.set_apparmor_profile(Some(input.apparmor.to_owned()));
    }
    match (input.oom_score_adj, oom_score()) {
        (0, None) => {}
        (0, Some(score)) | (score, _) => {
            process.set_oom_score_adj(Some(score));
        }
    }
    Ok(process)
}

fn linux(
    input: &Input<'_>,
    security: &Security,
    bounding: &oci_spec::runtime::Capabilities,
    vendors: &cdi::Edits,
) -> Result<Linux> {
    let config = &input.record.config;
    let privileged = config.privileged;
    let mut rules = if privileged { devices::privileged_rules()? } else { devices::default_rules()? };
    let mut nodes = if privileged { devices::host_devices(Path::new("/dev"))? } else { Vec::new() };
    let named = |device: &&Device| !cdi::is_name(&device.host_path);
    let asked = config.devices.iter().filter(named).map(devices::of_host);
    for (own, own_rules) in
        asked.chain([Ok((vendors.nodes.clone(), vendors.rules.clone()))]).collect::<Result<Vec<_>>>()?
    {
        nodes.retain(|node| !own.iter().any(|own| own.path() == node.path()));
        nodes.extend(own);
        rules.extend(own_rules);
    }
    for rule in &config.device_cgroup_rules {
        rules.push(devices::parse_rule(rule)?);
    }
    let bare = privileged || security.bare_system_paths;
    let network = network(input.network)?;
    let parent = cgroup_parent(config, input.cgroup_parent);
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces::namespaces(config, input.joins, network)?)
        .resources(resources::resources(&config.limits, Some(rules))?)
        .cgroups_path(format!("{parent}/{}", input.id))
        .masked_paths(if bare { Vec::new() } else { mounts::masked_paths() })
        .readonly_paths(if bare { Vec::new() } else { mounts::readonly_paths() })
        .build()
        .map_err(Error::oci)?;
    if !nodes.is_empty() {
        linux.set_devices(Some(nodes));
    }
    let sysctls = namespaces::sysctls(config);
    if !sysctls.is_empty() {
        linux.set_sysctl(Some(sysctls));
    }
    linux.set_seccomp(security.filter(bounding)?);
    Ok(linux)
}

/// The network's namespace, unless it is the host's.
fn network(namespace: &network::Namespace) -> Result<Option<LinuxNamespace>> {
    match namespace {
        network::Namespace::New => namespaces::own(LinuxNamespaceType::Network).map(Some),
        network::Namespace::At(path) => namespaces::at(LinuxNamespaceType::Network, path).map(Some),
        network::Namespace::Host => Ok(None),
    }
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
