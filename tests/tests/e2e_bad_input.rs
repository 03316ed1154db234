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
