//! The `notifications` read model on SQLite.
//!
//! Notifications are appended to one table; two narrow indexes find them, by id (marks, repeats, and deletions, since
//! ids about one post lie together) and by person and position (lists). That keeps the pages a batch touches few: the
//! cost of a batch is the pages it dirties. Each person's row keeps how many are unread and up to where they read
//! everything.
//!
//! Streams may arrive in any order: a mark is kept until its notification comes, a deletion before what it deletes, and
//! the wish to be told of an author's posts is an interval of positions, so that a post or a follow that comes late
//! finds out who wanted it then.

#[cfg(test)]
pub(crate) mod history;
mod mend;
mod reader;
mod rows;
#[cfg(test)]
mod tests;
mod wishes;
mod writer;

use rusqlite::{Connection, Row, Transaction, types::Type};
use socialhub_domain::{CommentId, PostId, Timestamp, UserId};
use socialhub_projections::{
    notifications::{About, Notice, NotificationChange, NotificationFold, Notifications},
    projection::Projected,
    verify::{Entity, RowSink},
};
use uuid::Uuid;

pub use self::reader::SqliteNotificationReader;
use self::writer::Writer;
use crate::sqlite::{connection::read_id, model::SqliteModel};

/// The writer of the `notifications` model. Remembers nothing between batches.
#[derive(Debug, Default)]
pub struct SqliteNotifications;

/// What happened to a notification, as bits. Unread and there is 0.
mod flag {
    /// Its owner read it.
    pub const READ: i64 = 1;
    /// Its owner removed it.
    pub const REMOVED: i64 = 2;
    /// Its post or comment is gone.
    pub const GONE: i64 = 4;
}

/// What a notification is about, as stored.
mod kind {
    pub const FOLLOW: i64 = 0;
    pub const LIKE: i64 = 1;
    pub const COMMENT: i64 = 2;
    pub const OWN_POST: i64 = 3;
    pub const NEW_POST: i64 = 4;
}

impl SqliteModel for SqliteNotifications {
    type Projection = Notifications;
    type Fold = NotificationFold;

    // People have small numbers here, which makes the index of lists half as large as with their ids. Their names stand
    // with them, not with each notification: people keep their usernames, and who is erased is renamed in one place.
    // `mark` holds the marks that wait for their notification. In `wish`, the interval that is still open ends at the
    // highest integer, so open ones come last and a post skips all that ended before it.
    const SCHEMA: &'static str = "
        CREATE TABLE IF NOT EXISTS notification (
            number INTEGER PRIMARY KEY,
            id BLOB NOT NULL UNIQUE,
            recipient INTEGER NOT NULL,
            position INTEGER NOT NULL,
            kind INTEGER NOT NULL,
            actor INTEGER NOT NULL,
            post BLOB,
            comment BLOB,
            at INTEGER NOT NULL,
            flags INTEGER NOT NULL,
            changed INTEGER NOT NULL
        );
        CREATE INDEX IF NOT EXISTS notification_list ON notification (recipient, position);
        CREATE TABLE IF NOT EXISTS mark (
            id BLOB PRIMARY KEY,
            flags INTEGER NOT NULL,
            changed INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS recipient (
            number INTEGER PRIMARY KEY,
            person BLOB NOT NULL UNIQUE,
            username TEXT,
            unread INTEGER NOT NULL,
            read_up_to INTEGER NOT NULL,
            changed INTEGER NOT NULL
        );
        CREATE TABLE IF NOT EXISTS wish (
            author BLOB NOT NULL,
            until INTEGER NOT NULL,
            follower BLOB NOT NULL,
            since INTEGER NOT NULL,
            PRIMARY KEY (author, until, follower)
        ) WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS erased (
            person BLOB PRIMARY KEY,
            changed INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS gone (
            id BLOB PRIMARY KEY,
            changed INTEGER NOT NULL
        ) WITHOUT ROWID;
    ";

    fn open(connection: &Connection) -> rusqlite::Result<Self> {
        // 32 MB at most: the people of a batch are spread over the whole index.
        connection.pragma_update(None, "cache_size", -32_768)?;
        Ok(Self)
    }

    fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        batch: &[Projected<NotificationChange>],
    ) -> rusqlite::Result<()> {
        let mut writer = Writer::new(transaction)?;
        for projected in batch {
            for change in &projected.changes {
                writer.write(projected.position, change)?;
            }
        }
        writer.finish()
    }

    fn rolled_back(&mut self) {}

    fn rows(connection: &Connection, rows: &mut dyn RowSink) -> rusqlite::Result<()> {
        rows::all(connection, rows)
    }

    const KINDS: &'static [&'static str] = mend::KINDS;

    fn mend(connection: &Connection, entity: &Entity) -> rusqlite::Result<()> {
        mend::mend(connection, entity)
    }
}

/// What is stored of [`About`] beside the actor.
fn stored_kind(about: &About) -> i64 {
    match about {
        About::Follow { .. } => kind::FOLLOW,
        About::Like { .. } => kind::LIKE,
        About::Comment { .. } => kind::COMMENT,
        About::OwnPost { .. } => kind::OWN_POST,
        About::NewPost { .. } => kind::NEW_POST,
    }
}

/// What [`read_notice`] reads, of a notification `n` and whoever did it, `a`.
macro_rules! notice_columns {
    () => {
        "n.kind, a.person, n.post, n.comment, a.username, n.at"
    };
}
use notice_columns;

/// Reads a notice from the columns `notice_columns!`, from the first on.
fn read_notice(row: &Row<'_>, recipient: UserId) -> rusqlite::Result<Notice> {
    let actor = UserId(read_id(row, 1)?);
    let post = || read_id(row, 2).map(PostId);
    let about = match row.get(0)? {
        kind::FOLLOW => About::Follow { follower: actor },
        kind::LIKE => About::Like {
            post: post()?,
            liker: actor,
        },
        kind::COMMENT => About::Comment {
            post: post()?,
            comment: CommentId(read_id(row, 3)?),
            commenter: actor,
        },
        kind::OWN_POST => About::OwnPost {
            post: post()?,
            author: actor,
        },
        kind::NEW_POST => About::NewPost {
            post: post()?,
            author: actor,
        },
        other => {
            let reason = format!("no kind of notification: {other}");
            return Err(rusqlite::Error::FromSqlConversionFailure(
                0,
                Type::Integer,
                reason.into(),
            ));
        }
    };
    Ok(Notice {
        recipient,
        about,
        username: row.get(4)?,
        at: Timestamp(row.get(5)?),
    })
}

/// An id that may be absent, as bytes.
fn optional_bytes(id: Option<Uuid>) -> Option<[u8; 16]> {
    id.map(Uuid::into_bytes)
}
