//! Posts of many sources in the order of their positions, taken lazily: the cost is one index step for each source and a
//! few for each post taken, whatever the sources hold.

use std::collections::{BinaryHeap, VecDeque};

use rusqlite::{Connection, OptionalExtension, ToSql, params};
use socialhub_domain::UserId;
use socialhub_event_log::Position;
use uuid::Uuid;

use crate::sqlite::{
    connection::{from_sql, id_bytes, read_id, to_sql},
    feed::{FOLLOWERS, PUBLIC},
};

/// Which way a merge goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Positions fall.
    NewestFirst,
    /// Positions rise.
    OldestFirst,
}

/// The most that is read of one source at a time.
const LARGEST_CHUNK: usize = 256;

/// Where positions come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// The timeline of a person.
    Timeline(Uuid),
    /// The posts of an author with one visibility.
    Author(Uuid, i64),
}

#[derive(Debug)]
struct Stream {
    source: Source,
    /// Read and not taken yet.
    ready: VecDeque<Position>,
    /// Beyond which position to read on.
    beyond: Position,
    chunk: usize,
    ended: bool,
}

/// A merge of streams.
pub(super) struct Merge<'c> {
    connection: &'c Connection,
    order: Order,
    streams: Vec<Stream>,
    /// The next position of each stream that has one, the first to be taken on top.
    heads: BinaryHeap<(i64, usize)>,
    last: Option<Position>,
    /// Whose feed is continued below the horizon when its timeline ends.
    viewer: Option<Uuid>,
}

impl<'c> Merge<'c> {
    /// A merge of the given sources beyond a position. `wanted` is how many will probably be taken.
    pub(super) fn new(
        connection: &'c Connection,
        order: Order,
        sources: &[Source],
        beyond: Position,
        wanted: usize,
    ) -> rusqlite::Result<Self> {
        let mut merge = Self {
            connection,
            order,
            streams: Vec::with_capacity(sources.len()),
            heads: BinaryHeap::with_capacity(sources.len()),
            last: None,
            viewer: None,
        };
        merge.add(sources, beyond, wanted)?;
        Ok(merge)
    }

    /// The home feed of a person, newest first, older than a position: the timeline and the authors merged at read; below
    /// the horizon all authors.
    pub(super) fn home(
        connection: &'c Connection,
        viewer: UserId,
        before: Position,
        wanted: usize,
    ) -> rusqlite::Result<Self> {
        let merged = authors(merged_authors(connection, viewer.0)?);
        let mut merge = Self::new(connection, Order::NewestFirst, &merged, before, wanted)?;
        merge.viewer = Some(viewer.0);
        merge.add(&[Source::Timeline(viewer.0)], before, wanted)?;
        Ok(merge)
    }

    /// The home feed of a person, oldest first, newer than a position.
    pub(super) fn home_after(
        connection: &'c Connection,
        viewer: UserId,
        after: Position,
        wanted: usize,
    ) -> rusqlite::Result<Self> {
        let sources = if after < horizon(connection, viewer.0)?.unwrap_or(0) {
            authors(followed_authors(connection, viewer.0)?)
        } else {
            let mut sources = authors(merged_authors(connection, viewer.0)?);
            sources.push(Source::Timeline(viewer.0));
            sources
        };
        Self::new(connection, Order::OldestFirst, &sources, after, wanted)
    }

    /// The next position; a position that several streams have comes once.
    pub(super) fn next(&mut self) -> rusqlite::Result<Option<Position>> {
        while let Some((_, index)) = self.heads.pop() {
            let position = self.streams[index].ready.pop_front();
            self.advance(index)?;
            if position.is_some() && position != self.last {
                self.last = position;
                return Ok(position);
            }
        }
        Ok(None)
    }

    fn add(&mut self, sources: &[Source], beyond: Position, wanted: usize) -> rusqlite::Result<()> {
        // Of many sources each will give little: their heads first.
        let chunk = (2 * wanted / sources.len().max(1)).clamp(1, wanted.clamp(1, LARGEST_CHUNK));
        for source in sources {
            self.streams.push(Stream {
                source: *source,
                ready: VecDeque::new(),
                beyond,
                chunk,
                ended: false,
            });
            self.advance(self.streams.len() - 1)?;
        }
        Ok(())
    }

    /// Puts the head of a stream in its place, reading on when nothing is ready.
    fn advance(&mut self, index: usize) -> rusqlite::Result<()> {
        let stream = &mut self.streams[index];
        if stream.ready.is_empty() && !stream.ended {
            read_on(self.connection, self.order, stream)?;
        }
        if let Some(head) = stream.ready.front() {
            let rank = match self.order {
                Order::NewestFirst => to_sql(*head),
                Order::OldestFirst => -to_sql(*head),
            };
            self.heads.push((rank, index));
            return Ok(());
        }
        let beyond = stream.beyond;
        if matches!(stream.source, Source::Timeline(_)) {
            self.go_below_horizon(beyond)?;
        }
        Ok(())
    }

    /// A timeline has ended: what is at or below its horizon comes from the authors.
    fn go_below_horizon(&mut self, before: Position) -> rusqlite::Result<()> {
        let Some(viewer) = self.viewer.take() else {
            return Ok(());
        };
        let Some(horizon) = horizon(self.connection, viewer)? else {
            return Ok(());
        };
        let merged = merged_authors(self.connection, viewer)?;
        let mut ordinary = followed_authors(self.connection, viewer)?;
        ordinary.retain(|author| !merged.contains(author));
        let before = before.min(horizon.saturating_add(1));
        self.add(&authors(ordinary), before, 1)
    }
}

fn read_on(connection: &Connection, order: Order, stream: &mut Stream) -> rusqlite::Result<()> {
    let (beyond, limit) = (to_sql(stream.beyond), to_sql(stream.chunk as u64));
    match stream.source {
        Source::Timeline(user) => {
            let row = params![id_bytes(user), beyond, limit];
            fill(connection, timeline_sql(order), row, &mut stream.ready)?;
        }
        Source::Author(author, visibility) => {
            let row = params![id_bytes(author), visibility, beyond, limit];
            fill(connection, author_sql(order), row, &mut stream.ready)?;
        }
    }
    stream.ended = stream.ready.len() < stream.chunk;
    stream.chunk = (stream.chunk * 2).min(LARGEST_CHUNK);
    if let Some(last) = stream.ready.back() {
        stream.beyond = *last;
    }
    Ok(())
}

fn fill(
    connection: &Connection,
    sql: &str,
    values: &[&dyn ToSql],
    into: &mut VecDeque<Position>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(values)?;
    while let Some(row) = rows.next()? {
        into.push_back(from_sql(row.get(0)?));
    }
    Ok(())
}

/// Rows of deleted posts are left out here, so that whoever counts posts counts those that are there.
fn timeline_sql(order: Order) -> &'static str {
    match order {
        Order::NewestFirst => {
            "SELECT t.position FROM timeline t CROSS JOIN posts p ON p.position = t.position
             WHERE t.user_id = ?1 AND t.position < ?2 ORDER BY t.position DESC LIMIT ?3"
        }
        Order::OldestFirst => {
            "SELECT t.position FROM timeline t CROSS JOIN posts p ON p.position = t.position
             WHERE t.user_id = ?1 AND t.position > ?2 ORDER BY t.position LIMIT ?3"
        }
    }
}

fn author_sql(order: Order) -> &'static str {
    match order {
        Order::NewestFirst => {
            "SELECT position FROM posts WHERE author_id = ?1 AND visibility = ?2 AND position < ?3
             ORDER BY position DESC LIMIT ?4"
        }
        Order::OldestFirst => {
            "SELECT position FROM posts WHERE author_id = ?1 AND visibility = ?2 AND position > ?3
             ORDER BY position LIMIT ?4"
        }
    }
}

/// What a follower sees of authors.
fn authors(ids: Vec<Uuid>) -> Vec<Source> {
    ids.into_iter()
        .flat_map(|id| [Source::Author(id, PUBLIC), Source::Author(id, FOLLOWERS)])
        .collect()
}

fn merged_authors(connection: &Connection, viewer: Uuid) -> rusqlite::Result<Vec<Uuid>> {
    connection
        .prepare_cached("SELECT author_id FROM merged_authors WHERE follower_id = ?1")?
        .query_map([id_bytes(viewer)], |row| read_id(row, 0))?
        .collect()
}

fn followed_authors(connection: &Connection, viewer: Uuid) -> rusqlite::Result<Vec<Uuid>> {
    connection
        .prepare_cached(
            "SELECT followed_id FROM follows WHERE follower_id = ?1 AND since IS NOT NULL",
        )?
        .query_map([id_bytes(viewer)], |row| read_id(row, 0))?
        .collect()
}

fn horizon(connection: &Connection, viewer: Uuid) -> rusqlite::Result<Option<Position>> {
    connection
        .prepare_cached("SELECT position FROM horizons WHERE user_id = ?1")?
        .query_row([id_bytes(viewer)], |row| row.get(0).map(from_sql))
        .optional()
}
