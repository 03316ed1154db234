//! Names at 127.0.0.11, and ports of the host that lead on.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use longshore_proto::longshore::shim::v1 as proto;
use prost::Message;

use crate::client::SHIM;
use crate::harness::{ID, Shim, Want, wait_until};

/// A name server of the host's that knows one address.
fn server() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            let kind = answer[length - 3];
            if kind == 1 {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    address
}

fn write_names(folder: &Path, servers: Vec<String>) -> String {
    let table = proto::DnsTable {
        network: "back".into(),
        names: vec![proto::DnsName {
            names: vec!["web".into(), "www".into()],
            canonical: "web.back".into(),
            ipv4: vec![10, 1, 0, 2],
            ipv6: Vec::new(),
        }],
    };
    fs::write(folder.join("table"), table.encode_to_vec()).unwrap();
    let view = proto::DnsView {
        tables: vec![folder.join("table").display().to_string()],
        forward: !servers.is_empty(),
        servers,
        links: Vec::new(),
        resolv_conf: String::new(),
    };
    fs::write(folder.join("view"), view.encode_to_vec()).unwrap();
    folder.join("view").display().to_string()
}

/// What a script in a container with names writes.
fn with_names(servers: Vec<String>, script: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut shim = Shim::new();
    shim.assign().unwrap();
    let mut want = Want::sh(script);
    let dns = write_names(folder.path(), servers);
    want.options = Some(proto::CreateOptions { dns, ..Default::default() });
    want.stdout = format!("file://{}", folder.path().join("out").display());
    shim.create(&want).unwrap();
    shim.start().unwrap();
    shim.wait("").unwrap();
    let out = fs::read_to_string(folder.path().join("out")).unwrap();
    shim.finish();
    out
}

#[test]
fn names_aliases_and_addresses_are_answered() {
    let script = "for name in web WWW web.back 10.1.0.2; do busybox nslookup $name 127.0.0.11; done 2>&1";
    let out = with_names(Vec::new(), script);
    assert_eq!(out.matches("Address: 10.1.0.2").count(), 3, "{out}");
    assert!(out.contains("name = web.back"), "{out}");
}

#[test]
fn what_is_not_known_goes_to_the_hosts_servers_or_fails() {
    let out = with_names(vec![server().to_string()], "busybox nslookup elsewhere.test 127.0.0.11 2>&1");
    assert!(out.contains("192.0.2.7"), "{out}");
    let out = with_names(Vec::new(), "busybox nslookup elsewhere.test 127.0.0.11 2>&1");
    assert!(out.contains("SERVFAIL"), "{out}");
}

#[test]
fn a_server_that_is_away_is_followed_by_the_next() {
    let gone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let servers = vec![gone.to_string(), server().to_string()];
    let out = with_names(servers, "busybox nslookup elsewhere.test 127.0.0.11 2>&1");
    assert!(out.contains("192.0.2.7"), "{out}");
}

/// Does something in the network namespace of a process.
fn inside<T: Send>(pid: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);

/// A question for `web`.
const WEB: &[u8] = b"\x01\x02\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";

fn ask_tcp() -> Vec<u8> {
    let mut stream = TcpStream::connect(SERVER).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(&[&[0, WEB.len() as u8], WEB].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    answer
}

fn ask_udp() -> Vec<u8> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut buffer = [0; 512];
    // As resolvers do: the kernel drops what comes while the queue is full of others' questions.
    for _ in 0..10 {
        socket.send_to(WEB, SERVER).unwrap();
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        assert_eq!(from, SERVER.into());
        return buffer[..length].to_vec();
    }
    panic!("no answer by {SERVER:?}")
}

/// A running container with names, and its first process.
fn running(folder: &Path) -> (Shim, u32) {
    let mut want = Want::sh("sleep 100");
    let dns = write_names(folder, Vec::new());
    want.options = Some(proto::CreateOptions { dns, ..Default::default() });
    let mut shim = Shim::created(&want);
    let pid = shim.start().unwrap().pid;
    (shim, pid)
}

#[test]
fn names_are_answered_over_both_protocols_to_a_container_that_has_port_53_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (mut shim, pid) = running(folder.path());
    inside(pid, || {
        let _tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
        let _udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap();
        for answer in [ask_tcp(), ask_udp()] {
            assert!(answer.ends_with(&[10, 1, 0, 2]), "{answer:?}");
        }
    });
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

#[test]
fn hostile_questions_end_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut shim, pid) = running(folder.path());
    inside(pid, || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut noise = fs::File::open("/dev/urandom").unwrap();
        let mut bytes = vec![0; 1400];
        for round in 0..2000 {
            noise.read_exact(&mut bytes).unwrap();
            if round % 2 == 0 {
                // Nearly a question.
                bytes[2..12].copy_from_slice(&WEB[2..12]);
            }
            let _ = socket.send_to(&bytes[..round % 1400], SERVER);
        }
        // More connections than there may be, with half a message each and with nonsense.
        let mut streams: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(SERVER).unwrap()).collect();
        for stream in &mut streams {
            let _ = stream.write_all(&bytes);
        }
        drop(streams);
        assert!(ask_udp().ends_with(&[10, 1, 0, 2]));
        assert!(ask_tcp().ends_with(&[10, 1, 0, 2]));
    });
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

/// A port of the host's loopback that is free.
fn free() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn held(protocol: proto::held_port::Protocol, port: u16, target: SocketAddr) -> proto::HeldPort {
    proto::HeldPort {
        protocol: protocol.into(),
        host_ip: "127.0.0.1".into(),
        host_port: port.into(),
        target_ip: target.ip().to_string(),
        target_port: target.port().into(),
    }
}

/// Stands for a container's program: answers with what it gets.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let datagrams = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                stream.write_all(&all).unwrap();
            });
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(&buffer[..length], from);
        }
    });
    address
}

#[test]
fn a_held_port_passes_on_both_ways_and_is_free_after_the_end() {
    let (tcp, udp, target) = (free(), free(), echo());
    let mut want = Want::sh("sleep 100");
    let ports = vec![
        held(proto::held_port::Protocol::Tcp, tcp, target),
        held(proto::held_port::Protocol::Udp, udp, target),
    ];
    want.options = Some(proto::CreateOptions { ports, ..Default::default() });
    let mut shim = Shim::created(&want);
    shim.start().unwrap();
    // Held against others.
    assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, tcp)).is_err());
    // More than any buffer on the way, and the end of one direction before the other.
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, tcp)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(&sent).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).unwrap();
    assert!(back == sent, "{} bytes of {}", back.len(), sent.len());
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    for word in ["one", "two"] {
        socket.send_to(word.as_bytes(), (Ipv4Addr::LOCALHOST, udp)).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.port()), (word.as_bytes(), udp));
    }
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, tcp)).is_ok();
    assert!(wait_until(Duration::from_secs(5), free), "the port is still held");
    shim.finish();
}

#[test]
fn ports_are_changed_while_the_container_runs_or_not_at_all() {
    let (first, second, target) = (free(), free(), echo());
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    shim.start().unwrap();
    let tcp = proto::held_port::Protocol::Tcp;
    let mut publish = |ports| {
        shim.client.call::<_, ()>(SHIM, "Publish", &proto::PublishRequest { ports, ..Default::default() })
    };
    let answers = |port| {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
        stream.write_all(b"x").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).is_ok() && back == b"x"
    };
    publish(vec![held(tcp, first, target)]).unwrap();
    assert!(answers(first));
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, second)).unwrap();
    let error = publish(vec![held(tcp, second, target)]).unwrap_err();
    assert!(error.to_string().contains(&format!("127.0.0.1:{second}/tcp")), "{error}");
    assert!(answers(first), "what was held is given up for what could not be had");
    drop(taken);
    publish(vec![held(tcp, second, target)]).unwrap();
    assert!(answers(second) && !answers(first));
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

#[test]
fn a_container_whose_port_is_taken_is_not_made() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut want = Want::sh("sleep 100");
    let ports = vec![held(proto::held_port::Protocol::Tcp, port, taken.local_addr().unwrap())];
    want.options = Some(proto::CreateOptions { ports, ..Default::default() });
    let mut shim = Shim::new();
    shim.assign().unwrap();
    let error = shim.create(&want).unwrap_err();
    assert!(error.to_string().to_lowercase().contains("address already in use"), "{error}");
    assert!(!shim.bundle.join("init.pid").exists(), "{ID}");
    shim.shut_down();
}
