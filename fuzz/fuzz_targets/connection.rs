//! What a connection begins with.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: Vec<u8>| longshored::fuzz::connection(&mut { bytes }));
