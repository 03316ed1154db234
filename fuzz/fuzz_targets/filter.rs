//! The filter grammar.

#![cfg_attr(fuzzing, no_main)]

fn filter(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        longshored::fuzz::filter(text);
    }
}

longshore_fuzz::target!(filter);
