//! What a container is made from, between the wire's message and the engine's type.

use longshore_proto::longshore::engine::v1 as wire;

use crate::engine::config::{
    Access, BindOptions, ContainerConfig, Device, DeviceValue, Endpoint, HealthCheck, Limits, LogConfig,
    Mount, MountKind, NetworkMode, PortBinding, Protocol, RestartCondition, RestartPolicy, TmpfsOptions,
    Ulimit, VolumeOptions,
};
use crate::error::{Error, Result};

pub fn from_wire(config: wire::ContainerConfig) -> Result<ContainerConfig> {
    let entrypoint = (config.entrypoint_set || !config.entrypoint.is_empty()).then_some(config.entrypoint);
    Ok(ContainerConfig {
        image: config.image,
        args: config.args,
        entrypoint,
        env: config.env,
        working_dir: config.working_dir,
        user: config.user,
        hostname: config.hostname,
        tty: config.tty,
        open_stdin: config.open_stdin,
        labels: config.labels.into_iter().collect(),
        mounts: config.mounts.into_iter().map(mount).collect::<Result<_>>()?,
        network: NetworkMode::from(config.network_mode),
        read_only_rootfs: config.read_only_rootfs,
        cap_add: config.cap_add,
        cap_drop: config.cap_drop,
        privileged: config.privileged,
        limits: limits(config.resources.unwrap_or_default())?,
        auto_remove: config.auto_remove,
        stop_signal: config.stop_signal,
        stop_timeout: config.stop_timeout,
        log: config.log.map(log).unwrap_or_default(),
        platform: config.platform,
        made_by: config.made_by,
        domainname: config.domainname,
        endpoints: config.endpoints.into_iter().map(endpoint).collect(),
        publish: config.publish.into_iter().map(port).collect::<Result<_>>()?,
        publish_all: config.publish_all,
        expose: config.expose,
        dns: config.dns,
        dns_search: config.dns_search,
        dns_options: config.dns_options,
        extra_hosts: config.extra_hosts,
        restart: config.restart.map(restart).transpose()?.unwrap_or_default(),
        health: config.health.map(health).unwrap_or_default(),
        init: config.init,
        devices: config.devices.into_iter().map(device).collect(),
        device_cgroup_rules: config.device_cgroup_rules,
        group_add: config.group_add,
        ipc_mode: config.ipc_mode,
        pid_mode: config.pid_mode,
        uts_mode: config.uts_mode,
        userns_mode: config.userns_mode,
        cgroupns_mode: config.cgroupns_mode,
        cgroup_parent: config.cgroup_parent,
        security_opt: config.security_opt,
        sysctls: config.sysctls.into_iter().collect(),
        ulimits: config.ulimits.into_iter().map(ulimit).collect(),
        shm_size: config.shm_size,
        volumes_from: config.volumes_from,
        volume_driver: config.volume_driver,
        runtime: config.runtime,
        annotations: config.annotations.into_iter().collect(),
        oom_score_adj: config.oom_score_adj,
        storage_opt: config.storage_opt.into_iter().collect(),
        cidfile: config.cidfile,
        attach: config.attach,
    })
}

pub fn to_wire(config: ContainerConfig) -> wire::ContainerConfig {
    wire::ContainerConfig {
        image: config.image,
        args: config.args,
        entrypoint_set: config.entrypoint.is_some(),
        entrypoint: config.entrypoint.unwrap_or_default(),
        env: config.env,
        working_dir: config.working_dir,
        user: config.user,
        hostname: config.hostname,
        tty: config.tty,
        open_stdin: config.open_stdin,
        labels: config.labels.into_iter().collect(),
        mounts: config.mounts.into_iter().map(mount_to_wire).collect(),
        network_mode: config.network.to_string(),
        read_only_rootfs: config.read_only_rootfs,
        cap_add: config.cap_add,
        cap_drop: config.cap_drop,
        privileged: config.privileged,
        resources: Some(limits_to_wire(config.limits)),
        auto_remove: config.auto_remove,
        stop_signal: config.stop_signal,
        stop_timeout: config.stop_timeout,
        log: Some(log_to_wire(config.log)),
        platform: config.platform,
        made_by: config.made_by,
        domainname: config.domainname,
        endpoints: config.endpoints.into_iter().map(endpoint_to_wire).collect(),
        publish: config.publish.into_iter().map(port_to_wire).collect(),
        publish_all: config.publish_all,
        expose: config.expose,
        dns: config.dns,
        dns_search: config.dns_search,
        dns_options: config.dns_options,
        extra_hosts: config.extra_hosts,
        restart: Some(restart_to_wire(config.restart)),
        health: Some(health_to_wire(config.health)),
        init: config.init,
        devices: config.devices.into_iter().map(device_to_wire).collect(),
        device_cgroup_rules: config.device_cgroup_rules,
        group_add: config.group_add,
        ipc_mode: config.ipc_mode,
        pid_mode: config.pid_mode,
        uts_mode: config.uts_mode,
        userns_mode: config.userns_mode,
        cgroupns_mode: config.cgroupns_mode,
        cgroup_parent: config.cgroup_parent,
        security_opt: config.security_opt,
        sysctls: config.sysctls.into_iter().collect(),
        ulimits: config
            .ulimits
            .into_iter()
            .map(|limit| wire::Ulimit { name: limit.name, soft: limit.soft, hard: limit.hard })
            .collect(),
        shm_size: config.shm_size,
        volumes_from: config.volumes_from,
        volume_driver: config.volume_driver,
        runtime: config.runtime,
        annotations: config.annotations.into_iter().collect(),
        oom_score_adj: config.oom_score_adj,
        storage_opt: config.storage_opt.into_iter().collect(),
        cidfile: config.cidfile,
        attach: config.attach,
    }
}

pub fn mount(mount: wire::Mount) -> Result<Mount> {
    let kind = match wire::MountKind::try_from(mount.kind) {
        Ok(wire::MountKind::Bind) => MountKind::Bind,
        Ok(wire::MountKind::Volume) => MountKind::Volume,
        Ok(wire::MountKind::Tmpfs) => MountKind::Tmpfs,
        Ok(wire::MountKind::Image) => MountKind::Image,
        Err(_) => return Err(Error::invalid("mount", format!("kind {} is not known", mount.kind))),
    };
    Ok(Mount {
        kind,
        source: mount.source,
        target: mount.target,
        access: if mount.read_only { Access::ReadOnly } else { Access::ReadWrite },
        bind: BindOptions {
            create_source: mount.create_source,
            propagation: mount.propagation,
            non_recursive: mount.non_recursive,
            recursive_read_only: mount.recursive_read_only,
        },
        volume: VolumeOptions {
            no_copy: mount.no_copy,
            labels: mount.labels.into_iter().collect(),
            driver: mount.driver,
            driver_options: mount.driver_options.into_iter().collect(),
            anonymous: false,
        },
        tmpfs: TmpfsOptions { size: mount.tmpfs_size, mode: mount.tmpfs_mode, options: mount.tmpfs_options },
        subpath: mount.subpath,
        spec: mount.spec,
    })
}

pub fn mount_to_wire(mount: Mount) -> wire::Mount {
    let kind = match mount.kind {
        MountKind::Bind => wire::MountKind::Bind,
        MountKind::Volume => wire::MountKind::Volume,
        MountKind::Tmpfs => wire::MountKind::Tmpfs,
        MountKind::Image => wire::MountKind::Image,
    };
    wire::Mount {
        kind: kind.into(),
        source: mount.source,
        target: mount.target,
        read_only: mount.access == Access::ReadOnly,
        create_source: mount.bind.create_source,
        propagation: mount.bind.propagation,
        non_recursive: mount.bind.non_recursive,
        recursive_read_only: mount.bind.recursive_read_only,
        no_copy: mount.volume.no_copy,
        labels: mount.volume.labels.into_iter().collect(),
        driver: mount.volume.driver,
        driver_options: mount.volume.driver_options.into_iter().collect(),
        subpath: mount.subpath,
        tmpfs_size: mount.tmpfs.size,
        tmpfs_mode: mount.tmpfs.mode,
        tmpfs_options: mount.tmpfs.options,
        spec: mount.spec,
    }
}

pub fn endpoint(endpoint: wire::Endpoint) -> Endpoint {
    Endpoint {
        network: endpoint.network,
        aliases: endpoint.aliases,
        ipv4: endpoint.ipv4,
        ipv6: endpoint.ipv6,
        mac: endpoint.mac,
        link_local: endpoint.link_local,
        links: endpoint.links,
        driver_options: endpoint.driver_options.into_iter().collect(),
        gateway_priority: endpoint.gateway_priority,
    }
}

pub fn endpoint_to_wire(endpoint: Endpoint) -> wire::Endpoint {
    wire::Endpoint {
        network: endpoint.network,
        aliases: endpoint.aliases,
        ipv4: endpoint.ipv4,
        ipv6: endpoint.ipv6,
        mac: endpoint.mac,
        link_local: endpoint.link_local,
        links: endpoint.links,
        driver_options: endpoint.driver_options.into_iter().collect(),
        gateway_priority: endpoint.gateway_priority,
    }
}

pub fn port(port: wire::PortBinding) -> Result<PortBinding> {
    let number = |number: u32| {
        u16::try_from(number)
            .map_err(|_| Error::invalid("published port", format!("{number}: ports end at 65535")))
    };
    let protocol = Protocol::parse(&port.protocol).ok_or_else(|| {
        Error::invalid(
            "published port",
            format!("protocol \"{}\": tcp, udp and sctp are known", port.protocol),
        )
    })?;
    Ok(PortBinding {
        container_port: number(port.container_port)?,
        protocol,
        host_ip: port.host_ip,
        host_port_first: number(port.host_port_first)?,
        host_port_last: number(port.host_port_last)?,
    })
}

pub fn shown_port(port: crate::engine::network::publish::ShownPort) -> wire::PublishedPort {
    let (host_ip, host_port) = port.host.map(|(ip, port)| (ip.to_string(), port)).unwrap_or_default();
    wire::PublishedPort {
        container_port: port.container_port.into(),
        protocol: port.protocol.name().to_owned(),
        host_ip,
        host_port: host_port.into(),
    }
}

fn port_to_wire(port: PortBinding) -> wire::PortBinding {
    wire::PortBinding {
        container_port: port.container_port.into(),
        protocol: port.protocol.name().to_owned(),
        host_ip: port.host_ip,
        host_port_first: port.host_port_first.into(),
        host_port_last: port.host_port_last.into(),
    }
}

pub fn restart(policy: wire::RestartPolicy) -> Result<RestartPolicy> {
    let condition = match wire::RestartCondition::try_from(policy.condition) {
        Ok(wire::RestartCondition::No) => RestartCondition::No,
        Ok(wire::RestartCondition::OnFailure) => RestartCondition::OnFailure,
        Ok(wire::RestartCondition::Always) => RestartCondition::Always,
        Ok(wire::RestartCondition::UnlessStopped) => RestartCondition::UnlessStopped,
        Err(_) => {
            let why = format!("condition {} is not known", policy.condition);
            return Err(Error::invalid("restart policy", why));
        }
    };
    Ok(RestartPolicy { condition, max_retries: policy.max_retries, on_unhealthy: policy.on_unhealthy })
}

fn restart_to_wire(policy: RestartPolicy) -> wire::RestartPolicy {
    let condition = match policy.condition {
        RestartCondition::No => wire::RestartCondition::No,
        RestartCondition::OnFailure => wire::RestartCondition::OnFailure,
        RestartCondition::Always => wire::RestartCondition::Always,
        RestartCondition::UnlessStopped => wire::RestartCondition::UnlessStopped,
    };
    wire::RestartPolicy {
        condition: condition.into(),
        max_retries: policy.max_retries,
        on_unhealthy: policy.on_unhealthy,
    }
}

fn health(check: wire::HealthCheck) -> HealthCheck {
    HealthCheck {
        test: check.test,
        interval: check.interval,
        timeout: check.timeout,
        start_period: check.start_period,
        start_interval: check.start_interval,
        retries: check.retries,
    }
}

fn health_to_wire(check: HealthCheck) -> wire::HealthCheck {
    wire::HealthCheck {
        test: check.test,
        interval: check.interval,
        timeout: check.timeout,
        start_period: check.start_period,
        start_interval: check.start_interval,
        retries: check.retries,
    }
}

fn log(log: wire::LogConfig) -> LogConfig {
    LogConfig {
        max_size: log.max_size,
        max_files: log.max_files,
        driver: log.driver,
        options: log.options.into_iter().collect(),
    }
}

fn log_to_wire(log: LogConfig) -> wire::LogConfig {
    wire::LogConfig {
        max_size: log.max_size,
        max_files: log.max_files,
        driver: log.driver,
        options: log.options.into_iter().collect(),
    }
}

fn device(device: wire::Device) -> Device {
    Device {
        host_path: device.host_path,
        container_path: device.container_path,
        permissions: device.permissions,
    }
}

fn device_to_wire(device: Device) -> wire::Device {
    wire::Device {
        host_path: device.host_path,
        container_path: device.container_path,
        permissions: device.permissions,
    }
}

fn ulimit(limit: wire::Ulimit) -> Ulimit {
    Ulimit { name: limit.name, soft: limit.soft, hard: limit.hard }
}

pub fn limits(resources: wire::Resources) -> Result<Limits> {
    let limit = |what: &str, value: i64| match value {
        0 => Ok(None),
        // As with docker, -1 says "no limit" for processes.
        -1 if what == "pids-limit" => Ok(None),
        value if value < 0 => Err(Error::invalid(what, format!("{value}: must not be negative"))),
        value => Ok(Some(value)),
    };
    let devices = |values: Vec<wire::DeviceValue>| {
        values.into_iter().map(|each| DeviceValue { path: each.path, value: each.value }).collect()
    };
    let weight = resources.blkio_weight;
    Ok(Limits {
        memory: limit("memory", resources.memory)?,
        nano_cpus: limit("cpus", resources.nano_cpus)?,
        pids: limit("pids-limit", resources.pids)?,
        cpu_shares: resources.cpu_shares,
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_realtime_period: resources.cpu_realtime_period,
        cpu_realtime_runtime: resources.cpu_realtime_runtime,
        cpuset_cpus: resources.cpuset_cpus,
        cpuset_mems: resources.cpuset_mems,
        memory_reservation: resources.memory_reservation,
        memory_swap: resources.memory_swap,
        memory_swappiness: resources.memory_swappiness.filter(|&value| value != -1),
        oom_kill_disable: resources.oom_kill_disable,
        blkio_weight: u16::try_from(weight)
            .map_err(|_| Error::invalid("blkio-weight", format!("{weight}: it is from 10 to 1000")))?,
        blkio_weight_device: devices(resources.blkio_weight_device),
        device_read_bps: devices(resources.device_read_bps),
        device_write_bps: devices(resources.device_write_bps),
        device_read_iops: devices(resources.device_read_iops),
        device_write_iops: devices(resources.device_write_iops),
    })
}

pub fn limits_to_wire(limits: Limits) -> wire::Resources {
    let devices = |values: Vec<DeviceValue>| {
        values.into_iter().map(|each| wire::DeviceValue { path: each.path, value: each.value }).collect()
    };
    wire::Resources {
        memory: limits.memory.unwrap_or(0),
        nano_cpus: limits.nano_cpus.unwrap_or(0),
        pids: limits.pids.unwrap_or(0),
        cpu_shares: limits.cpu_shares,
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpu_realtime_period: limits.cpu_realtime_period,
        cpu_realtime_runtime: limits.cpu_realtime_runtime,
        cpuset_cpus: limits.cpuset_cpus,
        cpuset_mems: limits.cpuset_mems,
        memory_reservation: limits.memory_reservation,
        memory_swap: limits.memory_swap,
        memory_swappiness: limits.memory_swappiness,
        oom_kill_disable: limits.oom_kill_disable,
        blkio_weight: limits.blkio_weight.into(),
        blkio_weight_device: devices(limits.blkio_weight_device),
        device_read_bps: devices(limits.device_read_bps),
        device_write_bps: devices(limits.device_write_bps),
        device_read_iops: devices(limits.device_read_iops),
        device_write_iops: devices(limits.device_write_iops),
    }
}
