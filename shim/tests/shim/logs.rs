//! The rotating log through a whole container: exact over rotations, with and without clients, on a full disk.

use std::fs;
use std::path::Path;
use std::time::Duration;

use longshore_proto::longshore::shim::v1 as shim;
use longshore_proto::ttrpc::Code;

use crate::client::{SHIM, code};
use crate::harness::{ID, Shim, Want, cpu_ticks, wait_until};

/// The text of one stream in all files of a log, oldest first.
fn text(dir: &Path, stream: &str) -> Vec<u8> {
    let mut files: Vec<(u32, Vec<u8>)> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let number = path.extension().map_or(0, |number| number.to_str().unwrap().parse().unwrap());
            (number, fs::read(path).unwrap())
        })
        .collect();
    files.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let mut text = Vec::new();
    for (_, content) in files {
        for record in content.split_inclusive(|byte| *byte == b'\n') {
            let record = record.strip_suffix(b"\n").expect("records are whole");
            let mut fields = record.splitn(4, |byte| *byte == b' ');
            assert!(fields.next().unwrap().ends_with(b"Z"));
            if fields.next().unwrap() != stream.as_bytes() {
                continue;
            }
            let tag = fields.next().unwrap();
            text.extend_from_slice(fields.next().unwrap());
            if tag == b"F" {
                text.push(b'\n');
            }
        }
    }
    text
}

fn logged(script: &str, query: &str) -> (Shim, Want, std::path::PathBuf) {
    let mut shim = Shim::new();
    shim.assign().unwrap();
    let dir = shim.dir.path().join("logs");
    fs::create_dir(&dir).unwrap();
    let want = Want { stdout: format!("log://{}/log{query}", dir.display()), ..Want::sh(script) };
    (shim, want, dir)
}

#[test]
fn a_log_has_both_streams_and_clients_see_them_too() {
    let (mut shim, want, dir) = logged("echo out; echo err >&2; printf rest", "");
    shim.create(&want).unwrap();
    let start = shim::AttachStart { stdout: true, stderr: true, ..Default::default() };
    let stream = shim.client.queue_attach(start);
    shim.client.flush();
    shim.start().unwrap();
    shim.wait("").unwrap();
    assert!(text(&dir, "stdout").starts_with(b"out\n"), "what was written is in the log when Wait answers");
    let all = shim.client.attach_all(stream);
    assert_eq!(
        (all.stdout.as_slice(), all.stderr.as_slice()),
        (b"out\nrest".as_slice(), b"err\n".as_slice())
    );
    shim.delete("").unwrap();
    assert_eq!((text(&dir, "stdout"), text(&dir, "stderr")), (b"out\nrest".to_vec(), b"err\n".to_vec()));
    shim.shut_down();
}

#[test]
fn a_hundred_megabytes_are_logged_exactly_over_rotations() {
    let (mut shim, want, dir) = logged("seq 1 12000000", "?max-size=20000000&max-files=1000");
    shim.create(&want).unwrap();
    shim.start().unwrap();
    shim.wait("").unwrap();
    shim.delete("").unwrap();
    let mut next = 1u32;
    for line in text(&dir, "stdout").split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        assert_eq!(std::str::from_utf8(line).unwrap(), next.to_string());
        next += 1;
    }
    assert_eq!(next, 12_000_001);
    assert!(fs::read_dir(&dir).unwrap().count() > 20);
    for entry in fs::read_dir(&dir).unwrap() {
        assert!(entry.unwrap().metadata().unwrap().len() <= 20_000_000);
    }
    shim.shut_down();
}

#[test]
fn only_so_many_files_stay() {
    let (mut shim, want, dir) = logged("seq 1 100000", "?max-size=10000&max-files=3");
    shim.create(&want).unwrap();
    shim.start().unwrap();
    shim.wait("").unwrap();
    shim.delete("").unwrap();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
    assert!(text(&dir, "stdout").ends_with(b"99999\n100000\n"));
    shim.shut_down();
}

#[test]
fn a_full_disk_holds_the_container_back_and_loses_nothing() {
    let (mut shim, want, dir) = logged("seq 1 100000; exit 5", "?max-size=100000000&max-files=2");
    nix::mount::mount(Some("tmpfs"), &dir, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=1m"))
        .unwrap();
    let _unmount = Unmount(dir.clone());
    shim.create(&want).unwrap();
    shim.start().unwrap();
    let full =
        wait_until(Duration::from_secs(10), || fs::metadata(dir.join("log")).unwrap().len() >= 1 << 20);
    assert!(full);
    let before = cpu_ticks(shim.child.id());
    std::thread::sleep(Duration::from_millis(3000));
    assert!(cpu_ticks(shim.child.id()) - before < 10, "it waits and does not spin");
    assert_eq!(shim.state("").unwrap().status(), longshore_proto::containerd::v1::types::Status::Running);
    let larger = Some("size=64m");
    nix::mount::mount(None::<&str>, &dir, None::<&str>, nix::mount::MsFlags::MS_REMOUNT, larger).unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 5);
    shim.delete("").unwrap();
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(text(&dir, "stdout"), expected.as_bytes());
    shim.shut_down();
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_cri_log_is_opened_anew_on_request_and_attaching_goes_on() {
    let mut shim = Shim::new();
    shim.assign().unwrap();
    let log = shim.dir.path().join("0 a.log");
    let stdout = format!("cri://{}", log.display()).replace(' ', "%20");
    let want = Want { stdout, ..Want::sh("while read line; do echo $line; echo err $line >&2; done") };
    shim.create(&want).unwrap();
    let stream =
        shim.client.queue_attach(shim::AttachStart { stdin: true, stdout: true, ..Default::default() });
    shim.client.flush();
    shim.start().unwrap();
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let renamed = log.with_extension("old");
    shim.client.send_stdin(stream, b"one\n", false);
    assert!(wait_until(Duration::from_secs(5), || read(&log).contains(" stderr F err one\n")));
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(&log).unwrap()) & 0o777, 0o640);
    fs::rename(&log, &renamed).unwrap();
    shim.client.send_stdin(stream, b"two\n", false);
    assert!(wait_until(Duration::from_secs(5), || read(&renamed).contains(" stderr F err two\n")));
    let reopen = shim::ReopenLogRequest { id: ID.into() };
    shim.client.call::<_, ()>(SHIM, "ReopenLog", &reopen).unwrap();
    assert_eq!(read(&log), "");
    shim.client.send_stdin(stream, b"three\n", true);
    let all = shim.client.attach_all(stream);
    assert_eq!(all.stdout, b"one\ntwo\nthree\n");
    shim.wait("").unwrap();
    let texts: Vec<String> = [&renamed, &log]
        .map(|path| read(path).lines().map(|line| format!("{};", &line[31..])).collect())
        .into();
    assert_eq!(texts[0], "stdout F one;stderr F err one;stdout F two;stderr F err two;");
    assert_eq!(texts[1], "stdout F three;stderr F err three;");
    shim.delete("").unwrap();
    shim.shut_down();
    // A log that rotates by itself stays as it is.
    let (mut shim, want, _dir) = logged("sleep 100", "");
    shim.create(&want).unwrap();
    assert_eq!(code(shim.client.call::<_, ()>(SHIM, "ReopenLog", &reopen)), Code::InvalidArgument);
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.delete("").unwrap();
    shim.shut_down();
}
