//! SQLite adapters: the event log and what lies beside it, the read models, the chat log.
//!
//! One file has one writer, hence one file each; every file has one writer thread and a few reader threads
//! ([`connection`]). `rusqlite` and not `sqlx` here: see `docs/decisions/0002-rusqlite.md`.

pub mod chat_archive;
pub mod chat_log;
pub mod connection;
pub mod counters;
pub mod event_log;
pub mod feed;
pub mod generations;
pub mod model;
pub mod model_store;
pub mod notifications;
pub mod wiring;

#[cfg(test)]
mod runtime_tests;
