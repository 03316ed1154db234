//! `longshore context import`: take over a context that was exported.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::contexts::{MAX_FILE, Stored, check_name};
use crate::failure::Failure;
use crate::output::print;

#[derive(clap::Args)]
pub struct Args {
    /// The name it gets here
    #[arg(value_name = "CONTEXT")]
    name: String,
    /// What `context export` wrote; `-` for stdin
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
}

impl Verb for Args {
    const ABOUT: &'static str = "Import a context from a file that 'context export' wrote";
    const USAGE: &'static str = "CONTEXT FILE|-";
    const ARGUMENTS: Arguments = Arguments::Exactly(2);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        check_name(&self.name)?;
        if context.store().exists(&self.name) {
            return Err(Failure::message(format!("context {:?} already exists", self.name)));
        }
        let mut text = Vec::new();
        let read = match self.file.as_os_str() == "-" {
            true => std::io::stdin().lock().take(MAX_FILE + 1).read_to_end(&mut text),
            false => File::open(&self.file).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text)),
        };
        read.map_err(|error| Failure::file("open", &self.file, &error))?;
        if text.len() as u64 > MAX_FILE {
            return Err(Failure::message(format!("invalid context: it has more than {MAX_FILE} bytes")));
        }
        let stored: Stored = serde_json::from_slice(&text).map_err(|error| {
            Failure::message(format!(
                "invalid context: {error}: a file of 'longshore context export' is expected"
            ))
        })?;
        context.store().put(&Stored { name: self.name.clone(), ..stored })?;
        print::line(&self.name)?;
        print::note(format!("Successfully imported context {:?}", self.name));
        Ok(0)
    }
}
