//! The `notifications` read model on MongoDB.
//!
//! Facts are documents that are inserted once and never changed: that a notification was read or removed, that a post or
//! comment is gone, up to where a person read everything, that somebody wants to be told of an author's posts from a
//! position on, or no longer, that a post was announced. A notification is inserted once, too; what it says about itself
//! (read, removed, gone, told) is derived from the facts and kept with it so that lists are one indexed query.

mod ahead;
mod documents;
mod gone;
mod lately;
mod mend;
mod perhaps;
mod reader;
pub(super) mod rows;
mod settle;
mod store;
mod tables;
mod wishes;
mod writer;

pub use self::reader::MongoNotificationReader;
pub(super) use self::{
    store::{MongoNotificationStore, Role},
    tables::Tables,
};
