//! What a restored container's processes are, compared with its config before any of them runs.
//!
//! What always holds: every process of it is looked at, and each of its threads.

use crate::{Error, Result, capabilities};
use oci_spec::runtime::{Capability, LinuxNamespaceType, Spec};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Threads of a restored container that are looked at: more than a pids limit usually allows.
const THREADS: usize = 100_000;

/// No process of an image has more than the config gives: capabilities, a seccomp filter, no_new_privs, other users where it cannot
/// become them, namespaces of its own. They stand still.
pub(crate) fn verify(spec: &Spec, first: i32) -> Result<()> {
    for pid in descendants(first)? {
        verify_namespaces(spec, pid, first)?;
        for thread in threads(pid)? {
            let path = thread.join("status");
            verify_thread(spec, pid, &std::fs::read_to_string(&path).map_err(looking(&path))?)?;
        }
    }
    Ok(())
}

/// A process that stands still, and all that it and those have made, which do so, too.
fn descendants(first: i32) -> Result<Vec<i32>> {
    let (mut found, mut seen, mut count) = (vec![first], 0, 0);
    while let Some(pid) = found.get(seen).copied() {
        seen += 1;
        for thread in threads(pid)? {
            count += 1;
            if count > THREADS {
                return Err(refused(first, format!("it has more than {THREADS} threads")));
            }
            let path = thread.join("children");
            let children = std::fs::read_to_string(&path).map_err(looking(&path))?;
            found.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
    }
    Ok(found)
}

/// Folders of /proc of a process's threads.
fn threads(pid: i32) -> Result<Vec<PathBuf>> {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let entries = std::fs::read_dir(&tasks).map_err(looking(&tasks))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(looking(&tasks))).collect()
}

fn refused(pid: i32, why: String) -> Error {
    Error::UntrustedImage { path: format!("/proc/{pid}").into(), why }
}

fn looking(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing: "look at the restored processes in", path: path.clone(), source }
}

/// Of what `status` says of one thread.
fn verify_thread(spec: &Spec, pid: i32, status: &str) -> Result<()> {
    let field = |name: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.map(str::trim).unwrap_or_default()
    };
    // It has ended, and does nothing any more.
    if field("State").starts_with(['Z', 'X']) {
        return Ok(());
    }
    let process = spec.process().as_ref();
    let allowed = capabilities::all_of(process.and_then(|process| process.capabilities().as_ref()));
    for set in ["CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb"] {
        let has = u64::from_str_radix(field(set), 16).unwrap_or(u64::MAX);
        if has & !allowed != 0 {
            return Err(refused(
                pid,
                format!("the image gives capabilities that the config does not ({set} {:x})", has & !allowed),
            ));
        }
    }
    let linux = spec.linux().as_ref();
    let filtered = linux
        .is_some_and(|linux| linux.seccomp().as_ref().is_some_and(|profile| profile.syscalls().is_some()));
    if filtered && field("Seccomp") != "2" {
        return Err(refused(pid, "the image has no seccomp filter, and the config has".into()));
    }
    let no_new_privileges = process.and_then(|process| process.no_new_privileges()) == Some(true);
    if no_new_privileges && field("NoNewPrivs") != "1" {
        let why = "the restored process has no no_new_privs, and the config has (criu keeps it from 3.18 on)";
        return Err(refused(pid, why.into()));
    }
    verify_users(spec, pid, no_new_privileges, allowed, &field)
}

/// Programs of other users' with set-user-id bits, and capabilities, lead to other users and groups; nothing else does.
fn verify_users<'a>(
    spec: &Spec,
    pid: i32,
    no_new_privileges: bool,
    allowed: u64,
    field: &dyn Fn(&str) -> &'a str,
) -> Result<()> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    // Numbers of a user namespace are not the config's.
    let own_users = namespaces.into_iter().flatten().any(|one| one.typ() == LinuxNamespaceType::User);
    let process = spec.process().as_ref().filter(|_| no_new_privileges && !own_users);
    let Some(user) = process.map(|process| process.user()) else { return Ok(()) };
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    let all_are = |name: &str, is_given: &dyn Fn(u32) -> bool| {
        field(name).split_ascii_whitespace().all(|id| id.parse().is_ok_and(is_given))
    };
    let may = |capability| allowed & capabilities::bit(capability) != 0;
    let is_wrong = [
        ("Uid", !may(Capability::Setuid) && !all_are("Uid", &|id| id == user.uid())),
        ("Gid", !may(Capability::Setgid) && !all_are("Gid", &|id| id == user.gid())),
        (
            "Groups",
            !may(Capability::Setgid) && !all_are("Groups", &|id| id == user.gid() || groups.contains(&id)),
        ),
    ];
    match is_wrong.into_iter().find(|(_, is_wrong)| *is_wrong) {
        None => Ok(()),
        Some((name, _)) => {
            let why =
                format!("the image gives users or groups that the config does not ({name} {})", field(name));
            Err(refused(pid, why))
        }
    }
}

/// The first process is in the namespaces that the config names, and in some of its own otherwise; another one may be in some that it has
/// made itself, and is not in the host's.
fn verify_namespaces(spec: &Spec, pid: i32, first: i32) -> Result<()> {
    for namespace in spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten()
    {
        let name = match namespace.typ() {
            LinuxNamespaceType::Mount => "mnt",
            LinuxNamespaceType::Cgroup => "cgroup",
            LinuxNamespaceType::Uts => "uts",
            LinuxNamespaceType::Ipc => "ipc",
            LinuxNamespaceType::User => "user",
            LinuxNamespaceType::Pid => "pid",
            LinuxNamespaceType::Network => "net",
            LinuxNamespaceType::Time => "time",
        };
        let (theirs, ours) = (
            std::fs::read_link(format!("/proc/{pid}/ns/{name}")),
            std::fs::read_link(format!("/proc/self/ns/{name}")),
        );
        // A process that has ended has none left.
        if pid != first && theirs.is_err() {
            continue;
        }
        let apart = matches!((&theirs, &ours), (Ok(theirs), Ok(ours)) if theirs != ours);
        match namespace.path() {
            None if !apart => {
                let why = format!("the image has no {name} namespace of its own, and the config has");
                return Err(refused(pid, why));
            }
            Some(path)
                if matches!(name, "ipc" | "uts" | "net" | "pid")
                    && !(is_in(pid, name, path) || pid != first && apart) =>
            {
                return Err(refused(pid, format!("it is not in the {name} namespace that the config names")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a process is in the namespace that a file stands for.
fn is_in(pid: i32, name: &str, path: &Path) -> bool {
    let own = std::fs::metadata(format!("/proc/{pid}/ns/{name}"));
    matches!((own, std::fs::metadata(path)), (Ok(own), Ok(named)) if (own.dev(), own.ino()) == (named.dev(), named.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn spec(capabilities: &[&str], no_new_privileges: bool) -> Spec {
        serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "cwd": "/", "args": ["sh"], "user": { "uid": 1000, "gid": 1000, "additionalGids": [5, 6] },
                "noNewPrivileges": no_new_privileges,
                "capabilities": { "bounding": capabilities },
            },
            "linux": { "seccomp": { "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["x"], "action": "SCMP_ACT_ERRNO" }] } },
        }))
        .unwrap()
    }

    fn status(change: &[(&str, &str)]) -> String {
        let mut all = vec![
            ("State", "T (stopped)"),
            ("Uid", "1000\t1000\t1000\t1000"),
            ("Gid", "1000\t1000\t1000\t1000"),
            ("Groups", "5 6 1000"),
            ("CapInh", "0"),
            ("CapPrm", "0"),
            ("CapEff", "0"),
            ("CapBnd", "0"),
            ("CapAmb", "0"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ];
        for (key, value) in change {
            all.iter_mut().filter(|(name, _)| name == key).for_each(|one| one.1 = value);
        }
        all.iter().map(|(name, value)| format!("{name}:\t{value}\n")).collect()
    }

    #[test]
    fn a_thread_with_more_than_the_config_gives_is_refused() {
        let strict = spec(&[], true);
        verify_thread(&strict, 1, &status(&[])).unwrap();
        verify_thread(&strict, 1, &status(&[("Groups", "")])).unwrap();
        for (key, value) in [
            ("CapEff", "1"),
            ("CapBnd", "80"),
            ("CapAmb", "x"),
            ("Seccomp", "0"),
            ("NoNewPrivs", "0"),
            ("Uid", "1000\t0\t0\t0"),
            ("Gid", "1000\t1000\t0\t1000"),
            ("Groups", "5 6 7"),
        ] {
            assert!(verify_thread(&strict, 1, &status(&[(key, value)])).is_err(), "{key} {value}");
            verify_thread(&strict, 1, &status(&[(key, value), ("State", "Z (zombie)")])).unwrap();
        }
        // What it may have become by itself.
        let users = [("Uid", "33\t33\t33\t33"), ("Gid", "33\t33\t33\t33"), ("Groups", "33")];
        verify_thread(&spec(&["CAP_SETUID", "CAP_SETGID"], true), 1, &status(&users)).unwrap();
        verify_thread(&spec(&[], false), 1, &status(&users)).unwrap();
        assert!(verify_thread(&spec(&["CAP_SETGID"], true), 1, &status(&users)).is_err());
    }

    #[test]
    fn every_process_is_looked_at() {
        // The child alone is in a namespace of its own; the shell has the one that is named.
        let script = "unshare --uts sleep 60 & echo; wait";
        let mut command = Command::new("sh");
        let mut shell = command.args(["-c", script]).stdout(std::process::Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let pid = i32::try_from(shell.id()).unwrap();
        let mut child = 0;
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let name = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/uts")).ok();
        while child == 0 || name(child) == name(pid) {
            assert!(std::time::Instant::now() < until, "there is no child with a namespace of its own");
            std::thread::sleep(std::time::Duration::from_millis(5));
            let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
            child = text.trim().parse().unwrap_or(0);
        }
        let visited = |pid| descendants(pid).unwrap();
        let seen = (visited(pid), visited(child));
        let named = |path: String| -> Spec {
            let namespaces = serde_json::json!([{ "type": "uts", "path": path }]);
            serde_json::from_value(
                serde_json::json!({ "ociVersion": "1.0.2", "linux": { "namespaces": namespaces } }),
            )
            .unwrap()
        };
        let (of_shell, of_child) =
            (named(format!("/proc/{pid}/ns/uts")), named(format!("/proc/{child}/ns/uts")));
        let found = [
            verify_namespaces(&of_shell, pid, pid).is_ok(),
            // It has made one itself.
            verify_namespaces(&of_shell, child, pid).is_ok(),
            verify_namespaces(&of_child, child, child).is_ok(),
            verify_namespaces(&of_child, pid, pid).is_ok(),
            // In the host's, and the config names another one.
            verify_namespaces(&of_child, pid, child).is_ok(),
        ];
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(child).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        shell.wait().unwrap();
        assert_eq!(seen, (vec![pid, child], vec![child]));
        assert_eq!(found, [true, true, true, false, false]);
    }
}
