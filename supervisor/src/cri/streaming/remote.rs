//! The streams of an exec or attach, out of a SPDY connection or a WebSocket.
//!
//! What always holds: a session begins when all streams that were asked for are there, or not at all.

#![forbid(unsafe_code)]

use bytes::Bytes;
use tokio::time::timeout;

use super::ends::{Inlet, Outlet};
use super::limits;
use super::session::{Streams, Wanted};
use super::spdy::Connection;
use super::status::Form;
use super::websocket::Channels;

/// Names of the SPDY subprotocols, best first.
pub const PROTOCOLS: &[&str] =
    &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// What a version of the protocol has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub form: Form,
    pub resizes: bool,
}

impl Version {
    /// Of a name among [`PROTOCOLS`].
    pub fn of(protocol: &str) -> Self {
        let form = if protocol == PROTOCOLS[0] { Form::Json } else { Form::Text };
        Self { form, resizes: PROTOCOLS[..2].contains(&protocol) }
    }
}

/// A stream's two directions.
type Ends = (Inlet, Outlet);

#[derive(Default)]
struct Gathered {
    error: Option<Ends>,
    stdin: Option<Ends>,
    stdout: Option<Ends>,
    stderr: Option<Ends>,
    resize: Option<Ends>,
}

impl Gathered {
    fn slot(&mut self, kind: &str) -> Option<&mut Option<Ends>> {
        Some(match kind {
            "error" => &mut self.error,
            "stdin" => &mut self.stdin,
            "stdout" => &mut self.stdout,
            "stderr" => &mut self.stderr,
            "resize" => &mut self.resize,
            _ => return None,
        })
    }

    fn complete(&self, wanted: Wanted, version: Version) -> bool {
        self.error.is_some()
            && self.stdin.is_some() >= wanted.stdin
            && self.stdout.is_some() >= wanted.stdout
            && self.stderr.is_some() >= wanted.stderr
            && self.resize.is_some() >= (wanted.tty && version.resizes)
    }
}

/// Waits for a client's streams. `None`: it is gone, or did not open them in time.
pub async fn gather(connection: &mut Connection, wanted: Wanted, version: Version) -> Option<Streams> {
    let mut gathered = Gathered::default();
    let all = async {
        while !gathered.complete(wanted, version) {
            let stream = connection.next().await?;
            match gathered.slot(stream.headers.get("streamtype")) {
                Some(slot @ None) => *slot = Some(stream.accept().await.ok()?),
                // Unknown, or there already.
                _ => stream.refuse().await,
            }
        }
        Some(())
    };
    if timeout(limits::CREATION, all).await.ok().flatten().is_none() {
        if !connection.gone().is_cancelled() {
            tracing::debug!("a streaming client did not open its streams in time");
        }
        return None;
    }
    let Gathered { error, stdin, stdout, stderr, resize } = gathered;
    let (error, mut idle) = (error?.1, Vec::new());
    let mut inlet = |ends: Option<Ends>, wanted: bool| {
        let (inlet, outlet) = ends?;
        idle.push(outlet);
        wanted.then_some(inlet)
    };
    let (stdin, resize) = (inlet(stdin, wanted.stdin), inlet(resize, wanted.tty));
    let mut outlet = |ends: Option<Ends>, wanted: bool| {
        let (_, outlet) = ends?;
        if wanted {
            return Some(outlet);
        }
        idle.push(outlet);
        None
    };
    let (stdout, stderr) = (outlet(stdout, wanted.stdout), outlet(stderr, wanted.stderr));
    Some(Streams { stdin, stdout, stderr, resize, error, idle, form: version.form, gone: connection.gone() })
}

/// Which of a WebSocket's channels the client writes to: stdin, stdout, stderr, error, resize.
pub fn reads(wanted: Wanted) -> [bool; 5] {
    [wanted.stdin, false, false, false, wanted.tty]
}

/// The streams in a WebSocket's channels. A first message without content tells the client that the server is there.
pub async fn channels(channels: &mut Channels, wanted: Wanted, form: Form) -> Option<Streams> {
    let (stdin, _) = channels.take(0);
    let (_, stdout) = channels.take(1);
    let (_, stderr) = channels.take(2);
    let (_, error) = channels.take(3);
    let (resize, _) = channels.take(4);
    let stdout = wanted.stdout.then_some(stdout);
    let stderr = wanted.stderr.then_some(stderr);
    let first = stdout.as_ref().or(stderr.as_ref()).unwrap_or(&error);
    first.send(Bytes::new()).await.ok()?;
    let gone = channels.gone();
    Some(Streams { stdin, stdout, stderr, resize, error, idle: Vec::new(), form, gone })
}
