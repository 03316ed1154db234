//! A real distribution: a Debian tree made by debootstrap, as an image of several layers.

use std::path::Path;

use longshore_tests::daemon::Daemon;
use longshore_tests::debian;
use longshore_tests::image::{ImageBuilder, Layer};
use longshore_tests::pty::Terminal;
use longshore_tests::registry::Registry;
use serde_json::json;

#[test]
#[cfg_attr(not(have_debootstrap), ignore = "needs debootstrap")]
fn debian_is_pulled_layer_by_layer_and_gives_a_shell() {
    let tree = debian::tree(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("a Debian tree");
    let image = ImageBuilder::new()
        .layer(Layer::new().tree(&tree).expect("a layer"))
        .layer(Layer::new().dir("srv/data/", 0o755).file("srv/data/file", 0o644, b"second layer\n"))
        .layer(Layer::new().file("srv/data/.wh.file", 0o644, b"").file("etc/motd", 0o644, b"third layer\n"))
        .config("Cmd", json!(["bash"]))
        .config("Env", json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]))
        .build()
        .expect("an image");
    let registry = Registry::start().expect("a registry");
    registry.put("library/debian", "latest", &image);
    let daemon = Daemon::start();
    let reference = registry.reference("library/debian:latest");
    let pulled = daemon.ctl(&["pull", &reference]).ok();
    assert_eq!(pulled.stdout.matches("Pull complete").count(), 3, "{}", pulled.stdout);
    let script = "cat /etc/motd; ls /srv/data; . /etc/os-release; echo $ID; dpkg -l | grep -c ^ii";
    let output = daemon.ctl(&["run", "--rm", &reference, "bash", "-c", script]).ok();
    let lines: Vec<_> = output.stdout.lines().collect();
    assert_eq!(lines[..2], ["third layer", "debian"], "{}", output.stdout);
    assert!(lines[2].parse::<u32>().is_ok_and(|packages| packages > 50), "{}", output.stdout);

    let command = daemon.ctl_command(&["run", "-it", "--rm", &reference, "bash"]);
    let mut terminal = Terminal::spawn(command, 80, 24).expect("a terminal");
    terminal.expect("#");
    terminal.send("echo $((6 * 7)) in $(cat /proc/1/comm)\n");
    terminal.expect("42 in bash");
    terminal.send("exit\n");
    assert_eq!(terminal.wait(), 0);
}
