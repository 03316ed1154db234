//! A pull as the user sees it: bars on a terminal, otherwise a line for each layer's step. The words are docker's.

use std::collections::HashMap;
use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use longshore_proto::longshore::engine::v1::{
    LayerProgress, LayerStatus, PullDone, PullPlan, PullProgress, pull_progress,
};

use crate::output::human;
use crate::output::print::{self, Target};
use crate::parse::reference;

const BAR_WIDTH: usize = 50;
/// Redraws in a second.
const REDRAWS: u8 = 10;

/// Shows a pull on one stream.
pub struct Progress {
    target: Target,
    reference: String,
    layers: HashMap<String, Layer>,
    bars: Option<MultiProgress>,
    /// Layers of which nothing has been said yet, in their order: as long as nothing is fetched there may be
    /// nothing to say, because the image is up to date.
    unsaid: Vec<(String, LayerStatus)>,
    /// What became of the image is said once for all tags.
    all_tags: bool,
}

struct Layer {
    status: Option<LayerStatus>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `reference` is what the user wrote, until the daemon says what it stands for.
    pub fn new(target: Target, reference: &str) -> Progress {
        Progress {
            target,
            reference: reference.to_string(),
            layers: HashMap::new(),
            bars: None,
            unsaid: Vec::new(),
            all_tags: false,
        }
    }

    /// For a repository with all its tags.
    pub fn of_all_tags(target: Target, reference: &str) -> Progress {
        Progress { all_tags: true, ..Progress::new(target, reference) }
    }

    /// Shows one message; the end of the pull is returned.
    pub fn show(&mut self, progress: PullProgress) -> Option<PullDone> {
        match progress.what {
            Some(pull_progress::What::Resolving(reference)) => self.reference = reference,
            Some(pull_progress::What::Plan(plan)) => self.plan(plan),
            Some(pull_progress::What::Layer(layer)) => self.layer(&layer),
            Some(pull_progress::What::Done(done)) => {
                self.done(&done);
                return Some(done);
            }
            None => {}
        }
        None
    }

    fn line(&self, text: &str) {
        // Progress that nobody reads is no reason to stop.
        match self.target {
            Target::Stdout => drop(print::line(text)),
            Target::Stderr => print::note(text),
        }
    }

    fn plan(&mut self, plan: PullPlan) {
        let named = reference::split(&self.reference);
        let tag = match plan.tag.as_str() {
            "" => named.digest.or(named.tag).unwrap_or("latest"),
            tag => tag,
        };
        let path = &named.path;
        self.line(&match tag.contains(':') {
            // By its digest an image is named in full.
            true => format!("{}/{path}@{tag}: Pulling from {path}", named.registry),
            false => format!("{tag}: Pulling from {path}"),
        });
        let on_terminal = match self.target {
            Target::Stdout => std::io::stdout().is_terminal(),
            Target::Stderr => std::io::stderr().is_terminal(),
        };
        if on_terminal {
            let target = match self.target {
                Target::Stdout => ProgressDrawTarget::stdout_with_hz(REDRAWS),
                Target::Stderr => ProgressDrawTarget::stderr_with_hz(REDRAWS),
            };
            // Hidden where the terminal cannot move its cursor (TERM=dumb): lines it is.
            self.bars = Some(MultiProgress::with_draw_target(target)).filter(|bars| !bars.is_hidden());
        }
        for layer in plan.layers {
            self.add(&layer.digest);
        }
    }

    fn add(&mut self, digest: &str) {
        let bar = self.bars.as_ref().map(|bars| {
            let style =
                ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
            bars.add(ProgressBar::new(1).with_style(style))
        });
        self.layers.insert(digest.to_string(), Layer { status: None, bar });
    }

    fn layer(&mut self, progress: &LayerProgress) {
        if !self.layers.contains_key(&progress.digest) {
            self.add(&progress.digest);
        }
        let Some(layer) = self.layers.get_mut(&progress.digest) else { return };
        // A layer that is there stays there, whatever else is done about it.
        let settled = matches!(layer.status, Some(LayerStatus::Exists | LayerStatus::Complete));
        if settled || (layer.bar.is_none() && layer.status == Some(progress.status())) {
            return;
        }
        layer.status = Some(progress.status());
        match &layer.bar {
            Some(bar) => {
                bar.set_message(format!("{}: {}", human::short_id(&progress.digest), on_terminal(progress)));
                if matches!(progress.status(), LayerStatus::Complete | LayerStatus::Exists) {
                    bar.abandon();
                }
            }
            None => self.step(progress),
        }
    }

    /// A layer's step as a line; what went before it is said first.
    fn step(&mut self, progress: &LayerProgress) {
        match progress.status() {
            status @ (LayerStatus::Pulling | LayerStatus::Waiting | LayerStatus::Exists) => {
                match self.unsaid.iter_mut().find(|(digest, _)| *digest == progress.digest) {
                    Some((_, unsaid)) if status != LayerStatus::Waiting => *unsaid = status,
                    Some(_) => {}
                    None => self.unsaid.push((progress.digest.clone(), status)),
                }
            }
            status => {
                self.say_unsaid();
                self.say(&progress.digest, status);
            }
        }
    }

    fn say_unsaid(&mut self) {
        for (digest, status) in std::mem::take(&mut self.unsaid) {
            self.say(&digest, status);
        }
    }

    fn say(&self, digest: &str, status: LayerStatus) {
        if let Some(words) = as_line(status) {
            self.line(&format!("{}: {words}", human::short_id(digest)));
        }
    }

    fn done(&mut self, done: &PullDone) {
        let of_all_tags = done.digest.is_empty();
        match (self.bars.take(), done.was_up_to_date) {
            (Some(bars), true) => drop(bars.clear()),
            (None, false) => self.say_unsaid(),
            (None, true) => self.unsaid.clear(),
            (Some(_), false) => {}
        }
        let name = reference::familiar(&done.canonical_reference);
        if of_all_tags {
            self.all_tags = false;
        } else {
            self.line(&format!("Digest: {}", done.digest));
        }
        self.layers.clear();
        if self.all_tags {
            return;
        }
        self.line(&match done.was_up_to_date {
            true => format!("Status: Image is up to date for {name}"),
            false => format!("Status: Downloaded newer image for {name}"),
        });
    }
}

/// Steps that a log is interested in.
fn as_line(status: LayerStatus) -> Option<&'static str> {
    match status {
        LayerStatus::Pulling => Some("Pulling fs layer"),
        LayerStatus::Waiting => Some("Waiting"),
        LayerStatus::Downloaded => Some("Download complete"),
        LayerStatus::Complete => Some("Pull complete"),
        LayerStatus::Exists => Some("Already exists"),
        LayerStatus::Downloading | LayerStatus::Extracting => None,
    }
}

fn on_terminal(progress: &LayerProgress) -> String {
    let doing = match progress.status() {
        LayerStatus::Downloading => "Downloading",
        LayerStatus::Extracting => "Extracting",
        other => return as_line(other).unwrap_or_default().to_string(),
    };
    bar(doing, progress.current, progress.total)
}

/// What is being done, how far it is, and of how much if that is known.
pub fn bar(doing: &str, current: i64, total: i64) -> String {
    if total <= 0 {
        return format!("{doing}  {}", human::size_precise(current.max(0) as f64));
    }
    let (current, total) = (current.clamp(0, total) as f64, total as f64);
    let filled = ((current / total) * BAR_WIDTH as f64) as usize;
    let head = if filled < BAR_WIDTH { ">" } else { "" };
    format!(
        "{doing}  [{}{head}{}]  {}/{}",
        "=".repeat(filled),
        " ".repeat(BAR_WIDTH.saturating_sub(filled + head.len())),
        human::size_precise(current),
        human::size_precise(total),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_docker_s() {
        let mut progress = LayerProgress {
            digest: "sha256:0123456789abcdef".into(),
            status: LayerStatus::Downloading.into(),
            current: 1_250_000,
            total: 2_500_000,
        };
        assert_eq!(
            on_terminal(&progress),
            "Downloading  [=========================>                        ]  1.25MB/2.5MB"
        );
        progress.current = 9_000_000;
        assert_eq!(
            on_terminal(&progress),
            "Downloading  [==================================================]  2.5MB/2.5MB"
        );
        progress.total = 0;
        assert_eq!(on_terminal(&progress), "Downloading  9MB");
        progress.status = LayerStatus::Complete.into();
        assert_eq!(on_terminal(&progress), "Pull complete");
    }
}
