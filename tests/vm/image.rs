//! The machine's disk: the packages' tree, our test programs, and the few files that packages' scripts would have made.

use crate::Base;
use crate::packages::run;
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Size of the disk; its file is sparse.
const SIZE: &str = "3G";
/// Which test programs run in the machine.
const SUITES: &[&str] = &[
    "longshore-runtime::runtime",
    "longshore-runtime",
    "containerd-shim-longshore-v1::shim",
    "longshore-tests::vm_daemon",
    "longshore-tests::vm_pods",
    "longshore-tests::vm_power",
    "longshore-tests::vm_systemd",
];
/// Programs of ours that tests call, where the build made them.
const PROGRAMS: &[&str] = &["longshore-runtime", "longshored", "longshore", "containerd-shim-longshore-v1"];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
messagebus:x:101:101::/nonexistent:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
many:x:1000:1000:with subordinate ids:/home/many:/bin/bash
single:x:1001:1001:without any:/home/single:/bin/bash
";
const GROUP: &str = "root:x:0:
daemon:x:1:
tty:x:5:
messagebus:x:101:
nogroup:x:65534:
many:x:1000:
single:x:1001:
";
/// systemd boots straight into the tests; a machine whose tests are over is switched off.
const UNIT: &str = "[Unit]
Description=longshore's tests
Requires=basic.target dbus.socket
After=basic.target dbus.socket dbus.service
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=oneshot
ExecStart=/longshore/longshore-vm guest tests
StandardInput=null
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
TimeoutStartSec=infinity
";
/// An ordinary user's instance needs no login, and so no PAM.
const USER_INSTANCE: &str = "[Service]
PAMName=
Environment=XDG_RUNTIME_DIR=/run/user/%i
";
/// What a machine without devices waits for in vain.
const MASKED: &[&str] = &[
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-udev-settle.service",
    "systemd-timesyncd.service",
    "systemd-random-seed.service",
    "systemd-journal-flush.service",
    "getty.target",
    "systemd-hwdb-update.service",
    "systemd-update-utmp.service",
    "e2scrub_reap.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-remount-fs.service",
    "systemd-fsck-root.service",
    "systemd-firstboot.service",
    "systemd-machine-id-commit.service",
    "systemd-sysusers.service",
    "systemd-binfmt.service",
    "dev-ttyS0.device",
    "systemd-pcrphase.service",
    "systemd-pcrphase-sysinit.service",
];

/// Makes the disk anew; it takes seconds.
pub fn make(folder: &Path, base: &Base, binaries: &Path, cargo: &Path) -> Result<PathBuf> {
    let tree = &base.tree;
    system(tree)?;
    tests(tree, binaries, cargo)?;
    let image = folder.join("disk.ext4");
    let _ = fs::remove_file(&image);
    run(Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d"])
        .args([tree, &image])
        .arg(SIZE))
    .context("mke2fs is in Debian's e2fsprogs")?;
    Ok(image)
}

fn system(tree: &Path) -> Result<()> {
    for folder in [
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "root",
        "var/log",
        "var/tmp",
        "home/many",
        "home/single",
        "longshore",
        "etc/systemd/system",
    ] {
        fs::create_dir_all(tree.join(folder))?;
    }
    for (folder, mode) in
        [("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700), ("home/many", 0o755), ("home/single", 0o755)]
    {
        fs::set_permissions(tree.join(folder), fs::Permissions::from_mode(mode))?;
    }
    for (folder, id) in [("home/many", 1000), ("home/single", 1001)] {
        std::os::unix::fs::chown(tree.join(folder), Some(id), Some(id))
            .context("the image is made as root")?;
    }
    let files = [
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/subuid", "many:100000:65536\n"),
        ("etc/subgid", "many:100000:65536\n"),
        ("etc/hostname", "longshore-vm\n"),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("etc/fstab", ""),
        ("etc/systemd/system/longshore-tests.service", UNIT),
        ("etc/systemd/system/user@.service.d/longshore.conf", USER_INSTANCE),
    ];
    for (path, text) in files {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().context("no parent")?)?;
        fs::write(&path, text).with_context(|| format!("write {path:?}"))?;
    }
    let shell = tree.join("usr/bin/sh");
    if !shell.is_symlink() {
        symlink("bash", shell)?;
    }
    // What Debian's alternatives would be; criu keeps packet filters by them.
    for family in ["iptables", "ip6tables"] {
        for verb in ["", "-save", "-restore"] {
            let path = tree.join(format!("usr/sbin/{family}{verb}"));
            if !path.is_symlink() {
                symlink("xtables-nft-multi", path)?;
            }
        }
    }
    for unit in MASKED {
        let path = tree.join("etc/systemd/system").join(unit);
        if !path.is_symlink() {
            symlink("/dev/null", path)?;
        }
    }
    Ok(())
}

/// Copies the test programs, this one, nextest, and what nextest wants to know of them.
fn tests(tree: &Path, binaries: &Path, cargo: &Path) -> Result<()> {
    let home = tree.join("longshore");
    fs::remove_dir_all(&home)?;
    fs::create_dir_all(home.join("src/.config"))?;
    let text = fs::read(binaries).with_context(|| format!("read {binaries:?}"))?;
    let mut list: Value = serde_json::from_slice(&text).with_context(|| format!("read {binaries:?}"))?;
    let metadata: Value =
        serde_json::from_slice(&fs::read(cargo)?).with_context(|| format!("read {cargo:?}"))?;
    let path = |value: &Value| value.as_str().map(PathBuf::from).context("nextest's list has another form");
    let target = path(&list["rust-build-meta"]["target-directory"])?;
    let workspace = path(&metadata["workspace_root"])?;
    let suites = list["rust-binaries"].as_object_mut().context("nextest's list has another form")?;
    suites.retain(|id, _| SUITES.contains(&id.as_str()));
    for suite in suites.values() {
        copy_below(&path(&suite["binary-path"])?, &target, &home.join("target"))?;
        let manifest = metadata["packages"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|package| package["id"] == suite["package-id"]);
        let manifest = path(&manifest.context("a package is missing")?["manifest_path"])?;
        // Tests start in their package's folder.
        let inside = manifest
            .parent()
            .and_then(|folder| folder.strip_prefix(&workspace).ok())
            .context("a package is elsewhere")?;
        fs::create_dir_all(home.join("src").join(inside))?;
    }
    fs::write(home.join("binaries.json"), serde_json::to_vec(&list)?)?;
    fs::copy(cargo, home.join("cargo.json"))?;
    fs::copy(workspace.join("Cargo.toml"), home.join("src/Cargo.toml"))?;
    fs::copy(workspace.join(".config/nextest.toml"), home.join("src/.config/nextest.toml"))?;
    let own = std::env::current_exe()?;
    fs::copy(&own, home.join("longshore-vm"))?;
    for program in PROGRAMS {
        let program = own.with_file_name(program);
        if program.exists() {
            copy_below(&program, program.parent().context("no parent")?, &home.join("bin"))?;
        }
    }
    let nextest = which("cargo-nextest").context("cargo-nextest is not on PATH: make nextest")?;
    fs::copy(nextest, home.join("cargo-nextest"))?;
    Ok(())
}

fn copy_below(file: &Path, from: &Path, to: &Path) -> Result<()> {
    let target = to.join(file.strip_prefix(from).with_context(|| format!("{file:?} is not below {from:?}"))?);
    fs::create_dir_all(target.parent().context("no parent")?)?;
    fs::copy(file, &target).with_context(|| format!("copy {file:?}"))?;
    Ok(())
}

fn which(name: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(home).map(|folder| folder.join(name)).find(|path| path.is_file())
}
