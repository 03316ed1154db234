//! Configs from a seed: valid ones, and now and then one that no runtime can run.

use serde_json::{Value, json};
use std::path::Path;

/// splitmix64: the same numbers from the same seed, everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    /// True in `part` of `whole` cases.
    fn chance(&mut self, part: u64, whole: u64) -> bool {
        self.below(whole) < part
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }

    fn some<T: Copy>(&mut self, list: &[T]) -> Vec<T> {
        list.iter().copied().filter(|_| self.chance(1, 2)).collect()
    }
}

/// What the process tells of itself. Every part starts with `== name`.
const PROBE: &str = r#"
part() { echo "== $1"; }
part status; cat /proc/self/status
part mountinfo; cat /proc/self/mountinfo
part cgroup; cat /proc/self/cgroup
part limits; cat /proc/self/limits
part env; tr '\0' '\n' < /proc/1/environ 2>/dev/null
part dev; ls -ln /dev 2>/dev/null
part pwd; pwd; umask; id
part hostname; hostname; cat /proc/sys/kernel/domainname
part oom; cat /proc/self/oom_score_adj
part fds; ls -1 /proc/self/fd
part exe; readlink /proc/self/ns/*
part net; ls /sys/class/net 2>/dev/null; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ping_group_range 2>/dev/null
part tmp; stat -c '%a %u %g %n' / /tmp /data /made /made/deep /dev/shm 2>/dev/null; ls /data /cover 2>/dev/null
part write; for d in / /tmp /data /made /proc/sys/kernel /sys; do touch $d/probe 2>/dev/null && echo yes $d || echo no $d; rm -f $d/probe 2>/dev/null; done
part exec; [ -e /data/program ] && /data/program
part masked; for f in /proc/keys /proc/timer_list /sys/firmware /proc/acpi /proc/scsi; do ls -ld $f >/dev/null 2>&1 && (head -c 1 < $f | wc -c; ls $f | wc -l) 2>&1; done
part cgroups; for f in memory/memory.limit_in_bytes cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us pids/pids.max cpuset/cpuset.cpus devices/devices.list blkio/blkio.bfq.weight; do cat /sys/fs/cgroup/$f 2>/dev/null; done
part devices; for d in null zero full random urandom tty fuse-extra; do (: < /dev/$d) 2>/dev/null && echo open $d || echo shut $d; done; mknod /tmp/n c 1 3 2>/dev/null && echo mknod
part syscalls; mkdir /tmp/denied 2>&1; chmod 700 /tmp/denied 2>&1
part end
"#;

const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
    "CAP_NET_ADMIN",
    "CAP_SYS_ADMIN",
    "CAP_SYS_PTRACE",
];

/// A config for a bundle below `dir`, in which `volume` is a folder with files.
pub fn config(seed: u64, dir: &Path) -> Value {
    let dice = &mut Dice(seed);
    let user_namespace = dice.chance(1, 6);
    let network = dice.chance(3, 4);
    let own = |kind: &str| json!({ "type": kind });
    let mut namespaces = vec![own("mount"), own("pid")];
    namespaces.extend(network.then(|| own("network")));
    let ipc = user_namespace || dice.chance(3, 4);
    namespaces.extend(ipc.then(|| own("ipc")));
    let uts = dice.chance(4, 5);
    namespaces.extend(uts.then(|| own("uts")));
    namespaces.extend(dice.chance(2, 3).then(|| own("cgroup")));
    let mut linux = json!({
        "cgroupsPath": format!("/longshore-test-diff-{}/c", std::process::id()),
        "resources": resources(dice),
        "maskedPaths": dice.some(&["/proc/acpi", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware", "/no/such"]),
        "readonlyPaths": dice.some(&["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]),
    });
    if user_namespace {
        namespaces.push(own("user"));
        let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
        linux["uidMappings"] = map.clone();
        linux["gidMappings"] = map;
    }
    linux["namespaces"] = json!(namespaces);
    linux["sysctl"] = sysctls(dice, network, ipc);
    if dice.chance(1, 4) {
        linux["rootfsPropagation"] = json!(dice.pick(&["private", "slave", "rprivate", "rslave"]));
    }
    if dice.chance(1, 4) && !user_namespace {
        linux["devices"] = json!([{ "path": "/dev/fuse-extra", "type": "c", "major": 10, "minor": 229,
            "fileMode": *dice.pick(&[0o600u32, 0o666, 0o640]), "uid": dice.below(3), "gid": dice.below(3) }]);
    }
    if dice.chance(1, 3) {
        linux["seccomp"] = seccomp(dice);
    }
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": "rootfs", "readonly": dice.chance(1, 3) },
        "hostname": if uts { "differential" } else if dice.chance(1, 10) { "refused" } else { "" },
        "process": process(dice, user_namespace),
        "mounts": mounts(dice, dir, network || !user_namespace),
        "linux": linux,
    })
}

fn process(dice: &mut Dice, user_namespace: bool) -> Value {
    let code = dice.below(4) * dice.below(40);
    let bounding = dice.some(CAPABILITIES);
    let permitted = dice.some(&bounding);
    let effective = dice.some(&permitted);
    let inheritable = if dice.chance(1, 4) { dice.some(&permitted) } else { Vec::new() };
    let ambient = dice.some(&inheritable);
    let root = dice.chance(1, 2);
    let gids: Vec<u64> = (0..dice.below(4)).map(|_| dice.below(1000)).collect();
    let mut env = vec!["PATH=/bin:/usr/bin".to_owned()];
    env.extend((0..dice.below(5)).map(|n| format!("V{n}=v a l {}", dice.0 % 97)));
    env.extend(dice.chance(1, 3).then(|| "HOME=/somewhere".to_owned()));
    let mut process = json!({
        "args": ["/bin/sh", "-c", format!("{PROBE}\nexit {code}")],
        "cwd": *dice.pick(&["/", "/tmp", "/made/cwd", "/etc", "/bin"]),
        "env": env,
        "user": { "uid": if root { 0 } else { dice.below(2000) }, "gid": if root { 0 } else { dice.below(2000) }, "additionalGids": gids },
        "noNewPrivileges": dice.chance(1, 2),
        "capabilities": { "bounding": bounding, "permitted": permitted, "effective": effective, "inheritable": inheritable, "ambient": ambient },
        "rlimits": rlimits(dice),
    });
    if dice.chance(1, 4) {
        process["user"]["umask"] = json!(*dice.pick(&[0u32, 0o27, 0o77, 0o22]));
    }
    if dice.chance(1, 3) && !user_namespace {
        process["oomScoreAdj"] = json!(dice.below(1000));
    }
    match dice.below(40) {
        0 => process["args"] = json!(["/no/such/program"]),
        1 => process["args"] = json!(["not-on-the-path"]),
        2 => process["args"] = json!(["/etc"]),
        3 => process["args"] = json!(["/etc/passwd"]),
        4 => process["cwd"] = json!("/etc/passwd"),
        _ => {}
    }
    process
}

fn rlimits(dice: &mut Dice) -> Value {
    let all = [
        ("RLIMIT_CORE", 1 << 20),
        ("RLIMIT_NOFILE", 4096),
        ("RLIMIT_STACK", 8 << 20),
        ("RLIMIT_FSIZE", 1 << 30),
        ("RLIMIT_NICE", 0),
    ];
    let limits = dice.some(&all);
    let limits: Vec<_> = limits
        .into_iter()
        .map(|(kind, most)| json!({ "type": kind, "hard": most, "soft": if dice.chance(1, 2) { most } else { most / 2 } }))
        .collect();
    json!(limits)
}

fn resources(dice: &mut Dice) -> Value {
    let mut resources = json!({});
    if dice.chance(2, 3) {
        resources["devices"] = json!([{ "allow": false, "access": "rwm" }]);
        if dice.chance(1, 2) {
            resources["devices"].as_array_mut().unwrap().push(
                json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": *dice.pick(&["r", "rw", "rwm"]) }),
            );
        }
    }
    if dice.chance(1, 3) {
        resources["memory"] = json!({ "limit": (64 + dice.below(512)) << 20 });
    }
    if dice.chance(1, 3) {
        resources["cpu"] = json!({ "shares": 2 + dice.below(2000), "quota": 10_000 + dice.below(90_000), "period": 100_000 });
    }
    if dice.chance(1, 3) {
        resources["pids"] = json!({ "limit": 20 + dice.below(200) });
    }
    resources
}

fn sysctls(dice: &mut Dice, network: bool, ipc: bool) -> Value {
    let mut sysctls = json!({});
    if dice.chance(1, 3) && (network || dice.chance(1, 8)) {
        sysctls["net.ipv4.ip_forward"] = json!("1");
    }
    if dice.chance(1, 4) && (ipc || dice.chance(1, 8)) {
        sysctls["kernel.msgmax"] = json!((8000 + dice.below(100)).to_string());
    }
    sysctls
}

fn seccomp(dice: &mut Dice) -> Value {
    let rules = dice.some(&["mkdir", "mkdirat", "chmod", "fchmodat", "ptrace", "mount", "keyctl"]);
    let errno = *dice.pick(&[1u32, 28, 38]);
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": if rules.is_empty() { json!([]) } else { json!([{ "names": rules, "action": "SCMP_ACT_ERRNO", "errnoRet": errno }]) },
    })
}

fn mounts(dice: &mut Dice, dir: &Path, sysfs: bool) -> Value {
    let volume = dir.join("volume");
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": *dice.pick(&[&["nosuid", "noexec", "nodev"][..], &[]]) }),
    ];
    if dice.chance(5, 6) {
        mounts.push(json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] }));
        mounts.push(json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] }));
        if dice.chance(2, 3) {
            mounts.push(json!({ "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] }));
        }
    }
    if sysfs && dice.chance(3, 4) {
        mounts.push(json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] }));
        if dice.chance(2, 3) {
            let mut options = vec!["nosuid", "noexec", "nodev", "relatime"];
            options.extend(dice.chance(2, 3).then_some("ro"));
            mounts.push(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options }));
        }
    }
    if dice.chance(1, 2) {
        let mut options = dice.some(&["nosuid", "nodev", "noexec", "size=1m", "noatime"]);
        options.extend(dice.chance(1, 5).then_some("ro"));
        options.extend(dice.chance(1, 5).then_some("tmpcopyup"));
        let target = *dice.pick(&["/tmp", "/cover", "/made/deep"]);
        // On a folder that exists runc 1.1 has that folder's mode win; later ones, and ours, the option.
        options.extend((target == "/made/deep" && dice.chance(1, 3)).then_some("mode=700"));
        mounts.push(json!({ "destination": target, "type": "tmpfs", "source": "tmpfs", "options": options }));
    }
    if dice.chance(2, 3) {
        let mut options = vec![*dice.pick(&["bind", "rbind"])];
        options.extend(dice.some(&["nosuid", "nodev", "noexec", "ro"]));
        options.extend(dice.chance(1, 2).then(|| *dice.pick(&["rprivate", "private", "rslave", "slave"])));
        let source = dice.pick(&["volume", "volume/sub", "volume/missing"]);
        let source =
            if *source == "volume/missing" && !dice.chance(1, 3) { volume.clone() } else { dir.join(source) };
        let target = dice.pick(&["/data", "/made/volume", "/link/volume", "/data/../data"]);
        mounts.push(json!({ "destination": target, "type": "bind", "source": source, "options": options }));
    }
    if dice.chance(1, 3) {
        let mut options = vec!["bind"];
        options.extend(dice.chance(1, 2).then_some("ro"));
        let target = dice.pick(&["/etc/passwd", "/made/file", "/etc/hosts"]);
        mounts.push(json!({ "destination": target, "type": "bind", "source": volume.join("file"), "options": options }));
    }
    json!(mounts)
}
