//! `--security-opt`, whose seccomp profile is a file of the client's, and the namespaces' modes.

use std::path::Path;

use crate::failure::{Failure, errno_text};

/// A longer file is no seccomp profile.
const MAX_PROFILE: u64 = 4 << 20;

/// One option as the daemon takes it.
pub fn option(text: &str) -> Result<String, Failure> {
    let invalid = || Failure::Refused(format!("Invalid --security-opt: {text:?}"));
    if matches!(text, "no-new-privileges" | "no-new-privileges=" | "no-new-privileges:") {
        return Ok("no-new-privileges".into());
    }
    let (key, value) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(invalid)?;
    if value.is_empty() || key.is_empty() {
        return Err(invalid());
    }
    match (key, value) {
        ("seccomp", "unconfined" | "builtin") => Ok(text_of(key, value)),
        ("seccomp", file) => Ok(text_of(key, &profile(Path::new(file))?)),
        _ => Ok(text_of(key, value)),
    }
}

fn text_of(key: &str, value: &str) -> String {
    format!("{key}={value}")
}

/// The profile's JSON without white space.
fn profile(path: &Path) -> Result<String, Failure> {
    let failed =
        |why: String| Failure::Refused(format!("opening seccomp profile ({}) failed: {why}", path.display()));
    let open = |error: &std::io::Error| failed(format!("open {}: {}", path.display(), errno_text(error)));
    let size = std::fs::metadata(path).map_err(|error| open(&error))?.len();
    if size > MAX_PROFILE {
        return Err(failed(format!("it is longer than {MAX_PROFILE} bytes")));
    }
    let bytes = std::fs::read(path).map_err(|error| open(&error))?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| {
        Failure::Refused(format!("compacting json for seccomp profile ({}) failed: {error}", path.display()))
    })?;
    Ok(value.to_string())
}

/// `container:NAME`, with a name.
fn is_container(text: &str) -> bool {
    text.strip_prefix("container:").is_some_and(|name| !name.is_empty())
}

/// Refuses a mode of `--pid`, `--uts`, `--userns` or `--cgroupns` that there is not.
pub fn check_modes(pid: &str, uts: &str, userns: &str, cgroupns: &str) -> Result<(), Failure> {
    let host = |mode: &str| matches!(mode, "" | "host");
    for (sound, text) in [
        (host(pid) || is_container(pid), "--pid: invalid PID mode"),
        (host(uts), "--uts: invalid UTS mode"),
        (host(userns), "--userns: invalid USER mode"),
        (host(cgroupns) || cgroupns == "private", "--cgroupns: invalid CGROUP mode"),
    ] {
        if !sound {
            return Err(Failure::Refused(text.into()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        for (text, sent) in [
            ("no-new-privileges", "no-new-privileges"),
            ("no-new-privileges:true", "no-new-privileges=true"),
            ("seccomp=unconfined", "seccomp=unconfined"),
            ("seccomp:unconfined", "seccomp=unconfined"),
            ("label=type:x", "label=type:x"),
            ("systempaths=unconfined", "systempaths=unconfined"),
        ] {
            assert_eq!(option(text).unwrap(), sent);
        }
        for wrong in ["", "x", "apparmor=", "label"] {
            assert_eq!(option(wrong).unwrap_err().to_string(), format!("Invalid --security-opt: {wrong:?}"));
        }
        assert_eq!(
            option("seccomp=/nonexist").unwrap_err().to_string(),
            "opening seccomp profile (/nonexist) failed: open /nonexist: no such file or directory"
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.json");
        std::fs::write(&file, "{ \"defaultAction\" : \"SCMP_ACT_ALLOW\" }\n").unwrap();
        let sent = option(&format!("seccomp={}", file.display())).unwrap();
        assert_eq!(sent, r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW"}"#);
        std::fs::write(&file, "root:x").unwrap();
        let refused = option(&format!("seccomp={}", file.display())).unwrap_err().to_string();
        assert!(refused.starts_with("compacting json for seccomp profile"), "{refused}");
    }

    #[test]
    fn modes() {
        check_modes("container:x", "host", "host", "private").unwrap();
        for (modes, words) in [
            (["x", "", "", ""], "--pid: invalid PID mode"),
            (["container:", "", "", ""], "--pid: invalid PID mode"),
            (["", "container:a", "", ""], "--uts: invalid UTS mode"),
            (["", "", "x", ""], "--userns: invalid USER mode"),
            (["", "", "", "x"], "--cgroupns: invalid CGROUP mode"),
        ] {
            let refused = check_modes(modes[0], modes[1], modes[2], modes[3]).unwrap_err();
            assert_eq!(refused.to_string(), words);
        }
    }
}
