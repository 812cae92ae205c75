//! Postgres adapters of the distributed profile: the event log and what lies beside it, read models, the chat log.

pub mod feed;
pub mod model;
