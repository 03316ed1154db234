//! `longshore login` and `logout`: docker's configuration file, credential helpers, identity tokens, against real and false registries.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use longshore_tests::daemon::{finish, run};
use longshore_tests::docker_registry::DockerRegistry;
use longshore_tests::image;
use longshore_tests::pty::Terminal;
use longshore_tests::registry::{Access, Registry};
use longshore_tests::{Daemon, Output};
use serde_json::{Value, json};

/// `longshore …` with docker's configuration in this folder, and a standard input.
fn ctl(daemon: &Daemon, folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = daemon.ctl_command(arguments);
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    command.env("DOCKER_CONFIG", folder).env("PATH", path);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("longshore runs");
    // One that refuses its flags has ended without reading.
    let _ = child.stdin.take().expect("its input").write_all(input.as_bytes());
    finish(child).expect("longshore ends")
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).expect("the file")).expect("JSON")
}

fn private(access: Access) -> (Registry, String) {
    let registry = Registry::start().expect("a registry");
    registry.put("private", "1", &image::busybox().expect("busybox").build().expect("an image"));
    registry.set_access(access);
    let name = registry.reference("private:1");
    (registry, name)
}

#[test]
#[cfg_attr(not(all(have_docker_registry, have_htpasswd)), ignore = "needs docker-registry and htpasswd")]
fn who_logs_in_at_a_real_registry_can_push_and_pull() {
    let daemon = &Daemon::start();
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path();
    let registry =
        DockerRegistry::start(&folder.join("registry"), Some(("anna", "secret"))).expect("a registry");
    let server = registry.address();
    let login = |arguments: &[&str], input: &str| {
        let arguments: Vec<&str> = ["login"].iter().chain(arguments).copied().collect();
        ctl(daemon, folder, &arguments, input)
    };
    let no_terminal = "Error: Cannot perform an interactive login from a non TTY device\n";
    assert_eq!(login(&[&server], "").expect(1).stderr, no_terminal);
    assert_eq!(login(&["-u", "anna", &server], "").expect(1).stderr, no_terminal);
    let insecure = "WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n";
    let refused = login(&["-u", "anna", "-p", "wrong", &server], "").expect(1);
    let why = format!("login attempt to http://{server}/v2/ failed with status: 401 Unauthorized");
    assert_eq!(refused.stderr, format!("{insecure}Error response from daemon: {why}\n"));
    assert!(!folder.join("config.json").exists());
    let both = login(&["-u", "a", "-p", "b", "--password-stdin", &server], "x").expect(1);
    assert_eq!(both.stderr, "conflicting options: cannot specify both --password and --password-stdin\n");
    let nobody = login(&["--password-stdin", &server], "x").expect(1);
    assert_eq!(nobody.stderr, "the --password-stdin option requires --username to be set\n");

    fs::write(folder.join("config.json"), r#"{"psFormat": "table", "auths": {"r.io": {"auth": "YTpi"}}}"#)
        .expect("a file");
    let done = login(&["-u", "anna", "--password-stdin", &server], "secret\n").ok();
    assert_eq!(done.stdout, "Login Succeeded\n");
    assert!(done.stderr.contains("WARNING! Your credentials are stored unencrypted in '"), "{}", done.stderr);
    let kept = json!({"psFormat": "table", "auths": {"r.io": {"auth": "YTpi"}, &server: {"auth": "YW5uYTpzZWNyZXQ="}}});
    assert_eq!(config(folder), kept);
    let mode = fs::metadata(folder.join("config.json")).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = login(&[&server], "").ok();
    assert!(again.stderr.starts_with("Authenticating with existing credentials... [Username: anna]\n"));

    let source = Registry::start().expect("a registry");
    source.put("busybox", "1", &image::busybox().expect("busybox").build().expect("an image"));
    let (from, to) = (source.reference("busybox:1"), registry.reference("a/x:1"));
    daemon.ctl(&["pull", "-q", &from]).ok();
    daemon.ctl(&["tag", &from, &to]).ok();
    assert!(
        ctl(daemon, &folder.join("elsewhere"), &["push", &to], "").expect(1).stderr.contains("unauthorized")
    );
    ctl(daemon, folder, &["push", &to], "").ok();
    daemon.ctl(&["rmi", &to]).ok();
    ctl(daemon, folder, &["pull", &to], "").ok();

    let out = ctl(daemon, folder, &["logout", &server], "").ok();
    assert_eq!(out.stdout, format!("Removing login credentials for {server}\n"));
    assert_eq!(config(folder), json!({"psFormat": "table", "auths": {"r.io": {"auth": "YTpi"}}}));
    assert!(ctl(daemon, folder, &["pull", &to], "").expect(1).stderr.contains("unauthorized"));
}

#[test]
fn a_token_server_s_identity_token_is_kept_instead_of_the_password() {
    let daemon = &Daemon::start();
    let home = tempfile::tempdir().expect("a folder");
    let user = ("me".to_owned(), "secret".to_owned());
    let (registry, name) = private(Access::Bearer { user: Some(user) });
    let server = registry.address().to_string();
    let wrong =
        ctl(daemon, home.path(), &["login", "-u", "me", "--password-stdin", &server], "wrong").expect(1);
    assert!(wrong.stderr.contains("unauthorized"), "{}", wrong.stderr);
    ctl(daemon, home.path(), &["login", "-u", "me", "--password-stdin", &server], "secret").ok();
    let entry = &config(home.path())["auths"][&server];
    assert_eq!(entry["identitytoken"], json!("identity-of-tests"));
    assert_eq!(entry["auth"], json!("bWU6"), "the password is not kept");
    ctl(daemon, home.path(), &["pull", "-q", &name], "").ok();
    daemon.ctl(&["rmi", &name]).ok();
    let asked = registry.requests().iter().any(|request| request.starts_with("POST /token"));
    assert!(asked, "{:?}", registry.requests());
    // The credentials are asked for once more, and are right.
    ctl(daemon, home.path(), &["login", &server], "").ok();
}

/// A helper that keeps one secret in a file beside it, and notes what it was asked.
const HELPER: &str = r#"#!/bin/sh
here=$(dirname "$0")
input=$(cat)
echo "$1" >> "$here/asked"
case $1 in
store) echo "$input" > "$here/kept" ;;
get) if [ -s "$here/kept" ]; then cat "$here/kept"; else echo "credentials not found in native keychain"; exit 1; fi ;;
erase) rm -f "$here/kept" ;;
list) echo '{}' ;;
esac
"#;

#[test]
fn a_credential_helper_keeps_the_secret() {
    let daemon = &Daemon::start();
    let home = tempfile::tempdir().expect("a folder");
    let folder = home.path();
    let helper = folder.join("docker-credential-tests");
    fs::write(&helper, HELPER).expect("a file");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("its mode");
    let (registry, name) = private(Access::Basic { user: "me".into(), password: "secret".into() });
    let server = registry.address().to_string();
    for settings in
        [json!({"credsStore": "tests"}), json!({"credHelpers": {&server: "tests"}, "credsStore": "absent"})]
    {
        fs::write(folder.join("config.json"), settings.to_string()).expect("a file");
        let done = ctl(daemon, folder, &["login", "-u", "me", "--password-stdin", &server], "secret").ok();
        assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("Login Succeeded\n", ""));
        let kept: Value =
            serde_json::from_slice(&fs::read(folder.join("kept")).expect("kept")).expect("JSON");
        assert_eq!(kept, json!({"ServerURL": server, "Username": "me", "Secret": "secret"}));
        assert!(!fs::read_to_string(folder.join("config.json")).expect("the file").contains("c2VjcmV0"));
        assert_eq!(config(folder)["auths"][&server], json!({}));
        ctl(daemon, folder, &["pull", "-q", &name], "").ok();
        daemon.ctl(&["rmi", &name]).ok();
        ctl(daemon, folder, &["logout", &server], "").ok();
        assert!(!folder.join("kept").exists());
        assert!(config(folder)["auths"].get(&server).is_none());
        assert!(ctl(daemon, folder, &["pull", "-q", &name], "").expect(1).stderr.contains("nauthorized"));
    }
    // One that is not there is told, and no reason to give up.
    registry.set_access(Access::Anonymous);
    fs::write(folder.join("config.json"), r#"{"credsStore": "absent"}"#).expect("a file");
    let pulled = ctl(daemon, folder, &["pull", "-q", &name], "").ok();
    assert!(pulled.stderr.contains("docker-credential-absent: no such file"), "{}", pulled.stderr);
}

#[test]
fn a_person_is_asked_for_what_is_missing() {
    let daemon = &Daemon::start();
    let home = tempfile::tempdir().expect("a folder");
    let (registry, _name) = private(Access::Basic { user: "me".into(), password: "secret".into() });
    let server = registry.address().to_string();
    let mut command = daemon.ctl_command(&["login", &server]);
    command.env("DOCKER_CONFIG", home.path());
    let mut terminal = Terminal::spawn(command, 80, 24).expect("a terminal");
    terminal.expect("Username: ");
    terminal.send("me\n");
    terminal.expect("Password: ");
    terminal.send("secrex\x7ft\n");
    terminal.expect("Login Succeeded");
    assert!(!terminal.shown().contains("secre"), "what is typed is not shown: {}", terminal.shown());
    assert_eq!(config(home.path())["auths"][&server]["auth"], json!("bWU6c2VjcmV0"));
    assert_eq!(run(&mut daemon.ctl_command(&["logout", "x", "y"])).expect("longshore runs").code, 1);
}
