//! What a daemon says on the stdin of `start`, and the form of the answer that it understands.

use longshore_proto::containerd::runc::v1::Options as RuncOptions;
use longshore_proto::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult};
use prost::Message;
use prost_types::Any;

use super::flags::Flags;

/// The newest version of the task service.
const VERSION: i32 = 3;

/// How the daemon wants to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// containerd 2.3 and later.
    Protobuf,
    /// containerd 1.7 to 2.2, with the newest version that it knows.
    Json(i32),
    /// containerd before 1.7: the address alone, which means version 2.
    Plain,
}

/// What was said.
#[derive(Debug)]
pub struct Question {
    form: Form,
    /// Where events go, if the parameters name it.
    pub ttrpc_address: String,
    /// Where the socket should be, if the parameters name it.
    pub socket_dir: String,
    pub runc: RuncOptions,
}

impl Question {
    /// Reads stdin; `newest` is `MAX_SHIM_VERSION` of the environment.
    pub fn read(stdin: &[u8], flags: &Flags, newest: Option<&str>) -> Self {
        // Options are an Any, whose fields have the same numbers: only the values tell the two apart.
        let params = BootstrapParams::decode(stdin).ok().filter(|params| {
            params.instance_id == flags.id && params.namespace == flags.namespace && !flags.id.is_empty()
        });
        if let Some(params) = params {
            let options = params.extensions.iter().filter_map(|extension| extension.value.as_ref());
            return Self {
                form: Form::Protobuf,
                runc: options.filter_map(runc_options).next().unwrap_or_default(),
                ttrpc_address: params.containerd_ttrpc_address,
                socket_dir: params.socket_dir.unwrap_or_default(),
            };
        }
        let form = match newest.and_then(|newest| newest.parse().ok()) {
            Some(newest @ 2..) => Form::Json(VERSION.min(newest)),
            _ => Form::Plain,
        };
        let runc = Any::decode(stdin).ok().as_ref().and_then(runc_options).unwrap_or_default();
        Self { form, runc, ttrpc_address: String::new(), socket_dir: String::new() }
    }

    /// The answer with the shim's address.
    pub fn answer(&self, address: &str) -> Vec<u8> {
        match self.form {
            Form::Protobuf => BootstrapResult {
                version: VERSION,
                address: address.to_owned(),
                protocol: "ttrpc".into(),
                ..BootstrapResult::default()
            }
            .encode_to_vec(),
            Form::Json(version) => {
                serde_json::json!({ "version": version, "address": address, "protocol": "ttrpc" })
                    .to_string()
                    .into()
            }
            Form::Plain => address.into(),
        }
    }
}

fn runc_options(any: &Any) -> Option<RuncOptions> {
    any.type_url
        .ends_with("containerd.runc.v1.Options")
        .then(|| RuncOptions::decode(any.value.as_slice()).ok())?
}

#[cfg(test)]
mod tests {
    use super::super::flags::Action;
    use super::*;
    use longshore_proto::containerd::runtime::bootstrap::v1::Extension;

    fn flags() -> Flags {
        Flags {
            action: Action::Start,
            namespace: "n".into(),
            id: "x".into(),
            address: String::new(),
            bundle: None,
        }
    }

    fn options() -> Any {
        let value = RuncOptions { shim_cgroup: "/s".into(), ..RuncOptions::default() }.encode_to_vec();
        Any { type_url: "containerd.runc.v1.Options".into(), value }
    }

    #[test]
    fn each_daemon_is_answered_in_its_own_form() {
        let params = BootstrapParams {
            instance_id: "x".into(),
            namespace: "n".into(),
            extensions: vec![Extension { value: Some(options()) }],
            ..BootstrapParams::default()
        };
        let question = Question::read(&params.encode_to_vec(), &flags(), Some("3"));
        assert_eq!(question.runc.shim_cgroup, "/s");
        let answer = BootstrapResult::decode(question.answer("unix:///a").as_slice()).unwrap();
        assert_eq!((answer.version, answer.address.as_str()), (3, "unix:///a"));

        let options = options().encode_to_vec();
        for (newest, answer) in [
            (Some("3"), r#"{"address":"unix:///a","protocol":"ttrpc","version":3}"#),
            (Some("2"), r#"{"address":"unix:///a","protocol":"ttrpc","version":2}"#),
            (None, "unix:///a"),
        ] {
            let question = Question::read(&options, &flags(), newest);
            assert_eq!(question.runc.shim_cgroup, "/s");
            assert_eq!(String::from_utf8(question.answer("unix:///a")).unwrap(), answer);
        }
        assert_eq!(Question::read(b"", &flags(), None).answer("a"), b"a");
    }
}
