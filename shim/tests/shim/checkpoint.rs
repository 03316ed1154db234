//! Checkpoint and restore by the shim, where criu works; `make test-vm` has a kernel that it knows.

use std::fs;
use std::path::Path;
use std::time::Duration;

use longshore_proto::containerd::runc::v1::CheckpointOptions;
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
    whole.lines().map(|line| line.parse().unwrap()).collect()
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
    let options = CheckpointOptions { exit: true, ..Default::default() };
    let request = task::CheckpointTaskRequest {
        id: ID.into(),
        path: image.to_str().unwrap().into(),
        options: Some(Any {
            type_url: "containerd.runc.v1.CheckpointOptions".into(),
            value: options.encode_to_vec(),
        }),
    };
    shim.client.task::<_, ()>("Checkpoint", &request).unwrap();
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
