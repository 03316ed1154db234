//! A bundle that is made anew at the same place for every run.

use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::{chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const APPLETS: &[&str] = &[
    "sh", "cat", "ls", "tr", "id", "hostname", "readlink", "stat", "head", "touch", "rm", "wc", "mknod",
    "mkdir", "chmod", "pwd", "env", "seq", "true",
];

/// How a container fared.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    /// What its process saw, by part; none if it never ran.
    pub parts: BTreeMap<String, String>,
    pub stderr: String,
}

impl Outcome {
    pub fn ran(&self) -> bool {
        self.parts.contains_key("end")
    }
}

pub struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Bench {
        Bench { dir: tempfile::Builder::new().prefix("longshore-test-diff-").tempdir().unwrap() }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Makes the bundle and runs it with one of the runtimes.
    pub fn run(&self, runtime: &Path, config: &Value) -> Outcome {
        let owner = config["linux"]["uidMappings"][0]["hostID"].as_u64().unwrap_or(0) as u32;
        self.make_files(owner);
        std::fs::write(self.dir().join("config.json"), config.to_string()).unwrap();
        let id = format!("longshore-test-diff-{}", std::process::id());
        let command = |verb: &[&str]| {
            let mut command = Command::new(runtime);
            command.arg("--root").arg(self.dir().join("state")).args(verb).stdin(Stdio::null());
            command
        };
        let bundle = self.dir().to_str().unwrap();
        let output = command(&["run", "--bundle", bundle, &id]).output().unwrap();
        let _ = command(&["delete", "--force", &id]).output();
        let parts = parts(&String::from_utf8_lossy(&output.stdout));
        self.clean();
        Outcome { code: output.status.code(), parts, stderr: String::from_utf8_lossy(&output.stderr).into() }
    }

    fn clean(&self) {
        for folder in ["rootfs", "volume", "state"] {
            let _ = std::fs::remove_dir_all(self.dir().join(folder));
        }
    }

    fn make_files(&self, owner: u32) {
        self.clean();
        let root = self.dir().join("rootfs");
        for folder in ["bin", "dev", "proc", "sys", "tmp", "etc", "root", "data", "cover/inside", "real"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        APPLETS.iter().for_each(|applet| symlink("busybox", root.join("bin").join(applet)).unwrap());
        symlink("/real", root.join("link")).unwrap();
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:r:/root:/bin/sh\nuser:x:1000:1000:u:/home/user:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(root.join("cover/file"), "covered").unwrap();
        mode(&root.join("tmp"), 0o1777);
        mode(&root.join("cover"), 0o751);
        // Others must get to the root by its path in a user namespace.
        mode(self.dir(), 0o755);
        own(&root, owner);
        let volume = self.dir().join("volume");
        std::fs::create_dir_all(volume.join("sub")).unwrap();
        std::fs::write(volume.join("file"), "file\n").unwrap();
        std::fs::write(volume.join("program"), "#!/bin/sh\necho program\n").unwrap();
        mode(&volume.join("program"), 0o755);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let left = format!("/longshore-test-diff-{}", std::process::id());
        let _ = longshore_runtime::cgroups::remove_orphan(&left);
    }
}

fn mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn own(path: &PathBuf, owner: u32) {
    if owner == 0 {
        return;
    }
    lchown(path, Some(owner), Some(owner)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        std::fs::read_dir(path).unwrap().for_each(|entry| own(&entry.unwrap().path(), owner));
    } else if !path.is_symlink() {
        chown(path, Some(owner), Some(owner)).unwrap();
    }
}

fn parts(text: &str) -> BTreeMap<String, String> {
    let mut parts = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        match line.strip_prefix("== ") {
            Some(next) => {
                name = next.to_owned();
                parts.insert(name.clone(), String::new());
            }
            None => {
                let part: &mut String = parts.entry(name.clone()).or_default();
                part.push_str(line);
                part.push('\n');
            }
        }
    }
    parts
}
