//! Named contexts, and a daemon of another host by `ssh`: here a script that goes nowhere but to this one.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use longshore_tests::Daemon;
use longshore_tests::daemon::{Output, program, run};

struct User {
    folder: tempfile::TempDir,
}

impl User {
    fn new() -> User {
        User { folder: tempfile::tempdir().expect("a folder") }
    }

    fn longshore(&self, arguments: &[&str]) -> Output {
        let path = format!("{}:{}", self.folder.path().display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(program("longshore"));
        command.args(arguments).env("PATH", path).env("LONGSHORE_CONFIG", self.folder.path());
        command.env_remove("LONGSHORE_HOST").env_remove("LONGSHORE_CONTEXT");
        run(&mut command).expect("longshore runs")
    }
}

#[test]
fn a_context_chooses_the_daemon() {
    let daemon = Daemon::start();
    let user = User::new();
    let host = format!("host=unix://{}", daemon.socket().display());
    let made =
        user.longshore(&["context", "create", "here", "--description", "this one", "--endpoint", &host]).ok();
    assert_eq!((made.line(), made.stderr.as_str()), ("here", "Successfully created context \"here\"\n"));
    user.longshore(&["--context", "here", "ps"]).ok();
    user.longshore(&["ps"]).expect(1);
    user.longshore(&["context", "use", "here"]).ok();
    user.longshore(&["ps"]).ok();
    assert_eq!(user.longshore(&["context", "show"]).ok().line(), "here");
    let listed = user.longshore(&["context", "ls"]).ok().stdout;
    assert!(listed.contains("here *    this one") && listed.contains("default   Current"), "{listed}");
    let refused = user.longshore(&["context", "rm", "here"]).expect(1);
    assert!(refused.stderr.contains("is in use, set -f flag to force remove"), "{}", refused.stderr);

    let file = user.folder.path().join("file");
    let file = file.to_str().expect("a path");
    user.longshore(&["context", "export", "here", file]).ok();
    user.longshore(&["context", "export", "here", file]).expect(1);
    user.longshore(&["context", "import", "again", file]).ok();
    user.longshore(&["context", "import", "again", file]).expect(1);
    user.longshore(&["-c", "again", "version"]).ok();
    user.longshore(&["context", "update", "again", "--endpoint", "host=unix:///nowhere.sock"]).ok();
    user.longshore(&["-c", "again", "version"]).expect(1);
    let shown = user.longshore(&["context", "inspect", "-f", "{{.Endpoints.longshore.Host}}", "again"]).ok();
    assert_eq!(shown.line(), "unix:///nowhere.sock");
    user.longshore(&["context", "rm", "-f", "here", "again"]).ok();
    assert_eq!(user.longshore(&["context", "ls", "-q"]).ok().line(), "default");
    assert_eq!(user.longshore(&["context", "show"]).ok().line(), "default");
    assert!(user.longshore(&["-c", "here", "ps"]).expect(1).stderr.contains("does not exist"));
}

#[test]
fn a_daemon_is_reached_by_ssh() {
    let daemon = Daemon::start();
    let user = User::new();
    // What comes before the remote command is noted, and the command run here.
    let ssh = user.folder.path().join("ssh");
    let ours = program("longshore");
    let ours = ours.parent().expect("a folder").display();
    let log = user.folder.path().join("log");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {}\nwhile [ \"$1\" != -- ]; do shift; done; shift 2\nPATH={ours}:$PATH exec \"$@\"\n",
        log.display()
    );
    std::fs::write(&ssh, script).expect("a script");
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let host = format!("host=ssh://root@far.example:2222{}", daemon.socket().display());
    user.longshore(&["context", "create", "far", "--endpoint", &host]).ok();
    let version = user.longshore(&["-c", "far", "version", "-f", "{{.Server.Version}}"]).ok();
    assert_eq!(version.line(), env!("CARGO_PKG_VERSION"));
    user.longshore(&["-c", "far", "ps", "-a"]).ok();
    let log = std::fs::read_to_string(&log).expect("ssh was called");
    let socket = daemon.socket();
    let call = format!(
        "-T -o ConnectTimeout=30 -p 2222 -- root@far.example longshore -H unix://{} system dial-stdio\n",
        socket.display()
    );
    assert_eq!(log, call.repeat(2));
    let refused = user.longshore(&["-H", "ssh://-oProxyCommand=x", "ps"]).expect(125);
    assert!(refused.stderr.contains("invalid host"), "{}", refused.stderr);
}
