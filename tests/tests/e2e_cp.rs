//! `longshore cp`: docker's rules of paths, into volumes and memory too, and the race that it must win every time.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use longshore_tests::Fixture;
use longshore_tests::daemon::{eventually, finish};

fn text(path: impl AsRef<std::path::Path>) -> String {
    fs::read_to_string(path).expect("a file")
}

#[test]
fn dockers_rules_of_paths() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let host = tempfile::tempdir().expect("a folder");
    let at = |path: &str| host.path().join(path).display().to_string();
    fs::write(at("file"), "x").expect("a file");
    chown(at("file"), Some(1234), Some(1234)).expect("an owner");
    fs::create_dir(at("d")).expect("a folder");
    fs::write(at("d/in"), "y").expect("a file");
    symlink("file", at("link")).expect("a link");
    d.ctl(&["run", "-d", "--name", "cc", &f.busybox, "sleep", "1000"]).ok();
    d.ctl(&["create", "--name", "still", &f.busybox, "sleep", "1000"]).ok();
    for container in ["cc", "still"] {
        let to = |path: &str| format!("{container}:{path}");
        d.ctl(&["cp", &at("file"), &to("/tmp/")]).ok();
        d.ctl(&["cp", &at("file"), &to("/tmp/other")]).ok();
        d.ctl(&["cp", &at("d"), &to("/tmp")]).ok();
        d.ctl(&["cp", &at("d"), &to("/tmp/d")]).ok();
        d.ctl(&["cp", &format!("{}/.", at("d")), &to("/tmp/new")]).ok();
        d.ctl(&["cp", &at("link"), &to("/tmp/l1")]).ok();
        d.ctl(&["cp", "-L", &at("link"), &to("/tmp/l2")]).ok();
        let listed = d.ctl_command(&["cp", &to("/tmp"), "-"]).stdout(Stdio::piped()).output().expect("cp");
        let mut archive = tar::Archive::new(&listed.stdout[..]);
        let mut names: Vec<String> = archive
            .entries()
            .expect("a tar stream")
            .map(|entry| {
                let entry = entry.expect("an entry");
                let owner = entry.header().uid().expect("an owner");
                format!("{} {owner}", entry.path().expect("a name").display())
            })
            .collect();
        names.sort();
        assert_eq!(
            names,
            [
                "tmp/ 0",
                "tmp/d/ 0",
                "tmp/d/d/ 0",
                "tmp/d/d/in 0",
                "tmp/d/in 0",
                "tmp/file 1234",
                "tmp/l1 0",
                "tmp/l2 1234",
                "tmp/new/ 0",
                "tmp/new/in 0",
                "tmp/other 1234"
            ],
            "{container}"
        );
        let out = |name: &str| at(&format!("{container}-{name}"));
        d.ctl(&["cp", &to("/tmp/other"), &out("o")]).ok();
        assert_eq!((text(out("o")).as_str(), fs::metadata(out("o")).expect("a file").uid()), ("x", 0));
        d.ctl(&["cp", &to("/tmp/d"), &out("d")]).ok();
        d.ctl(&["cp", &to("/tmp/d/."), &out("d")]).ok();
        assert_eq!(
            (text(format!("{}/in", out("d"))), text(format!("{}/d/in", out("d")))),
            ("y".into(), "y".into())
        );
        d.ctl(&["cp", "-L", &to("/tmp/l2"), &out("l")]).ok();
        assert_eq!(text(out("l")), "x");
        for (arguments, why) in [
            ([&to("/nope"), "."], format!("Could not find the file /nope in container {container}")),
            ([&at("nope"), &to("/")], format!("lstat {}: no such file or directory", at("nope"))),
            ([&at("file"), &to("/nodir/")], "no such directory".into()),
            (
                [&at("file"), &to("/nodir/x")],
                format!("Could not find the file /nodir in container {container}"),
            ),
            ([&at("d"), &to("/etc/passwd")], "cannot copy directory".into()),
            ([&at("file"), &to("/etc/passwd/x")], "extraction point is not a directory".into()),
            (
                [&to("/etc/passwd"), &at("nodir/x")],
                format!("invalid output path: directory {:?} does not exist", at("nodir")),
            ),
            ([&to("/etc"), &at("file")], "cannot copy directory".into()),
            (["-", &to("/etc/passwd")], format!("destination {:?} must be a directory", to("/etc/passwd"))),
            (["a", "b"], "must specify at least one container source".into()),
            ([&to("/a"), "d:/b"], "copying between containers is not supported".into()),
            (["nobody:/x", "."], "No such container: nobody".into()),
        ] {
            let refused = d.ctl(&["cp", arguments[0], arguments[1]]).expect(1);
            assert!(refused.stderr.contains(&why), "{arguments:?}: {}", refused.stderr);
        }
    }
    d.ctl(&["rm", "-f", "cc", "still"]).ok();
}

#[test]
fn volumes_and_memory_are_reached_and_read_only_is_read_only() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let host = tempfile::tempdir().expect("a folder");
    let file = host.path().join("f").display().to_string();
    fs::write(&file, "x").expect("a file");
    d.ctl(&["create", "--name", "still", "-v", "vol:/deep/vol", &f.busybox, "cat", "/deep/vol/f"]).ok();
    d.ctl(&["cp", &file, "still:/deep/vol/"]).ok();
    assert_eq!(d.ctl(&["start", "-a", "still"]).ok().stdout, "x");
    d.ctl(&["run", "-d", "--name", "runs", "-v", "vol:/v", "--tmpfs", "/t", &f.busybox, "sleep", "1000"])
        .ok();
    d.ctl(&["cp", &file, "runs:/t/g"]).ok();
    assert_eq!(d.ctl(&["exec", "runs", "cat", "/t/g", "/v/f"]).ok().stdout, "xx");
    let read_only = ["create", "--read-only", "--name", "ro", "-v", "vol:/v:ro", &f.busybox, "true"];
    d.ctl(&read_only).ok();
    for (place, why) in
        [("/", "container rootfs is marked read-only"), ("/v", "mounted volume is marked read-only")]
    {
        let refused = d.ctl(&["cp", &file, &format!("ro:{place}")]).expect(1);
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
    }
    d.ctl(&["rm", "-f", "still", "runs", "ro"]).ok();
    d.ctl(&["volume", "rm", "vol"]).ok();
}

#[test]
fn cve_2018_15664_a_container_that_swaps_links_leads_nowhere() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let host = tempfile::tempdir().expect("a folder");
    let secret = host.path().join("secret");
    fs::create_dir(&secret).expect("a folder");
    fs::write(secret.join("f"), "of the host").expect("a file");
    let file = host.path().join("up").display().to_string();
    fs::write(&file, "copied").expect("a file");
    // In the container the path of the host's folder is a link's target that does not exist there.
    let swap = format!(
        "mkdir -p /w/real; echo inside > /w/real/f; ln -s {} /w/evil; cd /w; mv real a; \
         while true; do mv a real; mv evil a; mv a evil; mv real a; done",
        secret.display()
    );
    d.ctl(&["run", "-d", "--name", "swaps", &f.busybox, "sh", "-c", &swap]).ok();
    let long = std::env::var_os("LONGSHORE_LONG").is_some();
    let end = Instant::now() + Duration::from_secs(if long { 60 } else { 2 });
    let out = host.path().join("out").display().to_string();
    let (mut rounds, mut copied) = (0, 0);
    while Instant::now() < end || copied == 0 {
        rounds += 1;
        assert!(rounds < 10_000, "never copied anything");
        let from = d.ctl_command(&["cp", "swaps:/w/a/f", &out]).stderr(Stdio::null()).spawn().expect("cp");
        if finish(from).expect("cp ends").code == 0 {
            copied += 1;
            assert_eq!(text(&out), "inside\n");
        }
        d.ctl(&["cp", &file, "swaps:/w/a/"]);
        let names: Vec<_> = fs::read_dir(&secret).expect("the host's folder").flatten().collect();
        assert_eq!(names.len(), 1, "written outside of the container");
        assert_eq!(text(secret.join("f")), "of the host");
    }
    d.ctl(&["rm", "-f", "swaps"]).ok();
}

fn mounted(folder: &str) -> bool {
    text("/proc/self/mountinfo").contains(folder)
}

#[test]
fn a_client_that_goes_away_leaves_nothing_mounted() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    d.ctl(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "mem"]).ok();
    let data = d.ctl(&["volume", "inspect", "-f", "{{.Mountpoint}}", "mem"]).ok().line().to_owned();
    d.ctl(&["create", "--name", "still", "-v", "mem:/m", &f.busybox, "true"]).ok();
    let mut client = d.ctl_command(&["cp", "-", "still:/m"]).stdin(Stdio::piped()).spawn().expect("cp");
    let mut input = client.stdin.take().expect("its stdin");
    let mut header = tar::Header::new_gnu();
    header.set_path("half").expect("a name");
    header.set_size(1 << 20);
    header.set_cksum();
    input.write_all(header.as_bytes()).expect("a beginning");
    // To look where it goes is a transfer of its own, and a short one.
    eventually("the copying waits for more", || {
        let again = Duration::from_millis(100);
        mounted(&data) && {
            std::thread::sleep(again);
            mounted(&data)
        }
    });
    client.kill().expect("the client can be killed");
    client.wait().expect("the client ends");
    eventually("what was mounted for the client is unmounted", || !mounted(&data));
    d.ctl(&["start", "-a", "still"]).ok();
    d.ctl(&["rm", "still"]).ok();
    d.ctl(&["volume", "rm", "mem"]).ok();
}

/// A file system in memory, below a folder of the host's.
struct Below(PathBuf);

impl Below {
    fn mount(at: PathBuf) -> Below {
        fs::create_dir_all(&at).expect("a folder");
        let done = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&at).status();
        assert!(done.expect("mount runs").success());
        Below(at)
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn what_is_mounted_below_a_read_only_mount_is_read_only_too() {
    let f = Fixture::pulled();
    let d = &f.daemon;
    let host = tempfile::tempdir().expect("a folder");
    let file = host.path().join("f").display().to_string();
    fs::write(&file, "x").expect("a file");
    let shared = host.path().join("shared");
    let below = Below::mount(shared.join("below"));
    let plain = format!("{}:/x:ro", shared.display());
    let mount = |options: &str| format!("type=bind,src={},dst=/x,readonly{options}", shared.display());
    for (number, (flag, value, writable)) in [
        ("-v", plain, false),
        ("--mount", mount(""), false),
        ("--mount", mount(",bind-recursive=enabled"), false),
        ("--mount", mount(",bind-recursive=readonly,bind-propagation=rprivate"), false),
        ("--mount", mount(",bind-recursive=writable"), true),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("still{number}");
        d.ctl(&["create", "--name", &name, flag, &value, &f.busybox, "touch", "/x/below/run"]).ok();
        let copied = d.ctl(&["cp", &file, &format!("{name}:/x/below/")]);
        assert_eq!(copied.code == 0, writable, "cp, {value}: {}", copied.stderr);
        assert_eq!(below.0.join("f").exists(), writable, "{value}");
        let ran = d.ctl(&["start", "-a", &name]);
        assert_eq!(ran.code == 0, writable, "start, {value}: {}", ran.stderr);
        let refused = d.ctl(&["cp", &file, &format!("{name}:/x/")]).expect(1);
        assert!(refused.stderr.contains("mounted volume is marked read-only"), "{}", refused.stderr);
    }
    let alone = mount(",bind-recursive=disabled");
    d.ctl(&["create", "--name", "alone", "--mount", &alone, &f.busybox, "ls", "/x/below"]).ok();
    assert_eq!(d.ctl(&["start", "-a", "alone"]).ok().stdout, "");
    d.ctl(&["cp", "alone:/x/below", &host.path().join("out").display().to_string()]).ok();
    assert_eq!(fs::read_dir(host.path().join("out")).expect("a copy").count(), 0);
}
