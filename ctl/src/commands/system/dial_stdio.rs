//! `longshore system dial-stdio`: the daemon's socket by stdin and stdout, for who comes by `ssh`.

use std::fs::File;
use std::io::{self, copy};
use std::net::Shutdown;
use std::os::fd::AsFd;

use crate::cli::{Arguments, Verb};
use crate::client::{Context, connect};
use crate::endpoint::Endpoint;
use crate::failure::Failure;

#[derive(clap::Args)]
pub struct Args {}

impl Verb for Args {
    const ABOUT: &'static str = "Proxy the stdio stream to the daemon connection";
    const USAGE: &'static str = "";
    const ARGUMENTS: Arguments = Arguments::None;
    const HIDDEN: bool = true;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let endpoint = context.endpoint()?;
        let Endpoint::Socket(path) = &endpoint else {
            return Err(Failure::message(format!("dial-stdio reaches Unix sockets only, not {endpoint}")));
        };
        let stream = connect(path)
            .await
            .map_err(|source| Failure::Unreachable { endpoint: endpoint.clone(), source })?;
        // Plain files: the buffers of std's own stdin and stdout would hold answers back.
        let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let mut from = stream.into_std()?;
        from.set_nonblocking(false)?;
        let mut to = from.try_clone()?;
        std::thread::spawn(move || {
            let _ = copy(&mut stdin, &mut to);
            // Nobody is there any more to read what the daemon would still say: the loop below ends, too.
            let _ = to.shutdown(Shutdown::Both);
        });
        let received = tokio::task::spawn_blocking(move || copy(&mut from, &mut stdout)).await;
        received.map_err(|error| Failure::message(format!("the connection to {endpoint}: {error}")))??;
        Ok(0)
    }
}
