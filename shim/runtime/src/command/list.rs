//! `list`: the containers below the root.

use super::args::{Args, Flag, Reach};
use super::error::{Error, Result};
use super::state::{Shown, say};
use super::{Global, Verb, store};
use std::os::unix::fs::MetadataExt;

pub const FORMAT: Flag = Flag::value("format", "table (default) or json").or('f');

pub const VERB: Verb = Verb {
    name: "list",
    about: "list the containers below the root",
    operands: "",
    count: (0, 0),
    flags: &[FORMAT, Flag::switch("quiet", "show ids only").or('q')],
    reach: Reach::Anywhere,
    run,
};

fn run(global: &Global, args: &Args) -> Result<i32> {
    let shown = containers(global)?;
    if args.has("quiet") {
        for container in &shown {
            say(&container.id)?;
        }
        return Ok(0);
    }
    match args.filled("format") {
        None | Some("table") => table(&shown)?,
        Some("json") => {
            // No containers are null, as with runc.
            let text = match shown.is_empty() {
                true => Ok("null".to_owned()),
                false => serde_json::to_string(&shown),
            };
            say(&text.map_err(|source| Error::Json { path: "the output".into(), source })?)?;
        }
        Some(_) => return Err(Error::Config("invalid format option")),
    }
    Ok(0)
}

/// A container that cannot be read is named on stderr and left out.
fn containers(global: &Global) -> Result<Vec<Shown>> {
    let ids = match store::ids(&global.root) {
        // Nothing was ever made here.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !global.root_is_named => Vec::new(),
        other => other.map_err(Error::io("list the containers in", &global.root))?,
    };
    let mut shown = Vec::with_capacity(ids.len());
    for id in ids {
        let show = || {
            let folder = store::open(&global.root, &id)?;
            let state = folder.read()?;
            Shown::of(&folder, state, owner(&folder.path))
        };
        match show() {
            Ok(container) => shown.push(container),
            // Deleted meanwhile, or about to be made.
            Err(Error::NotExist) => {}
            Err(error) => eprintln!("load container {id}: {error}"),
        }
    }
    Ok(shown)
}

/// Whom a folder belongs to: by name if the host's passwd file has one.
fn owner(path: &std::path::Path) -> String {
    let Ok(uid) = std::fs::metadata(path).map(|metadata| metadata.uid()) else { return String::new() };
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

/// Columns of at least 12 characters, 3 between them.
fn table(shown: &[Shown]) -> Result<()> {
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let row = |c: &Shown| {
        let bundle = c.bundle.to_string_lossy().into_owned();
        [c.id.clone(), c.pid.to_string(), c.status.to_owned(), bundle, c.created.clone(), c.owner.clone()]
    };
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(shown.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len() + 3).max().unwrap_or(0).max(12);
    let widths: Vec<usize> = (0..5).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}"));
        }
        line.push_str(&row[5]);
        say(&line)?;
    }
    Ok(())
}
