//! Dumping a container to files, by criu.

use crate::cgroups::CgroupPaths;
use crate::criu::{self, DESCRIPTORS, MASK, Parent};
use crate::criu_service::{Criu, Kind, Message, Passed, field};
use crate::{Error, Result, paths};
use oci_spec::runtime::Spec;
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
    /// Memory stays with criu, which hands it out over the network and ends when all of it was fetched.
    pub lazy_pages: bool,
    /// A descriptor of this process to which criu writes a zero byte when lazy pages are ready.
    pub status_fd: Option<u32>,
    /// Where memory goes to; with lazy pages where it is asked for.
    pub page_server: Option<(&'a str, u16)>,
}

/// A dump that is ready to be run; it may be moved to a thread, as it takes its time.
pub struct Checkpoint {
    criu: PathBuf,
    kind: Kind,
    request: Message,
    /// The folders, until criu has opened them.
    passed: Passed,
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
        let (kind, log) = match options.pre_dump {
            true => (Kind::PreDump, "pre-dump.log"),
            false => (Kind::Dump, "dump.log"),
        };
        let (mut passed, mut request) = (Passed::default(), Message::default());
        request.number(field::IMAGES, passed.keep_folder(options.image)?.into());
        if let Some(work) = options.work {
            request.number(field::WORK, passed.keep_folder(work)?.into());
        }
        request.number(field::PID, options.pid.unsigned_abs().into());
        request.text(field::LOG_FILE, log);
        request.number(field::LOG_LEVEL, 4);
        if let Some(parent) = options.parent.filter(|parent| !parent.is_empty()) {
            let path = Path::new(parent);
            criu::check_parent(path).map_err(|why| Error::UntrustedImage { path: path.into(), why })?;
            criu::check_image(&options.image.join(path), Parent::Linked)?;
            request.text(field::PARENT, parent);
        }
        let tracks = options.pre_dump || options.parent.is_some_and(|parent| !parent.is_empty());
        let terminal = options.spec.process().as_ref().and_then(|process| process.terminal()) == Some(true);
        let flags = [
            (field::TRACK_MEMORY, tracks),
            (field::LEAVE_RUNNING, options.leave_running && !options.pre_dump),
            (field::TCP, options.tcp_established),
            (field::TCP_SKIP_IN_FLIGHT, options.tcp_skip_in_flight),
            (field::LINK_REMAP, options.link_remap),
            (field::UNIX_SOCKETS, options.external_unix_sockets),
            (field::SHELL_JOB, options.shell_job),
            (field::FILE_LOCKS, options.file_locks),
            (field::AUTO_DEDUP, options.auto_dedup),
            (field::LAZY_PAGES, options.lazy_pages),
            // Its master side is ours, and a restore makes another one.
            (field::TERMINAL, terminal && !options.pre_dump),
        ];
        flags.into_iter().for_each(|(field, is_set)| request.flag(field, is_set));
        if let Some(fd) = options.status_fd {
            request.number(field::STATUS_FD, fd.into());
        }
        if let Some((address, port)) = options.page_server {
            request.page_server(address, port);
        }
        if !options.pre_dump {
            add_details(&mut request, options)?;
        }
        let log = options.work.unwrap_or(options.image).join(log);
        Ok(Checkpoint { criu, kind, request, passed, log })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// criu's own words.
    pub fn run(mut self) -> Result<()> {
        let criu = Criu::start(&self.criu, &mut self.passed, None, || Ok(()))?;
        let done = criu.ask(self.kind, self.request, criu::PATIENCE);
        done.map(drop).map_err(|why| {
            let words = criu::last_words(&self.log);
            Error::Criu { doing: "dump", why: if words.is_empty() { why } else { words }, log: self.log }
        })
    }
}

fn add_details(request: &mut Message, options: &CheckpointOptions<'_>) -> Result<()> {
    let mode = options.cgroups_mode.filter(|mode| !mode.is_empty()).unwrap_or("soft");
    // Numbers of `criu_cg_mode`.
    let modes = [("ignore", 0), ("soft", 3), ("full", 4), ("strict", 5)];
    let Some((_, number)) = modes.into_iter().find(|(name, _)| *name == mode) else {
        let why = format!("{mode:?} is none of soft, full, strict and ignore");
        return Err(Error::InvalidSpec { field: "manage-cgroups-mode".into(), why });
    };
    // criu thaws what it has seized, and leaves it frozen as it was.
    if options.cgroups.is_frozen()
        && let Some(path) = options.cgroups.freezer_folder()
    {
        request.text(field::FREEZER, path.as_os_str().as_bytes());
    }
    // Cgroups come from the config at a restore; what is in the image is for other runtimes.
    request.number(field::CGROUPS_MODE, number);
    criu::empty_namespaces(options.empty_namespaces, request)?;
    let mounted = mounts_of(options.pid)?;
    for external in criu::externals(options.spec, options.bundle, options.cgroups) {
        if mounted.points.contains(&external.inside) {
            request.text(field::EXTERNAL, format!("mnt[{0}]:{0}", external.inside));
        }
    }
    for path in
        options.spec.linux().as_ref().and_then(|linux| linux.masked_paths().as_ref()).into_iter().flatten()
    {
        let path = format!("/{}", paths::clean(path));
        if mounted.points.contains(&path) && !mounted.folders.contains(&path) {
            request.text(field::EXTERNAL, format!("mnt[{path}]:{MASK}"));
        }
    }
    for (kind, key, path) in criu::shared_namespaces(options.spec) {
        // The path of another process's may lead elsewhere by now; this namespace a process never leaves.
        let path = if kind == "pid" { format!("/proc/{}/ns/pid", options.pid).into() } else { path };
        let inode = std::fs::metadata(&path)
            .map_err(|source| Error::Io { doing: "look at the namespace", path, source })?
            .ino();
        request.text(field::EXTERNAL, format!("{kind}[{inode}]:{key}"));
    }
    let descriptors = descriptors(options.pid, &mounted)?;
    for key in descriptors.iter().filter(|key| key.starts_with("file[")).collect::<HashSet<_>>() {
        request.text(field::EXTERNAL, key);
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
        let point = unescaped(point);
        mounts.ids.insert(id.to_owned());
        if after.starts_with("tmpfs ") {
            mounts.folders.insert(point.clone());
        }
        mounts.points.insert(point);
    }
    Ok(mounts)
}

/// A path of mountinfo: space, tab, newline and backslash are written as `\` and three octal digits.
fn unescaped(written: &str) -> String {
    let mut path = String::with_capacity(written.len());
    let mut rest = written;
    while let Some(at) = rest.find('\\') {
        path.push_str(&rest[..at]);
        let code =
            rest.get(at + 1..at + 4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
        let code = code.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii);
        path.push(code.map_or('\\', char::from));
        rest = &rest[at + if code.is_some() { 4 } else { 1 }..];
    }
    path + rest
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

#[cfg(test)]
mod tests {
    use super::unescaped;

    #[test]
    fn paths_of_mountinfo_are_read_as_the_kernel_writes_them() {
        for (written, path) in [
            ("/plain", "/plain"),
            ("/a\\040b\\011c\\012d", "/a b\tc\nd"),
            ("/a\\134040", "/a\\040"),
            ("/ä\\040", "/ä "),
            ("/\\04", "/\\04"),
            ("\\", "\\"),
        ] {
            assert_eq!(unescaped(written), path);
        }
    }
}
