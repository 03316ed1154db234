//! Opening the store: what a crash left is cleaned up, a damaged store is rebuilt from the export, and one that
//! outgrew its records is compacted.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Failure, export, key, sled_error};
use crate::error::{Error, Result};

/// How the store is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most bytes of sled's cache; an idle store uses a fraction.
    pub cache_bytes: u64,
    /// From this size of its files on, the store is compacted at opening if they hold four times the live data.
    pub compact_over_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 16 * 1024 * 1024, compact_over_bytes: 32 * 1024 * 1024 }
    }
}

/// How long a store that is being let go of is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes kept for opening the store on a full disk.
const BALLAST: u64 = 2 * 1024 * 1024;
/// Names the schema; a store with a newer one is not opened, one with an older is given this one. In the first, all records
/// were JSON.
const SCHEMA: u32 = 2;
const SCHEMA_KEY: [u8; 2] = [key::OWN, 1];

pub fn store_file(directory: &Path) -> PathBuf {
    store(directory).join("db")
}

fn store(directory: &Path) -> PathBuf {
    directory.join("sled")
}

fn fresh(directory: &Path) -> PathBuf {
    directory.join("sled.new")
}

/// There since a damaged store was rebuilt, until somebody removes it: what was made after the export is on the disk and not
/// in the store, and would pass for rubbish.
pub fn rebuilt_mark(directory: &Path) -> PathBuf {
    directory.join("rebuilt")
}

pub fn open(directory: &Path, options: &Options) -> Result<sled::Db> {
    let path = store(directory);
    fs::create_dir_all(&path).map_err(|source| Error::io("creating the metadata folder", &path, source))?;
    remove_folder(&fresh(directory))?;
    remove_generating(&path)?;
    remove_ballast(directory)?;
    let db = match open_sled(&path, options).and_then(|db| verify(&db, directory).map(|()| db)) {
        Ok(db) => db,
        // The disk is full or broken, or someone else has the store: nothing says that it is damaged.
        Err(error @ (Error::FailedPrecondition { .. } | Error::Io { .. } | Error::DiskFull { .. })) => {
            return Err(error);
        }
        Err(error) => rebuild(directory, options, &error)?,
    };
    let db = compact(directory, options, db)?;
    write_schema(&db)?;
    add_ballast(directory);
    Ok(db)
}

fn ballast(directory: &Path) -> PathBuf {
    directory.join("ballast")
}

/// sled writes when it opens: on a full disk the ballast makes the room.
fn remove_ballast(directory: &Path) -> Result<()> {
    match fs::remove_file(ballast(directory)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("making room for the metadata store in", directory, error))
        }
        _ => Ok(()),
    }
}

/// Puts the ballast in place, if it is not there and there is room.
pub fn add_ballast(directory: &Path) {
    let path = ballast(directory);
    if path.exists() {
        return;
    }
    let filled = fs::File::create(&path).and_then(|file| {
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, BALLAST).map_err(std::io::Error::from)
    });
    if let Err(error) = filled {
        tracing::debug!("no ballast beside the metadata store: {error}");
        // Whatever is left of it is as good as none.
        let _ = fs::remove_file(&path);
    }
}

/// A kill while sled writes a snapshot leaves this file, which the next opening would prefer and fail on.
fn remove_generating(path: &Path) -> Result<()> {
    let at = |source| Error::io("reading the metadata folder", path, source);
    for entry in fs::read_dir(path).map_err(at)? {
        let entry = entry.map_err(at)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            let partial = entry.path();
            fs::remove_file(&partial)
                .map_err(|source| Error::io("removing sled's unfinished snapshot", partial, source))?;
        }
    }
    Ok(())
}

/// sled panics on some damage: that is told as an error, too. It also lets go of its files' lock only when its own
/// threads have ended, which may be a moment after the store was dropped.
fn open_sled(path: &Path, options: &Options) -> Result<sled::Db> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(options.cache_bytes)
        .mode(sled::Mode::LowSpace)
        .flush_every_ms(None);
    let until = Instant::now() + LOCK_TIMEOUT;
    loop {
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Err(error)) if is_locked(&error) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(Err(error)) if is_locked(&error) => {
                return Err(Error::precondition("metadata store", format!("is locked: {error}")));
            }
            Ok(Err(sled::Error::Io(source))) if source.raw_os_error().is_some() => {
                return Err(Error::io("opening the metadata store in", path, source));
            }
            Ok(opened) => return opened.map_err(sled_error("opening")),
            Err(_) => {
                let source = Failure::new("sled panicked on its files");
                return Err(Error::Metadata { doing: "opening", source });
            }
        }
    }
}

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("lock"))
}

fn is_readable(schema: &[u8]) -> bool {
    schema.try_into().is_ok_and(|bytes| u32::from_le_bytes(bytes) <= SCHEMA)
}

/// Says which schema the store has from now on, however it came to be.
fn write_schema(db: &sled::Db) -> Result<()> {
    if db
        .get(SCHEMA_KEY)
        .map_err(sled_error("reading the schema"))?
        .is_some_and(|is| is == SCHEMA.to_le_bytes())
    {
        return Ok(());
    }
    db.insert(SCHEMA_KEY, &SCHEMA.to_le_bytes()).map_err(sled_error("writing the schema"))?;
    db.flush().map_err(sled_error("writing the schema")).map(drop)
}

/// Reads every record once, and checks that the store is not older than the export and its schema is known.
fn verify(db: &sled::Db, directory: &Path) -> Result<()> {
    let read_all = || -> Result<()> {
        for entry in db.iter() {
            entry.map_err(sled_error("verifying"))?;
        }
        Ok(())
    };
    catch_unwind(AssertUnwindSafe(read_all)).unwrap_or_else(|_| {
        Err(Error::Metadata { doing: "verifying", source: Failure::new("sled panicked on its records") })
    })?;
    check_number(db, directory)?;
    match db.get(SCHEMA_KEY).map_err(sled_error("reading the schema"))? {
        Some(stored) if !is_readable(&stored) => Err(Error::precondition(
            "metadata store",
            "written by a newer longshored: start that version, or give this one another --root",
        )),
        _ => Ok(()),
    }
}

/// sled opens a damaged file as far as it can be read, possibly as an empty store: its number tells.
fn check_number(db: &sled::Db, directory: &Path) -> Result<()> {
    let Some(bytes) = read_export(directory)? else { return Ok(()) };
    match export::decode(&bytes) {
        Ok(records) if export::number_of(&records) > export::number(db)? => {
            let why = "it is older than its export: sled dropped what it could not read";
            Err(Error::Damaged { what: "the metadata store".into(), why: why.into() })
        }
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::warn!("{error}; a new one is written");
            Ok(())
        }
    }
}

fn read_export(directory: &Path) -> Result<Option<Vec<u8>>> {
    let path = export::path(directory);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::io("reading the metadata export", path, source)),
    }
}

/// The damaged store is set aside, never deleted; the export takes its place, or an empty store if there is none.
fn rebuild(directory: &Path, options: &Options, cause: &Error) -> Result<sled::Db> {
    let bytes = read_export(directory)?;
    let records = bytes.as_deref().map(export::decode).transpose().map_err(|export| {
        let why = format!(
            "{cause}; and {export}: restore {} from a backup, or move the folder away to begin with an empty store",
            directory.display()
        );
        Error::precondition("metadata store", why)
    })?;
    let records = records.unwrap_or_default();
    let written = fs::metadata(export::path(directory)).and_then(|metadata| metadata.modified());
    let written = written.ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
    fill(&fresh(directory), options, &records)?;
    let mark = rebuilt_mark(directory);
    fs::write(&mark, format!("{cause}\n")).map_err(|source| Error::io("writing", &mark, source))?;
    sync_folder(directory)?;
    let aside = set_aside(directory)?;
    fs::rename(fresh(directory), store(directory)).map_err(|source| {
        Error::io("putting the rebuilt metadata store in place of", aside.as_path(), source)
    })?;
    sync_folder(directory)?;
    tracing::error!(
        damaged = %aside.display(), records = records.len(), exported = written.map(|at| at.to_string()),
        "the metadata store was damaged ({cause}); it was rebuilt from the last export: changes made after that \
         export are lost"
    );
    open_sled(&store(directory), options)
}

fn set_aside(directory: &Path) -> Result<PathBuf> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let aside = directory.join(format!("damaged-{since}"));
    fs::rename(store(directory), &aside)
        .map_err(|source| Error::io("setting the damaged metadata store aside as", &aside, source))?;
    Ok(aside)
}

fn fill(path: &Path, options: &Options, records: &[(&[u8], &[u8])]) -> Result<()> {
    remove_folder(path)?;
    let db = open_sled(path, options)?;
    for chunk in records.chunks(1000) {
        let mut batch = sled::Batch::default();
        for (key, value) in chunk {
            batch.insert(*key, *value);
        }
        db.apply_batch(batch).map_err(sled_error("importing records"))?;
    }
    db.flush().map_err(sled_error("importing records"))?;
    drop(db);
    let file = path.join("db");
    fs::File::open(&file)
        .and_then(|file| file.sync_all())
        .map_err(|source| Error::io("writing the metadata store", file, source))?;
    sync_folder(path)
}

/// sled's file can grow to several times what it holds: then its records move to a new one.
fn compact(directory: &Path, options: &Options, db: sled::Db) -> Result<sled::Db> {
    let size = db.size_on_disk().map_err(sled_error("measuring"))?;
    if size < options.compact_over_bytes {
        return Ok(db);
    }
    let bytes = export::encode(&db)?;
    if size < bytes.len() as u64 * 4 {
        return Ok(db);
    }
    drop(db);
    export::write(directory, &bytes)?;
    let records = export::decode(&bytes)?;
    let (current, fresh_path) = (store(directory), fresh(directory));
    fill(&fresh_path, options, &records)?;
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        &current,
        rustix::fs::CWD,
        &fresh_path,
        rustix::fs::RenameFlags::EXCHANGE,
    )
    .map_err(|error| {
        Error::io("exchanging the metadata store for its compacted form", &current, error.into())
    })?;
    sync_folder(directory)?;
    remove_folder(&fresh_path)?;
    tracing::info!(before = size, live = bytes.len(), "compacted the metadata store");
    open_sled(&current, options)
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("removing", path, source))
        }
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> Result<()> {
    fs::File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| Error::io("syncing the folder", path, source))
}
