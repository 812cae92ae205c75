//! Writing the changes of a batch.
//!
//! A batch is first gathered in memory, so that what it says twice about one row is written once, and each table is
//! written in the order of its keys. What the tables end up with depends only on the last event of each relationship and
//! on what exists, never on the order in which streams arrived: so the batch may be written kind by kind.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use socialhub_domain::{UserId, event::Visibility, personal::ERASED_TEXT};
use socialhub_event_log::Position;
use socialhub_projections::{
    feed::{Feed, FeedChange, FeedFold},
    projection::Projected,
    verify::{Entity, RowSink},
};
use uuid::Uuid;

use crate::{
    feed::{
        gather::{Gathered, NewComment, PendingComment, PendingFollow},
        lower, media_text,
    },
    sqlite::{
        connection::{from_sql, id_bytes, to_sql},
        feed::{
            FeedLimits,
            counts::{Counts, PostState, Tally},
            mend, rows,
            timelines::Timelines,
            visibility_code,
        },
        model::SqliteModel,
    },
};

/// The page cache of the writer's connection, in KiB: a batch touches pages all over the tables, since timelines, likes
/// and follows have keys without locality. Memory is taken only as it is needed.
const PAGE_CACHE_KIB: i64 = 65_536;

/// How many pages of 4 KiB gather in the write-ahead log before they are copied to the file. A batch of some thousands
/// of events may change nearly that many, often the same as the batch before: copying them after each would double the
/// work.
const WAL_PAGES: u32 = 16_000;

/// The writer of the `feed` model.
#[derive(Debug)]
pub struct SqliteFeed {
    limits: FeedLimits,
    posts: Counts<PostState>,
    tallies: Counts<Tally>,
    timelines: Timelines,
}

impl SqliteModel for SqliteFeed {
    type Projection = Feed;
    type Fold = FeedFold;
    const SCHEMA: &'static str = include_str!("schema.sql");

    fn open(connection: &Connection) -> rusqlite::Result<Self> {
        Self::with_limits(connection, FeedLimits::default())
    }

    fn apply(
        &mut self,
        transaction: &Transaction<'_>,
        batch: &[Projected<FeedChange>],
    ) -> rusqlite::Result<()> {
        let gathered = Gathered::from(batch);
        // First, so that whatever else the batch brings is written under what is known of its authors then.
        for (position, change) in &gathered.people {
            write_profile(transaction, *position, change)?;
        }
        let fresh = self.create_posts(transaction, &gathered)?;
        self.delete_posts(transaction, &gathered)?;
        self.write_follows(transaction, &gathered.follows)?;
        self.fan_out(transaction, fresh)?;
        self.write_likes(transaction, &gathered.likes)?;
        self.write_comments(transaction, &gathered.comments)?;
        self.timelines.flush(transaction)?;
        self.posts.flush(transaction)?;
        self.tallies.flush(transaction)
    }

    fn rolled_back(&mut self) {
        self.posts.forget();
        self.tallies.forget();
        self.timelines.forget();
    }

    fn rows(connection: &Connection, rows: &mut dyn RowSink) -> rusqlite::Result<()> {
        rows::all(connection, rows)
    }

    const KINDS: &'static [&'static str] = mend::KINDS;

    fn mend(connection: &Connection, entity: &Entity) -> rusqlite::Result<()> {
        mend::mend(connection, entity)
    }
}

impl SqliteFeed {
    /// The writer with bounds of one's own, for tests.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn with_limits(connection: &Connection, limits: FeedLimits) -> rusqlite::Result<Self> {
        connection.pragma_update(None, "cache_size", -PAGE_CACHE_KIB)?;
        connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
        Ok(Self {
            limits,
            posts: Counts::default(),
            tallies: Counts::default(),
            timelines: Timelines::new(limits),
        })
    }

    /// Writes the posts that are new; answers them by author.
    fn create_posts(
        &mut self,
        transaction: &Transaction<'_>,
        gathered: &Gathered<'_>,
    ) -> rusqlite::Result<Vec<(Uuid, Position)>> {
        let mut fresh = Vec::new();
        let mut insert = transaction.prepare_cached(
            "INSERT OR IGNORE INTO posts
             (position, id, author_id, username, content, visibility, media, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        for post in &gathered.new_posts {
            let state = self.posts.get(transaction, post.id)?;
            if state.deleted || state.created != 0 {
                continue;
            }
            state.created = post.position;
            state.touch(post.position);
            let erased = is_erased(transaction, post.author)?;
            insert.execute(params![
                to_sql(post.position),
                id_bytes(post.id),
                id_bytes(post.author),
                if erased { ERASED_TEXT } else { post.username },
                if erased { ERASED_TEXT } else { post.content },
                visibility_code(post.visibility),
                media_text(if erased { &[] } else { post.media }),
                post.at.0,
            ])?;
            let tally = self.tallies.get(transaction, post.author)?;
            tally.posts += 1;
            tally.touch(post.position);
            if post.visibility != Visibility::Private {
                fresh.push((post.author, post.position));
            }
        }
        Ok(fresh)
    }

    fn delete_posts(
        &mut self,
        transaction: &Transaction<'_>,
        gathered: &Gathered<'_>,
    ) -> rusqlite::Result<()> {
        for &(id, position) in &gathered.deleted_posts {
            let state = self.posts.get(transaction, id)?;
            if state.deleted {
                continue;
            }
            let created = state.created;
            state.bury(position);
            if let Some(author) = take_post(transaction, created)? {
                let tally = self.tallies.get(transaction, author)?;
                tally.posts -= 1;
                tally.touch(position);
            }
            for sql in [
                "DELETE FROM likes WHERE post_id = ?1",
                "DELETE FROM comments WHERE post_id = ?1",
            ] {
                transaction.prepare_cached(sql)?.execute([id_bytes(id)])?;
            }
        }
        Ok(())
    }

    /// Writes follows author by author: whether an author is merged at read depends on all of theirs.
    fn write_follows(
        &mut self,
        transaction: &Transaction<'_>,
        follows: &BTreeMap<(Uuid, Uuid), PendingFollow>,
    ) -> rusqlite::Result<()> {
        let mut follows = follows.iter().peekable();
        while let Some(((author, follower), change)) = follows.next() {
            let mut turns = Turns::default();
            self.write_follow(transaction, *author, *follower, change, &mut turns)?;
            while let Some(((_, follower), change)) = follows.next_if(|(key, _)| key.0 == *author) {
                self.write_follow(transaction, *author, *follower, change, &mut turns)?;
            }
            self.turn_timelines(transaction, *author, &turns)?;
        }
        Ok(())
    }

    fn write_follow(
        &mut self,
        transaction: &Transaction<'_>,
        author: Uuid,
        follower: Uuid,
        change: &PendingFollow,
        turns: &mut Turns,
    ) -> rusqlite::Result<()> {
        let Some(was_active) = set_follow(transaction, author, follower, change)? else {
            return Ok(());
        };
        let step = i64::from(change.at.is_some()) - i64::from(was_active);
        let followed = self.tallies.get(transaction, author)?;
        followed.followers += step;
        followed.touch(change.position);
        let following = self.tallies.get(transaction, follower)?;
        following.following += step;
        following.touch(change.position);
        match step {
            1 => turns.began.push(follower),
            -1 => turns.ended.push(follower),
            _ => {}
        }
        Ok(())
    }

    /// Brings timelines in line with the follows of an author that began and ended.
    fn turn_timelines(
        &mut self,
        transaction: &Transaction<'_>,
        author: Uuid,
        turns: &Turns,
    ) -> rusqlite::Result<()> {
        let tally = self.tallies.get(transaction, author)?;
        let was_merged = tally.is_merged();
        let bound = if was_merged {
            self.limits.fanout_limit / 2
        } else {
            self.limits.fanout_limit
        };
        tally.set_merged(from_sql(tally.followers) > bound);
        let is_merged = tally.is_merged();
        for follower in &turns.ended {
            self.timelines
                .leave(transaction, *follower, author, was_merged)?;
        }
        match (was_merged, is_merged) {
            (false, false) => self.timelines.join(transaction, author, &turns.began),
            (true, true) => self.timelines.merge(transaction, author, &turns.began),
            (false, true) => self.timelines.start_merging(transaction, author),
            (true, false) => self.timelines.stop_merging(transaction, author),
        }
    }

    fn fan_out(
        &mut self,
        transaction: &Transaction<'_>,
        mut fresh: Vec<(Uuid, Position)>,
    ) -> rusqlite::Result<()> {
        fresh.sort_unstable();
        for posts in fresh.chunk_by(|left, right| left.0 == right.0) {
            let author = posts[0].0;
            if self.tallies.get(transaction, author)?.is_merged() {
                continue;
            }
            // The few that were deleted in the same batch leave rows without a post, which readers skip.
            let positions: Vec<Position> = posts.iter().map(|post| post.1).collect();
            self.timelines.fan_out(transaction, author, &positions)?;
        }
        Ok(())
    }

    fn write_likes(
        &mut self,
        transaction: &Transaction<'_>,
        likes: &BTreeMap<(Uuid, Uuid), (bool, Position)>,
    ) -> rusqlite::Result<()> {
        for (&(post, user), &(active, position)) in likes {
            let state = self.posts.get(transaction, post)?;
            if state.deleted {
                continue;
            }
            if let Some(was_active) = set_like(transaction, post, user, active, position)? {
                state.likes += i64::from(active) - i64::from(was_active);
                state.touch(position);
            }
        }
        Ok(())
    }

    fn write_comments(
        &mut self,
        transaction: &Transaction<'_>,
        comments: &BTreeMap<(Uuid, Uuid), PendingComment<'_>>,
    ) -> rusqlite::Result<()> {
        for (&(post, id), pending) in comments {
            let state = self.posts.get(transaction, post)?;
            if state.deleted {
                continue;
            }
            match (&pending.written, pending.deleted) {
                (Some(comment), None) => {
                    if insert_comment(transaction, post, id, comment)? {
                        state.comments += 1;
                        state.touch(comment.position);
                    }
                }
                (_, Some(position)) => {
                    if let Some(was_there) = bury_comment(transaction, post, id, position)? {
                        state.comments -= i64::from(was_there);
                        state.touch(position);
                    }
                }
                (None, None) => {}
            }
        }
        Ok(())
    }
}

/// The followers of one author whose follow began or ended in a batch.
#[derive(Default)]
struct Turns {
    began: Vec<Uuid>,
    ended: Vec<Uuid>,
}

fn write_profile(
    transaction: &Transaction<'_>,
    position: Position,
    change: &FeedChange,
) -> rusqlite::Result<()> {
    match change {
        FeedChange::Register {
            user,
            username,
            name,
            at,
        } => {
            let written = transaction
                .prepare_cached(
                    "INSERT INTO people
                     (id, username, name, username_lower, name_lower, created_at, position)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                     ON CONFLICT (id) DO UPDATE SET username = excluded.username,
                         name = excluded.name, username_lower = excluded.username_lower,
                         name_lower = excluded.name_lower, created_at = excluded.created_at,
                         position = excluded.position
                     WHERE excluded.position > people.position",
                )?
                .execute(params![
                    id_bytes(user.0),
                    username,
                    name,
                    lower(username),
                    lower(name),
                    at.0,
                    to_sql(position),
                ])?;
            if written == 0 {
                // Set aside, and overtaken: what came after it says nothing of when they came.
                transaction
                    .prepare_cached(
                        "UPDATE people SET created_at = ?2 WHERE id = ?1 AND created_at = 0",
                    )?
                    .execute(params![id_bytes(user.0), at.0])?;
            }
        }
        FeedChange::UpdateProfile {
            user,
            name,
            bio,
            avatar,
        } => {
            // A text left out is null and keeps what is there; an empty one removes it.
            transaction
                .prepare_cached(
                    "INSERT INTO people (id, name, name_lower, bio, avatar, position)
                     VALUES (?1, ?2, ?3, NULLIF(?4, ''), NULLIF(?5, ''), ?6)
                     ON CONFLICT (id) DO UPDATE SET name = COALESCE(?2, name),
                         name_lower = COALESCE(?3, name_lower),
                         bio = CASE WHEN ?4 IS NULL THEN bio ELSE NULLIF(?4, '') END,
                         avatar = CASE WHEN ?5 IS NULL THEN avatar ELSE NULLIF(?5, '') END,
                         position = ?6
                     WHERE ?6 > people.position",
                )?
                .execute(params![
                    id_bytes(user.0),
                    name,
                    name.as_deref().map(lower),
                    bio,
                    avatar,
                    to_sql(position),
                ])?;
        }
        FeedChange::Erase { user } => erase(transaction, *user, position)?,
        _ => {}
    }
    Ok(())
}

/// Puts tombstones in the place of everything personal about somebody, and remembers to go on so.
fn erase(transaction: &Transaction<'_>, user: UserId, position: Position) -> rusqlite::Result<()> {
    let id = id_bytes(user.0);
    let position = to_sql(position);
    transaction
        .prepare_cached("INSERT OR IGNORE INTO erased (user_id, position) VALUES (?1, ?2)")?
        .execute(params![id, position])?;
    transaction
        .prepare_cached(
            "INSERT INTO people (id, username, name, position) VALUES (?1, ?2, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET username = ?2, name = ?2, username_lower = NULL,
                 name_lower = NULL, bio = NULL, avatar = NULL, position = ?3",
        )?
        .execute(params![id, ERASED_TEXT, position])?;
    for sql in [
        "UPDATE posts SET username = ?2, content = ?2, media = NULL WHERE author_id = ?1",
        "UPDATE comments SET username = ?2, comment = ?2 WHERE user_id = ?1",
    ] {
        transaction
            .prepare_cached(sql)?
            .execute(params![id, ERASED_TEXT])?;
    }
    Ok(())
}

fn is_erased(transaction: &Transaction<'_>, user: Uuid) -> rusqlite::Result<bool> {
    transaction
        .prepare_cached("SELECT 1 FROM erased WHERE user_id = ?1")?
        .exists([id_bytes(user)])
}

/// Writes a follow unless a later event has been there; answers whether it was active before.
fn set_follow(
    transaction: &Transaction<'_>,
    author: Uuid,
    follower: Uuid,
    change: &PendingFollow,
) -> rusqlite::Result<Option<bool>> {
    let position = to_sql(change.position);
    let since = change.at.map(|_| position);
    let at = change.at.map(|at| at.0);
    let row = params![id_bytes(author), id_bytes(follower), since, at, position];
    let inserted = transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO follows (followed_id, follower_id, since, followed_at, position)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(row)?;
    if inserted == 1 {
        return Ok(Some(false));
    }
    let was_active: Option<bool> = transaction
        .prepare_cached(
            "SELECT since IS NOT NULL FROM follows
             WHERE followed_id = ?1 AND follower_id = ?2 AND position < ?3",
        )?
        .query_row(
            params![id_bytes(author), id_bytes(follower), position],
            |row| row.get(0),
        )
        .optional()?;
    if was_active.is_some() {
        transaction
            .prepare_cached(
                "UPDATE follows SET since = ?3, followed_at = ?4, position = ?5
                 WHERE followed_id = ?1 AND follower_id = ?2",
            )?
            .execute(row)?;
    }
    Ok(was_active)
}

/// Writes a like unless a later event has been there; answers whether it was active before.
fn set_like(
    transaction: &Transaction<'_>,
    post: Uuid,
    user: Uuid,
    active: bool,
    position: Position,
) -> rusqlite::Result<Option<bool>> {
    let row = params![id_bytes(post), id_bytes(user), active, to_sql(position)];
    let inserted = transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO likes (post_id, user_id, active, position)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(row)?;
    if inserted == 1 {
        return Ok(Some(false));
    }
    let was_active: Option<bool> = transaction
        .prepare_cached(
            "SELECT active FROM likes WHERE post_id = ?1 AND user_id = ?2 AND position < ?3",
        )?
        .query_row(
            params![id_bytes(post), id_bytes(user), to_sql(position)],
            |row| row.get(0),
        )
        .optional()?;
    if was_active.is_some() {
        transaction
            .prepare_cached(
                "UPDATE likes SET active = ?3, position = ?4 WHERE post_id = ?1 AND user_id = ?2",
            )?
            .execute(row)?;
    }
    Ok(was_active)
}

/// Removes a post's content; answers whose it was.
fn take_post(transaction: &Transaction<'_>, position: Position) -> rusqlite::Result<Option<Uuid>> {
    transaction
        .prepare_cached("DELETE FROM posts WHERE position = ?1 RETURNING author_id")?
        .query_row([to_sql(position)], |row| row.get::<_, [u8; 16]>(0))
        .optional()
        .map(|id| id.map(Uuid::from_bytes))
}

/// Writes a comment; answers whether it is new.
fn insert_comment(
    transaction: &Transaction<'_>,
    post: Uuid,
    id: Uuid,
    comment: &NewComment<'_>,
) -> rusqlite::Result<bool> {
    let position = to_sql(comment.position);
    let erased = is_erased(transaction, comment.user)?;
    let inserted = transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO comments
             (post_id, id, created, user_id, username, comment, created_at, position)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?3)",
        )?
        .execute(params![
            id_bytes(post),
            id_bytes(id),
            position,
            id_bytes(comment.user),
            if erased {
                ERASED_TEXT
            } else {
                comment.username
            },
            if erased { ERASED_TEXT } else { comment.text },
            comment.at.0,
        ])?;
    Ok(inserted == 1)
}

/// Makes a comment a tombstone; answers whether it was there, none when it is a tombstone already.
fn bury_comment(
    transaction: &Transaction<'_>,
    post: Uuid,
    id: Uuid,
    position: Position,
) -> rusqlite::Result<Option<bool>> {
    let was_there: Option<bool> = transaction
        .prepare_cached("SELECT created IS NOT NULL FROM comments WHERE post_id = ?1 AND id = ?2")?
        .query_row(params![id_bytes(post), id_bytes(id)], |row| row.get(0))
        .optional()?;
    if was_there == Some(false) {
        return Ok(None);
    }
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO comments (post_id, id, position) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![id_bytes(post), id_bytes(id), to_sql(position)])?;
    Ok(Some(was_there.unwrap_or(false)))
}
