//! `-t`: a real terminal, its size, its signals, and the user's own terminal restored.

use longshore_tests::Fixture;
use longshore_tests::daemon::eventually;
use longshore_tests::pty::Terminal;

#[test]
fn a_shell_on_a_terminal_knows_its_size_and_follows_it() {
    let Fixture { daemon, registry: _registry, busybox } = &Fixture::pulled();
    let command = daemon.ctl_command(&["run", "-it", "--rm", busybox]);
    let mut terminal = Terminal::spawn(command, 91, 33).expect("a terminal");
    terminal.expect("#");
    terminal.send("stty size; tty\n");
    terminal.expect("33 91");
    terminal.expect("/dev/pts/0");
    terminal.resize(77, 22);
    terminal.send("sleep 0.3; stty size\n");
    terminal.expect("22 77");
    terminal.send("sleep 100\n");
    std::thread::sleep(std::time::Duration::from_millis(300));
    terminal.send("\x03");
    terminal.send("echo code $?\n");
    terminal.expect("code 130");
    terminal.send("exit 6\n");
    assert_eq!(terminal.wait(), 6);
}

#[test]
fn detaching_leaves_the_container_and_restores_the_terminal() {
    let Fixture { daemon, registry: _registry, busybox } = &Fixture::pulled();
    let command = daemon.ctl_command(&["run", "-it", "--name", "kept", busybox]);
    let mut terminal = Terminal::spawn(command, 80, 24).expect("a terminal");
    let before = terminal.settings().expect("settings");
    terminal.expect("#");
    terminal.send("\x10\x11");
    assert_eq!(terminal.wait(), 0);
    assert_eq!(terminal.settings().expect("settings").local_flags, before.local_flags);
    assert_eq!(daemon.ctl(&["ps", "--format", "{{.Names}}"]).ok().line(), "kept");

    let command = daemon.ctl_command(&["attach", "kept"]);
    let mut terminal = Terminal::spawn(command, 80, 24).expect("a terminal");
    terminal.send("echo again $((40 + 2))\n");
    terminal.expect("again 42");
    terminal.send("exit\n");
    assert_eq!(terminal.wait(), 0);
    eventually("the container has ended", || daemon.ctl(&["ps", "-q"]).ok().line().is_empty());
}

#[test]
fn a_shell_is_executed_in_a_running_container() {
    let Fixture { daemon, registry: _registry, busybox } = &Fixture::pulled();
    daemon.ctl(&["run", "-d", "--name", "host", busybox, "sleep", "1000"]).ok();
    let command = daemon.ctl_command(&["exec", "-it", "host", "sh"]);
    let mut terminal = Terminal::spawn(command, 100, 40).expect("a terminal");
    terminal.expect("#");
    terminal.send("stty size; ps | grep -c 'sleep 100[0]'\n");
    terminal.expect("40 100");
    terminal.send("exit 3\n");
    assert_eq!(terminal.wait(), 3);
    assert_eq!(daemon.ctl(&["ps", "--format", "{{.Names}}"]).ok().line(), "host");
}

#[test]
fn a_daemon_that_dies_gives_the_terminal_back() {
    let mut fixture = Fixture::pulled();
    let command = fixture.daemon.ctl_command(&["run", "-it", "--name", "survivor", &fixture.busybox]);
    let mut terminal = Terminal::spawn(command, 80, 24).expect("a terminal");
    let before = terminal.settings().expect("settings");
    terminal.expect("#");
    fixture.daemon.kill();
    let code = terminal.wait();
    assert_eq!(code, 125, "{}", terminal.shown());
    assert_eq!(terminal.settings().expect("settings").local_flags, before.local_flags);
    fixture.daemon.launch().expect("the daemon starts again");
    assert_eq!(fixture.daemon.ctl(&["ps", "--format", "{{.Names}}"]).ok().line(), "survivor");
}
