//! The folder that `Root` of runc's options asks for: `<Root>/<namespace>/<id>`, with the container's state as a runtime
//! would keep it. Our own runtime needs none; others look there.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::error::{Error, Result};

const STATE: &str = "state.json";

/// Makes the folder; on an error nothing of it is left.
pub fn make(root: &str, namespace: &str, id: &str, pid: i32, bundle: &Path) -> Result<PathBuf> {
    let root = Path::new(root);
    if !root.is_absolute() {
        return Err(Error::BadField { field: "Root", why: format!("{root:?} is not an absolute path") });
    }
    let folder = root.join(namespace).join(id);
    let failed =
        |source| Error::Io { doing: "make the runtime's state folder", path: folder.clone(), source };
    fs::create_dir_all(&folder).map_err(failed)?;
    let state = json!({ "ociVersion": "1.2.0", "id": id, "status": "created", "pid": pid, "bundle": bundle });
    fs::write(folder.join(STATE), state.to_string()).map_err(|source| {
        let _ = fs::remove_dir(&folder);
        failed(source)
    })?;
    Ok(folder)
}

/// Removes the folder; one that is not there is fine.
pub fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { doing: "remove the runtime's state folder", path: folder.into(), source })
        }
        _ => Ok(()),
    }
}
