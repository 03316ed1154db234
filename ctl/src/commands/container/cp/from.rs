//! Out of a container.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use longshore_proto::longshore::engine::v1::copy_from_response::What;
use longshore_proto::longshore::engine::v1::{PathStat, StatPathRequest};

use super::Links;
use super::plan::{self, Side};
use super::unpack::unpack;
use crate::client::Context;
use crate::failure::Failure;
use crate::output::stream;

const KIND: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

pub fn is_folder(stat: &PathStat) -> bool {
    stat.mode & KIND == FOLDER
}

pub fn is_link(stat: &PathStat) -> bool {
    stat.mode & KIND == LINK
}

/// Returns how many bytes there were.
pub async fn copy(
    context: &Context,
    container: &str,
    path: &str,
    destination: &str,
    links: Links,
) -> Result<u64, Failure> {
    let mut client = context.containers().await?;
    let request = |path: &str| StatPathRequest { container: container.to_string(), path: path.to_string() };
    let local = if destination == "-" { None } else { Some(plan::absolute(destination)?) };
    if let Some(local) = &local {
        check_output(local)?;
    }
    let mut source = Side { path: path.to_string(), ..Side::default() };
    if links == Links::Followed {
        let stat = client.stat_path(request(path)).await?.into_inner();
        if is_link(&stat) {
            // What the link leads to goes by the link's name.
            source.rename = Some(plan::split_entry(path).1);
            source.path = stat.link_target;
        }
    }
    let mut pieces = client.copy_from(request(&source.path)).await?.into_inner();
    let Some(What::Stat(stat)) = pieces.message().await?.and_then(|message| message.what) else {
        return Err(Failure::message("the daemon said nothing about the path"));
    };
    source.is_folder = is_folder(&stat);
    let next = |message: longshore_proto::longshore::engine::v1::CopyFromResponse| match message.what {
        Some(What::Data(data)) => data,
        _ => Vec::new(),
    };
    let Some(local) = local else { return stream::to_stdout(pieces, next).await };
    let target = plan::plan(&source, &looked_up(&local)?)?;
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    let next = move |message| {
        let data = next(message);
        counted.fetch_add(data.len() as u64, Ordering::Relaxed);
        data
    };
    let work = move |source| unpack(source, Path::new(&target.folder), target.rename.as_deref());
    stream::through(pieces, next, work).await?;
    Ok(count.load(Ordering::Relaxed))
}

/// The folder that the destination is in must be there.
fn check_output(path: &str) -> Result<(), Failure> {
    let (folder, _) = plan::split_entry(path);
    if !Path::new(&folder).is_dir() {
        return Err(Failure::message(format!("invalid output path: directory {folder:?} does not exist")));
    }
    Ok(())
}

fn looked_up(path: &str) -> Result<Side, Failure> {
    match std::fs::metadata(path) {
        Ok(meta) => Ok(Side { path: path.to_string(), exists: true, is_folder: meta.is_dir(), rename: None }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(Side { path: path.to_string(), ..Side::default() })
        }
        Err(error) => Err(Failure::file("stat", Path::new(path), &error)),
    }
}
