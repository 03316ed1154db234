//! The header `containerd-namespace`, parsed once; whether one is needed is the service's to say.

use crate::error::Error;
use crate::namespaces::Namespace;

pub const HEADER: &str = "containerd-namespace";

/// Puts the namespace that a request names where services find it.
pub fn read<B>(request: &mut http::Request<B>) -> Result<(), Error> {
    let name = match request.headers().get(HEADER).map(http::HeaderValue::to_str) {
        None | Some(Ok("")) => return Ok(()),
        Some(Ok(name)) => name,
        Some(Err(_)) => return Err(Error::invalid("header containerd-namespace", "is not ASCII")),
    };
    let namespace = Namespace::parse(name)?;
    request.extensions_mut().insert(namespace);
    Ok(())
}
