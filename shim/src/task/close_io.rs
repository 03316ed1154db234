//! `CloseIO`: no more stdin will come.

use longshore_proto::containerd::task::v3::CloseIoRequest;

use crate::error::Result;
use crate::server::Shim;

impl Shim {
    pub fn close_io(&mut self, request: CloseIoRequest) -> Result<()> {
        let (serial, process) = self.named(&request.id, &request.exec_id)?;
        if !request.stdin {
            return Ok(());
        }
        if let Some(input) = process.io.input_mut() {
            if input.fifo().is_some() {
                // What clients have written to the FIFO, and still write, comes first.
                input.release_fifo();
            } else {
                input.close();
            }
        }
        self.feed_input(serial);
        Ok(())
    }
}
