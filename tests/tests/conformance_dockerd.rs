//! dockerd, unmodified, with our socket in containerd's place: the distribution's, and a newer one that
//! `LONGSHORE_NEWER_DOCKERD` names at build time, both with its own graph driver and with its images in our daemon.
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use longshore_tests::Fixture;
use longshore_tests::daemon::{eventually, run};
use longshore_tests::docker::{Dockerd, Edition, Networks};
use longshore_tests::image;
use longshore_tests::pty::Terminal;

/// Counts lines until it is told to stop, and then ends with 5.
const COUNTER: &str = "trap 'exit 5' TERM; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.1; done";

/// One test of each kind for one dockerd; `$has` says whether it is there.
macro_rules! with {
    ($module:ident, $has:ident, $edition:expr) => {
        mod $module {
            use super::Edition;

            #[test]
            #[cfg_attr(not($has), ignore = "needs dockerd (package docker.io, or LONGSHORE_NEWER_DOCKERD)")]
            fn containers_run_and_images_are_built() {
                super::containers_run_and_images_are_built($edition);
            }

            #[test]
            #[cfg_attr(
                not(all($has, have_docker_buildkit, have_ip)),
                ignore = "needs dockerd and a docker that speaks to BuildKit (docker.io before 23, or docker-buildx)"
            )]
            fn buildkit_in_dockerd_builds_images() {
                super::buildkit_in_dockerd_builds_images($edition);
            }

            #[test]
            #[cfg_attr(not($has), ignore = "needs dockerd (package docker.io, or LONGSHORE_NEWER_DOCKERD)")]
            fn a_container_is_driven_to_its_end() {
                super::a_container_is_driven_to_its_end($edition);
            }

            #[test]
            #[cfg_attr(not(all($has, have_runc)), ignore = "needs dockerd and runc (packages docker.io, runc)")]
            fn a_runtime_that_was_added_runs_the_container() {
                super::a_runtime_that_was_added_runs_the_container($edition);
            }

            #[test]
            #[cfg_attr(not($has), ignore = "needs dockerd (package docker.io, or LONGSHORE_NEWER_DOCKERD)")]
            fn restart_policies_hold() {
                super::restart_policies_hold($edition);
            }

            #[test]
            #[cfg_attr(not($has), ignore = "needs dockerd (package docker.io, or LONGSHORE_NEWER_DOCKERD)")]
            fn a_killed_daemon_loses_no_docker_container() {
                super::a_killed_daemon_loses_no_docker_container($edition);
            }

            #[test]
            #[cfg_attr(
                not(all($has, have_docker_compose, have_ip)),
                ignore = "needs dockerd, docker-compose and ip (packages docker.io, docker-compose, iproute2)"
            )]
            fn two_services_of_a_compose_file_find_each_other() {
                super::two_services_of_a_compose_file_find_each_other($edition);
            }
        }
    };
}

with!(distribution, have_dockerd, Edition::Distribution);
with!(newer, have_newer_dockerd, Edition::Newer);
with!(newer_with_images_in_our_daemon, have_newer_dockerd, Edition::NewerImageStore);

/// dockerd is dropped first.
struct Setup {
    docker: Dockerd,
    fixture: Fixture,
}

fn setup(edition: Edition) -> Setup {
    let fixture = Fixture::new();
    let docker = Dockerd::start(&fixture.daemon, edition, Networks::None, &[]).expect("dockerd starts");
    docker.docker(&["pull", "-q", &fixture.busybox]).ok();
    docker.docker(&["tag", &fixture.busybox, "busybox"]).ok();
    Setup { docker, fixture }
}

/// With networks of its own.
fn networked(edition: Edition) -> Setup {
    let fixture = Fixture::new();
    let docker = Dockerd::start(&fixture.daemon, edition, Networks::Own, &[]).expect("dockerd starts");
    // The registry is not in dockerd's network.
    let archive = fixture.daemon.path().join("busybox.tar");
    fs::write(&archive, image::busybox_layer().expect("busybox").bytes()).expect("a file");
    docker.docker(&["import", &archive.display().to_string(), "busybox"]).ok();
    Setup { docker, fixture }
}

impl Setup {
    #[track_caller]
    fn inspect(&self, name: &str, format: &str) -> String {
        self.docker.docker(&["inspect", name, "--format", format]).ok().line().to_owned()
    }
}

fn containers_run_and_images_are_built(edition: Edition) {
    let setup = setup(edition);
    let docker = &setup.docker;
    let output = docker.docker(&["run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (7, "out\n", "err\n"));
    docker.docker(&["run", "--rm", "busybox", "no-such-program"]).expect(127);
    let command = docker.client("docker", &["run", "--rm", "-it", "busybox", "sh"]);
    let mut terminal = Terminal::spawn(command, 91, 33).expect("a terminal");
    // docker tells the size only once the container runs.
    terminal.send("until stty size 2>/dev/null | grep 91; do sleep 0.1; done; tty; exit 3\n");
    assert_eq!(terminal.wait(), 3, "{}", terminal.shown());
    let shown = terminal.shown();
    assert!(shown.contains("33 91") && shown.contains("/dev/pts/0"), "{shown}");

    builds(&setup, "docker", "0");
}

fn buildkit_in_dockerd_builds_images(edition: Edition) {
    builds(&networked(edition), option_env!("LONGSHORE_DOCKER_BUILDKIT").unwrap_or_default(), "1");
}

fn builds(setup: &Setup, program: &str, buildkit: &str) {
    let context = setup.fixture.daemon.path().join("context");
    fs::create_dir(&context).expect("a folder");
    fs::write(context.join("file"), "copied\n").expect("a file");
    let dockerfile = "FROM busybox\nRUN echo built >/built\nCOPY file /file\nCMD cat /built /file\n";
    fs::write(context.join("Dockerfile"), dockerfile).expect("a file");
    let words = ["build", "-q", "-t", "mine", &context.display().to_string()];
    run(setup.docker.client(program, &words).env("DOCKER_BUILDKIT", buildkit)).expect("docker runs").ok();
    let output = setup.docker.docker(&["run", "--rm", "mine"]).ok();
    assert_eq!(output.stdout, "built\ncopied\n");
}

fn a_container_is_driven_to_its_end(edition: Edition) {
    let setup = setup(edition);
    let docker = &setup.docker;
    docker.docker(&["run", "-d", "--name", "web", "busybox", "sh", "-c", COUNTER]).ok();
    let executed = docker.docker(&["exec", "-e", "A=b", "web", "sh", "-c", "echo $A; exit 9"]);
    assert_eq!((executed.code, executed.stdout.as_str()), (9, "b\n"), "{executed:?}");
    let command = docker.client("docker", &["exec", "-it", "web", "sh"]);
    let mut terminal = Terminal::spawn(command, 80, 24).expect("a terminal");
    terminal.send("test -t 1 && exit 4\n");
    assert_eq!(terminal.wait(), 4, "{}", terminal.shown());

    let mut follower = docker.client("docker", &["logs", "-f", "web"]);
    let mut follower = follower.stdout(Stdio::piped()).spawn().expect("docker starts");
    let lines = BufReader::new(follower.stdout.take().expect("stdout is piped")).lines();
    let seen: Vec<_> = lines.map_while(Result::ok).take(6).collect();
    assert_eq!(seen, ["line 0", "line 1", "line 2", "line 3", "line 4", "line 5"]);
    follower.kill().expect("docker is ours to end");
    follower.wait().expect("docker ends");

    assert!(docker.docker(&["top", "web"]).ok().stdout.contains("while :"));
    let stats = docker.docker(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "web"]).ok();
    assert!(stats.stdout.contains("iB / ") && !stats.line().ends_with(" 0"), "{stats:?}");
    docker.docker(&["update", "--memory", "64m", "--memory-swap", "64m", "web"]).ok();
    let limits = docker.docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "web"]).ok();
    assert!(limits.line().ends_with("/ 64MiB"), "{limits:?}");
    docker.docker(&["pause", "web"]).ok();
    assert_eq!(setup.inspect("web", "{{.State.Status}}"), "paused");
    docker.docker(&["unpause", "web"]).ok();
    docker.docker(&["stop", "web"]).ok();
    assert_eq!(setup.inspect("web", "{{.State.Status}} {{.State.ExitCode}}"), "exited 5");
    docker.docker(&["start", "web"]).ok();
    docker.docker(&["restart", "-t", "1", "web"]).ok();
    docker.docker(&["kill", "web"]).ok();
    eventually("it is killed", || setup.inspect("web", "{{.State.ExitCode}}") == "137");
}

fn a_runtime_that_was_added_runs_the_container(edition: Edition) {
    let fixture = Fixture::new();
    let mark = fixture.daemon.path().join("called");
    let wrapper = fixture.daemon.path().join("wrapped-runc");
    fs::write(&wrapper, format!("#!/bin/sh\necho \"$@\" >>{}\nexec runc \"$@\"\n", mark.display()))
        .expect("a file");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("a mode");
    let added = format!("--add-runtime=mine={}", wrapper.display());
    let options: &[&str] = match edition {
        // The host's runc may not know time namespaces yet.
        Edition::NewerImageStore => &[&added, "--feature=time-namespaces=false"],
        Edition::Distribution | Edition::Newer => &[&added],
    };
    let docker = Dockerd::start(&fixture.daemon, edition, Networks::None, options).expect("dockerd starts");
    docker.docker(&["pull", "-q", &fixture.busybox]).ok();
    let run = ["run", "--rm", "--runtime", "mine", &fixture.busybox, "sh", "-c", "echo out; exit 6"];
    let output = docker.docker(&run);
    assert_eq!((output.code, output.stdout.as_str()), (6, "out\n"), "{output:?}");
    assert!(fs::read_to_string(&mark).expect("it was called").contains(" create "));
}

fn restart_policies_hold(edition: Edition) {
    let setup = setup(edition);
    let run = |policy: &str, name: &str, script: &str| {
        let words = ["run", "-d", "--restart", policy, "--name", name, "busybox", "sh", "-c", script];
        setup.docker.docker(&words).ok();
    };
    run("on-failure:2", "fails", "exit 3");
    run("on-failure:2", "works", "exit 0");
    run("always", "always", "sleep 0.2");
    let count = |name: &str| setup.inspect(name, "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}");
    eventually("the last attempt has failed", || count("fails") == "2 exited 3");
    eventually("success is no failure", || count("works") == "0 exited 0");
    let restarts = || setup.inspect("always", "{{.RestartCount}}").parse::<u32>().expect("a number");
    eventually("it is started again and again", || restarts() >= 2);
}

fn a_killed_daemon_loses_no_docker_container(edition: Edition) {
    let mut setup = setup(edition);
    let run = |setup: &Setup, name: &str, script: &str| {
        setup.docker.docker(&["run", "-d", "--name", name, "busybox", "sh", "-c", script]).ok();
    };
    run(&setup, "lasting", COUNTER);
    run(&setup, "ends-later", "while [ ! -e /go ]; do sleep 0.1; done; exit 34");
    run(&setup, "ends-meanwhile", "sleep 2; exit 33");
    let pid = setup.inspect("lasting", "{{.State.Pid}}");
    setup.fixture.daemon.kill();
    std::thread::sleep(Duration::from_millis(2500));
    setup.fixture.daemon.launch().expect("the daemon comes up");
    let state = |name: &str| setup.inspect(name, "{{.State.Status}} {{.State.ExitCode}}");
    eventually("dockerd is told what ended while it could not listen", || {
        state("ends-meanwhile") == "exited 33"
    });
    assert_eq!(setup.inspect("lasting", "{{.State.Status}} {{.State.Pid}}"), format!("running {pid}"));
    // The container may end before docker has asked how the exec ended.
    eventually("dockerd is connected", || {
        let touched = setup.docker.docker(&["exec", "ends-later", "touch", "/go"]);
        touched.code == 0 || state("ends-later") == "exited 34"
    });
    eventually("an exit arrives again", || state("ends-later") == "exited 34");
    let lines = || {
        setup.docker.docker(&["logs", "lasting"]).ok().stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let before = lines().len();
    eventually("it goes on writing", || lines().len() > before + 2);
    assert!(lines().iter().enumerate().all(|(n, line)| *line == format!("line {n}")), "the log has no gap");
    setup.docker.docker(&["stop", "lasting"]).ok();
    assert_eq!(state("lasting"), "exited 5");
}

fn two_services_of_a_compose_file_find_each_other(edition: Edition) {
    let setup = networked(edition);
    let Setup { docker, fixture } = &setup;
    let file = fixture.daemon.path().join("docker-compose.yml");
    let text = "services:\n\
        \x20 web:\n    image: busybox\n    stop_grace_period: 1s\n\
        \x20   command: [sh, -c, 'echo hello >/tmp/index.html; exec httpd -f -p 8000 -h /tmp']\n\
        \x20 client:\n    image: busybox\n    depends_on: [web]\n    stop_grace_period: 1s\n\
        \x20   command: [sh, -c, 'until wget -q -O - http://web:8000/index.html; do sleep 0.2; done; sleep 1000']\n";
    fs::write(&file, format!("version: '2.4'\n{text}")).expect("a file");
    let compose = |args: &[&str]| {
        let file = file.display().to_string();
        let words = [&["-p", "two", "-f", &file], args].concat();
        run(&mut docker.client("docker-compose", &words)).expect("docker-compose runs")
    };
    compose(&["up", "-d"]).ok();
    eventually("one service reaches the other by its name", || {
        compose(&["logs", "--no-color", "client"]).stdout.contains("| hello")
    });
    assert_eq!(docker.docker(&["ps", "-q"]).ok().stdout.lines().count(), 2);
    let began = Instant::now();
    compose(&["down"]).ok();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(docker.docker(&["ps", "-a", "-q"]).ok().line(), "");
}
