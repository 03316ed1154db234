//! `HostConfig` and `Config` of a container as docker's inspect shows them: what was asked for, under docker's names,
//! null where docker has null.

use std::collections::HashMap;

use longshore_proto::longshore::engine::v1::{
    ContainerConfig, DeviceValue, HealthCheck, InspectResponse, LogConfig, Mount, MountKind, PortBinding,
    Resources, RestartCondition,
};

use crate::fields;
use crate::output::human;
use crate::output::value::Value;

/// Bytes of /dev/shm where nothing else was asked for.
const SHM_SIZE: i64 = 64 << 20;

/// What concerns the host.
pub fn host_config(found: &InspectResponse) -> Value {
    let config = found.config.clone().unwrap_or_default();
    let resources = config.resources.clone().unwrap_or_default();
    let mut all = general(found, &config);
    all.extend(limits(&resources));
    let mounts: Vec<Value> = config.mounts.iter().filter(|mount| !is_short(mount)).map(long_mount).collect();
    if !mounts.is_empty() {
        all.push(("Mounts".into(), Value::List(mounts)));
    }
    all.push(("MaskedPaths".into(), list_or_null(&found.masked_paths)));
    all.push(("ReadonlyPaths".into(), list_or_null(&found.readonly_paths)));
    Value::Struct(all)
}

fn general(found: &InspectResponse, config: &ContainerConfig) -> Vec<(String, Value)> {
    let or = |text: &str, other: &str| if text.is_empty() { other.to_string() } else { text.to_string() };
    let binds: Vec<String> = config.mounts.iter().filter(|mount| is_short(mount)).filter_map(bind).collect();
    let name = found.summary.as_ref().map_or("", |summary| summary.name.as_str());
    let links: Vec<String> = config
        .endpoints
        .iter()
        .filter(|endpoint| matches!(endpoint.network.as_str(), "" | "default" | "bridge"))
        .flat_map(|endpoint| endpoint.links.iter().map(|link| whole_link(link, name)))
        .collect();
    let cgroupns = if config.privileged { "host" } else { "private" };
    let mut all = open(fields! {
        "Binds" => list_or_null(&binds),
        "ContainerIDFile" => config.cidfile.as_str(),
        "LogConfig" => log_config(config.log.as_ref()),
        "NetworkMode" => or(&config.network_mode, "default"),
        "PortBindings" => port_bindings(&config.publish),
        "RestartPolicy" => restart_policy(config),
        "AutoRemove" => config.auto_remove,
        "VolumeDriver" => config.volume_driver.as_str(),
        "VolumesFrom" => list_or_null(&config.volumes_from),
        "ConsoleSize" => Value::List(vec![Value::Int(0), Value::Int(0)]),
    });
    push_map(&mut all, "Annotations", &config.annotations);
    all.extend(open(fields! {
        "CapAdd" => list_or_null(&capabilities(&config.cap_add)),
        "CapDrop" => list_or_null(&capabilities(&config.cap_drop)),
        "CgroupnsMode" => or(&config.cgroupns_mode, cgroupns),
        "Dns" => config.dns.clone(),
        "DnsOptions" => config.dns_options.clone(),
        "DnsSearch" => config.dns_search.clone(),
        "ExtraHosts" => list_or_null(&config.extra_hosts),
        "GroupAdd" => list_or_null(&config.group_add),
        "IpcMode" => or(&config.ipc_mode, "private"),
        "Cgroup" => "",
        "Links" => list_or_null(&links),
        "OomScoreAdj" => i64::from(config.oom_score_adj),
        "PidMode" => config.pid_mode.as_str(),
        "Privileged" => config.privileged,
        "PublishAllPorts" => config.publish_all,
        "ReadonlyRootfs" => config.read_only_rootfs,
        "SecurityOpt" => list_or_null(&config.security_opt),
    }));
    push_map(&mut all, "StorageOpt", &config.storage_opt);
    push_map(&mut all, "Tmpfs", &tmpfs(&config.mounts));
    all.extend(open(fields! {
        "UTSMode" => config.uts_mode.as_str(),
        "UsernsMode" => config.userns_mode.as_str(),
        "ShmSize" => if config.shm_size > 0 { config.shm_size } else { SHM_SIZE },
    }));
    push_map(&mut all, "Sysctls", &config.sysctls);
    all.push(("Runtime".into(), or(&config.runtime, &found.runtime).into()));
    if let Some(init) = config.init {
        all.push(("Init".into(), init.into()));
    }
    all.extend(open(fields! {
        "Isolation" => "",
        "CgroupParent" => config.cgroup_parent.as_str(),
        "Devices" => Value::List(config.devices.iter().map(|device| fields! {
            "PathOnHost" => device.host_path.as_str(),
            "PathInContainer" => or(&device.container_path, &device.host_path),
            "CgroupPermissions" => or(&device.permissions, "rwm"),
        }).collect()),
        "DeviceCgroupRules" => list_or_null(&config.device_cgroup_rules),
        "DeviceRequests" => Value::Null,
        "Ulimits" => list_or(Value::Null, config.ulimits.iter().map(|limit| fields! {
            "Name" => limit.name.as_str(),
            "Hard" => limit.hard,
            "Soft" => limit.soft,
        }).collect()),
    }));
    all
}

fn limits(resources: &Resources) -> Vec<(String, Value)> {
    let swap = match (resources.memory, resources.memory_swap) {
        (memory, 0) => memory.saturating_mul(2),
        (_, swap) => swap,
    };
    open(fields! {
        "CpuShares" => resources.cpu_shares,
        "Memory" => resources.memory,
        "NanoCpus" => resources.nano_cpus,
        "BlkioWeight" => i64::from(resources.blkio_weight),
        "BlkioWeightDevice" => devices(&resources.blkio_weight_device, "Weight"),
        "BlkioDeviceReadBps" => devices(&resources.device_read_bps, "Rate"),
        "BlkioDeviceWriteBps" => devices(&resources.device_write_bps, "Rate"),
        "BlkioDeviceReadIOps" => devices(&resources.device_read_iops, "Rate"),
        "BlkioDeviceWriteIOps" => devices(&resources.device_write_iops, "Rate"),
        "CpuPeriod" => resources.cpu_period,
        "CpuQuota" => resources.cpu_quota,
        "CpuRealtimePeriod" => resources.cpu_realtime_period,
        "CpuRealtimeRuntime" => resources.cpu_realtime_runtime,
        "CpusetCpus" => resources.cpuset_cpus.as_str(),
        "CpusetMems" => resources.cpuset_mems.as_str(),
        "MemoryReservation" => resources.memory_reservation,
        "MemorySwap" => swap,
        "MemorySwappiness" => resources.memory_swappiness,
        "OomKillDisable" => resources.oom_kill_disable,
        "PidsLimit" => (resources.pids != 0).then_some(resources.pids.max(0)),
        "CpuCount" => 0_i64,
        "CpuPercent" => 0_i64,
        "IOMaximumIOps" => 0_i64,
        "IOMaximumBandwidth" => 0_i64,
    })
}

/// A list, or what stands for an empty one.
fn list_or(empty: Value, values: Vec<Value>) -> Value {
    if values.is_empty() { empty } else { Value::List(values) }
}

fn devices(values: &[DeviceValue], name: &str) -> Value {
    let one = |each: &DeviceValue| {
        let value = i64::try_from(each.value).unwrap_or(i64::MAX);
        Value::Struct(vec![("Path".into(), each.path.as_str().into()), (name.into(), value.into())])
    };
    // The weights are a list also where there are none.
    let empty = if name == "Weight" { Value::List(Vec::new()) } else { Value::Null };
    list_or(empty, values.iter().map(one).collect())
}

/// By `-v` or `--tmpfs`, and not by `--mount`.
fn is_short(mount: &Mount) -> bool {
    !mount.spec.is_empty() || mount.create_source
}

/// `SOURCE:TARGET[:OPTIONS]`; nothing for an anonymous volume or a file system in memory.
fn bind(mount: &Mount) -> Option<String> {
    if mount.source.is_empty() || mount.kind() == MountKind::Tmpfs {
        return None;
    }
    let mut text = format!("{}:{}", mount.source, mount.target);
    match mount.spec.splitn(3, ':').nth(2) {
        Some(options) => text.push_str(&format!(":{options}")),
        None if mount.read_only => text.push_str(":ro"),
        None => {}
    }
    Some(text)
}

fn tmpfs(mounts: &[Mount]) -> HashMap<String, String> {
    let short = mounts.iter().filter(|mount| mount.kind() == MountKind::Tmpfs && is_short(mount));
    short.map(|mount| (mount.target.clone(), mount.tmpfs_options.join(","))).collect()
}

fn long_mount(mount: &Mount) -> Value {
    let kind = match mount.kind() {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Image => "image",
    };
    let mut all = vec![("Type".to_string(), Value::from(kind))];
    if !mount.source.is_empty() {
        all.push(("Source".into(), mount.source.as_str().into()));
    }
    all.push(("Target".into(), mount.target.as_str().into()));
    if mount.read_only {
        all.push(("ReadOnly".into(), true.into()));
    }
    let mut bind = Vec::new();
    if !mount.propagation.is_empty() {
        bind.push(("Propagation".to_string(), Value::from(mount.propagation.as_str())));
    }
    if mount.non_recursive {
        bind.push(("NonRecursive".into(), true.into()));
    }
    match mount.recursive_read_only.as_str() {
        "writable" => bind.push(("ReadOnlyNonRecursive".into(), true.into())),
        "readonly" => bind.push(("ReadOnlyForceRecursive".into(), true.into())),
        _ => {}
    }
    let mut volume = Vec::new();
    if mount.no_copy {
        volume.push(("NoCopy".to_string(), Value::from(true)));
    }
    push_map(&mut volume, "Labels", &mount.labels);
    if !mount.subpath.is_empty() {
        volume.push(("Subpath".into(), mount.subpath.as_str().into()));
    }
    if !mount.driver.is_empty() || !mount.driver_options.is_empty() {
        let mut driver = vec![("Name".to_string(), Value::from(mount.driver.as_str()))];
        push_map(&mut driver, "Options", &mount.driver_options);
        volume.push(("DriverConfig".into(), Value::Struct(driver)));
    }
    let mut memory = Vec::new();
    if mount.tmpfs_size != 0 {
        memory.push(("SizeBytes".to_string(), Value::from(mount.tmpfs_size)));
    }
    if mount.tmpfs_mode != 0 {
        memory.push(("Mode".into(), i64::from(mount.tmpfs_mode).into()));
    }
    let of_volume = if mount.kind() == MountKind::Image { "ImageOptions" } else { "VolumeOptions" };
    for (name, options) in [("BindOptions", bind), (of_volume, volume), ("TmpfsOptions", memory)] {
        if !options.is_empty() {
            all.push((name.into(), Value::Struct(options)));
        }
    }
    Value::Struct(all)
}

fn log_config(log: Option<&LogConfig>) -> Value {
    let log = log.cloned().unwrap_or_default();
    let driver = if log.driver.is_empty() { "json-file" } else { &log.driver };
    let mut options = log.options.clone();
    if log.max_files != 0 {
        options.insert("max-file".into(), log.max_files.to_string());
    }
    if log.max_size != 0 {
        options.insert("max-size".into(), size(log.max_size));
    }
    fields! { "Type" => driver, "Config" => map(&options) }
}

/// `10m` where that is exact.
fn size(bytes: i64) -> String {
    for (factor, unit) in [(1_000_000_000, "g"), (1_000_000, "m"), (1_000, "k")] {
        if bytes > 0 && bytes % factor == 0 {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

fn restart_policy(config: &ContainerConfig) -> Value {
    let policy = config.restart.unwrap_or_default();
    let name = match policy.condition() {
        RestartCondition::No => "no",
        RestartCondition::OnFailure => "on-failure",
        RestartCondition::Always => "always",
        RestartCondition::UnlessStopped => "unless-stopped",
    };
    let mut all = open(fields! { "Name" => name, "MaximumRetryCount" => i64::from(policy.max_retries) });
    if policy.on_unhealthy {
        all.push(("OnUnhealthy".into(), true.into()));
    }
    Value::Struct(all)
}

fn port_bindings(ports: &[PortBinding]) -> Value {
    let mut all: Vec<(String, Value)> = Vec::new();
    for port in ports {
        let name = port_name(port);
        let host = match (port.host_port_first, port.host_port_last) {
            (0, _) => String::new(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        let binding = fields! { "HostIp" => port.host_ip.as_str(), "HostPort" => host };
        match all.iter_mut().find(|(other, _)| *other == name) {
            Some((_, Value::List(bindings))) => bindings.push(binding),
            _ => all.push((name, Value::List(vec![binding]))),
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Map(all)
}

fn port_name(port: &PortBinding) -> String {
    let protocol = if port.protocol.is_empty() { "tcp" } else { &port.protocol };
    format!("{}/{protocol}", port.container_port)
}

/// What concerns the process.
pub fn container_config(found: &InspectResponse) -> Value {
    let config = found.config.clone().unwrap_or_default();
    let summary = found.summary.clone().unwrap_or_default();
    let hostname = match config.hostname.as_str() {
        "" => human::short_id(&summary.id).to_string(),
        name => name.to_string(),
    };
    let attached = |name: &str| config.attach.iter().any(|stream| stream == name);
    // The first words are the entrypoint's, be it the image's or the user's.
    let words = usize::try_from(found.entrypoint_words).unwrap_or(0).min(found.process_args.len());
    let (entrypoint, command) = found.process_args.split_at(words);
    let mut all = open(fields! {
        "Hostname" => hostname,
        "Domainname" => config.domainname.as_str(),
        "User" => found.user.as_str(),
        "AttachStdin" => attached("stdin"),
        "AttachStdout" => attached("stdout"),
        "AttachStderr" => attached("stderr"),
    });
    let whole = |port: &String| if port.contains('/') { port.clone() } else { format!("{port}/tcp") };
    let mut exposed: Vec<String> = config.expose.iter().chain(&found.exposed_ports).map(whole).collect();
    exposed.extend(config.publish.iter().map(port_name));
    exposed.sort_unstable();
    exposed.dedup();
    if !exposed.is_empty() {
        all.push(("ExposedPorts".into(), set(exposed)));
    }
    all.extend(open(fields! {
        "Tty" => config.tty,
        "OpenStdin" => config.open_stdin,
        "StdinOnce" => config.open_stdin && attached("stdin"),
        "Env" => list_or_null(&config.env),
        "Cmd" => list_or_null(command),
    }));
    if let Some(health) = &config.health {
        all.push(("Healthcheck".into(), healthcheck(health)));
    }
    let mut volumes = found.volumes.clone();
    let anonymous =
        |mount: &&Mount| mount.kind() == MountKind::Volume && mount.source.is_empty() && is_short(mount);
    volumes.extend(config.mounts.iter().filter(anonymous).map(|mount| mount.target.clone()));
    volumes.sort_unstable();
    volumes.dedup();
    all.extend(open(fields! {
        "Image" => config.image.as_str(),
        "Volumes" => if volumes.is_empty() { Value::Null } else { set(volumes) },
        "WorkingDir" => if found.process_cwd == "/" { config.working_dir.as_str() } else { found.process_cwd.as_str() },
        "Entrypoint" => list_or_null(entrypoint),
        "OnBuild" => Value::Null,
        "Labels" => &summary.labels,
    }));
    if !config.stop_signal.is_empty() {
        all.push(("StopSignal".into(), config.stop_signal.as_str().into()));
    }
    if let Some(seconds) = config.stop_timeout {
        all.push(("StopTimeout".into(), i64::from(seconds).into()));
    }
    Value::Struct(all)
}

fn healthcheck(health: &HealthCheck) -> Value {
    let mut all = Vec::new();
    if !health.test.is_empty() {
        all.push(("Test".to_string(), Value::from(health.test.clone())));
    }
    for (name, value) in [
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
        ("Retries", i64::from(health.retries)),
    ] {
        if value != 0 {
            all.push((name.into(), value.into()));
        }
    }
    Value::Struct(all)
}

/// `target:alias` of a container on the default network as docker keeps it.
fn whole_link(link: &str, name: &str) -> String {
    let (target, alias) = link.split_once(':').unwrap_or((link, link));
    format!("/{target}:/{name}/{alias}")
}

/// `NET_ADMIN` as docker keeps it.
fn capabilities(names: &[String]) -> Vec<String> {
    let whole = |name: &String| {
        let name = name.to_uppercase();
        if name == "ALL" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
    };
    names.iter().map(whole).collect()
}

fn open(value: Value) -> Vec<(String, Value)> {
    match value {
        Value::Struct(fields) | Value::Map(fields) => fields,
        _ => Vec::new(),
    }
}

fn list_or_null(words: &[String]) -> Value {
    if words.is_empty() { Value::Null } else { Value::from(words.to_vec()) }
}

fn set(names: Vec<String>) -> Value {
    Value::Map(names.into_iter().map(|name| (name, Value::Struct(Vec::new()))).collect())
}

fn map(pairs: &HashMap<String, String>) -> Value {
    let mut all: Vec<(String, Value)> =
        pairs.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Map(all)
}

/// A map that docker leaves out when it is empty.
fn push_map(all: &mut Vec<(String, Value)>, name: &str, pairs: &HashMap<String, String>) {
    if !pairs.is_empty() {
        all.push((name.to_string(), map(pairs)));
    }
}
