//! The inside of a machine: what an init must do on a bare kernel, and running the tests.

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Before the exit code, on the serial line.
const LAST_WORDS: &str = "longshore-vm: tests ended with ";
/// On the kernel's command line: arguments for nextest, joined by a character that it leaves alone.
const PARAMETER: &str = "longshore=";
const JOINER: &str = "\u{1f}";

/// The exit code that a line of the machine's serial output tells, if it is that line.
pub fn exit_code(line: &str) -> Option<i32> {
    line.strip_prefix(LAST_WORDS)?.trim().parse().ok()
}

/// Arguments as one word of the kernel's command line.
pub fn wrap(arguments: &[String]) -> String {
    let hex = |byte: u8| format!("{byte:02x}");
    arguments.join(JOINER).bytes().map(hex).collect()
}

fn unwrap_arguments() -> Vec<String> {
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(PARAMETER)).unwrap_or_default();
    let bytes: Vec<u8> = (0..word.len() / 2)
        .filter_map(|at| u8::from_str_radix(word.get(at * 2..at * 2 + 2)?, 16).ok())
        .collect();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.split(JOINER).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// How systemd has arranged the cgroups.
fn systemds_flavour() -> &'static str {
    let is_there = |path: &str| std::path::Path::new("/sys/fs/cgroup").join(path).exists();
    match (is_there("cgroup.controllers"), is_there("unified")) {
        (true, _) => "systemd",
        (false, true) => "hybrid",
        (false, false) => "legacy",
    }
}

pub fn main(words: &[String]) -> Result<i32> {
    match words {
        [what] if what == "init" => {
            println!("longshore-vm: booted");
            if let Err(error) = init() {
                println!("longshore-vm: {error:#}");
            }
            power_off()
        }
        [what] if what == "tests" => {
            modules();
            tests(systemds_flavour())
        }
        _ => bail!("not for use by hand"),
    }
}

/// Everything that an init does here.
fn init() -> Result<()> {
    let none = MsFlags::empty();
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    let mounts: [(&str, &str, MsFlags, &str); 8] = [
        ("/proc", "proc", safe, ""),
        ("/sys", "sysfs", safe, ""),
        ("/dev", "devtmpfs", MsFlags::MS_NOSUID, ""),
        ("/dev/pts", "devpts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "mode=620,gid=5,ptmxmode=666"),
        ("/dev/shm", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=1777"),
        ("/dev/mqueue", "mqueue", safe, ""),
        ("/run", "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=755"),
        ("/sys/fs/cgroup", "cgroup2", safe, "nsdelegate,memory_recursiveprot"),
    ];
    for (target, kind, flags, data) in mounts {
        std::fs::create_dir_all(target).with_context(|| format!("make {target}"))?;
        mount(Some(kind), target, Some(kind), flags, Some(data))
            .with_context(|| format!("mount {kind} at {target}"))?;
    }
    // As systemd leaves it: what is mounted shows in containers that want it.
    mount(None::<&str>, "/", None::<&str>, none | MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>)?;
    nix::unistd::sethostname("longshore-vm")?;
    modules();
    tests("v2").map(drop)
}

/// Kernels load some modules by themselves; these they do not.
fn modules() {
    for module in [
        "overlay",
        "veth",
        "bridge",
        "unix_diag",
        "tcp_diag",
        "udp_diag",
        "inet_diag",
        "netlink_diag",
        "af_packet_diag",
    ] {
        let loaded = Command::new("/sbin/modprobe").args(["-q", module]).status();
        if !loaded.is_ok_and(|status| status.success()) {
            println!("longshore-vm: module {module} is not there");
        }
    }
    let _ = Command::new("/sbin/ip").args(["link", "set", "lo", "up"]).status();
}

/// Runs nextest and says its exit code.
fn tests(flavour: &str) -> Result<i32> {
    let usual = match flavour {
        "systemd" => [
            "-E",
            "package(longshore-runtime) & test(/^(systemd|rootless::a_users)/) | test(/^systemd::/) | binary(vm_systemd)",
        ],
        "legacy" | "hybrid" => {
            ["-E", "package(longshore-runtime) & test(/^(systemd|cgroups)::/) | test(/^systemd::/)"]
        }
        // What has to do with cgroups, users and the kernel's age; the rest is no different on this host.
        _ => [
            "-E",
            "package(longshore-runtime) & test(/^(cgroups|v2|lifecycle|namespaces|exec|rootless)::/) | test(/^checkpoint::/) | binary(vm_daemon) | binary(vm_pods)",
        ],
    };
    let extra = unwrap_arguments();
    let mut command = Command::new("/longshore/cargo-nextest");
    command
        .args([
            "nextest",
            "run",
            "--profile",
            "vm",
            "--color",
            "never",
            "--no-fail-fast",
            "--run-ignored",
            "all",
        ])
        .args([
            "--cargo-metadata",
            "/longshore/cargo.json",
            "--binaries-metadata",
            "/longshore/binaries.json",
        ])
        .args(["--workspace-remap", "/longshore/src", "--target-dir-remap", "/longshore/target"])
        .current_dir("/longshore/src")
        .env_clear()
        .env("PATH", "/longshore/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("LONGSHORE_BIN_DIR", "/longshore/bin")
        .env("LONGSHORE_VM", flavour);
    if extra.is_empty() {
        command.args(usual);
    } else {
        command.args(extra);
    }
    // By a pipe: on a terminal nextest draws a progress bar.
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("run nextest")?;
    for line in BufReader::new(child.stderr.take().context("no output of nextest")?).lines() {
        println!("{}", line.context("read the output of nextest")?);
    }
    let code = child.wait()?.code().unwrap_or(101);
    println!("{LAST_WORDS}{code}");
    Ok(code)
}

fn power_off() -> Result<i32> {
    nix::unistd::sync();
    // SAFETY: an integer argument only; it returns if it failed.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    Err(std::io::Error::last_os_error()).context("switch the machine off")
}
