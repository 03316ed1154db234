//! Reading `config.json`: the specification's own words, as other runtimes read them.
//!
//! What always holds: no bytes make it panic; nothing of the host is looked at; what is left out is said in no other way
//! than the specification allows (unknown keys).

use crate::{Error, Result};
use oci_spec::runtime::{Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Largest config that is read, in bytes.
const SIZE_MAX: usize = 16 << 20;

/// Names that the specification and its crate spell differently: field, the specification's word, the crate's.
const SPELLINGS: &[(&str, &str, &str)] = &[
    ("flags", "SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("flags", "SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// Reads a `config.json`.
///
/// # Errors
/// [`Error::InvalidSpec`] for what is no config: not JSON, a field of another type, an unknown word where the
/// specification lists all of them, more than 16 MiB.
pub fn load_spec(bytes: &[u8]) -> Result<Spec> {
    load(bytes, "config.json", |tree| tree.get_mut("process"))
}

/// Reads the `process` part of a config, which is what a further process is described by.
///
/// # Errors
/// As for [`load_spec`].
pub fn load_process(bytes: &[u8]) -> Result<Process> {
    load(bytes, "the process", |tree| Some(tree))
}

fn load<T: DeserializeOwned>(
    bytes: &[u8],
    what: &str,
    process: impl FnOnce(&mut Value) -> Option<&mut Value>,
) -> Result<T> {
    let invalid = |why: String| Error::InvalidSpec { field: what.into(), why };
    if bytes.len() > SIZE_MAX {
        return Err(invalid(format!("has {} bytes, more than {SIZE_MAX}", bytes.len())));
    }
    // A list would be taken for the fields in their order.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(invalid("is no JSON object".into()));
    }
    // Almost every config is read at once; the tree is made only for those that need a second look.
    let first = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let Ok(mut tree) = serde_json::from_slice::<Value>(bytes) else { return Err(invalid(first.to_string())) };
    drop_nulls(&mut tree);
    if let Some(process) = process(&mut tree) {
        respell(process);
        drop_empty_lists(process);
        drop_unknown_capabilities(process);
    }
    serde_json::from_value(tree).map_err(|error| invalid(error.to_string()))
}

/// `null` is as good as nothing, wherever it stands.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn respell(process: &mut Value) {
    let Some(scheduler) = process.get_mut("scheduler") else { return };
    for (field, theirs, ours) in SPELLINGS {
        for word in scheduler.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            if word == theirs {
                *word = Value::from(*ours);
            }
        }
    }
}

/// An empty list of processors is as good as none.
fn drop_empty_lists(process: &mut Value) {
    let affinity = process.get_mut("execCPUAffinity").and_then(Value::as_object_mut);
    affinity.into_iter().for_each(|lists| lists.retain(|_, list| list != ""));
}

/// A capability that this version does not know cannot be given: it is left out, as runc does, so that a config made for a
/// newer kernel still runs.
fn drop_unknown_capabilities(process: &mut Value) {
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else { return };
    for set in sets.values_mut().filter_map(Value::as_array_mut) {
        set.retain(|name| {
            serde_json::from_value::<oci_spec::runtime::Capability>(name.clone()).is_ok() || !name.is_string()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxSchedulerFlag;

    #[test]
    fn the_words_of_the_specification_are_understood() {
        let text = br#"{"ociVersion":"1.2.0","process":{"cwd":"/","args":null,"user":{"uid":null},
            "scheduler":{"policy":"SCHED_OTHER","flags":["SCHED_FLAG_RESET_ON_FORK","SCHED_FLAG_DL_OVERRUN"]},
            "execCPUAffinity":{"initial":"","final":"0"},
            "capabilities":{"bounding":["CAP_CHOWN","CAP_OF_TOMORROW"]}},"mounts":null,"unknown":{"x":1}}"#;
        let spec = load_spec(text).unwrap();
        let process = spec.process().as_ref().unwrap();
        let flags = process.scheduler().as_ref().unwrap().flags().clone().unwrap();
        assert_eq!(flags, [LinuxSchedulerFlag::SchedResetOnFork, LinuxSchedulerFlag::SchedFlagDLOverrun]);
        assert_eq!(process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_config_is_an_error() {
        for text in ["", "[]", "{", "{\"process\":3}", "{\"ociVersion\":\"1.0.0\",\"mounts\":{}}"] {
            assert!(load_spec(text.as_bytes()).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(load_spec(deep.as_bytes()).is_err());
    }
}
