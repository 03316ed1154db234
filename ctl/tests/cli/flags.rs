//! docker's flags of run and create: what makes no sense has docker's words, what does arrives.

use longshore_proto::longshore::engine::v1::{MountKind, RestartCondition};

use crate::call;
use crate::engine::Engine;

/// A flag, its value, and what docker's client says of it.
const BAD: &[(&str, &str, &str)] = &[
    ("-p", "x", "longshore: invalid containerPort: x"),
    ("-p", "1.2.3:80:80", "longshore: invalid IP address: 1.2.3"),
    (
        "-p",
        "80-90:80-85",
        "longshore: invalid ranges specified for container and host Ports: 80-85 and 80-90",
    ),
    ("-p", "80/xyz", "longshore: invalid proto: xyz"),
    ("-p", "", "longshore: no port specified: <empty>"),
    ("--expose", "80:80", "longshore: invalid port format for --expose: 80:80"),
    ("--network", "", "longshore: no name set for network"),
    (
        "--network",
        "name=a,foo=b",
        "invalid argument \"name=a,foo=b\" for \"--network\" flag: invalid field key foo",
    ),
    (
        "--network-alias",
        "x",
        "longshore: network-scoped aliases are only supported for user-defined networks",
    ),
    ("--mac-address", "x", "longshore: x is not a valid mac address"),
    ("--link", "", "invalid argument \"\" for \"--link\" flag: empty string specified for links"),
    ("--dns", "x", "invalid argument \"x\" for \"--dns\" flag: IP address is not correctly formatted: x"),
    ("--dns-search", "a b", "invalid argument \"a b\" for \"--dns-search\" flag: a b is not a valid domain"),
    ("--add-host", "x:foo", "for \"--add-host\" flag: invalid IP address in add-host: \"foo\""),
    ("-v", "", "longshore: invalid empty volume spec"),
    ("-v", "/a:/b:/c:/d", "longshore: invalid spec: /a:/b:/c:/d: too many colons"),
    ("-v", "/a:/b:rx", "invalid mode: rx"),
    ("--mount", "type=bind", "invalid argument \"type=bind\" for \"--mount\" flag: target is required"),
    ("--mount", "foo", "for \"--mount\" flag: invalid field 'foo' must be a key=value pair"),
    (
        "--restart",
        "on-failure:x",
        "longshore: invalid restart policy format: maximum retry count must be an integer",
    ),
    ("--restart", "x", "longshore: invalid restart policy: unknown policy 'x'"),
    ("--health-interval", "x", "for \"--health-interval\" flag: time: invalid duration \"x\""),
    ("--health-interval", "-1s", "longshore: --health-interval cannot be negative"),
    ("--health-retries", "-1", "longshore: --health-retries cannot be negative"),
    ("--device", "/a:/b:foo", "longshore: bad mode specified: foo"),
    ("--device-cgroup-rule", "x", "for \"--device-cgroup-rule\" flag: invalid device cgroup format 'x'"),
    ("--pid", "x", "longshore: --pid: invalid PID mode"),
    ("--uts", "x", "longshore: --uts: invalid UTS mode"),
    ("--userns", "x", "longshore: --userns: invalid USER mode"),
    ("--cgroupns", "x", "longshore: --cgroupns: invalid CGROUP mode"),
    ("--security-opt", "x", "longshore: Invalid --security-opt: \"x\""),
    (
        "--security-opt",
        "seccomp=/nonexist",
        "longshore: opening seccomp profile (/nonexist) failed: open /nonexist: no such file or directory",
    ),
    ("--sysctl", "kernel.foo=1", "for \"--sysctl\" flag: sysctl 'kernel.foo=1' is not allowed"),
    ("--ulimit", "nofile=5:2", "ulimit soft limit must be less than or equal to hard limit: 5 > 2"),
    ("--shm-size", "x", "invalid argument \"x\" for \"--shm-size\" flag: invalid size: 'x'"),
    ("--storage-opt", "x", "longshore: invalid storage option"),
    ("--oom-score-adj", "2000", "Invalid value 2000, range for oom score adj is [-1000, 1000]"),
    ("--memory-swap", "-2", "for \"--memory-swap\" flag: invalid size: '-2'"),
    ("--memory-swappiness", "101", "longshore: invalid value: 101. Valid memory swappiness range is 0-100"),
    ("--cpus", "1/3", "invalid argument \"1/3\" for \"--cpus\" flag: value is too precise"),
    ("-c", "x", "invalid argument \"x\" for \"-c, --cpu-shares\" flag: strconv.ParseInt"),
    (
        "--blkio-weight",
        "70000",
        "for \"--blkio-weight\" flag: strconv.ParseUint: parsing \"70000\": value out of range",
    ),
    ("--blkio-weight-device", "/dev/x:5", "invalid weight for device: /dev/x:5"),
    ("--device-read-bps", "/dev/x:y", "invalid rate for device: /dev/x:y. The correct format is"),
    ("--device-write-iops", "x:1", "bad format for device path: x:1"),
    ("-a", "x", "for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR"),
    ("--init=x", "", "invalid argument \"x\" for \"--init\" flag: strconv.ParseBool"),
    ("--isolation", "hyperv", "invalid isolation 'hyperv' on linux"),
    ("--gpus", "all", "longshore: --gpus is not supported: GPUs are devices with CDI names"),
    ("--kernel-memory", "5m", "longshore: --kernel-memory is not supported"),
    ("--cpu-count", "2", "longshore: --cpu-count is not supported: it is for Windows"),
    ("--disable-content-trust=false", "", "--disable-content-trust=false is not supported"),
];

#[test]
fn bad_values_have_docker_s_words() {
    let mut engine = Engine::start();
    engine.die();
    for (flag, value, words) in BAD {
        let arguments = match flag.contains('=') {
            true => vec!["run", *flag, "x"],
            false => vec!["run", *flag, *value, "x"],
        };
        let said = call(&engine, &arguments);
        assert_eq!(said.code, 125, "{flag} {value}: {said:?}");
        assert!(said.err.contains(words), "{flag} {value}: {said:?}");
    }
    // docker's client exits with 125 for a value that makes no sense, also where a failing command is a 1.
    let said = call(&engine, &["create", "-p", "x", "img"]);
    assert!(
        said.code == 125
            && said.err.starts_with("longshore: invalid containerPort: x\n\nRun 'longshore create")
    );
}

#[test]
fn what_contradicts_itself_is_refused() {
    let mut engine = Engine::start();
    engine.die();
    for (line, words) in [
        ("--rm --restart always", "conflicting options: cannot specify both --restart and --rm"),
        ("--no-healthcheck --health-cmd x", "--no-healthcheck conflicts with --health-* options"),
        ("--log-driver none --log-opt a=b", "invalid logging opts for driver none"),
        (
            "--network name=a,ip=1.2.3.4 --ip 1.2.3.5",
            "conflicting options: cannot specify both --ip and per-network IPv4 address",
        ),
        (
            "--network name=a,alias=x --network-alias y",
            "conflicting options: cannot specify both --network-alias and per-network alias",
        ),
        ("--network a --network a", "network \"a\" is specified multiple times"),
        (
            "--network a --network host",
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        ),
        ("--restart-on-unhealthy", "--restart-on-unhealthy needs a restart policy"),
    ] {
        let arguments: Vec<&str> = ["run"].into_iter().chain(line.split(' ')).chain(["x"]).collect();
        let said = call(&engine, &arguments);
        assert!(said.code == 125 && said.err.starts_with(&format!("longshore: {words}")), "{line}: {said:?}");
    }
}

#[test]
fn every_flag_arrives() {
    let engine = Engine::start();
    let line = "create -p 8080:80 -p 127.0.0.1:53:53/udp -P --expose 90-91 --network name=web,alias=w,ip=10.0.0.9 \
        --network back --link db:d --mac-address 92-d0-c6-0a-29-33 --dns 1.1.1.1 --dns-opt ndots:1 --dns-search a.b \
        --add-host h=::1 --domainname nis -v data:/d:nocopy -v /anon --mount type=tmpfs,dst=/t,tmpfs-size=1m \
        --tmpfs /r:size=2m --volumes-from other:ro --volume-driver local --restart on-failure:3 --health-cmd true \
        --health-interval 5s --init --log-driver local --log-opt tag=t --device /dev/null:/dev/x:r \
        --group-add 7 --ipc none --pid container:p --uts host --userns host --cgroupns host --cgroup-parent /p \
        --security-opt no-new-privileges --sysctl net.a=1 --ulimit nofile=1:2 --shm-size 1m --runtime own \
        --annotation a=b --oom-score-adj 5 --oom-kill-disable --storage-opt size=1g -c 5 --cpu-period 1000 \
        --cpu-quota 2000 --cpuset-cpus 0 --cpuset-mems 0 --memory-reservation 1m --memory-swap -1 \
        --memory-swappiness 7 --blkio-weight 10 --blkio-weight-device /dev/a:20 --device-read-bps /dev/a:1kb \
        --device-write-bps /dev/a:2 --device-read-iops /dev/a:3 --device-write-iops /dev/a:4 -a stdout img";
    let mut arguments: Vec<&str> = line.split_whitespace().collect();
    arguments.splice(1..1, ["--device-cgroup-rule", "c 1:3 rwm"]);
    let said = call(&engine, &arguments);
    assert_eq!(said.code, 0, "{said:?}");
    let config = engine.config();
    let ports: Vec<_> =
        config.publish.iter().map(|p| (p.container_port, p.host_port_first, p.host_ip.as_str())).collect();
    assert_eq!(ports, [(80, 8080, ""), (53, 53, "127.0.0.1")]);
    assert!(config.publish_all && config.expose == ["90/tcp", "91/tcp"]);
    assert_eq!(config.network_mode, "web");
    let web = &config.endpoints[0];
    assert_eq!(
        (web.aliases.join(" "), web.ipv4.as_str(), web.mac.as_str()),
        ("w".into(), "10.0.0.9", "92:d0:c6:0a:29:33")
    );
    assert_eq!((web.links.join(" "), config.endpoints[1].network.as_str()), ("db:d".into(), "back"));
    assert_eq!((config.dns.join(" "), config.dns_options.join(" ")), ("1.1.1.1".into(), "ndots:1".into()));
    assert_eq!((config.extra_hosts.join(" "), config.domainname.as_str()), ("h:::1".into(), "nis"));
    let kinds: Vec<_> = config.mounts.iter().map(|mount| (mount.kind(), mount.target.as_str())).collect();
    let volume = MountKind::Volume;
    assert_eq!(
        kinds,
        [(volume, "/d"), (volume, "/anon"), (MountKind::Tmpfs, "/t"), (MountKind::Tmpfs, "/r")]
    );
    assert!(config.mounts[0].no_copy && config.mounts[3].tmpfs_options == ["size=2m"]);
    assert_eq!((config.volumes_from.join(" "), config.volume_driver.as_str()), ("other:ro".into(), "local"));
    let restart = config.restart.unwrap();
    assert_eq!((restart.condition(), restart.max_retries), (RestartCondition::OnFailure, 3));
    let health = config.health.unwrap();
    assert_eq!((health.test.join(" "), health.interval), ("CMD-SHELL true".into(), 5_000_000_000));
    assert_eq!(config.init, Some(true));
    let log = config.log.unwrap();
    assert_eq!((log.driver.as_str(), log.options["tag"].as_str()), ("local", "t"));
    let device = &config.devices[0];
    assert_eq!(
        (device.host_path.as_str(), device.container_path.as_str(), device.permissions.as_str()),
        ("/dev/null", "/dev/x", "r")
    );
    assert_eq!(config.device_cgroup_rules, ["c 1:3 rwm"]);
    let modes = [config.ipc_mode, config.pid_mode, config.uts_mode, config.userns_mode, config.cgroupns_mode];
    assert_eq!(modes, ["none", "container:p", "host", "host", "host"]);
    assert_eq!(
        (config.cgroup_parent.as_str(), config.runtime.as_str(), config.shm_size),
        ("/p", "own", 1 << 20)
    );
    assert_eq!(
        (config.security_opt.join(" "), config.group_add.join(" ")),
        ("no-new-privileges".into(), "7".into())
    );
    assert_eq!((config.sysctls["net.a"].as_str(), config.annotations["a"].as_str()), ("1", "b"));
    let limit = &config.ulimits[0];
    assert_eq!((limit.name.as_str(), limit.soft, limit.hard), ("nofile", 1, 2));
    assert_eq!((config.oom_score_adj, config.storage_opt["size"].as_str()), (5, "1g"));
    let resources = config.resources.unwrap();
    assert!(
        resources.oom_kill_disable && resources.memory_swap == -1 && resources.memory_swappiness == Some(7)
    );
    assert_eq!((resources.cpu_shares, resources.cpu_period, resources.cpu_quota), (5, 1000, 2000));
    assert_eq!((resources.cpuset_cpus.as_str(), resources.cpuset_mems.as_str()), ("0", "0"));
    assert_eq!((resources.memory_reservation, resources.blkio_weight), (1 << 20, 10));
    assert_eq!((resources.blkio_weight_device[0].value, resources.device_read_bps[0].value), (20, 1024));
    assert_eq!((resources.device_write_bps[0].value, resources.device_write_iops[0].value), (2, 4));
    assert_eq!(config.attach, ["stdout"]);
}

#[test]
fn update_sends_what_is_to_be_another() {
    let engine = Engine::start();
    let said =
        call(&engine, &["update", "-m", "64m", "--pids-limit", "-1", "-e", "A=1", "--unmount", "/x", "c"]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, "c\n", ""));
    assert_eq!(
        engine.calls().last().unwrap(),
        "update c memory=67108864 pids=-1 publish=0 unmount=/x env=A=1"
    );
    let said = call(&engine, &["update", "-p", "80:80", "c"]);
    assert!(
        said.code == 0 && said.err.contains("count from the next start on ('longshore restart c'"),
        "{said:?}"
    );
    let said = call(&engine, &["update", "--restart-now", "-p", "80:80", "c"]);
    assert_eq!((said.code, said.err.as_str(), engine.calls().last().unwrap().as_str()), (0, "", "restart c"));
    for (line, code, words) in [
        ("update c", 1, "you must provide one or more flags when using this command"),
        ("update", 1, "'longshore update' requires at least 1 argument"),
        ("update --memory x c", 125, "invalid argument \"x\" for \"-m, --memory\" flag: invalid size: 'x'"),
        ("update --restart foo c", 1, "invalid restart policy: unknown policy 'foo'"),
        ("update --kernel-memory 5m c", 125, "--kernel-memory is not supported"),
    ] {
        let said = call(&engine, &line.split(' ').collect::<Vec<_>>());
        assert!(said.code == code && said.err.contains(words), "{line}: {said:?}");
    }
}
