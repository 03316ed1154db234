//! The file of `--cidfile`: made before the container is, so that no container runs whose id cannot be written, and removed
//! if none was made.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::failure::Failure;

pub struct Cidfile<'a> {
    path: &'a Path,
    file: File,
    written: bool,
}

impl<'a> Cidfile<'a> {
    /// Refuses a file that is there already: another container's.
    pub fn new(path: &'a Path) -> Result<Cidfile<'a>, Failure> {
        match File::create_new(path) {
            Ok(file) => Ok(Cidfile { path, file, written: false }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Failure::message(format!(
                "container ID file found, make sure the other container isn't running or delete {}",
                path.display()
            ))),
            Err(error) => Err(Failure::file("create", path, &error)),
        }
    }

    pub fn write(&mut self, id: &str) -> Result<(), Failure> {
        self.written = true;
        self.file.write_all(id.as_bytes()).map_err(|error| Failure::file("write", self.path, &error))
    }
}

impl Drop for Cidfile<'_> {
    fn drop(&mut self) {
        if !self.written {
            // Best effort: an empty file says that there is no container.
            let _ = std::fs::remove_file(self.path);
        }
    }
}
