//! Contract suites: what every adapter of a port must keep. Each is a set of generic functions, and a macro that stamps
//! one test for each case and adapter.

pub mod analytics;
pub mod archive;
pub mod chat_archive;
pub mod chat_log;
pub mod event_log;
pub mod history;
pub mod media;
pub mod people;
pub mod processes;
pub mod read_model;
