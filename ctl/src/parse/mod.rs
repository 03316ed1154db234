//! What a user may write as an argument, and docker's words for what makes no sense. The functions are clap value
//! parsers: their errors come after `invalid argument "…" for "--flag" flag: `.

pub mod environment;
pub mod number;
pub mod pairs;
pub mod reference;
pub mod size;
pub mod time;
pub mod volume;
