//! The decoding of requests.

#![cfg_attr(fuzzing, no_main)]

longshore_fuzz::target!(longshored::fuzz::request);
