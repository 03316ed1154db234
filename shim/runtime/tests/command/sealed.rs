//! The program's own file, seen from inside a container.

use crate::bundle::{Bundle, program};
use serde_json::json;
use std::io::Write;

/// A script whose interpreter is `/proc/self/exe` makes the kernel execute the runtime once more, inside. Whoever holds it
/// then must not be able to write to the file on disk.
#[test]
fn cve_2019_5736_the_program_cannot_be_overwritten_from_inside() {
    let before = std::fs::read(program()).unwrap();
    let mut bundle = Bundle::new("");
    std::fs::write(bundle.dir.path().join("rootfs/bin/evil"), "#!/proc/self/exe\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bundle.dir.path().join("rootfs/bin/evil"), mode).unwrap();
    bundle.spec["process"]["args"] = json!(["/bin/evil"]);
    bundle.write();
    let _ = bundle.run(&["run", "c"]);
    bundle.spec["process"]["args"] = json!(["/proc/self/exe"]);
    bundle.write();
    assert_ne!(bundle.run(&["run", "c"]).code, 0);
    assert!(std::fs::read(program()).unwrap() == before);
}

/// While a container waits at its gate, its `/proc/PID/exe` is the runtime: sealed, or on a read-only mount.
#[test]
fn cve_2019_5736_the_program_of_a_waiting_container_is_not_the_file_on_disk() {
    let bundle = Bundle::new("true");
    bundle.ok(&["create", "c"]);
    let exe = format!("/proc/{}/exe", bundle.state()["pid"]);
    let opened = std::fs::OpenOptions::new().write(true).open(&exe);
    let error = opened.err().and_then(|error| error.raw_os_error());
    // Busy now, as it runs; what counts is that it stays so afterwards.
    assert!(matches!(error, Some(libc::ETXTBSY | libc::EROFS | libc::EPERM)), "{error:?}");
    let shown = std::fs::read_link(&exe).unwrap();
    let held = std::fs::File::open(&exe).unwrap();
    bundle.ok(&["delete", "--force", "c"]);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
    let written =
        std::fs::OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(b"#"));
    let error = written.err().and_then(|error| error.raw_os_error());
    assert!(matches!(error, Some(libc::EROFS | libc::EPERM)), "{shown:?} can be written to: {error:?}");
}

#[test]
fn the_process_is_not_dumpable_before_its_program_runs() {
    let bundle = Bundle::new("true");
    bundle.ok(&["create", "c"]);
    // Files in /proc of a process that cannot be dumped belong to root, whoever the process is; its memory is closed to
    // others without CAP_SYS_PTRACE. The coredump filter of such a process cannot be told apart, but its auxv can.
    let pid = bundle.state()["pid"].to_string();
    let owner = std::fs::metadata(format!("/proc/{pid}/fd"))
        .map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata))
        .unwrap();
    assert_eq!(owner, 0);
}
