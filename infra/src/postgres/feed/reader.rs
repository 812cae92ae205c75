//! Answering queries, each in one statement, so that it sees one state of the model throughout.
//!
//! Keys of pages are those of the SQLite reader: the position of the last item as a number; for a search `username/id`,
//! the username in lower case. A key that cannot be read asks for the first page: whoever hands keys to clients seals them.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use socialhub_domain::{CommentId, PostId, Timestamp, UserId, event::Visibility};
use socialhub_event_log::Position;
use socialhub_projections::{
    Page, PageRequest, ReadError,
    feed::{
        CommentView, FeedItem, FeedReader, FollowEntry, PersonSummary, PostView, Profile,
        RecentPost,
    },
};
use sqlx::{Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    feed::{FAR_DOWN, lower, search_key, search_start},
    postgres::{
        feed::{
            PgFeed, home,
            views::{self, may_see, view_columns, view_joins},
            visibility_of,
        },
        model::{PgGenerations, from_sql, to_sql},
        pool::{Pool, retrying},
    },
};

/// A server that does not answer a query within this time is not going to.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the current generation of the `feed` model.
#[derive(Clone)]
pub struct PgFeedReader {
    generations: Arc<PgGenerations<PgFeed>>,
}

impl PgFeedReader {
    /// A reader that follows the current generation.
    pub fn new(generations: Arc<PgGenerations<PgFeed>>) -> Self {
        Self { generations }
    }

    async fn read<T, F>(&self, query: impl Fn(Pool) -> F) -> Result<T, ReadError>
    where
        F: Future<Output = sqlx::Result<T>>,
    {
        let answer = async {
            let readers = self.generations.readers().await;
            let readers = readers.map_err(|error| ReadError(error.to_string()))?;
            retrying(|| query(readers.clone()))
                .await
                .map_err(|error| ReadError(error.to_string()))
        };
        let late = |_| ReadError("the database does not answer".to_owned());
        tokio::time::timeout(PATIENCE, answer).await.map_err(late)?
    }
}

#[async_trait]
impl FeedReader for PgFeedReader {
    async fn profile(&self, id: UserId, viewer: UserId) -> Result<Option<Profile>, ReadError> {
        self.read(|pool| profile(pool, id, viewer)).await
    }

    async fn search(
        &self,
        prefix: &str,
        page: &PageRequest,
    ) -> Result<Page<PersonSummary>, ReadError> {
        self.read(|pool| search(pool, lower(prefix), page)).await
    }

    async fn recent(&self, limit: usize) -> Result<Vec<RecentPost>, ReadError> {
        self.read(|pool| recent(pool, limit)).await
    }

    async fn followers(
        &self,
        id: UserId,
        page: &PageRequest,
    ) -> Result<Option<Page<FollowEntry>>, ReadError> {
        self.read(|pool| follow_page(pool, FOLLOWERS_SQL, id, page))
            .await
    }

    async fn following(
        &self,
        id: UserId,
        page: &PageRequest,
    ) -> Result<Option<Page<FollowEntry>>, ReadError> {
        self.read(|pool| follow_page(pool, FOLLOWING_SQL, id, page))
            .await
    }

    async fn post(&self, id: PostId, viewer: UserId) -> Result<Option<PostView>, ReadError> {
        let found = self.posts(&[id], viewer).await?;
        Ok(found.into_iter().next())
    }

    async fn posts(&self, ids: &[PostId], viewer: UserId) -> Result<Vec<PostView>, ReadError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        self.read(|pool| posts(pool, &ids, viewer)).await
    }

    async fn posts_of(
        &self,
        author: UserId,
        viewer: UserId,
        page: &PageRequest,
    ) -> Result<Option<Page<PostView>>, ReadError> {
        self.read(|pool| posts_of(pool, author, viewer, page)).await
    }

    async fn comments(
        &self,
        post: PostId,
        viewer: UserId,
        page: &PageRequest,
    ) -> Result<Option<Page<CommentView>>, ReadError> {
        self.read(|pool| comments(pool, post, viewer, page)).await
    }

    async fn home(&self, viewer: UserId, page: &PageRequest) -> Result<Page<PostView>, ReadError> {
        self.read(|pool| home_page(pool, viewer, page)).await
    }

    async fn home_after(
        &self,
        viewer: UserId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<FeedItem>, ReadError> {
        self.read(|pool| home_after(pool, viewer, after, limit))
            .await
    }

    async fn all_posts_of(
        &self,
        author: UserId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<FeedItem>, ReadError> {
        self.read(|pool| all_posts_of(pool, author, after, limit))
            .await
    }

    async fn post_for_media(
        &self,
        id: PostId,
        viewer: Option<UserId>,
    ) -> Result<Option<Visibility>, ReadError> {
        self.read(|pool| post_for_media(pool, id, viewer)).await
    }
}

fn post_page(posts: Vec<PostView>, limit: usize) -> Page<PostView> {
    Page::cut(posts, limit, |post| post.position.to_string())
}

/// Reads the rows of a list that hangs on one row by an outer join: the row alone, its list's key being null, is an empty
/// list.
fn list<T>(
    rows: &[PgRow],
    key: usize,
    read: impl Fn(&PgRow) -> sqlx::Result<T>,
) -> sqlx::Result<Vec<T>> {
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        if row.try_get::<Option<i64>, _>(key)?.is_some() {
            items.push(read(row)?);
        }
    }
    Ok(items)
}

async fn posts(pool: Pool, ids: &[Uuid], viewer: UserId) -> sqlx::Result<Vec<PostView>> {
    let rows = sqlx::query(views::BY_IDS)
        .bind(viewer.0)
        .bind(ids)
        .fetch_all(&pool)
        .await?;
    rows.iter().map(views::read).collect()
}

async fn profile(pool: Pool, id: UserId, viewer: UserId) -> sqlx::Result<Option<Profile>> {
    let row = sqlx::query(
        "SELECT p.name, p.username, NULLIF(p.avatar, ''), NULLIF(p.bio, ''),
                COALESCE(p.created_at, 0), COALESCE(t.followers, 0), COALESCE(t.following, 0),
                COALESCE(t.posts, 0), f.since IS NOT NULL
         FROM people p LEFT JOIN tallies t ON t.user_id = p.id
         LEFT JOIN follows f ON f.followed_id = p.id AND f.follower_id = $2
         WHERE p.id = $1 AND p.username_lower IS NOT NULL",
    )
    .bind(id.0)
    .bind(viewer.0)
    .fetch_optional(&pool)
    .await?;
    let read = |row: PgRow| {
        Ok(Profile {
            id,
            name: row.try_get(0)?,
            username: row.try_get(1)?,
            avatar: row.try_get(2)?,
            bio: row.try_get(3)?,
            created_at: Timestamp(row.try_get(4)?),
            followers_count: from_sql(row.try_get(5)?),
            following_count: from_sql(row.try_get(6)?),
            posts_count: from_sql(row.try_get(7)?),
            is_following: row.try_get(8)?,
        })
    };
    row.map(read).transpose()
}

/// The people found in the order of their usernames: two index ranges, and no one twice.
const SEARCH_SQL: &str = r#"
    SELECT p.id, p.username, p.name, NULLIF(p.avatar, ''), found.username_lower FROM (
        SELECT username_lower, id FROM people
        WHERE username_lower >= $1 AND username_lower < $2 AND (username_lower, id) > ($3, $4)
        UNION ALL
        SELECT username_lower, id FROM people
        WHERE name_lower >= $1 AND name_lower < $2 AND username_lower IS NOT NULL
            AND NOT (username_lower >= $1 AND username_lower < $2)
            AND (username_lower, id) > ($3, $4)
        ORDER BY 1, 2 LIMIT $5 OFFSET $6
    ) AS found JOIN people p ON p.id = found.id
    ORDER BY found.username_lower, found.id"#;

async fn search(
    pool: Pool,
    prefix: String,
    page: &PageRequest,
) -> sqlx::Result<Page<PersonSummary>> {
    if prefix.contains('\0') {
        // Postgres has no text with that character, so nobody's name begins like this.
        return Ok(Page {
            items: Vec::new(),
            next: None,
        });
    }
    // Everything that starts with the text sorts below the text followed by the last of all characters.
    let end = format!("{prefix}{}", char::MAX);
    let (username, id) = search_start(page);
    let rows = sqlx::query(SEARCH_SQL)
        .bind(prefix)
        .bind(end)
        .bind(username)
        .bind(id)
        .bind(to_sql(page.one_more() as u64))
        .bind(to_sql(page.offset()))
        .fetch_all(&pool)
        .await?;
    let read = |row: &PgRow| Ok((person(row)?, row.try_get::<String, _>(4)?));
    let found = rows.iter().map(read).collect::<sqlx::Result<Vec<_>>>()?;
    Ok(Page::cut(found, page.limit, search_key).map(|(person, _)| person))
}

/// The columns `id, username, name, avatar`.
fn person(row: &PgRow) -> sqlx::Result<PersonSummary> {
    Ok(PersonSummary {
        id: UserId(row.try_get(0)?),
        username: row.try_get(1)?,
        name: row.try_get(2)?,
        avatar: row.try_get(3)?,
    })
}

async fn recent(pool: Pool, limit: usize) -> sqlx::Result<Vec<RecentPost>> {
    let rows = sqlx::query(
        "SELECT p.id, s.likes, s.comments, p.created_at FROM posts p JOIN post_states s ON s.id = p.id
         WHERE p.visibility = 0 ORDER BY p.position DESC LIMIT $1",
    )
    .bind(to_sql(limit as u64))
    .fetch_all(&pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(RecentPost {
                post_id: PostId(row.try_get(0)?),
                like_count: from_sql(row.try_get(1)?),
                comment_count: from_sql(row.try_get(2)?),
                created_at: Timestamp(row.try_get(3)?),
            })
        })
        .collect()
}

const FOLLOWERS_SQL: &str = "
    SELECT p.id, p.username, p.name, NULLIF(p.avatar, ''), f.followed_at, f.since
    FROM people known LEFT JOIN LATERAL (
        SELECT follower_id AS id, followed_at, since FROM follows
        WHERE followed_id = known.id AND since < $2 ORDER BY since DESC LIMIT $3 OFFSET $4
    ) AS f ON true LEFT JOIN people p ON p.id = f.id AND p.username IS NOT NULL
    WHERE known.id = $1 AND known.username_lower IS NOT NULL ORDER BY f.since DESC";

const FOLLOWING_SQL: &str = "
    SELECT p.id, p.username, p.name, NULLIF(p.avatar, ''), f.followed_at, f.since
    FROM people known LEFT JOIN LATERAL (
        SELECT followed_id AS id, followed_at, since FROM follows
        WHERE follower_id = known.id AND since < $2 ORDER BY since DESC LIMIT $3 OFFSET $4
    ) AS f ON true LEFT JOIN people p ON p.id = f.id AND p.username IS NOT NULL
    WHERE known.id = $1 AND known.username_lower IS NOT NULL ORDER BY f.since DESC";

/// A page of followers or followed. People whose registration is not known yet are left out until it is: their page is
/// that much shorter.
async fn follow_page(
    pool: Pool,
    sql: &'static str,
    id: UserId,
    page: &PageRequest,
) -> sqlx::Result<Option<Page<FollowEntry>>> {
    let rows = sqlx::query(sql)
        .bind(id.0)
        .bind(to_sql(page.beyond(Position::MAX)))
        .bind(to_sql(page.one_more() as u64))
        .bind(to_sql(page.offset()))
        .fetch_all(&pool)
        .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let entries = list(&rows, 5, |row| {
        Ok((from_sql(row.try_get(5)?), follow_entry(row)?))
    })?;
    let Page { items, next } = Page::cut_by_position(entries, page.limit);
    Ok(Some(Page {
        items: items.into_iter().flatten().collect(),
        next,
    }))
}

fn follow_entry(row: &PgRow) -> sqlx::Result<Option<FollowEntry>> {
    if row.try_get::<Option<&str>, _>(1)?.is_none() {
        return Ok(None);
    }
    Ok(Some(FollowEntry {
        person: person(row)?,
        followed_at: Timestamp(row.try_get(4)?),
    }))
}

/// Whether the viewer follows the author is asked once, not for each post.
const POSTS_OF_SQL: &str = concat!(
    "SELECT ",
    view_columns!(),
    " FROM (
         SELECT k.id, CASE WHEN k.id = $1 THEN 2 WHEN f.since IS NOT NULL THEN 1 ELSE 0 END AS sees
         FROM people k LEFT JOIN follows f ON f.follower_id = $1 AND f.followed_id = k.id
         WHERE k.id = $2 AND k.username_lower IS NOT NULL) known
     LEFT JOIN LATERAL (
         SELECT * FROM posts
         WHERE author_id = known.id AND visibility <= known.sees AND position < $3
         ORDER BY position DESC LIMIT $4 OFFSET $5) p ON true",
    view_joins!(),
    "ORDER BY p.position DESC"
);

async fn posts_of(
    pool: Pool,
    author: UserId,
    viewer: UserId,
    page: &PageRequest,
) -> sqlx::Result<Option<Page<PostView>>> {
    let rows = sqlx::query(POSTS_OF_SQL)
        .bind(viewer.0)
        .bind(author.0)
        .bind(to_sql(page.beyond(Position::MAX)))
        .bind(to_sql(page.one_more() as u64))
        .bind(to_sql(page.offset()))
        .fetch_all(&pool)
        .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    Ok(Some(post_page(list(&rows, 11, views::read)?, page.limit)))
}

async fn home_page(pool: Pool, viewer: UserId, page: &PageRequest) -> sqlx::Result<Page<PostView>> {
    // A page number beyond everything must not walk through everything.
    if page.offset() > FAR_DOWN {
        let most: i64 = sqlx::query_scalar(home::FOLLOWED_POSTS)
            .bind(viewer.0)
            .fetch_one(&pool)
            .await?;
        if page.offset() >= from_sql(most) {
            return Ok(post_page(Vec::new(), page.limit));
        }
    }
    let (posts, horizon) = home_posts(&pool, home::PAGE, viewer, page).await?;
    if horizon == 0 || posts.len() > page.limit {
        return Ok(post_page(posts, page.limit));
    }
    let (posts, _) = home_posts(&pool, home::PULLED_PAGE, viewer, page).await?;
    Ok(post_page(posts, page.limit))
}

async fn home_posts(
    pool: &Pool,
    sql: &'static str,
    viewer: UserId,
    page: &PageRequest,
) -> sqlx::Result<(Vec<PostView>, Position)> {
    let (offset, limit) = (to_sql(page.offset()), to_sql(page.one_more() as u64));
    let rows = sqlx::query(sql)
        .bind(viewer.0)
        .bind(to_sql(page.beyond(Position::MAX)))
        .bind(offset)
        .bind(limit)
        .bind(offset.saturating_add(limit))
        .fetch_all(pool)
        .await?;
    let horizon = rows.first().map_or(Ok(0), |row| row.try_get(12))?;
    Ok((list(&rows, 11, views::read)?, from_sql(horizon)))
}

async fn home_after(
    pool: Pool,
    viewer: UserId,
    after: Position,
    limit: usize,
) -> sqlx::Result<Vec<FeedItem>> {
    let (items, horizon) = newer_posts(&pool, home::NEWER, viewer, after, limit).await?;
    if after >= horizon {
        return Ok(items);
    }
    let (items, _) = newer_posts(&pool, home::PULLED_NEWER, viewer, after, limit).await?;
    Ok(items)
}

async fn all_posts_of(
    pool: Pool,
    author: UserId,
    after: Position,
    limit: usize,
) -> sqlx::Result<Vec<FeedItem>> {
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(
        "SELECT id, position FROM posts WHERE author_id = $1 AND position > $2
         ORDER BY position LIMIT $3",
    )
    .bind(author.0)
    .bind(to_sql(after))
    .bind(to_sql(limit as u64))
    .fetch_all(&pool)
    .await?;
    let item = |(id, position)| FeedItem {
        post_id: PostId(id),
        position: from_sql(position),
    };
    Ok(rows.into_iter().map(item).collect())
}

async fn newer_posts(
    pool: &Pool,
    sql: &'static str,
    viewer: UserId,
    after: Position,
    limit: usize,
) -> sqlx::Result<(Vec<FeedItem>, Position)> {
    let rows = sqlx::query(sql)
        .bind(viewer.0)
        .bind(to_sql(after))
        .bind(to_sql(limit as u64))
        .fetch_all(pool)
        .await?;
    let horizon = rows.first().map_or(Ok(0), |row| row.try_get(2))?;
    let items = list(&rows, 1, |row| {
        Ok(FeedItem {
            post_id: PostId(row.try_get(0)?),
            position: from_sql(row.try_get(1)?),
        })
    })?;
    Ok((items, from_sql(horizon)))
}

const COMMENTS_SQL: &str = concat!(
    "SELECT c.id, c.user_id, COALESCE(a.username, c.username), c.comment, c.created_at, c.created
     FROM post_states s JOIN posts p ON p.position = s.created
     LEFT JOIN LATERAL (
         SELECT * FROM comments WHERE post_id = s.id AND created > $3
         ORDER BY created LIMIT $4 OFFSET $5) c ON true
     LEFT JOIN people a ON a.id = c.user_id
     WHERE s.id = $2 AND s.created <> 0 AND NOT s.deleted AND ",
    may_see!(),
    " ORDER BY c.created"
);

async fn comments(
    pool: Pool,
    post: PostId,
    viewer: UserId,
    page: &PageRequest,
) -> sqlx::Result<Option<Page<CommentView>>> {
    let rows = sqlx::query(COMMENTS_SQL)
        .bind(viewer.0)
        .bind(post.0)
        .bind(to_sql(page.beyond(0)))
        .bind(to_sql(page.one_more() as u64))
        .bind(to_sql(page.offset()))
        .fetch_all(&pool)
        .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let comments = list(&rows, 5, |row| {
        let comment = CommentView {
            id: CommentId(row.try_get(0)?),
            post_id: post,
            user_id: UserId(row.try_get(1)?),
            username: row.try_get(2)?,
            comment: row.try_get(3)?,
            created_at: Timestamp(row.try_get(4)?),
        };
        Ok((from_sql(row.try_get(5)?), comment))
    })?;
    Ok(Some(Page::cut_by_position(comments, page.limit)))
}

const VISIBILITY_SQL: &str = concat!(
    "SELECT p.visibility FROM post_states s JOIN posts p ON p.position = s.created
     WHERE s.id = $2 AND s.created <> 0 AND NOT s.deleted AND ",
    may_see!()
);

/// A post's visibility, if the viewer may see it; nobody in particular sees what is public.
async fn post_for_media(
    pool: Pool,
    id: PostId,
    viewer: Option<UserId>,
) -> sqlx::Result<Option<Visibility>> {
    let code: Option<i16> = sqlx::query_scalar(VISIBILITY_SQL)
        .bind(viewer.map(|viewer| viewer.0))
        .bind(id.0)
        .fetch_optional(&pool)
        .await?;
    Ok(code.map(visibility_of))
}
