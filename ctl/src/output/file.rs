//! Results that go to a file: what was there before stays until all of the new is written.

use std::fs::{File, FileType};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tonic::Streaming;

use crate::failure::{Failure, errno_text};

/// What is said of archives that would go to a terminal.
pub const ON_TERMINAL: &str = "cowardly refusing to save to a terminal. Use the -o flag or redirect";

/// Where a result goes.
pub enum Output {
    Stdout,
    File(Replacing),
}

/// A file that takes another one's place when it is whole.
pub struct Replacing {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    done: bool,
}

impl Output {
    /// Stdout, unless `path` names a file; a terminal is refused with `on_terminal`. `what` was being done, for messages.
    pub fn open(path: Option<&Path>, what: &str, on_terminal: &str) -> Result<Output, Failure> {
        match path {
            Some(path) => Replacing::create(path)
                .map(Output::File)
                .map_err(|why| Failure::message(format!("{what}: {why}"))),
            None if io::stdout().is_terminal() => Err(Failure::message(on_terminal)),
            None => Ok(Output::Stdout),
        }
    }

    /// Writes all that the daemon sends.
    pub async fn receive<T>(
        mut self,
        mut messages: Streaming<T>,
        data: impl Fn(T) -> Vec<u8>,
    ) -> Result<(), Failure> {
        while let Some(message) = messages.message().await? {
            self.write(&data(message))?;
        }
        self.finish()
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Output::Stdout => Ok(io::stdout().write_all(bytes)?),
            Output::File(file) => file.write(bytes),
        }
    }

    /// All is written.
    pub fn finish(self) -> Result<(), Failure> {
        match self {
            Output::Stdout => Ok(io::stdout().flush()?),
            Output::File(file) => file.finish(),
        }
    }
}

impl Replacing {
    fn create(path: &Path) -> Result<Replacing, String> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        if let Err(error) = std::fs::metadata(folder) {
            return Err(format!("invalid output path: stat {}: {}", folder.display(), errno_text(&error)));
        }
        // A link is followed: what it leads to is replaced.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if let Ok(metadata) = std::fs::metadata(&path)
            && let Some(what) = not_a_file(metadata.file_type())
        {
            return Err(format!("cannot write to a {what}"));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let temporary = folder.join(format!(".{name}.{}", std::process::id()));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&temporary);
        let file =
            file.map_err(|error| format!("creating {}: {}", temporary.display(), errno_text(&error)))?;
        Ok(Replacing { file, temporary, path, done: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| Failure::file("writing", &self.path, &error))
    }

    fn finish(mut self) -> Result<(), Failure> {
        let moved = self.file.sync_all().and_then(|()| std::fs::rename(&self.temporary, &self.path));
        moved.map_err(|error| Failure::file("writing", &self.path, &error))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Replacing {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

fn not_a_file(kind: FileType) -> Option<&'static str> {
    match kind {
        kind if kind.is_file() => None,
        kind if kind.is_dir() => Some("directory"),
        kind if kind.is_char_device() => Some("character device file"),
        kind if kind.is_block_device() => Some("block device file"),
        kind if kind.is_fifo() => Some("named pipe file"),
        kind if kind.is_socket() => Some("socket file"),
        _ => Some("special file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_when_all_is_written_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "old").unwrap();
        let open = || Output::open(Some(&path), "failed to save", "").map_err(|failure| failure.to_string());
        let mut given_up = open().unwrap();
        given_up.write(b"half").unwrap();
        drop(given_up);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        let mut whole = open().unwrap();
        whole.write(b"new").unwrap();
        whole.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let refused =
            |path: &str| Output::open(Some(Path::new(path)), "failed to save image", "").err().unwrap();
        assert_eq!(refused("/").to_string(), "failed to save image: cannot write to a directory");
        assert_eq!(
            refused("/dev/null").to_string(),
            "failed to save image: cannot write to a character device file"
        );
        assert_eq!(
            refused("/nope/x").to_string(),
            "failed to save image: invalid output path: stat /nope: no such file or directory"
        );
    }
}
