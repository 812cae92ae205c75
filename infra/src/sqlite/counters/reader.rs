//! Queries on the counters.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use socialhub_domain::{PostId, UserId};
use socialhub_projections::{
    ReadError,
    counters::{CounterReader, PersonCounts, PostCounts, TrendingPost},
    page::{Page, PageRequest},
};

use crate::sqlite::{
    connection::{from_sql, id_bytes, read_id, to_sql},
    generations::CurrentReaders,
};

/// Reads the current generation of the `counters` model. Its store commits counts and checkpoint together, so it always
/// answers.
#[derive(Debug, Clone)]
pub struct SqliteCounterReader {
    readers: CurrentReaders,
}

impl SqliteCounterReader {
    /// A reader of whichever generation is current.
    pub fn new(readers: CurrentReaders) -> Self {
        Self { readers }
    }

    async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ReadError> {
        let answer = self.readers.current().run(query).await;
        answer.map_err(|error| ReadError(error.to_string()))
    }
}

#[async_trait]
impl CounterReader for SqliteCounterReader {
    async fn post_counts(&self, ids: &[PostId]) -> Result<Option<Vec<PostCounts>>, ReadError> {
        let ids = ids.to_vec();
        self.run(move |connection| post_counts(connection, &ids))
            .await
            .map(Some)
    }

    async fn person_counts(&self, id: UserId) -> Result<Option<PersonCounts>, ReadError> {
        self.run(move |connection| person_counts(connection, id))
            .await
            .map(Some)
    }

    async fn trending(&self, page: &PageRequest) -> Result<Option<Page<TrendingPost>>, ReadError> {
        let page = page.clone();
        self.run(move |connection| trending(connection, &page))
            .await
            .map(Some)
    }
}

fn post_counts(connection: &mut Connection, ids: &[PostId]) -> rusqlite::Result<Vec<PostCounts>> {
    // One snapshot for all of them.
    let transaction = connection.transaction()?;
    let mut query =
        transaction.prepare_cached("SELECT likes, comments FROM post_counter WHERE post = ?1")?;
    ids.iter()
        .map(|id| {
            let counts = query.query_row([id_bytes(id.0)], |row| {
                Ok(PostCounts {
                    likes: from_sql(row.get(0)?),
                    comments: from_sql(row.get(1)?),
                })
            });
            Ok(counts.optional()?.unwrap_or_default())
        })
        .collect()
}

fn person_counts(connection: &mut Connection, id: UserId) -> rusqlite::Result<PersonCounts> {
    let mut query = connection.prepare_cached(
        "SELECT followers, following, posts FROM person_counter WHERE person = ?1",
    )?;
    let counts = query.query_row([id_bytes(id.0)], |row| {
        Ok(PersonCounts {
            followers: from_sql(row.get(0)?),
            following: from_sql(row.get(1)?),
            posts: from_sql(row.get(2)?),
        })
    });
    Ok(counts.optional()?.unwrap_or_default())
}

fn trending(
    connection: &mut Connection,
    page: &PageRequest,
) -> rusqlite::Result<Page<TrendingPost>> {
    let wanted = page.limit as u64;
    let items: Vec<TrendingPost> = match TrendingPost::start(page) {
        Some(start) => connection
            .prepare_cached(
                "SELECT post, score FROM post_counter
                 WHERE score IS NOT NULL AND (score, post) < (?1, ?2)
                 ORDER BY score DESC, post DESC LIMIT ?3",
            )?
            .query_map(
                params![
                    start.log2_score,
                    id_bytes(start.post_id.0),
                    to_sql(wanted + 1)
                ],
                item,
            )?
            .collect::<rusqlite::Result<_>>()?,
        None => connection
            .prepare_cached(
                "SELECT post, score FROM post_counter WHERE score IS NOT NULL
                 ORDER BY score DESC, post DESC LIMIT ?1 OFFSET ?2",
            )?
            .query_map([to_sql(wanted + 1), to_sql(page.offset())], item)?
            .collect::<rusqlite::Result<_>>()?,
    };
    Ok(TrendingPost::page(items, page.limit))
}

fn item(row: &Row<'_>) -> rusqlite::Result<TrendingPost> {
    Ok(TrendingPost {
        post_id: PostId(read_id(row, 0)?),
        log2_score: row.get(1)?,
    })
}
