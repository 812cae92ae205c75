//! Who wants to be told of whose posts, and when: intervals of positions.
//!
//! Follows and posts travel on different topics, so either may come late. A post asks the intervals who wanted it at its
//! own position; a follow that comes late asks for the author's posts after it. In the order of the log both questions
//! find nothing to correct, and cost one look.

use rusqlite::{OptionalExtension, params};
use socialhub_domain::{PostId, Timestamp, UserId};
use socialhub_event_log::Position;
use socialhub_projections::notifications::{About, Notice};

use super::{kind, writer::Writer};
use crate::sqlite::connection::{from_sql, id_bytes, read_id, to_sql};

/// The end of an interval that has none yet.
pub(super) const OPEN: i64 = i64::MAX;

/// A post of an author that was announced.
struct Announced {
    position: Position,
    post: PostId,
    username: String,
    at: Timestamp,
}

impl Writer<'_> {
    /// Tells those who want it at this position.
    pub(super) fn announce(
        &mut self,
        position: Position,
        about: About,
        username: &str,
        at: Timestamp,
    ) -> rusqlite::Result<()> {
        let followers = self
            .transaction
            .prepare_cached(
                "SELECT follower FROM wish WHERE author = ?1 AND until > ?2 AND since < ?2",
            )?
            .query_map(
                params![id_bytes(about.actor().0), to_sql(position)],
                |row| read_id(row, 0).map(UserId),
            )?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        if followers.is_empty() {
            return Ok(());
        }
        let mut notice = Notice {
            recipient: about.actor(),
            about,
            username: username.to_owned(),
            at,
        };
        for follower in followers {
            notice.recipient = follower;
            self.tell(position, position, &notice)?;
        }
        Ok(())
    }

    /// From this position on the follower wants to be told.
    pub(super) fn open_wish(
        &mut self,
        position: Position,
        author: UserId,
        follower: UserId,
    ) -> rusqlite::Result<()> {
        let opened = self
            .transaction
            .prepare_cached(
                "INSERT OR IGNORE INTO wish (author, until, follower, since)
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                id_bytes(author.0),
                OPEN,
                id_bytes(follower.0),
                to_sql(position)
            ])?;
        if opened == 0 {
            return Ok(());
        }
        for late in self.announced_after(position, author)? {
            let about = About::NewPost {
                post: late.post,
                author,
            };
            let notice = Notice {
                recipient: follower,
                about,
                username: late.username,
                at: late.at,
            };
            self.tell(late.position, position, &notice)?;
        }
        Ok(())
    }

    /// From this position on the follower does not want to be told, if they ever did.
    pub(super) fn close_wish(
        &mut self,
        position: Position,
        author: UserId,
        follower: UserId,
    ) -> rusqlite::Result<()> {
        let key = (id_bytes(author.0), OPEN, id_bytes(follower.0));
        let since: Option<i64> = self
            .transaction
            .prepare_cached(
                "DELETE FROM wish WHERE author = ?1 AND until = ?2 AND follower = ?3
                 RETURNING since",
            )?
            .query_row(key, |row| row.get(0))
            .optional()?;
        let Some(since) = since else {
            return Ok(());
        };
        self.transaction
            .prepare_cached(
                "INSERT INTO wish (author, until, follower, since) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute((key.0, to_sql(position), key.2, since))?;
        for late in self.announced_after(position, author)? {
            let about = About::NewPost {
                post: late.post,
                author,
            };
            self.untell(position, about.id(follower))?;
        }
        Ok(())
    }

    /// The author's announced posts that come after a position in the log, but came here before: each has its "Your
    /// post is live" in the author's own list.
    fn announced_after(
        &self,
        position: Position,
        author: UserId,
    ) -> rusqlite::Result<Vec<Announced>> {
        self.transaction
            .prepare_cached(
                "SELECT n.position, n.post, a.username, n.at
                 FROM recipient a CROSS JOIN notification n ON n.recipient = a.number
                 WHERE a.person = ?1 AND n.position > ?2 AND n.kind = ?3",
            )?
            .query_map(
                params![id_bytes(author.0), to_sql(position), kind::OWN_POST],
                |row| {
                    Ok(Announced {
                        position: from_sql(row.get(0)?),
                        post: PostId(read_id(row, 1)?),
                        username: row.get(2)?,
                        at: Timestamp(row.get(3)?),
                    })
                },
            )?
            .collect()
    }
}
