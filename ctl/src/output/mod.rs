//! Everything that is printed: tables, templates, JSON, progress and people's units.

pub mod file;
pub mod human;
pub mod list;
pub mod print;
pub mod progress;
pub mod push;
pub mod stream;
pub mod table;
pub mod template;
pub mod value;
