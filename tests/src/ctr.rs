//! containerd's `ctr` against a daemon of the test's own: what the old and the new one have in common.

use std::ffi::OsStr;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Fixture;
use crate::daemon::{Output, Settings, eventually, run};
use crate::leaks;
use crate::pty::Terminal;

/// One `ctr`, and a daemon with a busybox image.
pub struct Ctr {
    program: &'static str,
    pub fixture: Fixture,
}

impl Ctr {
    /// Pulls with the client's own means, as every `ctr` can; `flags` say so to newer ones.
    pub fn pulled(program: &'static str, flags: &[&str]) -> Ctr {
        // What `ctr` makes by hand nobody refers to: the collector is to leave it for as long as a test takes.
        let settings = Settings { config: "[gc]\ndelay_ms = 120000\n".into(), ..Settings::default() };
        let ctr = Ctr { program, fixture: Fixture::with(settings).expect("a registry and a daemon") };
        let words = [&["images", "pull", "--plain-http"], flags, &[&*ctr.fixture.busybox]].concat();
        ctr.run(&words).ok();
        ctr
    }

    /// A command that is not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(self.program);
        command.arg("--address").arg(self.fixture.daemon.socket()).args(args).env(leaks::MARK, "1");
        command
    }

    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        run(&mut self.command(args)).expect("ctr runs")
    }

    /// Runs a container to its end; what it printed.
    #[track_caller]
    fn once(&self, id: &str, options: &[&str], words: &[&str]) -> String {
        self.run(&[&["run", "--rm"], options, &[&*self.fixture.busybox, id], words].concat()).ok().stdout
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.fixture.daemon.path().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }
}

/// `ctr run` with each of its options that mean something on Linux.
pub fn runs_with_every_option(ctr: &Ctr) {
    let folder = ctr.folder("work");
    let at = |name: &str| folder.join(name).display().to_string();
    assert_eq!(ctr.once("plain", &[], &["echo", "hi"]), "hi\n");
    assert_eq!(
        ctr.once("env", &["--env", "A=b", "--cwd", "/tmp"], &["sh", "-c", "echo $A; pwd"]),
        "b\n/tmp\n"
    );
    let host = ctr.once("nethost", &["--net-host"], &["sh", "-c", "cd /sys/class/net; echo *"]);
    assert!(
        host.split_whitespace().count() >= ctr.once("net", &[], &["ls", "/sys/class/net"]).lines().count()
    );
    fs::write(folder.join("seen"), "from the host").expect("a file");
    let mount = format!("type=bind,src={},dst=/host,options=rbind:ro", folder.display());
    assert_eq!(ctr.once("mount", &["--mount", &mount], &["cat", "/host/seen"]), "from the host");
    let cgroup = format!("/{}/mine", ctr.fixture.daemon.cgroup_parent());
    let seen = ctr.once("cgroup", &["--cgroup", &cgroup, "--net-host"], &["cat", "/proc/self/cgroup"]);
    assert!(seen.lines().any(|line| line.ends_with("/mine") || line.ends_with(":/")), "{seen}");
    assert_eq!(ctr.once("fifos", &["--fifo-dir", &at("fifos")], &["echo", "by fifo"]), "by fifo\n");
    let log = format!("file://{}", at("log"));
    ctr.once("logged", &["--log-uri", &log], &["echo", "to the file"]);
    assert_eq!(fs::read_to_string(folder.join("log")).expect("the log"), "to the file\n");
    assert_eq!(ctr.once("null", &["--null-io"], &["echo", "nowhere"]), "");
    ctr.once("readonly", &["--read-only"], &["sh", "-c", "! touch /x 2>/dev/null"]);
    ctr.once("privileged", &["--privileged"], &["sh", "-c", "test -e /dev/kmsg || test -w /dev"]);
    let share = ["--with-ns", "pid:/proc/self/ns/pid"];
    assert_ne!(ctr.once("pidns", &share, &["sh", "-c", "echo $$"]), "1\n", "it sees the host's processes");
    let capabilities = ["--cap-drop", "CAP_CHOWN", "--cap-add", "CAP_SYS_ADMIN"];
    ctr.once("capabilities", &capabilities, &["sh", "-c", "touch /tmp/x; ! chown 1 /tmp/x 2>/dev/null"]);
    ctr.once("device", &["--device", "/dev/null"], &["sh", "-c", "echo x > /dev/null"]);
    ctr.once("seccomp", &["--seccomp", "--allow-new-privs"], &["true"]);
    ctr.once("limits", &["--memory-limit", "33554432", "--cpus", "0.5"], &["true"]);
    ctr.once("nopivot", &["--no-pivot"], &["true"]);
    let pid_file = at("pid");
    ctr.once("pidfile", &["--pid-file", &pid_file], &["true"]);
    assert!(fs::read_to_string(&pid_file).expect("the file").parse::<u32>().is_ok());
    assert_eq!(ctr.once("native", &["--snapshotter", "native"], &["echo", "copied"]), "copied\n");
    for runtime in ["io.containerd.runc.v2", "io.containerd.longshore.v1"] {
        assert_eq!(ctr.once("runtime", &["--runtime", runtime], &["echo", "by name"]), "by name\n");
    }
    let mapped = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    assert_eq!(ctr.once("mapped", &mapped, &["id", "-u"]), "0\n");
    assert_eq!(ctr.run(&["run", "--rm", &ctr.fixture.busybox, "code", "sh", "-c", "exit 7"]).code, 7);
    let labelled = ["--label", "kind=test"];
    ctr.once("labelled", &labelled, &["true"]);

    let words = ["run", "--rm", "--tty", &*ctr.fixture.busybox, "tty", "sh"];
    let mut terminal = Terminal::spawn(ctr.command(&words), 90, 30).expect("a terminal");
    terminal.expect("#");
    terminal.send("tty; stty size\n");
    terminal.expect("/dev/pts/");
    terminal.expect("30 90");
    terminal.send("exit 4\n");
    assert_eq!(terminal.wait(), 4);
    assert_eq!(ctr.run(&["containers", "ls", "-q"]).ok().line(), "", "--rm leaves nothing");
}

/// A container and its task, step by step.
pub fn drives_a_task(ctr: &Ctr) {
    ctr.run(&["containers", "create", "--label", "a=b", &ctr.fixture.busybox, "c", "sleep", "1000"]).ok();
    assert!(ctr.run(&["containers", "info", "c"]).ok().stdout.contains("\"a\": \"b\""));
    ctr.run(&["containers", "label", "c", "a=z"]).ok();
    assert_eq!(ctr.run(&["containers", "ls", "-q", "labels.a==z"]).ok().line(), "c");
    ctr.run(&["tasks", "start", "-d", "c"]).ok();
    ctr.run(&["tasks", "start", "-d", "c"]).expect(1);
    assert_eq!(ctr.run(&["tasks", "ls", "-q"]).ok().line(), "c");
    assert_eq!(ctr.run(&["tasks", "exec", "--exec-id", "e1", "c", "echo", "hi"]).ok().stdout, "hi\n");
    ctr.run(&["tasks", "exec", "-d", "--exec-id", "e2", "c", "sleep", "1000"]).ok();
    assert!(ctr.run(&["tasks", "ps", "c"]).ok().stdout.contains("e2"), "an exec is told by its id");
    let words = ["tasks", "exec", "--tty", "--exec-id", "e3", "c", "sh"];
    let mut terminal = Terminal::spawn(ctr.command(&words), 77, 33).expect("a terminal");
    terminal.expect("#");
    terminal.send("stty size\n");
    terminal.expect("33 77");
    terminal.send("exit\n");
    assert_eq!(terminal.wait(), 0);
    assert!(ctr.run(&["tasks", "metrics", "c"]).ok().stdout.contains("memory"));
    let json = ctr.run(&["tasks", "metrics", "--format", "json", "c"]).ok().stdout;
    serde_json::from_str::<serde_json::Value>(&json).expect("metrics in JSON");
    ctr.run(&["tasks", "pause", "c"]).ok();
    ctr.run(&["tasks", "resume", "c"]).ok();
    let mut attached = ctr.command(&["tasks", "attach", "c"]);
    let attached = attached.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut attached = attached.expect("ctr starts");
    std::thread::sleep(Duration::from_millis(300));
    assert!(attached.try_wait().expect("a look").is_none(), "it stays until the task ends");
    ctr.run(&["containers", "rm", "c"]).expect(1);
    ctr.run(&["tasks", "kill", "-s", "SIGKILL", "-a", "c"]).ok();
    assert_eq!(attached.wait().expect("it ends").code(), Some(137));
    eventually("the task is gone or stopped", || !ctr.run(&["tasks", "ls"]).ok().stdout.contains("RUNNING"));
    // Who was attached to it has deleted it.
    ctr.run(&["tasks", "rm", "c"]);
    ctr.run(&["containers", "rm", "c"]).ok();
    ctr.run(&["run", "-d", &ctr.fixture.busybox, "d", "sleep", "1000"]).ok();
    ctr.run(&["tasks", "rm", "-f", "d"]);
    ctr.run(&["containers", "rm", "d"]).ok();
    assert_eq!(ctr.run(&["tasks", "ls", "-q"]).ok().line(), "");
}

/// Blobs, written and read by hand.
pub fn handles_content(ctr: &Ctr) {
    let busybox = &*ctr.fixture.busybox;
    let file = ctr.folder("work").join("blob");
    fs::write(&file, "data\n").expect("a file");
    let ingest = |reference: &str, expected: &str| {
        let mut command = ctr.command(&["content", "ingest", "--expected-size", expected, reference]);
        command.stdin(fs::File::open(&file).expect("the file")).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().expect("ctr runs").success()
    };
    assert!(!ingest("wrong", "4"), "a size that is not the blob's");
    assert!(ctr.run(&["content", "active"]).ok().stdout.contains("wrong"));
    assert!(ingest("right", "5"));
    let digest = "sha256:6667b2d1aab6a00caa5aee5af8ad9f1465e567abf1c209d15727d57b3e8f6e5f";
    assert_eq!(ctr.run(&["content", "get", digest]).ok().stdout, "data\n");
    ctr.run(&["content", "label", digest, "mine=yes"]).ok();
    assert_eq!(ctr.run(&["content", "ls", "-q", "labels.mine==yes"]).ok().line(), digest);
    let mut edit = ctr.command(&["content", "edit", digest]);
    // It is to write to the file that it is given: a new one in its place is not looked at.
    let editor = ctr.folder("work").join("editor.sh");
    fs::write(&editor, "echo more > \"$1\"\n").expect("a file");
    edit.env("EDITOR", format!("sh {}", editor.display()));
    let edited = run(&mut edit).expect("ctr runs").ok();
    assert_eq!(ctr.run(&["content", "get", edited.line()]).ok().stdout, "more\n");
    ctr.run(&["content", "fetch", "--plain-http", busybox]).ok();
    let object = ctr.run(&["content", "fetch-object", "--plain-http", busybox]);
    assert!(object.ok().stdout.contains("\"layers\""), "the manifest");
    ctr.run(&["content", "prune", "references"]).ok();
    ctr.run(&["content", "rm", digest]).ok();
    ctr.run(&["content", "get", digest]).expect(1);
}

/// Snapshots, and what differs between them.
pub fn handles_snapshots(ctr: &Ctr) {
    let mount_point = ctr.folder("mnt").display().to_string();
    let listed = ctr.run(&["snapshots", "ls"]).ok().stdout;
    let base = listed.lines().nth(1).and_then(|line| line.split_whitespace().next()).expect("a snapshot");
    // What nobody refers to is the collector's.
    ctr.run(&["leases", "create", "--id", "work"]).ok();
    ctr.run(&["snapshots", "prepare", "mine", base]).ok();
    ctr.run(&["snapshots", "label", "mine", "containerd.io/gc.root=test"]).ok();
    let mount = ctr.run(&["snapshots", "mounts", &mount_point, "mine"]).ok().stdout;
    let done = Command::new("sh").arg("-ec").arg(&mount).status().expect("sh runs");
    assert!(done.success(), "{mount}");
    fs::write(format!("{mount_point}/added"), "by hand").expect("a file");
    assert!(Command::new("umount").arg(&mount_point).status().expect("umount runs").success());
    let layer =
        ctr.run(&["snapshots", "diff", "--media-type", "application/vnd.oci.image.layer.v1.tar", "mine"]);
    assert!(layer.ok().stdout.contains("added"), "the layer has the file");
    assert!(ctr.run(&["snapshots", "usage", "mine"]).ok().stdout.contains("mine"));
    ctr.run(&["snapshots", "commit", "kept", "mine"]).ok();
    ctr.run(&["snapshots", "label", "kept", "containerd.io/gc.root=test"]).ok();
    assert!(ctr.run(&["snapshots", "info", "kept"]).ok().stdout.contains(base));
    assert!(ctr.run(&["snapshots", "tree"]).ok().stdout.contains("kept"));
    ctr.run(&["snapshots", "view", "look", "kept"]).ok();
    ctr.run(&["snapshots", "rm", "kept"]).expect(1);
    ctr.run(&["snapshots", "rm", "look"]).ok();
    ctr.run(&["snapshots", "rm", "kept"]).ok();
    let listed = ctr.run(&["images", "ls"]).ok().stdout;
    let row = listed.lines().find(|line| line.starts_with(&ctr.fixture.busybox)).expect("the image");
    let target = row.split_whitespace().find(|word| word.starts_with("sha256:")).expect("its digest");
    ctr.run(&["snapshots", "unpack", "--snapshotter", "native", target]).ok();
    assert!(ctr.run(&["snapshots", "--snapshotter", "native", "ls"]).ok().stdout.contains("Committed"));
    ctr.run(&["leases", "rm", "--sync", "work"]).ok();
}

/// Namespaces, leases, events, and the refusal of what makes no sense.
pub fn handles_the_rest(ctr: &Ctr) {
    let busybox = &*ctr.fixture.busybox;
    ctr.run(&["leases", "create", "--id", "l1", "--expires", "1h", "a=b"]).ok();
    let random = ctr.run(&["leases", "create"]).ok().line().to_owned();
    assert!(!random.is_empty());
    assert_eq!(ctr.run(&["leases", "ls", "-q", "id==l1"]).ok().line(), "l1");
    assert!(ctr.run(&["leases", "ls"]).ok().stdout.contains("containerd.io/gc.expire="));
    ctr.run(&["leases", "rm", "l1", &random]).ok();
    ctr.run(&["namespaces", "create", "other", "containerd.io/defaults/snapshotter=native"]).ok();
    let mut foreign = ctr.command(&["-n", "other", "images", "ls", "-q"]);
    assert_eq!(run(&mut foreign).expect("ctr runs").ok().line(), "", "namespaces do not see each other");
    ctr.run(&["namespaces", "label", "other", "containerd.io/defaults/snapshotter="]).ok();
    ctr.run(&["namespaces", "rm", "other"]).ok();
    ctr.run(&["namespaces", "rm", "default"]).expect(1);

    let watched = ctr.folder("work").join("events");
    let mut watcher = ctr.command(&["events", "topic~=|^/tasks/|"]);
    watcher.stdout(fs::File::create(&watched).expect("a file")).stderr(Stdio::null());
    let mut watcher = watcher.spawn().expect("ctr starts");
    std::thread::sleep(Duration::from_millis(500));
    ctr.once("watched", &[], &["true"]);
    let seen = || fs::read_to_string(&watched).unwrap_or_default();
    eventually("the events come", || seen().contains("/tasks/delete"));
    assert!(!seen().contains("/containers/"), "{}", seen());
    watcher.kill().expect("ctr is ours to end");
    watcher.wait().expect("ctr ends");

    let example = ctr.folder("work").join("image.tar").display().to_string();
    ctr.run(&["images", "convert", "--oci", "--uncompress", busybox, "example.com/converted:1"]).ok();
    assert!(ctr.run(&["images", "ls", "-q"]).ok().stdout.contains("example.com/converted:1"));
    ctr.run(&["images", "rm", "--sync", "example.com/converted:1"]).ok();
    fs::write(&example, "no archive").expect("a file");
    ctr.run(&["images", "import", &example]).expect(1);
    ctr.run(&["run", "--rm", "example.com/absent:1", "x"]).expect(1);
    ctr.run(&["run", "--rm", "--runtime", "io.containerd.absent.v1", busybox, "x", "true"]).expect(1);
    ctr.run(&["run", "--rm", "--snapshotter", "absent", busybox, "x", "true"]).expect(1);
    assert_eq!(ctr.run(&["containers", "ls", "-q"]).ok().line(), "");
}

/// Debian's registry, which takes what is pushed.
pub struct PushRegistry {
    child: Child,
    pub address: String,
}

impl PushRegistry {
    pub fn start(ctr: &Ctr) -> PushRegistry {
        let folder = ctr.folder("registry");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        drop(listener);
        let config = folder.join("config.yml");
        let data = folder.join("data");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            data.display()
        );
        fs::write(&config, text).expect("a file");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("docker-registry starts");
        eventually("the registry listens", || TcpStream::connect(&address).is_ok());
        PushRegistry { child, address }
    }
}

impl Drop for PushRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
