//! `run`: create and start in one, staying with the container unless told to detach.

use super::args::{Args, Flag, Reach};
use super::error::{Error, Result};
use super::foreground::{self, Signals, Watched};
use super::launch::{self, Launched, Stay};
use super::terminal::{Host, Relay};
use super::{Global, Verb, config, sealed, store};

pub const VERB: Verb = Verb {
    name: "run",
    about: "create and run a container",
    operands: "<container-id>",
    count: (1, 1),
    flags: &[
        launch::BUNDLE,
        launch::CONSOLE_SOCKET,
        launch::PIDFD_SOCKET,
        Flag::switch("detach", "leave the container to itself once it runs").or('d'),
        Flag::switch("keep", "do not delete the container when it has ended"),
        launch::PID_FILE,
        Flag::switch("no-subreaper", "do not reap processes that the container leaves behind"),
        launch::NO_PIVOT,
        launch::NO_NEW_KEYRING,
        launch::PRESERVE_FDS,
    ],
    reach: Reach::Anywhere,
    run,
};

fn run(global: &Global, args: &Args) -> Result<i32> {
    run_it(global, args).map_err(|error| error.of_verb("run"))
}

fn run_it(global: &Global, args: &Args) -> Result<i32> {
    sealed::ensure(store::make_root(&global.root)?)?;
    if !args.has("no-subreaper")
        && let Err(errno) = rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
    {
        global.log.warn(&format!("cannot become a subreaper: {errno}"));
    }
    if args.has("detach") {
        let mut launched = launch::launch(global, args, Stay::Detach, None)?;
        let begun = begin(&mut launched).and_then(|told| match told {
            Some(socket) => notified(&launched, &socket, launched.container.pid()),
            None => Ok(()),
        });
        return match begun {
            Ok(()) => Ok(0),
            Err(error) => {
                end(global, launched);
                Err(error)
            }
        };
    }
    // Looked at before the container exists: its terminal begins with our size.
    let host = match config::bundle_wants_terminal(args.filled("bundle"))? {
        true => Some(Host::find()?),
        false => None,
    };
    let mut launched = launch::launch(global, args, Stay::Foreground, host.as_ref().and_then(Host::size))?;
    // Not before: while the container is being set up, signals end this command as any other.
    let outcome = Signals::catch().and_then(|signals| stay(global, &mut launched, host, &signals));
    match args.has("keep") && outcome.is_ok() {
        true => drop(launched),
        false => end(global, launched),
    }
    outcome
}

type Socket = std::os::unix::net::UnixDatagram;

/// Opens the gate.
fn begin(launched: &mut Launched) -> Result<Option<Socket>> {
    let socket = launched.notify.as_ref().map(|notify| notify.bind()).transpose()?;
    launched.container.start()?;
    launched.folder.unlock();
    Ok(socket)
}

fn notified(launched: &Launched, socket: &Socket, main: i32) -> Result<()> {
    match &launched.notify {
        Some(notify) => notify.forward(socket, launched.container.pidfd(), main),
        None => Ok(()),
    }
}

fn stay(global: &Global, launched: &mut Launched, host: Option<Host>, signals: &Signals) -> Result<i32> {
    let relay = match (host, launched.container.take_terminal()) {
        (Some(host), Some(terminal)) => Some(Relay::new(host, terminal)?),
        _ => None,
    };
    if let Some(socket) = begin(launched)? {
        // We are the main process as long as we stay.
        notified(launched, &socket, std::process::id() as i32)?;
    }
    let watched = Watched { pid: launched.container.pid(), pidfd: launched.container.pidfd() };
    foreground::stay(&watched, signals, relay, &global.log)
}

/// Deletes a container that has ended, or has to.
pub fn end(global: &Global, launched: Launched) {
    let Launched { folder, container, .. } = launched;
    let ended = folder.lock().and_then(|()| container.delete().map_err(Error::from)).and_then(|warnings| {
        warnings.iter().for_each(|warning| global.log.warn(warning));
        folder.remove()
    });
    if let Err(error) = ended {
        global.log.warn(&error.to_string());
    }
}
