//! A bundle and a root of a test's own, and the command run on them.

use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const APPLETS: &[&str] =
    &["sh", "true", "cat", "echo", "id", "ls", "sleep", "env", "kill", "tty", "stty", "dd", "readlink"];
/// Longest time that anything of a test may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Bundle {
    pub dir: tempfile::TempDir,
    pub id: String,
    pub spec: Value,
}

impl Bundle {
    /// A bundle that runs `sh -c script`.
    pub fn new(script: &str) -> Bundle {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("longshore-test-c{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("longshore-test-").tempdir().unwrap();
        for folder in ["bin", "dev", "proc", "sys", "tmp", "etc", "run"] {
            std::fs::create_dir_all(dir.path().join("rootfs").join(folder)).unwrap();
        }
        let bin = dir.path().join("rootfs/bin");
        std::fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", bin.join(applet)).unwrap();
        }
        let made = Command::new(program()).args(["spec", "--bundle"]).arg(dir.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let text = std::fs::read(dir.path().join("config.json")).unwrap();
        let mut spec: Value = serde_json::from_slice(&text).unwrap();
        spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
        spec["process"]["env"] = json!(["PATH=/bin"]);
        spec["process"]["terminal"] = json!(false);
        spec["root"]["readonly"] = json!(false);
        spec["linux"]["cgroupsPath"] = json!(format!("/{id}/c"));
        let bundle = Bundle { dir, id, spec };
        bundle.write();
        bundle
    }

    /// Must be called after a change of `spec`.
    pub fn write(&self) {
        std::fs::write(self.dir.path().join("config.json"), self.spec.to_string()).unwrap();
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn folder(&self) -> PathBuf {
        self.root().join("c")
    }

    /// The command with `--root`, in the bundle's folder.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.arg("--root").arg(self.root()).args(words).current_dir(self.dir.path());
        command.stdin(Stdio::null());
        command
    }

    /// Runs to the end. What goes on to run in the container must not hold our pipes: files take the output.
    pub fn run(&self, words: &[&str]) -> Done {
        done(self.command(words))
    }

    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let done = self.run(words);
        assert_eq!(done.code, 0, "{words:?}: {done:?}");
        done.stdout
    }

    #[track_caller]
    pub fn fails(&self, words: &[&str], text: &str) {
        let done = self.run(words);
        assert!(done.code != 0 && done.stderr.contains(text), "{words:?}: {done:?}");
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", "c"])).unwrap()
    }

    #[track_caller]
    pub fn wait_for(&self, status: &str) {
        eventually(status, || self.state()["status"] == status);
    }
}

#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

pub fn done(mut command: Command) -> Done {
    use std::os::unix::process::ExitStatusExt;
    let (out, err) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    command.stdout(out.reopen().unwrap()).stderr(err.reopen().unwrap());
    let status = command.status().unwrap();
    let read = |file: &tempfile::NamedTempFile| std::fs::read_to_string(file.path()).unwrap();
    Done {
        code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap()),
        stdout: read(&out),
        stderr: read(&err),
    }
}

pub fn program() -> &'static str {
    env!("CARGO_BIN_EXE_longshore-runtime")
}

#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.run(&["delete", "--force", "c"]);
        let left = longshore_runtime::cgroups::CgroupPaths::open(&format!("/{}/c", self.id)).unwrap();
        let left: Vec<String> = left.hierarchies().into_iter().map(str::to_owned).collect();
        longshore_runtime::cgroups::remove_orphan(&format!("/{}", self.id)).unwrap();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "cgroups are left: {left:?}");
        }
    }
}
