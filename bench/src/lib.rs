//! Load generators for SocialHub, and the limits of the machine that they are compared with.
//!
//! Everything but [`mix`], [`offline`], [`archive`] and the stages of the distributed profile speaks only the public
//! contract, so it can drive any server that keeps it.
//! The generator is meant to share a small machine with the server: one thread, requests made of prepared bytes, and a
//! client that reads no more of an answer than it needs.

pub mod archive;
pub mod chat;
pub mod cli;
pub mod client;
#[cfg(feature = "distributed")]
pub mod documents;
pub mod limits;
pub mod load;
pub mod mix;
pub mod offline;
pub mod people;
mod plain_copy;
pub mod process;
pub mod random;
pub mod report;
pub mod rows;
pub mod sealing;
#[cfg(feature = "distributed")]
pub mod stages;
