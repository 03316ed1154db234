//! A full disk: a typed error that names the place, nothing lost, deletions and a restart still possible.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Daemon, noise};
use longshore_proto::containerd::services::leases::v1::{CreateRequest, DeleteRequest, ListRequest};
use tonic::Code;

/// A small file system of the test's own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where the test may not mount.
    fn mount(at: &Path, megabytes: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={megabytes}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("fill")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_survived_and_cleaned() {
    let mut daemon = Daemon::start();
    assert!(daemon.stop());
    let disk = SmallDisk::mount(&daemon.root(), 24).expect("a small tmpfs: the tests need root");
    daemon.restart();
    let clients = daemon.clients().await;
    let kept = clients.put("small", b"small", &[("containerd.io/gc.root", "x")]).await.unwrap();
    let status = clients.put("big", &noise(1, 30_000_000), &[]).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{}", status.message());
    assert!(status.message().contains("no space left"), "{}", status.message());
    let ingests = std::fs::read_dir(daemon.root().join("content/ingest")).unwrap().count();
    assert_eq!(ingests, 0, "the partial blob must not keep the disk full");
    disk.fill();
    let create =
        |i: usize| CreateRequest { id: format!("l{i}"), labels: [("k".to_owned(), "v".repeat(4000))].into() };
    let mut made = 0;
    let refused = loop {
        match clients.leases().create(create(made)).await {
            Ok(_) => made += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{}", refused.message());
    for i in 0..3 {
        clients.leases().delete(DeleteRequest { id: format!("l{i}"), sync: true }).await.unwrap();
    }
    daemon.kill();
    daemon.restart();
    let clients = daemon.clients().await;
    let leases = clients.leases().list(ListRequest::default()).await.unwrap().into_inner().leases;
    assert_eq!(leases.len(), made - 3);
    assert_eq!(clients.get(&kept).await.unwrap(), b"small");
    std::fs::remove_file(daemon.root().join("fill")).unwrap();
    clients.put("again", &noise(2, 3_000_000), &[]).await.unwrap();
    assert!(daemon.stop());
    drop(disk);
}
