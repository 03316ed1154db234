//! `longshore context export`: write a context to a file, for another user or host.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::contexts::check_name;
use crate::failure::Failure;
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {
    /// The context's name
    #[arg(value_name = "CONTEXT")]
    name: String,
    /// Where to; `-` for stdout, without it CONTEXT.longshorecontext
    #[arg(value_name = "FILE|-")]
    file: Option<PathBuf>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Export a context to a FILE (JSON) or to STDOUT";
    const USAGE: &'static str = "CONTEXT [FILE|-]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        check_name(&self.name)?;
        let stored = context.store().get(&self.name)?;
        let mut text = serde_json::to_string_pretty(&stored)
            .map_err(|error| Failure::message(format!("writing the context {:?}: {error}", self.name)))?;
        text.push('\n');
        let path = self.file.unwrap_or_else(|| format!("{}.longshorecontext", self.name).into());
        if path.as_os_str() == "-" {
            if std::io::stdout().is_terminal() {
                return Err(Failure::message(
                    "cowardly refusing to export to a terminal, specify a file path",
                ));
            }
            print::out(&text)?;
            return Ok(0);
        }
        let open = File::options().write(true).create_new(true).open(&path);
        open.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| Failure::file("open", &path, &error))?;
        print::note(format!("Written file {:?}", path.display().to_string()));
        Ok(0)
    }
}
