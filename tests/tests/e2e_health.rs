//! Health checks of images and of users.

use longshore_tests::daemon::eventually;
use longshore_tests::{Daemon, Fixture, image};
use serde_json::json;

fn field(daemon: &Daemon, format: &str, name: &str) -> String {
    daemon.ctl(&["inspect", "--format", format, name]).ok().line().to_owned()
}

fn health(daemon: &Daemon, name: &str) -> String {
    field(daemon, "{{.State.Health.Status}}", name)
}

#[test]
fn a_container_is_starting_healthy_unhealthy_and_healthy_again() {
    let mut f = Fixture::pulled();
    let d = &f.daemon;
    let arguments = [
        "run",
        "-d",
        "--name",
        "web",
        "--health-cmd",
        "echo checked; cat /ok",
        "--health-interval",
        "200ms",
        "--health-retries",
        "2",
        &f.busybox,
        "sleep",
        "1000",
    ];
    d.ctl(&arguments).ok();
    let shown = |d: &Daemon| d.ctl(&["ps", "--format", "{{.Status}}"]).ok().line().to_owned();
    assert!(shown(d).ends_with("(health: starting)"), "{}", shown(d));
    eventually("too many probes have failed", || health(d, "web") == "unhealthy");
    assert!(shown(d).ends_with(" (unhealthy)"), "{}", shown(d));
    d.ctl(&["exec", "web", "touch", "/ok"]).ok();
    eventually("a probe succeeds", || health(d, "web") == "healthy");
    assert!(shown(d).ends_with(" (healthy)"), "{}", shown(d));
    assert_eq!(field(d, "{{.State.Health.FailingStreak}}", "web"), "0");
    let report = field(d, "{{(index .State.Health.Log 0).Output}}", "web");
    assert!(report.starts_with("checked"), "{report}");
    eventually("five reports are kept", || field(d, "{{len .State.Health.Log}}", "web") == "5");
    assert_eq!(d.ctl(&["ps", "-q", "--filter", "health=healthy"]).ok().stdout.lines().count(), 1);
    assert_eq!(d.ctl(&["ps", "-q", "--filter", "health=none"]).ok().stdout.lines().count(), 0);
    let events = [
        "events",
        "--since",
        "10m",
        "--until",
        "0s",
        "--filter",
        "event=health_status",
        "--format",
        "{{.Action}}",
    ];
    let told = d.ctl(&events).ok().stdout;
    assert_eq!(told, "health_status: unhealthy\nhealth_status: healthy\n");

    f.daemon.kill();
    f.daemon.launch().expect("the daemon starts again");
    let d = &f.daemon;
    assert_eq!(health(d, "web"), "healthy", "known over the daemon's death");
    d.ctl(&["exec", "web", "rm", "/ok"]).ok();
    eventually("it is still looked after", || health(d, "web") == "unhealthy");
    d.ctl(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_probe_that_hangs_is_ended_and_one_that_talks_is_cut() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let run = |name: &str, probe: &str| {
        let arguments = [
            "run",
            "-d",
            "--name",
            name,
            "--health-cmd",
            probe,
            "--health-interval",
            "100ms",
            "--health-timeout",
            "300ms",
            &f.busybox,
            "sleep",
            "1000",
        ];
        d.ctl(&arguments).ok();
    };
    run("hangs", "sleep 500");
    run("talks", "head -c 100000 /dev/zero | tr '\\0' x");
    eventually("it is found out", || health(d, "hangs") == "unhealthy");
    let output = field(d, "{{(index .State.Health.Log 0).Output}}", "hangs");
    assert_eq!(output, "Health check exceeded timeout (300ms)");
    assert_eq!(field(d, "{{(index .State.Health.Log 0).ExitCode}}", "hangs"), "-1");
    let running = d.ctl(&["exec", "hangs", "sh", "-c", "ps | grep -c 'slee[p] 500'"]);
    assert!(
        running.stdout.trim().parse::<u32>().expect("a number") <= 1,
        "one probe at a time: {}",
        running.stdout
    );
    eventually("it has been probed", || health(d, "talks") == "healthy");
    assert_eq!(field(d, "{{(index .State.Health.Log 0).Output}}", "talks").len(), 4096 + 3);
}

#[test]
fn the_images_check_is_taken_changed_and_switched_off() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let check = json!({ "Test": ["CMD", "test", "-e", "/ok"], "Interval": 200_000_000_u64, "Retries": 1 });
    let image = image::busybox().expect("an image").config("Healthcheck", check).build().expect("an image");
    f.registry.put("checked", "1", &image);
    let reference = f.registry.reference("checked:1");
    d.ctl(&["pull", "-q", &reference]).ok();
    let run = |name: &str, flags: &[&str]| {
        let mut arguments = vec!["run", "-d", "--name", name];
        arguments.extend(flags);
        arguments.extend([reference.as_str(), "sleep", "1000"]);
        d.ctl(&arguments).ok();
    };
    run("images", &[]);
    run("lenient", &["--health-retries", "1000"]);
    run("off", &["--no-healthcheck"]);
    eventually("the image's check speaks", || health(d, "images") == "unhealthy");
    assert_eq!(health(d, "lenient"), "starting");
    assert!(!d.ctl(&["inspect", "off"]).ok().stdout.contains("FailingStreak"));
    let short = d.ctl(&["create", "--health-cmd", "true", "--health-interval", "1us", &f.busybox]);
    assert!(short.stderr.contains("Interval in Healthcheck cannot be less than 1ms"), "{}", short.stderr);
}

#[test]
fn an_unhealthy_container_is_restarted_where_that_is_asked_for() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let arguments = [
        "run",
        "-d",
        "--name",
        "sick",
        "--restart",
        "on-failure:2",
        "--restart-on-unhealthy",
        "--stop-timeout",
        "0",
        "--health-cmd",
        "false",
        "--health-interval",
        "100ms",
        "--health-retries",
        "1",
        &f.busybox,
        "sleep",
        "1000",
    ];
    d.ctl(&arguments).ok();
    eventually("it was restarted twice and given up", || {
        field(d, "{{.RestartCount}} {{.State.Status}}", "sick") == "2 exited"
    });
}
