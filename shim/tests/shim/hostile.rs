//! Bytes that no client should send: the shim and the container do not mind.

use std::io::Write;
use std::time::Duration;

use longshore_proto::containerd::task::v3 as task;
use longshore_proto::ttrpc::{self, Code, Flags, Kind};

use crate::client::{Reply, SHIM, TASK, code};
use crate::harness::{ID, Shim, Want, memory};

/// Numbers that look random and are the same every time.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn garbage_does_no_harm() {
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    shim.start().unwrap();
    for seed in 0..60 {
        let mut client = shim.connect();
        let _ = client.socket.write_all(&noise(seed, 5000));
        client.socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    }
    // Well-formed frames around garbage.
    for seed in 0..200 {
        let mut client = shim.connect();
        let mut bytes = Vec::new();
        let kind = [Kind::Request, Kind::Response, Kind::Data][seed as usize % 3];
        ttrpc::encode_raw(&mut bytes, 1, kind, Flags((seed % 8) as u8), &noise(seed, 300)).unwrap();
        let _ = client.socket.write_all(&bytes);
    }
    // Known methods with garbage for a message.
    for (service, methods) in [
        (SHIM, &["Assign", "Events", "Attach"] as &[_]),
        (
            TASK,
            &[
                "State",
                "Create",
                "Start",
                "Delete",
                "Exec",
                "Kill",
                "Wait",
                "Update",
                "Stats",
                "ResizePty",
                "CloseIO",
            ],
        ),
    ] {
        for method in methods {
            for seed in 0..20 {
                let mut client = shim.connect();
                let request = ttrpc::Request {
                    service: service.into(),
                    method: (*method).into(),
                    payload: noise(seed, 40),
                    ..Default::default()
                };
                let mut bytes = Vec::new();
                ttrpc::encode_message(&mut bytes, 1, Kind::Request, Flags((seed % 4) as u8), &request)
                    .unwrap();
                client.socket.write_all(&bytes).unwrap();
            }
        }
    }
    assert!(shim.state("").unwrap().pid > 0);
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

#[test]
fn stream_numbers_and_lengths_are_checked() {
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    let mut client = shim.connect();
    let mut bytes = Vec::new();
    let state = task::StateRequest { id: ID.into(), exec_id: String::new() };
    let target = ttrpc::Target::new(TASK, "State", ttrpc::Call::Unary);
    for stream in [5, 4, 5, 3, 7] {
        ttrpc::encode_request(&mut bytes, stream, target, &state).unwrap();
    }
    bytes.extend_from_slice(&u32::MAX.to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 9, 1, 0]);
    client.socket.write_all(&bytes).unwrap();
    let mut refused = |stream: u32| match client.recv(stream, Duration::from_secs(5)) {
        Some(Reply::Answer(answer)) => answer.err().map(|error| error.code),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(5), None);
    assert_eq!(refused(4), Some(Code::InvalidArgument));
    assert_eq!(refused(5), Some(Code::InvalidArgument));
    assert_eq!(refused(3), Some(Code::InvalidArgument));
    assert_eq!(refused(7), None);
    assert_eq!(refused(9), Some(Code::ResourceExhausted));
    shim.delete("").unwrap();
    shim.shut_down();
}

#[test]
fn connections_and_execs_and_waits_are_bounded() {
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    shim.start().unwrap();
    let clients: Vec<_> = (0..100).map(|_| shim.connect()).collect();
    std::thread::sleep(Duration::from_millis(200));
    let open = std::fs::read_dir(format!("/proc/{}/fd", shim.child.id())).unwrap().count();
    assert!(open < 110, "{open} descriptors");
    shim.state("").unwrap();
    drop(clients);
    let last =
        (0..2000).find_map(|n| shim.exec(&format!("e{n}"), "true", false).err().map(|error| (n, error)));
    let (count, error) = last.expect("there is a bound");
    assert_eq!((count, error.code), (1024, Code::ResourceExhausted));
    assert!(error.message.contains("1024"), "{error}");
    let mut client = shim.connect();
    let waits: Vec<u32> = (0..1100)
        .map(|_| {
            let wait = task::WaitRequest { id: ID.into(), exec_id: String::new() };
            client.queue(TASK, "Wait", ttrpc::Call::Unary, &wait)
        })
        .collect();
    client.flush();
    assert_eq!(code(client.answer::<task::WaitResponse>(waits[1099])), Code::ResourceExhausted);
    shim.kill("", libc::SIGKILL).unwrap();
    assert_eq!(client.answer::<task::WaitResponse>(waits[0]).unwrap().exit_status, 137);
    shim.finish();
}

#[test]
fn a_client_that_asks_and_never_reads_is_held_back() {
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    let client = shim.connect();
    client.socket.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    for n in 0..1_000_000u32 {
        let target = ttrpc::Target::new(TASK, "State", ttrpc::Call::Unary);
        ttrpc::encode_request(
            &mut bytes,
            2 * n + 1,
            target,
            &task::StateRequest { id: ID.into(), ..Default::default() },
        )
        .unwrap();
        if bytes.len() > 60_000 {
            if (&client.socket).write(&bytes).is_err() {
                std::thread::sleep(Duration::from_millis(1));
                if n > 300_000 {
                    break;
                }
            }
            bytes.clear();
        }
    }
    let anon = memory(shim.child.id(), "status", "RssAnon");
    assert!(anon < 8 << 10, "{anon} KiB");
    shim.state("").unwrap();
    shim.delete("").unwrap();
    shim.shut_down();
}

#[test]
fn a_wait_with_a_deadline_ends() {
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    let mut bytes = Vec::new();
    let target = ttrpc::Target {
        timeout: Some(Duration::from_millis(100)),
        ..ttrpc::Target::new(TASK, "Wait", ttrpc::Call::Unary)
    };
    ttrpc::encode_request(&mut bytes, 1, target, &task::WaitRequest { id: ID.into(), ..Default::default() })
        .unwrap();
    let mut client = shim.connect();
    client.socket.write_all(&bytes).unwrap();
    assert_eq!(code(client.answer::<task::WaitResponse>(1)), Code::DeadlineExceeded);
    shim.delete("").unwrap();
    shim.shut_down();
}

#[test]
fn cve_2020_15257_other_users_are_turned_away_even_if_the_socket_is_open_to_them() {
    use std::os::unix::fs::PermissionsExt;
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    let open = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    };
    let socket = shim.bundle.join("shim.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    [shim.dir.path(), &shim.bundle, &socket].into_iter().for_each(open);
    let other = std::thread::spawn(move || {
        // SAFETY: the raw system call changes the effective user of this thread alone.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, -1, 65534, -1) }, 0);
        let mut socket = std::os::unix::net::UnixStream::connect(socket).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        std::io::Read::read(&mut socket, &mut [0]).unwrap()
    });
    assert_eq!(other.join().unwrap(), 0, "closed without a word");
    shim.state("").unwrap();
    shim.delete("").unwrap();
    shim.shut_down();
}

#[test]
fn signals_to_the_shim_do_not_end_the_container() {
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    shim.start().unwrap();
    let pid = rustix::process::Pid::from_raw(shim.child.id().try_into().unwrap()).unwrap();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT, rustix::process::Signal::HUP]
    {
        rustix::process::kill_process(pid, signal).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    assert!(shim.state("").unwrap().pid > 0);
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

/// Numbers below a bound, the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

#[test]
fn many_clients_at_random_leave_a_working_shim() {
    use longshore_proto::longshore::shim::v1 as api;
    let mut shim = Shim::created(&Want::sh("while read x; do echo $x; done"));
    shim.start().unwrap();
    let clients: Vec<_> = (0..6u64).map(|n| (n, shim.connect())).collect();
    let threads = clients.into_iter().map(|(n, mut client)| {
        std::thread::spawn(move || {
            let mut dice = Dice(0x5851_f42d_4c95_7f2d ^ (n << 32));
            for round in 0..12 {
                let exec_id = format!("r{n}-{round}");
                let script = ["exit 3", "cat", "head -c 300000 /dev/zero", "sleep 100", "echo x; echo y >&2"];
                let script = script[dice.below(5) as usize];
                let process = serde_json::json!({
                    "terminal": dice.below(3) == 0, "user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", script],
                    "cwd": "/", "env": ["PATH=/bin"],
                });
                let request = task::ExecProcessRequest {
                    id: ID.into(),
                    exec_id: exec_id.clone(),
                    terminal: process["terminal"].as_bool().unwrap(),
                    spec: Some(prost_types::Any { type_url: String::new(), value: process.to_string().into_bytes() }),
                    ..Default::default()
                };
                client.task::<_, ()>("Exec", &request).unwrap();
                let attached = (dice.below(3) > 0).then(|| {
                    let window = [0, 70_000][dice.below(2) as usize];
                    client.queue_attach(api::AttachStart {
                        exec_id: exec_id.clone(),
                        stdin: true,
                        stdout: true,
                        stderr: dice.below(2) == 0,
                        window,
                        ..Default::default()
                    })
                });
                client.flush();
                let start = task::StartRequest { id: ID.into(), exec_id: exec_id.clone() };
                client.task::<_, task::StartResponse>("Start", &start).unwrap();
                if let Some(stream) = attached {
                    match dice.below(3) {
                        0 => client.send_stdin(stream, &[b'z'; 5000], dice.below(2) == 0),
                        1 => client.queue_data(stream, &api::AttachInput { detach: true, ..Default::default() }),
                        _ => client.queue_data(stream, &api::AttachInput { consumed: 1 << 20, ..Default::default() }),
                    }
                    client.flush();
                }
                if dice.below(2) == 0 {
                    std::thread::sleep(Duration::from_millis(dice.below(20)));
                }
                let kill =
                    task::KillRequest { id: ID.into(), exec_id: exec_id.clone(), signal: 9, ..Default::default() };
                let _ = client.task::<_, ()>("Kill", &kill);
                let wait = task::WaitRequest { id: ID.into(), exec_id: exec_id.clone() };
                client.task::<_, task::WaitResponse>("Wait", &wait).unwrap();
                let delete = task::DeleteRequest { id: ID.into(), exec_id };
                client.task::<_, task::DeleteResponse>("Delete", &delete).unwrap();
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    let stream =
        shim.client.queue_attach(api::AttachStart { stdin: true, stdout: true, ..Default::default() });
    shim.client.send_stdin(stream, b"still\n", true);
    let all = shim.client.attach_all(stream);
    assert_eq!(all.stdout, b"still\n");
    shim.finish();
}

/// Calls whose caller is gone before they are answered, or before they are whole.
#[test]
fn cve_2022_23471_aborted_calls_leave_nothing() {
    use longshore_proto::longshore::shim::v1 as api;
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    shim.start().unwrap();
    shim.exec("t", "sleep 100", true).unwrap();
    shim.start_exec("t").unwrap();
    let abort = |shim: &Shim, round: u32| {
        let mut client = shim.connect();
        let (id, exec_id) = (ID.to_owned(), "t".to_owned());
        match round % 4 {
            0 => drop(client.queue(
                TASK,
                "ResizePty",
                ttrpc::Call::Unary,
                &task::ResizePtyRequest { id, exec_id, width: round % 200, height: 20 },
            )),
            1 => drop(client.queue(TASK, "Wait", ttrpc::Call::Unary, &task::WaitRequest { id, exec_id })),
            2 => drop(client.queue_attach(api::AttachStart {
                exec_id,
                stdin: true,
                stdout: true,
                ..Default::default()
            })),
            _ => {
                let mut bytes = Vec::new();
                let target = ttrpc::Target::new(TASK, "Exec", ttrpc::Call::Unary);
                let request =
                    task::ExecProcessRequest { id, exec_id: format!("a{round}"), ..Default::default() };
                ttrpc::encode_request(&mut bytes, 1, target, &request).unwrap();
                let _ = client.socket.write_all(&bytes[..bytes.len() / 2]);
            }
        }
        client.flush();
    };
    let pid = shim.child.id();
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let settled = |most: usize| crate::harness::wait_until(Duration::from_secs(10), || descriptors() <= most);
    let few = descriptors();
    (0..1000).for_each(|round| abort(&shim, round));
    assert!(settled(few), "{} descriptors, {few} before", descriptors());
    let before = memory(pid, "status", "RssAnon");
    (0..10_000).for_each(|round| abort(&shim, round));
    assert!(settled(few), "{} descriptors, {few} before", descriptors());
    let after = memory(pid, "status", "RssAnon");
    assert!(after < before + 512, "{before} KiB have become {after}");
    assert!(shim.state("t").unwrap().pid > 0);
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

/// Far more output than there is memory to be used for it, to somebody who does not read it and to a log.
#[test]
fn cve_2022_1708_output_without_end_stays_out_of_memory() {
    use longshore_proto::longshore::shim::v1 as api;
    const MOST: u64 = 8 << 10;
    let size: u64 = if std::env::var_os("LONGSHORE_LONG").is_some() { 1 << 30 } else { 48 << 20 };
    let mut shim = Shim::created(&Want::sh("sleep 100"));
    shim.start().unwrap();
    let script = format!("yes {} | head -c {size}", "0123456789".repeat(40));
    shim.exec("e", &script, false).unwrap();
    let mut deaf = shim.connect();
    deaf.queue_attach(api::AttachStart { exec_id: "e".into(), stdout: true, ..Default::default() });
    deaf.flush();
    shim.start_exec("e").unwrap();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(50));
        let anon = memory(shim.child.id(), "status", "RssAnon");
        assert!(anon < MOST, "{anon} KiB for a client that does not read");
    }
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    drop(deaf);
    shim.finish();

    let mut shim = Shim::new();
    shim.assign().unwrap();
    let stdout = format!("log://{}/log?max-size=1000000&max-files=2", shim.dir.path().display());
    shim.create(&Want { stdout, ..Want::sh(&script) }).unwrap();
    shim.start().unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 0);
    let anon = memory(shim.child.id(), "status", "RssAnon");
    assert!(anon < MOST, "{anon} KiB after {size} bytes");
    let sizes = std::fs::read_dir(shim.dir.path())
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("log"));
    let total: u64 = sizes.map(|entry| entry.metadata().unwrap().len()).sum();
    assert!(total > 0 && total < 3_000_000, "{total} bytes of log");
    shim.finish();
}
