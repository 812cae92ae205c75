//! The use cases over the event log in memory, with fake ports.

mod accounts;
mod idempotency;
mod posts;
mod seam;
mod social;
mod support;
