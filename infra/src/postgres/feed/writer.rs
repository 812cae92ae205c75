//! Writing the changes of a batch.
//!
//! A batch is first gathered in memory, then written kind by kind, a statement or two for each whatever its size. What the
//! tables end up with depends only on the last event of each relationship and on what exists, never on the order in which
//! streams arrived.

use std::collections::{BTreeMap, HashMap, HashSet};

use async_trait::async_trait;
use socialhub_domain::{event::Visibility, personal::ERASED_TEXT};
use socialhub_event_log::Position;
use socialhub_projections::{
    feed::{Feed, FeedChange, FeedFold},
    projection::Projected,
    runtime::WriteMode,
    verify::{Entity, RowSink},
};
use sqlx::Row;
use uuid::Uuid;

use crate::{
    feed::{
        gather::{Gathered, NewPost, PendingComment, PendingFollow},
        lower, media_text,
    },
    postgres::{
        feed::{
            erased,
            gather::{self, People, Profile},
            mend, rows,
            tallies::Tallies,
            timelines::{FanOut, Timelines, Turns},
            visibility_code,
        },
        model::{PgModel, from_sql, to_sql},
        session::Session,
    },
    sqlite::feed::FeedLimits,
};

/// The `feed` model.
#[derive(Debug, Clone, Copy, Default)]
pub struct PgFeed {
    limits: FeedLimits,
}

impl PgFeed {
    /// The model with bounds of one's own, for tests. All processes that write it must have the same.
    pub fn with_limits(limits: FeedLimits) -> Self {
        Self { limits }
    }
}

#[async_trait]
impl PgModel for PgFeed {
    type Projection = Feed;
    type Fold = FeedFold;
    const SCHEMA: &'static str = include_str!("schema.sql");

    async fn apply(
        &self,
        connection: &mut Session,
        mode: WriteMode,
        batch: &[Projected<FeedChange>],
    ) -> sqlx::Result<()> {
        let gathered = Gathered::from(batch);
        let people = People::of(&gathered);
        write_people(connection, &people.profiles).await?;
        erased::erase(connection, &people.erased).await?;
        let erased = erased::among(connection, gather::authors(&gathered)).await?;
        let mut posts = Posts::read(connection, &gather::posts(&gathered), erased).await?;
        let fresh = posts.create(connection, &gathered).await?;
        let gone = posts.delete(connection, &gathered).await?;
        posts.like(connection, &gathered.likes).await?;
        posts.comment(connection, &gathered.comments).await?;
        posts.write(connection).await?;

        let authors = fresh.iter().map(|post| post.author);
        let bereft = gone.iter().map(|post| post.0);
        let pairs = gathered.follows.keys().flat_map(|key| [key.0, key.1]);
        let people = authors.chain(bereft).chain(pairs).collect();
        let mut tallies = Tallies::lock(connection, mode, people).await?;
        count_posts(&mut tallies, &fresh, &gone);
        let mut turns = self
            .follow(connection, &gathered.follows, &mut tallies)
            .await?;
        let mut timelines = Timelines::new(connection, self.limits);
        let joined_at = std::mem::take(&mut turns.joined_at);
        let posts = to_fan_out(&mut tallies, &fresh, &turns.fanned_out_again);
        timelines.turn(turns).await?;
        timelines.fan_out(mode, &posts, &joined_at).await?;
        timelines.finish().await?;
        tallies.write(connection).await
    }

    fn is_alone(batch: &[Projected<FeedChange>]) -> bool {
        let mut changes = batch.iter().flat_map(|projected| &projected.changes);
        changes.any(|change| matches!(change, FeedChange::Erase { .. }))
    }

    async fn rows(connection: &mut Session, rows: &mut dyn RowSink) -> sqlx::Result<()> {
        rows::all(connection, rows).await
    }

    const KINDS: &'static [&'static str] = mend::KINDS;

    async fn mend(connection: &mut Session, other: &str, entity: &Entity) -> sqlx::Result<()> {
        mend::mend(connection, other, entity).await
    }
}

/// Text left out is null and keeps what is there; an empty one stays as the word that there is none.
async fn write_people(
    connection: &mut Session,
    people: &BTreeMap<Uuid, Profile<'_>>,
) -> sqlx::Result<()> {
    if people.is_empty() {
        return Ok(());
    }
    let column = |read: fn(&Profile<'_>) -> Option<String>| -> Vec<Option<String>> {
        people.values().map(read).collect()
    };
    let written = sqlx::query(
        "INSERT INTO people AS p (id, username, name, bio, avatar, username_lower, name_lower,
             created_at, position)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[],
             $6::text[], $7::text[], $8::bigint[], $9::bigint[])
         ON CONFLICT (id) DO UPDATE SET username = COALESCE(excluded.username, p.username),
             name = COALESCE(excluded.name, p.name), bio = COALESCE(excluded.bio, p.bio),
             avatar = COALESCE(excluded.avatar, p.avatar),
             username_lower = COALESCE(excluded.username_lower, p.username_lower),
             name_lower = COALESCE(excluded.name_lower, p.name_lower),
             created_at = COALESCE(excluded.created_at, p.created_at),
             position = excluded.position
         WHERE excluded.position > p.position",
    )
    .bind(people.keys().copied().collect::<Vec<_>>())
    .bind(column(|profile| profile.username.map(str::to_owned)))
    .bind(column(|profile| profile.name.map(str::to_owned)))
    .bind(column(|profile| profile.bio.map(str::to_owned)))
    .bind(column(|profile| profile.avatar.map(str::to_owned)))
    .bind(column(|profile| profile.username.map(lower)))
    .bind(column(|profile| profile.name.map(lower)))
    .bind(people.values().map(|p| p.created_at).collect::<Vec<_>>())
    .bind(
        people
            .values()
            .map(|p| to_sql(p.position))
            .collect::<Vec<_>>(),
    )
    .execute(&mut *connection)
    .await?;
    if written.rows_affected() < people.len() as u64 {
        write_beginnings(connection, people).await?;
    }
    Ok(())
}

/// A registration that was set aside may come after an erasure, which says nothing of when they came.
async fn write_beginnings(
    connection: &mut Session,
    people: &BTreeMap<Uuid, Profile<'_>>,
) -> sqlx::Result<()> {
    let begun = people
        .iter()
        .filter_map(|(id, profile)| Some((*id, profile.created_at?)));
    let (ids, times): (Vec<Uuid>, Vec<i64>) = begun.unzip();
    sqlx::query(
        "UPDATE people AS p SET created_at = u.at FROM unnest($1::uuid[], $2::bigint[]) AS u (id, at)
         WHERE p.id = u.id AND p.created_at IS NULL",
    )
    .bind(ids)
    .bind(times)
    .execute(connection)
    .await?;
    Ok(())
}

/// A post that the batch made.
struct Fresh {
    author: Uuid,
    position: Position,
    /// Whether it may stand in a feed.
    listed: bool,
}

fn count_posts(tallies: &mut Tallies, fresh: &[Fresh], gone: &[(Uuid, Position)]) {
    for post in fresh {
        let tally = tallies.of(post.author);
        tally.posts += 1;
        tally.touch(post.position);
    }
    for (author, position) in gone {
        let tally = tallies.of(*author);
        tally.posts -= 1;
        tally.touch(*position);
    }
}

/// The few posts that were deleted in the same batch get rows without a post, which readers skip. Whose followers all join
/// again in this batch is left out.
fn to_fan_out(tallies: &mut Tallies, fresh: &[Fresh], joined_again: &[Uuid]) -> FanOut {
    let (authors, positions) = fresh
        .iter()
        .filter(|post| post.listed && !tallies.of(post.author).is_merged())
        .filter(|post| !joined_again.contains(&post.author))
        .map(|post| (post.author, to_sql(post.position)))
        .unzip();
    FanOut { authors, positions }
}

/// The state of a post.
#[derive(Debug, Default)]
struct State {
    /// The position of its creation; 0 before it is known.
    created: Position,
    deleted: bool,
    likes: i64,
    comments: i64,
    position: Position,
    dirty: bool,
}

impl State {
    fn touch(&mut self, position: Position) {
        self.position = self.position.max(position);
        self.dirty = true;
    }

    /// Makes it a tombstone, which says when it became one, whatever came before.
    fn bury(&mut self, position: Position) {
        *self = Self {
            created: self.created,
            deleted: true,
            position,
            dirty: true,
            ..Self::default()
        };
    }
}

/// The states of all posts that a batch is about. Only their partition's writer changes them, one at a time.
struct Posts {
    states: BTreeMap<Uuid, State>,
    /// The authors of the batch who are erased.
    erased: HashSet<Uuid>,
}

impl Posts {
    async fn read(
        connection: &mut Session,
        ids: &[Uuid],
        erased: HashSet<Uuid>,
    ) -> sqlx::Result<Self> {
        let mut states: BTreeMap<Uuid, State> =
            ids.iter().map(|id| (*id, State::default())).collect();
        if ids.is_empty() {
            return Ok(Self { states, erased });
        }
        let rows = sqlx::query(
            "SELECT id, created, deleted, likes, comments, position FROM post_states
             WHERE id = ANY($1)",
        )
        .bind(ids)
        .fetch_all(connection)
        .await?;
        for row in rows {
            let state = State {
                created: from_sql(row.try_get(1)?),
                deleted: row.try_get(2)?,
                likes: row.try_get(3)?,
                comments: row.try_get(4)?,
                position: from_sql(row.try_get(5)?),
                dirty: false,
            };
            states.insert(row.try_get(0)?, state);
        }
        Ok(Self { states, erased })
    }

    fn of(&mut self, id: Uuid) -> &mut State {
        self.states.entry(id).or_default()
    }

    /// What is written of a text of somebody's.
    fn shown<'t>(&self, user: Uuid, text: &'t str) -> &'t str {
        if self.erased.contains(&user) {
            ERASED_TEXT
        } else {
            text
        }
    }

    /// Writes the posts that are new.
    async fn create(
        &mut self,
        connection: &mut Session,
        gathered: &Gathered<'_>,
    ) -> sqlx::Result<Vec<Fresh>> {
        let mut new = Vec::new();
        for post in &gathered.new_posts {
            let state = self.of(post.id);
            if state.deleted || state.created != 0 {
                continue;
            }
            state.created = post.position;
            state.touch(post.position);
            new.push(post);
        }
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let media: Vec<Option<String>> = new
            .iter()
            .map(|post| match self.erased.contains(&post.author) {
                true => None,
                false => media_text(post.media),
            })
            .collect();
        let shown = |post: &&NewPost<'_>, text| self.shown(post.author, text).to_owned();
        sqlx::query(
            "INSERT INTO posts (position, id, author_id, username, content, visibility, media,
                 created_at)
             SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::text[], $5::text[],
                 $6::smallint[], $7::text[], $8::bigint[])
             ON CONFLICT DO NOTHING",
        )
        .bind(new.iter().map(|p| to_sql(p.position)).collect::<Vec<_>>())
        .bind(new.iter().map(|p| p.id).collect::<Vec<_>>())
        .bind(new.iter().map(|p| p.author).collect::<Vec<_>>())
        .bind(new.iter().map(|p| shown(p, p.username)).collect::<Vec<_>>())
        .bind(new.iter().map(|p| shown(p, p.content)).collect::<Vec<_>>())
        .bind(
            new.iter()
                .map(|p| visibility_code(p.visibility))
                .collect::<Vec<_>>(),
        )
        .bind(media)
        .bind(new.iter().map(|p| p.at.0).collect::<Vec<_>>())
        .execute(connection)
        .await?;
        let fresh = new.into_iter().map(|post| Fresh {
            author: post.author,
            position: post.position,
            listed: post.visibility != Visibility::Private,
        });
        Ok(fresh.collect())
    }

    /// Removes content, likes and comments of deleted posts; answers whose posts are gone, and since when.
    async fn delete(
        &mut self,
        connection: &mut Session,
        gathered: &Gathered<'_>,
    ) -> sqlx::Result<Vec<(Uuid, Position)>> {
        let (mut ids, mut gone) = (Vec::new(), HashMap::new());
        for &(id, position) in &gathered.deleted_posts {
            let state = self.of(id);
            if state.deleted {
                continue;
            }
            ids.push(id);
            gone.insert(to_sql(state.created), position);
            state.bury(position);
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let taken: Vec<(i64, Uuid)> = sqlx::query_as(
            "DELETE FROM posts WHERE position = ANY($1) RETURNING position, author_id",
        )
        .bind(gone.keys().copied().collect::<Vec<_>>())
        .fetch_all(&mut *connection)
        .await?;
        for sql in [
            "DELETE FROM likes WHERE post_id = ANY($1)",
            "DELETE FROM comments WHERE post_id = ANY($1)",
        ] {
            sqlx::query(sql)
                .bind(&ids)
                .execute(&mut *connection)
                .await?;
        }
        let authors = taken.into_iter();
        Ok(authors
            .filter_map(|(created, author)| Some((author, *gone.get(&created)?)))
            .collect())
    }

    async fn like(
        &mut self,
        connection: &mut Session,
        likes: &BTreeMap<(Uuid, Uuid), (bool, Position)>,
    ) -> sqlx::Result<()> {
        let told: Vec<_> = likes
            .iter()
            .filter(|like| !self.of(like.0.0).deleted)
            .collect();
        if told.is_empty() {
            return Ok(());
        }
        // What was there before is seen by the first part of the statement, what is new is told by the second.
        let deltas: Vec<(Uuid, i64, i64)> = sqlx::query_as(
            "WITH told AS MATERIALIZED (
                 SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::boolean[], $4::bigint[])
                     AS t(post_id, user_id, active, position)
             ), before AS (
                 SELECT l.post_id FROM told t JOIN likes l
                     ON l.post_id = t.post_id AND l.user_id = t.user_id
                 WHERE l.active AND l.position < t.position
             ), written AS (
                 INSERT INTO likes AS l (post_id, user_id, active, position) SELECT * FROM told
                 ON CONFLICT (post_id, user_id) DO UPDATE
                     SET active = excluded.active, position = excluded.position
                     WHERE excluded.position > l.position
                 RETURNING post_id, active, position
             )
             SELECT post_id, sum(step)::bigint, max(position) FROM (
                 SELECT post_id, active::integer AS step, position FROM written
                 UNION ALL SELECT post_id, -1, 0 FROM before) steps
             GROUP BY post_id",
        )
        .bind(told.iter().map(|like| like.0.0).collect::<Vec<_>>())
        .bind(told.iter().map(|like| like.0.1).collect::<Vec<_>>())
        .bind(told.iter().map(|like| like.1.0).collect::<Vec<_>>())
        .bind(told.iter().map(|like| to_sql(like.1.1)).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
        for (post, step, position) in deltas {
            let state = self.of(post);
            state.likes += step;
            state.touch(from_sql(position));
        }
        Ok(())
    }

    async fn comment(
        &mut self,
        connection: &mut Session,
        comments: &BTreeMap<(Uuid, Uuid), PendingComment<'_>>,
    ) -> sqlx::Result<()> {
        let told: Vec<_> = comments
            .iter()
            .filter(|comment| !self.of(comment.0.0).deleted)
            .map(|(key, pending)| {
                // One that is deleted in the same batch was never there.
                let written = pending
                    .written
                    .as_ref()
                    .filter(|_| pending.deleted.is_none());
                let position = pending.deleted.or(written.map(|comment| comment.position));
                (key, written, to_sql(position.unwrap_or(0)))
            })
            .collect();
        if told.is_empty() {
            return Ok(());
        }
        let deltas: Vec<(Uuid, i64, i64)> = sqlx::query_as(
            "WITH told AS MATERIALIZED (
                 SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::uuid[], $5::text[],
                     $6::text[], $7::bigint[], $8::bigint[])
                     AS t(post_id, id, created, user_id, username, comment, created_at, position)
             ), before AS (
                 SELECT c.post_id FROM told t JOIN comments c
                     ON c.post_id = t.post_id AND c.id = t.id
                 WHERE t.created IS NULL AND c.created IS NOT NULL
             ), written AS (
                 INSERT INTO comments AS c
                     (post_id, id, created, user_id, username, comment, created_at, position)
                 SELECT * FROM told
                 ON CONFLICT (post_id, id) DO UPDATE SET created = NULL, user_id = NULL,
                     username = NULL, comment = NULL, created_at = NULL,
                     position = excluded.position
                     WHERE excluded.created IS NULL AND c.created IS NOT NULL
                 RETURNING post_id, created, position
             )
             SELECT post_id, sum(step)::bigint, max(position) FROM (
                 SELECT post_id, (created IS NOT NULL)::integer AS step, position FROM written
                 UNION ALL SELECT post_id, -1, 0 FROM before) steps
             GROUP BY post_id",
        )
        .bind(told.iter().map(|c| c.0.0).collect::<Vec<_>>())
        .bind(told.iter().map(|c| c.0.1).collect::<Vec<_>>())
        .bind(
            told.iter()
                .map(|c| c.1.map(|new| to_sql(new.position)))
                .collect::<Vec<_>>(),
        )
        .bind(
            told.iter()
                .map(|c| c.1.map(|new| new.user))
                .collect::<Vec<_>>(),
        )
        .bind(
            told.iter()
                .map(|c| c.1.map(|new| self.shown(new.user, new.username).to_owned()))
                .collect::<Vec<_>>(),
        )
        .bind(
            told.iter()
                .map(|c| c.1.map(|new| self.shown(new.user, new.text).to_owned()))
                .collect::<Vec<_>>(),
        )
        .bind(
            told.iter()
                .map(|c| c.1.map(|new| new.at.0))
                .collect::<Vec<_>>(),
        )
        .bind(told.iter().map(|c| c.2).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
        for (post, step, position) in deltas {
            let state = self.of(post);
            state.comments += step;
            state.touch(from_sql(position));
        }
        Ok(())
    }

    async fn write(self, connection: &mut Session) -> sqlx::Result<()> {
        let changed: Vec<_> = self.states.iter().filter(|post| post.1.dirty).collect();
        if changed.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "INSERT INTO post_states (id, created, deleted, likes, comments, position)
             SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::boolean[], $4::bigint[],
                 $5::bigint[], $6::bigint[])
             ON CONFLICT (id) DO UPDATE SET created = excluded.created,
                 deleted = excluded.deleted, likes = excluded.likes,
                 comments = excluded.comments, position = excluded.position",
        )
        .bind(changed.iter().map(|post| *post.0).collect::<Vec<_>>())
        .bind(
            changed
                .iter()
                .map(|post| to_sql(post.1.created))
                .collect::<Vec<_>>(),
        )
        .bind(
            changed
                .iter()
                .map(|post| post.1.deleted)
                .collect::<Vec<_>>(),
        )
        .bind(changed.iter().map(|post| post.1.likes).collect::<Vec<_>>())
        .bind(
            changed
                .iter()
                .map(|post| post.1.comments)
                .collect::<Vec<_>>(),
        )
        .bind(
            changed
                .iter()
                .map(|post| to_sql(post.1.position))
                .collect::<Vec<_>>(),
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Who follows, whether that began (1) or ended (-1), and where.
type Step = (Uuid, i64, i64);

impl PgFeed {
    /// Writes follows unless a later event has been there; answers what that does to timelines. Everybody concerned is
    /// locked.
    async fn follow(
        &self,
        connection: &mut Session,
        follows: &BTreeMap<(Uuid, Uuid), PendingFollow>,
        tallies: &mut Tallies,
    ) -> sqlx::Result<Turns> {
        if follows.is_empty() {
            return Ok(Turns::default());
        }
        let since = |follow: &PendingFollow| follow.at.map(|_| to_sql(follow.position));
        let steps: Vec<(Uuid, Uuid, i64, i64)> = sqlx::query_as(
            "WITH told AS MATERIALIZED (
                 SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[],
                     $5::bigint[]) AS t(follower_id, followed_id, since, followed_at, position)
             ), before AS (
                 SELECT f.followed_id, f.follower_id FROM told t JOIN follows f
                     ON f.follower_id = t.follower_id AND f.followed_id = t.followed_id
                 WHERE f.since IS NOT NULL AND f.position < t.position
             ), written AS (
                 INSERT INTO follows AS f (follower_id, followed_id, since, followed_at, position)
                 SELECT * FROM told
                 ON CONFLICT (follower_id, followed_id) DO UPDATE SET since = excluded.since,
                     followed_at = excluded.followed_at, position = excluded.position
                     WHERE excluded.position > f.position
                 RETURNING followed_id, follower_id, since, position
             )
             SELECT followed_id, follower_id, sum(step)::bigint, max(position) FROM (
                 SELECT followed_id, follower_id, (since IS NOT NULL)::integer AS step, position
                 FROM written
                 UNION ALL SELECT followed_id, follower_id, -1, 0 FROM before) steps
             GROUP BY followed_id, follower_id",
        )
        .bind(follows.keys().map(|key| key.1).collect::<Vec<_>>())
        .bind(follows.keys().map(|key| key.0).collect::<Vec<_>>())
        .bind(follows.values().map(since).collect::<Vec<_>>())
        .bind(
            follows
                .values()
                .map(|f| f.at.map(|at| at.0))
                .collect::<Vec<_>>(),
        )
        .bind(
            follows
                .values()
                .map(|f| to_sql(f.position))
                .collect::<Vec<_>>(),
        )
        .fetch_all(connection)
        .await?;
        let mut by_author: BTreeMap<Uuid, Vec<Step>> = BTreeMap::new();
        for (author, follower, step, position) in steps {
            let followed = tallies.of(author);
            followed.followers += step;
            followed.touch(from_sql(position));
            let following = tallies.of(follower);
            following.following += step;
            following.touch(from_sql(position));
            let steps = by_author.entry(author).or_default();
            steps.push((follower, step, position));
        }
        Ok(self.turns(tallies, by_author))
    }

    fn turns(&self, tallies: &mut Tallies, by_author: BTreeMap<Uuid, Vec<Step>>) -> Turns {
        let mut turns = Turns::default();
        for (author, steps) in by_author {
            let tally = tallies.of(author);
            let was_merged = tally.weigh(self.limits.fanout_limit);
            let is_merged = tally.is_merged();
            match (was_merged, is_merged) {
                (false, true) => turns.merging.push(author),
                (true, false) => turns.fanned_out_again.push(author),
                _ => {}
            }
            for (follower, step, position) in steps {
                match (step, was_merged, is_merged) {
                    (-1, false, _) => turns.left.push(follower, author),
                    (-1, true, _) => turns.left_merged.push(follower, author),
                    (1, false, false) => {
                        turns.joined.push(follower, author);
                        turns.joined_at.push(position);
                    }
                    (1, true, true) => turns.merged.push(follower, author),
                    // Whoever follows an author that crosses the limit is found with all the others.
                    _ => {}
                }
            }
        }
        turns
    }
}
