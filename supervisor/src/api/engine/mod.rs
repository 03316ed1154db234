//! `longshore.engine.v1`: the day-to-day API, translated to the engine.
//!
//! What always holds: wire types stop here; a message of an error is for people and has the words that users of docker
//! know; a client that goes away takes what it waited for with it, and nothing else.

mod containers;
mod convert;
mod files;
mod images;
mod networks;
mod session;
mod system;
mod volumes;

pub use containers::ContainersService;
pub use images::ImagesService;
pub use networks::NetworksService;
pub use system::SystemService;
pub use volumes::VolumesService;

use tonic::Status;

use crate::error::Error;

/// Messages that wait for a client to read them.
const STREAM_BUFFER: usize = 16;

/// An error as the command line shows it.
fn status(error: Error) -> Status {
    Status::new(error.code(), error.for_people())
}

type Answer<T> = Result<tonic::Response<T>, Status>;
type Stream<T> = tokio_stream::wrappers::ReceiverStream<Result<T, Status>>;

fn empty() -> Answer<()> {
    Ok(tonic::Response::new(()))
}
