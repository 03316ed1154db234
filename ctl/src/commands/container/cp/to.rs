//! Into a container.

use std::path::{Path, PathBuf};

use longshore_proto::longshore::engine::v1::copy_to_request::What;
use longshore_proto::longshore::engine::v1::{CopyToRequest, CopyToStart, PathStat, StatPathRequest};

use super::Links;
use super::from::{is_folder, is_link};
use super::pack::pack;
use super::plan::{self, Side};
use crate::client::Context;
use crate::failure::{Failure, errno_text};
use crate::output::stream;

/// Returns how many bytes there were. `own`: the files become the container's user's.
pub async fn copy(
    context: &Context,
    source: &str,
    container: &str,
    path: &str,
    links: Links,
    own: bool,
) -> Result<u64, Failure> {
    let destination = look_up(context, container, path).await?;
    let message = |what| CopyToRequest { what: Some(what) };
    let start =
        |path: String| message(What::Start(CopyToStart { container: container.to_string(), path, own }));
    let data = move |bytes| message(What::Data(bytes));
    let mut client = context.containers().await?;
    if source == "-" {
        if !destination.is_folder {
            let shown = format!("{container}:{path}");
            return Err(Failure::message(format!("destination {shown:?} must be a directory")));
        }
        let (requests, sent) = stream::upload(start(destination.path), data, |mut out| {
            std::io::copy(&mut std::io::stdin().lock(), &mut out)?;
            Ok(())
        });
        client.copy_to(requests).await?;
        return sent.finish().await;
    }
    let (local, files) = local(source, links)?;
    let target = plan::plan(&local, &destination)?;
    let base = target.rename.unwrap_or_else(|| plan::split_entry(&local.path).1);
    // `DIR/.` into a folder: what is in it.
    let base = if plan::asserts_contents(&local.path) && destination.exists { ".".to_string() } else { base };
    let (requests, sent) = stream::upload(start(target.folder), data, move |out| pack(&files, &base, out));
    let answer = client.copy_to(requests).await;
    match (answer, sent.finish().await) {
        // The files could not be read: what the daemon says of their end says less.
        (_, Err(failure)) if !matches!(failure, Failure::Silent { .. }) => Err(failure),
        (answer, sent) => answer.map_err(Failure::from).and(sent),
    }
}

/// What is at the destination; a link there is followed.
async fn look_up(context: &Context, container: &str, path: &str) -> Result<Side, Failure> {
    let mut client = context.containers().await?;
    let mut at = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
    let mut ask = async |path: &str| -> Result<Option<PathStat>, Failure> {
        let request = StatPathRequest { container: container.to_string(), path: path.to_string() };
        match client.stat_path(request).await.map_err(Failure::from) {
            Ok(stat) => Ok(Some(stat.into_inner())),
            // Also a container that is not there: the copy itself says so.
            Err(failure) if failure.is_not_found() || is_no_folder(&failure) => Ok(None),
            Err(failure) => Err(failure),
        }
    };
    let mut stat = ask(&at).await?;
    if let Some(link) = stat.as_ref().filter(|stat| is_link(stat)) {
        at.clone_from(&link.link_target);
        stat = ask(&at).await?;
    }
    let is_folder = stat.as_ref().is_some_and(is_folder);
    Ok(Side { path: at, exists: stat.is_some(), is_folder, rename: None })
}

/// A component in the middle of the path is a file.
fn is_no_folder(failure: &Failure) -> bool {
    failure.to_string().to_ascii_lowercase().contains("not a directory")
}

/// The local side, and the files to read.
fn local(source: &str, links: Links) -> Result<(Side, PathBuf), Failure> {
    let path = plan::absolute(source)?;
    let refuse = |why: &str| Err(Failure::message(why.to_string()));
    let lstat = |path: &Path| {
        std::fs::symlink_metadata(path)
            .map_err(|error| Failure::message(format!("lstat {}: {}", path.display(), errno_text(&error))))
    };
    let mut files = PathBuf::from(plan::clean(&path));
    let mut meta = lstat(&files)?;
    let mut rename = None;
    if meta.is_symlink() && (links == Links::Followed || plan::asserts_folder(&path)) {
        rename = Some(plan::split_entry(&path).1);
        files = files.canonicalize().map_err(|error| {
            Failure::message(format!("lstat {}: {}", files.display(), errno_text(&error)))
        })?;
        meta = lstat(&files)?;
    }
    if plan::asserts_folder(&path) && !meta.is_dir() {
        return refuse("not a directory");
    }
    Ok((Side { path, exists: true, is_folder: meta.is_dir(), rename }, files))
}
