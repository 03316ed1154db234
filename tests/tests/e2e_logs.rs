//! Where a container's output is kept, for how long, and who can read it when.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

use longshore_tests::daemon::{eventually, finish};
use longshore_tests::{Daemon, Fixture};

fn folder(daemon: &Daemon, name: &str) -> std::path::PathBuf {
    let path = daemon.ctl(&["inspect", "--format", "{{.LogPath}}", name]).ok().line().to_owned();
    std::path::PathBuf::from(path).parent().expect("a folder").to_owned()
}

fn files(daemon: &Daemon, name: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder(daemon, name))
        .expect("the container's folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("log"))
        .collect();
    names.sort();
    names
}

fn numbers(text: &str) -> Vec<u64> {
    text.lines().map(|line| line.trim().parse().expect("a number")).collect()
}

/// Whether these are consecutive numbers up to `last`.
fn assert_exact(numbers: &[u64], last: u64) {
    assert_eq!(numbers.last(), Some(&last));
    for pair in numbers.windows(2) {
        assert_eq!(pair[1], pair[0] + 1, "lost or repeated");
    }
}

fn end(daemon: &Daemon, name: &str) {
    daemon.ctl(&["wait", name]).ok();
}

#[test]
fn rotation_is_exact_plain_and_compressed() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let kept = |name: &str, options: &[&str]| {
        let mut arguments = vec!["run", "-d", "--name", name];
        arguments.extend(options);
        arguments.extend([f.busybox.as_str(), "seq", "1", "20000"]);
        d.ctl(&arguments).ok();
        end(d, name);
        numbers(&d.ctl(&["logs", name]).ok().stdout)
    };
    let all = kept("all", &["--log-opt", "max-size=100k", "--log-opt", "max-file=50"]);
    assert_eq!((all.first(), all.len()), (Some(&1), 20_000));
    assert_exact(&all, 20_000);
    assert!(files(d, "all").len() > 5, "{:?}", files(d, "all"));

    let some = kept("some", &["--log-opt", "max-size=100k", "--log-opt", "max-file=3"]);
    assert!(some.len() < 20_000 && some.len() > 2_000, "{}", some.len());
    assert_exact(&some, 20_000);
    assert_eq!(files(d, "some"), ["log", "log.1", "log.2"]);

    let packed =
        kept("packed", &["--log-driver", "local", "--log-opt", "max-size=100k", "--log-opt", "max-file=50"]);
    assert_eq!((packed.first(), packed.len()), (Some(&1), 20_000));
    assert_exact(&packed, 20_000);
    eventually("what was rotated away is compressed", || {
        files(d, "packed").iter().skip(1).all(|name| name.ends_with(".gz"))
    });
    assert_exact(&numbers(&d.ctl(&["logs", "-n", "15000", "packed"]).ok().stdout), 20_000);
    assert_eq!(d.ctl(&["logs", "-n", "2", "packed"]).ok().stdout, "19999\n20000\n");
}

#[test]
fn following_loses_and_repeats_nothing_over_rotations_and_the_daemons_death() {
    let mut f = Fixture::pulled();
    let d = &f.daemon;
    for (name, driver) in [("plain", "json-file"), ("packed", "local")] {
        let script =
            "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo $i; [ $((i % 40)) = 0 ] && sleep 0.02; done";
        let arguments = [
            "run",
            "-d",
            "--name",
            name,
            "--log-driver",
            driver,
            "--log-opt",
            "max-size=20k",
            "--log-opt",
            "max-file=100",
            &f.busybox,
            "sh",
            "-c",
            script,
        ];
        d.ctl(&arguments).ok();
    }
    let follow = |name: &str| {
        d.ctl_command(&["logs", "-f", name])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a follower")
    };
    let followers = [follow("plain"), follow("packed")];
    std::thread::sleep(Duration::from_millis(700));
    f.daemon.kill();
    std::thread::sleep(Duration::from_millis(300));
    f.daemon.launch().expect("the daemon starts again");
    for follower in followers {
        let said = finish(follower).expect("the follower ends").ok();
        let numbers = numbers(&said.stdout);
        assert_eq!((numbers.first(), numbers.len()), (Some(&1), 4_000));
        assert_exact(&numbers, 4_000);
    }
}

#[test]
fn a_reader_that_stops_reading_does_not_stop_the_container() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&[
        "run",
        "-d",
        "--name",
        "talker",
        &f.busybox,
        "sh",
        "-c",
        "seq 1 300000; echo done > /done; sleep 1000",
    ])
    .ok();
    let mut reader =
        d.ctl_command(&["logs", "-f", "talker"]).stdout(Stdio::piped()).spawn().expect("a reader");
    eventually("it has said everything all the same", || {
        d.ctl(&["exec", "talker", "cat", "/done"]).code == 0
    });
    let mut lines = BufReader::new(reader.stdout.take().expect("a pipe"));
    let mut first = String::new();
    lines.read_line(&mut first).expect("a line");
    assert_eq!(first, "1\n");
    d.ctl(&["rm", "-f", "talker"]).ok();
    let mut rest = Vec::new();
    lines.read_to_end(&mut rest).expect("the rest");
    reader.wait().expect("the reader ends");
}

#[test]
fn drivers_and_options_say_what_they_do_not_do() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let refused = |flags: &[&str], text: &str| {
        let mut arguments = vec!["create"];
        arguments.extend(flags);
        arguments.extend([f.busybox.as_str(), "true"]);
        let said = d.ctl(&arguments);
        assert!(said.code != 0 && said.stderr.contains(text), "{flags:?}: {}", said.stderr);
    };
    refused(&["--log-driver", "syslog"], "logger: no log driver named 'syslog' is registered");
    refused(&["--log-opt", "foo=1"], "unknown log opt 'foo' for json-file log driver");
    refused(&["--log-driver", "local", "--log-opt", "tag=x"], "unknown log opt 'tag' for");
    refused(&["--log-opt", "mode=odd"], "logger: logging mode not supported: odd");
    refused(
        &["--log-opt", "compress=true", "--log-opt", "max-file=1"],
        "compress cannot be true when max-file is less than 2",
    );

    d.ctl(&["run", "--name", "mute", "--log-driver", "none", &f.busybox, "echo", "heard"]).ok();
    let said = d.ctl(&["logs", "mute"]).expect(1);
    assert!(said.stderr.contains("configured logging driver does not support reading"), "{}", said.stderr);
    assert_eq!(files(d, "mute"), Vec::<String>::new());

    let flags = [
        "--label",
        "team=a b",
        "-e",
        "STAGE=x",
        "--log-opt",
        "labels=team",
        "--log-opt",
        "env=STAGE",
        "--log-opt",
        "tag={{.Name}}",
    ];
    let mut arguments = vec!["run", "--name", "tagged"];
    arguments.extend(flags);
    arguments.extend([f.busybox.as_str(), "echo", "line"]);
    d.ctl(&arguments).ok();
    assert_eq!(d.ctl(&["logs", "--details", "tagged"]).ok().stdout, "STAGE=x,tag=tagged,team=a+b line\n");
    assert_eq!(d.ctl(&["logs", "tagged"]).ok().stdout, "line\n");
}

/// 20 MB here; a gigabyte with `LONGSHORE_LONG=1`.
#[test]
fn much_output_needs_little_memory() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let megabytes = if std::env::var_os("LONGSHORE_LONG").is_some() { 1000 } else { 20 };
    let script = format!(
        "yes 0123456789012345678901234567890123456789012345678901234567890123 | head -c {megabytes}000000"
    );
    d.ctl(&[
        "run",
        "-d",
        "--name",
        "loud",
        "--log-opt",
        "max-size=5m",
        "--log-opt",
        "max-file=3",
        &f.busybox,
        "sh",
        "-c",
        &format!("{script}; echo > /done; sleep 1000"),
    ])
    .ok();
    let mut reader = d.ctl_command(&["logs", "-f", "loud"]).stdout(Stdio::null()).spawn().expect("a reader");
    let resident = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    let shims = d.shims();
    let daemon = i32::try_from(d.pid().expect("a daemon")).expect("a pid");
    let mut most = (0, 0);
    eventually("all is said", || {
        most.0 = most.0.max(shims.iter().map(|&pid| resident(pid)).max().unwrap_or(0));
        most.1 = most.1.max(resident(daemon));
        d.ctl(&["exec", "loud", "test", "-e", "/done"]).code == 0
    });
    assert!(most.0 < 16 << 10, "the shim: {} KiB", most.0);
    assert!(most.1 < 256 << 10, "the daemon: {} KiB", most.1);
    eprintln!("{megabytes} MB: shim {} KiB, daemon {} KiB", most.0, most.1);
    assert_eq!(files(d, "loud"), ["log", "log.1", "log.2"]);
    reader.kill().expect("killed");
    reader.wait().expect("the reader ends");
}
