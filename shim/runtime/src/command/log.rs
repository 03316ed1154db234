//! The log that `--log` names, in the two formats that callers read: one line an entry, with level, message and time.

use super::error::{Error, Result};
use super::time::{self, Precision};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::rc::Rc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Where the log goes. Entries that cannot be written are lost.
#[derive(Clone, Debug, Default)]
pub struct Log {
    file: Option<Rc<File>>,
    format: Format,
    debug: bool,
}

impl Log {
    pub fn open(path: Option<&str>, format: Format, debug: bool) -> Result<Log> {
        let file = match path {
            Some(path) => {
                let file = OpenOptions::new().append(true).create(true).open(path);
                Some(Rc::new(file.map_err(Error::io("open the log", path))?))
            }
            None => None,
        };
        Ok(Log { file, format, debug })
    }

    /// Tells why the command failed: in the log, and on stderr if that is not the log already.
    pub fn fatal(&self, error: &Error) {
        if matches!(error, Error::Usage { .. }) {
            eprintln!("Incorrect Usage: {error}\n");
        }
        self.write("error", &error.to_string());
        if self.file.is_some() {
            eprintln!("{error}");
        }
    }

    pub fn warn(&self, text: &str) {
        self.write("warning", text);
    }

    pub fn debug(&self, text: impl FnOnce() -> String) {
        if self.debug {
            self.write("debug", &text());
        }
    }

    fn write(&self, level: &str, message: &str) {
        let time = time::now(Precision::Seconds);
        let line = match self.format {
            // The keys in the order that everybody has them.
            Format::Json => format!(
                "{{\"level\":\"{level}\",\"msg\":{},\"time\":\"{time}\"}}\n",
                serde_json::Value::from(message)
            ),
            Format::Text => format!("time=\"{time}\" level={level} msg={message:?}\n"),
        };
        // One write, so that lines of several commands do not mix.
        let _ = match &self.file {
            Some(file) => (&**file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }
}
