//! `Assign`: a waiting shim becomes the shim of one container, or of a pod.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use longshore_proto::longshore::shim::v1::{AssignRequest, AssignResponse};

use crate::error::{Error, Result};
use crate::poll::{Flags, Token};
use crate::server::{Assigned, Life, Origin, Place, Shim};
use crate::{bundle, names};

impl Shim {
    pub fn assign(&mut self, request: AssignRequest) -> Result<AssignResponse> {
        if let Some(assigned) = &self.assigned {
            return Err(Error::Assigned { id: assigned.id.clone() });
        }
        names::check("container id", &request.id)?;
        names::check("namespace", &request.namespace)?;
        let path = PathBuf::from(&request.bundle);
        if !path.is_absolute() {
            let why = format!("{:?} is not an absolute path", request.bundle);
            return Err(Error::BadField { field: "bundle", why });
        }
        let folder = bundle::open(&path)?;
        if !request.shared {
            bundle::make_exits(&folder)?;
        }
        // A socket's path may be too long for the kernel; from inside its folder it never is.
        rustix::process::fchdir(&folder).map_err(Error::file("enter the bundle", &path))?;
        let listener = listen().map_err(|source| Error::Io {
            doing: "listen on",
            path: path.join(bundle::SOCKET),
            source,
        })?;
        let pid = std::process::id();
        bundle::write(&folder, bundle::SHIM_PID, pid.to_string().as_bytes())?;
        self.poll.add(&listener, Token::Listener, Flags::IN)?;
        self.assigned = Some(Assigned {
            id: request.id,
            namespace: request.namespace,
            place: Rc::new(Place { bundle: path, folder }),
            listener,
            origin: if request.shared { Origin::Pod } else { Origin::Pool },
        });
        self.life = Life::Serving;
        Ok(AssignResponse { pid })
    }
}

fn listen() -> std::io::Result<UnixListener> {
    let path = Path::new(bundle::SOCKET);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
