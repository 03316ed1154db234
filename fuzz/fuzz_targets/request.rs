//! The decoding of requests.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| longshored::fuzz::request(bytes));
