//! The `counters` read model: likes, comments, followers, posts, and trending scores.
//!
//! Every change but a deletion is a sum, so streams may arrive in any order; a deletion is final. Nothing here needs to
//! remember who liked what: a stream likes and unlikes in turns, and a store applies each event exactly once.

mod fold;
pub mod ports;
mod project;
mod standin;

pub use fold::CounterFold;
pub use ports::{CounterReader, PersonCounts, PostCounts, TrendingPost};
pub use project::{CounterChange, Counters};
pub use standin::{STAND_IN_POSTS, stand_in};
