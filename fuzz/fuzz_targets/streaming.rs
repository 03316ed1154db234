//! Frames of SPDY, messages of WebSockets, sizes of terminals.

#![cfg_attr(fuzzing, no_main)]

longshore_fuzz::target!(longshored::fuzz::streaming);
