//! Debian's tree, and programs of Debian's packages as images that longshore itself makes: by import, run, cp and commit.
//!
//! What always holds: a tree or an archive has its name only when it is whole, and is made by one test at a time; no server of
//! a package ever runs on the host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::daemon::{Daemon, finish};
use crate::image;

/// What an image of the tree leaves out.
const UNNEEDED: [&str; 5] = [
    "./var/cache/apt/*",
    "./var/lib/apt/lists/*",
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
];

/// How long packages may take to come and to be installed.
const INSTALL_TIME: Duration = Duration::from_secs(240);

/// Says to Debian's packages that nothing is to be started, made or documented; then installs those in `$@`.
const INSTALL: &str = r#"
printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 0755 /usr/sbin/policy-rc.d
mkdir -p /etc/postgresql-common
echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
printf 'path-exclude=/usr/share/%s/*\n' doc man locale > /etc/dpkg/dpkg.cfg.d/small
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "$@" > /tmp/log 2>&1 || { cat /tmp/log; exit 1; }
apt-get clean
rm -rf /var/lib/apt/lists/* /tmp/log
"#;

/// Waits until nobody else has it, and has it until the file is closed.
fn lock(path: &Path) -> Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    file.lock().with_context(|| format!("waiting for {}", path.display()))?;
    Ok(file)
}

/// Debian's tree, made once and kept in `folder`.
pub fn tree(folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("debian");
    let done = tree.with_extension("complete");
    let _lock = lock(&tree.with_extension("lock"))?;
    if !done.exists() {
        let _ = fs::remove_dir_all(&tree);
        let made = Command::new("debootstrap")
            .args(["--variant=minbase", "bookworm"])
            .arg(&tree)
            .output()
            .context("debootstrap runs")?;
        ensure!(made.status.success(), "debootstrap: {}", String::from_utf8_lossy(&made.stdout));
        fs::write(&done, "")?;
    }
    Ok(tree)
}

/// How an image of a program is made.
pub struct Recipe {
    pub name: &'static str,
    /// Debian's packages.
    pub packages: &'static [&'static str],
    /// What else is to be done, by a shell.
    pub script: &'static str,
    /// Files of mode 0755: where, and what is in them.
    pub files: &'static [(&'static str, &'static str)],
    /// Lines of a Dockerfile.
    pub changes: &'static [&'static str],
}

impl Recipe {
    /// Brings `NAME:1` to a daemon; the archive of it is kept in `folder`, and made there when the recipe has changed.
    pub fn provide(&self, daemon: &Daemon, folder: &Path) -> Result<String> {
        let reference = format!("{}:1", self.name);
        let archive = folder.join(format!("{}-{}.tar", self.name, self.mark()));
        let _lock = lock(&folder.join(format!("{}.lock", self.name)))?;
        if archive.exists() {
            daemon.ctl(&["load", "-q", "-i", &archive.display().to_string()]).ok();
            return Ok(reference);
        }
        for old in fs::read_dir(folder)?.flatten() {
            let name = old.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("{}-", self.name)) && name.ends_with(".tar") {
                fs::remove_file(old.path())?;
            }
        }
        self.make(daemon, &tree(folder)?, &reference)?;
        let whole = folder.join(format!("{}.new", self.name));
        daemon.ctl(&["save", "-o", &whole.display().to_string(), &reference]).ok();
        fs::rename(whole, archive)?;
        Ok(reference)
    }

    /// Differs when anything of the recipe does.
    fn mark(&self) -> String {
        let all = format!("{INSTALL}{:?}{}{:?}{:?}", self.packages, self.script, self.files, self.changes);
        image::digest(all.as_bytes())["sha256:".len()..][..12].to_owned()
    }

    fn make(&self, daemon: &Daemon, tree: &Path, reference: &str) -> Result<()> {
        import(daemon, tree)?;
        let script = format!("set -e{INSTALL}{}", self.script);
        let mut create = vec!["create".to_owned(), "--name=making".into(), "--network=host".into()];
        for proxy in ["http_proxy", "https_proxy"].iter().filter(|name| std::env::var_os(name).is_some()) {
            create.extend(["-e".to_owned(), (*proxy).to_owned()]);
        }
        create.extend(["debian:12", "sh", "-c", &script, "sh"].map(str::to_owned));
        create.extend(self.packages.iter().map(|&package| package.to_owned()));
        daemon.ctl(&create).ok();
        daemon.ctl(&["start", "making"]).ok();
        let deadline = Instant::now() + INSTALL_TIME;
        let status =
            || daemon.ctl(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "making"]).ok();
        while status().line().starts_with("running") {
            ensure!(Instant::now() < deadline, "installing {:?} takes too long", self.packages);
            std::thread::sleep(Duration::from_millis(200));
        }
        let log = daemon.ctl(&["logs", "making"]).ok().stdout;
        ensure!(status().line() == "exited 0", "installing {:?}: {log}", self.packages);
        for (place, content) in self.files {
            put(daemon, "making", place, content)?;
        }
        let mut commit = vec!["commit".to_owned()];
        commit.extend(self.changes.iter().flat_map(|&change| ["-c".to_owned(), change.to_owned()]));
        commit.extend(["making", reference].map(str::to_owned));
        daemon.ctl(&commit).ok();
        daemon.ctl(&["rm", "making"]).ok();
        Ok(())
    }
}

/// The tree becomes `debian:12`.
fn import(daemon: &Daemon, tree: &Path) -> Result<()> {
    let mut tar = Command::new("tar")
        .args(["--create", "--numeric-owner", "--directory"])
        .arg(tree)
        .args(UNNEEDED.map(|what| format!("--exclude={what}")))
        .arg(".")
        .stdout(Stdio::piped())
        .spawn()
        .context("tar runs")?;
    let path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let import = daemon
        .ctl_command(&["import", "-c", path, "-c", "CMD [\"bash\"]", "-", "debian:12"])
        .stdin(tar.stdout.take().context("the pipe of tar")?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    finish(import)?.ok();
    ensure!(tar.wait()?.success(), "tar packs {}", tree.display());
    Ok(())
}

/// Puts a file of mode 0755 into a container.
pub fn put(daemon: &Daemon, container: &str, place: &str, content: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let file = daemon.path().join("put");
    fs::write(&file, content)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    daemon.ctl(&["cp", &file.display().to_string(), &format!("{container}:{place}")]).ok();
    Ok(fs::remove_file(file)?)
}
