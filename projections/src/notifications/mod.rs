//! The `notifications` read model: what each person is told, and what they made of it.
//!
//! Who is told what: [`project`] says. Ids are derived ([`Notice::id`]), so liking or following again is the same
//! notification; a removed one stays as the tombstone that makes the repeat a duplicate.
//!
//! "A private post is announced to nobody" is taken literally: not to its author either, who gets "Your post is live"
//! for `public` and `followers` posts only.

mod fold;
mod notice;
pub mod ports;
mod project;

pub use fold::{NotificationFold, PERSON, UNREAD};
pub use notice::{About, Notice, comment_id, ids_about};
pub use ports::{NotificationKind, NotificationPage, NotificationReader, NotificationView};
pub use project::{NotificationChange, Notifications};
