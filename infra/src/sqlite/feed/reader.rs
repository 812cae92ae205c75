//! Answering queries.
//!
//! Keys of pages: the position of the last item as a number; for a search `username/id`, the username in lower case. A
//! key that cannot be read asks for the first page: whoever hands keys to clients seals them.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use socialhub_domain::{CommentId, PostId, Timestamp, UserId, event::Visibility};
use socialhub_event_log::Position;
use socialhub_projections::{
    Page, PageRequest, ReadError,
    feed::{
        CommentView, FeedItem, FeedReader, FollowEntry, PersonSummary, PostView, Profile,
        RecentPost,
    },
};
use uuid::Uuid;

use crate::{
    feed::{FAR_DOWN, lower, search_key, search_start},
    sqlite::{
        connection::{from_sql, id_bytes, read_id, to_sql},
        feed::{
            FOLLOWERS, PRIVATE, PUBLIC,
            merge::{Merge, Order, Source},
            views, visibility_of,
        },
        generations::CurrentReaders,
    },
};

/// Reads the current generation of the `feed` model.
#[derive(Debug, Clone)]
pub struct SqliteFeedReader {
    readers: CurrentReaders,
}

impl SqliteFeedReader {
    /// A reader over the readers of the current generation.
    pub fn new(readers: CurrentReaders) -> Self {
        Self { readers }
    }

    /// Runs a query that sees one state of the model throughout.
    async fn read<T, F>(&self, query: F) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.readers
            .current()
            .run(move |connection| query(&*connection.transaction()?))
            .await
            .map_err(|error| ReadError(error.to_string()))
    }
}

#[async_trait]
impl FeedReader for SqliteFeedReader {
    async fn profile(&self, id: UserId, viewer: UserId) -> Result<Option<Profile>, ReadError> {
        self.read(move |connection| profile(connection, id, viewer))
            .await
    }

    async fn search(
        &self,
        prefix: &str,
        page: &PageRequest,
    ) -> Result<Page<PersonSummary>, ReadError> {
        let (prefix, page) = (lower(prefix), page.clone());
        self.read(move |connection| search(connection, &prefix, &page))
            .await
    }

    async fn recent(&self, limit: usize) -> Result<Vec<RecentPost>, ReadError> {
        self.read(move |connection| recent(connection, limit)).await
    }

    async fn followers(
        &self,
        id: UserId,
        page: &PageRequest,
    ) -> Result<Option<Page<FollowEntry>>, ReadError> {
        let page = page.clone();
        self.read(move |connection| follow_page(connection, FOLLOWERS_SQL, id, &page))
            .await
    }

    async fn following(
        &self,
        id: UserId,
        page: &PageRequest,
    ) -> Result<Option<Page<FollowEntry>>, ReadError> {
        let page = page.clone();
        self.read(move |connection| follow_page(connection, FOLLOWING_SQL, id, &page))
            .await
    }

    async fn post(&self, id: PostId, viewer: UserId) -> Result<Option<PostView>, ReadError> {
        self.read(move |connection| views::by_id(connection, id, viewer))
            .await
    }

    async fn posts(&self, ids: &[PostId], viewer: UserId) -> Result<Vec<PostView>, ReadError> {
        let ids = ids.to_vec();
        self.read(move |connection| {
            let mut posts = Vec::with_capacity(ids.len());
            for id in ids {
                posts.extend(views::by_id(connection, id, viewer)?);
            }
            Ok(posts)
        })
        .await
    }

    async fn posts_of(
        &self,
        author: UserId,
        viewer: UserId,
        page: &PageRequest,
    ) -> Result<Option<Page<PostView>>, ReadError> {
        let page = page.clone();
        self.read(move |connection| posts_of(connection, author, viewer, &page))
            .await
    }

    async fn all_posts_of(
        &self,
        author: UserId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<FeedItem>, ReadError> {
        self.read(move |connection| all_posts_of(connection, author, after, limit))
            .await
    }

    async fn comments(
        &self,
        post: PostId,
        viewer: UserId,
        page: &PageRequest,
    ) -> Result<Option<Page<CommentView>>, ReadError> {
        let page = page.clone();
        self.read(move |connection| comments(connection, post, viewer, &page))
            .await
    }

    async fn home(&self, viewer: UserId, page: &PageRequest) -> Result<Page<PostView>, ReadError> {
        let page = page.clone();
        self.read(move |connection| home(connection, viewer, &page))
            .await
    }

    async fn home_after(
        &self,
        viewer: UserId,
        after: Position,
        limit: usize,
    ) -> Result<Vec<FeedItem>, ReadError> {
        self.read(move |connection| home_after(connection, viewer, after, limit))
            .await
    }

    async fn post_for_media(
        &self,
        id: PostId,
        viewer: Option<UserId>,
    ) -> Result<Option<Visibility>, ReadError> {
        self.read(move |connection| post_for_media(connection, id, viewer))
            .await
    }
}

/// Whether somebody has the id: nobody has that of the erased any more.
fn is_registered(connection: &Connection, id: UserId) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM people WHERE id = ?1 AND username_lower IS NOT NULL")?
        .exists([id_bytes(id.0)])
}

fn profile(
    connection: &Connection,
    id: UserId,
    viewer: UserId,
) -> rusqlite::Result<Option<Profile>> {
    connection
        .prepare_cached(
            "SELECT p.name, p.username, p.avatar, p.bio, p.created_at, COALESCE(t.followers, 0),
                    COALESCE(t.following, 0), COALESCE(t.posts, 0), f.since IS NOT NULL
             FROM people p LEFT JOIN tallies t ON t.user_id = p.id
             LEFT JOIN follows f ON f.followed_id = p.id AND f.follower_id = ?2
             WHERE p.id = ?1 AND p.username_lower IS NOT NULL",
        )?
        .query_row(params![id_bytes(id.0), id_bytes(viewer.0)], |row| {
            Ok(Profile {
                id,
                name: row.get(0)?,
                username: row.get(1)?,
                avatar: row.get(2)?,
                bio: row.get(3)?,
                created_at: Timestamp(row.get(4)?),
                followers_count: from_sql(row.get(5)?),
                following_count: from_sql(row.get(6)?),
                posts_count: from_sql(row.get(7)?),
                is_following: row.get(8)?,
            })
        })
        .optional()
}

/// The people found in the order of their usernames: two index ranges, each in that order, and no one twice.
const SEARCH_SQL: &str = "
    SELECT p.id, p.username, p.name, p.avatar, found.username_lower FROM (
        SELECT username_lower, id FROM people
        WHERE username_lower >= ?1 AND username_lower < ?2
            AND (username_lower, id) > (?3, ?4)
        UNION ALL
        SELECT username_lower, id FROM people
        WHERE name_lower >= ?1 AND name_lower < ?2 AND username_lower IS NOT NULL
            AND NOT (username_lower >= ?1 AND username_lower < ?2)
            AND (username_lower, id) > (?3, ?4)
        ORDER BY 1, 2 LIMIT ?5 OFFSET ?6
    ) AS found CROSS JOIN people p ON p.id = found.id
    ORDER BY found.username_lower, found.id";

fn search(
    connection: &Connection,
    prefix: &str,
    page: &PageRequest,
) -> rusqlite::Result<Page<PersonSummary>> {
    // Everything that starts with the text sorts below the text followed by the last of all characters.
    let end = format!("{prefix}{}", char::MAX);
    let (username, id) = search_start(page);
    let rows = connection
        .prepare_cached(SEARCH_SQL)?
        .query_map(
            params![
                prefix,
                end,
                username,
                id_bytes(id),
                to_sql(page.one_more() as u64),
                to_sql(page.offset())
            ],
            |row| Ok((person(row)?, row.get::<_, String>(4)?)),
        )?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(Page::cut(rows, page.limit, search_key).map(|(person, _)| person))
}

/// The columns `id, username, name, avatar`.
fn person(row: &Row<'_>) -> rusqlite::Result<PersonSummary> {
    Ok(PersonSummary {
        id: UserId(read_id(row, 0)?),
        username: row.get(1)?,
        name: row.get(2)?,
        avatar: row.get(3)?,
    })
}

fn recent(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<RecentPost>> {
    connection
        .prepare_cached(
            "SELECT p.id, s.likes, s.comments, p.created_at FROM posts p JOIN post_states s ON s.id = p.id
             WHERE p.visibility = ?1 ORDER BY p.position DESC LIMIT ?2",
        )?
        .query_map(params![PUBLIC, to_sql(limit as u64)], |row| {
            Ok(RecentPost {
                post_id: PostId(read_id(row, 0)?),
                like_count: from_sql(row.get(1)?),
                comment_count: from_sql(row.get(2)?),
                created_at: Timestamp(row.get(3)?),
            })
        })?
        .collect()
}

const FOLLOWERS_SQL: &str = "
    SELECT p.id, p.username, p.name, p.avatar, f.followed_at, f.since FROM (
        SELECT follower_id AS id, followed_at, since FROM follows
        WHERE followed_id = ?1 AND since < ?2 ORDER BY since DESC LIMIT ?3 OFFSET ?4
    ) AS f LEFT JOIN people p ON p.id = f.id AND p.username IS NOT NULL
    ORDER BY f.since DESC";

const FOLLOWING_SQL: &str = "
    SELECT p.id, p.username, p.name, p.avatar, f.followed_at, f.since FROM (
        SELECT followed_id AS id, followed_at, since FROM follows
        WHERE follower_id = ?1 AND since < ?2 ORDER BY since DESC LIMIT ?3 OFFSET ?4
    ) AS f LEFT JOIN people p ON p.id = f.id AND p.username IS NOT NULL
    ORDER BY f.since DESC";

/// A page of followers or followed. People whose registration is not known yet are left out until it is: their page is
/// that much shorter.
fn follow_page(
    connection: &Connection,
    sql: &str,
    id: UserId,
    page: &PageRequest,
) -> rusqlite::Result<Option<Page<FollowEntry>>> {
    if !is_registered(connection, id)? {
        return Ok(None);
    }
    let rows = connection
        .prepare_cached(sql)?
        .query_map(
            params![
                id_bytes(id.0),
                to_sql(page.beyond(Position::MAX)),
                to_sql(page.one_more() as u64),
                to_sql(page.offset()),
            ],
            |row| Ok((from_sql(row.get(5)?), follow_entry(row)?)),
        )?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let Page { items, next } = Page::cut_by_position(rows, page.limit);
    Ok(Some(Page {
        items: items.into_iter().flatten().collect(),
        next,
    }))
}

fn follow_entry(row: &Row<'_>) -> rusqlite::Result<Option<FollowEntry>> {
    if row.get::<_, Option<String>>(1)?.is_none() {
        return Ok(None);
    }
    Ok(Some(FollowEntry {
        person: person(row)?,
        followed_at: Timestamp(row.get(4)?),
    }))
}

/// Takes a page's positions from a merge.
fn take_page(mut merge: Merge<'_>, page: &PageRequest) -> rusqlite::Result<Page<Position>> {
    for _ in 0..page.offset() {
        if merge.next()?.is_none() {
            return Ok(Page::empty());
        }
    }
    let mut positions = Vec::with_capacity(page.one_more());
    while positions.len() < page.one_more() {
        match merge.next()? {
            Some(position) => positions.push(position),
            None => break,
        }
    }
    Ok(Page::cut(positions, page.limit, Position::to_string))
}

/// How many positions a page will take from a merge.
fn wanted(page: &PageRequest) -> usize {
    usize::try_from(page.offset())
        .unwrap_or(usize::MAX)
        .saturating_add(page.one_more())
        .min(FAR_DOWN as usize)
}

fn posts_of(
    connection: &Connection,
    author: UserId,
    viewer: UserId,
    page: &PageRequest,
) -> rusqlite::Result<Option<Page<PostView>>> {
    if !is_registered(connection, author)? {
        return Ok(None);
    }
    let mut sources = Vec::new();
    for visibility in [PUBLIC, FOLLOWERS, PRIVATE] {
        if views::may_see(connection, Some(viewer), author, visibility)? {
            sources.push(Source::Author(author.0, visibility));
        }
    }
    let before = page.beyond(Position::MAX);
    let merge = Merge::new(
        connection,
        Order::NewestFirst,
        &sources,
        before,
        wanted(page),
    )?;
    let positions = take_page(merge, page)?;
    Ok(Some(Page {
        items: views::at(connection, &positions.items, viewer)?,
        next: positions.next,
    }))
}

fn all_posts_of(
    connection: &Connection,
    author: UserId,
    after: Position,
    limit: usize,
) -> rusqlite::Result<Vec<FeedItem>> {
    let read = |row: &Row<'_>| {
        Ok(FeedItem {
            post_id: PostId(read_id(row, 0)?),
            position: from_sql(row.get(1)?),
        })
    };
    connection
        .prepare_cached(
            "SELECT id, position FROM posts WHERE author_id = ?1 AND position > ?2
             ORDER BY position LIMIT ?3",
        )?
        .query_map(
            params![id_bytes(author.0), to_sql(after), to_sql(limit as u64)],
            read,
        )?
        .collect()
}

pub(super) fn home(
    connection: &Connection,
    viewer: UserId,
    page: &PageRequest,
) -> rusqlite::Result<Page<PostView>> {
    // A page number beyond everything must not walk through everything.
    if page.offset() > FAR_DOWN && page.offset() >= followed_posts(connection, viewer)? {
        return Ok(Page::empty());
    }
    let before = page.beyond(Position::MAX);
    let merge = Merge::home(connection, viewer, before, wanted(page))?;
    let positions = take_page(merge, page)?;
    Ok(Page {
        items: views::at(connection, &positions.items, viewer)?,
        next: positions.next,
    })
}

/// How many posts those have whom somebody follows: at least as many as are in the feed.
fn followed_posts(connection: &Connection, viewer: UserId) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(
            "SELECT COALESCE(SUM(t.posts), 0)
             FROM follows f CROSS JOIN tallies t ON t.user_id = f.followed_id
             WHERE f.follower_id = ?1 AND f.since IS NOT NULL",
        )?
        .query_row([id_bytes(viewer.0)], |row| row.get(0).map(from_sql))
}

pub(super) fn home_after(
    connection: &Connection,
    viewer: UserId,
    after: Position,
    limit: usize,
) -> rusqlite::Result<Vec<FeedItem>> {
    let mut merge = Merge::home_after(connection, viewer, after, limit)?;
    let mut post = connection.prepare_cached("SELECT id FROM posts WHERE position = ?1")?;
    let mut items = Vec::new();
    while items.len() < limit {
        let Some(position) = merge.next()? else { break };
        let id = post.query_row([to_sql(position)], |row| read_id(row, 0))?;
        items.push(FeedItem {
            post_id: PostId(id),
            position,
        });
    }
    Ok(items)
}

fn comments(
    connection: &Connection,
    post: PostId,
    viewer: UserId,
    page: &PageRequest,
) -> rusqlite::Result<Option<Page<CommentView>>> {
    if post_for_media(connection, post, Some(viewer))?.is_none() {
        return Ok(None);
    }
    let rows = connection
        .prepare_cached(
            "SELECT c.id, c.user_id, COALESCE(a.username, c.username), c.comment, c.created_at,
                    c.created
             FROM comments c LEFT JOIN people a ON a.id = c.user_id
             WHERE c.post_id = ?1 AND c.created > ?2 ORDER BY c.created LIMIT ?3 OFFSET ?4",
        )?
        .query_map(
            params![
                id_bytes(post.0),
                to_sql(page.beyond(0)),
                to_sql(page.one_more() as u64),
                to_sql(page.offset()),
            ],
            |row| {
                let comment = CommentView {
                    id: CommentId(read_id(row, 0)?),
                    post_id: post,
                    user_id: UserId(read_id(row, 1)?),
                    username: row.get(2)?,
                    comment: row.get(3)?,
                    created_at: Timestamp(row.get(4)?),
                };
                Ok((from_sql(row.get(5)?), comment))
            },
        )?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(Some(Page::cut_by_position(rows, page.limit)))
}

/// A post's visibility, if the viewer may see it.
fn post_for_media(
    connection: &Connection,
    id: PostId,
    viewer: Option<UserId>,
) -> rusqlite::Result<Option<Visibility>> {
    let found: Option<(Uuid, i64)> = connection
        .prepare_cached(
            "SELECT p.author_id, p.visibility
             FROM post_states s CROSS JOIN posts p ON p.position = s.created
             WHERE s.id = ?1 AND s.created <> 0 AND s.deleted = 0",
        )?
        .query_row([id_bytes(id.0)], |row| Ok((read_id(row, 0)?, row.get(1)?)))
        .optional()?;
    let Some((author, visibility)) = found else {
        return Ok(None);
    };
    let visible = views::may_see(connection, viewer, UserId(author), visibility)?;
    Ok(Some(visibility_of(visibility)).filter(|_| visible))
}
