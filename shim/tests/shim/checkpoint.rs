//! Checkpoint and restore by the shim, where criu works; `make test-vm` has a kernel that it knows.

use std::fs;
use std::path::Path;
use std::time::Duration;

use longshore_proto::containerd::runc::v1::{CheckpointOptions, Options};
use longshore_proto::containerd::task::v3 as task;
use longshore_proto::containerd::v1::types::Status;
use prost::Message;
use prost_types::Any;

use crate::harness::{ID, Shim, Want, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Counts on, and says so.
fn counter(output: &Path) -> Want {
    let mut want = Want::sh("i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done");
    want.options = None;
    want.stdout = format!("file://{}", output.display());
    want
}

fn lines(output: &Path) -> Vec<u32> {
    let text = fs::read_to_string(output).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| line.trim_end().parse().unwrap()).collect()
}

/// A checkpoint of the container; with `exit` it ends by that.
fn checkpoint(shim: &mut Shim, image: &Path, options: CheckpointOptions) {
    let request = task::CheckpointTaskRequest {
        id: ID.into(),
        path: image.to_str().unwrap().into(),
        options: Some(Any {
            type_url: "containerd.runc.v1.CheckpointOptions".into(),
            value: options.encode_to_vec(),
        }),
    };
    shim.client.task::<_, ()>("Checkpoint", &request).unwrap();
}

/// A counter in a terminal, perhaps held by another OCI runtime: ours as a command.
fn counter_in_a_terminal(output: &Path, runtime: Option<&str>) -> (Want, Option<Any>) {
    let mut want = Want::sh("i=0; while test -t 0; do i=$((i+1)); echo $i; sleep 0.1; done");
    (want.options, want.terminal) = (None, true);
    want.stdout = format!("file://{}", output.display());
    let options = runtime.map(|name| {
        let root = output.with_file_name("root").to_str().unwrap().to_owned();
        let options = Options { binary_name: name.into(), root, ..Default::default() };
        Any { type_url: "containerd.runc.v1.Options".into(), value: options.encode_to_vec() }
    });
    (want, options)
}

fn a_terminal_is_made_anew(runtime: Option<&str>) {
    let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().unwrap();
    let (output, image) = (folder.path().join("output"), folder.path().join("image"));
    fs::create_dir(&image).unwrap();
    let (want, options) = counter_in_a_terminal(&output, runtime);
    let mut shim = Shim::new();
    shim.assign().unwrap();
    shim.write_config(&want);
    let mut request = shim.create_request(&want);
    request.options = options.clone();
    shim.client.task::<_, task::CreateTaskResponse>("Create", &request).unwrap();
    shim.start().unwrap();
    assert!(wait_until(PATIENCE, || lines(&output).len() > 2), "it does not count");
    checkpoint(&mut shim, &image, CheckpointOptions { exit: true, ..Default::default() });
    assert_eq!(shim.wait("").unwrap().exit_status, 137);
    let before = lines(&output).len();
    shim.finish();

    let mut shim = Shim::new();
    shim.assign().unwrap();
    shim.write_config(&want);
    let mut request = shim.create_request(&want);
    (request.options, request.checkpoint) = (options, image.to_str().unwrap().into());
    shim.client.task::<_, task::CreateTaskResponse>("Create", &request).unwrap();
    shim.start().unwrap();
    assert!(wait_until(PATIENCE, || lines(&output).len() > before + 2), "it does not go on");
    let all = lines(&output);
    assert_eq!(all, (1..=u32::try_from(all.len()).unwrap()).collect::<Vec<_>>());
    let resize = task::ResizePtyRequest { id: ID.into(), width: 77, height: 33, ..Default::default() };
    shim.client.task::<_, ()>("ResizePty", &resize).unwrap();
    shim.kill("", libc::SIGKILL).unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 137);
    shim.finish();
}

#[test]
#[ignore = "needs a kernel that criu knows: make test-vm"]
fn a_restored_container_has_a_terminal() {
    a_terminal_is_made_anew(None);
}

#[test]
#[ignore = "needs a kernel that criu knows: make test-vm"]
fn a_container_restored_by_another_runtime_has_a_terminal() {
    a_terminal_is_made_anew(Some("longshore-runtime"));
}

#[test]
#[ignore = "needs a kernel that criu knows: make test-vm"]
fn an_image_builds_on_the_earlier_one_that_is_named() {
    let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().unwrap();
    let output = folder.path().join("output");
    let images = ["first", "second"].map(|name| folder.path().join(name));
    images.iter().for_each(|image| fs::create_dir(image).unwrap());
    let mut shim = Shim::created(&counter(&output));
    let pid = shim.start().unwrap().pid;
    assert!(wait_until(PATIENCE, || lines(&output).len() > 2), "it does not count");
    let config = fs::read(shim.bundle.join("config.json")).unwrap();
    longshore_runtime::Checkpoint::prepare(&longshore_runtime::CheckpointOptions {
        criu: Path::new("criu"),
        pid: pid.try_into().unwrap(),
        cgroups: &longshore_runtime::cgroups::CgroupPaths::open(&shim.cgroup).unwrap(),
        spec: &longshore_runtime::load_spec(&config).unwrap(),
        bundle: &shim.bundle,
        image: &images[0],
        work: None,
        parent: None,
        pre_dump: true,
        leave_running: true,
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
    })
    .unwrap()
    .run()
    .unwrap();
    let parent_path = "../first".to_owned();
    checkpoint(&mut shim, &images[1], CheckpointOptions { exit: true, parent_path, ..Default::default() });
    assert_eq!(shim.wait("").unwrap().exit_status, 137);
    let before = lines(&output).len();
    shim.finish();

    let mut shim = Shim::new();
    shim.assign().unwrap();
    let want = counter(&output);
    shim.write_config(&want);
    let mut request = shim.create_request(&want);
    request.checkpoint = images[1].to_str().unwrap().into();
    let error = shim.client.task::<_, task::CreateTaskResponse>("Create", &request).unwrap_err();
    assert!(format!("{error:?}").contains("none was named"), "{error:?}");
    request.parent_checkpoint = images[0].to_str().unwrap().into();
    shim.client.task::<_, task::CreateTaskResponse>("Create", &request).unwrap();
    shim.start().unwrap();
    assert!(wait_until(PATIENCE, || lines(&output).len() > before + 2), "it does not go on");
    shim.kill("", libc::SIGKILL).unwrap();
    shim.wait("").unwrap();
    shim.finish();
}

#[test]
#[ignore = "needs a kernel that criu knows: make test-vm"]
fn a_container_goes_on_in_another_shim() {
    let folder = tempfile::Builder::new().prefix("longshore-test-").tempdir().unwrap();
    let (output, image) = (folder.path().join("output"), folder.path().join("image"));
    fs::create_dir(&image).unwrap();
    let mut shim = Shim::created(&counter(&output));
    shim.start().unwrap();
    assert!(wait_until(PATIENCE, || lines(&output).len() > 2), "it does not count");
    checkpoint(&mut shim, &image, CheckpointOptions { exit: true, ..Default::default() });
    assert_eq!(shim.wait("").unwrap().exit_status, 137);
    let before = lines(&output).len();
    shim.finish();

    let mut shim = Shim::new();
    shim.assign().unwrap();
    let want = counter(&output);
    shim.write_config(&want);
    let mut request = shim.create_request(&want);
    request.checkpoint = image.to_str().unwrap().into();
    let made: task::CreateTaskResponse = shim.client.task("Create", &request).unwrap();
    assert_eq!(shim.state("").unwrap().status(), Status::Created);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(lines(&output).len(), before, "it counts before it is started");
    assert_eq!(shim.start().unwrap().pid, made.pid);
    assert!(wait_until(PATIENCE, || lines(&output).len() > before + 2), "it does not go on");
    let all = lines(&output);
    let expected: Vec<u32> = (1..=u32::try_from(all.len()).unwrap()).collect();
    assert_eq!(all, expected);
    shim.kill("", libc::SIGKILL).unwrap();
    assert_eq!(shim.wait("").unwrap().exit_status, 137);
    shim.finish();
}
