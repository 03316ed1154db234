//! What becomes of names: where the files of an archive go, and what its first component is called there.

use std::path::{Component, Path, PathBuf};

use crate::failure::Failure;

/// A side of the copy.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// As it was given, made absolute; a slash or `/.` at its end is kept.
    pub path: String,
    pub exists: bool,
    pub is_folder: bool,
    /// Of a link that was followed: the name that its target goes by.
    pub rename: Option<String>,
}

/// Where the files go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The folder to unpack in.
    pub folder: String,
    /// The first component of every name becomes this one; `None`: they stay.
    pub rename: Option<String>,
}

/// docker's rules, for both directions.
pub fn plan(source: &Side, destination: &Side) -> Result<Plan, Failure> {
    let (folder, base) = split_entry(&destination.path);
    let renamed = |name: String| Ok(Plan { folder: folder.clone(), rename: Some(name) });
    match (destination.exists, destination.is_folder, source.is_folder) {
        (true, true, _) => Ok(Plan { folder: destination.path.clone(), rename: source.rename.clone() }),
        (true, false, true) => Err(Failure::message("cannot copy directory")),
        (true, false, false) | (false, _, true) => renamed(base),
        (false, _, false) if asserts_folder(&destination.path) => Err(Failure::message("no such directory")),
        (false, _, false) => renamed(base),
    }
}

/// Whether a path says by its end that it is a folder.
pub fn asserts_folder(path: &str) -> bool {
    path.ends_with('/') || path == "." || path.ends_with("/.")
}

/// Whether a path means what is in a folder, and not the folder.
pub fn asserts_contents(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

/// Folder and last component of a path.
pub fn split_entry(path: &str) -> (String, String) {
    let cleaned = clean(path);
    match cleaned.rsplit_once('/') {
        Some(("", "")) => ("/".to_owned(), ".".to_owned()),
        Some(("", name)) => ("/".to_owned(), name.to_owned()),
        Some((folder, name)) => (folder.to_owned(), name.to_owned()),
        None => (".".to_owned(), cleaned),
    }
}

/// Without `.`, `..` and slashes that mean nothing, by its words alone.
pub fn clean(path: &str) -> String {
    let mut cleaned = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::RootDir => cleaned.push("/"),
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                if !cleaned.pop() && !path.starts_with('/') {
                    cleaned.push("..");
                }
            }
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let text = cleaned.display().to_string();
    if text.is_empty() { ".".to_owned() } else { text }
}

/// A local path made absolute, its end kept.
pub fn absolute(path: &str) -> Result<String, Failure> {
    let whole = if path.starts_with('/') {
        path.to_owned()
    } else {
        let folder = std::env::current_dir()
            .map_err(|error| Failure::message(format!("the current directory is not known: {error}")))?;
        let folder = folder
            .into_os_string()
            .into_string()
            .map_err(|folder| Failure::message(format!("{} is not UTF-8", folder.display())))?;
        format!("{folder}/{path}")
    };
    let cleaned = clean(&whole);
    Ok(match () {
        () if path == "." || path.ends_with("/.") => format!("{}/.", cleaned.trim_end_matches('/')),
        () if path.ends_with('/') && cleaned != "/" => format!("{cleaned}/"),
        () => cleaned,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(path: &str, kind: &str) -> Side {
        Side { path: path.into(), exists: kind != "none", is_folder: kind == "folder", rename: None }
    }

    #[test]
    fn dockers_rules() {
        let go = |source: &str, from: &str, destination: &str, to: &str| {
            plan(&side(source, from), &side(destination, to))
                .map(|plan| (plan.folder, plan.rename))
                .map_err(|failure| failure.to_string())
        };
        assert_eq!(go("/a/f", "file", "/d", "folder"), Ok(("/d".into(), None)));
        assert_eq!(go("/a/f", "file", "/d/g", "file"), Ok(("/d".into(), Some("g".into()))));
        assert_eq!(go("/a/f", "file", "/d/new", "none"), Ok(("/d".into(), Some("new".into()))));
        assert_eq!(go("/a/f", "file", "/d/new/", "none"), Err("no such directory".into()));
        assert_eq!(go("/a", "folder", "/d/g", "file"), Err("cannot copy directory".into()));
        assert_eq!(go("/a", "folder", "/d/new/", "none"), Ok(("/d".into(), Some("new".into()))));
        assert_eq!(go("/a/.", "folder", "/new", "none"), Ok(("/".into(), Some("new".into()))));
    }

    #[test]
    fn paths() {
        assert_eq!(clean("/a/../b//c/."), "/b/c");
        assert_eq!(clean("/.."), "/");
        assert_eq!(split_entry("/a/b/"), ("/a".into(), "b".into()));
        assert_eq!(split_entry("/"), ("/".into(), ".".into()));
        assert_eq!(absolute("/a/./b/.").unwrap(), "/a/b/.");
        assert_eq!(absolute("/a/").unwrap(), "/a/");
        assert!(asserts_folder("a/.") && !asserts_folder("a/.b"));
    }
}
