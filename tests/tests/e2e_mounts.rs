//! containerd.services.mounts.v1: what is activated is there, stays through a kill of the daemon, and goes when nothing holds it.

use std::path::Path;

use longshore_proto::containerd::services::leases::v1 as leases;
use longshore_proto::containerd::services::mounts::v1::mounts_client::MountsClient;
use longshore_proto::containerd::services::mounts::v1::*;
use longshore_proto::containerd::types::{ActivationInfo, Mount};
use longshore_tests::Daemon;
use longshore_tests::api::InNamespace;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

type Service = InterceptedService<Channel, InNamespace>;

async fn channel(daemon: &Daemon) -> Channel {
    let url = format!("unix://{}", daemon.socket().display());
    Endpoint::from_shared(url).expect("an address").connect().await.expect("the daemon answers")
}

async fn client(daemon: &Daemon) -> MountsClient<Service> {
    MountsClient::with_interceptor(channel(daemon).await, InNamespace)
}

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    let options = options.iter().map(|&option| option.to_owned()).collect();
    Mount { r#type: kind.into(), source: source.into(), target: String::new(), options }
}

fn activate(name: &str, mounts: Vec<Mount>) -> ActivateRequest {
    ActivateRequest { name: name.into(), mounts, ..ActivateRequest::default() }
}

async fn info(client: &mut MountsClient<Service>, name: &str) -> Result<ActivationInfo, Code> {
    let answer = client.info(InfoRequest { name: name.into() }).await;
    answer.map(|answer| answer.into_inner().info.expect("an activation")).map_err(|status| status.code())
}

fn mounted(below: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("a table");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(below)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(have_mkfs_ext4), ignore = "needs mkfs.ext4 (package e2fsprogs)")]
async fn a_file_system_in_a_file_becomes_an_overlays_upper_layer() {
    let mut daemon = Daemon::start();
    let mut client = client(&daemon).await;
    let disk = daemon.root().join("disk.img").display().to_string();
    let lower = daemon.path().join("lower");
    std::fs::create_dir(&lower).expect("a folder");
    std::fs::write(lower.join("below"), "below").expect("a file");
    let mounts = vec![
        mount("mkfs/loop", &disk, &["X-containerd.mkfs.size=16m", "X-containerd.mkfs.fs=ext4"]),
        mount("format/ext4", "{{ mount 0 }}", &[]),
        mount(
            "format/mkdir/overlay",
            "overlay",
            &[
                "X-containerd.mkdir.path={{ mount 1 }}/upper:0755",
                "X-containerd.mkdir.path={{ mount 1 }}/work:0711",
                "index=off",
                "upperdir={{ mount 1 }}/upper",
                "workdir={{ mount 1 }}/work",
                &format!("lowerdir={}", lower.display()),
            ],
        ),
    ];
    let made = client.activate(activate("disk", mounts.clone())).await.expect("activated").into_inner();
    let made = made.info.expect("an activation");
    assert_eq!((made.active.len(), made.system.len()), (2, 1), "{made:?}");
    let point = made.active[1].mount_point.clone();
    assert_eq!(made.system[0].options[1], format!("upperdir={point}/upper"));
    assert_eq!(made.system[0].r#type, "overlay");
    assert!(Path::new(&point).join("upper").is_dir() && Path::new(&point).join("lost+found").is_dir());
    let again = client.activate(activate("disk", mounts)).await.expect_err("it is there");
    assert_eq!(again.code(), Code::AlreadyExists);
    let plain = client.activate(activate("plain", vec![mount("bind", "/", &["ro"])])).await;
    assert_eq!(plain.expect_err("nothing to do").code(), Code::Unimplemented);

    daemon.kill();
    daemon.launch().expect("the daemon starts again");
    let mut client = self::client(&daemon).await;
    assert_eq!(info(&mut client, "disk").await.expect("it is still there").active.len(), 2);
    let listed = client.list(ListRequest::default()).await.expect("a list").into_inner().message().await;
    assert_eq!(listed.expect("a message").expect("one").info.expect("an activation").name, "disk");
    let device = std::fs::read_link(&made.active[0].mount_point).expect("a link to the device");
    client.deactivate(DeactivateRequest { name: "disk".into() }).await.expect("deactivated");
    assert_eq!(info(&mut client, "disk").await, Err(Code::NotFound));
    assert_eq!(mounted(&daemon.state()), Vec::<String>::new());
    let backing = Path::new("/sys/block").join(device.file_name().expect("a name")).join("loop/backing_file");
    let backing = std::fs::read_to_string(backing).unwrap_or_default();
    assert!(!backing.contains(&disk), "the loop device is let go of: {backing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_lease_and_no_object_names_is_collected() {
    let daemon = Daemon::start();
    let mut client = client(&daemon).await;
    let mut all = leases::leases_client::LeasesClient::with_interceptor(channel(&daemon).await, InNamespace);
    for id in ["holds", "nudge"] {
        let request = leases::CreateRequest { id: id.into(), labels: Default::default() };
        all.create(request).await.expect("a lease");
    }
    let temporary = |name: &str| ActivateRequest {
        temporary: true,
        ..activate(name, vec![mount("tmpfs", "tmpfs", &["size=64k"])])
    };
    let mut held = Request::new(temporary("held"));
    held.metadata_mut().insert("containerd-lease", "holds".parse().expect("a header"));
    let made = client.activate(held).await.expect("activated").into_inner().info.expect("an activation");
    assert_eq!((made.active.len(), made.system[0].r#type.as_str()), (1, "bind"));
    assert_eq!(made.system[0].source, made.active[0].mount_point);
    client.activate(temporary("loose")).await.expect("activated");
    assert_eq!(mounted(&daemon.state()).len(), 2);
    let delete = |id: &str| leases::DeleteRequest { id: id.into(), sync: true };
    all.delete(delete("nudge")).await.expect("deleted");
    assert_eq!(info(&mut client, "loose").await, Err(Code::NotFound));
    assert_eq!(info(&mut client, "held").await.expect("its lease holds it").name, "held");
    all.delete(delete("holds")).await.expect("deleted");
    assert_eq!(info(&mut client, "held").await, Err(Code::NotFound));
    assert_eq!(mounted(&daemon.state()), Vec::<String>::new());
    let unknown = client.activate(activate("x", vec![mount("format/bind", "{{ mount 0 }}", &[])])).await;
    assert_eq!(unknown.expect_err("no mount comes before it").code(), Code::InvalidArgument);
}
