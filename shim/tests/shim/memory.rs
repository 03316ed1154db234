//! What an idle shim costs. Only the static build has the bound: it is measured where that exists.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::{Shim, Want, memory};

/// The bound of an idle shim, in KiB.
const PRIVATE_DIRTY: u64 = 256;

/// The static build: named by the environment, or in the target folder of this build.
fn static_build() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("LONGSHORE_STATIC_SHIM") {
        return Some(path.into());
    }
    let target = Path::new(env!("CARGO_BIN_EXE_containerd-shim-longshore-v1")).parent()?.parent()?;
    ["x86_64-unknown-linux-gnu/shim", "shim"]
        .into_iter()
        .map(|folder| target.join(folder).join("containerd-shim-longshore-v1"))
        .find(|path| path.exists())
}

/// A seccomp profile as large as the default one: about 370 names to be resolved and compiled.
pub fn with_seccomp(config: &mut serde_json::Value) {
    let names: Vec<&str> = include_str!("syscalls.txt").lines().collect();
    config["linux"]["seccomp"] = serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
    });
}

#[test]
#[ignore = "measures a static build of the shim: make release"]
fn an_idle_shim_is_small() {
    let binary = static_build().expect("a static build of the shim: make release");
    // Pages of a file that was just linked count as dirty until they are written back.
    rustix::fs::sync();
    let mut shim = Shim::with_binary(&binary);
    shim.assign().unwrap();
    let log = format!("log://{}/log", shim.dir.path().display());
    let adjust = Some(with_seccomp as fn(&mut _));
    shim.create(&Want { stdout: log, adjust, ..Want::sh("echo hello; sleep 100") }).unwrap();
    shim.start().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let dirty = memory(shim.child.id(), "smaps_rollup", "Private_Dirty");
    let pss = memory(shim.child.id(), "smaps_rollup", "Pss:");
    eprintln!("idle shim: Private_Dirty {dirty} KiB, PSS {pss} KiB");
    print_dirty_mappings(shim.child.id());
    assert!(dirty <= PRIVATE_DIRTY, "{dirty} KiB of Private_Dirty");
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

#[test]
#[ignore = "measures a static build of the shim: make release"]
fn what_work_has_taken_is_given_back() {
    let binary = static_build().expect("a static build of the shim: make release");
    rustix::fs::sync();
    let mut shim = Shim::with_binary(&binary);
    shim.assign().unwrap();
    let log = format!("log://{}/log", shim.dir.path().display());
    shim.create(&Want { stdout: log, ..Want::sh("head -c 30000000 /dev/zero; seq 1 200000; sleep 100") })
        .unwrap();
    let stream = shim.client.queue_attach(longshore_proto::longshore::shim::v1::AttachStart {
        stdout: true,
        ..Default::default()
    });
    shim.start().unwrap();
    let mut total = 0;
    while total < 30_000_000 {
        match shim.client.attached(stream, Duration::from_secs(5)) {
            Some(longshore_proto::longshore::shim::v1::attach_output::What::Stdout(bytes)) => {
                total += bytes.len()
            }
            Some(_) => {}
            None => panic!("no output after {total}"),
        }
    }
    for n in 0..50 {
        let id = format!("e{n}");
        shim.exec(&id, "true", n % 2 == 0).unwrap();
        shim.start_exec(&id).unwrap();
        shim.wait(&id).unwrap();
        shim.delete(&id).unwrap();
    }
    while shim.client.attached(stream, Duration::from_millis(200)).is_some() {}
    std::thread::sleep(Duration::from_millis(1500));
    let dirty = memory(shim.child.id(), "smaps_rollup", "Private_Dirty");
    eprintln!("idle shim after work: Private_Dirty {dirty} KiB");
    assert!(dirty <= PRIVATE_DIRTY, "{dirty} KiB of Private_Dirty");
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

/// Not a test: prints what one `run true` costs in the shim, from the daemon's one write to the end.
#[test]
#[ignore = "a measurement"]
fn how_long_a_container_takes() {
    use crate::client::{SHIM, TASK};
    use longshore_proto::containerd::task::v3 as task;
    use longshore_proto::longshore::shim::v1 as shim_api;
    use longshore_proto::ttrpc::Call;
    let binary = static_build().expect("needs the static build");
    let mut times = Vec::new();
    for _ in 0..std::env::var("ROUNDS").map_or(60, |n| n.parse().unwrap()) {
        let mut shim = Shim::with_binary(&binary);
        std::thread::sleep(Duration::from_millis(20));
        let log = format!("log://{}/log", shim.dir.path().display());
        let want = Want { stdout: log, args: vec!["/bin/true".to_owned()], ..Want::sh("") };
        shim.write_config(&want);
        let bundle = shim.bundle.to_str().unwrap().to_owned();
        let assign = shim_api::AssignRequest {
            namespace: "n".into(),
            id: crate::harness::ID.into(),
            bundle,
            shared: false,
        };
        let create = shim.create_request(&want);
        let begin = std::time::Instant::now();
        let client = &mut shim.client;
        client.queue(SHIM, "Assign", Call::Unary, &assign);
        let created = client.queue(TASK, "Create", Call::Unary, &create);
        client.queue(SHIM, "Events", Call::ServerStream, &());
        let attach = client.queue_attach(shim_api::AttachStart { stdout: true, ..Default::default() });
        let start = task::StartRequest { id: crate::harness::ID.into(), exec_id: String::new() };
        client.queue(TASK, "Start", Call::Unary, &start);
        client.flush();
        client.answer::<task::CreateTaskResponse>(created).unwrap();
        let running = begin.elapsed();
        client.attach_all(attach);
        let exited = begin.elapsed();
        shim.delete("").unwrap();
        let deleted = begin.elapsed();
        times.push([running, exited, deleted]);
        shim.shut_down();
    }
    for (at, name) in ["started", "exited", "deleted"].iter().enumerate() {
        let mut column: Vec<Duration> = times.iter().map(|row| row[at]).collect();
        column.sort();
        eprintln!("{name}: median {:?}, best {:?}", column[column.len() / 2], column[0]);
    }
}

/// Not a test: prints how fast output moves to the log, and to a client.
#[test]
#[ignore = "a measurement"]
fn how_fast_output_moves() {
    const SIZE: usize = 400 << 20;
    let binary = static_build().expect("needs the static build");
    for logged in [true, false] {
        let mut shim = Shim::with_binary(&binary);
        shim.assign().unwrap();
        let log = format!("log://{}/log?max-size=20000000&max-files=2", shim.dir.path().display());
        let stdout = if logged { log } else { String::new() };
        let script = format!("yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c {SIZE}");
        shim.create(&Want { stdout, ..Want::sh(&script) }).unwrap();
        let start =
            longshore_proto::longshore::shim::v1::AttachStart { stdout: !logged, ..Default::default() };
        let stream = shim.client.queue_attach(start);
        let begin = std::time::Instant::now();
        shim.start().unwrap();
        let all = shim.client.attach_all(stream);
        let seconds = begin.elapsed().as_secs_f64();
        let bytes = if logged { SIZE } else { all.stdout.len() };
        let ticks = crate::harness::cpu_ticks(shim.child.id());
        let to = if logged { "log" } else { "client" };
        let megabytes = bytes as f64 / 1e6;
        eprintln!(
            "to a {to}: {:.0} MB/s, {:.0} MB for a second of the shim's own processor time",
            megabytes / seconds,
            megabytes * 100.0 / ticks as f64
        );
        shim.finish();
    }
}

/// Where the dirty pages are, for whoever wants them fewer.
fn print_dirty_mappings(pid: u32) {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut mapping = "";
    for line in smaps.lines() {
        match line.strip_prefix("Private_Dirty:") {
            Some(size) if !size.trim().starts_with("0 ") => eprintln!("  {} {mapping}", size.trim()),
            Some(_) => {}
            None if line.split(' ').next().is_some_and(|first| first.contains('-')) => mapping = line,
            None => {}
        }
    }
}
