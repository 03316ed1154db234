//! One probe: the check's program, run in the container.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Check, Report};
use crate::engine::Engine;
use crate::engine::exec::Exec;
use crate::engine::registry::Entry;
use crate::engine::signals;
use crate::engine::start::Join;
use crate::tasks::{AttachOutput, AttachReceiver, AttachStreams, KillScope, ProcessId};

/// Bytes of output that are kept.
const OUTPUT: usize = 4096;

/// How long a probe that was killed may take to end until it is left alone.
const AFTER_KILL: Duration = Duration::from_secs(10);

/// Exit code of a probe that has none.
const NONE: i64 = -1;

impl Engine {
    pub(super) async fn probe(self: &Arc<Self>, entry: &Arc<Entry>, check: &Check) -> Report {
        let start = Timestamp::now();
        let (exit_code, output) = self.run_probe(entry, check).await;
        Report { start, end: Timestamp::now(), exit_code, output }
    }

    async fn run_probe(self: &Arc<Self>, entry: &Arc<Entry>, check: &Check) -> (i64, String) {
        let streams = AttachStreams { stdin: false, stdout: true, stderr: true };
        let exec = Exec {
            args: check.args.clone(),
            env: Vec::new(),
            working_dir: String::new(),
            user: String::new(),
            tty: false,
            privileged: false,
            join: Some(Join { streams, console: None }),
        };
        let executed = match self.exec(&entry.id, exec).await {
            Ok(executed) => executed,
            Err(error) => return (NONE, error.for_people()),
        };
        let mut stream = match executed.started.map(|running| running.stream) {
            Ok(Some(stream)) => stream.output,
            Ok(None) => return (NONE, String::new()),
            Err(failure) => return (NONE, failure.message),
        };
        let mut said = Said::default();
        match tokio::time::timeout(check.timeout, said.listen(&mut stream)).await {
            Ok(Some(code)) => (i64::from(code), said.text()),
            Ok(None) => (NONE, "the probe was lost with the container's shim".to_owned()),
            Err(_) => {
                self.end_probe(entry, &executed.exec_id, &mut stream).await;
                (NONE, format!("Health check exceeded timeout ({})", in_words(check.timeout)))
            }
        }
    }

    /// The next probe does not begin before this one has ended, or was given up.
    async fn end_probe(&self, entry: &Entry, exec_id: &str, stream: &mut AttachReceiver) {
        let process = ProcessId::Exec(exec_id);
        let signal = signals::KILL.unsigned_abs();
        if let Err(error) = self.tasks.kill(&self.namespace, &entry.id, process, signal, KillScope::One).await
        {
            tracing::debug!(container = %entry.id, %error, "a health check could not be killed");
        }
        let _ = tokio::time::timeout(AFTER_KILL, Said::default().listen(stream)).await;
    }
}

/// What a probe has printed.
#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    cut: bool,
}

impl Said {
    /// Takes the output to its end; the exit code, or nothing if the shim went away.
    async fn listen(&mut self, stream: &mut AttachReceiver) -> Option<u32> {
        loop {
            match stream.recv().await {
                Some(Ok(AttachOutput::Stdout(bytes) | AttachOutput::Stderr(bytes))) => {
                    let room = OUTPUT - self.bytes.len();
                    self.cut |= bytes.len() > room;
                    self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
                Some(Ok(AttachOutput::Attached)) => {}
                Some(Ok(AttachOutput::Exited(exit))) => return Some(exit.status),
                Some(Err(_)) | None => return None,
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.cut {
            text.push_str("...");
        }
        text
    }
}

/// As Go writes durations: `1m30s`, `30s`, `1.5s`, `500ms`.
fn in_words(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    if seconds == 0 {
        return format!("{millis}ms");
    }
    let fraction = match millis {
        0 => String::new(),
        millis => format!(".{millis:03}").trim_end_matches('0').to_owned(),
    };
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}{fraction}s"),
        (0, minutes) => format!("{minutes}m{rest}{fraction}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_does() {
        for (millis, want) in
            [(500, "500ms"), (1_500, "1.5s"), (30_000, "30s"), (90_000, "1m30s"), (3_600_000, "1h0m0s")]
        {
            assert_eq!(in_words(Duration::from_millis(millis)), want);
        }
    }
}
