//! containerd.services.content.v1 against the real daemon: resuming, codes, sharing, and kills.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Clients, Daemon, code, digest, noise};
use longshore_proto::containerd::services::content::v1::*;
use longshore_proto::containerd::services::leases::v1::{CreateRequest, ListResourcesRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// A write conversation, message by message.
struct Conversation {
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
}

impl Conversation {
    async fn open(
        clients: &Clients,
        reference: &str,
        expected: &str,
    ) -> Result<(Self, WriteContentResponse), Status> {
        let (requests, receiver) = mpsc::channel(4);
        let answers = clients.content().write(ReceiverStream::new(receiver)).await?.into_inner();
        let mut conversation = Self { requests, answers };
        let first = conversation
            .say(WriteContentRequest {
                r#ref: reference.into(),
                expected: expected.into(),
                ..Default::default()
            })
            .await?;
        Ok((conversation, first))
    }

    async fn say(&mut self, request: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        // The daemon may have ended the conversation: its answer says why.
        let _ = self.requests.send(request).await;
        self.answers.message().await?.ok_or_else(|| Status::unknown("the conversation is over"))
    }

    async fn write(&mut self, offset: usize, data: &[u8]) -> Result<WriteContentResponse, Status> {
        self.say(WriteContentRequest {
            action: WriteAction::Write.into(),
            offset: i64::try_from(offset).unwrap(),
            data: data.to_vec(),
            ..Default::default()
        })
        .await
    }

    async fn commit(&mut self, size: usize, expected: &str) -> Result<WriteContentResponse, Status> {
        let size = i64::try_from(size).unwrap();
        self.say(WriteContentRequest {
            action: WriteAction::Commit.into(),
            offset: size,
            total: size,
            expected: expected.into(),
            ..Default::default()
        })
        .await
    }
}

fn info(digest: &str) -> InfoRequest {
    InfoRequest { digest: digest.into() }
}

#[tokio::test]
async fn blobs_are_written_read_labelled_listed_and_deleted() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let data = noise(1, 3_000_000);
    let name = clients.put("r", &data, &[("a", "b"), ("containerd.io/gc.root", "x")]).await.unwrap();
    assert_eq!(name, digest(&data));
    assert_eq!(clients.get(&name).await.unwrap(), data);
    assert_eq!(clients.read(&name, 1_000_001, 1_500_000).await.unwrap(), data[1_000_001..2_500_001]);
    assert_eq!(clients.read(&name, 3_000_000, 0).await.unwrap(), b"");
    assert_eq!(code(clients.read(&name, 3_000_001, 0).await), Code::OutOfRange);
    assert_eq!(clients.read(&name, 2_999_999, 7).await.unwrap(), data[2_999_999..], "as much as there is");
    assert_eq!(code(clients.read(&name, -1, 0).await), Code::InvalidArgument);
    let found = clients.content().info(info(&name)).await.unwrap().into_inner().info.unwrap();
    assert_eq!((found.size, found.labels["a"].as_str()), (3_000_000, "b"));
    let mask = |paths: &[&str]| {
        Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
    };
    let update = |labels: &[(&str, &str)], update_mask| UpdateRequest {
        info: Some(Info {
            digest: name.clone(),
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            ..Default::default()
        }),
        update_mask,
    };
    let updated =
        clients.content().update(update(&[("c", "d")], mask(&["labels.c", "labels.a"]))).await.unwrap();
    let labels = updated.into_inner().info.unwrap().labels;
    assert_eq!((labels.get("a"), labels["c"].as_str(), labels.len()), (None, "d", 2));
    assert_eq!(code(clients.content().update(update(&[], mask(&["size"]))).await), Code::InvalidArgument);
    let long = "x".repeat(4096);
    assert_eq!(code(clients.content().update(update(&[("k", &long)], None)).await), Code::InvalidArgument);
    let listed = clients
        .content()
        .list(ListContentRequest { filters: vec!["labels.c==d,size==3000000".into()] })
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(listed.info.len(), 1);
    let bad = ListContentRequest { filters: vec!["labels.c==".into()] };
    assert_eq!(code(clients.content().list(bad).await), Code::InvalidArgument);
    clients.content().delete(DeleteContentRequest { digest: name.clone() }).await.unwrap();
    assert_eq!(code(clients.content().info(info(&name)).await), Code::NotFound);
    assert_eq!(code(clients.get(&name).await), Code::NotFound);
    let again = DeleteContentRequest { digest: name };
    assert_eq!(code(clients.content().delete(again).await), Code::NotFound);
    assert_eq!(code(clients.content().info(info("sha256:../../x")).await), Code::InvalidArgument);
}

#[tokio::test]
async fn an_interrupted_write_goes_on_where_it_ended_even_after_a_kill() {
    let mut daemon = Daemon::start();
    let clients = daemon.clients().await;
    let data = noise(2, 2_000_000);
    let name = digest(&data);
    let (mut first, _) = Conversation::open(&clients, "r", &name).await.unwrap();
    first.write(0, &data[..700_000]).await.unwrap();
    drop(first);
    let (mut second, stat) = loop {
        match Conversation::open(&clients, "r", &name).await {
            // The daemon has yet to notice that the first client left.
            Err(status) if status.code() == Code::Unavailable => {}
            opened => break opened.unwrap(),
        }
    };
    assert_eq!((stat.offset, stat.digest.as_str()), (700_000, digest(&data[..700_000]).as_str()));
    second.write(700_000, &data[700_000..900_000]).await.unwrap();
    daemon.kill();
    daemon.restart();
    let clients = daemon.clients().await;
    let status = StatusRequest { r#ref: "r".into() };
    let status = clients.content().status(status).await.unwrap().into_inner().status.unwrap();
    assert_eq!((status.offset, status.expected.as_str()), (900_000, name.as_str()));
    let (mut third, stat) = Conversation::open(&clients, "r", &name).await.unwrap();
    assert_eq!(stat.offset, 900_000);
    third.write(900_000, &data[900_000..]).await.unwrap();
    let done = third.commit(data.len(), &name).await.unwrap();
    assert_eq!((done.offset, done.digest.as_str()), (2_000_000, name.as_str()));
    assert_eq!(clients.get(&name).await.unwrap(), data);
    let statuses = ListStatusesRequest { filters: vec![] };
    assert!(clients.content().list_statuses(statuses).await.unwrap().into_inner().statuses.is_empty());
}

#[tokio::test]
async fn a_status_tells_the_digest_and_the_time_of_the_last_write() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let at = |answer: &WriteContentResponse| {
        let at = answer.updated_at.unwrap();
        (at.seconds, at.nanos)
    };
    let stat = || WriteContentRequest { action: WriteAction::Stat.into(), ..Default::default() };
    let (mut writer, opened) = Conversation::open(&clients, "r", "").await.unwrap();
    assert_eq!(
        (opened.offset, opened.digest.as_str()),
        (0, digest(b"").as_str()),
        "nothing has a digest, too"
    );
    let written = writer.write(0, b"half").await.unwrap();
    assert!(at(&written) > at(&opened));
    let asked = writer.say(stat()).await.unwrap();
    assert_eq!((at(&asked), asked.digest.as_str()), (at(&written), digest(b"half").as_str()));
    drop(writer);
    let (_writer, reopened) = loop {
        match Conversation::open(&clients, "r", "").await {
            Err(status) if status.code() == Code::Unavailable => {}
            opened => break opened.unwrap(),
        }
    };
    assert_eq!((at(&reopened), reopened.started_at), (at(&written), opened.started_at));
}

#[tokio::test]
async fn misuse_has_the_codes_that_clients_test_for() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    let data = noise(3, 100_000);
    let name = digest(&data);
    let (mut writer, _) = Conversation::open(&clients, "r", "").await.unwrap();
    let locked = Conversation::open(&clients, "r", "").await.map(|_| ());
    assert_eq!(code(locked), Code::Unavailable);
    let abort = AbortRequest { r#ref: "r".into() };
    assert_eq!(code(clients.content().abort(abort.clone()).await), Code::Unavailable);
    writer.write(0, &data).await.unwrap();
    assert_eq!(code(writer.write(5, b"x").await), Code::OutOfRange);
    let open_again = || async {
        loop {
            match Conversation::open(&clients, "r", "").await {
                Err(status) if status.code() == Code::Unavailable => {}
                opened => break opened.unwrap(),
            }
        }
    };
    let (mut writer, stat) = open_again().await;
    assert_eq!(stat.offset, 100_000);
    assert_eq!(code(writer.commit(100_000, &digest(b"other")).await), Code::FailedPrecondition);
    let (mut writer, _) = open_again().await;
    assert_eq!(code(writer.commit(99_999, "").await), Code::OutOfRange, "not at its end");
    let (mut writer, _) = open_again().await;
    let too_small = WriteContentRequest {
        action: WriteAction::Commit.into(),
        total: 99_999,
        offset: 100_000,
        ..Default::default()
    };
    assert_eq!(code(writer.say(too_small).await), Code::FailedPrecondition);
    let (mut writer, _) = open_again().await;
    let wrong_size = WriteContentRequest {
        action: WriteAction::Commit.into(),
        offset: 100_000,
        total: 100_001,
        ..Default::default()
    };
    assert_eq!(code(writer.say(wrong_size).await), Code::FailedPrecondition);
    let (mut writer, _) = open_again().await;
    writer.write(0, &data[..50_000]).await.unwrap();
    writer.write(50_000, &data[50_000..]).await.unwrap();
    writer.commit(100_000, &name).await.unwrap();
    assert_eq!(code(Conversation::open(&clients, "r2", &name).await.map(|_| ())), Code::AlreadyExists);
    assert_eq!(code(clients.put("r3", &data, &[]).await), Code::AlreadyExists);
    let statuses = ListStatusesRequest { filters: vec![] };
    assert!(clients.content().list_statuses(statuses).await.unwrap().into_inner().statuses.is_empty());
    assert_eq!(code(clients.content().abort(abort).await), Code::NotFound);
    let unnamed = clients.in_namespace("");
    assert_eq!(code(unnamed.content().info(info(&name)).await), Code::FailedPrecondition);
    let malformed = clients.in_namespace("a/b");
    assert_eq!(code(malformed.content().info(info(&name)).await), Code::InvalidArgument);
    assert_eq!(code(Conversation::open(&clients, "", "").await.map(|_| ())), Code::InvalidArgument);
    assert_eq!(code(Conversation::open(&clients, "r", "sha256:1").await.map(|_| ())), Code::InvalidArgument);
}

#[tokio::test]
async fn namespaces_share_bytes_but_not_visibility() {
    let daemon = Daemon::start();
    let (one, two) = (daemon.clients().await, daemon.clients().await.in_namespace("two"));
    let data = noise(4, 500_000);
    let name = one.put("r", &data, &[("containerd.io/gc.root", "x")]).await.unwrap();
    assert_eq!(code(two.get(&name).await), Code::NotFound);
    // Who knows the digest need not send the bytes again.
    let (mut writer, stat) = Conversation::open(&two, "r", &name).await.unwrap();
    assert_eq!(stat.offset, 500_000);
    writer.commit(500_000, &name).await.unwrap();
    assert_eq!(two.get(&name).await.unwrap(), data);
    one.content().delete(DeleteContentRequest { digest: name.clone() }).await.unwrap();
    // The lease-less blob of namespace two goes with the collection; its file only with the last record.
    assert!(two.digests().await.len() <= 1);
    one.collect().await;
    assert_eq!(code(two.get(&name).await), Code::NotFound);
    assert_eq!(std::fs::read_dir(daemon.root().join("content/blobs/sha256")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_written_under_a_lease_is_held_by_it() {
    let daemon = Daemon::start();
    let clients = daemon.clients().await;
    clients.leases().create(CreateRequest { id: "l".into(), ..Default::default() }).await.unwrap();
    let held = clients.with_lease("l");
    let name = held.put("r", b"held", &[]).await.unwrap();
    let free = clients.put("r", b"free", &[]).await.unwrap();
    let (mut open, _) = Conversation::open(&held, "open", "").await.unwrap();
    open.write(0, b"part").await.unwrap();
    clients.collect().await;
    assert_eq!(clients.digests().await, std::slice::from_ref(&name));
    assert_eq!(code(clients.get(&free).await), Code::NotFound);
    let resources = clients.leases().list_resources(ListResourcesRequest { id: "l".into() }).await.unwrap();
    let mut resources: Vec<_> =
        resources.into_inner().resources.into_iter().map(|found| (found.r#type, found.id)).collect();
    resources.sort();
    assert_eq!(resources, [("content".to_owned(), name), ("ingests".to_owned(), "open".to_owned())]);
    assert_eq!(code(clients.with_lease("none").put("x", b"x", &[]).await), Code::NotFound);
}

#[tokio::test]
async fn a_blob_over_the_limit_is_refused_by_name() {
    let daemon = Daemon::with_config("[content]\nmax_blob_bytes = 1000\nmax_writers = 2");
    let clients = daemon.clients().await;
    let status = clients.put("r", &noise(1, 1001), &[]).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("content.max_blob_bytes = 1000"), "{}", status.message());
    let mut open = Vec::new();
    for reference in ["a", "b"] {
        open.push(Conversation::open(&clients, reference, "").await.unwrap());
    }
    let status = Conversation::open(&clients, "c", "").await.map(|_| ()).unwrap_err();
    assert!(status.message().contains("content.max_writers = 2"), "{}", status.message());
}

#[tokio::test]
async fn what_was_acknowledged_survives_kills_at_random_moments() {
    let mut daemon = Daemon::start();
    let mut acknowledged = Vec::new();
    for round in 0..15u64 {
        let clients = daemon.clients().await;
        let (sender, mut committed) = mpsc::unbounded_channel();
        let writers: Vec<_> = (0..3u64)
            .map(|writer| {
                let (clients, sender) = (clients.clone(), sender.clone());
                tokio::spawn(async move {
                    for i in 0.. {
                        let seed = round << 32 | writer << 24 | i;
                        let data = noise(seed, 1 + usize::try_from(seed % 1_500_000).unwrap());
                        let written =
                            clients.put(&format!("r{seed}"), &data, &[("containerd.io/gc.root", "x")]).await;
                        if written.is_err() {
                            return;
                        }
                        sender.send((seed, data.len())).unwrap();
                    }
                })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(30 + round * 53 % 250)).await;
        daemon.kill();
        for writer in writers {
            writer.await.unwrap();
        }
        drop(sender);
        while let Some(done) = committed.recv().await {
            acknowledged.push(done);
        }
        daemon.restart();
        let clients = daemon.clients().await;
        for &(seed, length) in &acknowledged {
            let data = noise(seed, length);
            assert_eq!(clients.get(&digest(&data)).await.unwrap(), data, "round {round}, seed {seed}");
        }
    }
    assert!(acknowledged.len() > 15, "only {} blobs", acknowledged.len());
    // Every file has a record, or goes with the next collection.
    let clients = daemon.clients().await;
    clients.collect().await;
    let files = std::fs::read_dir(daemon.root().join("content/blobs/sha256")).unwrap().count();
    assert_eq!(files, clients.digests().await.len());
}
