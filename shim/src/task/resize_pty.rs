//! `ResizePty`: the size of a process's terminal.

use longshore_proto::containerd::task::v3::ResizePtyRequest;
use longshore_proto::longshore::shim::v1::WindowSize;
use rustix::termios::Winsize;

use crate::error::{Error, Result};
use crate::process::{Phase, Process};
use crate::server::Shim;

impl Shim {
    pub fn resize_pty(&mut self, request: ResizePtyRequest) -> Result<()> {
        let (_, process) = self.named(&request.id, &request.exec_id)?;
        if !process.paths.terminal {
            return Err(Error::WrongState {
                operation: "resize the terminal of",
                state: "without a terminal",
            });
        }
        resize(process, &WindowSize { columns: request.width, rows: request.height })
    }
}

/// Columns and rows; `None` if either is 0, which means that the client does not know.
pub fn size(window: &WindowSize) -> Option<(u16, u16)> {
    let clamp = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    (window.columns > 0 && window.rows > 0).then(|| (clamp(window.columns), clamp(window.rows)))
}

/// Sets the size now, or remembers it for the process that is still to be made. Nothing without a terminal.
pub fn resize(process: &mut Process, window: &WindowSize) -> Result<()> {
    let Some((columns, rows)) = size(window) else { return Ok(()) };
    if matches!(process.phase, Phase::Added(_)) {
        process.console = Some((columns, rows));
    }
    let Some(terminal) = process.io.terminal() else { return Ok(()) };
    let winsize = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, winsize).map_err(Error::system("resize the terminal"))
}
