//! What the shim has to say, a line each on its stderr: the `log` FIFO of a foreign daemon's bundle, or the FIFO that all
//! shims of our own daemon share.
//!
//! What always holds: saying it never waits and never fails. A line that finds no room is lost.

use std::fmt::Display;
use std::time::SystemTime;

use crate::stdio::Stamp;

/// A FIFO takes so many bytes whole.
const LINE: usize = 4096;

/// Something that went otherwise than asked, and that the container lives with.
pub fn warn(container: &str, what: &dyn Display) {
    line("warning", container, what);
}

/// Something that failed, and of which nobody else hears.
pub fn error(container: &str, what: &dyn Display) {
    line("error", container, what);
}

fn line(level: &str, container: &str, what: &dyn Display) {
    let now = Stamp::new(SystemTime::now());
    let mut text = format!(
        "time=\"{now}\" level={level} msg={:?} id={container} pid={}",
        what.to_string(),
        std::process::id()
    );
    let mut end = text.len().min(LINE - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push('\n');
    let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
}
