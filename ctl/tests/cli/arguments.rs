//! Bad arguments: each has docker's words and docker's exit code, and reaches no daemon. Good ones arrive.

use longshore_proto::longshore::engine::v1::{LogConfig, PullPolicy};

use crate::engine::Engine;
use crate::{call, longshore};

#[test]
fn every_bad_argument_has_its_own_words_and_exit_code() {
    let mut engine = Engine::start();
    engine.die();
    for (line, code, words) in [
        ("run", 1, "'longshore run' requires at least 1 argument"),
        ("run --foo x", 125, "unknown flag: --foo"),
        ("run -xyz x", 125, "unknown shorthand flag: 'x' in -xyz"),
        ("run --nam foo x", 125, "Did you mean '--name'?"),
        ("run --name", 125, "flag needs an argument: --name"),
        ("run -m 5x x", 125, r#"invalid argument "5x" for "-m, --memory" flag: invalid suffix: 'x'"#),
        ("run -m abc x", 125, "invalid size: 'abc'"),
        ("run -m -1 x", 125, "invalid size: '-1'"),
        ("run -m 99999999999999999999g x", 125, "invalid size"),
        ("run --cpus abc x", 125, r#"for "--cpus" flag: failed to parse abc as a rational number"#),
        ("run --pids-limit x x", 125, r#"strconv.ParseInt: parsing "x": invalid syntax"#),
        ("run --stop-timeout -5 x", 125, "must be -1 (wait for ever)"),
        ("run --rm=x x", 125, r#"invalid argument "x" for "--rm" flag: strconv.ParseBool"#),
        ("run -e =x x", 125, r#"for "-e, --env" flag: invalid environment variable: =x"#),
        ("run -l =x x", 125, "invalid label '=x': empty name"),
        ("run --env-file /nowhere x", 125, "longshore: open /nowhere: no such file or directory"),
        ("run --env-file /dev x", 125, "/dev"),
        ("run -v /a:b x", 125, "mount path must be absolute"),
        ("run -v /a:/ x", 125, "destination can't be '/'"),
        ("run --pull now x", 125, "invalid pull option: 'now'"),
        ("run --log-opt max-size=-5 x", 125, "invalid size"),
        ("run --detach-keys foo x", 125, "invalid detach keys (foo)"),
        ("run --cidfile /dev/null x", 125, "container ID file found"),
        ("run -d -a stdout x", 1, "conflicting options: cannot specify both --attach and --detach"),
        ("run -a nothing x", 125, r#"invalid argument "nothing" for "-a, --attach" flag"#),
        ("run -it x", 1, "the input device is not a TTY"),
        ("run x", 125, "Is the longshore daemon running?"),
        ("create x", 1, "Is the longshore daemon running?"),
        ("ps", 1, "Is the longshore daemon running?"),
        ("-H tcp://1.2.3.4 ps", 125, "invalid host 'tcp://1.2.3.4'"),
        ("create --foo", 125, "unknown flag: --foo"),
        ("ps --foo", 125, "unknown flag: --foo"),
        ("ps extra", 1, "'longshore ps' accepts no arguments"),
        ("ps -f foo", 125, "bad format of filter (expected name=value)"),
        ("ps -n x", 125, r#"for "-n, --last" flag"#),
        ("ps --format {{", 1, "failed to parse template: template: :1: unclosed action"),
        ("inspect", 1, "'longshore inspect' requires at least 1 argument"),
        ("inspect -f {{ x", 64, "template parsing error"),
        ("exec c", 1, "'longshore exec' requires at least 2 arguments"),
        ("exec -it c sh", 1, "the input device is not a TTY"),
        ("logs", 1, "'longshore logs' requires 1 argument"),
        ("logs --tail x c", 125, r#"for "-n, --tail" flag"#),
        ("logs --since never c", 1, "is neither a time"),
        ("stop -t x c", 125, r#"for "-t, --timeout" flag"#),
        ("start -a b c", 1, "you cannot start and attach multiple containers at once"),
        ("rm", 1, "'longshore rm' requires at least 1 argument"),
        ("rm -l c", 125, "--link is not built yet"),
        ("rename a", 1, "'longshore rename' requires 2 arguments"),
        ("tag a", 1, "'longshore tag' requires 2 arguments"),
        ("pull a b", 1, "'longshore pull' requires 1 argument"),
        ("images a b", 1, "'longshore images' requires at most 1 argument"),
        ("completion tcsh", 125, "it must be one of bash, zsh, fish"),
        ("pss", 1, "longshore: unknown command: longshore pss\n\nDid you mean 'ps'"),
        ("container lss", 1, "longshore: unknown command: longshore container lss"),
        ("build .", 1, "'longshore build' is not built yet"),
        ("--foo", 125, "unknown flag: --foo"),
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        let said = call(&engine, &arguments);
        assert_eq!(said.code, code, "{line}: {said:?}");
        assert!(said.err.contains(words), "{line}: {said:?}");
        assert_eq!(said.out, "", "{line}");
    }
}

#[test]
fn an_argument_that_is_not_text_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let engine = Engine::start();
    let bad = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let output = longshore(&engine).arg("run").arg(bad).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not UTF-8"));
}

#[test]
fn what_is_asked_for_arrives() {
    let engine = Engine::start();
    let file = engine.folder().join("env");
    std::fs::write(&file, "# a comment\nFILE=1\nA=from file\n").unwrap();
    let labels = engine.folder().join("labels");
    std::fs::write(&labels, "l1=file\nl2=file\n").unwrap();
    let line = format!(
        "create --name first --name n -it -e A=1 -e FROM_HERE -e NOT_SET --env-file {} -w /w -u u:g -v /a:/b:ro -m 512m \
         --cpus 1.5 --pids-limit 50 --network=host --read-only --cap-add NET_ADMIN --cap-drop=ALL --privileged=false \
         -l l1=flag -l --odd --label-file {} --pull=always -h host --stop-signal INT --stop-timeout -1 --rm \
         --log-opt max-size=10m --log-opt max-file=3 --platform linux/amd64 --entrypoint= image:tag sh -c echo -e --rm",
        file.display(),
        labels.display(),
    );
    let output = longshore(&engine).env("FROM_HERE", "here").args(line.split_whitespace()).output();
    let said = crate::Said::from(output.unwrap());
    assert_eq!((said.code, said.out.trim()), (0, crate::engine::ID), "{said:?}");
    let request = engine.state.created.lock().unwrap().last().unwrap().clone();
    assert_eq!((request.name.as_str(), request.pull()), ("n", PullPolicy::Always));
    let config = engine.config();
    assert_eq!(config.image, "image:tag");
    assert_eq!(config.args, ["sh", "-c", "echo", "-e", "--rm"]);
    assert_eq!(config.env, ["FILE=1", "A=from file", "A=1", "FROM_HERE=here", "NOT_SET"]);
    assert!(config.entrypoint_set && config.entrypoint.is_empty());
    assert!(
        config.tty
            && config.open_stdin
            && config.read_only_rootfs
            && config.auto_remove
            && !config.privileged
    );
    assert_eq!(
        (config.working_dir.as_str(), config.user.as_str(), config.hostname.as_str()),
        ("/w", "u:g", "host")
    );
    assert_eq!(config.network_mode, "host");
    assert_eq!((config.cap_add, config.cap_drop), (vec!["NET_ADMIN".to_string()], vec!["ALL".to_string()]));
    assert_eq!((config.labels["l1"].as_str(), config.labels["l2"].as_str()), ("flag", "file"));
    assert!(config.labels.contains_key("--odd"));
    let resources = config.resources.unwrap();
    assert_eq!((resources.memory, resources.nano_cpus, resources.pids), (512 << 20, 1_500_000_000, 50));
    assert_eq!((config.stop_signal.as_str(), config.stop_timeout), ("INT", Some(-1)));
    assert_eq!(config.log, Some(LogConfig { max_size: 10_000_000, max_files: 3, ..LogConfig::default() }));
    assert!(config.mounts[0].read_only && config.mounts[0].source == "/a" && config.mounts[0].target == "/b");
    assert!(config.made_by.contains("create --name first --name n -it"));
}

#[test]
fn credentials_go_along_with_a_pull() {
    let engine = Engine::start();
    std::fs::create_dir(engine.folder().join(".docker")).unwrap();
    let file = r#"{"auths": {"r.io:5000": {"auth": "YW5uYTpzZWNyZXQ="}}}"#;
    std::fs::write(engine.folder().join(".docker/config.json"), file).unwrap();
    assert_eq!(call(&engine, &["pull", "-q", "r.io:5000/x"]).code, 0);
    assert_eq!(call(&engine, &["pull", "-q", "other.io/x"]).code, 0);
    assert_eq!(engine.calls(), ["pull r.io:5000/x platform= user=anna", "pull other.io/x platform= user="]);
}

#[test]
fn help_and_completions_go_to_stdout() {
    let engine = Engine::start();
    let said = call(&engine, &["run", "--help"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert!(said.out.starts_with("Usage:  longshore run [OPTIONS] IMAGE [COMMAND] [ARG...]"));
    assert!(said.out.contains("--publish") && said.out.contains("--security-opt"));
    assert!(
        call(&engine, &["container", "ls", "--help"]).out.contains(
            "longshore container ls, longshore container list, longshore container ps, longshore ps"
        )
    );
    assert!(call(&engine, &["--help"]).out.contains("completion"));
    for shell in ["bash", "zsh", "fish"] {
        let said = call(&engine, &["completion", shell]);
        assert!(said.code == 0 && said.out.contains("__complete"), "{shell}");
    }
    assert_eq!(call(&engine, &["-v"]).out, format!("longshore version {}\n", env!("CARGO_PKG_VERSION")));
}
