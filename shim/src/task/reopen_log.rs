//! `ReopenLog`: somebody has renamed a container's log and wants a new one.

use longshore_proto::longshore::shim::v1::ReopenLogRequest;

use crate::error::{Error, Result};
use crate::server::Shim;

impl Shim {
    pub fn reopen_log(&mut self, request: ReopenLogRequest) -> Result<()> {
        let (serial, process) = self.named(&request.id, "")?;
        let log = process.io.log_mut().ok_or_else(|| Error::BadField {
            field: "id",
            why: "the container has no log, or it has ended and its log is complete".to_owned(),
        })?;
        log.reopen()?;
        self.settle(serial);
        self.resume_output(serial);
        Ok(())
    }
}
