//! What the flags of run, create and update come to: seen from inside of the container, and in inspect.

use std::io::ErrorKind;
use std::path::PathBuf;

use longshore_tests::daemon::eventually;
use longshore_tests::{Daemon, Fixture};

/// What a container with these flags prints.
fn prints(f: &Fixture, flags: &[&str], script: &str) -> String {
    let mut line = vec!["run", "--rm"];
    line.extend(flags);
    line.extend([f.busybox.as_str(), "sh", "-c", script]);
    f.daemon.ctl(&line).ok().stdout
}

/// What is said of a container that cannot be made or started, with docker's exit code.
fn refused(f: &Fixture, flags: &[&str]) -> String {
    let mut line = vec!["run", "--rm"];
    line.extend(flags);
    line.extend([f.busybox.as_str(), "true"]);
    f.daemon.ctl(&line).expect(125).stderr
}

fn inspect(d: &Daemon, name: &str, format: &str) -> String {
    d.ctl(&["inspect", "--format", format, name]).ok().line().to_owned()
}

/// The first of these files below the container's cgroup that there is: the host's cgroups are v1, v2 or both.
const READ_CGROUP: &str = "show() { for file in \"$@\"; do if [ -e /sys/fs/cgroup/$file ]; then cat /sys/fs/cgroup/$file; return; fi; done; }; ";

#[test]
fn limits_of_processes_and_groups_of_them() {
    let f = Fixture::pulled();
    let ulimits = ["--ulimit", "nofile=100:200", "--ulimit", "core=0"];
    assert_eq!(prints(&f, &ulimits, "ulimit -Sn; ulimit -Hn; ulimit -c"), "100\n200\n0\n");
    let script =
        format!("{READ_CGROUP}show memory/memory.limit_in_bytes memory.max; show pids/pids.max pids.max");
    assert_eq!(prints(&f, &["-m", "64m", "--pids-limit", "50"], &script), "67108864\n50\n");
    let script = format!("{READ_CGROUP}show cpuset/cpuset.cpus cpuset.cpus");
    assert_eq!(prints(&f, &["--cpuset-cpus", "0"], &script), "0\n");
    let script = format!("{READ_CGROUP}show cpu/cpu.cfs_quota_us cpu.max");
    let quota = prints(&f, &["--cpu-quota", "20000", "--cpu-period", "50000"], &script);
    assert!(quota.starts_with("20000"), "{quota}");
    let script = format!("{READ_CGROUP}show memory/memory.soft_limit_in_bytes memory.low");
    assert_eq!(prints(&f, &["--memory-reservation", "16m"], &script), "16777216\n");
    for (flags, words) in [
        (
            vec!["-m", "64m", "--memory-swap", "32m"],
            "Minimum memoryswap limit should be larger than memory limit",
        ),
        (vec!["--cpus", "0.5", "--cpu-period", "1000"], "Conflicting options: Nano CPUs and CPU Period"),
        (vec!["--cpuset-cpus", "9999"], "Requested CPUs are not available"),
        (vec!["--blkio-weight", "5"], "Range of blkio weight is from 10 to 1000"),
        (vec!["--device-read-bps", "/dev/no-such:1"], "device /dev/no-such: no such file or directory"),
    ] {
        let said = refused(&f, &flags);
        assert!(said.contains(words), "{flags:?}: {said}");
    }
}

#[test]
fn kernel_parameters_and_names() {
    let f = Fixture::pulled();
    let sysctls = ["--sysctl", "net.ipv4.ip_default_ttl=33", "--sysctl", "kernel.shmmni=77"];
    let script = "cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/shmmni";
    assert_eq!(prints(&f, &sysctls, script), "33\n77\n");
    let names = ["--hostname", "box", "--domainname", "example.org"];
    assert_eq!(prints(&f, &names, "hostname; cat /proc/sys/kernel/domainname"), "box\nexample.org\n");
    let said = refused(&f, &["--network", "host", "--sysctl", "net.ipv4.ip_default_ttl=33"]);
    assert!(said.contains("not allowed: in host network namespace"), "{said}");
    let said = refused(&f, &["--ipc", "host", "--sysctl", "kernel.shmmni=77"]);
    assert!(said.contains("not allowed: in a shared ipc namespace"), "{said}");
}

#[test]
fn devices_and_groups() {
    let f = Fixture::pulled();
    let device = ["--device", "/dev/null:/dev/hole:rw"];
    assert_eq!(prints(&f, &device, "echo gone > /dev/hole; stat -c %t:%T /dev/hole"), "1:3\n");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("in")).expect("a folder");
    for name in ["a", "in/b"] {
        let node = folder.path().join(name);
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        let zero = nix::sys::stat::makedev(1, 5);
        nix::sys::stat::mknod(&node, nix::sys::stat::SFlag::S_IFCHR, mode, zero).expect("a node");
    }
    let all = format!("{}:/dev/all", folder.path().display());
    assert_eq!(prints(&f, &["--device", &all], "head -c 3 /dev/all/in/b | wc -c; ls /dev/all"), "3\na\nin\n");
    let said = refused(&f, &["--device", "/dev/no-such"]);
    assert!(
        said.contains(
            "error gathering device information while adding custom device \"/dev/no-such\": no such file"
        ),
        "{said}"
    );
    // Nothing may be opened that has no rule: fuse; with a rule its driver answers.
    let open = "mknod /tmp/port c 1 4 && cat /tmp/port 2>&1 | head -c 60";
    assert!(prints(&f, &[], open).contains("Operation not permitted"));
    let ruled = prints(&f, &["--device-cgroup-rule", "c 1:4 rwm", "--cap-add", "SYS_RAWIO"], open);
    assert!(!ruled.contains("Operation not permitted"), "{ruled}");
    assert_eq!(prints(&f, &["-u", "7:8", "--group-add", "4242"], "id -G"), "8 4242\n");
    let said = refused(&f, &["--group-add", "no-such-group"]);
    assert!(said.contains("Unable to find group no-such-group"), "{said}");
}

#[test]
fn namespaces_of_the_host_and_of_others() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let here = |kind: &str| {
        std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace").display().to_string()
    };
    for (flags, kind) in [
        (["--pid", "host"], "pid"),
        (["--ipc", "host"], "ipc"),
        (["--uts", "host"], "uts"),
        (["--cgroupns", "host"], "cgroup"),
        (["--userns", "host"], "user"),
    ] {
        let script = format!("readlink /proc/self/ns/{kind}");
        assert_eq!(prints(&f, &flags, &script).trim(), here(kind), "{flags:?}");
        if kind != "user" {
            assert_ne!(prints(&f, &[], &script).trim(), here(kind), "{kind}");
        }
    }
    d.ctl(&[
        "run",
        "-d",
        "--name",
        "donor",
        "--ipc",
        "shareable",
        "--shm-size",
        "1m",
        &f.busybox,
        "sleep",
        "1000",
    ])
    .ok();
    d.ctl(&["exec", "donor", "sh", "-c", "echo shared > /dev/shm/note"]).ok();
    let joined = ["--ipc", "container:donor", "--pid", "container:donor"];
    let script = "cat /dev/shm/note; ps | grep -c 'sleep 1000'; df -k /dev/shm | tail -1 | awk '{print $2}'";
    let said = prints(&f, &joined, script);
    let mut lines = said.lines();
    assert_eq!((lines.next(), lines.nth(1)), (Some("shared"), Some("1024")), "{said}");
    assert!(said.lines().nth(1).is_some_and(|count| count != "0"), "{said}");
    d.ctl(&["run", "-d", "--name", "closed", &f.busybox, "sleep", "1000"]).ok();
    let said = refused(&f, &["--ipc", "container:closed"]);
    assert!(
        said.contains("non-shareable IPC (hint: use IpcMode:shareable for the donor container)"),
        "{said}"
    );
    let said = refused(&f, &["--pid", "container:nobody"]);
    assert!(said.contains("No such container: nobody"), "{said}");
    d.ctl(&["rm", "-f", "donor", "closed"]).ok();
    let said = refused(&f, &["--ipc", "x"]);
    assert!(said.contains("invalid IPC mode: x"), "{said}");
    assert_eq!(prints(&f, &["--shm-size", "2m"], "df -k /dev/shm | tail -1 | awk '{print $2}'"), "2048\n");
    assert_eq!(prints(&f, &["--ipc", "none"], "mount | grep -c ' /dev/shm ' || true"), "0\n");
    let said = refused(&f, &["--uts", "host", "--hostname", "x"]);
    assert!(said.contains("conflicting options: hostname and the UTS mode"), "{said}");
}

#[test]
fn security_options() {
    let f = Fixture::pulled();
    let status = "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status | tr -d '\\t'";
    assert_eq!(prints(&f, &[], status), "NoNewPrivs:0\nSeccomp:2\n");
    let options = ["--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined"];
    assert_eq!(prints(&f, &options, status), "NoNewPrivs:1\nSeccomp:0\n");
    let folder = tempfile::tempdir().expect("a folder");
    let profile = folder.path().join("profile.json");
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}}]}"#;
    std::fs::write(&profile, json).expect("a profile");
    let own = format!("seccomp={}", profile.display());
    let said = prints(&f, &["--security-opt", &own], "mkdir /tmp/x 2>&1 || true");
    assert!(said.contains("Operation not permitted"), "{said}");
    let said =
        prints(&f, &["--security-opt", &own, "--cap-add", "SYS_ADMIN"], "mkdir /tmp/x 2>&1 && echo made");
    assert_eq!(said, "made\n");
    let masked =
        "head -c 1 /proc/kcore 2>/dev/null | wc -c; grep -c ' /proc/sys proc ro' /proc/self/mounts || true";
    let hidden = prints(&f, &[], masked);
    assert_eq!(hidden, "0\n1\n");
    let bare = prints(&f, &["--security-opt", "systempaths=unconfined"], masked);
    assert!(bare.ends_with("\n0\n"), "{bare}");
    let said = refused(&f, &["--security-opt", "foo=bar"]);
    assert!(said.contains("invalid --security-opt 2: \"foo=bar\""), "{said}");
}

#[test]
fn parents_scores_annotations_and_runtimes() {
    let f = Fixture::pulled();
    let parent = format!("/longshore-test-{}", std::process::id());
    let script = "cat /proc/self/cgroup; cat /proc/self/oom_score_adj";
    let said = prints(
        &f,
        &[
            "--cgroupns",
            "host",
            "--cgroup-parent",
            &parent,
            "--oom-score-adj",
            "500",
            "--annotation",
            "a.b=c",
        ],
        script,
    );
    assert!(said.contains(&parent) && said.ends_with("500\n"), "{said}");
    // The parent is the user's: it stays, and is empty when the container is gone.
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let mut parents: Vec<PathBuf> =
        hierarchies.map(|hierarchy| hierarchy.path().join(&parent[1..])).collect();
    parents.push(format!("/sys/fs/cgroup{parent}").into());
    let is_there =
        |error: &std::io::Error| !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    eventually("the parent is empty", || {
        parents.retain(|parent| std::fs::remove_dir(parent).is_err_and(|error| is_there(&error)));
        parents.is_empty()
    });
    assert_eq!(prints(&f, &["--runtime", "io.containerd.longshore.v1"], "echo yes"), "yes\n");
    let said = refused(&f, &["--runtime", "no-such"]);
    assert!(said.contains("unknown or invalid runtime name: no-such"), "{said}");
}

#[test]
fn inspect_shows_what_docker_shows() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let line = format!(
        "create --name shown -m 64m --cpu-shares 5 --ulimit nofile=1:2 --device /dev/null:/dev/x:r --cap-add net_admin \
         --shm-size 1m --ipc none --security-opt no-new-privileges --sysctl net.core.somaxconn=9 --oom-score-adj 7 \
         --group-add 9 --pids-limit 5 -v /tmp:/x:ro --entrypoint /bin/sh {} -c true",
        f.busybox
    );
    d.ctl(&line.split_whitespace().collect::<Vec<_>>()).ok();
    let host = |field: &str| inspect(d, "shown", &format!("{{{{json .HostConfig.{field}}}}}"));
    for (field, json) in [
        ("Memory", "67108864"),
        ("MemorySwap", "134217728"),
        ("CpuShares", "5"),
        ("Ulimits", r#"[{"Name":"nofile","Hard":2,"Soft":1}]"#),
        ("Devices", r#"[{"PathOnHost":"/dev/null","PathInContainer":"/dev/x","CgroupPermissions":"r"}]"#),
        ("CapAdd", r#"["CAP_NET_ADMIN"]"#),
        ("CapDrop", "null"),
        ("ShmSize", "1048576"),
        ("IpcMode", r#""none""#),
        ("SecurityOpt", r#"["no-new-privileges"]"#),
        ("Sysctls", r#"{"net.core.somaxconn":"9"}"#),
        ("OomScoreAdj", "7"),
        ("GroupAdd", r#"["9"]"#),
        ("PidsLimit", "5"),
        ("Binds", r#"["/tmp:/x:ro"]"#),
        ("MemorySwappiness", "null"),
        ("DeviceRequests", "null"),
        ("LogConfig.Config", r#"{"max-file":"5","max-size":"10485760"}"#),
    ] {
        assert_eq!(host(field), json, "{field}");
    }
    assert!(host("MaskedPaths").contains("/proc/kcore"));
    let config = |field: &str| inspect(d, "shown", &format!("{{{{json .Config.{field}}}}}"));
    assert_eq!((config("Entrypoint"), config("Cmd")), (r#"["/bin/sh"]"#.into(), r#"["-c","true"]"#.into()));
    assert_eq!((config("AttachStdin"), config("AttachStdout")), ("false".into(), "true".into()));
    d.ctl(&["rm", "shown"]).ok();
}

#[test]
fn update_changes_limits_at_once_and_the_rest_at_the_next_start() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["run", "-d", "--name", "up", "-m", "64m", "-e", "A=1", &f.busybox, "sleep", "1000"]).ok();
    d.ctl(&["exec", "up", "sh", "-c", "echo mine > /kept"]).ok();
    assert_eq!(
        d.ctl(&["update", "-m", "128m", "--pids-limit", "77", "--cpu-shares", "512", "up"]).ok().stdout,
        "up\n"
    );
    let limits =
        format!("{READ_CGROUP}show memory/memory.limit_in_bytes memory.max; show pids/pids.max pids.max");
    assert_eq!(d.ctl(&["exec", "up", "sh", "-c", &limits]).ok().stdout, "134217728\n77\n");
    assert_eq!(inspect(d, "up", "{{.HostConfig.Memory}} {{.HostConfig.CpuShares}}"), "134217728 512");
    d.ctl(&["update", "--pids-limit", "-1", "up"]).ok();
    let pids = format!("{READ_CGROUP}show pids/pids.max pids.max");
    assert_eq!(d.ctl(&["exec", "up", "sh", "-c", &pids]).ok().stdout, "max\n");
    let said = d.ctl(&["update", "-m", "1k", "up"]).expect(1).stderr;
    assert!(said.contains("Cannot update container") && said.contains("Minimum memory limit"), "{said}");
    let said = d.ctl(&["update", "up"]).expect(1).stderr;
    assert_eq!(said, "you must provide one or more flags when using this command\n");

    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("note"), "from the host\n").expect("a file");
    let mount = format!("type=bind,source={},target=/more", folder.path().display());
    let said = d.ctl(&["update", "--mount", &mount, "-e", "A=2", "up"]).ok();
    assert!(said.stderr.contains("from the next start on"), "{}", said.stderr);
    d.ctl(&["exec", "up", "cat", "/more/note"]).expect(1);
    let said = d.ctl(&["update", "--restart-now", "-e", "B=3", "up"]).ok();
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("up\n", ""));
    let script = "cat /more/note /kept; echo $A $B";
    assert_eq!(d.ctl(&["exec", "up", "sh", "-c", script]).ok().stdout, "from the host\nmine\n2 3\n");
    d.ctl(&["update", "--unmount", "/more", "--restart-now", "up"]).ok();
    d.ctl(&["exec", "up", "cat", "/more/note"]).expect(1);
    assert_eq!(d.ctl(&["exec", "up", "cat", "/kept"]).ok().stdout, "mine\n");
    d.ctl(&["rm", "-f", "up"]).ok();
}

#[test]
fn what_an_update_cannot_keep_it_does_not_change() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["run", "-d", "--name", "up", "-m", "64m", "-e", "A=1", &f.busybox, "sleep", "1000"]).ok();
    // Few enough words for a container, but each byte takes six in its record, twice: more than a record may have.
    let values: Vec<String> = (0..13).map(|n| format!("V{n}={}", "\u{1}".repeat(120_000))).collect();
    let mut line = vec!["update", "-m", "128m", "-e", "A=2"];
    values.iter().for_each(|value| line.extend(["-e", value]));
    line.push("up");
    let said = d.ctl(&line).expect(1).stderr;
    assert!(said.contains("bytes of one metadata record"), "{said}");
    let shown = inspect(d, "up", "{{.HostConfig.Memory}} {{json .Config.Env}}");
    assert!(shown.starts_with("67108864 ") && shown.contains("A=1") && !shown.contains("V0="), "{shown}");
    let limit = format!("{READ_CGROUP}show memory/memory.limit_in_bytes memory.max");
    assert_eq!(d.ctl(&["exec", "up", "sh", "-c", &limit]).ok().stdout, "67108864\n");
    d.ctl(&["rm", "-f", "up"]).ok();
}
