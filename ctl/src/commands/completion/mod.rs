//! `longshore completion SHELL`: the script that completes this command line's words in a shell.

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;

/// The scripts by their shells.
pub const SCRIPTS: [(&str, &str); 3] = [
    ("bash", include_str!("longshore.bash")),
    ("zsh", include_str!("longshore.zsh")),
    ("fish", include_str!("longshore.fish")),
];

#[derive(clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL", value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Print the completion script for a shell";
    const USAGE: &'static str = "bash|zsh|fish";
    const ARGUMENTS: Arguments = Arguments::Exactly(1);

    async fn run(self, _context: &Context) -> Result<u8, Failure> {
        let script = SCRIPTS.iter().find(|(shell, _)| *shell == self.shell).map(|(_, script)| *script);
        print::out(script.unwrap_or_default())?;
        Ok(0)
    }
}
