//! `longshore system dial-stdio`: the daemon's socket by stdin and stdout, for who comes by `ssh`.

use tokio::io::{AsyncWriteExt, copy, stdin, stdout};

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
        let stream = connect(path).await.map_err(|source| Failure::Unreachable { endpoint: endpoint.clone(), source })?;
        let (mut from, mut to) = stream.into_split();
        // Whichever side ends first ends it all: the other cannot go on without it.
        tokio::select! {
            sent = copy(&mut stdin(), &mut to) => { sent?; }
            received = async {
                let mut out = stdout();
                copy(&mut from, &mut out).await?;
                out.flush().await
            } => { received?; }
        }
        Ok(0)
    }
}
