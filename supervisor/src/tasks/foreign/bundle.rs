//! What the bundle of a foreign shim holds besides what ours have: the `log` FIFO, the `work` folder, a note of every exec,
//! and whatever the shim puts there.
//!
//! What always holds: a record in `told` means that the exit was published, while `exit` is the shim's own affair; the bundle
//! is removed only after what was mounted in it is gone.

#![forbid(unsafe_code)]

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use longshore_proto::longshore::shim::v1::ExitRecord;
use prost::Message;
use rustix::fs::{FileType, Mode};

use super::super::bundle::{Bundle, CreateRecord, tasks_folder};
use super::super::types::TaskStdio;
use super::mounts;
use crate::error::{Error, Result};
use crate::namespaces::Namespace;

/// The FIFO into which the shim logs.
pub const LOG: &str = "log";

/// Exits that were published.
const TOLD: &str = "told";

/// An exec, as the daemon after this one needs to know it.
#[derive(Clone, PartialEq, Message)]
struct ExecRecord {
    #[prost(string, tag = "1")]
    stdin: String,
    #[prost(string, tag = "2")]
    stdout: String,
    #[prost(string, tag = "3")]
    stderr: String,
    #[prost(bool, tag = "4")]
    terminal: bool,
}

/// The folder of all working folders, which survive what the state folder does not.
pub fn work_folder(root: &Path) -> PathBuf {
    root.join("work")
}

/// Makes the bundle of a foreign shim. On an error nothing of it is left.
///
/// # Errors
/// I/O.
pub fn create(
    state: &Path,
    root: &Path,
    namespace: &Namespace,
    id: &str,
    spec: &[u8],
    record: &CreateRecord,
) -> Result<Bundle> {
    let bundle = Bundle::create(state, namespace, id, spec, record)?;
    let work = work_folder(root).join(namespace.as_str()).join(id);
    let fill = || {
        mounts::remove_folder(&work)?;
        fs::create_dir_all(&work)?;
        fs::set_permissions(&work, Permissions::from_mode(0o711))?;
        symlink(&work, bundle.path().join("work"))?;
        fs::create_dir(bundle.path().join("execs"))?;
        fs::create_dir(bundle.path().join(TOLD))?;
        fs::set_permissions(bundle.path().join("rootfs"), Permissions::from_mode(0o711))?;
        let fifo = bundle.path().join(LOG);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o700), 0)?;
        if let Some(gid) = remapped_group(spec) {
            let_through(state, &bundle, gid)?;
        }
        Ok::<_, io::Error>(())
    };
    match fill() {
        Ok(()) => Ok(bundle),
        Err(error) => {
            remove(&bundle);
            Err(Error::io("writing the bundle", bundle.path(), error))
        }
    }
}

/// The group that the container's group 0 is outside of its user namespace.
fn remapped_group(spec: &[u8]) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct Spec {
        linux: Option<Linux>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Linux {
        gid_mappings: Option<Vec<Mapping>>,
    }
    #[derive(serde::Deserialize)]
    struct Mapping {
        #[serde(rename = "containerID")]
        container: u32,
        #[serde(rename = "hostID")]
        host: u32,
    }
    let mappings = serde_json::from_slice::<Spec>(spec).ok()?.linux?.gid_mappings?;
    mappings.iter().find(|mapping| mapping.container == 0).map(|mapping| mapping.host).filter(|gid| *gid != 0)
}

/// Lets a container's root that is not the host's reach its root file system: through the folders on the way, which it
/// cannot list, into its own bundle.
fn let_through(state: &Path, bundle: &Bundle, gid: u32) -> io::Result<()> {
    chown(bundle.path(), None, Some(gid))?;
    fs::set_permissions(bundle.path(), Permissions::from_mode(0o710))?;
    let tasks = tasks_folder(state);
    for folder in
        bundle.path().ancestors().skip(1).take_while(|folder| folder.starts_with(&tasks)).chain([state])
    {
        let mode = fs::metadata(folder)?.permissions().mode();
        fs::set_permissions(folder, Permissions::from_mode(mode & 0o7777 | 0o001))?;
    }
    Ok(())
}

/// Removes a foreign shim's bundle, its working folder and whatever is mounted in it.
pub fn remove(bundle: &Bundle) {
    let path = bundle.path();
    if let Ok(work) = fs::read_link(path.join("work"))
        && let Err(error) = mounts::remove_folder(&work)
    {
        tracing::warn!(folder = %work.display(), %error, "cannot remove a working folder");
    }
    if let Err(error) = mounts::remove_folder(path) {
        tracing::error!(bundle = %path.display(), %error, "cannot remove the bundle");
        return;
    }
    // Fail while others use them.
    let _ = path.parent().map(fs::remove_dir);
}

/// Removes working folders that belong to no bundle: the state folder is gone after a reboot, they are not.
pub fn sweep_work(state: &Path, root: &Path) {
    let tasks = tasks_folder(state);
    let namespaces = fs::read_dir(work_folder(root)).into_iter().flatten().flatten();
    for namespace in namespaces {
        let bundles = tasks.join(namespace.file_name());
        for work in fs::read_dir(namespace.path()).into_iter().flatten().flatten() {
            if !bundles.join(work.file_name()).exists()
                && let Err(error) = mounts::remove_folder(&work.path())
            {
                tracing::warn!(folder = %work.path().display(), %error, "cannot remove a working folder");
            }
        }
        // Only if it is empty.
        let _ = fs::remove_dir(namespace.path());
    }
}

/// Notes an exec for the daemon after this one.
pub fn note_exec(bundle: &Bundle, exec_id: &str, stdio: &TaskStdio) -> io::Result<()> {
    let TaskStdio { stdin, stdout, stderr, terminal } = stdio.clone();
    let record = ExecRecord { stdin, stdout, stderr, terminal };
    fs::write(bundle.path().join("execs").join(exec_id), record.encode_to_vec())
}

/// The exec is deleted: its note and its exit record go.
pub fn forget_exec(bundle: &Bundle, exec_id: &str) {
    for folder in ["execs", TOLD] {
        let _ = fs::remove_file(bundle.path().join(folder).join(exec_id));
    }
}

/// Notes that an end was published, by rename.
///
/// # Errors
/// `NotFound`: the bundle is gone.
pub fn note_told(bundle: &Bundle, record: &ExitRecord) -> io::Result<()> {
    let (folder, name) = (bundle.path().join(TOLD), file_name(&record.exec_id));
    let temporary = folder.join(format!(".{name}"));
    fs::write(&temporary, record.encode_to_vec())?;
    fs::rename(temporary, folder.join(name))
}

/// The end of a process that was published.
pub fn told(bundle: &Bundle, exec_id: &str) -> Option<ExitRecord> {
    let bytes = fs::read(bundle.path().join(TOLD).join(file_name(exec_id))).ok()?;
    ExitRecord::decode(bytes.as_slice()).ok()
}

/// No exec has such an id.
fn file_name(exec_id: &str) -> &str {
    if exec_id.is_empty() { "-" } else { exec_id }
}

/// Every exec that was noted.
pub fn execs(bundle: &Bundle) -> Vec<(String, TaskStdio)> {
    let entries = fs::read_dir(bundle.path().join("execs")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let record = ExecRecord::decode(fs::read(entry.path()).ok()?.as_slice()).ok()?;
            let ExecRecord { stdin, stdout, stderr, terminal } = record;
            Some((entry.file_name().into_string().ok()?, TaskStdio { stdin, stdout, stderr, terminal }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_bundle_has_what_shims_expect_and_goes_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (state, root) = (folder.path().join("state"), folder.path().join("root"));
        let namespace = Namespace::parse("ns").unwrap();
        let record = CreateRecord::default();
        let bundle = create(&state, &root, &namespace, "c1", b"{}", &record).unwrap();
        for name in ["config.json", "rootfs", "work", "log"] {
            assert!(bundle.path().join(name).exists(), "{name}");
        }
        let stdio = TaskStdio { stdout: "/fifo".into(), terminal: true, ..TaskStdio::default() };
        note_exec(&bundle, "e1", &stdio).unwrap();
        assert_eq!(execs(&bundle), [("e1".to_owned(), stdio)]);
        for exec_id in ["", "e1"] {
            let exit = ExitRecord { exec_id: exec_id.into(), exit_status: 7, ..ExitRecord::default() };
            note_told(&bundle, &exit).unwrap();
            assert_eq!(told(&bundle, exec_id).unwrap(), exit);
        }
        forget_exec(&bundle, "e1");
        assert!(execs(&bundle).is_empty() && told(&bundle, "e1").is_none() && told(&bundle, "").is_some());
        fs::write(bundle.path().join("rootfs/what the shim left"), "").unwrap();
        let (work, lone) = (work_folder(&root).join("ns/c1"), work_folder(&root).join("ns/c0"));
        fs::create_dir(&lone).unwrap();
        sweep_work(&state, &root);
        assert!(work.exists() && !lone.exists());
        remove(&bundle);
        assert!(!bundle.path().exists() && !work.exists());
    }

    #[test]
    fn a_remapped_root_is_found_in_the_spec() {
        let spec = br#"{"linux":{"gidMappings":[{"containerID":1,"hostID":5,"size":1},{"containerID":0,"hostID":1000,"size":1}]}}"#;
        assert_eq!(remapped_group(spec), Some(1000));
        assert_eq!(remapped_group(b"{}"), None);
    }
}
