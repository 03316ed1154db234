//! The shim that `start` leaves behind: it has its listening socket as descriptor 3, and its bundle as working directory.

use std::env;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;

use super::flags::Flags;
use super::start::bundle_of;
use crate::error::{Error, Result};
use crate::poll::{Flags as Ready, Token};
use crate::publish::Publisher;
use crate::server::{Assigned, Life, Origin, Place, Shim};
use crate::{bundle, names, report, sys};

/// The variable with the daemon's socket for events, as the daemon sets it.
pub const EVENTS: &str = "TTRPC_ADDRESS";
/// The variable with the path of this shim's socket, as `start` sets it.
pub const SOCKET: &str = "LONGSHORE_SHIM_SOCKET";

pub fn serve(flags: &Flags) -> Result<()> {
    let Some(listener) = sys::inherited(3) else {
        return Err(Error::Usage("`serve` is for `start`, which hands over a socket as descriptor 3".into()));
    };
    let served = adopt(flags, UnixListener::from(listener)).and_then(|mut shim| shim.run());
    if let Err(error) = &served {
        report::error(&flags.id, error);
    }
    served
}

fn adopt(flags: &Flags, listener: UnixListener) -> Result<Shim> {
    names::check("namespace", &flags.namespace)?;
    names::check("id", &flags.id)?;
    crate::become_a_shim()?;
    let path = bundle_of(flags)?;
    let folder = bundle::open(&path)?;
    bundle::make_exits(&folder)?;
    let mut shim = Shim::new()?;
    shim.poll.add(&listener, Token::Listener, Ready::IN)?;
    if let Some(address) = env::var_os(EVENTS).filter(|address| !address.is_empty()) {
        shim.publisher = Some(Box::new(Publisher::new(PathBuf::from(address), flags.namespace.clone())));
    }
    shim.assigned = Some(Assigned {
        id: flags.id.clone(),
        namespace: flags.namespace.clone(),
        place: Rc::new(Place { bundle: path, folder }),
        listener,
        origin: Origin::Foreign { socket: env::var_os(SOCKET).unwrap_or_default().into() },
    });
    shim.life = Life::Serving;
    shim.watch_loneliness();
    Ok(shim)
}
