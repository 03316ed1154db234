//! A real kubelet of a test's own, standalone on static pods (`LONGSHORE_KUBELET` says, at build time, where it is).
//!
//! What always holds: it listens on loopback only, has its cgroups below one of its own, and sees `/var/lib`, `/var/log` and the
//! kernel's settings that it would change as files of its own.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::daemon::{PATIENCE, answering, run};
use crate::leaks;

/// What a kubelet makes of the kernel's settings when it finds others.
const SETTINGS: [(&str, u32); 6] = [
    ("vm/overcommit_memory", 1),
    ("vm/panic_on_oom", 0),
    ("kernel/panic", 10),
    ("kernel/panic_on_oops", 1),
    ("kernel/keys/root_maxkeys", 1_000_000),
    ("kernel/keys/root_maxbytes", 25_000_000),
];

/// What the node is called; it is at the end of every static pod's name.
pub const NODE: &str = "kube-test";

/// A running kubelet and its folder.
pub struct Kubelet {
    folder: tempfile::TempDir,
    cgroup: String,
    port: u16,
    health: u16,
    child: Option<Child>,
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Kubelet {
    /// Starts a kubelet whose container runtime is at this socket, and waits until it is well.
    pub fn start(runtime: &Path) -> Result<Kubelet> {
        let folder = tempfile::Builder::new().prefix(leaks::PREFIX).tempdir()?;
        let cgroup = format!("{}{}-kubelet", leaks::PREFIX, std::process::id());
        let kubelet = Kubelet { folder, cgroup, port: free_port()?, health: free_port()?, child: None };
        let mut kubelet = kubelet;
        for name in ["manifests", "root", "logs"] {
            fs::create_dir(kubelet.path().join(name))?;
        }
        kubelet.share_root()?;
        kubelet.make_cgroups()?;
        for (name, value) in SETTINGS {
            fs::write(kubelet.setting(name), format!("{value}\n"))?;
        }
        fs::write(kubelet.path().join("kubelet.json"), kubelet.config(runtime).to_string())?;
        kubelet.launch()?;
        Ok(kubelet)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn root(&self) -> PathBuf {
        self.path().join("root")
    }

    fn setting(&self, name: &str) -> PathBuf {
        self.path().join(name.replace('/', "-"))
    }

    /// Volumes that the kubelet mounts in its own mount namespace are seen by the daemon.
    fn share_root(&self) -> Result<()> {
        let (root, none) = (self.root(), None::<&str>);
        mount(Some(&root), &root, none, MsFlags::MS_BIND, none).context("binding the kubelet's folder")?;
        mount(none, &root, none, MsFlags::MS_SHARED, none).context("sharing the kubelet's folder")
    }

    /// The cgroup that all of the kubelet's are in has to be there before it starts.
    fn make_cgroups(&self) -> Result<()> {
        let top = Path::new("/sys/fs/cgroup");
        if top.join("cgroup.controllers").exists() {
            return fs::create_dir(top.join(&self.cgroup)).context("making a cgroup");
        }
        for hierarchy in fs::read_dir(top)?.flatten().filter(|entry| entry.file_name() != "unified") {
            let group = hierarchy.path().join(&self.cgroup);
            fs::create_dir_all(&group).with_context(|| format!("making {}", group.display()))?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read(hierarchy.path().join(file)) {
                    fs::write(group.join(file), value)?;
                }
            }
        }
        Ok(())
    }

    fn config(&self, runtime: &Path) -> Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{}", runtime.display()),
            "staticPodPath": self.path().join("manifests"),
            "podLogsDir": self.logs(),
            "volumePluginDir": self.path().join("plugins"),
            "failCgroupV1": false,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.cgroup),
            "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
            "authorization": { "mode": "AlwaysAllow" },
            "address": "127.0.0.1",
            "port": self.port,
            "readOnlyPort": 0,
            "healthzPort": self.health,
            "healthzBindAddress": "127.0.0.1",
            "oomScoreAdj": 0,
            "failSwapOn": false,
            "makeIPTablesUtilChains": false,
            "registerNode": false,
            "syncFrequency": "5s",
            "fileCheckFrequency": "500ms",
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {
                "memory.available": "0%",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
            },
            "crashLoopBackOff": { "maxContainerRestartPeriod": "2s" },
            "featureGates": { "PodAndContainerStatsFromCRI": true, "KubeletCrashLoopBackOffMax": true },
        })
    }

    /// Starts it, again perhaps, and waits until it is well.
    pub fn launch(&mut self) -> Result<()> {
        let mut line = String::from("set -e; mount -t tmpfs t /var/lib; mount -t tmpfs t /var/log; ");
        for (name, _) in SETTINGS {
            line += &format!("mount --bind {} /proc/sys/{name}; ", self.setting(name).display());
        }
        line += "exec \"$0\" \"$@\"";
        let log = fs::File::options().create(true).append(true).open(self.log())?;
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "unchanged", "sh", "-c", &line])
            .arg(option_env!("LONGSHORE_KUBELET").context("built without LONGSHORE_KUBELET")?)
            .arg("--config")
            .arg(self.path().join("kubelet.json"))
            .arg("--root-dir")
            .arg(self.root())
            .arg("--cert-dir")
            .arg(self.path().join("certificates"))
            .args(["--hostname-override", NODE])
            .env(leaks::MARK, "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting the kubelet")?;
        let url = format!("http://127.0.0.1:{}/healthz", self.health);
        let well = || {
            let answer = run(Command::new("curl").args(["-sf", "--max-time", "5", &url]));
            answer.is_ok_and(|answer| answer.line() == "ok")
        };
        self.child = Some(answering(child, "the kubelet", well, || self.log_text())?);
        Ok(())
    }

    /// Asks it to end, and waits.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("the kubelet did not end within {PATIENCE:?} of SIGTERM");
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.path().join("kubelet.log")
    }

    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Where pods' log folders are.
    pub fn logs(&self) -> PathBuf {
        self.path().join("logs")
    }

    /// Where pods' volumes are.
    pub fn volumes(&self) -> PathBuf {
        self.root().join("pods")
    }

    /// Gives it a pod of this name in the namespace `default`.
    pub fn put(&self, name: &str, spec: &Value) {
        let metadata = json!({ "name": name, "namespace": "default" });
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec });
        // It may look in the middle of a write.
        let whole = self.path().join(format!("{name}.json"));
        fs::write(&whole, pod.to_string()).expect("a manifest");
        fs::rename(whole, self.manifest(name)).expect("a manifest in its place");
    }

    pub fn take_away(&self, name: &str) {
        fs::remove_file(self.manifest(name)).expect("a manifest");
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.path().join("manifests").join(format!("{name}.json"))
    }

    /// Address of its server, over TLS.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What its server answers to GET, or to POST.
    pub fn ask(&self, method: &str, path: &str) -> Result<String> {
        let url = format!("https://{}{path}", self.address());
        let answer = run(Command::new("curl").args([
            "-skS",
            "--fail-with-body",
            "--max-time",
            "20",
            "-X",
            method,
            &url,
        ]))?;
        ensure!(answer.code == 0, "{method} {path}: {}{}", answer.stdout, answer.stderr);
        Ok(answer.stdout)
    }

    /// The status of a pod as it tells it, `Null` if it does not know the pod.
    pub fn status(&self, name: &str) -> Value {
        let pods = self.ask("GET", "/pods").and_then(|text| Ok(serde_json::from_str::<Value>(&text)?));
        let pods = pods.unwrap_or_default();
        let named = format!("{name}-{NODE}");
        let mut found = pods["items"].as_array().into_iter().flatten();
        found
            .find(|pod| pod["metadata"]["name"] == named.as_str())
            .map_or(Value::Null, |pod| pod["status"].clone())
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        let stopped = self.stop();
        if std::thread::panicking() {
            let log = self.log_text();
            let lines: Vec<_> = log.lines().rev().take(60).collect();
            eprintln!("--- the kubelet's log, its newest lines first\n{}", lines.join("\n"));
        }
        let left = leaks::sweep(&self.root(), &self.cgroup, &[]);
        let _ = umount2(&self.root(), MntFlags::MNT_DETACH);
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(&self.cgroup));
        }
        if !std::thread::panicking() {
            stopped.expect("the kubelet ends");
            let of_pods: Vec<_> = left.iter().filter(|line| line.contains("/pod")).collect();
            assert!(of_pods.is_empty(), "left behind by the kubelet's pods: {of_pods:#?}");
        }
    }
}
