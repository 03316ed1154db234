//! The machine's software: fetched by apt from the host's own Debian sources, unpacked without being configured.
//!
//! What always holds: what is there is not fetched again; a half-made tree is never taken for a whole one.

use crate::Base;
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const KERNEL: &str = "linux-image-cloud-amd64";
/// With everything that they depend on.
const PACKAGES: &[&str] = &[
    "base-files",
    "base-passwd",
    "bash",
    "busybox-static",
    "coreutils",
    "criu",
    "dbus",
    "iproute2",
    "gzip",
    "iptables",
    "libseccomp2",
    "mount",
    "procps",
    "systemd",
    "tar",
    "systemd-sysv",
    "uidmap",
    "util-linux",
];
/// Dependencies of what configures packages, or of parts that are not used here.
const LEFT_OUT: &[&str] = &[
    "perl",
    "libperl",
    "python3",
    "libpython3",
    "debconf",
    "dpkg_",
    "usrmerge",
    "media-types",
    "libdb5",
    "sgml-base",
];
/// Kernel modules that the tests need, by folder below `kernel/`.
const MODULES: &[&str] = &[
    "fs/overlayfs",
    "fs/fuse",
    "fs/autofs",
    "drivers/block/loop.ko",
    "drivers/net/veth.ko",
    "drivers/net/tun.ko",
    "drivers/net/dummy.ko",
    "net/802",
    "net/llc",
    "net/bridge",
    "net/netfilter",
    "net/ipv4",
    "net/ipv6",
    "net/unix",
    "net/packet",
    "net/netlink",
    "net/core",
    "lib",
    "crypto",
];
/// Never needed in the machine, and large.
const TRIMMED: &[&str] = &[
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/zoneinfo",
    "usr/lib/udev/hwdb.d",
];

/// Fetches and unpacks what is not there yet.
pub fn prepare(folder: &Path) -> Result<Base> {
    let (kernel, tree, ready) = (folder.join("kernel"), folder.join("tree"), folder.join("ready"));
    // A list that changes makes everything new.
    let wanted = format!("{KERNEL} {PACKAGES:?} {LEFT_OUT:?} {MODULES:?} {TRIMMED:?}");
    if fs::read_to_string(&ready).ok().as_deref() != Some(&wanted) {
        let _ = fs::remove_file(&ready);
        let packages = folder.join("packages");
        fetch(&packages)?;
        for old in [&kernel, &tree] {
            match fs::remove_dir_all(old) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    bail!("remove {old:?}: {error}")
                }
                _ => {}
            }
        }
        unpack(&packages, &kernel, &tree)?;
        fs::write(&ready, wanted)?;
    }
    Ok(Base { kernel: only(&kernel.join("boot"), "vmlinuz-")?, tree })
}

fn fetch(packages: &Path) -> Result<()> {
    fs::create_dir_all(packages.join("partial"))?;
    let status = packages.join("status");
    fs::write(&status, "")?;
    println!("longshore-vm: fetching Debian packages into {packages:?}");
    let option = |name: &str, path: &Path| format!("-o{name}={}", path.display());
    // With an empty list of installed packages apt fetches every dependency.
    run(Command::new("apt-get")
        .args([
            "install",
            "--yes",
            "--download-only",
            "--no-install-recommends",
            "-qq",
            "-oDebug::NoLocking=1",
        ])
        .arg(option("Dir::State::status", &status))
        .arg(option("Dir::Cache::archives", packages))
        .args(PACKAGES)
        .stdout(Stdio::null()))
    .context("apt-get update may help")?;
    // The kernel alone: its dependencies would make an initramfs, which is not needed.
    let depends = Command::new("apt-cache").args(["depends", KERNEL]).output().context("run apt-cache")?;
    let depends = String::from_utf8_lossy(&depends.stdout);
    let image = depends.split_whitespace().find(|word| word.starts_with("linux-image-"));
    let image = depends
        .split_whitespace()
        .rfind(|word| *word != KERNEL && word.starts_with("linux-image-"))
        .or(image);
    let image = image.with_context(|| format!("apt knows no {KERNEL}; try apt-get update"))?;
    run(Command::new("apt-get")
        .args(["download", "-qq", "-oAPT::Sandbox::User=root", image])
        .current_dir(packages))
}

fn unpack(packages: &Path, kernel: &Path, tree: &Path) -> Result<()> {
    fs::create_dir_all(kernel)?;
    for folder in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(tree.join("usr").join(folder))?;
        std::os::unix::fs::symlink(format!("usr/{folder}"), tree.join(folder))?;
    }
    let mut files: Vec<PathBuf> = fs::read_dir(packages)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension() == Some(OsStr::new("deb")))
        .collect();
    files.sort();
    for file in files {
        let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
        if name.starts_with("linux-image-") {
            extract(&file, kernel, &["./boot/vmlinuz*", "./lib/modules/*"])?;
        } else if !LEFT_OUT.iter().any(|left_out| name.starts_with(left_out)) {
            extract(&file, tree, &[])?;
        }
    }
    for path in TRIMMED {
        let _ = fs::remove_dir_all(tree.join(path));
    }
    modules(kernel, tree)
}

/// Unpacks one package, through the links of the merged `/usr`.
fn extract(package: &Path, into: &Path, patterns: &[&str]) -> Result<()> {
    let mut source = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("run dpkg-deb")?;
    let pipe = source.stdout.take().context("no output of dpkg-deb")?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--keep-directory-symlink", "-C"]).arg(into);
    if !patterns.is_empty() {
        tar.arg("--wildcards").args(patterns);
    }
    let unpacked = run(tar.stdin(pipe));
    let status = source.wait()?;
    unpacked.with_context(|| format!("unpack {package:?}"))?;
    ensure!(status.success(), "dpkg-deb {package:?}: {status}");
    Ok(())
}

/// Copies the modules that are needed and lists their dependencies.
fn modules(kernel: &Path, tree: &Path) -> Result<()> {
    let all = kernel.join("lib/modules");
    let release = only(&all, "")?;
    let name = release.file_name().context("no modules")?;
    let into = tree.join("usr/lib/modules").join(name);
    for path in MODULES {
        let (from, to) = (release.join("kernel").join(path), into.join("kernel").join(path));
        fs::create_dir_all(to.parent().context("no parent")?)?;
        if from.exists() {
            run(Command::new("cp").arg("-r").args([&from, &to]))?;
        }
    }
    for list in ["modules.builtin", "modules.order"] {
        let _ = fs::copy(release.join(list), into.join(list));
    }
    run(Command::new("busybox").arg("depmod").arg("-b").arg(tree).arg(name))?;
    // The kernel calls modprobe; busybox's reads the lists that busybox writes.
    let modprobe = tree.join("usr/sbin/modprobe");
    let _ = fs::remove_file(&modprobe);
    Ok(std::os::unix::fs::symlink("../bin/busybox", modprobe)?)
}

/// The one entry of a folder whose name starts so.
fn only(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {folder:?}"))?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .find(|path| path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(prefix)))
        .with_context(|| format!("nothing like {prefix}* in {folder:?}"))
}

pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {:?}", command.get_program()))?;
    ensure!(
        status.success(),
        "{:?} {:?}: {status}",
        command.get_program(),
        command.get_args().collect::<Vec<_>>()
    );
    Ok(())
}
