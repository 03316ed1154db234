//! What keeps networks and the host apart from each other: isolation within a network, rules that somebody took away, and what a
//! host that was no router becomes.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use longshore_tests::daemon::eventually;
use longshore_tests::{Daemon, Fixture};

fn sleeper(f: &Fixture, name: &str, flags: &[&str]) {
    let mut words = vec!["run", "-d", "--name", name];
    words.extend(flags);
    words.extend([f.busybox.as_str(), "sleep", "1000"]);
    f.daemon.ctl(&words).ok();
}

fn field(d: &Daemon, container: &str, network: &str, field: &str) -> String {
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").{field}}}}}");
    d.ctl(&["inspect", "-f", &format, container]).ok().line().to_owned()
}

fn pid(d: &Daemon, container: &str) -> u64 {
    d.ctl(&["inspect", "-f", "{{.State.Pid}}", container]).ok().line().parse().expect("a pid")
}

fn table(d: &Daemon) -> String {
    format!("longshore-{}", d.bridge())
}

fn rules(d: &Daemon) -> String {
    let output = Command::new("nft").args(["list", "table", "inet", &table(d)]).output().expect("nft runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command of the host's that must succeed.
fn host(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).status().expect("it runs");
    assert!(status.success(), "{words:?}");
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn containers_that_shall_not_talk_do_not_see_each_other_at_all() {
    let mut f = Fixture::pulled();
    let words = ["network", "create", "--ipv6", "--subnet", "fd77:5:6:9::/64", "-o"];
    f.daemon.ctl(&[&words[..], &["com.docker.network.bridge.enable_icc=false", "apart"]].concat()).ok();
    f.daemon.ctl(&["network", "create", "together"]).ok();
    sleeper(&f, "one", &["--network", "apart"]);
    sleeper(&f, "two", &["--network", "apart"]);
    // One that comes to it while it runs.
    sleeper(&f, "late", &["--network", "together"]);
    f.daemon.ctl(&["network", "connect", "apart", "late"]).ok();
    f.daemon.kill();
    f.daemon.launch().expect("it starts again");
    let d = &f.daemon;
    let does = |words: &[&str]| d.ctl(&[&["exec", "one"], words].concat()).code == 0;
    for other in ["two", "late"] {
        let v4 = field(d, other, "apart", "IPAddress");
        let v6 = field(d, other, "apart", "GlobalIPv6Address");
        let interface = if other == "two" { "eth0" } else { "eth1" };
        let words = ["exec", other, "ip", "-6", "addr", "show", "dev", interface, "scope", "link"];
        let shown = d.ctl(&words).ok().stdout;
        let local = shown.split_whitespace().find(|word| word.starts_with("fe80::")).expect("an address");
        let local = local.split('/').next().expect("an address");
        assert!(!does(&["ping", "-c", "1", "-W", "1", &v4]), "IPv4 to {other}");
        assert!(!does(&["ping", "-c", "1", "-W", "1", &v6]), "IPv6 to {other}");
        assert!(!does(&["ping", "-c", "1", "-W", "1", "-I", "eth0", local]), "link-local to {other}");
        assert!(!does(&["arping", "-c", "1", "-w", "1", "-I", "eth0", &v4]), "ARP to {other}");
    }
    let gateway = field(d, "one", "apart", "Gateway");
    assert!(does(&["ping", "-c", "1", "-W", "2", &gateway]), "the bridge is reached");
    assert!(does(&["arping", "-c", "1", "-w", "2", "-I", "eth0", &gateway]));
    let v6 = field(d, "one", "apart", "IPv6Gateway");
    assert!(does(&["ping", "-c", "1", "-W", "2", &v6]), "by IPv6, too");
    d.ctl(&["rm", "-f", "one", "two", "late"]).ok();
    d.ctl(&["network", "rm", "apart", "together"]).ok();
}

/// What `nft monitor` tells until it is ended.
fn monitored(work: impl FnOnce()) -> String {
    let mut child: Child = Command::new("stdbuf")
        .args(["-oL", "nft", "monitor"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("nft runs");
    std::thread::sleep(Duration::from_millis(300));
    work();
    std::thread::sleep(Duration::from_millis(300));
    child.kill().expect("it is ended");
    let mut told = String::new();
    child.stdout.take().expect("its output").read_to_string(&mut told).expect("text");
    child.wait().expect("it has ended");
    told
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn a_daemon_that_starts_again_leaves_no_network_without_rules_for_a_moment() {
    let mut f = Fixture::pulled();
    let networks = ["one", "two", "three"];
    let mut bridges = Vec::new();
    for network in networks {
        let id = f.daemon.ctl(&["network", "create", network]).ok();
        bridges.push(format!("ls-{}", &id.line()[..12]));
        sleeper(&f, &format!("in-{network}"), &["--network", network]);
    }
    f.daemon.kill();
    let told = monitored(|| {
        f.daemon.launch().expect("it starts again");
        f.daemon.ctl(&["ps"]).ok();
    });
    let mark = format!("rule inet {} forward", table(&f.daemon));
    let ours: Vec<&str> = told.split("# new generation").filter(|part| part.contains(&mark)).collect();
    assert!(!ours.is_empty(), "the rules are written again: {told}");
    for transaction in ours {
        let missing: Vec<_> = bridges.iter().filter(|bridge| !transaction.contains(*bridge)).collect();
        assert!(missing.is_empty(), "without {missing:?}: {transaction}");
    }
    for network in networks {
        f.daemon.ctl(&["rm", "-f", &format!("in-{network}")]).ok();
        f.daemon.ctl(&["network", "rm", network]).ok();
    }
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn rules_that_somebody_took_away_come_back() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let free = || {
        let socket = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
        socket.local_addr().expect("an address").port()
    };
    let (first, second) = (free(), free());
    let serve = |name: &str, port: u16| {
        let publish = format!("{port}:80");
        let words = ["run", "-d", "--name", name, "-p", &publish, &f.busybox];
        d.ctl(&[&words[..], &["nc", "-ll", "-p", "80", "-e", "echo", "hello"]].concat()).ok();
    };
    serve("first", first);
    let gateway: Ipv4Addr = field(d, "first", "bridge", "Gateway").parse().expect("an address");
    let elements = |port: u16| rules(d).contains(&format!("tcp . {port} :"));
    assert!(elements(first));
    // As `nft flush ruleset` does, to our table only.
    host(&["nft", "delete", "table", "inet", &table(d)]);
    serve("second", second);
    assert!(elements(first) && elements(second), "{}", rules(d));
    for port in [first, second] {
        eventually("it answers", || {
            let to = SocketAddr::from((gateway, port));
            let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(2)) else {
                return false;
            };
            let mut said = String::new();
            stream.read_to_string(&mut said).is_ok() && said.trim() == "hello"
        });
    }
    let whole = rules(d);
    // Without a port of its own the next container brings them back, too; also where only rules are gone.
    for words in [&["nft", "delete", "table", "inet"][..], &["nft", "flush", "table", "inet"]] {
        host(&[words, &[&table(d)]].concat());
        d.ctl(&["run", "--rm", &f.busybox, "true"]).ok();
        assert_eq!(rules(d), whole);
    }
    // And when a port is let go of there is nothing to complain about.
    host(&["nft", "delete", "table", "inet", &table(d)]);
    d.ctl(&["rm", "-f", "first", "second"]).ok();
}

/// Echoes datagrams on port 7 of a container's.
fn echo(pid: u64) {
    let thread = std::thread::spawn(move || {
        let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).expect("a namespace");
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("entering it");
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7)).expect("a port of the container")
    });
    let server = thread.join().expect("no panic");
    server.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = server.recv_from(&mut buffer) {
            let _ = server.send_to(&buffer[..length], from);
            if &buffer[..length] == b"end" {
                return;
            }
        }
    });
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn who_goes_on_sending_datagrams_reaches_the_next_container() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let port = UdpSocket::bind("0.0.0.0:0").expect("a socket").local_addr().expect("an address").port();
    sleeper(&f, "echo", &["-p", &format!("{port}:7/udp")]);
    echo(pid(d, "echo"));
    let gateway: Ipv4Addr = field(d, "echo", "bridge", "Gateway").parse().expect("an address");
    let before = field(d, "echo", "bridge", "IPAddress");
    // One socket all the time: to the connection tracker one flow.
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    socket.connect((gateway, port)).expect("connected");
    let answers = |word: &[u8]| {
        let mut buffer = [0; 64];
        let _ = socket.send(word);
        socket.recv(&mut buffer).is_ok_and(|length| &buffer[..length] == word)
    };
    eventually("an answer", || answers(b"word"));
    d.ctl(&["restart", "-t", "0", "echo"]).ok();
    assert_ne!(field(d, "echo", "bridge", "IPAddress"), before, "else nothing is tried here");
    echo(pid(d, "echo"));
    let begun = std::time::Instant::now();
    eventually("an answer of the next one", || answers(b"word"));
    // The kernel itself would forget the flow only after 30 seconds without a packet.
    assert!(begun.elapsed() < Duration::from_secs(10));
    answers(b"end");
    d.ctl(&["rm", "-f", "echo"]).ok();
}

/// Another machine: a network namespace with a cable to this one.
struct Machine {
    child: Child,
    address: String,
}

impl Machine {
    fn new(name: &str, number: u8) -> Machine {
        let child = Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().expect("unshare runs");
        let id = child.id().to_string();
        let apart = std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
        eventually("it has a namespace", || {
            std::fs::read_link(format!("/proc/{id}/ns/net")).is_ok_and(|own| own != apart)
        });
        let (near, far) = (format!("{name}0"), format!("{name}1"));
        let (here, there) = (format!("10.251.{number}.1"), format!("10.251.{number}.2"));
        host(&["ip", "link", "add", &near, "type", "veth", "peer", "name", &far, "netns", &id]);
        host(&["ip", "addr", "add", &format!("{here}/24"), "dev", &near]);
        host(&["ip", "link", "set", &near, "up"]);
        let machine = Machine { child, address: there };
        machine.run(&["ip", "addr", "add", &format!("{}/24", machine.address), "dev", &far]);
        machine.run(&["ip", "link", "set", &far, "up"]);
        machine.run(&["ip", "route", "add", "default", "via", &here]);
        machine
    }

    fn run(&self, words: &[&str]) {
        host(&[&["nsenter", "-t", &self.child.id().to_string(), "-n"], words].concat());
    }

    fn reaches(&self, address: &str) -> bool {
        let id = self.child.id().to_string();
        let words = ["-t", &id, "-n", "busybox", "ping", "-c", "1", "-W", "1", address];
        let status = Command::new("nsenter").args(words).stdout(Stdio::null()).status();
        status.expect("nsenter runs").success()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Does something in a network namespace of its own, where the host passes packets on or not.
fn on_a_host(forwards: &str, work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
            host(&["ip", "link", "set", "lo", "up"]);
            std::fs::write(FORWARD, forwards).expect("it can be set");
            work();
        });
        thread.join().expect("no panic");
    });
}

fn forwards() -> bool {
    std::fs::read_to_string(FORWARD).expect("a setting").trim() == "1"
}

#[test]
#[cfg_attr(not(all(have_nft, have_ip)), ignore = "needs nft and ip")]
fn a_host_that_was_no_router_becomes_one_for_containers_only() {
    on_a_host("0", || {
        let (a, b) = (Machine::new("cablea", 1), Machine::new("cableb", 2));
        let mut f = Fixture::pulled();
        sleeper(&f, "one", &[]);
        let reaches =
            |d: &Daemon, to: &str| d.ctl(&["exec", "one", "ping", "-c", "1", "-W", "2", to]).code == 0;
        assert!(forwards());
        assert!(reaches(&f.daemon, &a.address), "containers reach out\n{}", rules(&f.daemon));
        assert!(!a.reaches(&b.address) && !b.reaches(&a.address), "{}", rules(&f.daemon));
        // Known to a daemon that starts again, and in force while there is none.
        f.daemon.kill();
        assert!(!a.reaches(&b.address));
        f.daemon.launch().expect("it starts again");
        let d = &f.daemon;
        d.ctl(&["network", "create", "more"]).ok();
        d.ctl(&["run", "--rm", "--network", "more", &f.busybox, "true"]).ok();
        assert!(reaches(d, &b.address) && !a.reaches(&b.address), "{}", rules(d));
        d.ctl(&["rm", "-f", "one"]).ok();
        d.ctl(&["network", "rm", "more"]).ok();
        f.daemon.stop().expect("it stops");
        assert!(!forwards(), "as it was before");
        assert_eq!(rules(&f.daemon), "");
    });
}

#[test]
#[cfg_attr(not(all(have_nft, have_ip)), ignore = "needs nft and ip")]
fn a_host_that_was_a_router_stays_one() {
    on_a_host("1", || {
        let (a, b) = (Machine::new("cablea", 1), Machine::new("cableb", 2));
        let mut f = Fixture::pulled();
        sleeper(&f, "one", &[]);
        assert!(a.reaches(&b.address), "{}", rules(&f.daemon));
        let to = field(&f.daemon, "one", "bridge", "IPAddress");
        assert!(!a.reaches(&to), "containers are reached by published ports only");
        f.daemon.ctl(&["rm", "-f", "one"]).ok();
        f.daemon.stop().expect("it stops");
        assert!(forwards() && a.reaches(&b.address));
    });
}
