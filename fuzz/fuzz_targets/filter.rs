//! The filter grammar.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| longshored::fuzz::filter(text));
