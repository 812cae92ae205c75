//! Redis adapters: counters and trending, and what several processes share for a while (one-time codes, limits, positions).
//!
//! Everything is made for a server that may go away at any moment: connections are made when they are needed, wait a
//! second at most, and a server that has just failed is not asked again for half a second. What must change together
//! changes in one script, which looks at everything before it writes anything, since a script that fails half-way is
//! not taken back.

pub mod counters;
mod last_writes;
mod limits;
mod link;
mod otp;
mod renewal;

pub use self::{
    counters::{RedisCounterReader, RedisGenerations, keep_filled},
    last_writes::{LastPositions, RedisLastWrites},
    limits::RedisLimits,
    link::{RedisFault, RedisLink},
    otp::RedisOtps,
};
