//! What people mistype, and what hosts lack: a clear error, the right exit code, nothing left behind.

use std::fs;

use longshore_tests::daemon::{self, program};
use longshore_tests::{Daemon, Fixture};

#[test]
fn a_config_with_an_unknown_key_is_refused_with_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.toml");
    for (text, expected) in [
        ("log_level = \"info\"\nlog_leval = \"debug\"\n", "line 2"),
        ("[runtime]\npool_size = \"many\"\n", "line 2"),
        ("= nonsense", "line 1"),
    ] {
        fs::write(&config, text).expect("a file");
        let mut command = std::process::Command::new(program("longshored"));
        command.arg("--config").arg(&config).arg("--root").arg(folder.path().join("root"));
        command
            .arg("--state")
            .arg(folder.path().join("state"))
            .arg("--address")
            .arg(folder.path().join("s.sock"));
        let refused = daemon::run(&mut command).expect("longshored runs");
        assert_ne!(refused.code, 0);
        assert!(refused.stderr.contains(expected), "{text:?}: {}", refused.stderr);
        assert!(!folder.path().join("root").exists(), "nothing is made");
    }
    let mut absent = std::process::Command::new(program("longshored"));
    let refused =
        daemon::run(absent.arg("--config").arg(folder.path().join("absent.toml"))).expect("longshored runs");
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("absent.toml"), "{}", refused.stderr);
}

#[test]
fn two_daemons_do_not_share_a_root() {
    let daemon = Daemon::start();
    let refused = daemon::run(&mut daemon.command()).expect("longshored runs");
    assert_ne!(refused.code, 0, "{refused:?}");
    daemon.ctl(&["version"]).ok();
}

#[test]
fn without_a_daemon_the_client_says_what_to_do() {
    let refused = daemon::run(std::process::Command::new(program("longshore")).args([
        "-H",
        "unix:///nonexistent/longshore.sock",
        "ps",
    ]));
    let refused = refused.expect("longshore runs").expect(1);
    assert!(
        refused.stderr.contains("/nonexistent/longshore.sock") && refused.stderr.contains("longshored"),
        "{}",
        refused.stderr
    );
}

#[test]
fn flags_with_absurd_values_are_refused_before_anything_is_made() {
    let Fixture { daemon, registry: _registry, busybox } = &Fixture::pulled();
    let cases: &[&[&str]] = &[
        &["-m", "1"],
        &["-m", "lots"],
        &["-m", "-5"],
        &["--cpus", "-1"],
        &["--cpus", "many"],
        &["--cpus", "100000"],
        &["--pids-limit", "x"],
        &["--network", "no-such-network"],
        &["-v", "relative:/x:ro:rw:z"],
        &["-v", "/tmp:relative"],
        &["-w", "relative"],
        &["--name", "-bad-"],
        &["--name", "a"],
        &["--cap-add", "NO_SUCH_CAP"],
        &["--pull", "sometimes"],
        &["-e", "=x"],
        &["--platform", "a/b/c/d/e"],
        &["--stop-signal", "NOSIG"],
        &["--log-opt", "no-such=1"],
    ];
    for case in cases {
        let mut args = vec!["run", "--rm"];
        args.extend(*case);
        args.extend([busybox.as_str(), "true"]);
        let refused = daemon.ctl(&args);
        assert_eq!(refused.code, 125, "{case:?}: {refused:?}");
        assert!(!refused.stderr.trim().is_empty(), "{case:?} says why");
        assert_eq!(daemon.ctl(&["ps", "-a", "-q"]).ok().line(), "", "{case:?} leaves nothing");
    }
    for (args, code) in [
        (&["rm", "absent"][..], 1),
        (&["start", "absent"], 1),
        (&["logs", "absent"], 1),
        (&["exec", "absent", "true"], 1),
        (&["inspect", "absent"], 1),
        (&["stop", "absent"], 1),
        (&["rmi", "absent"], 1),
        (&["tag", "absent", "x"], 1),
        (&["image", "inspect", "absent"], 1),
        (&["ps", "--filter", "no-such=1"], 1),
    ] {
        let refused = daemon.ctl(args);
        assert_eq!(refused.code, code, "{args:?}: {refused:?}");
        assert!(
            refused.stderr.contains("absent") || refused.stderr.contains("no-such"),
            "{args:?}: {}",
            refused.stderr
        );
    }
}

#[test]
fn an_image_without_a_command_says_so() {
    let Fixture { daemon, registry, .. } = &Fixture::new();
    let image = longshore_tests::image::ImageBuilder::new()
        .layer(longshore_tests::image::busybox_layer().expect("busybox"))
        .build()
        .expect("an image");
    registry.put("bare", "1", &image);
    let refused = daemon.ctl(&["run", "--rm", &registry.reference("bare:1")]).expect(125);
    assert!(refused.stderr.to_lowercase().contains("no command specified"), "{}", refused.stderr);
    assert_eq!(daemon.ctl(&["ps", "-a", "-q"]).ok().line(), "");
}

/// Words of a command line, its exit code, and a part of what is said about it. `IMAGE` is a busybox, `up` a container
/// that runs, `down` one that does not.
const CASES: &[(&str, i32, &str)] = &[
    // The command line itself.
    ("", 0, ""),
    ("no-such-command", 1, "unknown command: longshore no-such-command"),
    ("container no-such-verb", 1, "unknown command: longshore container no-such-verb"),
    ("context no-such-verb", 1, "unknown command: longshore context no-such-verb"),
    ("--no-such-flag ps", 125, "unknown flag: --no-such-flag"),
    ("--log-level loud ps", 1, "Unable to parse logging level: loud"),
    ("--tlsverify ps", 125, "ssh://"),
    ("--context absent ps", 1, "does not exist"),
    ("--context x --host unix:///y ps", 1, "cannot specify both --host and --context"),
    // run and create.
    ("run", 1, "requires at least 1 argument"),
    ("run --name", 125, "flag needs an argument: --name"),
    ("run --nosuch IMAGE", 125, "unknown flag: --nosuch"),
    ("run -Z IMAGE", 125, "unknown shorthand flag: 'Z' in -Z"),
    ("run -m 1 IMAGE", 125, "emory"),
    ("run -m -5 IMAGE", 125, "invalid size"),
    ("run -m lots IMAGE", 125, "invalid size: 'lots'"),
    ("run --cpus many IMAGE", 125, "rational number"),
    ("run --cpus 100000 IMAGE", 125, "CPUs"),
    ("run --cpus -1 IMAGE", 125, ""),
    ("run --pids-limit x IMAGE", 125, "invalid syntax"),
    ("run --oom-score-adj 5000 IMAGE", 125, "oom"),
    ("run --shm-size -1 IMAGE", 125, "size"),
    ("run --ulimit nofile IMAGE", 125, "ulimit"),
    ("run --ulimit nosuch=1 IMAGE", 125, "ulimit"),
    ("run --ulimit nofile=9:8 IMAGE", 125, "ulimit"),
    ("run --network no-such IMAGE", 125, "no-such"),
    ("run --network container:absent IMAGE", 125, "absent"),
    ("run -p 99999:80 IMAGE", 125, "99999"),
    ("run -p x:y:z:w IMAGE", 125, "invalid IP address"),
    ("run -p 80:80/icmp IMAGE", 125, "icmp"),
    ("run --expose x IMAGE", 125, "x"),
    ("run --ip 1.2.3 IMAGE", 125, ""),
    ("run --dns nonsense IMAGE", 125, "nonsense"),
    ("run --add-host nocolon IMAGE", 125, "nocolon"),
    ("run -v /a:relative IMAGE", 125, "relative"),
    ("run -v /tmp:/ IMAGE", 125, "destination can't be '/'"),
    ("run -v /a:/b:ro:rw:z IMAGE", 125, "invalid"),
    ("run --mount type=what,dst=/x IMAGE", 125, "what"),
    ("run --mount type=bind,dst=/x IMAGE", 125, ""),
    ("run --mount dst=/x,nosuch=1 IMAGE", 125, "nosuch"),
    (
        "run --mount type=bind,src=/nonexistent/longshore-here,dst=/x IMAGE",
        125,
        "/nonexistent/longshore-here",
    ),
    ("run --tmpfs relative IMAGE", 125, "relative"),
    ("run --volumes-from absent IMAGE", 125, ""),
    ("run --device /dev/no-such IMAGE", 125, "/dev/no-such"),
    ("run --device /dev/null:/dev/null:xyz IMAGE", 125, "xyz"),
    ("run --device-cgroup-rule nonsense IMAGE", 125, "nonsense"),
    ("run -w relative IMAGE", 125, "relative"),
    ("run --name -bad IMAGE", 125, "-bad"),
    ("run --name a IMAGE", 125, "name (a)"),
    ("run --name up IMAGE", 125, "up"),
    ("run --cap-add NO_SUCH IMAGE", 125, "NO_SUCH"),
    ("run --security-opt nonsense IMAGE", 125, "nonsense"),
    ("run --security-opt seccomp=/nonexistent.json IMAGE", 125, "/nonexistent.json"),
    ("run --sysctl nonsense IMAGE", 125, "nonsense"),
    ("run --sysctl kernel.nosuch=1 IMAGE", 125, "kernel.nosuch"),
    ("run --pull sometimes IMAGE", 125, "sometimes"),
    ("run --pull never 127.0.0.1:1/absent", 125, "absent"),
    ("run 127.0.0.1:1/absent", 125, "absent"),
    ("run Upper", 125, "lowercase"),
    ("run IMAGE@sha256:short", 125, "invalid reference format"),
    ("run -e =x IMAGE", 125, "invalid environment variable: =x"),
    ("run --env-file /nonexistent IMAGE", 125, "/nonexistent"),
    ("run --env-file /dev IMAGE", 125, "/dev"),
    ("run -l =x IMAGE", 125, "invalid label"),
    ("run --label-file /nonexistent IMAGE", 125, "/nonexistent"),
    ("run --platform a/b/c/d IMAGE", 125, "a/b/c/d"),
    ("run --stop-signal NOSIG IMAGE", 125, "NOSIG"),
    ("run --stop-timeout never IMAGE", 125, "never"),
    ("run --log-driver nosuch IMAGE", 125, "log"),
    ("run --log-opt nosuch=1 IMAGE", 125, "log"),
    ("run --log-opt max-file=0 IMAGE", 125, "max-file"),
    ("run --restart sometimes IMAGE", 125, "sometimes"),
    ("run --restart on-failure:x IMAGE", 125, "restart policy"),
    ("run --restart always --rm IMAGE", 125, "--rm"),
    ("run --health-interval soon IMAGE", 125, "soon"),
    ("run --health-retries -1 --health-cmd true IMAGE", 125, "retries"),
    ("run --detach-keys nonsense IMAGE", 125, "nonsense"),
    ("run -d -a stdout IMAGE", 1, "--attach"),
    ("run -a nothing IMAGE", 125, "nothing"),
    ("run -it IMAGE", 1, "the input device is not a TTY"),
    ("run --cidfile /dev/null IMAGE", 125, "/dev/null"),
    ("run --runtime no-such IMAGE true", 125, "runtime"),
    ("run --pid container:absent IMAGE", 125, "absent"),
    ("run --ipc nonsense IMAGE", 125, "nonsense"),
    ("run --userns nonsense IMAGE", 125, "--userns"),
    ("run --uts nonsense IMAGE", 125, "--uts"),
    ("run --group-add nosuchgroup --rm IMAGE true", 125, "nosuchgroup"),
    ("run --rm -u nosuchuser IMAGE true", 125, "nosuchuser"),
    ("run --rm IMAGE no-such-program", 127, "no-such-program"),
    ("run --rm IMAGE /etc/passwd", 126, "permission denied"),
    ("create", 1, "requires at least 1 argument"),
    ("create --name up IMAGE", 1, "already in use"),
    ("create --nosuch IMAGE", 125, "unknown flag: --nosuch"),
    // Containers that are not there, or not in the state.
    ("start absent", 1, "No such container: absent"),
    ("start -a up absent", 1, "multiple containers"),
    ("stop absent", 1, "No such container: absent"),
    ("stop -t soon up", 125, "soon"),
    ("stop -s NOSIG up", 1, "NOSIG"),
    ("restart absent", 1, "No such container: absent"),
    ("kill absent", 1, "No such container: absent"),
    ("kill -s NOSIG up", 1, "NOSIG"),
    ("kill down", 1, "is not running"),
    ("pause absent", 1, "No such container: absent"),
    ("pause down", 1, "is not running"),
    ("unpause up", 1, "is not paused"),
    ("wait absent", 1, "No such container: absent"),
    ("wait", 1, "requires at least 1 argument"),
    ("attach absent", 1, "absent"),
    ("attach down", 1, "stopped container"),
    ("exec up", 1, "requires at least 2 arguments"),
    ("exec absent true", 1, "No such container: absent"),
    ("exec down true", 1, "is not running"),
    ("exec up no-such-program", 127, "no-such-program"),
    ("exec -u nosuchuser up id", 126, "nosuchuser"),
    ("exec -e =x up true", 125, "invalid environment variable"),
    ("exec -w relative up id", 126, "relative"),
    ("logs absent", 1, "No such container: absent"),
    ("logs --tail some up", 125, "some"),
    ("logs --since never up", 1, "never"),
    ("logs up down", 1, "requires 1 argument"),
    ("top absent", 1, "No such container: absent"),
    ("top down", 1, "is not running"),
    ("rename up", 1, "requires 2 arguments"),
    ("rename absent other", 1, "No such container: absent"),
    ("rename up down", 1, "already in use"),
    ("rename up -bad", 125, "-b"),
    ("rm", 1, "requires at least 1 argument"),
    ("rm absent", 1, "No such container: absent"),
    ("rm up", 1, "container is running"),
    ("stats --no-stream absent", 1, "No such container: absent"),
    ("inspect", 1, "requires at least 1 argument"),
    ("inspect absent", 1, "No such object: absent"),
    ("inspect --type nonsense up", 1, "nonsense"),
    ("inspect -f {{ up", 64, "unclosed action"),
    ("inspect -f {{.Nope}} up", 1, "map has no entry for key"),
    // Lists.
    ("ps extra", 1, "accepts no arguments"),
    ("ps -f nonsense", 125, "bad format of filter"),
    ("ps -f nonsense=1", 1, "nonsense"),
    ("ps -f status=nonsense", 1, "nonsense"),
    ("ps -n many", 125, "many"),
    ("ps --format {{.Nope}}", 1, "can't evaluate field Nope"),
    ("ps --format {{nope}}", 1, "function \"nope\" not defined"),
    ("images a b", 1, "requires at most 1 argument"),
    ("images -f nonsense=1", 1, "nonsense"),
    ("images --format {{end}}", 1, "unexpected {{end}}"),
    // Images.
    ("pull", 1, "requires 1 argument"),
    ("pull a b", 1, "requires 1 argument"),
    ("pull Upper", 1, "lowercase"),
    ("pull 127.0.0.1:1/absent", 1, "127.0.0.1:1"),
    ("tag absent x", 1, "No such image: absent"),
    ("tag IMAGE Upper", 1, "lowercase"),
    ("tag IMAGE", 1, "requires 2 arguments"),
    ("rmi absent", 1, "No such image: absent"),
    ("rmi", 1, "requires at least 1 argument"),
    ("image inspect absent", 1, "absent"),
    ("image prune -f --filter nonsense=1", 1, "nonsense"),
    // The daemon.
    ("events --since never", 1, "never"),
    ("events --filter nonsense=1 --until 0s", 1, "nonsense"),
    ("info extra", 1, "accepts no arguments"),
    ("info -f {{.Nope}}", 1, "Nope"),
    ("version -f {{", 64, "unclosed action"),
    ("container prune -f --filter nonsense=1", 1, "nonsense"),
    ("container prune", 1, "cancelled"),
    ("completion tcsh", 125, "bash, zsh, fish"),
    // Contexts.
    ("context create", 1, "requires 1 argument"),
    ("context create default", 1, "reserved"),
    ("context create a/b", 1, "is invalid"),
    ("context create xx --endpoint nonsense", 1, "key=value"),
    ("context create xx --endpoint host=tcp://h:1", 125, "invalid host"),
    ("context create xx --endpoint host=unix:///x,ca=y", 1, "TLS"),
    ("context create xx --from absent", 1, "does not exist"),
    ("context use absent", 1, "does not exist"),
    ("context inspect absent", 1, "does not exist"),
    ("context rm absent", 1, "does not exist"),
    ("context rm default", 1, "cannot be removed"),
    ("context update absent", 1, "does not exist"),
    ("context export absent -", 1, "does not exist"),
    ("context import xx /nonexistent", 1, "/nonexistent"),
    ("context import xx /etc/passwd", 1, "invalid context"),
];

/// docker, too, keeps a container that was made and could not be started.
const KEEPS_THE_CONTAINER: [&str; 3] =
    ["--network no-such", "--network container:absent", "--runtime no-such"];

#[test]
fn every_command_refuses_what_makes_no_sense() {
    let Fixture { daemon, registry: _registry, busybox } = &Fixture::pulled();
    daemon.ctl(&["run", "-d", "--name", "up", busybox, "sleep", "1000"]).ok();
    daemon.ctl(&["create", "--name", "down", busybox, "true"]).ok();
    let settings = tempfile::tempdir().expect("a folder");
    let state = || {
        let names = daemon.ctl(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]).ok().stdout;
        let images = daemon.ctl(&["images", "-q"]).ok().stdout;
        let cgroups = daemon.shims().len();
        (names, images, cgroups)
    };
    let before = state();
    let mut wrong = Vec::new();
    for (line, code, words) in CASES {
        let line = line.replace("IMAGE", busybox);
        let mut command = daemon.ctl_command(&line.split_whitespace().collect::<Vec<_>>());
        if line.starts_with("--context") {
            command = std::process::Command::new(program("longshore"));
            command.args(line.split_whitespace());
        }
        command.env("LONGSHORE_CONFIG", settings.path());
        let said = daemon::run(&mut command).expect("longshore runs");
        if said.code != *code || !said.stderr.contains(words) {
            wrong.push(format!(
                "`{line}`: {} instead of {code}, without {words:?}: {}",
                said.code,
                said.stderr.trim()
            ));
        }
        let after = state();
        if after.0 != before.0 || after.1 != before.1 {
            if !KEEPS_THE_CONTAINER.iter().any(|words| line.contains(words)) {
                wrong.push(format!("`{line}` left something behind: {after:?}"));
            }
            for name in after
                .0
                .lines()
                .filter_map(|line| line.split(' ').next())
                .filter(|name| !["up", "down"].contains(name))
            {
                daemon.ctl(&["rm", "-f", name]);
            }
        }
    }
    assert!(CASES.len() >= 150, "{} cases", CASES.len());
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
    assert!(!settings.path().join("contexts").exists(), "no context was half made");
}
