//! `-info`: what this runtime is and can do. With the options of another OCI runtime (`BinaryName`) on stdin, what that can.

use longshore_proto::containerd::types::{RuntimeInfo, RuntimeVersion};
use prost::Message;
use prost_types::Any;

use super::{say, stdin};
use crate::driver::Oci;
use crate::error::{Error, Result};
use crate::task::Options;

const NAME: &str = "io.containerd.longshore.v1";
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

pub fn info() -> Result<()> {
    let text = stdin()?;
    let any = Any::decode(text.as_slice())
        .map_err(|error| Error::Usage(format!("stdin is no options Any: {error}")))?;
    let options = Options::read(Some(&any))?;
    let features = match options.runc.binary_name.as_str() {
        "" => Some(longshore_runtime::features().to_string().into_bytes()),
        // Not every runtime can say.
        name => Oci::new(name, "", "", false, "", std::path::Path::new("/"))?.ask("features").ok(),
    };
    let info = RuntimeInfo {
        name: NAME.into(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
            ..RuntimeVersion::default()
        }),
        options: Some(any).filter(|any| !any.type_url.is_empty()),
        features: features.map(|value| Any { type_url: FEATURES.into(), value }),
        ..RuntimeInfo::default()
    };
    say(&info.encode_to_vec())
}
