//! The store against kills, damage and growth.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::namespaces::Namespace;

fn namespace() -> Namespace {
    Namespace::parse("test").unwrap()
}

fn open(path: &Path) -> Db {
    Db::open(path, &Options::default()).unwrap()
}

#[tokio::test]
async fn batches_are_seen_whole_and_reads_see_their_own_changes() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path());
    let ns = namespace();
    db.write(|tx| {
        tx.put(&tables::SETTINGS, &ns, "a", &"1".to_owned())?;
        tx.put(&tables::SETTINGS, &ns, "b", &"2".to_owned())?;
        assert_eq!(tx.get(&tables::SETTINGS, &ns, "a")?.as_deref(), Some("1"));
        assert_eq!(tx.list(&tables::SETTINGS, &ns)?.len(), 2);
        tx.delete(&tables::SETTINGS, &ns, "a")?;
        assert_eq!(tx.list(&tables::SETTINGS, &ns)?.len(), 1);
        Ok(())
    })
    .await
    .unwrap();
    let refused: crate::error::Result<()> = db
        .write(|tx| {
            tx.put(&tables::SETTINGS, &ns, "c", &"3".to_owned())?;
            Err(crate::error::Error::not_found("thing", "x"))
        })
        .await;
    assert!(refused.is_err());
    let keys: Vec<String> = db.list(&tables::SETTINGS, &ns).unwrap().into_iter().map(|row| row.key).collect();
    assert_eq!(keys, ["b"]);
}

#[tokio::test]
async fn long_records_are_kept_in_pieces_and_leave_none_behind() {
    let folder = tempfile::tempdir().unwrap();
    let ns = namespace();
    let long = "x".repeat(300_000);
    {
        let db = open(folder.path());
        db.write(|tx| tx.put(&tables::SETTINGS, &ns, "long", &long)).await.unwrap();
        db.close().unwrap();
    }
    let db = open(folder.path());
    assert_eq!(db.get(&tables::SETTINGS, &ns, "long").unwrap().as_ref(), Some(&long));
    db.write(|tx| tx.put(&tables::SETTINGS, &ns, "long", &"short".to_owned())).await.unwrap();
    assert_eq!(db.list(&tables::SETTINGS, &ns).unwrap()[0].record, "short");
    db.write(|tx| tx.delete(&tables::SETTINGS, &ns, "long").map(drop)).await.unwrap();
    let mut left = 0;
    tx::Source::raw_scan(&db, &[key::PIECE], &mut |_, _| {
        left += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(left, 0);
    assert!(!folder.path().join("sled/blobs").read_dir().is_ok_and(|mut files| files.next().is_some()));
}

#[tokio::test]
async fn a_damaged_store_is_rebuilt_from_the_export_and_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let ns = namespace();
    {
        let db = open(folder.path());
        db.write(|tx| {
            (0..500).try_for_each(|i| tx.put(&tables::SETTINGS, &ns, &format!("k{i}"), &"v".repeat(200)))
        })
        .await
        .unwrap();
        db.close().unwrap();
    }
    let file = folder.path().join("sled/db");
    let length = std::fs::metadata(&file).unwrap().len();
    std::fs::write(&file, vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
    std::fs::write(folder.path().join("sled/conf"), b"nonsense").unwrap();
    let db = open(folder.path());
    assert_eq!(db.list(&tables::SETTINGS, &ns).unwrap().len(), 500);
    let aside = std::fs::read_dir(folder.path())
        .unwrap()
        .any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("damaged-"));
    assert!(aside);
    // Until somebody has looked, over further starts.
    db.close().unwrap();
    drop(db);
    let db = open(folder.path());
    let mark = db.rebuilt().unwrap();
    db.close().unwrap();
    drop(db);
    std::fs::remove_file(mark).unwrap();
    assert_eq!(open(folder.path()).rebuilt(), None);
}

#[tokio::test]
async fn a_store_that_outgrew_its_records_is_compacted() {
    let folder = tempfile::tempdir().unwrap();
    let ns = namespace();
    {
        let db = open(folder.path());
        for round in 0..60 {
            db.write_lazy(|tx| {
                (0..100).try_for_each(|i| {
                    tx.put(&tables::SETTINGS, &ns, &format!("k{i}"), &format!("{round}").repeat(1500))
                })
            })
            .unwrap();
            db.sync().await.unwrap();
        }
        db.write(|tx| {
            (1..100).try_for_each(|i| tx.delete(&tables::SETTINGS, &ns, &format!("k{i}")).map(drop))
        })
        .await
        .unwrap();
        db.close().unwrap();
    }
    let size = || std::fs::metadata(folder.path().join("sled/db")).unwrap().len();
    let before = size();
    let db =
        Db::open(folder.path(), &Options { compact_over_bytes: 1024 * 1024, ..Options::default() }).unwrap();
    assert_eq!(db.list(&tables::SETTINGS, &ns).unwrap().len(), 1);
    assert!(size() < before / 2, "{before} → {}", size());
    assert!(!folder.path().join("sled.new").exists());
}

#[test]
fn a_damaged_export_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let db = sled::Config::new().path(folder.path().join("s")).open().unwrap();
    db.insert(b"k", b"v").unwrap();
    let bytes = export::encode(&db).unwrap();
    assert_eq!(export::decode(&bytes).unwrap(), [(&b"k"[..], &b"v"[..])]);
    for cut in [0, 10, bytes.len() - 1] {
        assert!(export::decode(&bytes[..cut]).is_err());
    }
    let mut flipped = bytes.clone();
    flipped[25] ^= 1;
    assert!(export::decode(&flipped).is_err());
}

/// sled itself; whoever had it open before lets go of it in a moment.
fn raw(path: &Path) -> sled::Db {
    for _ in 0..500 {
        if let Ok(sled) = sled::Config::new().path(path).open() {
            return sled;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} stays locked", path.display());
}

/// A store as the first schema left it: all records were JSON, long ones in pieces.
fn first_schema(path: &Path, records: &[(u8, &str, String)]) {
    let sled = raw(path);
    sled.insert([key::OWN, 1], &1u32.to_le_bytes()).unwrap();
    for (tag, name, json) in records {
        let full = key::record(*tag, &namespace(), name).unwrap();
        let (head, further) = key::cut(record::Form::Json, json.as_bytes());
        for (index, piece) in (0u16..).zip(further) {
            sled.insert(key::piece(&full, index), piece).unwrap();
        }
        sled.insert(full, head).unwrap();
    }
    sled.flush().unwrap();
}

fn old_records() -> Vec<(u8, &'static str, String)> {
    let times = r#""created_at":"2024-01-02T03:04:05.000000006Z","updated_at":"2024-01-02T03:04:06Z""#;
    let spec = "x".repeat(10_000);
    let container = format!(
        r#"{{"labels":{{"a":"b"}},"image":"i","runtime":{{"name":"r","options":{{"type_url":"o","value":"\u0000hex:00ff"}}}},
        "spec":{{"type_url":"s","value":"{spec}"}},"snapshotter":"overlayfs","snapshot_key":"k",{times},
        "extensions":{{"e":{{"type_url":"t","value":"v"}}}}}}"#
    );
    let digest = format!("sha256:{}", "0".repeat(64));
    let image = format!(r#"{{"target":{{"media_type":"m","digest":"{digest}","size":3}},{times}}}"#);
    let blob = format!(r#"{{"size":9,"labels":{{"c":"d"}},{times}}}"#);
    vec![(4, "box", container), (3, "busybox", image), (2, "sha256:x", blob), (9, "uuid", r#""u""#.into())]
}

/// Reads each of [`old_records`] as a record and as a message.
fn check_old_records(db: &Db) {
    use longshore_proto::containerd::services as wire;
    use prost::Message;
    let ns = namespace();
    let container = db.get(&tables::CONTAINERS, &ns, "box").unwrap().unwrap();
    assert_eq!(container.runtime.options.as_ref().unwrap().value, b"\x00\xff"[..]);
    assert_eq!(container.spec.as_ref().unwrap().value.len(), 10_000);
    assert_eq!((container.created_at.subsec_nanosecond(), container.labels["a"].as_str()), (6, "b"));
    let message = db.message(&tables::CONTAINERS, &ns, "box").unwrap().unwrap();
    let message = wire::containers::v1::Container::decode(&message[..]).unwrap();
    assert_eq!((message.id.as_str(), message.spec.unwrap().value.len()), ("box", 10_000));
    assert_eq!(message.extensions["e"].value, b"v");
    let messages = db.messages(&tables::IMAGES, &ns, None, 10).unwrap();
    let image = wire::images::v1::Image::decode(&messages[0].1[..]).unwrap();
    assert_eq!((image.name.as_str(), image.target.unwrap().size), ("busybox", 3));
    assert_eq!(db.get(&tables::IMAGES, &ns, "busybox").unwrap().unwrap().target.size, 3);
    let blob = db.message(&tables::BLOBS, &ns, "sha256:x").unwrap().unwrap();
    let blob = wire::content::v1::Info::decode(&blob[..]).unwrap();
    assert_eq!((blob.digest.as_str(), blob.size, blob.labels["c"].as_str()), ("sha256:x", 9, "d"));
    assert_eq!(db.get(&tables::SETTINGS, &ns, "uuid").unwrap().unwrap(), "u");
}

#[tokio::test]
async fn records_of_the_first_schema_are_read_and_become_messages_when_they_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let ns = namespace();
    first_schema(&folder.path().join("sled"), &old_records());
    let db = open(folder.path());
    check_old_records(&db);
    let container = db.get(&tables::CONTAINERS, &ns, "box").unwrap().unwrap();
    db.write(|tx| tx.put(&tables::CONTAINERS, &ns, "box", &container)).await.unwrap();
    let full = key::record(4, &ns, "box").unwrap();
    let stored = tx::Source::raw_get(&db, &full).unwrap().unwrap();
    assert_eq!(key::head(&stored).unwrap().0, record::Form::Message);
    assert_eq!(db.get(&tables::CONTAINERS, &ns, "box").unwrap().unwrap(), container);
    check_old_records(&db);
    db.write(|tx| tx.delete(&tables::CONTAINERS, &ns, "box")).await.unwrap();
    let mut left = 0;
    let count = &mut |_: &[u8], _: &[u8]| {
        left += 1;
        Ok(())
    };
    tx::Source::raw_scan(&db, &[key::PIECE], count).unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn an_export_of_the_first_schema_becomes_a_store_of_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old");
    first_schema(&old, &old_records());
    let sled = raw(&old);
    export::count_up(&sled).unwrap();
    let bytes = export::encode(&sled).unwrap();
    export::write(folder.path(), &bytes).unwrap();
    // There is no store, so it is older than its export.
    {
        let db = open(folder.path());
        check_old_records(&db);
        let container = db.get(&tables::CONTAINERS, &namespace(), "box").unwrap().unwrap();
        db.write(|tx| tx.put(&tables::CONTAINERS, &namespace(), "box", &container)).await.unwrap();
        db.close().unwrap();
    }
    // What is rebuilt from an export of this schema is the same.
    std::fs::remove_dir_all(folder.path().join("sled")).unwrap();
    let db = open(folder.path());
    check_old_records(&db);
    let schema = tx::Source::raw_get(&db, &[key::OWN, 1]).unwrap();
    assert_eq!(schema.unwrap(), 2u32.to_le_bytes());
}

#[test]
fn a_store_of_a_newer_schema_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    {
        let sled = raw(&folder.path().join("sled"));
        sled.insert([key::OWN, 1], &3u32.to_le_bytes()).unwrap();
        sled.flush().unwrap();
    }
    let refused = Db::open(folder.path(), &Options::default()).map(drop).unwrap_err();
    assert!(refused.to_string().contains("newer longshored"), "{refused}");
}

/// The environment variable that turns this test binary into the process that is killed.
const CHILD: &str = "LONGSHORE_TEST_METADATA_CHILD";

/// Writes for ever, and says on stdout what was acknowledged.
#[tokio::test]
async fn child_that_writes_until_it_is_killed() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let db = std::sync::Arc::new(open(Path::new(&folder)));
    let ns = namespace();
    let start = db.list(&tables::SETTINGS, &ns).unwrap().len();
    let writers = (0..4).map(|writer| {
        let (db, ns) = (db.clone(), ns.clone());
        tokio::spawn(async move {
            for i in 0.. {
                let key = format!("{start}-{writer}-{i}");
                let value = key.repeat(1 + i % 400);
                db.write(|tx| tx.put(&tables::SETTINGS, &ns, &key, &value)).await.unwrap();
                println!("acknowledged {key} {}", 1 + i % 400);
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_kill_minus_nine() {
    use std::io::{BufRead, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 0..12u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["metadata::tests::child_that_writes_until_it_is_killed", "--exact", "--nocapture"])
            .env(CHILD, folder.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for line in lines.map_while(Result::ok) {
                if let Some((key, times)) =
                    line.strip_prefix("acknowledged ").and_then(|rest| rest.split_once(' '))
                {
                    seen.push((key.to_owned(), times.parse::<usize>().unwrap()));
                }
            }
            seen
        });
        std::thread::sleep(std::time::Duration::from_millis(60 + round * 37 % 200));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(reader.join().unwrap());
        let db = open(folder.path());
        let ns = namespace();
        for (key, times) in &acknowledged {
            let stored = db.get(&tables::SETTINGS, &ns, key).unwrap();
            assert_eq!(stored, Some(key.repeat(*times)), "round {round}");
        }
        db.close().unwrap();
    }
    assert!(acknowledged.len() > 50, "only {} writes", acknowledged.len());
}

#[tokio::test]
async fn a_snapshot_that_a_kill_left_unfinished_does_not_stop_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let ns = namespace();
    {
        let db = open(folder.path());
        db.write(|tx| tx.put(&tables::SETTINGS, &ns, "k", &"v".to_owned())).await.unwrap();
        db.close().unwrap();
    }
    let unfinished = folder.path().join("sled/snap.00000000000F4240.generating");
    std::fs::write(&unfinished, b"half").unwrap();
    let db = open(folder.path());
    assert_eq!(db.get(&tables::SETTINGS, &ns, "k").unwrap().as_deref(), Some("v"));
    assert!(!unfinished.exists());
}
