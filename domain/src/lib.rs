//! The pure domain of SocialHub: what may happen (deciders), what happened (events), and how events of the past are
//! read today (upcasters).
//!
//! This crate holds the aggregates, the event catalogue, which is also the public contract on the topics, and the
//! small value types both sides share. It must never import an async runtime, a driver, a web framework, a clock or a
//! source of randomness: time and ids come in as arguments, so that every decision can be tested and replayed.

pub mod aggregate;
pub mod clock;
pub mod comment;
pub mod event;
pub mod follow;
pub mod ids;
pub mod limits;
pub mod notification;
pub mod personal;
pub mod post;
pub mod reaction;
pub mod schema;
pub mod score;
pub mod testing;
pub mod topic;
pub mod upcast;
pub mod user;
pub mod validation;

pub use aggregate::Aggregate;
pub use clock::{Clock, IdGenerator};
pub use event::{Event, EventData};
pub use ids::{CommentId, NotificationId, PostId, StreamId, Timestamp, UserId};
pub use topic::Topic;
