//! Configurations of pods and containers, between the wire and the daemon's own types.

use std::collections::HashMap;

use longshore_proto::runtime::v1 as wire;
use longshore_proto::runtime::v1::security_profile::ProfileType;

use super::required;
use crate::engine::config::Protocol;
use crate::error::{Error, Result};
use crate::pods::config::{
    ContainerConfig, Device, Dns, Groups, IdMap, Image, Mount, Namespaces, PodConfig, PodName, Port,
    Propagation, Resources, Seccomp, Security, Sharing, User, UserMaps, Writing,
};

pub fn pod_name(metadata: wire::PodSandboxMetadata) -> PodName {
    let wire::PodSandboxMetadata { name, uid, namespace, attempt } = metadata;
    PodName { name, namespace, uid, attempt }
}

pub fn pod_metadata(name: &PodName) -> wire::PodSandboxMetadata {
    let PodName { name, namespace, uid, attempt } = name.clone();
    wire::PodSandboxMetadata { name, uid, namespace, attempt }
}

pub fn pod_config(config: wire::PodSandboxConfig, handler: String) -> Result<PodConfig> {
    if config.windows.is_some() {
        return Err(Error::invalid("pod sandbox", "its configuration is for Windows"));
    }
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    refuse_labels(security.selinux_options.as_ref())?;
    let dns = config.dns_config.unwrap_or_default();
    Ok(PodConfig {
        name: pod_name(required(config.metadata, "metadata of the pod sandbox")?),
        hostname: config.hostname,
        log_directory: config.log_directory,
        dns: Dns { servers: dns.servers, searches: dns.searches, options: dns.options },
        ports: config.port_mappings.into_iter().map(port).collect::<Result<_>>()?,
        labels: sorted(config.labels),
        annotations: sorted(config.annotations),
        cgroup_parent: linux.cgroup_parent,
        sysctls: sorted(linux.sysctls),
        namespaces: namespaces(security.namespace_options)?,
        privileged: security.privileged,
        overhead: linux.overhead.map(resources),
        resources: linux.resources.map(resources),
        handler,
    })
}

fn port(port: wire::PortMapping) -> Result<Port> {
    let protocol = match port.protocol() {
        wire::Protocol::Tcp => Protocol::Tcp,
        wire::Protocol::Udp => Protocol::Udp,
        wire::Protocol::Sctp => Protocol::Sctp,
    };
    let number = |number: i32| {
        let refuse = || Error::invalid("port mapping", format!("{number} is no port"));
        u16::try_from(number).map_err(|_| refuse())
    };
    Ok(Port {
        protocol,
        container_port: number(port.container_port)?,
        host_port: number(port.host_port)?,
        host_ip: port.host_ip,
    })
}

/// SELinux is not used: a label that was asked for and has no effect would be a false promise.
fn refuse_labels(options: Option<&wire::SeLinuxOption>) -> Result<()> {
    let enforced = std::path::Path::new("/sys/fs/selinux/enforce").exists();
    match options {
        Some(options) if enforced && *options != wire::SeLinuxOption::default() => {
            Err(Error::Unimplemented { what: "an SELinux label of a pod or container".into() })
        }
        _ => Ok(()),
    }
}

fn sharing(mode: wire::NamespaceMode) -> Sharing {
    match mode {
        wire::NamespaceMode::Pod => Sharing::Pod,
        wire::NamespaceMode::Container => Sharing::Container,
        wire::NamespaceMode::Node => Sharing::Node,
        wire::NamespaceMode::Target => Sharing::Target,
    }
}

fn mode(sharing: Sharing) -> i32 {
    match sharing {
        Sharing::Pod => wire::NamespaceMode::Pod,
        Sharing::Container => wire::NamespaceMode::Container,
        Sharing::Node => wire::NamespaceMode::Node,
        Sharing::Target => wire::NamespaceMode::Target,
    }
    .into()
}

/// `None`: the host's.
fn users(users: &wire::UserNamespace) -> Result<Option<UserMaps>> {
    match users.mode() {
        wire::NamespaceMode::Node if users.uids.is_empty() && users.gids.is_empty() => Ok(None),
        wire::NamespaceMode::Node => {
            Err(Error::invalid("user namespace", "mode NODE is the host's users: it has no mappings"))
        }
        wire::NamespaceMode::Pod => Ok(Some(maps(&users.uids, &users.gids))),
        mode => {
            let why = format!("mode {} is not known here: POD and NODE are", mode.as_str_name());
            Err(Error::invalid("user namespace", why))
        }
    }
}

fn maps(uids: &[wire::IdMapping], gids: &[wire::IdMapping]) -> UserMaps {
    let map =
        |map: &wire::IdMapping| IdMap { container: map.container_id, host: map.host_id, length: map.length };
    UserMaps { uids: uids.iter().map(map).collect(), gids: gids.iter().map(map).collect() }
}

fn maps_to_wire(maps: &[IdMap]) -> Vec<wire::IdMapping> {
    let map =
        |map: &IdMap| wire::IdMapping { host_id: map.host, container_id: map.container, length: map.length };
    maps.iter().map(map).collect()
}

pub fn namespaces(options: Option<wire::NamespaceOption>) -> Result<Namespaces> {
    let Some(options) = options else { return Ok(Namespaces::default()) };
    let users = options.userns_options.as_ref().map(users).transpose()?.flatten();
    Ok(Namespaces {
        network: sharing(options.network()),
        pid: sharing(options.pid()),
        ipc: sharing(options.ipc()),
        target: options.target_id,
        users,
    })
}

pub fn namespace_options(namespaces: &Namespaces) -> wire::NamespaceOption {
    let users = namespaces.users.as_ref().map(|users| wire::UserNamespace {
        mode: wire::NamespaceMode::Pod.into(),
        uids: maps_to_wire(&users.uids),
        gids: maps_to_wire(&users.gids),
    });
    wire::NamespaceOption {
        network: mode(namespaces.network),
        pid: mode(namespaces.pid),
        ipc: mode(namespaces.ipc),
        target_id: namespaces.target.clone(),
        userns_options: users,
    }
}

pub fn resources(resources: wire::LinuxContainerResources) -> Resources {
    Resources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory: resources.memory_limit_in_bytes,
        memory_swap: resources.memory_swap_limit_in_bytes,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus,
        cpuset_mems: resources.cpuset_mems,
        huge_pages: resources
            .hugepage_limits
            .into_iter()
            .map(|pages| (pages.page_size, pages.limit))
            .collect(),
        unified: sorted(resources.unified),
    }
}

pub fn resources_to_wire(resources: &Resources) -> wire::LinuxContainerResources {
    let pages = |(page_size, limit): &(String, u64)| wire::HugepageLimit {
        page_size: page_size.clone(),
        limit: *limit,
    };
    wire::LinuxContainerResources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory,
        memory_swap_limit_in_bytes: resources.memory_swap,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: resources.huge_pages.iter().map(pages).collect(),
        unified: resources.unified.clone().into_iter().collect(),
    }
}

pub fn container_config(config: wire::ContainerConfig) -> Result<ContainerConfig> {
    if config.windows.is_some() {
        return Err(Error::invalid("container", "its configuration is for Windows"));
    }
    let stop_signal = signal_name(config.stop_signal());
    let metadata = required(config.metadata, "metadata of the container")?;
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    Ok(ContainerConfig {
        name: metadata.name,
        attempt: metadata.attempt,
        image: image(required(config.image, "image of the container")?),
        command: config.command,
        args: config.args,
        working_dir: config.working_dir,
        env: config.envs.into_iter().map(variable).collect::<Result<_>>()?,
        mounts: config.mounts.into_iter().map(mount).collect::<Result<_>>()?,
        devices: config.devices.into_iter().map(device).collect(),
        cdi: config.cdi_devices.into_iter().map(|device| device.name).collect(),
        labels: sorted(config.labels),
        annotations: sorted(config.annotations),
        log_path: config.log_path,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        resources: linux.resources.map(resources).unwrap_or_default(),
        security: self::security(security)?,
        stop_signal,
    })
}

fn variable(variable: wire::KeyValue) -> Result<String> {
    let refuse = |why: &str| Error::invalid(format!("environment variable {:?}", variable.key), why);
    let value = String::from_utf8(variable.value).map_err(|_| refuse("its value is not UTF-8"))?;
    if variable.key.is_empty() || variable.key.contains(['=', '\0']) || value.contains('\0') {
        return Err(refuse("it cannot be one"));
    }
    Ok(format!("{}={value}", variable.key))
}

fn device(device: wire::Device) -> Device {
    let wire::Device { container_path, host_path, permissions } = device;
    Device { container_path, host_path, permissions }
}

pub fn image(spec: wire::ImageSpec) -> Image {
    Image {
        image: spec.image,
        annotations: sorted(spec.annotations),
        user_specified: spec.user_specified_image,
        handler: spec.runtime_handler,
    }
}

pub fn image_spec(image: &Image) -> wire::ImageSpec {
    wire::ImageSpec {
        image: image.image.clone(),
        annotations: image.annotations.clone().into_iter().collect(),
        user_specified_image: image.user_specified.clone(),
        runtime_handler: image.handler.clone(),
        image_ref: String::new(),
    }
}

fn mount(mount: wire::Mount) -> Result<Mount> {
    let path = mount.container_path.clone();
    let refuse = |why: &str| Error::invalid(format!("mount {path:?}"), why);
    let owners = match (mount.uid_mappings.as_slice(), mount.gid_mappings.as_slice()) {
        ([], []) => None,
        ([], _) | (_, []) => return Err(refuse("uid_mappings and gid_mappings must be given together")),
        ([_], [_]) => Some(maps(&mount.uid_mappings, &mount.gid_mappings)),
        _ => return Err(refuse("one mapping of users and one of groups are possible")),
    };
    if !mount.mount_options.is_empty() {
        return Err(Error::Unimplemented { what: format!("options of mount {path:?}") });
    }
    let propagation = match mount.propagation() {
        wire::MountPropagation::PropagationPrivate => Propagation::Private,
        wire::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        wire::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    let writing = match (mount.readonly, mount.recursive_read_only) {
        (false, true) => return Err(refuse("recursive_read_only needs readonly")),
        (true, true) if propagation != Propagation::Private => {
            return Err(refuse("recursive_read_only needs private propagation"));
        }
        (true, true) => Writing::RefusedBelow,
        (true, false) => Writing::Refused,
        (false, false) => Writing::Allowed,
    };
    let of_image = mount.image.filter(|image| !image.image.is_empty());
    if of_image.is_none() && !mount.image_sub_path.is_empty() {
        return Err(refuse("image_sub_path needs an image"));
    }
    Ok(Mount {
        container_path: mount.container_path,
        host_path: mount.host_path,
        image: of_image.map(image),
        image_sub_path: mount.image_sub_path,
        writing,
        propagation,
        owners,
    })
}

pub fn mount_to_wire(mount: &Mount) -> wire::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => wire::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => wire::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => wire::MountPropagation::PropagationBidirectional,
    };
    wire::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.writing != Writing::Allowed,
        recursive_read_only: mount.writing == Writing::RefusedBelow,
        propagation: propagation.into(),
        image: mount
            .image
            .as_ref()
            .map(|image| wire::ImageSpec { image_ref: image.image.clone(), ..image_spec(image) }),
        image_sub_path: mount.image_sub_path.clone(),
        uid_mappings: mount.owners.as_ref().map(|owners| maps_to_wire(&owners.uids)).unwrap_or_default(),
        gid_mappings: mount.owners.as_ref().map(|owners| maps_to_wire(&owners.gids)).unwrap_or_default(),
        ..wire::Mount::default()
    }
}

fn id(number: i64, what: &str) -> Result<u32> {
    let refuse = || Error::invalid(what.to_owned(), format!("{number} is no id"));
    u32::try_from(number).ok().filter(|id| *id <= i32::MAX.unsigned_abs()).ok_or_else(refuse)
}

fn security(security: wire::LinuxContainerSecurityContext) -> Result<Security> {
    refuse_labels(security.selinux_options.as_ref())?;
    let capabilities = security.capabilities.clone().unwrap_or_default();
    let policy = match security.supplemental_groups_policy() {
        wire::SupplementalGroupsPolicy::Merge => Groups::Merge,
        wire::SupplementalGroupsPolicy::Strict => Groups::Strict,
    };
    #[allow(deprecated)]
    let (old_seccomp, old_apparmor) =
        (security.seccomp_profile_path.as_str(), security.apparmor_profile.as_str());
    let seccomp = seccomp(security.seccomp.as_ref(), old_seccomp)?;
    let apparmor = apparmor(security.apparmor.as_ref(), old_apparmor)?;
    let groups = security.supplemental_groups.iter().map(|gid| id(*gid, "supplementary group"));
    let some = |paths: Vec<String>| (!paths.is_empty()).then_some(paths);
    Ok(Security {
        add_capabilities: capabilities.add_capabilities,
        drop_capabilities: capabilities.drop_capabilities,
        ambient_capabilities: capabilities.add_ambient_capabilities,
        privileged: security.privileged,
        user: User {
            uid: security.run_as_user.map(|user| id(user.value, "run_as_user")).transpose()?,
            name: security.run_as_username,
            gid: security.run_as_group.map(|group| id(group.value, "run_as_group")).transpose()?,
            groups: groups.collect::<Result<_>>()?,
            policy,
        },
        read_only_root: security.readonly_rootfs,
        no_new_privileges: security.no_new_privs,
        masked_paths: some(security.masked_paths),
        read_only_paths: some(security.readonly_paths),
        seccomp,
        apparmor,
        namespaces: namespaces(security.namespace_options)?,
    })
}

pub(super) fn apparmor_is_enabled() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// The name of the profile; empty: none. `old` is how it was said before there were kinds.
fn apparmor(profile: Option<&wire::SecurityProfile>, old: &str) -> Result<String> {
    let asked = match (profile.map(|profile| (profile.profile_type(), profile)), old) {
        (Some((ProfileType::Localhost, profile)), _) => Some(profile.localhost_ref.as_str()),
        (Some(_), _) | (None, "" | "unconfined" | "runtime/default") => None,
        (None, old) => Some(old),
    };
    // There is no profile of the runtime's own.
    let Some(name) = asked else { return Ok(String::new()) };
    let name = name.strip_prefix("localhost/").unwrap_or(name);
    if apparmor_is_enabled() {
        return Ok(name.to_owned());
    }
    Err(Error::invalid(format!("AppArmor profile {name:?}"), "AppArmor is not enabled on this host"))
}

/// Which system calls may be made. `old` is how it was said before there were kinds.
fn seccomp(profile: Option<&wire::SecurityProfile>, old: &str) -> Result<Seccomp> {
    let file = |path: &str| Seccomp::File(path.strip_prefix("localhost/").unwrap_or(path).to_owned());
    match (profile, old) {
        (Some(profile), _) => Ok(match profile.profile_type() {
            ProfileType::RuntimeDefault => Seccomp::Default,
            ProfileType::Unconfined => Seccomp::Unconfined,
            ProfileType::Localhost => file(&profile.localhost_ref),
        }),
        (None, "" | "unconfined") => Ok(Seccomp::Unconfined),
        (None, "runtime/default" | "docker/default") => Ok(Seccomp::Default),
        (None, old) if old.starts_with("localhost/") => Ok(file(old)),
        (None, old) => {
            let why = "unconfined, runtime/default and localhost/PATH are known";
            Err(Error::invalid(format!("seccomp_profile_path {old:?}"), why))
        }
    }
}

/// `SIGTERM`, `SIGRTMIN+1`; empty: not said.
fn signal_name(signal: wire::Signal) -> String {
    match signal {
        wire::Signal::RuntimeDefault => String::new(),
        signal => {
            let name = signal.as_str_name().trim_start_matches("SIGNAL_");
            name.replace("PLUS", "+").replace("MINUS", "-")
        }
    }
}

/// The signal of this name.
pub fn signal(name: &str) -> wire::Signal {
    let upper = name.to_ascii_uppercase();
    let bare = upper.trim_start_matches("SIG").replace('+', "PLUS").replace('-', "MINUS");
    if let Some(signal) = wire::Signal::from_str_name(&format!("SIGNAL_SIG{bare}")) {
        return signal;
    }
    // By number.
    let by_number = |number: i32| {
        let mut all = (1..=65).filter_map(|index| wire::Signal::try_from(index).ok());
        all.find(|signal| crate::engine::signals::parse(&signal_name(*signal)).ok() == Some(number))
    };
    bare.parse().ok().and_then(by_number).unwrap_or(wire::Signal::RuntimeDefault)
}

pub fn sorted(map: HashMap<String, String>) -> crate::pods::config::Map {
    map.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_both_ways() {
        for index in 1..=65 {
            let Ok(wanted) = wire::Signal::try_from(index) else { panic!("no signal {index}") };
            let name = signal_name(wanted);
            crate::engine::signals::parse(&name).unwrap();
            assert_eq!(signal(&name), wanted, "{name}");
        }
        assert_eq!(signal("9"), wire::Signal::Sigkill);
        assert_eq!(signal("term"), wire::Signal::Sigterm);
    }

    #[test]
    fn profiles_are_said_in_two_ways() {
        let of = |kind: ProfileType, path: &str| {
            let profile = wire::SecurityProfile { profile_type: kind.into(), localhost_ref: path.to_owned() };
            seccomp(Some(&profile), "localhost//old").unwrap()
        };
        assert_eq!(of(ProfileType::RuntimeDefault, ""), Seccomp::Default);
        assert_eq!(
            of(ProfileType::Localhost, "localhost/localhost/a"),
            Seccomp::File("localhost/a".to_owned())
        );
        assert_eq!(seccomp(None, "").unwrap(), Seccomp::Unconfined);
        assert_eq!(seccomp(None, "runtime/default").unwrap(), Seccomp::Default);
        assert_eq!(seccomp(None, "localhost//a").unwrap(), Seccomp::File("/a".to_owned()));
        assert!(seccomp(None, "other").is_err());
        assert_eq!(apparmor(None, "runtime/default").unwrap(), "");
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let refused = |mount: wire::Mount| super::mount(mount).is_err();
        assert!(refused(wire::Mount { recursive_read_only: true, ..Default::default() }));
        assert!(refused(wire::Mount { image_sub_path: "a".into(), ..Default::default() }));
        let shared = wire::MountPropagation::PropagationBidirectional.into();
        assert!(refused(wire::Mount {
            readonly: true,
            recursive_read_only: true,
            propagation: shared,
            ..Default::default()
        }));
        assert!(variable(wire::KeyValue { key: "a=b".into(), value: Vec::new() }).is_err());
        assert!(id(-1, "user").is_err() && id(1 << 31, "user").is_err());
    }
}
