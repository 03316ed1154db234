//! Says which of the host's tools are there, so that tests which need one are skipped (and counted so) without it.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const TOOLS: [&str; 24] = [
    "mkfs.ext4",
    "containerd",
    "ctr",
    "containerd-shim-runc-v2",
    "docker-registry",
    "skopeo",
    "umoci",
    "runc",
    "crun",
    "podman",
    "dockerd",
    "docker-compose",
    "debootstrap",
    "tmux",
    "htpasswd",
    "openssl",
    "nft",
    "ip",
    "iptables",
    "qemu-system-x86_64",
    "dpkg-deb",
    "psql",
    "redis-cli",
    "curl",
];

/// Newer programs than the host's, given by path: containerd-shim-runc-v2, ctr, dockerd, crictl and kubelet; and the folders of containerd and of
/// buildkitd and buildctl.
const NEWER: [(&str, &str); 7] = [
    ("LONGSHORE_NEWER_SHIM", "have_newer_shim"),
    ("LONGSHORE_CONTAINERD_HEAD", "have_containerd_head"),
    ("LONGSHORE_NEWER_CTR", "have_newer_ctr"),
    ("LONGSHORE_NEWER_DOCKERD", "have_newer_dockerd"),
    ("LONGSHORE_BUILDKIT", "have_buildkit"),
    ("LONGSHORE_CRICTL", "have_crictl"),
    ("LONGSHORE_KUBELET", "have_kubelet"),
];

fn main() {
    for (variable, cfg) in NEWER {
        println!("cargo::rerun-if-env-changed={variable}");
        println!("cargo::rustc-check-cfg=cfg({cfg})");
        if env::var_os(variable).is_some() {
            println!("cargo::rustc-cfg={cfg}");
        }
    }
    println!("cargo::rerun-if-env-changed=PATH");
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    for tool in TOOLS {
        let name = tool.replace(['-', '.'], "_");
        println!("cargo::rustc-check-cfg=cfg(have_{name})");
        match folders.iter().map(|folder| folder.join(tool)).find(|path| path.exists()) {
            Some(path) => {
                println!("cargo::rerun-if-changed={}", path.display());
                println!("cargo::rustc-cfg=have_{name}");
            }
            // A file that does not exist makes cargo look again at every build.
            None => println!("cargo::rerun-if-changed=/nonexistent/{tool}"),
        }
    }
    println!("cargo::rustc-check-cfg=cfg(have_cni_plugins)");
    println!("cargo::rerun-if-changed=/usr/lib/cni/bridge");
    if ["/usr/lib/cni/bridge", "/opt/cni/bin/bridge"].iter().any(|path| std::path::Path::new(path).exists()) {
        println!("cargo::rustc-cfg=have_cni_plugins");
    }
    println!("cargo::rustc-check-cfg=cfg(have_fuse)");
    println!("cargo::rerun-if-changed=/dev/fuse");
    if std::path::Path::new("/dev/fuse").exists() {
        println!("cargo::rustc-cfg=have_fuse");
    }
    find_owner_shifts();
    find_token_bucket();
    find_clients();
    find_buildkit_client(&folders);
}

/// Whether pods can have users of their own: their files appear with shifted owners since Linux 6.15.
fn find_owner_shifts() {
    println!("cargo::rustc-check-cfg=cfg(have_owner_shifts)");
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let kernel: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let namespaces: u64 = read("/proc/sys/user/max_user_namespaces").trim().parse().unwrap_or(0);
    let whole = read("/proc/self/uid_map").split_whitespace().nth(2) == Some("4294967295");
    if kernel >= (6, 15) && namespaces > 0 && whole {
        println!("cargo::rustc-cfg=have_owner_shifts");
    }
}

/// A docker command that can speak to BuildKit: an old one has it within, a newer one only with the buildx plugin.
fn find_buildkit_client(folders: &[PathBuf]) {
    println!("cargo::rustc-check-cfg=cfg(have_docker_buildkit)");
    let found = folders.iter().map(|folder| folder.join("docker")).find(|path| {
        let output =
            |args: &[&str]| Command::new(path).args(args).output().ok().filter(|o| o.status.success());
        let old = output(&["--version"]).is_some_and(|output| {
            let text = String::from_utf8_lossy(&output.stdout).replace("Docker version ", "");
            text.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u32| major < 23)
        });
        old || output(&["buildx", "version"]).is_some()
    });
    if let Some(path) = found {
        println!("cargo::rustc-cfg=have_docker_buildkit");
        println!("cargo::rustc-env=LONGSHORE_DOCKER_BUILDKIT={}", path.display());
    }
}

/// Whether the kernel can shape traffic as the plugin `bandwidth` wants it, tried in a network namespace that ends with that.
fn find_token_bucket() {
    println!("cargo::rustc-check-cfg=cfg(have_tbf)");
    let line =
        "ip link add ifb-try type ifb && tc qdisc add dev ifb-try root tbf rate 1mbit latency 25ms burst 10k";
    let tried = Command::new("unshare").args(["-n", "sh", "-c", line]).output();
    if tried.is_ok_and(|output| output.status.success()) {
        println!("cargo::rustc-cfg=have_tbf");
    }
}

/// The libraries of other languages, where `make clients` puts them: beside the profile's folder in the target folder.
fn find_clients() {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let folder = out.ancestors().nth(4).map(|target| target.join("clients")).unwrap_or_default();
    println!("cargo::rustc-env=LONGSHORE_CLIENTS={}", folder.display());
    for (name, marker) in [("grpcio", "python/ready"), ("grpc_js", "node_modules/@grpc/grpc-js")] {
        println!("cargo::rustc-check-cfg=cfg(have_{name})");
        let marker = folder.join(marker);
        println!("cargo::rerun-if-changed={}", marker.display());
        if marker.exists() {
            println!("cargo::rustc-cfg=have_{name}");
        }
    }
}
