//! More published weaknesses, each named by its id; those in which an attacker races are in `races`.

use crate::bundle::{Bundle, shell};
use longshore_runtime::Error;
use serde_json::json;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

const RUNTIME: &str = env!("CARGO_BIN_EXE_longshore-runtime");

fn executable(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Runs the command, not the library: a process of its own whose file the attack is after.
fn run_command(runtime: &Path, bundle: &Bundle) -> std::process::Output {
    std::fs::write(bundle.dir.path().join("config.json"), bundle.spec.to_string()).unwrap();
    let root = bundle.dir.path().join("state");
    let command = |verb: &str| {
        let mut command = Command::new(runtime);
        command.arg("--root").arg(&root).arg(verb);
        command
    };
    let output = command("run").arg("--bundle").arg(bundle.dir.path()).arg(&bundle.id).output().unwrap();
    let _ = command("delete").args(["--force", &bundle.id]).output();
    output
}

#[test]
fn cve_2019_5736_an_interpreter_that_is_the_runtime_cannot_write_to_it() {
    let mut bundle = Bundle::new("");
    let copy = bundle.dir.path().join("runtime");
    std::fs::copy(RUNTIME, &copy).unwrap();
    // The kernel follows the interpreter of a script, and so runs the runtime's own file inside the container.
    executable(&bundle.root().join("evil"), "#!/proc/self/exe\n");
    bundle.args(&["/evil"]);
    let all = json!(["CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]);
    bundle.spec["process"]["capabilities"] = json!({ "bounding": all, "effective": all, "permitted": all });
    let output = run_command(&copy, &bundle);
    assert!(!output.status.success(), "{output:?}");
    // Somebody inside who looks at every process's file while the runtime sets processes up, and writes to what he finds.
    let script = "while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe 2>/dev/null) in */busybox|'') ;; *) (echo pwned > $p/exe) 2>/dev/null && echo wrote;; esac; done; [ -e /stop ] && break; done; echo over";
    bundle.args(&["/bin/sh", "-c", script]);
    let mut running = bundle.start();
    for _ in 0..20 {
        let mut process = shell("");
        process["args"] = json!(["/evil"]);
        let _ = running.exec(process);
    }
    std::fs::write(bundle.root().join("stop"), "").unwrap();
    let output = running.wait_for_output("over");
    assert!(!output.contains("wrote"), "{output}");
    running.finish();
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(RUNTIME).unwrap());
}

#[test]
fn cve_2019_5736_the_commands_own_file_cannot_be_opened_for_writing() {
    let mut bundle = Bundle::new("echo ready; sleep 100");
    std::fs::write(bundle.dir.path().join("config.json"), bundle.spec.to_string()).unwrap();
    let root = bundle.dir.path().join("state");
    let mut stay = Command::new(RUNTIME)
        .arg("--root")
        .arg(&root)
        .args(["run", "--bundle"])
        .arg(bundle.dir.path())
        .arg(&bundle.id)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 5];
    std::io::Read::read_exact(stay.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let exe = format!("/proc/{}/exe", stay.id());
    let error = std::fs::File::options().write(true).open(exe).unwrap_err();
    assert!(
        matches!(error.raw_os_error(), Some(libc::EPERM | libc::EROFS | libc::EACCES | libc::ETXTBSY)),
        "{error}"
    );
    let _ = Command::new(RUNTIME).arg("--root").arg(&root).args(["kill", &bundle.id, "KILL"]).status();
    stay.wait().unwrap();
    let _ = Command::new(RUNTIME).arg("--root").arg(&root).args(["delete", "--force", &bundle.id]).output();
    bundle.args(&["/bin/true"]);
}

#[test]
fn cve_2021_41103_folders_of_state_are_for_root_only() {
    let mut bundle = Bundle::new("true");
    bundle.seccomp_cache = Some(bundle.dir.path().join("cache"));
    bundle.spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["acct"], "action": "SCMP_ACT_ERRNO" }] });
    assert_eq!(bundle.run().code, 0);
    std::fs::write(bundle.dir.path().join("config.json"), bundle.spec.to_string()).unwrap();
    let root = bundle.dir.path().join("state");
    let command = |args: &[&str]| Command::new(RUNTIME).arg("--root").arg(&root).args(args).output().unwrap();
    let bundle_path = bundle.dir.path().to_str().unwrap();
    let output = Command::new(RUNTIME)
        .arg("--root")
        .arg(&root)
        .args(["create", "--bundle", bundle_path, &bundle.id])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(output.success());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(bundle.seccomp_cache.as_deref().unwrap()), 0o700);
    for folder in [root.clone(), root.join(&bundle.id)] {
        assert_eq!(mode(&folder) & 0o066, 0, "{folder:?}");
    }
    assert_eq!(mode(&root) & 0o077, 0o000);
    command(&["delete", "--force", &bundle.id]);
}

/// Whatever of these is loaded says so at the container's `/loaded`.
const LIBRARY: &str = "#include <fcntl.h>\n#include <unistd.h>\n\
    __attribute__((constructor)) static void loaded(void) { int f = open(\"/loaded\", O_WRONLY | O_CREAT, 0666);\n\
    if (f >= 0) { write(f, \"x\", 1); close(f); } }\n";

#[test]
fn cve_2019_14271_nothing_of_the_rootfs_is_loaded_or_run_but_the_program() {
    let mut bundle = Bundle::new("cat /etc/passwd >/dev/null; id");
    let (source, library) = (bundle.dir.path().join("loaded.c"), bundle.dir.path().join("loaded.so"));
    std::fs::write(&source, LIBRARY).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(built.unwrap().success());
    for folder in [
        "lib",
        "lib64",
        "lib/x86_64-linux-gnu",
        "usr/lib/x86_64-linux-gnu",
        "usr/lib",
        "sbin",
        "usr/bin",
        "usr/sbin",
    ] {
        std::fs::create_dir_all(bundle.root().join(folder)).unwrap();
        for name in [
            "libnss_files.so.2",
            "libnss_compat.so.2",
            "libnss_dns.so.2",
            "libgcc_s.so.1",
            "libc.so.6",
            "libseccomp.so.2",
            "ld-linux-x86-64.so.2",
        ] {
            std::fs::copy(&library, bundle.root().join(folder).join(name)).unwrap();
        }
    }
    for name in [
        "tar",
        "gzip",
        "unpigz",
        "zstd",
        "newuidmap",
        "newgidmap",
        "nft",
        "ip",
        "ldconfig",
        "modprobe",
        "criu",
        "getent",
    ] {
        for folder in ["bin", "sbin", "usr/bin", "usr/sbin"] {
            executable(&bundle.root().join(folder).join(name), "#!/bin/sh\necho > /loaded\n");
        }
    }
    std::fs::write(bundle.root().join("etc/nsswitch.conf"), "passwd: files compat\ngroup: files compat\n")
        .unwrap();
    std::fs::write(bundle.root().join("etc/passwd"), "planted:x:1000:1000::/:/bin/sh\n").unwrap();
    std::fs::write(bundle.root().join("etc/ld.so.preload"), "/lib/libc.so.6\n").unwrap();
    // Users, home folders and programs are looked up inside, the terminal and the mounts are made there.
    bundle.spec["process"]["env"] = json!(["PATH=/bin"]);
    bundle.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    std::fs::set_permissions(bundle.root(), PermissionsExt::from_mode(0o777)).unwrap();
    assert_eq!(bundle.run().code, 0);
    let output = run_command(Path::new(RUNTIME), &bundle);
    assert!(output.status.success(), "{output:?}");
    assert!(!bundle.root().join("loaded").exists());
    // The trap works: a program that loads libraries meets it.
    std::fs::copy("/bin/true", bundle.root().join("bin/dynamic")).unwrap();
    bundle.args(&["/bin/dynamic"]);
    let linker = std::fs::read("/lib64/ld-linux-x86-64.so.2").unwrap();
    std::fs::write(bundle.root().join("lib64/ld-linux-x86-64.so.2"), linker).unwrap();
    let libc = std::fs::read("/lib/x86_64-linux-gnu/libc.so.6").unwrap();
    std::fs::write(bundle.root().join("lib/x86_64-linux-gnu/libc.so.6"), libc).unwrap();
    std::fs::write(bundle.root().join("etc/ld.so.preload"), "/lib/libnss_files.so.2\n").unwrap();
    assert_eq!(bundle.run().code, 0);
    assert!(bundle.root().join("loaded").exists());
}

#[test]
fn cve_2021_21334_containers_of_one_config_have_their_own_environment() {
    let bundles: Vec<Bundle> = (0..4)
        .map(|n| {
            let mut bundle = Bundle::new("echo $SECRET; env | grep -c SECRET");
            bundle.spec["process"]["env"] = json!(["PATH=/bin", format!("SECRET={n}")]);
            bundle
        })
        .collect();
    let mut waiting: Vec<_> = bundles.iter().map(|bundle| bundle.create().unwrap()).collect();
    waiting.iter_mut().for_each(|running| running.container().start().unwrap());
    for (n, running) in waiting.into_iter().enumerate() {
        assert_eq!(running.finish().stdout, format!("{n}\n1\n"));
    }
}

#[test]
fn cve_2025_47291_a_container_with_a_user_namespace_is_in_its_cgroup() {
    let mut bundle = Bundle::new("sleep 100");
    let map = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map;
    for folder in ["", "bin", "dev", "proc", "sys", "tmp", "etc", "root"] {
        std::os::unix::fs::lchown(bundle.root().join(folder), Some(100_000), Some(100_000)).unwrap();
    }
    let mut running = bundle.start();
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", running.container().pid())).unwrap();
    let memory = text.lines().find(|line| line.contains("memory") || line.starts_with("0::")).unwrap();
    assert!(memory.ends_with(&bundle.cgroups_path()), "{text}");
    running.kill();
}

#[test]
fn cve_2025_52881_a_fake_procfs_gets_none_of_what_is_written() {
    // Who shapes the mount namespace that the container joins has put ordinary files where the runtime writes.
    let script = "mount -t tmpfs none /proc/sys && mkdir -p /proc/sys/net/ipv4 && echo fake > /proc/sys/net/ipv4/ip_forward && echo over && exec sleep 100";
    let mut holder = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 4];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut word).unwrap();
    let mut bundle = Bundle::new("cat /proc/sys/net/ipv4/ip_forward");
    bundle.remove_namespace("mount");
    let path = format!("/proc/{}/ns/mnt", holder.id());
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "mount", "path": path }));
    bundle.spec["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    assert_eq!(bundle.output(), "1");
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn cve_2025_52881_nothing_is_mounted_over_files_of_proc_that_are_written() {
    for target in
        ["/proc/self/attr", "/proc/thread-self", "/proc/sys", "/proc/sys/kernel", "/proc/1/attr/exec"]
    {
        let mut bundle = Bundle::new("true");
        bundle.add_mount(json!({ "destination": target, "type": "tmpfs", "source": "tmpfs" }));
        assert!(matches!(bundle.failure(), Error::InvalidSpec { .. }), "{target}");
        // Nor by a link that leads there.
        let mut bundle = Bundle::new("true");
        symlink(target, bundle.root().join("link")).unwrap();
        bundle.add_mount(json!({ "destination": "/link", "type": "tmpfs", "source": "tmpfs" }));
        bundle.failure();
    }
}

#[test]
fn cve_2024_21626_nothing_above_stdio_is_left_in_any_of_the_first_64_numbers() {
    // Descriptors of the caller that are not close-on-exec, as a careless parent has them.
    let folder =
        rustix::fs::open("/", rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY, 0.into()).unwrap();
    let leaked: Vec<_> = (3..64).filter_map(|n| rustix::io::fcntl_dupfd_cloexec(&folder, n).ok()).collect();
    leaked.iter().for_each(|fd| rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap());
    let bundle = Bundle::new("ls -1 /proc/self/fd | tr '\\n' ' '; sleep 100");
    let mut running = bundle.start();
    assert_eq!(running.wait_for_output("3"), "0 1 2 3 ");
    assert_eq!(running.exec(shell("ls -1 /proc/self/fd | tr '\\n' ' '")).unwrap().stdout, "0 1 2 3 ");
    for n in 3..64 {
        let mut bundle = Bundle::new("pwd");
        bundle.spec["process"]["cwd"] = json!(format!("/proc/self/fd/{n}"));
        assert!(bundle.failure().to_string().starts_with("chdir to cwd"));
    }
    running.kill();
}

#[test]
fn cve_2016_9962_a_process_is_not_dumpable_until_it_is_its_program() {
    let bundle = Bundle::new("sleep 100");
    let mut running = bundle.create().unwrap();
    let pid = running.container().pid();
    // What is not dumpable belongs to root in procfs, whoever runs it; the tracer's view needs CAP_SYS_PTRACE.
    let owner = |pid: i32| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(format!("/proc/{pid}/fd")).unwrap().uid()
    };
    let mut user = Bundle::new("sleep 100");
    user.spec["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    let mut other = user.create().unwrap();
    let waiting = other.container().pid();
    assert_eq!(owner(waiting), 0, "a process that waits at its gate can be looked into by its own user");
    other.container().start().unwrap();
    assert_eq!(owner(waiting), 1000);
    assert_eq!(owner(pid), 0);
    other.kill();
}

#[test]
fn nothing_of_the_runtime_is_in_the_environment_or_among_the_mounts() {
    // SAFETY: this test is a process of its own, and no other thread reads the environment.
    unsafe { std::env::set_var("LONGSHORE_SECRET", "x") };
    let mut bundle = Bundle::new("tr '\\0' '\\n' < /proc/1/environ; cat /proc/self/mountinfo");
    bundle.spec["process"]["env"] = json!(["PATH=/bin", "HOME=/"]);
    let output = bundle.output();
    let (environment, mounts) = output.split_at(output.find("HOME=/\n").unwrap() + 7);
    assert_eq!(environment, "PATH=/bin\nHOME=/\n");
    // The config's own mounts, its masks and read-only paths, and the root.
    let mut known: Vec<String> = vec!["/".into()];
    for mount in bundle.spec["mounts"].as_array().unwrap() {
        known.push(mount["destination"].as_str().unwrap().into());
    }
    for list in ["maskedPaths", "readonlyPaths"] {
        known.extend(
            bundle.spec["linux"][list].as_array().unwrap().iter().map(|path| path.as_str().unwrap().into()),
        );
    }
    for line in mounts.lines() {
        let target = line.split(' ').nth(4).unwrap();
        let ours = known.iter().any(|path| path == target) || target.starts_with("/sys/fs/cgroup/");
        assert!(ours, "{line}");
    }
}
