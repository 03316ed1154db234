//! A push as the user sees it: bars on a terminal, otherwise a line for each layer's step. The words are docker's.

use std::collections::HashMap;
use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use longshore_proto::longshore::engine::v1::{PushLayer, PushProgress, PushStatus, push_progress::What};

use crate::failure::Failure;
use crate::output::{human, print, progress};

/// Redraws in a second.
const REDRAWS: u8 = 10;

/// Shows the push of one or several tags on stdout.
#[derive(Default)]
pub struct Push {
    bars: Option<MultiProgress>,
    layers: HashMap<String, Layer>,
    notes: Vec<String>,
}

struct Layer {
    status: PushStatus,
    bar: Option<ProgressBar>,
}

impl Push {
    pub fn show(&mut self, progress: PushProgress) -> Result<(), Failure> {
        match progress.what {
            Some(What::Repository(name)) => {
                print::line(format!("The push refers to repository [{name}]"))?;
            }
            Some(What::Tag(_)) => self.begin(),
            Some(What::Layer(layer)) => self.layer(&layer)?,
            Some(What::Pushed(pushed)) => {
                self.bars = None;
                print::line(format!("{}: digest: {} size: {}", pushed.tag, pushed.digest, pushed.size))?;
            }
            Some(What::Note(text)) => self.notes.push(text),
            None => {}
        }
        Ok(())
    }

    /// What is told when all is done.
    pub fn finish(self) -> Result<(), Failure> {
        for note in self.notes {
            print::line(format!("\n Info -> {}\n", note.replace('\n', "\n         ")))?;
        }
        Ok(())
    }

    fn begin(&mut self) {
        self.layers.clear();
        self.bars = None;
        if std::io::stdout().is_terminal() {
            let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(REDRAWS));
            // Hidden where the terminal cannot move its cursor (TERM=dumb): lines it is.
            self.bars = Some(bars).filter(|bars| !bars.is_hidden());
        }
    }

    fn layer(&mut self, told: &PushLayer) -> Result<(), Failure> {
        let status = told.status();
        let known = self.layers.get(&told.diff_id).map(|layer| layer.status);
        if self.bars.is_none() && known == Some(status) {
            return Ok(());
        }
        let bars = &self.bars;
        let layer = self.layers.entry(told.diff_id.clone()).or_insert_with(|| Layer {
            status,
            bar: bars.as_ref().map(|bars| {
                let style =
                    ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
                bars.add(ProgressBar::new(1).with_style(style))
            }),
        });
        layer.status = status;
        let text = format!("{}: {}", human::short_id(&told.diff_id), words(told));
        match &layer.bar {
            Some(bar) => {
                bar.set_message(text);
                if matches!(status, PushStatus::Pushed | PushStatus::Exists | PushStatus::Mounted) {
                    bar.abandon();
                }
                Ok(())
            }
            // How far it is is for terminals.
            None if status == PushStatus::Pushing => Ok(()),
            None => print::line(text),
        }
    }
}

fn words(layer: &PushLayer) -> String {
    match layer.status() {
        PushStatus::Preparing => "Preparing".into(),
        PushStatus::Waiting => "Waiting".into(),
        PushStatus::Pushing => progress::bar("Pushing", layer.current, layer.total),
        PushStatus::Pushed => "Pushed".into(),
        PushStatus::Exists => "Layer already exists".into(),
        PushStatus::Mounted => format!("Mounted from {}", layer.from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_docker_s_words() {
        let mut layer = PushLayer { from: "a/x".into(), current: 1, total: 2, ..PushLayer::default() };
        layer.set_status(PushStatus::Mounted);
        assert_eq!(words(&layer), "Mounted from a/x");
        layer.set_status(PushStatus::Exists);
        assert_eq!(words(&layer), "Layer already exists");
        layer.set_status(PushStatus::Pushing);
        assert!(words(&layer).starts_with("Pushing  [====") && words(&layer).ends_with("1B/2B"));
    }
}
