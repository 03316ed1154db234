//! Images as a kubelet has them: pulls that tell how they are and end when nothing moves, and images in use that stay.

use std::time::{Duration, Instant};

use longshore_proto::runtime::v1 as wire;
use longshore_tests::cri::{self, Cri};
use longshore_tests::daemon::Settings;
use longshore_tests::registry::{Fault, Registry};
use longshore_tests::{Fixture, image};

/// Puts an image of one file into a registry; its reference, and what requests for its layer contain.
fn put(registry: &Registry, name: &str) -> (String, String) {
    let image = image::single_program("x", &name.repeat(10_000).into_bytes()).build().expect("an image");
    registry.put(name, "latest", &image);
    (registry.reference(&format!("{name}:latest")), format!("blobs/{}", image.layer_digests[0]))
}

async fn pulls(cri: &Cri) -> Vec<serde_json::Value> {
    let answer = cri.runtime.clone().status(wire::StatusRequest { verbose: true }).await.expect("a status");
    serde_json::from_str(&answer.into_inner().info["pulls"]).expect("a list")
}

/// Waits until a pull is at this step.
async fn at(cri: &Cri, image: &str, step: &str) -> serde_json::Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let pulls = pulls(cri).await;
        if let Some(pull) = pulls.iter().find(|pull| pull["image"] == image && pull["step"] == step) {
            return pull.clone();
        }
        assert!(Instant::now() < deadline, "{image} is not {step}: {pulls:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_tells_how_it_is_and_ends_when_nothing_moves() {
    let settings = Settings { config: "[registry]\nstall_seconds = 3\n".to_owned(), ..Settings::default() };
    let f = Fixture::with(settings).expect("a registry and a daemon");
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    let (name, layer) = put(&f.registry, "slow/image");
    f.registry.fault(&layer, Fault::Stall(Duration::from_secs(15)), None);
    let pull = tokio::spawn({
        let (cri, name) = (cri.clone(), name.clone());
        async move { cri.pull(&name).await }
    });
    let told = at(&cri, &name, "downloading").await;
    assert!(told["totalBytes"].as_u64() > Some(0) && told["bytes"] == 0, "{told}");
    assert_eq!(told["layers"][0]["step"], "downloading");
    assert!(told["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{told}");
    // Others are pulled meanwhile.
    let (quick, _) = put(&f.registry, "quick/image");
    cri.pull(&quick).await.expect("pulled beside it");
    assert_eq!(pulls(&cri).await.len(), 1);
    let error = pull.await.expect("no panic").unwrap_err();
    assert!(error.message().contains("nothing has moved for 3 s"), "{error}");
    assert_eq!(error.code(), tonic::Code::Unavailable);
    assert!(pulls(&cri).await.is_empty());
    f.registry.clear_faults();
    cri.pull(&name).await.expect("the next one gets it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_moves_slowly_is_not_ended() {
    let settings = Settings { config: "[registry]\nstall_seconds = 2\n".to_owned(), ..Settings::default() };
    let f = Fixture::with(settings).expect("a registry and a daemon");
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    // Of what cannot be compressed, less than the daemon writes at once.
    let mut state = 1u32;
    let bytes: Vec<u8> = (0..50_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect();
    let image = image::single_program("x", &bytes).build().expect("an image");
    f.registry.put("trickle", "latest", &image);
    f.registry.fault(&format!("blobs/{}", image.layer_digests[0]), Fault::Slow(10_000), None);
    let begun = Instant::now();
    cri.pull(&f.registry.reference("trickle:latest")).await.expect("pulled");
    assert!(begun.elapsed() > Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_a_container_uses_stays_and_has_its_name_in_the_status() {
    let f = Fixture::with(Settings::default()).expect("a registry and a daemon");
    let cri = Cri::connect(&f.daemon.socket()).await.expect("a connection");
    let id = cri.pull(&f.busybox).await.expect("pulled");
    let mut config = cri::pod("images");
    let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("one");
    let options = security.namespace_options.as_mut().expect("some");
    options.network = wire::NamespaceMode::Node.into();
    let options = options.clone();
    let pod = cri.run_pod(&config).await.expect("a pod");
    let mut wanted = cri::container("c", &id, "echo text > /written; exec sleep 1000");
    let security = wanted.linux.as_mut().and_then(|linux| linux.security_context.as_mut()).expect("one");
    security.namespace_options = Some(options);
    let container = cri.create(&pod, &wanted, &config).await.expect("created");
    cri.start(&container).await.expect("started");
    // It was made by the image's id, as the kubelet makes them.
    let status = cri.status(&container).await.expect("a status");
    assert_eq!((status.image.expect("one").image, &status.image_id), (f.busybox.clone(), &id));
    let remove = async |name: &str| {
        let image = Some(wire::ImageSpec { image: name.to_owned(), ..Default::default() });
        cri.images.clone().remove_image(wire::RemoveImageRequest { image }).await
    };
    let error = remove(&id).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition, "{error}");
    assert!(error.message().contains(&container), "{error}");
    // What it has written is known a moment later, with the time at which that was looked at.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let request = wire::ContainerStatsRequest { container_id: container.clone() };
        let stats =
            cri.runtime.clone().container_stats(request).await.expect("statistics").into_inner().stats;
        let stats = stats.expect("some");
        let written = stats.writable_layer.expect("known after half a second");
        assert!(written.timestamp > 0);
        if written.inodes_used.is_some_and(|inodes| inodes.value > 0)
            && stats.cpu.expect("some").usage_nano_cores.is_some()
        {
            break;
        }
        assert!(Instant::now() < deadline, "{written:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    cri.stop(&container, 0).await.expect("stopped");
    remove(&id).await.expect("nobody runs it any more");
    cri.status(&container).await.expect("its container is there still");
    let disk =
        cri.images.clone().image_fs_info(wire::ImageFsInfoRequest {}).await.expect("answered").into_inner();
    assert!(disk.image_filesystems[0].used_bytes.is_some());
    cri.remove_pod(&pod).await.expect("removed");
}
