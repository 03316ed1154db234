//! `longshore export`: a container's files as a tar archive.

use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use longshore_proto::longshore::engine::v1::{ContainerRequest, ExportResponse};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::stream;

#[derive(clap::Args)]
pub struct Args {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Export a container's filesystem as a tar archive";
    const USAGE: &'static str = "[OPTIONS] CONTAINER";
    const ARGUMENTS: Arguments = Arguments::Exactly(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        if self.output.is_none() && std::io::stdout().is_terminal() {
            return Err(Failure::message(
                "cowardly refusing to save to a terminal. Use the -o flag or redirect",
            ));
        }
        if let Some(path) = &self.output {
            check(path)?;
        }
        let request = ContainerRequest { container: self.container };
        let pieces = context.containers().await?.export(request).await?.into_inner();
        let data = |message: ExportResponse| message.data;
        match self.output {
            None => drop(stream::to_stdout(pieces, data).await?),
            Some(path) => {
                stream::through(pieces, data, move |mut source| {
                    save(&path, &mut source).map_err(|error| match error.kind() {
                        std::io::ErrorKind::BrokenPipe => Failure::Silent { code: 1 },
                        _ => Failure::file("write", &path, &error),
                    })
                })
                .await?;
            }
        }
        Ok(0)
    }
}

/// The folder that the file goes to must be there.
fn check(path: &Path) -> Result<(), Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match folder.metadata() {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::message(format!(
            "failed to export container: invalid output path: {}",
            Failure::file("stat", folder, &error)
        ))),
    }
}

/// Beside it first: a file that is there is whole, before and after.
fn save(path: &Path, source: &mut impl std::io::Read) -> std::io::Result<()> {
    if path.metadata().is_ok_and(|meta| !meta.is_file()) {
        // A pipe or a device takes what comes.
        let mut file = std::fs::File::options().write(true).open(path)?;
        return std::io::copy(source, &mut file).map(drop);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part)
        .and_then(|mut file| std::io::copy(source, &mut file).map(drop))
        .and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        // What was not finished is of no use; the error says what went wrong.
        let _ = std::fs::remove_file(&part);
    }
    written
}
