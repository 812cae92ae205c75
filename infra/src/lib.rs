//! Adapters: the only crate with drivers. Implements the ports of the event log, the write side, the read side and the
//! chat: on SQLite, the local file system and the process itself for the embedded profile; with the feature `distributed`
//! on Postgres, Kafka, MongoDB and Redis, too.
//!
//! Nobody but the binary and the tests may name this crate. To add an adapter, implement the port here, stamp the
//! port's contract suite for it in `tests/`, and let `socialhub` choose it by address.

#[cfg(feature = "distributed")]
pub mod analytics;
pub mod clock;
mod counter_sums;
mod event_rows;
mod feed;
#[cfg(feature = "distributed")]
mod gathering;
#[cfg(feature = "distributed")]
pub mod kafka;
pub mod mail;
pub mod media;
#[cfg(feature = "distributed")]
pub mod mongo;
#[cfg(feature = "distributed")]
pub mod postgres;
pub mod process_file;
#[cfg(feature = "distributed")]
pub mod redis;
#[cfg(feature = "distributed")]
pub mod redis_chat;
pub mod security;
pub mod sqlite;
pub mod tls;

/// A name for the code by which this program makes rows of events, which generations are marked with (see `build.rs`).
pub(crate) const CODE: &str = env!("SOCIALHUB_CODE");
