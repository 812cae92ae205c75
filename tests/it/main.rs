//! Black-box tests of the program and contract tests of the ports, in one binary.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test, with its place"
)]

mod analytics;
mod architecture;
mod archive;
mod auth;
mod backup;
mod bad_input;
mod chat;
mod chat_cluster;
mod chat_hoard;
mod chat_log;
mod concurrency;
mod contract_files;
mod durability;
mod erasure;
mod event_log;
mod fail_over;
mod firehose;
mod flow;
mod full_stack;
mod hung_projectors;
mod kafka;
mod media;
mod mongo_notifications;
mod object_media;
mod old_versions;
mod postgres_feed;
mod postgres_log;
mod postgres_pool;
mod postgres_stress;
mod program;
mod projector_processes;
mod realign;
mod redis_stores;
mod relay_processes;
mod replay;
mod seen;
mod smtp;
mod social;
mod sqlite_models;
