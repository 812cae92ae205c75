//! Black-box tests of the program and contract tests of the ports, in one binary.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, with its place"
)]

mod architecture;
mod auth;
mod bad_input;
mod chat;
mod concurrency;
mod contract_files;
mod durability;
mod event_log;
mod flow;
mod media;
mod postgres_feed;
mod program;
mod replay;
mod social;
