//! From what a container is asked to be, and what its image says, to the OCI runtime specification. What both kinds of
//! containers have, the engine's and those of pods, is the engine's to make.

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxBuilder, LinuxDeviceCgroup, LinuxHugepageLimit,
    LinuxHugepageLimitBuilder, LinuxNamespace, LinuxNamespaceType, LinuxResources, LinuxSeccomp, Process,
    RootBuilder, Spec, SpecBuilder,
};
use rustix::fs::{Mode, OFlags};

use super::config::{
    ContainerConfig, Device, Groups, Mount, PodConfig, Propagation, Resources, Seccomp, Sharing, User,
    Writing,
};
use super::namespaces::Files;
use super::record::Identity;
use super::users;
use crate::engine::config::{self as daily, Access, BindOptions, Limits, MountKind};
use crate::engine::images::LocalImage;
use crate::engine::spec::layers::Layers;
use crate::engine::spec::security::{Profile, Security};
use crate::engine::spec::{self, capabilities, cdi, devices, env, kernel, mounts, namespaces, user};
use crate::error::{Error, Result};

/// Largest file of a seccomp profile.
const MAX_PROFILE: u64 = 4 << 20;

/// What a specification is made from.
pub struct Input<'a> {
    pub config: &'a ContainerConfig,
    pub pod: &'a PodConfig,
    pub image: &'a LocalImage,
    pub layers: &'a Layers,
    /// The pod's folder.
    pub folder: &'a Path,
    /// Of the pod's own file system in memory.
    pub shm: &'a Path,
    pub cgroup: &'a str,
    /// Processes whose pid namespace is joined.
    pub pid_of: Option<u32>,
    /// Where mounts come from, by their numbers: paths of the host, and images that are mounted there.
    pub sources: &'a HashMap<usize, String>,
}

/// The specification, and as whom the container runs.
pub fn generate(input: &Input<'_>) -> Result<(Spec, Identity)> {
    let security = &input.config.security;
    let privileged = security.privileged;
    let bounding =
        capabilities::resolve(&security.add_capabilities, &security.drop_capabilities, privileged)?;
    let vendors = cdi::edits(&input.config.cdi.iter().map(String::as_str).collect::<Vec<_>>())?;
    let identity = identity(&security.user, input.image, input.layers)?;
    let process = process(input, &identity, &bounding, &vendors.env)?;
    let numbered = input.config.mounts.iter().enumerate();
    let binds = numbered
        .map(|(number, mount)| bind(mount, input.sources.get(&number)))
        .collect::<Result<Vec<_>>>()?;
    let shm = match security.namespaces.ipc {
        Sharing::Node => mounts::Shm::Shared(Path::new("/dev/shm")),
        Sharing::Container => mounts::Shm::Own(0),
        Sharing::Pod | Sharing::Target => mounts::Shm::Shared(input.shm),
    };
    let mounts = mounts::mounts(&mounts::Extra {
        files: &input.folder.join("etc"),
        read_only_files: if security.read_only_root { Access::ReadOnly } else { Access::ReadWrite },
        binds: &binds,
        privileged,
        writable_cgroups: privileged,
        shm,
    })?;
    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(security.read_only_root)
        .build()
        .map_err(Error::oci)?;
    let mut spec = SpecBuilder::default()
        .version("1.2.0")
        .root(root)
        .mounts(own_mounts(mounts, input)?)
        .process(process)
        .linux(linux(input, &bounding, &vendors)?)
        .build()
        .map_err(Error::oci)?;
    // The pod's, or the host's.
    spec.set_hostname(None);
    vendors.finish(&mut spec);
    let annotations = input.config.annotations.iter().filter(|(key, _)| !is_the_hosts(key));
    let annotations: HashMap<String, String> =
        annotations.map(|(key, value)| (key.clone(), value.clone())).collect();
    if !annotations.is_empty() {
        spec.set_annotations(Some(annotations));
    }
    // Vendors of devices may have added some.
    let groups = spec.process().as_ref().and_then(|process| process.user().additional_gids().clone());
    let groups = groups.unwrap_or(identity.groups);
    let user = Identity { uid: identity.uid, gid: identity.gid, groups };
    if let Some(users) = &input.pod.namespaces.users {
        users.check_identity(&user)?;
    }
    Ok((spec, user))
}

/// Mounts whose owners appear mapped, and what a user namespace cannot mount by itself.
fn own_mounts(
    mut mounts: Vec<oci_spec::runtime::Mount>,
    input: &Input<'_>,
) -> Result<Vec<oci_spec::runtime::Mount>> {
    let mapped = input.config.mounts.iter().filter(|mount| mount.image.is_none());
    for (mount, owners) in mapped.filter_map(|mount| Some((mount, mount.owners.as_ref()?))) {
        let target = Path::new("/").join(&mount.container_path);
        for made in mounts.iter_mut().filter(|made| made.destination().as_path() == target) {
            made.set_uid_mappings(Some(users::to_spec(&owners.uids)?));
            made.set_gid_mappings(Some(users::to_spec(&owners.gids)?));
        }
    }
    let namespaces = &input.pod.namespaces;
    if namespaces.users.is_some() && namespaces.network == Sharing::Node {
        // Only who has the network may mount its sysfs.
        for sys in mounts.iter_mut().filter(|mount| mount.typ().as_deref() == Some("sysfs")) {
            sys.set_typ(Some("bind".to_owned()));
            sys.set_source(Some("/sys".into()));
            let options = ["rbind", "rprivate", "rro", "nosuid", "noexec", "nodev"];
            sys.set_options(Some(options.map(str::to_owned).to_vec()));
        }
    }
    Ok(mounts)
}

/// Annotations by which a runtime is told what to do with the host: whoever may make a pod may not say that (CVE-2024-3154).
fn is_the_hosts(key: &str) -> bool {
    ["org.systemd.property.", "run.oci.", "org.criu.", "io.containerd.", "containerd.io/"]
        .iter()
        .any(|prefix| key.starts_with(prefix))
}

fn process(
    input: &Input<'_>,
    identity: &user::Identity,
    bounding: &Capabilities,
    more_env: &[String],
) -> Result<Process> {
    let (config, image) = (input.config, &input.image.config);
    let (entrypoint, cmd) = match (config.command.is_empty(), config.args.is_empty()) {
        // A command of its own leaves nothing of the image's.
        (false, _) => (&config.command, &config.args),
        (true, false) => (&image.entrypoint, &config.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let args = [entrypoint.as_slice(), cmd.as_slice()].concat();
    if args.is_empty() {
        return Err(Error::invalid(
            "no command specified",
            "neither the image nor the container names a program",
        ));
    }
    let mut base = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    if config.tty {
        base.push("TERM=xterm".to_owned());
    }
    base.push(format!("HOSTNAME={}", super::namespaces::hostname(input.pod)));
    let own = env::merge(&env::merge(&env::merge(&base, &image.env), &config.env), more_env);
    let cwd = if config.working_dir.is_empty() { &image.working_dir } else { &config.working_dir };
    let mut process = spec::process(&spec::ProcessInput {
        args: &args,
        env: env::with_home(own, &identity.home),
        cwd,
        tty: config.tty,
        identity,
        bounding,
        rlimits: None,
        no_new_privileges: config.security.no_new_privileges,
        apparmor: &config.security.apparmor,
        oom_score_adj: oom_score(&config.resources),
    })?;
    let ambient = &config.security.ambient_capabilities;
    if !ambient.is_empty()
        && let Some(mut sets) = process.capabilities().clone()
    {
        let more = capabilities::resolve(ambient, &["ALL".to_owned()], false)?;
        let with = |set: &Option<Capabilities>| {
            let mut all = set.clone().unwrap_or_default();
            all.extend(more.iter().copied());
            Some(all)
        };
        let old = sets.clone();
        sets.set_bounding(with(old.bounding()));
        sets.set_effective(with(old.effective()));
        sets.set_permitted(with(old.permitted()));
        sets.set_inheritable(with(old.inheritable()));
        sets.set_ambient(with(old.ambient()));
        process.set_capabilities(Some(sets));
    }
    Ok(process)
}

/// What was asked for, but never below the daemon's own where it may not go there.
pub(super) fn oom_score(resources: &Resources) -> i32 {
    let asked = i32::try_from(resources.oom_score_adj).unwrap_or(0).clamp(-1000, 1000);
    if asked >= 0 || capabilities::available().contains(&Capability::SysResource) {
        return asked;
    }
    0
}

fn identity(user: &User, image: &LocalImage, layers: &Layers) -> Result<user::Identity> {
    let named = !user.name.is_empty() || user.uid.is_some();
    if user.gid.is_some() && !named {
        return Err(Error::invalid("run_as_group", "it is given without a user"));
    }
    let name = match (&user.uid, user.name.as_str()) {
        (Some(uid), _) => uid.to_string(),
        (None, "") => image.config.user.clone(),
        (None, name) => name.to_owned(),
    };
    let (passwd, group) = (layers.open_file("/etc/passwd")?, layers.open_file("/etc/group")?);
    let mut identity = user::resolve_in(&name, user.gid, passwd, group)?;
    let own = identity.gid;
    let of_image = match user.policy {
        Groups::Merge => std::mem::take(&mut identity.groups),
        Groups::Strict => Vec::new(),
    };
    let mut groups = vec![own];
    for group in of_image.iter().chain(&user.groups) {
        if !groups.contains(group) {
            groups.push(*group);
        }
    }
    identity.groups = groups;
    Ok(identity)
}

/// A mount in the engine's words.
fn bind(mount: &Mount, source: Option<&String>) -> Result<daily::Mount> {
    if !mount.container_path.starts_with('/') && mount.container_path.is_empty() {
        return Err(Error::invalid("mount", "it has no path in the container"));
    }
    let target = match mount.container_path.strip_prefix('/') {
        Some(_) => mount.container_path.clone(),
        None => format!("/{}", mount.container_path),
    };
    let source = source.cloned().ok_or_else(|| match &mount.image {
        Some(image) => Error::not_found("image volume", image.image.clone()),
        None => Error::not_found("path of the host", mount.host_path.clone()),
    })?;
    let access = match mount.writing {
        Writing::Allowed if mount.image.is_none() => Access::ReadWrite,
        _ => Access::ReadOnly,
    };
    super::propagation::check(mount.propagation, &source)?;
    let propagation = match mount.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let below = if mount.writing == Writing::RefusedBelow { "readonly" } else { "writable" };
    Ok(daily::Mount {
        kind: MountKind::Bind,
        source,
        target,
        access,
        bind: BindOptions {
            propagation: propagation.to_owned(),
            recursive_read_only: below.to_owned(),
            ..BindOptions::default()
        },
        ..daily::Mount::default()
    })
}

fn linux(input: &Input<'_>, bounding: &Capabilities, vendors: &cdi::Edits) -> Result<Linux> {
    let security = &input.config.security;
    let privileged = security.privileged;
    let mut rules = if privileged { devices::privileged_rules()? } else { devices::default_rules()? };
    let mut nodes = if privileged { devices::host_devices(Path::new("/dev"))? } else { Vec::new() };
    let asked = input.config.devices.iter().map(|device| devices::of_host(&device.into()));
    for (own, own_rules) in
        asked.chain([Ok((vendors.nodes.clone(), vendors.rules.clone()))]).collect::<Result<Vec<_>>>()?
    {
        nodes.retain(|node| !own.iter().any(|own| own.path() == node.path()));
        nodes.extend(own);
        rules.extend(own_rules);
    }
    let users = input.pod.namespaces.users.as_ref();
    // `procMount: Unmasked` is said by nothing, and for pods with users of their own alone.
    let usual = |usual: fn() -> Vec<String>| if users.is_some() { Vec::new() } else { usual() };
    let masked = security.masked_paths.clone().unwrap_or_else(|| usual(mounts::masked_paths));
    let read_only = security.read_only_paths.clone().unwrap_or_else(|| usual(mounts::readonly_paths));
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces_of(input)?)
        .resources(resources(&input.config.resources, Some(rules))?)
        .cgroups_path(input.cgroup)
        .masked_paths(if privileged { Vec::new() } else { masked })
        .readonly_paths(if privileged { Vec::new() } else { read_only })
        .build()
        .map_err(Error::oci)?;
    if let Some(users) = users {
        linux.set_uid_mappings(Some(users::to_spec(&users.uids)?));
        linux.set_gid_mappings(Some(users::to_spec(&users.gids)?));
    }
    if !nodes.is_empty() {
        linux.set_devices(Some(nodes));
    }
    linux.set_seccomp(seccomp(&security.seccomp, privileged, bounding)?);
    if input.config.mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional) {
        linux.set_rootfs_propagation(Some("rshared".to_owned()));
    } else if input.config.mounts.iter().any(|mount| mount.propagation == Propagation::HostToContainer) {
        linux.set_rootfs_propagation(Some("rslave".to_owned()));
    }
    Ok(linux)
}

impl From<&Device> for daily::Device {
    fn from(device: &Device) -> daily::Device {
        daily::Device {
            host_path: device.host_path.clone(),
            container_path: device.container_path.clone(),
            permissions: device.permissions.clone(),
        }
    }
}

fn namespaces_of(input: &Input<'_>) -> Result<Vec<LinuxNamespace>> {
    let (pod, own) = (&input.pod.namespaces, &input.config.security.namespaces);
    let files = Files::of(input.folder);
    let mut all = vec![namespaces::own(LinuxNamespaceType::Mount)?];
    if pod.users.is_some() {
        all.push(namespaces::at(LinuxNamespaceType::User, files.user())?);
    }
    if pod.network != Sharing::Node {
        all.push(namespaces::at(LinuxNamespaceType::Network, files.network())?);
        all.push(namespaces::at(LinuxNamespaceType::Uts, files.uts())?);
    }
    match own.ipc {
        Sharing::Node => {}
        Sharing::Container => all.push(namespaces::own(LinuxNamespaceType::Ipc)?),
        Sharing::Pod | Sharing::Target if pod.ipc == Sharing::Node => {}
        Sharing::Pod | Sharing::Target => all.push(namespaces::at(LinuxNamespaceType::Ipc, files.ipc())?),
    }
    match (own.pid, input.pid_of) {
        (Sharing::Node, _) => {}
        (Sharing::Container, _) => all.push(namespaces::own(LinuxNamespaceType::Pid)?),
        (Sharing::Pod | Sharing::Target, Some(pid)) => {
            all.push(namespaces::at(LinuxNamespaceType::Pid, format!("/proc/{pid}/ns/pid"))?);
        }
        (Sharing::Pod, None) if pod.pid == Sharing::Node => {}
        (Sharing::Pod | Sharing::Target, None) => {
            return Err(Error::precondition("pid namespace", "the process that has it does not run"));
        }
    }
    if !input.config.security.privileged {
        all.push(namespaces::own(LinuxNamespaceType::Cgroup)?);
    }
    Ok(all)
}

/// Limits as settings of cgroups. Without `devices`: what a running container's are changed to.
pub fn resources(asked: &Resources, devices: Option<Vec<LinuxDeviceCgroup>>) -> Result<LinuxResources> {
    let some = |value: i64| (value != 0).then_some(value);
    let mut limits = Limits {
        memory: some(asked.memory),
        // Zero would be twice the memory.
        memory_swap: if asked.memory_swap == 0 && asked.memory > 0 { -1 } else { asked.memory_swap },
        cpu_period: asked.cpu_period,
        cpu_quota: asked.cpu_quota,
        cpu_shares: asked.cpu_shares,
        cpuset_cpus: asked.cpuset_cpus.clone(),
        cpuset_mems: asked.cpuset_mems.clone(),
        ..Limits::default()
    };
    for warning in kernel::kernel().fit(&mut limits) {
        tracing::debug!("limits of a pod's container: {warning}");
    }
    let mut made = spec::resources::resources(&limits, devices)?;
    if !asked.huge_pages.is_empty() {
        let pages = asked.huge_pages.iter().map(|(size, limit)| huge_pages(size, *limit));
        made.set_hugepage_limits(Some(pages.collect::<Result<Vec<_>>>()?));
    }
    if !asked.unified.is_empty() {
        made.set_unified(Some(asked.unified.clone().into_iter().collect()));
    }
    Ok(made)
}

fn huge_pages(size: &str, limit: u64) -> Result<LinuxHugepageLimit> {
    // It is part of a file's name.
    let digits = size.trim_end_matches("KB").trim_end_matches("MB").trim_end_matches("GB");
    if digits.is_empty() || digits.len() == size.len() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Error::invalid(
            format!("page_size {size:?}"),
            "it is no size of pages, such as 2MB or 1GB",
        ));
    }
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    LinuxHugepageLimitBuilder::default().page_size(size).limit(limit).build().map_err(Error::oci)
}

fn seccomp(asked: &Seccomp, privileged: bool, bounding: &Capabilities) -> Result<Option<LinuxSeccomp>> {
    let seccomp = match asked {
        _ if privileged => Profile::Unconfined,
        Seccomp::Unconfined => Profile::Unconfined,
        Seccomp::Default => Profile::Default,
        Seccomp::File(path) => Profile::Own(profile(path)?),
    };
    Security { seccomp, ..Security::default() }.filter(bounding)
}

/// The text of a profile: a regular file of the host's, of a bounded length. Anything else would hold up its pod, or fill the memory.
fn profile(path: &str) -> Result<String> {
    use std::io::Read;
    let refuse = |why: String| Error::invalid(format!("seccomp profile {path:?}"), why);
    let failed = |error: std::io::Error| refuse(format!("it cannot be read: {error}"));
    if !path.starts_with('/') {
        return Err(refuse("it is no absolute path of the host".to_owned()));
    }
    let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let found = found.map_err(|errno| failed(errno.into()))?;
    let file = crate::trees::reopen_regular(&found).map_err(|errno| failed(errno.into()))?;
    let file = std::fs::File::from(file.ok_or_else(|| refuse("it is no regular file".to_owned()))?);
    let mut text = String::new();
    file.take(MAX_PROFILE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_PROFILE {
        return Err(Error::ResourceExhausted {
            what: format!("seccomp profile {path:?}"),
            limit: "bytes of a seccomp profile",
            max: MAX_PROFILE,
        });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seccomp_profile_is_a_file_of_bounded_length_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("good"), "{}").unwrap();
        assert_eq!(profile(&path("good")).unwrap(), "{}");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        for wrong in [path("fifo"), path(""), path("none"), "/dev/zero".to_owned(), "good".to_owned()] {
            assert!(profile(&wrong).is_err(), "{wrong}");
        }
        let long = std::fs::File::create(path("long")).unwrap();
        long.set_len(MAX_PROFILE + 1).unwrap();
        assert!(matches!(profile(&path("long")), Err(Error::ResourceExhausted { .. })));
    }

    #[test]
    fn a_size_of_pages_is_no_path() {
        assert!(huge_pages("2MB", 1).is_ok() && huge_pages("64KB", 1).is_ok());
        for bad in ["", "MB", "2", "../2MB", "2MB/..", "2 MB", "2MBKB x"] {
            assert!(huge_pages(bad, 1).is_err(), "{bad}");
        }
    }
}
