//! Checkpoint and restore by criu, which works on few kernels; `make test-vm` has one.

use crate::bundle::{Bundle, Running, shell};
use longshore_runtime::{
    Checkpoint, CheckpointOptions, Container, Error, ParentImage, RestoreOptions, Stdio,
};
use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Where a container writes.
type Files = (File, File);

/// Counts on, and says so.
const COUNTER: &str = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done";

fn options<'a>(
    bundle: &'a Bundle,
    running: &'a Running,
    spec: &'a oci_spec::runtime::Spec,
    image: &'a Path,
) -> CheckpointOptions<'a> {
    let container = running.container.as_ref().unwrap();
    CheckpointOptions {
        criu: Path::new("criu"),
        pid: container.pid(),
        cgroups: container.cgroups(),
        spec,
        bundle: bundle.dir.path(),
        image,
        work: None,
        parent: None,
        pre_dump: false,
        leave_running: false,
        tcp_established: false,
        tcp_skip_in_flight: false,
        link_remap: false,
        external_unix_sockets: false,
        shell_job: false,
        file_locks: false,
        auto_dedup: false,
        cgroups_mode: None,
        empty_namespaces: &[],
        lazy_pages: false,
        status_fd: None,
        page_server: None,
    }
}

fn dump(bundle: &Bundle, running: &Running, image: &Path) -> Result<(), Error> {
    let spec = serde_json::from_value(bundle.spec.clone()).unwrap();
    Checkpoint::prepare(&options(bundle, running, &spec, image))?.run()
}

/// With the stdio of before: criu wants files to be as they were.
fn restore(bundle: &Bundle, image: &Path, stdio: &Files) -> Result<Running, Error> {
    restore_with(bundle, image, stdio, |_| {})
}

fn restore_with(
    bundle: &Bundle,
    image: &Path,
    stdio: &Files,
    change: impl FnOnce(&mut RestoreOptions<'_>),
) -> Result<Running, Error> {
    let spec = serde_json::from_value(bundle.spec.clone()).unwrap();
    let (stdout, stderr) = (stdio.0.try_clone().unwrap(), stdio.1.try_clone().unwrap());
    let stdio = Stdio::Fds {
        stdin: File::open("/dev/null").unwrap().into(),
        stdout: stdout.try_clone().unwrap().into(),
        stderr: stderr.try_clone().unwrap().into(),
    };
    let mut options = RestoreOptions {
        criu: Path::new("criu"),
        id: &bundle.id,
        bundle: bundle.dir.path(),
        spec: &spec,
        rootfs_mounts: &bundle.rootfs_mounts,
        stdio,
        seccomp_cache: None,
        systemd_cgroup: bundle.systemd,
        note_cgroups: None,
        image,
        work: image,
        tcp_established: false,
        external_unix_sockets: false,
        shell_job: false,
        file_locks: false,
        auto_dedup: false,
        empty_namespaces: &[],
        parent: ParentImage::Linked,
        lazy_pages: false,
        lsm_profile: None,
        lsm_mount_context: None,
    };
    change(&mut options);
    let container = Container::restore(options)?;
    Ok(Running { container: Some(container), stdout, stderr })
}

fn image_of(bundle: &Bundle) -> PathBuf {
    bundle.dir.path().join("image")
}

/// A bundle, dumped while it counted, and how far it had come.
fn dumped(change: impl FnOnce(&mut Bundle)) -> (Bundle, u32, Files) {
    let mut bundle = Bundle::new(COUNTER);
    // Criu keeps it from 3.18 on only, and without it such a container is not restored.
    bundle.spec["process"]["noNewPrivileges"] = serde_json::json!(false);
    change(&mut bundle);
    let mut running = bundle.start();
    running.wait_for_output("3\n");
    dump(&bundle, &running, &image_of(&bundle)).unwrap_or_else(|error| panic!("{error}"));
    let count = running.stdout().lines().last().unwrap().parse().unwrap();
    let files = (running.stdout.try_clone().unwrap(), running.stderr.try_clone().unwrap());
    assert_eq!(running.finish().code, 137);
    (bundle, count, files)
}

#[test]
#[ignore = "needs a kernel that criu knows: make test-vm"]
fn a_restored_container_goes_on_where_it_was() {
    let volume = tempfile::tempdir().unwrap();
    std::fs::write(volume.path().join("file"), "of the host").unwrap();
    let (bundle, count, files) = dumped(|bundle| {
        bundle.add_mount(serde_json::json!({ "destination": "/data", "type": "bind", "source": volume.path(), "options": ["rbind"] }));
        bundle.spec["linux"]["resources"]["pids"] = serde_json::json!({ "limit": 20 });
    });
    let mut running = restore(&bundle, &image_of(&bundle), &files).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(running.stdout().lines().last().unwrap(), count.to_string());
    running.container().start().unwrap();
    running.wait_for_output(&format!("\n{}\n{}\n", count + 1, count + 2));
    // In its cgroups, with its limits, namespaces and mounts.
    let max = format!("/sys/fs/cgroup{}/pids.max", bundle.cgroups_path());
    assert_eq!(std::fs::read_to_string(max).unwrap(), "20\n");
    let outcome =
        running.exec(shell("hostname; cat /proc/self/cgroup /data/file; ls /proc | grep -c '^1$'")).unwrap();
    assert_eq!(outcome.stdout, "testhost\n0::/\nof the host1\n", "{outcome:?}");
    assert_eq!(running.kill().code, 137);
}

#[test]
#[ignore = "needs a kernel that criu knows: make test-vm"]
fn a_container_may_run_on_after_its_checkpoint() {
    let bundle = Bundle::new(COUNTER);
    let mut running = bundle.start();
    running.wait_for_output("3\n");
    let spec = serde_json::from_value(bundle.spec.clone()).unwrap();
    let image = image_of(&bundle);
    Checkpoint::prepare(&CheckpointOptions {
        leave_running: true,
        ..options(&bundle, &running, &spec, &image)
    })
    .unwrap()
    .run()
    .unwrap();
    let count: u32 = running.stdout().lines().last().unwrap().parse().unwrap();
    running.wait_for_output(&format!("\n{}\n", count + 3));
    running.kill();
}

#[test]
#[ignore = "needs a kernel that criu knows: make test-vm"]
fn cve_2024_5154_an_image_gives_no_more_than_the_config() {
    let (mut bundle, _, files) = dumped(|_| {});
    let fewer = serde_json::json!(["CAP_CHOWN"]);
    bundle.spec["process"]["capabilities"] =
        serde_json::json!({ "bounding": fewer, "effective": fewer, "permitted": fewer });
    let text = restore(&bundle, &image_of(&bundle), &files).err().unwrap().to_string();
    assert!(text.contains("capabilities that the config does not"), "{text}");
}

#[test]
fn cve_2026_53489_links_in_an_image_are_refused() {
    let bundle = Bundle::new("sleep 100");
    let running = bundle.start();
    let files = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let victim = bundle.dir.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    for (number, plant) in ["dump.log", "restore.log", "pages-1.img"].into_iter().enumerate() {
        let image = bundle.dir.path().join(format!("image{number}"));
        std::fs::create_dir(&image).unwrap();
        match number {
            2 => std::fs::hard_link(&victim, image.join(plant)).unwrap(),
            _ => symlink(&victim, image.join(plant)).unwrap(),
        }
        for error in [
            dump(&bundle, &running, &image).unwrap_err(),
            restore(&Bundle::new("true"), &image, &files).err().unwrap(),
        ] {
            let known = matches!(error, Error::UntrustedImage { .. } | Error::NoCriu { .. });
            assert!(known, "{error}");
        }
    }
    let link = bundle.dir.path().join("link");
    symlink(bundle.dir.path(), &link).unwrap();
    assert!(matches!(
        dump(&bundle, &running, &link),
        Err(Error::UntrustedImage { .. } | Error::NoCriu { .. })
    ));
    assert_eq!(std::fs::read_to_string(victim).unwrap(), "precious");
    running.kill();
}

#[test]
#[ignore = "needs a kernel that criu knows: make test-vm"]
fn cve_2026_53492_a_link_in_the_rootfs_is_not_followed_when_mounting() {
    let volume = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let (bundle, _, files) = dumped(|bundle| {
        bundle.add_mount(serde_json::json!({ "destination": "/data", "type": "bind", "source": volume.path(), "options": ["rbind"] }));
    });
    std::fs::remove_dir(bundle.root().join("data")).unwrap();
    symlink(outside.path(), bundle.root().join("data")).unwrap();
    let text = restore(&bundle, &image_of(&bundle), &files).err().unwrap().to_string();
    assert!(text.contains("without following a link"), "{text}");
}

#[test]
#[ignore = "needs a kernel that criu knows: make test-vm"]
fn memory_that_was_dumped_before_is_not_dumped_again() {
    let mut bundle = Bundle::new(COUNTER);
    bundle.spec["process"]["noNewPrivileges"] = serde_json::json!(false);
    let mut running = bundle.start();
    running.wait_for_output("3\n");
    let spec = serde_json::from_value(bundle.spec.clone()).unwrap();
    let images = ["pre", "image"].map(|name| bundle.dir.path().join(name));
    let pre = CheckpointOptions { pre_dump: true, ..options(&bundle, &running, &spec, &images[0]) };
    Checkpoint::prepare(&pre).unwrap().run().unwrap();
    let whole = CheckpointOptions { parent: Some("../pre"), ..options(&bundle, &running, &spec, &images[1]) };
    Checkpoint::prepare(&whole).unwrap().run().unwrap();
    let pages = |image: &Path| std::fs::metadata(image.join("pages-1.img")).unwrap().len();
    assert!(pages(&images[1]) < pages(&images[0]), "{} {}", pages(&images[1]), pages(&images[0]));
    let count: u32 = running.stdout().lines().last().unwrap().parse().unwrap();
    let files = (running.stdout.try_clone().unwrap(), running.stderr.try_clone().unwrap());
    assert_eq!(running.finish().code, 137);
    let refused = restore_with(&bundle, &images[1], &files, |options| options.parent = ParentImage::None);
    assert!(refused.err().unwrap().to_string().contains("none was named"));
    let mut running = restore(&bundle, &images[1], &files).unwrap_or_else(|error| panic!("{error}"));
    running.container().start().unwrap();
    running.wait_for_output(&format!("\n{}\n", count + 2));
    running.kill();
}

#[test]
#[ignore = "needs a kernel that criu knows: make test-vm"]
fn memory_may_come_when_it_is_used() {
    let (bundle, count, files) = dumped(|_| {});
    let image = image_of(&bundle);
    let mut criu = std::process::Command::new("criu");
    criu.args(["lazy-pages", "--images-dir"]).arg(&image).arg("--work-dir").arg(&image);
    criu.args(["-v4", "--log-file", "lazy.log"]);
    let mut pages = criu.spawn().unwrap();
    let socket = image.join("lazy-pages.socket");
    let began = std::time::Instant::now();
    while !socket.exists() {
        assert!(began.elapsed().as_secs() < 20, "no daemon for pages");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let restored = restore_with(&bundle, &image, &files, |options| options.lazy_pages = true);
    let mut running = restored.unwrap_or_else(|error| panic!("{error}"));
    running.container().start().unwrap();
    running.wait_for_output(&format!("\n{}\n", count + 2));
    running.kill();
    let _ = pages.kill();
    pages.wait().unwrap();
}

#[test]
fn cve_2024_5154_an_image_builds_on_none_that_is_elsewhere() {
    let bundle = Bundle::new("true");
    let files = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let folder = |name: &str| {
        let path = bundle.dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (image, earlier) = (folder("image"), folder("earlier"));
    std::fs::create_dir_all(bundle.dir.path().join("deep/er")).unwrap();
    for (target, words) in [
        ("/etc", "is not of the form"),
        ("../../etc", "is not of the form"),
        ("../deep/er", "is not of the form"),
        ("..", "is not of the form"),
        ("../earlier", "which others own or may write to"),
        ("../image", "builds on more than"),
    ] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&earlier, std::fs::Permissions::from_mode(0o777)).unwrap();
        let _ = std::fs::remove_file(image.join("parent"));
        symlink(target, image.join("parent")).unwrap();
        match restore(&bundle, &image, &files).err().unwrap() {
            Error::NoCriu { .. } => return,
            error => assert!(error.to_string().contains(words), "{target}: {error}"),
        }
    }
}
