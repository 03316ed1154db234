//! `longshore history`: how an image was made.

use longshore_proto::longshore::engine::v1::{HistoryEntry, ImageRequest};

use crate::cli::{Arguments, Verb};
use crate::client::Context;
use crate::failure::Failure;
use crate::fields;
use crate::output::human;
use crate::output::list::{self, Layout};
use crate::output::value::Value;
use crate::parse::number;

const MISSING: &str = "<missing>";
/// Characters of a command that are shown.
const COMMAND: usize = 45;

#[derive(clap::Args)]
pub struct Args {
    /// `table`, `table TEMPLATE`, `json`, or a Go template such as {{.CreatedBy}}
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print sizes and dates in human readable format
    #[arg(
        short = 'H', long, num_args = 0..=1, require_equals = true, default_value = "true",
        default_missing_value = "true", value_parser = number::boolean, action = clap::ArgAction::Set
    )]
    human: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Of an image for several platforms, this one, as in linux/amd64
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// Reference, digest or id
    #[arg(value_name = "IMAGE")]
    image: String,
}

impl Verb for Args {
    const ABOUT: &'static str = "Show the history of an image";
    const USAGE: &'static str = "[OPTIONS] IMAGE";
    const ARGUMENTS: Arguments = Arguments::Exactly(1);

    async fn run(self, context: &Context) -> Result<u8, Failure> {
        list::check(self.format.as_deref())?;
        let platform = self.platform.clone().unwrap_or_default();
        let request = ImageRequest { image: self.image.clone(), platform };
        let history = context.images().await?.history(request).await?.into_inner();
        let rows: Vec<Value> = history.entries.iter().map(|entry| self.row(entry)).collect();
        let layout = Layout {
            table: match self.human {
                true => "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
                false => "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
            },
            quiet: self.quiet.then_some("{{.ID}}"),
            headings: HEADINGS,
        };
        list::print(self.format.as_deref(), &layout, &rows)?;
        Ok(0)
    }
}

const HEADINGS: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

impl Args {
    fn row(&self, entry: &HistoryEntry) -> Value {
        let id = match entry.id.as_str() {
            "" => MISSING,
            id if self.no_trunc => id,
            id => human::short_id(id),
        };
        let command = entry.created_by.replace('\t', " ");
        let size = match self.human {
            true => human::size(entry.size as f64),
            false => entry.size.to_string(),
        };
        fields! {
            "ID" => id,
            "CreatedSince" => match entry.created_at {
                Some(_) => human::ago(entry.created_at.as_ref()),
                None => String::new(),
            },
            "CreatedAt" => human::rfc3339_seconds(entry.created_at.as_ref()),
            "CreatedBy" => if self.no_trunc { command } else { human::ellipsis(&command, COMMAND) },
            "Size" => size,
            "Comment" => entry.comment.as_str(),
        }
    }
}
