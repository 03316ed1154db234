//! `longshore load`: images out of an archive.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use longshore_proto::longshore::engine::v1::load_response::What as Loaded;
use longshore_proto::longshore::engine::v1::{LoadOptions, LoadRequest, load_request::What};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::{Failure, errno_text};
use crate::output::print;

/// Of one message, in bytes.
const PIECE: usize = 256 * 1024;
/// Messages that wait to be sent.
const WAITING: usize = 4;

#[derive(clap::Args)]
pub struct Args {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Load only these platforms, as in linux/amd64,linux/arm64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    platform: Vec<String>,
    /// Suppress the load output
    #[arg(short, long)]
    quiet: bool,
}

impl Verb for Args {
    const ABOUT: &'static str = "Load an image from a tar archive or STDIN";
    const USAGE: &'static str = "[OPTIONS]";
    const ARGUMENTS: Arguments = Arguments::None;

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let source = open(self.input.as_deref())?;
        let (sender, messages) = mpsc::channel(WAITING);
        let options = LoadRequest { what: Some(What::Options(LoadOptions { platforms: self.platform })) };
        let begun = sender.send(options).await;
        begun.map_err(|_| Failure::message("the archive cannot be sent"))?;
        // Reading may block; a daemon that wants no more ends it.
        let reading = tokio::task::spawn_blocking(move || send(source, &sender));
        let client = context.images().await?;
        let loaded = show(client, messages).await;
        // An archive that could not be read to its end is why the daemon did not like it.
        if reading.is_finished() {
            reading.await.map_err(|error| Failure::message(error.to_string()))??;
        }
        loaded.map(|()| 0)
    }
}

async fn show(
    mut client: longshore_proto::longshore::engine::v1::images_client::ImagesClient<crate::client::Channel>,
    messages: mpsc::Receiver<LoadRequest>,
) -> Result<(), Failure> {
    let mut told = client.load(ReceiverStream::new(messages)).await?.into_inner();
    while let Some(message) = told.message().await? {
        match message.what {
            Some(Loaded::Loaded(name)) => print::line(format!("Loaded image: {name}"))?,
            Some(Loaded::LoadedId(id)) => print::line(format!("Loaded image ID: {id}"))?,
            Some(Loaded::Renamed(renamed)) => print::line(format!(
                "The image {} already exists, renaming the old one with ID {} to empty string",
                renamed.name, renamed.old_id
            ))?,
            None => {}
        }
    }
    Ok(())
}

fn open(input: Option<&Path>) -> Result<Box<dyn Read + Send>, Failure> {
    match input {
        Some(path) => match std::fs::File::open(path) {
            Ok(file) => Ok(Box::new(file)),
            Err(error) => Err(Failure::message(format!("open {}: {}", path.display(), errno_text(&error)))),
        },
        None if std::io::stdin().is_terminal() => {
            Err(Failure::message("requested load from stdin, but stdin is empty"))
        }
        None => Ok(Box::new(std::io::stdin())),
    }
}

fn send(mut source: Box<dyn Read + Send>, messages: &mpsc::Sender<LoadRequest>) -> Result<(), Failure> {
    loop {
        let mut data = vec![0; PIECE];
        let count = match source.read(&mut data) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(Failure::message(format!("reading the archive: {}", errno_text(&error))));
            }
        };
        if count == 0 {
            return Ok(());
        }
        data.truncate(count);
        if messages.blocking_send(LoadRequest { what: Some(What::Data(data)) }).is_err() {
            return Ok(());
        }
    }
}
