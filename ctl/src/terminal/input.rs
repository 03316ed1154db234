//! Reads stdin in a thread of its own, because a terminal or a pipe that others share cannot be made non-blocking.

use std::io;

use longshore_proto::longshore::engine::v1::StdioInput;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::{mpsc, oneshot};

use super::keys::{Scanned, Scanner};

/// Bytes read at once.
const CHUNK: usize = 32 * 1024;
/// How long the beginning of a detach sequence is kept from the container.
const HOLD: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// Sends what is read to `to`, its end too; `detached` fires on the detach sequence. The thread ends at the end of
/// stdin, or when the receiver is gone and one more byte comes.
pub fn spawn(
    scanner: Option<Scanner>,
    to: mpsc::Sender<StdioInput>,
    detached: oneshot::Sender<()>,
) -> io::Result<()> {
    std::thread::Builder::new().name("stdin".into()).spawn(move || pump(scanner, &to, detached))?;
    Ok(())
}

fn pump(mut scanner: Option<Scanner>, to: &mpsc::Sender<StdioInput>, detached: oneshot::Sender<()>) {
    let send = |stdin: Vec<u8>| {
        stdin.is_empty() || to.blocking_send(StdioInput { stdin, ..StdioInput::default() }).is_ok()
    };
    let mut buffer = vec![0; CHUNK];
    loop {
        if let Some(scanner) = scanner.as_mut().filter(|scanner| scanner.is_holding() && !is_readable())
            && !send(scanner.give_up())
        {
            return;
        }
        let typed = match rustix::io::read(io::stdin(), &mut buffer) {
            Ok(0) => break,
            Ok(count) => &buffer[..count],
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::AGAIN) => {
                let stdin = io::stdin();
                let _ = poll(&mut [PollFd::new(&stdin, PollFlags::IN)], None);
                continue;
            }
            // A terminal that hung up.
            Err(_) => break,
        };
        let sent = match scanner.as_mut().map(|scanner| scanner.scan(typed)) {
            None => send(typed.to_vec()),
            Some(Scanned::Keys(keys)) => send(keys),
            Some(Scanned::Detach(keys)) => {
                send(keys);
                let _ = detached.send(());
                return;
            }
        };
        if !sent {
            return;
        }
    }
    let _ = to.blocking_send(StdioInput { close_stdin: true, ..StdioInput::default() });
}

/// Whether more is typed before the hold is over.
fn is_readable() -> bool {
    let stdin = io::stdin();
    matches!(poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&HOLD)), Ok(ready) if ready > 0)
}
