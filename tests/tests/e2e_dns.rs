//! Names of containers: names, aliases and ids are found on the networks that containers share, while they come and go,
//! and while no daemon runs.

use longshore_tests::daemon::eventually;
use longshore_tests::{Daemon, Fixture};

fn sleeper(f: &Fixture, name: &str, flags: &[&str]) -> String {
    let mut words = vec!["run", "-d", "--name", name];
    words.extend(flags);
    words.extend([f.busybox.as_str(), "sleep", "1000"]);
    f.daemon.ctl(&words).ok().line().to_owned()
}

fn address(d: &Daemon, container: &str, network: &str) -> String {
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    d.ctl(&["inspect", "-f", &format, container]).ok().line().to_owned()
}

/// What a name is answered with, all of it.
fn look_up(d: &Daemon, from: &str, name: &str) -> String {
    let output = d.ctl(&["exec", from, "nslookup", name]);
    output.stdout + &output.stderr
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn names_aliases_and_ids_are_found_where_networks_are_shared() {
    let mut f = Fixture::pulled();
    let d = &f.daemon;
    for network in ["back", "front"] {
        d.ctl(&["network", "create", network]).ok();
    }
    let id = sleeper(&f, "db", &["--network", "back", "--network-alias", "sql"]);
    sleeper(&f, "app", &["--network", "back"]);
    sleeper(&f, "stranger", &["--network", "front"]);
    let at = address(d, "db", "back");
    let found = format!("Address: {at}");
    for name in ["db", "DB", "sql", &id[..12], "db.back"] {
        assert!(look_up(d, "app", name).contains(&found), "{name}: {}", look_up(d, "app", name));
    }
    assert!(look_up(d, "app", &at).contains("name = db.back"));
    assert!(!look_up(d, "stranger", "db").contains(&found), "the networks are apart");
    let resolv = d.ctl(&["exec", "app", "cat", "/etc/resolv.conf"]).ok().stdout;
    assert!(resolv.contains("nameserver 127.0.0.11\n") && resolv.contains("ndots:0"), "{resolv}");
    assert_eq!(d.ctl(&["exec", "app", "ping", "-c", "1", "-W", "2", "sql"]).code, 0);
    // While it runs.
    d.ctl(&["network", "connect", "--alias", "guest", "back", "stranger"]).ok();
    assert!(look_up(d, "stranger", "db").contains(&found));
    assert!(look_up(d, "app", "guest").contains(&address(d, "stranger", "back")));
    d.ctl(&["network", "disconnect", "back", "stranger"]).ok();
    assert!(!look_up(d, "stranger", "db").contains(&found));
    // Another name, and the end.
    d.ctl(&["rename", "db", "store"]).ok();
    assert!(look_up(d, "app", "store").contains(&found) && !look_up(d, "app", "db").contains(&found));
    // Answers do not need a daemon.
    let pid = d.ctl(&["inspect", "-f", "{{.State.Pid}}", "app"]).ok().line().to_owned();
    let outside = |name: &str| {
        let output = std::process::Command::new("nsenter")
            .args(["-t", &pid, "-n", "busybox", "nslookup", name, "127.0.0.11"])
            .output()
            .expect("nsenter runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    f.daemon.kill();
    assert!(outside("sql").contains(&found), "{}", outside("sql"));
    f.daemon.launch().expect("it starts again");
    let d = &f.daemon;
    assert!(look_up(d, "app", "sql").contains(&found));
    d.ctl(&["rm", "-f", "store"]).ok();
    eventually("the name is gone", || !look_up(d, "app", "sql").contains(&found));
    d.ctl(&["rm", "-f", "app", "stranger"]).ok();
    d.ctl(&["network", "rm", "back", "front"]).ok();
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn a_container_of_the_default_network_finds_names_once_it_is_connected() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["network", "create", "back"]).ok();
    sleeper(&f, "db", &["--network", "back"]);
    sleeper(&f, "late", &[]);
    let found = format!("Address: {}", address(d, "db", "back"));
    assert!(!look_up(d, "late", "db").contains(&found));
    d.ctl(&["network", "connect", "back", "late"]).ok();
    assert!(look_up(d, "late", "db").contains(&found), "{}", look_up(d, "late", "db"));
    d.ctl(&["rm", "-f", "db", "late"]).ok();
    d.ctl(&["network", "rm", "back"]).ok();
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn internal_networks_carry_no_question_out() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["network", "create", "--internal", "closed"]).ok();
    sleeper(&f, "alone", &["--network", "closed"]);
    let said = look_up(d, "alone", "elsewhere.example");
    assert!(said.contains("SERVFAIL"), "{said}");
    d.ctl(&["rm", "-f", "alone"]).ok();
    d.ctl(&["network", "rm", "closed"]).ok();
}
