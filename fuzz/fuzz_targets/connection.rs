//! What a connection begins with.

#![cfg_attr(fuzzing, no_main)]

fn connection(bytes: &[u8]) {
    longshored::fuzz::connection(&mut bytes.to_vec());
}

longshore_fuzz::target!(connection);
