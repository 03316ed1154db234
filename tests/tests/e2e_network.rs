//! Networks as a user of docker would check them: who reaches whom, under which name and address, while networks come and
//! go, and what is left when the daemon dies or everything is removed.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use longshore_tests::daemon::eventually;
use longshore_tests::{Daemon, Fixture};
use serde_json::Value;

fn inspect(d: &Daemon, kind: &str, name: &str) -> Value {
    let text = d.ctl(&[kind, "inspect", name]).ok().stdout;
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all[0].clone()
}

fn address(d: &Daemon, container: &str, network: &str) -> String {
    let found = inspect(d, "container", container);
    let address = found["NetworkSettings"]["Networks"][network]["IPAddress"].as_str().expect("an address");
    assert!(!address.is_empty(), "{container} has no address on {network}: {found:#}");
    address.to_owned()
}

fn sleeper(f: &Fixture, name: &str, network: &[&str]) {
    let mut words = vec!["run", "-d", "--name", name];
    words.extend(network);
    words.extend([f.busybox.as_str(), "sleep", "1000"]);
    f.daemon.ctl(&words).ok();
}

fn reaches(d: &Daemon, from: &str, to: &str) -> bool {
    d.ctl(&["exec", from, "ping", "-c", "1", "-W", "2", to]).code == 0
}

fn interface_exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

/// Name of a network's interface.
fn bridge_of(d: &Daemon, network: &str) -> String {
    let id = d.ctl(&["network", "inspect", "-f", "{{.Id}}", network]).ok();
    format!("ls-{}", &id.line()[..12])
}

fn ports_of(bridge: &str) -> Vec<String> {
    let folder = Path::new("/sys/class/net").join(bridge).join("brif");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn containers_of_the_default_network_reach_each_other_and_the_host() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    assert!(!interface_exists(d.bridge()), "made when it is needed");
    sleeper(&f, "one", &[]);
    sleeper(&f, "two", &["--network", "bridge"]);
    let (one, two) = (address(d, "one", "bridge"), address(d, "two", "bridge"));
    assert_ne!(one, two);
    assert!(reaches(d, "one", &two));
    let found = inspect(d, "container", "one");
    let settings = &found["NetworkSettings"];
    assert_eq!(settings["IPAddress"], one.as_str());
    let gateway = settings["Gateway"].as_str().expect("a gateway");
    assert!(reaches(d, "one", gateway));
    let octets: Vec<u8> = one.split('.').map(|part| part.parse().expect("a number")).collect();
    let mac = format!("02:42:{:02x}:{:02x}:{:02x}:{:02x}", octets[0], octets[1], octets[2], octets[3]);
    assert_eq!(settings["MacAddress"], mac.as_str());
    let shown = d.ctl(&["exec", "one", "cat", "/sys/class/net/eth0/address"]).ok();
    assert_eq!(shown.line(), mac);
    let hosts = d.ctl(&["exec", "one", "cat", "/etc/hosts"]).ok().stdout;
    let id = found["Id"].as_str().expect("an id");
    assert!(hosts.ends_with(&format!("{one}\t{}\n", &id[..12])), "{hosts}");
    // Ended and started again it has a place again, and nobody else's.
    d.ctl(&["restart", "-t", "0", "one"]).ok();
    let again = address(d, "one", "bridge");
    assert_ne!(again, two);
    assert!(reaches(d, "two", &again));
    d.ctl(&["rm", "-f", "one", "two"]).ok();
}

#[test]
fn none_has_loopback_alone_and_a_container_may_share_anothers() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let alone = d.ctl(&["run", "--rm", "--network", "none", &f.busybox, "ls", "/sys/class/net"]).ok();
    assert_eq!(alone.line(), "lo");
    let host = d.ctl(&["run", "--rm", "--network", "host", &f.busybox, "cat", "/proc/net/dev"]).ok();
    assert!(host.stdout.lines().count() >= 3);
    sleeper(&f, "owner", &["--hostname", "shared"]);
    let mine = address(d, "owner", "bridge");
    let words =
        ["run", "--rm", "--network", "container:owner", &f.busybox, "ip", "-4", "addr", "show", "eth0"];
    let shown = d.ctl(&words).ok().stdout;
    assert!(shown.contains(&format!("inet {mine}/")), "{shown}");
    let words = ["run", "--rm", "--network", "container:owner", &f.busybox, "cat", "/etc/hosts"];
    let hosts = d.ctl(&words).ok().stdout;
    assert!(hosts.contains(&mine) && hosts.contains("shared"), "{hosts}");
    let refused =
        d.ctl(&["run", "--rm", "--network", "container:owner", "-h", "x", &f.busybox, "true"]).expect(125);
    assert!(
        refused.stderr.contains("conflicting options: hostname and the network mode"),
        "{}",
        refused.stderr
    );
    d.ctl(&["stop", "-t", "0", "owner"]).ok();
    let refused = d.ctl(&["run", "--rm", "--network", "container:owner", &f.busybox, "true"]).expect(125);
    assert!(refused.stderr.contains("cannot join network of a non running container"), "{}", refused.stderr);
    d.ctl(&["rm", "-f", "owner"]).ok();
}

#[test]
fn a_network_has_the_addresses_that_were_asked_for() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let words =
        ["network", "create", "--subnet", "10.33.7.0/24", "--ip-range", "10.33.7.128/25", "--gateway"];
    let id = d
        .ctl(
            &[&words[..], &["10.33.7.254", "--label", "a=b", "--aux-address", "x=10.33.7.129", "fixed"]]
                .concat(),
        )
        .ok();
    assert_eq!(id.line().len(), 64);
    let found = inspect(d, "network", "fixed");
    assert_eq!(found["Id"], id.line());
    assert_eq!(found["IPAM"]["Config"][0]["Gateway"], "10.33.7.254");
    assert_eq!(found["IPAM"]["Config"][0]["IPRange"], "10.33.7.128/25");
    assert_eq!(found["Labels"]["a"], "b");
    sleeper(&f, "any", &["--network", "fixed"]);
    sleeper(&f, "own", &["--network", "fixed", "--ip", "10.33.7.9", "--mac-address", "02:00:00:00:00:07"]);
    assert_eq!(address(d, "any", "fixed"), "10.33.7.128");
    assert_eq!(address(d, "own", "fixed"), "10.33.7.9");
    assert_eq!(
        d.ctl(&["exec", "own", "cat", "/sys/class/net/eth0/address"]).ok().line(),
        "02:00:00:00:00:07"
    );
    assert!(reaches(d, "own", "10.33.7.128"));
    let members = inspect(d, "network", "fixed")["Containers"].as_object().expect("a map").len();
    assert_eq!(members, 2);
    let taken = d.ctl(&["run", "--network", "fixed", "--ip", "10.33.7.9", &f.busybox, "true"]).expect(125);
    assert!(taken.stderr.contains("Address already in use"), "{}", taken.stderr);
    let busy = d.ctl(&["network", "rm", "fixed"]).expect(1);
    assert!(busy.stderr.contains("has active endpoints"), "{}", busy.stderr);
    let overlap = d.ctl(&["network", "create", "--subnet", "10.33.0.0/16", "other"]).expect(1);
    assert!(
        overlap.stderr.contains("Pool overlaps with other one on this address space"),
        "{}",
        overlap.stderr
    );
    let double = d.ctl(&["network", "create", "fixed"]).expect(1);
    assert!(double.stderr.contains("network with name fixed already exists"), "{}", double.stderr);
    let default = d.ctl(&["run", "--rm", "--ip", "10.33.7.9", &f.busybox, "true"]).expect(125);
    assert!(
        default.stderr.contains("user specified IP address is supported on user defined networks only"),
        "{}",
        default.stderr
    );
    let unknown = d.ctl(&["run", "--rm", "--network", "nope", &f.busybox, "true"]).expect(125);
    assert!(unknown.stderr.contains("network nope not found"), "{}", unknown.stderr);
    let ps = d.ctl(&["ps", "--filter", "network=fixed", "--format", "{{.Names}} {{.Networks}}"]).ok();
    let mut lines: Vec<&str> = ps.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["any fixed", "own fixed"]);
    for text in ["bridge", "host", "none"] {
        let refused = d.ctl(&["network", "rm", text]).expect(1);
        assert!(
            refused.stderr.contains("is a pre-defined network and cannot be removed"),
            "{}",
            refused.stderr
        );
    }
    d.ctl(&["rm", "-f", "any", "own"]).ok();
    let containers = d.ctl(&["ps", "-aq"]).ok().stdout;
    containers.split_whitespace().for_each(|id| drop(d.ctl(&["rm", "-f", id]).ok()));
    let bridge = bridge_of(d, "fixed");
    assert!(interface_exists(&bridge));
    assert_eq!(d.ctl(&["network", "rm", "fixed"]).ok().line(), "fixed");
    assert!(!interface_exists(&bridge));
    assert!(d.ctl(&["network", "inspect", "fixed"]).expect(1).stderr.contains("No such network: fixed"));
}

#[test]
fn ipv6_and_internal_networks() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["network", "create", "--internal", "--ipv6", "--subnet", "fd77:5:6:7::/64", "six"]).ok();
    sleeper(&f, "one", &["--network", "six"]);
    sleeper(&f, "two", &["--network", "six", "--ip6", "fd77:5:6:7::99"]);
    let found = inspect(d, "container", "two");
    let own = &found["NetworkSettings"]["Networks"]["six"];
    assert_eq!(own["GlobalIPv6Address"], "fd77:5:6:7::99");
    assert!(own["IPAddress"].as_str().is_some_and(|address| !address.is_empty()), "IPv4 as well");
    assert!(reaches(d, "one", "fd77:5:6:7::99"));
    let routes = d.ctl(&["exec", "one", "ip", "route"]).ok().stdout;
    assert!(!routes.contains("default"), "no way out: {routes}");
    d.ctl(&["rm", "-f", "one", "two"]).ok();
    d.ctl(&["network", "prune", "-f"]).ok();
    assert_eq!(d.ctl(&["network", "ls", "-q", "--filter", "type=custom"]).ok().stdout, "");
}

#[test]
fn connected_and_disconnected_under_traffic() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["network", "create", "front"]).ok();
    d.ctl(&["network", "create", "back"]).ok();
    sleeper(&f, "server", &["--network", "front"]);
    sleeper(&f, "db", &["--network", "back"]);
    let server = address(d, "server", "front");
    let script =
        format!("while true; do ping -c 1 -W 1 {server} >/dev/null && echo y || echo n; sleep 0.1; done");
    d.ctl(&["run", "-d", "--name", "client", "--network", "front", &f.busybox, "sh", "-c", &script]).ok();
    let db = address(d, "db", "back");
    for _ in 0..3 {
        d.ctl(&["network", "connect", "--alias", "c", "back", "client"]).ok();
        assert!(reaches(d, "client", &db));
        let names = d.ctl(&["exec", "client", "ls", "/sys/class/net"]).ok().stdout;
        assert_eq!(names.split_whitespace().collect::<Vec<_>>(), ["eth0", "eth1", "lo"]);
        d.ctl(&["network", "disconnect", "back", "client"]).ok();
        let names = d.ctl(&["exec", "client", "ls", "/sys/class/net"]).ok().stdout;
        assert_eq!(names.split_whitespace().collect::<Vec<_>>(), ["eth0", "lo"]);
    }
    let again = d.ctl(&["network", "connect", "front", "client"]).expect(1);
    assert!(
        again.stderr.contains("endpoint with name client already exists in network front"),
        "{}",
        again.stderr
    );
    let not = d.ctl(&["network", "disconnect", "back", "client"]).expect(1);
    assert!(not.stderr.contains("is not connected to"), "{}", not.stderr);
    let log = d.ctl(&["logs", "client"]).ok().stdout;
    assert!(log.contains('y') && !log.contains('n'), "traffic was not disturbed: {log}");
    // The way out goes with the highest priority, and back when that network goes.
    let out = |d: &Daemon| {
        let routes = d.ctl(&["exec", "client", "ip", "route", "show", "default"]).ok().stdout;
        routes.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(out(d), "eth0");
    d.ctl(&["network", "connect", "--gw-priority", "5", "back", "client"]).ok();
    assert_eq!(out(d), "eth1");
    d.ctl(&["network", "disconnect", "back", "client"]).ok();
    assert_eq!(out(d), "eth0");
    // A stopped container is connected when it starts.
    d.ctl(&["stop", "-t", "0", "client"]).ok();
    d.ctl(&["network", "connect", "back", "client"]).ok();
    d.ctl(&["start", "client"]).ok();
    assert!(reaches(d, "client", &db) && reaches(d, "client", &server));
    d.ctl(&["rm", "-f", "client", "server", "db"]).ok();
    d.ctl(&["network", "rm", "front", "back"]).ok();
}

#[test]
fn the_daemon_dies_and_networks_go_on() {
    let mut f = Fixture::pulled();
    f.daemon.ctl(&["network", "create", "net"]).ok();
    sleeper(&f, "aa", &["--network", "net"]);
    sleeper(&f, "bb", &["--network", "net"]);
    let d = &f.daemon;
    let (a, b) = (address(d, "aa", "net"), address(d, "bb", "net"));
    let script = format!("while true; do ping -c 1 -W 1 {b} >/dev/null && echo y || echo n; sleep 0.1; done");
    d.ctl(&["run", "-d", "--name", "cc", "--network", "net", &f.busybox, "sh", "-c", &script]).ok();
    let c = address(d, "cc", "net");
    // Its record may not be on disk yet: the kernel knows.
    f.daemon.kill();
    std::thread::sleep(Duration::from_millis(300));
    f.daemon.launch().expect("the daemon starts again");
    let d = &f.daemon;
    assert_eq!(address(d, "aa", "net"), a);
    assert_eq!(address(d, "cc", "net"), c);
    assert!(reaches(d, "aa", &b));
    let taken: HashSet<String> = [a, b, c].into();
    sleeper(&f, "new", &["--network", "net"]);
    let new = address(d, "new", "net");
    assert!(!taken.contains(&new), "{new} is somebody's");
    assert!(reaches(d, "new", &address(d, "aa", "net")));
    let log = d.ctl(&["logs", "cc"]).ok().stdout;
    assert!(log.contains('y') && !log.contains('n'), "traffic was not disturbed: {log}");
    let bridge = bridge_of(d, "net");
    assert_eq!(ports_of(&bridge).len(), 4);
    d.ctl(&["rm", "-f", "aa", "bb", "cc", "new"]).ok();
    eventually("their interfaces go", || ports_of(&bridge).is_empty());
    d.ctl(&["network", "rm", "net"]).ok();
    assert!(!interface_exists(&bridge));
}

#[test]
fn twenty_networks_of_five_containers_and_nothing_left() {
    let mut f = Fixture::pulled();
    let d = &f.daemon;
    let begun = Instant::now();
    let networks: Vec<String> = (0..20).map(|n| format!("net{n}")).collect();
    for network in &networks {
        d.ctl(&["network", "create", network]).ok();
    }
    std::thread::scope(|scope| {
        for part in networks.chunks(10) {
            let f = &f;
            scope.spawn(move || {
                for network in part {
                    for n in 0..5 {
                        sleeper(f, &format!("{network}-{n}"), &["--network", network]);
                    }
                }
            });
        }
    });
    let mut subnets = HashSet::new();
    let mut seen = HashSet::new();
    for network in &networks {
        let found = inspect(d, "network", network);
        subnets.insert(found["IPAM"]["Config"][0]["Subnet"].as_str().expect("a subnet").to_owned());
        let members = found["Containers"].as_object().expect("a map");
        assert_eq!(members.len(), 5);
        for member in members.values() {
            assert!(seen.insert(member["IPv4Address"].as_str().expect("an address").to_owned()));
        }
        let last = address(d, &format!("{network}-4"), network);
        assert!(reaches(d, &format!("{network}-0"), &last));
    }
    assert_eq!((subnets.len(), seen.len()), (20, 100));
    let interfaces: Vec<String> = networks.iter().map(|network| bridge_of(d, network)).collect();
    f.daemon.kill();
    f.daemon.launch().expect("the daemon starts again");
    let d = &f.daemon;
    for network in &networks {
        let members = inspect(d, "network", network)["Containers"].as_object().expect("a map").clone();
        let known = members.values().filter(|m| seen.contains(m["IPv4Address"].as_str().unwrap_or_default()));
        assert_eq!(known.count(), 5, "{network}");
        let last = address(d, &format!("{network}-4"), network);
        assert!(reaches(d, &format!("{network}-0"), &last));
    }
    let ports: Vec<String> = interfaces.iter().flat_map(|interface| ports_of(interface)).collect();
    assert_eq!(ports.len(), 100);
    // One half is removed by name, the other pruned.
    let (named, pruned) = networks.split_at(10);
    for network in named {
        let all: Vec<String> = (0..5).map(|n| format!("{network}-{n}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        d.ctl(&[&["rm", "-f"], &all[..]].concat()).ok();
        d.ctl(&["network", "rm", network]).ok();
    }
    let ids = d.ctl(&["ps", "-q"]).ok().stdout;
    d.ctl(&[&["kill"], &ids.split_whitespace().collect::<Vec<_>>()[..]].concat()).ok();
    eventually("they have ended", || d.ctl(&["ps", "-q"]).ok().stdout.is_empty());
    let told = d.ctl(&["system", "prune", "-f"]).ok().stdout;
    assert!(pruned.iter().all(|network| told.contains(network.as_str())), "{told}");
    assert_eq!(d.ctl(&["network", "ls", "-q", "--filter", "type=custom"]).ok().stdout, "");
    for interface in interfaces.iter().chain(&ports) {
        assert!(!interface_exists(interface), "{interface} is left");
    }
    f.daemon.stop().expect("it stops");
    let table = format!("longshore-{}", f.daemon.bridge());
    let listed = std::process::Command::new("nft").args(["list", "table", "inet", &table]).output();
    assert!(!listed.is_ok_and(|listed| listed.status.success()), "rules are left");
    let names = std::fs::read_dir(f.daemon.state().join("dns/networks")).into_iter().flatten().count();
    assert_eq!(names, 0, "tables of names are left");
    assert!(begun.elapsed() < Duration::from_secs(240), "took {:?}", begun.elapsed());
}

#[test]
fn what_happens_to_networks_is_told() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["network", "create", "told"]).ok();
    d.ctl(&["run", "--rm", "--network", "told", &f.busybox, "true"]).ok();
    eventually("the container is gone", || d.ctl(&["ps", "-aq"]).stdout.is_empty());
    d.ctl(&["network", "rm", "told"]).ok();
    // Until is a whole second.
    std::thread::sleep(Duration::from_millis(1100));
    let now = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs().to_string();
    let words =
        ["events", "--since", "10m", "--until", &now, "--filter", "type=network", "--format", "{{.Action}}"];
    let told = d.ctl(&words).ok().stdout;
    assert_eq!(told.lines().collect::<Vec<_>>(), ["create", "connect", "disconnect", "destroy"]);
}

#[test]
fn hosts_of_the_users_and_links() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    sleeper(&f, "db", &[]);
    let db = address(d, "db", "bridge");
    let words =
        ["run", "--rm", "--link", "db:base", "--add-host", "a:10.9.8.7", "--add-host", "h:host-gateway"];
    let hosts = d.ctl(&[&words[..], &[&f.busybox, "cat", "/etc/hosts"]].concat()).ok().stdout;
    assert!(hosts.contains("10.9.8.7\ta\n"), "{hosts}");
    assert!(hosts.contains(&format!("{db}\tbase ")), "{hosts}");
    let gateway = d.ctl(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge"]).ok();
    assert!(hosts.contains(&format!("{}\th\n", gateway.line())), "{hosts}");
    d.ctl(&["rm", "-f", "db"]).ok();
}
