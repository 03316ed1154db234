//! What a user may write as an argument, and docker's words for what makes no sense. The functions are clap value
//! parsers: their errors come after `invalid argument "…" for "--flag" flag: `.

pub mod address;
pub mod csv;
pub mod device;
pub mod duration;
pub mod environment;
pub mod mount;
pub mod network;
pub mod number;
pub mod pairs;
pub mod port;
pub mod reference;
pub mod restart;
pub mod security;
pub mod size;
pub mod time;
pub mod ulimit;
pub mod volume;
