//! Uploaded files on the local file system.
//!
//! A file lies at `<shard>/<postId>-<index>`, 256 shards by the last byte of the post's id (the first bytes of a
//! UUIDv7 are its time and would fill one shard after the other). Its type is not part of the name: it is read from its
//! first bytes, so that a file is found, or removed, by post and index alone.

mod kind;
mod reader;
mod store;
mod sweep;
mod upload;

pub use kind::{MediaKind, sniff};
pub use store::{LocalMedia, MediaLimits};
pub use sweep::Swept;
