//! Postgres adapters of the distributed profile: the event log and what lies beside it, read models, the chat log.

pub mod chat_archive;
pub mod chat_log;
pub mod connect;
pub mod event_log;
pub mod feed;
pub mod model;
pub mod pool;
pub mod relay_store;
pub mod session;
