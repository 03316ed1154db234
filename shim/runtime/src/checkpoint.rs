//! Dumping a container to files, by criu.

use crate::cgroups::CgroupPaths;
use crate::criu::{self, DESCRIPTORS, MASK, Parent};
use crate::{Error, Result, paths};
use oci_spec::runtime::Spec;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is dumped, where to, and how.
pub struct CheckpointOptions<'a> {
    /// The criu program; a bare name is looked up.
    pub criu: &'a Path,
    /// The container's first process, its cgroups, config and bundle.
    pub pid: i32,
    pub cgroups: &'a CgroupPaths,
    pub spec: &'a Spec,
    pub bundle: &'a Path,
    /// Folder of the image files: made with mode 0700, or one with plain files only.
    pub image: &'a Path,
    /// Folder of criu's logs; `None`: the image's.
    pub work: Option<&'a Path>,
    /// Folder of an earlier image, relative to this one's: `../NAME` or `NAME`.
    pub parent: Option<&'a str>,
    /// Memory only, while the container runs on.
    pub pre_dump: bool,
    pub leave_running: bool,
    pub tcp_established: bool,
    /// Leave out connections that are being made.
    pub tcp_skip_in_flight: bool,
    /// Files that have no name any more get one for the restore.
    pub link_remap: bool,
    pub external_unix_sockets: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub auto_dedup: bool,
    /// soft, full, strict or ignore.
    pub cgroups_mode: Option<&'a str>,
    /// Namespaces that are made at a restore, but whose contents are not kept.
    pub empty_namespaces: &'a [String],
}

/// A dump that is ready to be run.
pub struct Checkpoint {
    /// criu with its arguments: to be run once, then [`Checkpoint::failure`] says why it failed, if it did.
    pub command: Command,
    log: PathBuf,
}

impl Checkpoint {
    /// Prepares a dump; the image folder exists afterwards.
    ///
    /// # Errors
    /// criu is not there, a folder with links in it, or options that make no sense.
    pub fn prepare(options: &CheckpointOptions<'_>) -> Result<Checkpoint> {
        let criu = criu::find(options.criu)?;
        criu::check_folder(options.image, true)?;
        if let Some(work) = options.work {
            criu::check_folder(work, false)?;
        }
        let name = if options.pre_dump { "pre-dump" } else { "dump" };
        let log = format!("{name}.log");
        let mut command = Command::new(criu);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.args([name, "--tree", &options.pid.to_string(), "-v4", "--log-file", &log]);
        command.arg("--images-dir").arg(options.image);
        if let Some(work) = options.work {
            command.arg("--work-dir").arg(work);
        }
        if let Some(parent) = options.parent.filter(|parent| !parent.is_empty()) {
            let path = Path::new(parent);
            criu::check_parent(path).map_err(|why| Error::UntrustedImage { path: path.into(), why })?;
            criu::check_image(&options.image.join(path), Parent::Linked)?;
            command.args(["--prev-images-dir", parent, "--track-mem"]);
        } else if options.pre_dump {
            command.arg("--track-mem");
        }
        let terminal = options.spec.process().as_ref().and_then(|process| process.terminal()) == Some(true);
        if !options.pre_dump {
            add_details(&mut command, options)?;
        }
        let flags = [
            ("--leave-running", options.leave_running && !options.pre_dump),
            ("--tcp-established", options.tcp_established),
            ("--skip-in-flight", options.tcp_skip_in_flight),
            ("--link-remap", options.link_remap),
            ("--ext-unix-sk", options.external_unix_sockets),
            // Otherwise criu refuses a terminal whose master side is not in the image. A restore gets a new one.
            ("--shell-job", options.shell_job || terminal),
            ("--file-locks", options.file_locks),
            ("--auto-dedup", options.auto_dedup),
        ];
        command.args(flags.iter().filter(|(_, on)| *on).map(|(flag, _)| flag));
        Ok(Checkpoint { command, log: options.work.unwrap_or(options.image).join(log) })
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Result<()> {
        let output = self.command.stderr(Stdio::piped()).output();
        let output = output.map_err(|source| Error::System { doing: "run criu", source })?;
        match (output.status.success(), self.failure()) {
            (true, _) => Ok(()),
            // Before it has a log it tells its stderr.
            (false, Error::Criu { doing, why, log }) if why.is_empty() => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(Error::Criu { doing, why: format!("{} {said}", output.status), log })
            }
            (false, failure) => Err(failure),
        }
    }

    /// Why criu failed, in its own words.
    pub fn failure(&self) -> Error {
        Error::Criu { doing: "dump", why: criu::last_words(&self.log), log: self.log.clone() }
    }
}

fn add_details(command: &mut Command, options: &CheckpointOptions<'_>) -> Result<()> {
    let mode = options.cgroups_mode.filter(|mode| !mode.is_empty()).unwrap_or("soft");
    if !["soft", "full", "strict", "ignore"].contains(&mode) {
        let why = format!("{mode:?} is none of soft, full, strict and ignore");
        return Err(Error::InvalidSpec { field: "manage-cgroups-mode".into(), why });
    }
    // Cgroups come from the config at a restore; what is in the image is for other runtimes.
    command.arg(format!("--manage-cgroups={mode}"));
    for namespace in options.empty_namespaces {
        command.args(["--empty-ns", if namespace == "network" { "net" } else { namespace }]);
    }
    let mounted = mounts_of(options.pid)?;
    for external in criu::externals(options.spec, options.bundle, options.cgroups) {
        if mounted.points.contains(&external.inside) {
            command.args(["--external", &format!("mnt[{0}]:{0}", external.inside)]);
        }
    }
    for path in
        options.spec.linux().as_ref().and_then(|linux| linux.masked_paths().as_ref()).into_iter().flatten()
    {
        let path = format!("/{}", paths::clean(path));
        if mounted.points.contains(&path) && !mounted.folders.contains(&path) {
            command.args(["--external", &format!("mnt[{path}]:{MASK}")]);
        }
    }
    for (kind, key, path) in criu::shared_namespaces(options.spec) {
        let inode = std::fs::metadata(&path)
            .map_err(|source| Error::Io { doing: "look at the namespace", path, source })?
            .ino();
        command.args(["--external", &format!("{kind}[{inode}]:{key}")]);
    }
    let descriptors = descriptors(options.pid, &mounted)?;
    for key in descriptors.iter().filter(|key| key.starts_with("file[")).collect::<HashSet<_>>() {
        command.args(["--external", key]);
    }
    let path = options.image.join(DESCRIPTORS);
    let text = serde_json::to_vec(&descriptors).unwrap_or_default();
    std::fs::write(&path, text).map_err(|source| Error::Io { doing: "write", path, source })?;
    Ok(())
}

/// The mounts of a process.
struct Mounts {
    ids: HashSet<String>,
    points: HashSet<String>,
    /// Those that hide folders: an empty tmpfs.
    folders: HashSet<String>,
}

fn mounts_of(pid: i32) -> Result<Mounts> {
    let path = PathBuf::from(format!("/proc/{pid}/mountinfo"));
    let text = std::fs::read_to_string(&path).map_err(|source| Error::Io {
        doing: "read the mounts in",
        path,
        source,
    })?;
    let mut mounts = Mounts { ids: HashSet::new(), points: HashSet::new(), folders: HashSet::new() };
    for line in text.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut before = before.split(' ');
        let (Some(id), Some(point)) = (before.next(), before.nth(3)) else { continue };
        let point = point.replace("\\040", " ");
        mounts.ids.insert(id.to_owned());
        if after.starts_with("tmpfs ") {
            mounts.folders.insert(point.clone());
        }
        mounts.points.insert(point);
    }
    Ok(mounts)
}

/// What the process's stdio is, by the names that criu has for what comes from outside: pipes, and files that are on no
/// mount of the container.
fn descriptors(pid: i32, mounted: &Mounts) -> Result<Vec<String>> {
    (0..3).map(|number| describe(pid, number, mounted)).collect()
}

fn describe(pid: i32, number: u32, mounted: &Mounts) -> Result<String> {
    let path = PathBuf::from(format!("/proc/{pid}/fd/{number}"));
    let Ok(target) = std::fs::read_link(&path) else { return Ok(String::new()) };
    let target = target.to_string_lossy().into_owned();
    let failed = |source| Error::Io { doing: "look at the process's", path: path.clone(), source };
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).map_err(failed)?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim).unwrap_or_default();
    if !target.starts_with('/') || mounted.ids.contains(id) {
        return Ok(target);
    }
    let inode = std::fs::metadata(&path).map_err(failed)?.ino();
    let id: u32 = id.parse().map_err(|_| failed(std::io::ErrorKind::InvalidData.into()))?;
    Ok(format!("file[{id:x}:{inode:x}]"))
}
