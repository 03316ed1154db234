//! `longshore top`: the processes of a container.

use longshore_proto::longshore::engine::v1::TopRequest;

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::output::print;
use crate::output::table::{self, TOP_WIDTH};

#[derive(clap::Args)]
pub struct Args {
    /// The container, and options for ps (default -ef)
    #[arg(value_name = "CONTAINER [PS_OPTIONS]", required = true, num_args = 1.., trailing_var_arg = true)]
    words: Vec<String>,
}

impl Verb for Args {
    const ABOUT: &'static str = "Display the running processes of a container";
    const USAGE: &'static str = "CONTAINER [ps OPTIONS]";
    const ARGUMENTS: Arguments = Arguments::AtLeast(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        let mut words = self.words.into_iter();
        let request = TopRequest { container: words.next().unwrap_or_default(), ps_args: words.collect() };
        let response = context.containers().await?.top(request).await?.into_inner();
        let mut rows = vec![response.titles];
        rows.extend(response.processes.into_iter().map(|process| process.cells));
        print::out(&table::lay_out(rows, TOP_WIDTH))?;
        Ok(0)
    }
}
