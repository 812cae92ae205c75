//! Writing one batch of changes.

use std::collections::{HashMap, hash_map::Entry};

use rusqlite::{CachedStatement, OptionalExtension, Row, Transaction, params};
use socialhub_domain::{CommentId, NotificationId, PostId, UserId, personal::ERASED_TEXT};
use socialhub_event_log::Position;
use socialhub_projections::notifications::{
    About, Notice, NotificationChange, comment_id, ids_about,
};

use super::{flag, optional_bytes, stored_kind};
use crate::sqlite::connection::{from_sql, id_bytes, read_id, to_sql};

/// The writer of one batch: its statements, and the people it touches.
pub(super) struct Writer<'t> {
    pub(super) transaction: &'t Transaction<'t>,
    insert: CachedStatement<'t>,
    find_mark: CachedStatement<'t>,
    find_gone: CachedStatement<'t>,
    find_recipient: CachedStatement<'t>,
    new_recipient: CachedStatement<'t>,
    find_erased: CachedStatement<'t>,
    /// As they will be; written at the end.
    people: HashMap<UserId, Recipient>,
}

/// A person's row.
struct Recipient {
    number: i64,
    /// What they are called in what others are told of them; none before somebody is.
    username: Option<String>,
    unread: i64,
    read_up_to: i64,
    changed: Position,
    /// Whether the row must be written.
    touched: bool,
}

impl Recipient {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            number: row.get(0)?,
            username: row.get(1)?,
            unread: row.get(2)?,
            read_up_to: row.get(3)?,
            changed: from_sql(row.get(4)?),
            touched: false,
        })
    }
}

/// A stored notification, as far as marks and deletions need it.
#[derive(Clone, Copy)]
struct Stored {
    number: i64,
    person: UserId,
    position: Position,
    flags: i64,
}

/// Where [`Stored::read`] reads from; a condition on `n` follows.
macro_rules! stored {
    ($condition:literal) => {
        concat!(
            "SELECT n.number, r.person, n.position, n.flags FROM notification n
             JOIN recipient r ON r.number = n.recipient WHERE ",
            $condition
        )
    };
}

impl Stored {
    /// From the columns of `stored!`.
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            number: row.get(0)?,
            person: UserId(read_id(row, 1)?),
            position: from_sql(row.get(2)?),
            flags: row.get(3)?,
        })
    }
}

impl<'t> Writer<'t> {
    pub(super) fn new(transaction: &'t Transaction<'t>) -> rusqlite::Result<Self> {
        Ok(Self {
            transaction,
            insert: transaction.prepare_cached(
                "INSERT OR IGNORE INTO notification (recipient, position, id, kind, actor, post,
                     comment, at, flags, changed)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?,
            find_mark: transaction.prepare_cached("SELECT flags FROM mark WHERE id = ?1")?,
            find_gone: transaction.prepare_cached("SELECT 1 FROM gone WHERE id IN (?1, ?2)")?,
            find_recipient: transaction.prepare_cached(
                "SELECT number, username, unread, read_up_to, changed FROM recipient
                 WHERE person = ?1",
            )?,
            new_recipient: transaction.prepare_cached(
                "INSERT INTO recipient (person, unread, read_up_to, changed) VALUES (?1, 0, 0, 0)
                 RETURNING number, username, unread, read_up_to, changed",
            )?,
            find_erased: transaction.prepare_cached("SELECT 1 FROM erased WHERE person = ?1")?,
            people: HashMap::new(),
        })
    }

    pub(super) fn write(
        &mut self,
        position: Position,
        change: &NotificationChange,
    ) -> rusqlite::Result<()> {
        match change {
            NotificationChange::Tell(notice) => self.tell(position, position, notice),
            NotificationChange::Announce {
                post,
                author,
                username,
                at,
            } => {
                let about = About::NewPost {
                    post: *post,
                    author: *author,
                };
                self.announce(position, about, username, *at)
            }
            NotificationChange::Wish {
                author,
                follower,
                wanted: true,
            } => self.open_wish(position, *author, *follower),
            NotificationChange::Wish {
                author, follower, ..
            } => self.close_wish(position, *author, *follower),
            NotificationChange::Erase(user) => self.erase(position, *user),
            NotificationChange::PostGone(post) => self.post_gone(position, *post),
            NotificationChange::CommentGone { post, comment } => {
                self.comment_gone(position, *post, *comment)
            }
            NotificationChange::Read(id) => self.mark(position, *id, flag::READ),
            NotificationChange::Removed(id) => self.mark(position, *id, flag::REMOVED),
            NotificationChange::AllRead { user, up_to } => self.all_read(position, *user, *up_to),
        }
    }

    /// Tells somebody something at a position of the log, unless they were told before. `changed` is the position of
    /// the event that is being handled: another one when a follow comes later than the post it wants to hear of.
    pub(super) fn tell(
        &mut self,
        position: Position,
        changed: Position,
        notice: &Notice,
    ) -> rusqlite::Result<()> {
        let id = id_bytes(notice.id().0);
        let about = &notice.about;
        let post = optional_bytes(about.post().map(|id| id.0));
        let comment = optional_bytes(about.comment().map(|id| id.0));
        let gone = post.is_some() && self.find_gone.exists(params![post, comment])?;
        let marks: Option<i64> = self
            .find_mark
            .query_row([id], |row| row.get(0))
            .optional()?;
        let flags = marks.unwrap_or(0) | if gone { flag::GONE } else { 0 };
        let recipient = self.recipient(notice.recipient)?.number;
        let actor = self.actor(about.actor(), &notice.username)?;
        let inserted = self.insert.execute(params![
            recipient,
            to_sql(position),
            id,
            stored_kind(about),
            actor,
            post,
            comment,
            notice.at.0,
            flags,
            to_sql(changed),
        ])?;
        if inserted == 0 {
            return Ok(());
        }
        if marks.is_some() {
            self.transaction
                .prepare_cached("DELETE FROM mark WHERE id = ?1")?
                .execute([id])?;
        }
        self.count_unread(notice.recipient, position, changed, flags, 1)
    }

    /// A notification of which nothing else stands against being unread comes (`by` 1) or goes (-1).
    fn count_unread(
        &mut self,
        person: UserId,
        position: Position,
        changed: Position,
        flags: i64,
        by: i64,
    ) -> rusqlite::Result<()> {
        let recipient = self.recipient(person)?;
        recipient.changed = recipient.changed.max(changed);
        recipient.touched = true;
        if flags == 0 && to_sql(position) > recipient.read_up_to {
            recipient.unread += by;
        }
        Ok(())
    }

    /// The number of somebody who did something, and is called so.
    fn actor(&mut self, person: UserId, username: &str) -> rusqlite::Result<i64> {
        let known = self.recipient(person)?;
        let number = known.number;
        if known.username.as_deref() == Some(username)
            || self.find_erased.exists([id_bytes(person.0)])?
        {
            return Ok(number);
        }
        self.rename(person, username)?;
        Ok(number)
    }

    /// Written at once: late announcements of the same batch read it.
    fn rename(&mut self, person: UserId, username: &str) -> rusqlite::Result<()> {
        let transaction = self.transaction;
        let known = self.recipient(person)?;
        known.username = Some(username.to_owned());
        transaction
            .prepare_cached("UPDATE recipient SET username = ?2 WHERE number = ?1")?
            .execute(params![known.number, username])?;
        Ok(())
    }

    /// From now on, and for what was told before, they go by the tombstone's name.
    fn erase(&mut self, changed: Position, person: UserId) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("INSERT OR IGNORE INTO erased (person, changed) VALUES (?1, ?2)")?
            .execute(params![id_bytes(person.0), to_sql(changed)])?;
        self.rename(person, ERASED_TEXT)
    }

    fn recipient(&mut self, person: UserId) -> rusqlite::Result<&mut Recipient> {
        match self.people.entry(person) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let person = id_bytes(person.0);
                let stored = self.find_recipient.query_row([person], Recipient::read);
                let recipient = match stored.optional()? {
                    Some(recipient) => recipient,
                    None => self.new_recipient.query_row([person], Recipient::read)?,
                };
                Ok(entry.insert(recipient))
            }
        }
    }

    /// Sets a bit of a notification.
    fn set_flag(&mut self, changed: Position, stored: Stored, bit: i64) -> rusqlite::Result<()> {
        if stored.flags & bit != 0 {
            return Ok(());
        }
        self.transaction
            .prepare_cached(
                "UPDATE notification SET flags = ?2, changed = max(changed, ?3) WHERE number = ?1",
            )?
            .execute((stored.number, stored.flags | bit, to_sql(changed)))?;
        self.count_unread(stored.person, stored.position, changed, stored.flags, -1)
    }

    fn find(&self, id: NotificationId) -> rusqlite::Result<Option<Stored>> {
        self.transaction
            .prepare_cached(stored!("n.id = ?1"))?
            .query_row([id_bytes(id.0)], Stored::read)
            .optional()
    }

    /// Sets its owner's mark on a notification, or keeps it for when the notification comes.
    fn mark(&mut self, changed: Position, id: NotificationId, bit: i64) -> rusqlite::Result<()> {
        match self.find(id)? {
            Some(stored) => self.set_flag(changed, stored, bit),
            None => self.keep_marks(changed, id, bit),
        }
    }

    fn keep_marks(
        &self,
        changed: Position,
        id: NotificationId,
        marks: i64,
    ) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached(
                "INSERT INTO mark (id, flags, changed) VALUES (?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET flags = flags | excluded.flags,
                     changed = max(changed, excluded.changed)",
            )?
            .execute(params![id_bytes(id.0), marks, to_sql(changed)])?;
        Ok(())
    }

    /// Takes a notification out that should never have been told: its follow was over before the post, but came late.
    /// What its owner marked stays, as a mark that waits.
    pub(super) fn untell(&mut self, changed: Position, id: NotificationId) -> rusqlite::Result<()> {
        let Some(stored) = self.find(id)? else {
            return Ok(());
        };
        self.transaction
            .prepare_cached("DELETE FROM notification WHERE number = ?1")?
            .execute([stored.number])?;
        let marks = stored.flags & (flag::READ | flag::REMOVED);
        if marks != 0 {
            self.keep_marks(changed, id, marks)?;
        }
        self.count_unread(stored.person, stored.position, changed, stored.flags, -1)
    }

    fn all_read(
        &mut self,
        changed: Position,
        user: UserId,
        up_to: Position,
    ) -> rusqlite::Result<()> {
        let up_to = to_sql(up_to);
        let recipient = self.recipient(user)?;
        let (number, read_up_to) = (recipient.number, recipient.read_up_to);
        if up_to <= read_up_to {
            return Ok(());
        }
        let newly_read: i64 = if recipient.unread == 0 {
            0
        } else {
            self.transaction
                .prepare_cached(
                    "SELECT count(*) FROM notification
                     WHERE recipient = ?1 AND position > ?2 AND position <= ?3 AND flags = 0",
                )?
                .query_row([number, read_up_to, up_to], |row| row.get(0))?
        };
        let recipient = self.recipient(user)?;
        recipient.unread -= newly_read;
        recipient.read_up_to = up_to;
        recipient.changed = recipient.changed.max(changed);
        recipient.touched = true;
        Ok(())
    }

    fn post_gone(&mut self, changed: Position, post: PostId) -> rusqlite::Result<()> {
        self.keep_gone(changed, id_bytes(post.0))?;
        let ids = ids_about(post);
        let about = self
            .transaction
            .prepare_cached(stored!("n.id BETWEEN ?1 AND ?2 AND n.post = ?3"))?
            .query_map(
                [ids.start().0, ids.end().0, post.0].map(id_bytes),
                Stored::read,
            )?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        about
            .into_iter()
            .try_for_each(|stored| self.set_flag(changed, stored, flag::GONE))
    }

    fn comment_gone(
        &mut self,
        changed: Position,
        post: PostId,
        comment: CommentId,
    ) -> rusqlite::Result<()> {
        self.keep_gone(changed, id_bytes(comment.0))?;
        match self.find(comment_id(post, comment))? {
            Some(stored) => self.set_flag(changed, stored, flag::GONE),
            None => Ok(()),
        }
    }

    fn keep_gone(&self, changed: Position, id: [u8; 16]) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("INSERT OR IGNORE INTO gone (id, changed) VALUES (?1, ?2)")?
            .execute(params![id, to_sql(changed)])?;
        Ok(())
    }

    /// Writes the people the batch touched.
    pub(super) fn finish(self) -> rusqlite::Result<()> {
        let mut write = self.transaction.prepare_cached(
            "UPDATE recipient SET unread = ?2, read_up_to = ?3, changed = ?4 WHERE number = ?1",
        )?;
        for recipient in self.people.values().filter(|person| person.touched) {
            write.execute([
                recipient.number,
                recipient.unread,
                recipient.read_up_to,
                to_sql(recipient.changed),
            ])?;
        }
        Ok(())
    }
}
