//! Router-level tests over the real write side on the log in memory, with made-up readers.

mod bodies;
mod fakes;
mod firehose;
mod lists;
mod media;
mod operations;
mod shape;
mod streams;
mod writes;
