//! `-t`: a real terminal, its size, its signals, and the user's own terminal restored.

use std::time::Duration;

use longshore_tests::daemon::eventually;
use longshore_tests::pty::Terminal;
use longshore_tests::tmux::Tmux;
use longshore_tests::{Daemon, Fixture};

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

/// The command as a line for a shell.
fn line(daemon: &Daemon, arguments: &[&str]) -> String {
    let command = daemon.ctl_command(arguments);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| format!("'{}'", word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// Attaches in a window; returns when as many clients have attached so far.
fn join(tmux: &Tmux, daemon: &Daemon, arguments: &[&str], clients: usize) {
    tmux.enter(&line(daemon, arguments));
    let events =
        ["events", "--since", "5m", "--until", "0s", "--filter", "event=attach", "--format", "{{.Action}}"];
    eventually("the client is attached", || daemon.ctl(&events).ok().stdout.lines().count() == clients);
    // The terminal is made raw once the daemon has answered.
    std::thread::sleep(Duration::from_millis(300));
}

#[test]
#[cfg_attr(not(have_tmux), ignore = "needs tmux")]
fn a_day_in_a_terminal() {
    let Fixture { daemon, registry: _registry, busybox } = &Fixture::pulled();
    let tmux = Tmux::new(90, 30);
    let before = tmux.settings();
    tmux.enter(&line(daemon, &["run", "-it", "--name", "day", busybox]));
    tmux.expect("/ #");
    tmux.enter("clear; stty size");
    tmux.expect("30 90");
    tmux.resize(70, 20);
    tmux.enter("clear; stty size");
    tmux.expect("20 70");
    tmux.enter("sleep 100");
    std::thread::sleep(Duration::from_millis(300));
    tmux.press(&["C-c"]);
    tmux.enter("echo code=$?");
    tmux.expect("code=130");

    // An editor that takes the whole screen.
    tmux.enter("vi /tmp/poem");
    tmux.expect("poem");
    tmux.press(&["i"]);
    tmux.type_text("first line");
    tmux.press(&["Enter"]);
    tmux.type_text("second line");
    tmux.press(&["Escape"]);
    // With what follows at once it would be the beginning of a function key.
    std::thread::sleep(Duration::from_millis(600));
    tmux.type_text(":wq");
    tmux.press(&["Enter"]);
    tmux.expect("/ #");
    tmux.enter("clear; cat /tmp/poem | tr a-z A-Z");
    tmux.expect("SECOND LINE");
    // And a pager.
    tmux.enter("seq 1 500 | less");
    tmux.expect("15");
    tmux.press(&["G"]);
    tmux.expect("500");
    tmux.press(&["q"]);
    tmux.enter("clear; echo paged");
    tmux.expect("paged");

    // A single ctrl-p is the container's (the line before), ctrl-p ctrl-q detaches.
    tmux.press(&["C-p"]);
    std::thread::sleep(Duration::from_millis(800));
    tmux.press(&["Enter"]);
    // Its shell asks the terminal where the cursor is: an answer after the end would be the outer shell's.
    std::thread::sleep(Duration::from_millis(800));
    tmux.press(&["C-p", "C-q"]);
    tmux.expect("here>");
    assert_eq!(tmux.settings(), before, "the terminal is as it was");
    tmux.enter("echo left $?");
    tmux.expect("left 0");
    assert_eq!(daemon.ctl(&["ps", "--format", "{{.Names}}"]).ok().line(), "day");
    join(&tmux, daemon, &["attach", "--detach-keys", "ctrl-x,x", "day"], 2);
    tmux.enter("clear; echo back $((6 * 7))");
    tmux.expect("back 42");
    std::thread::sleep(Duration::from_millis(800));
    tmux.press(&["C-x", "x"]);
    tmux.expect("read escape sequence");
    assert_eq!(tmux.settings(), before);
    join(&tmux, daemon, &["attach", "day"], 3);
    tmux.enter("exit 5");
    // What is typed before the client has ended would be the container's.
    eventually("the container has ended", || daemon.ctl(&["ps", "-q"]).ok().stdout.is_empty());
    eventually("the terminal is as it was", || tmux.settings() == before);
    tmux.enter("echo ended $?");
    tmux.expect("ended 5");
}

#[test]
#[cfg_attr(not(have_tmux), ignore = "needs tmux")]
fn two_terminals_in_one_container_see_the_same() {
    let Fixture { daemon, registry: _registry, busybox } = &Fixture::pulled();
    daemon.ctl(&["run", "-dit", "--name", "shared", busybox]).ok();
    let (one, two) = (Tmux::new(80, 24), Tmux::new(80, 24));
    let before = two.settings();
    join(&one, daemon, &["attach", "shared"], 1);
    join(&two, daemon, &["attach", "shared"], 2);
    one.enter("echo from $((10 + 1))");
    one.expect("from 11");
    two.expect("from 11");
    two.enter("echo from $((20 + 2))");
    one.expect("from 22");
    // One goes, the other stays.
    one.press(&["C-p", "C-q"]);
    one.expect("read escape sequence");
    two.enter("echo still $((30 + 3))");
    two.expect("still 33");
    // The container's end is the other's.
    daemon.ctl(&["rm", "-f", "shared"]).ok();
    two.enter("clear; echo over");
    two.expect("over");
    assert_eq!(two.settings(), before);
}
