//! What `make install` and `make deb` put where, and that nothing of it is left behind: with the programs of this build.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use longshore_tests::daemon::{Output, program, run};

/// `make` in the repository, with the programs beside this test and its own folder for what it makes.
fn make(target: &Path, arguments: &[String]) -> Output {
    let programs = program("longshore");
    let mut command = Command::new("make");
    command
        .arg("-s")
        .arg("-C")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .arg(format!("BINARIES={}", programs.parent().expect("a folder").display()))
        .arg(format!("TARGET={}", target.display()))
        .args(arguments)
        .env("DPKG_DEB_COMPRESSOR_TYPE", "none")
        .env_remove("MAKEFLAGS");
    run(&mut command).expect("make runs")
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => drop(found.insert(path)),
        }
    }
    found
}

#[test]
fn everything_is_installed_and_everything_is_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (target, stage) = (folder.path().join("target"), folder.path().join("stage"));
    fs::create_dir(&target).expect("a folder");
    let variables = [format!("DESTDIR={}", stage.display()), "PREFIX=/opt/ls".to_string()];
    let with = |goal: &str| [&variables[..], &[goal.to_string()]].concat();
    make(&target, &with("install-files")).ok();
    for (path, words) in [
        ("opt/ls/bin/longshored", ""),
        ("opt/ls/bin/containerd-shim-longshore-v1", ""),
        ("opt/ls/lib/systemd/system/longshored.service", "ExecStart=/opt/ls/bin/longshored\n"),
        ("opt/ls/lib/systemd/system/longshored.service", "KillMode=process\n"),
        ("opt/ls/lib/sysusers.d/longshore.conf", "g longshore -"),
        ("opt/ls/lib/tmpfiles.d/longshore.conf", "/run/longshore"),
        ("opt/ls/share/man/man1/longshore.1", "longshore\\-container(1)"),
        ("opt/ls/share/man/man1/longshore-run.1", ".TH LONGSHORE-RUN 1 \" \" \"longshore "),
        ("opt/ls/share/man/man1/longshore-container-ls.1", "\\-\\-filter"),
        ("opt/ls/share/man/man8/longshored.8", "\\-\\-log\\-level"),
        ("opt/ls/share/man/man8/longshore-runtime.8", ".SH \"longshore-runtime exec\""),
        ("opt/ls/share/man/man8/longshore-snapshotter.8", "\\-\\-driver"),
        ("opt/ls/share/man/man8/containerd-shim-longshore-v1.8", "publish\\-binary"),
        ("opt/ls/share/bash-completion/completions/longshore", "__complete"),
        ("opt/ls/share/zsh/site-functions/_longshore", "#compdef longshore"),
        ("opt/ls/share/fish/vendor_completions.d/longshore.fish", "complete -c longshore"),
        ("etc/longshore/config.toml", "[grpc]"),
    ] {
        let bytes = fs::read(stage.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(String::from_utf8_lossy(&bytes).contains(words), "{path} has {words:?}");
    }
    // The configuration that is installed is one that the daemon takes.
    let config = stage.join("etc/longshore/config.toml");
    let mut dump = Command::new(stage.join("opt/ls/bin/longshored"));
    run(dump.arg("--config").arg(&config).args(["config", "dump"])).expect("it runs").ok();

    // What the user has changed is kept by another installation, and by a removal.
    fs::write(&config, "log_level = \"warn\"\n").expect("a file");
    make(&target, &with("install-files")).ok();
    make(&target, &with("uninstall")).ok();
    assert_eq!(files(&stage), BTreeSet::from([config.clone()]));
    assert_eq!(fs::read_to_string(config).expect("a file"), "log_level = \"warn\"\n");
}

#[test]
#[cfg_attr(not(have_dpkg_deb), ignore = "needs dpkg-deb (package dpkg)")]
fn a_debian_package_is_built() {
    let folder = tempfile::tempdir().expect("a folder");
    make(folder.path(), &["deb-files".to_string()]).ok();
    let package = files(&folder.path().join("deb")).into_iter().next().expect("a package");
    let ask = |option: &str| {
        let mut command = Command::new("dpkg-deb");
        run(command.arg(option).arg(&package)).expect("dpkg-deb runs").ok().stdout
    };
    let control = ask("--field");
    assert!(control.contains("Package: longshore\n") && control.contains("libc6"), "{control}");
    let contents = ask("--contents");
    for path in
        ["./usr/bin/longshored", "./usr/share/man/man1/longshore-run.1.gz", "./etc/longshore/config.toml"]
    {
        let line = contents
            .lines()
            .find(|line| line.ends_with(path))
            .unwrap_or_else(|| panic!("{path}: {contents}"));
        assert!(line.contains("root/root"), "{line}");
    }
    let info = ask("--info");
    for file in ["conffiles", "md5sums", "postinst", "postrm", "prerm"] {
        assert!(info.contains(file), "{info}");
    }
    assert!(!folder.path().join("deb/stage").exists(), "what was staged is gone");
}
