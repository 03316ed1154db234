//! A container's config.json.

#![cfg_attr(fuzzing, no_main)]

longshore_fuzz::target!(longshore_runtime::fuzz::config);
