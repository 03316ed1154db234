//! Published ports as a user of docker would check them: from where they answer, what is said of them, who else may have
//! them, and that they go on while no daemon runs.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use longshore_tests::daemon::{Settings, eventually};
use longshore_tests::{Daemon, Fixture};
use serde_json::Value;

/// A server that says hello to whoever connects.
const HELLO: [&str; 7] = ["nc", "-ll", "-p", "80", "-e", "echo", "hello"];

fn serve(f: &Fixture, name: &str, flags: &[&str]) {
    let mut words = vec!["run", "-d", "--name", name];
    words.extend(flags);
    words.push(&f.busybox);
    words.extend(HELLO);
    f.daemon.ctl(&words).ok();
}

fn says_hello(to: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(2)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
    let mut said = String::new();
    stream.read_to_string(&mut said).is_ok() && said.trim() == "hello"
}

fn inspect(d: &Daemon, name: &str) -> Value {
    let all: Value = serde_json::from_str(&d.ctl(&["inspect", name]).ok().stdout).expect("JSON");
    all[0].clone()
}

/// Whether the host has IPv6 at all.
fn has_ipv6() -> bool {
    std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|text| !text.is_empty())
}

/// Two ports in a row that are free.
fn free() -> u16 {
    loop {
        let any = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
        let port = any(0).expect("a socket").local_addr().expect("an address").port();
        if port < 65_000 && any(port).is_ok() && any(port + 1).is_ok() {
            return port;
        }
    }
}

/// The host's address on the default network: not a loopback one.
fn gateway(d: &Daemon, container: &str) -> IpAddr {
    inspect(d, container)["NetworkSettings"]["Gateway"]
        .as_str()
        .expect("a gateway")
        .parse()
        .expect("an address")
}

fn rules(d: &Daemon) -> String {
    let output =
        Command::new("nft").args(["list", "table", "inet", &format!("longshore-{}", d.bridge())]).output();
    String::from_utf8_lossy(&output.expect("nft runs").stdout).into_owned()
}

/// Does something in the network namespace of a process.
fn inside<T: Send>(pid: u64, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).expect("a namespace");
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("entering it");
            work()
        });
        thread.join().expect("no panic")
    })
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn a_published_port_answers_from_everywhere_and_outlives_the_daemon() {
    let mut f = Fixture::pulled();
    let port = free();
    serve(&f, "web", &["-p", &format!("{port}:80")]);
    let d = &f.daemon;
    let outside = SocketAddr::from((gateway(d, "web"), port));
    let mut everywhere = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port)), outside];
    everywhere.extend(has_ipv6().then_some(SocketAddr::from((Ipv6Addr::LOCALHOST, port))));
    eventually("the server answers", || says_hello(everywhere[0]));
    for &address in &everywhere {
        assert!(says_hello(address), "{address}\n{}", rules(d));
    }
    // From another network, and from itself: by way of the host's address.
    d.ctl(&["network", "create", "other"]).ok();
    let (ip, text) = (outside.ip().to_string(), port.to_string());
    let words = ["run", "--rm", "--network", "other", &f.busybox, "nc", "-w", "3", &ip, &text];
    assert_eq!(d.ctl(&words).ok().line(), "hello");
    assert_eq!(d.ctl(&["exec", "web", "nc", "-w", "3", &ip, &text]).ok().line(), "hello");
    // Held against others.
    assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_err());
    f.daemon.kill();
    for &address in &everywhere {
        assert!(says_hello(address), "{address} without a daemon");
    }
    f.daemon.launch().expect("it starts again");
    let d = &f.daemon;
    assert!(everywhere.iter().all(|address| says_hello(*address)));
    let refused = d.ctl(&["run", "--rm", "-p", &format!("{port}:80"), &f.busybox, "true"]).expect(125);
    assert!(refused.stderr.contains("port is already allocated"), "{}", refused.stderr);
    d.ctl(&["rm", "-f", "web"]).ok();
    assert!(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok());
    assert!(!rules(d).contains(&format!(". {port} :")), "{}", rules(d));
    d.ctl(&["network", "rm", "other"]).ok();
    f.daemon.stop().expect("it stops");
    assert_eq!(rules(&f.daemon), "", "the table goes with the last network");
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn ports_are_told_as_docker_tells_them() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let port = free();
    let publish = format!("127.0.0.1:{port}-{}:80-81", port + 1);
    serve(&f, "web", &["-p", &publish, "--expose", "90/udp"]);
    let shown = d.ctl(&["ps", "--format", "{{.Ports}}"]).ok();
    assert_eq!(shown.line(), format!("90/udp, 127.0.0.1:{port}->80/tcp, 127.0.0.1:{}->81/tcp", port + 1));
    let lines = d.ctl(&["port", "web"]).ok().stdout;
    assert_eq!(lines, format!("80/tcp -> 127.0.0.1:{port}\n81/tcp -> 127.0.0.1:{}\n", port + 1));
    assert_eq!(d.ctl(&["port", "web", "81"]).ok().line(), format!("127.0.0.1:{}", port + 1));
    let none = d.ctl(&["port", "web", "82"]).expect(1);
    assert_eq!(none.stderr.trim(), "Error: No public port '82/tcp' published for web");
    let ports = &inspect(d, "web")["NetworkSettings"]["Ports"];
    assert_eq!(ports["80/tcp"][0]["HostPort"], port.to_string());
    assert_eq!(ports["80/tcp"][0]["HostIp"], "127.0.0.1");
    assert!(ports["90/udp"].is_null());
    for (filter, found) in
        [(format!("publish={port}"), true), ("publish=1".into(), false), ("expose=90/udp".into(), true)]
    {
        let listed = d.ctl(&["ps", "-q", "--filter", &filter]).ok();
        assert_eq!(!listed.line().is_empty(), found, "{filter}");
    }
    d.ctl(&["stop", "-t", "0", "web"]).ok();
    assert_eq!(d.ctl(&["port", "web"]).ok().stdout, "");
    d.ctl(&["rm", "web"]).ok();
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn random_ports_are_of_the_hosts_range_and_taken_ones_are_refused() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    serve(&f, "web", &["-P", "--expose", "80"]);
    let line = d.ctl(&["port", "web", "80"]).ok().stdout;
    let port: u16 =
        line.lines().next().and_then(|l| l.rsplit(':').next()).and_then(|p| p.parse().ok()).expect("a port");
    eventually("the server answers", || says_hello((Ipv4Addr::LOCALHOST, port).into()));
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let taken = other.local_addr().expect("an address").port();
    let publish = format!("127.0.0.1:{taken}:80");
    let refused = d.ctl(&["run", "--name", "late", "-p", &publish, &f.busybox, "true"]).expect(125);
    let words = format!("listen tcp4 127.0.0.1:{taken}: bind: address already in use");
    assert!(
        refused.stderr.contains("driver failed programming external connectivity on endpoint late")
            && refused.stderr.contains(&words),
        "{}",
        refused.stderr
    );
    // It was made, and starts when the port is free.
    drop(other);
    d.ctl(&["start", "late"]).ok();
    d.ctl(&["rm", "-f", "web", "late"]).ok();
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn datagrams_find_there_and_back() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let port = free();
    d.ctl(&["run", "-d", "--name", "echo", "-p", &format!("{port}:7/udp"), &f.busybox, "sleep", "1000"]).ok();
    let pid = inspect(d, "echo")["State"]["Pid"].as_u64().expect("a pid");
    let server =
        inside(pid, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7)).expect("a port of the container"));
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = server.recv_from(&mut buffer) {
            let word = buffer[..length].to_vec();
            let _ = server.send_to(&word, from);
            if word == b"end" {
                return;
            }
        }
    });
    let ask = |to: SocketAddr, word: &[u8]| {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
        socket.send_to(word, to).expect("sent");
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).expect("an answer");
        assert_eq!((&buffer[..length], from), (word, to));
    };
    let v6 = has_ipv6().then_some(IpAddr::from(Ipv6Addr::LOCALHOST));
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), gateway(d, "echo")].into_iter().chain(v6) {
        ask((address, port).into(), b"word");
    }
    ask((Ipv4Addr::LOCALHOST, port).into(), b"end");
    d.ctl(&["rm", "-f", "echo"]).ok();
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn a_hosts_filter_decides_where_it_is_told_to() {
    let settings = Settings { config: "[network]\npublish = \"proxy\"\n".into(), ..Settings::default() };
    let f = Fixture::with(settings).expect("a registry and a daemon");
    let d = &f.daemon;
    d.ctl(&["pull", "-q", &f.busybox]).ok();
    let port = free();
    serve(&f, "web", &["-p", &format!("{port}:80")]);
    let rules = rules(d);
    let first =
        rules.split("chain prerouting").nth(1).and_then(|rest| rest.split('}').next()).unwrap_or_default();
    assert!(first.contains(d.bridge()), "only containers' packets are translated: {rules}");
    eventually("the server answers", || says_hello((Ipv4Addr::LOCALHOST, port).into()));
    d.ctl(&["rm", "-f", "web"]).ok();
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn networks_are_kept_apart() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["network", "create", "one"]).ok();
    d.ctl(&["network", "create", "--internal", "two"]).ok();
    serve(&f, "web", &["--network", "one"]);
    let to = inspect(d, "web")["NetworkSettings"]["Networks"]["one"]["IPAddress"]
        .as_str()
        .expect("an address")
        .to_owned();
    let reach = |network: &str| {
        let words = ["run", "--rm", "--network", network, &f.busybox, "nc", "-w", "2", &to, "80"];
        d.ctl(&words).stdout.trim() == "hello"
    };
    eventually("its own network reaches it", || reach("one"));
    assert!(!reach("bridge") && !reach("two"));
    d.ctl(&["rm", "-f", "web"]).ok();
    d.ctl(&["network", "rm", "one", "two"]).ok();
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn a_port_follows_its_container_to_another_network() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let port = free();
    d.ctl(&["network", "create", "one"]).ok();
    d.ctl(&["network", "create", "two"]).ok();
    serve(&f, "web", &["--network", "one", "-p", &format!("{port}:80")]);
    let outside = SocketAddr::from((
        inspect(d, "web")["NetworkSettings"]["Networks"]["one"]["Gateway"]
            .as_str()
            .expect("a gateway")
            .parse::<IpAddr>()
            .expect("an address"),
        port,
    ));
    eventually("the server answers", || says_hello(outside));
    d.ctl(&["network", "connect", "two", "web"]).ok();
    d.ctl(&["network", "disconnect", "one", "web"]).ok();
    assert!(says_hello(outside) && says_hello((Ipv4Addr::LOCALHOST, port).into()));
    d.ctl(&["rm", "-f", "web"]).ok();
    d.ctl(&["network", "rm", "one", "two"]).ok();
}

/// A connection to a server that repeats what it is told, once it does: the shim accepts one before the server listens too.
fn echoing(to: SocketAddr) -> TcpStream {
    let attempt = || {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"!")?;
        stream.read_exact(&mut [0])?;
        Ok::<_, std::io::Error>(stream)
    };
    let mut found = None;
    eventually("the server answers", || {
        found = attempt().ok();
        found.is_some()
    });
    found.expect("a connection")
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn a_connection_carries_much_both_ways() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let port = free();
    let words = ["run", "-d", "--name", "cat", "-p", &format!("127.0.0.1:{port}:80"), &f.busybox];
    d.ctl(&[&words[..], &["nc", "-ll", "-p", "80", "-e", "cat"]].concat()).ok();
    let mut stream = echoing((Ipv4Addr::LOCALHOST, port).into());
    let mut reader = stream.try_clone().expect("a copy");
    let sent: Vec<u8> = (0..2_000_000u32).map(|n| (n % 253) as u8).collect();
    let expected = sent.clone();
    let back = std::thread::spawn(move || {
        let mut back = vec![0; expected.len()];
        reader.read_exact(&mut back).expect("all of it");
        back == expected
    });
    stream.write_all(&sent).expect("written");
    assert!(back.join().expect("no panic"));
    d.ctl(&["rm", "-f", "cat"]).ok();
}

/// Ticks of processor time that a process has had.
fn ticks(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = text.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number")
}

#[test]
#[cfg_attr(not(have_nft), ignore = "needs nft")]
fn a_shim_without_descriptors_waits_and_goes_on() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let port = free();
    serve(&f, "web", &["-p", &format!("127.0.0.1:{port}:80")]);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    eventually("the server answers", || says_hello(to));
    let shim = d.shims()[0];
    let limits = |pid: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
        let line = text.lines().find(|line| line.starts_with("Max open files")).expect("a line").to_owned();
        let words: Vec<String> = line.split_whitespace().skip(3).take(2).map(str::to_owned).collect();
        (words[0].clone(), words[1].clone())
    };
    let (soft, hard) = limits(&shim.to_string());
    assert_eq!(soft, hard, "raised as far as it may be");
    let container = inspect(d, "web")["State"]["Pid"].to_string();
    assert_eq!(limits(&container), limits("self"), "which is not the container's affair");
    let open = || -> BTreeSet<u32> {
        let files = std::fs::read_dir(format!("/proc/{shim}/fd")).expect("it runs");
        files
            .map(|file| file.expect("an entry").file_name().to_string_lossy().parse().expect("a number"))
            .collect()
    };
    let limit = |number: &str| {
        let words = ["--pid", &shim.to_string(), &format!("--nofile={number}")];
        assert!(Command::new("prlimit").args(words).status().expect("prlimit runs").success());
    };
    // With one descriptor left a connection could be accepted, and nothing else.
    for spare in [0, 1] {
        // What earlier connections had is given back first: the same for 20 looks, 10 ms apart.
        let (mut before, mut same) = (BTreeSet::new(), 0);
        eventually("the shim is at rest", || {
            let now = open();
            same = if now == before { same + 1 } else { 0 };
            before = now;
            same == 20
        });
        let free = (0..).filter(|number| !before.contains(number)).nth(spare).expect("a number");
        limit(&format!("{free}:{hard}"));
        // No more than fit into the backlog of busybox' nc: one that does not is tried again after 1, 3, 7 and 15 s.
        let waiting: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(to).expect("it waits")).collect();
        std::thread::sleep(Duration::from_millis(300));
        let before = ticks(shim);
        std::thread::sleep(Duration::from_secs(1));
        let spent = ticks(shim) - before;
        assert!(spent < 20, "{spent} ticks of 100 for nothing");
        limit(&format!("{hard}:{hard}"));
        for mut stream in waiting {
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
            let mut said = String::new();
            stream.read_to_string(&mut said).expect("an answer");
            assert_eq!(said.trim(), "hello");
        }
    }
    assert_eq!(d.log_text().matches("a connection cannot be accepted").count(), 1, "said once");
    d.ctl(&["rm", "-f", "web"]).ok();
}
