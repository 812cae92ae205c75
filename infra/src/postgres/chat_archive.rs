//! The chat log's rows as they are, out of the database and into it.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Display,
    time::Duration,
};

use async_trait::async_trait;
use socialhub_chat::{ChatArchive, ChatArchiveError, Known, Meeting, Message, MessageName, RoomId};
use socialhub_domain::{Timestamp, UserId, personal::ERASED_TEXT};
use sqlx::{PgExecutor, Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    chat_log::{SCHEMA, text},
    connect::{Access, OpenError, from_sql, to_sql},
    pool::{Pool, retrying},
    session::Session,
};

/// Copying is no hurry: a page may take long on a busy server.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it waits for a room that somebody else writes.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// One for reading, one for writing.
const CONNECTIONS: usize = 2;

/// A chat log in a Postgres database, opened for copying rows.
#[derive(Debug, Clone)]
pub struct PgChatArchive {
    pool: Pool,
}

impl PgChatArchive {
    /// Opens a chat log that is there and up to date.
    ///
    /// # Errors
    /// When the database cannot be reached, or its schema is not this program's.
    pub async fn connect(url: &str) -> Result<Self, OpenError> {
        let access = Access::new(url, "socialhub-archive", STATEMENT_TIMEOUT, LOCK_TIMEOUT)?;
        SCHEMA.require_current(&access).await?;
        Ok(Self {
            pool: Pool::new(access, CONNECTIONS),
        })
    }
}

fn unavailable(error: impl Display) -> ChatArchiveError {
    ChatArchiveError::Unavailable(error.to_string())
}

fn column<'r, R, T>(rows: &'r [R], of: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

#[async_trait]
impl ChatArchive for PgChatArchive {
    async fn read_messages(
        &self,
        after: Option<(RoomId, u64)>,
        limit: usize,
    ) -> Result<Vec<Message>, ChatArchiveError> {
        let rows = retrying(|| read_messages(&self.pool, after.as_ref(), limit)).await;
        let rows = rows.map_err(unavailable)?;
        rows.iter().map(message).collect()
    }

    async fn compare_messages(
        &self,
        messages: Vec<Message>,
        known: Known,
    ) -> Result<(), ChatArchiveError> {
        let found = retrying(|| find_messages(&self.pool, &messages)).await;
        let found = by_place(&found.map_err(unavailable)?)?;
        for new in &messages {
            if let Some(found) = found.get(&place(new)) {
                Meeting::of(found, new, known)?;
            }
        }
        Ok(())
    }

    async fn write_messages(
        &self,
        messages: Vec<Message>,
        known: Known,
    ) -> Result<u64, ChatArchiveError> {
        let mut transaction = self.pool.begin().await.map_err(unavailable)?;
        let rooms = messages.iter().map(|message| message.room_id.as_str());
        let rooms = lock_rooms(&mut transaction, rooms)
            .await
            .map_err(unavailable)?;
        let (new, there) = sort_out(messages, &rooms)?;
        let erased = compare(&mut transaction, there, known).await?;
        erase_messages(&mut transaction, &erased, &rooms)
            .await
            .map_err(unavailable)?;
        insert_messages(&mut transaction, &new, &rooms)
            .await
            .map_err(unavailable)?;
        transaction.commit().await.map_err(unavailable)?;
        Ok((new.len() + erased.len()) as u64)
    }

    async fn read_names(
        &self,
        after: Option<(RoomId, UserId, String)>,
        limit: usize,
    ) -> Result<Vec<MessageName>, ChatArchiveError> {
        let rows = retrying(|| read_names(&self.pool, after.as_ref(), limit)).await;
        let rows = rows.map_err(unavailable)?;
        let name = |row: &PgRow| -> Result<MessageName, ChatArchiveError> {
            Ok(MessageName {
                room_id: room_id(row)?,
                user_id: UserId(row.try_get(1).map_err(unavailable)?),
                client_id: text(row, 2).map_err(unavailable)?,
                seq: from_sql(row.try_get(3).map_err(unavailable)?),
            })
        };
        rows.iter().map(name).collect()
    }

    async fn compare_names(&self, names: Vec<MessageName>) -> Result<(), ChatArchiveError> {
        let other = retrying(|| other_name(&self.pool, &names)).await;
        require_same_name(other.map_err(unavailable)?)
    }

    async fn write_names(&self, names: Vec<MessageName>) -> Result<u64, ChatArchiveError> {
        let mut transaction = self.pool.begin().await.map_err(unavailable)?;
        let rooms = names.iter().map(|name| name.room_id.as_str());
        let rooms = lock_rooms(&mut transaction, rooms)
            .await
            .map_err(unavailable)?;
        let inserted = insert_names(&mut transaction, &names, &rooms)
            .await
            .map_err(unavailable)?;
        let other = other_name(&mut *transaction, &names).await;
        require_same_name(other.map_err(unavailable)?)?;
        transaction.commit().await.map_err(unavailable)?;
        Ok(inserted)
    }
}

/// A room's name in the first column.
fn room_id(row: &PgRow) -> Result<RoomId, ChatArchiveError> {
    let name: &str = row.try_get(0).map_err(unavailable)?;
    RoomId::parse(name).map_err(unavailable)
}

fn message(row: &PgRow) -> Result<Message, ChatArchiveError> {
    let read = |room_id| -> Result<Message, sqlx::Error> {
        Ok(Message {
            room_id,
            seq: from_sql(row.try_get(1)?),
            id: row.try_get(2)?,
            user_id: UserId(row.try_get(3)?),
            username: text(row, 4)?.into(),
            message: text(row, 5)?,
            timestamp: Timestamp(row.try_get(6)?),
        })
    };
    read(room_id(row)?).map_err(unavailable)
}

/// Both indexes are walked in the order asked for: a page costs what it holds, wherever it begins.
async fn read_messages(
    pool: &Pool,
    after: Option<&(RoomId, u64)>,
    limit: usize,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let sql = "SELECT r.name, m.seq, m.id, m.user_id, m.username, m.message, m.at
         FROM chat_rooms AS r CROSS JOIN LATERAL (
             SELECT * FROM chat_messages AS m
             WHERE m.room = r.room AND m.seq > CASE WHEN r.name = $1 THEN $2::bigint ELSE 0 END
             ORDER BY m.seq LIMIT $3
         ) AS m
         WHERE r.name >= $1 ORDER BY r.name, m.seq LIMIT $3";
    let (room, seq) = after.map_or(("", 0), |(room, seq)| (room.as_str(), *seq));
    sqlx::query(sql)
        .bind(room)
        .bind(to_sql(seq))
        .bind(to_sql(limit as u64))
        .fetch_all(pool)
        .await
}

async fn read_names(
    pool: &Pool,
    after: Option<&(RoomId, UserId, String)>,
    limit: usize,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let sql = "SELECT r.name, c.user_id, c.client_id, c.seq
         FROM chat_rooms AS r CROSS JOIN LATERAL (
             SELECT * FROM chat_client_ids AS c
             WHERE c.room = r.room AND (c.user_id, c.client_id) >
                 (CASE WHEN r.name = $1 THEN $2::uuid ELSE $4::uuid END,
                  CASE WHEN r.name = $1 THEN $3::bytea ELSE ''::bytea END)
             ORDER BY c.user_id, c.client_id LIMIT $5
         ) AS c
         WHERE r.name >= $1 ORDER BY r.name, c.user_id, c.client_id LIMIT $5";
    let nobody = Uuid::nil();
    let (room, user, name) = after.map_or(("", nobody, ""), |(room, user, name)| {
        (room.as_str(), user.0, name.as_str())
    });
    sqlx::query(sql)
        .bind(room)
        .bind(user)
        .bind(name.as_bytes())
        .bind(nobody)
        .bind(to_sql(limit as u64))
        .fetch_all(pool)
        .await
}

/// Makes the rooms that are not there, locks all in the order of their names, and answers numbers and last `seq`.
async fn lock_rooms<'n>(
    connection: &mut Session,
    names: impl Iterator<Item = &'n str>,
) -> Result<HashMap<String, (i64, u64)>, sqlx::Error> {
    let names: BTreeSet<&str> = names.collect();
    let names: Vec<&str> = names.into_iter().collect();
    let make = "INSERT INTO chat_rooms (name, last_seq)
         SELECT n.name, 0 FROM unnest($1::text[]) WITH ORDINALITY AS n (name, place) ORDER BY n.place
         ON CONFLICT (name) DO NOTHING";
    sqlx::query(make)
        .bind(&names)
        .execute(&mut *connection)
        .await?;
    let lock = "SELECT name, room, last_seq FROM chat_rooms WHERE name = ANY ($1) ORDER BY name FOR UPDATE";
    let locked: Vec<(String, i64, i64)> = sqlx::query_as(lock)
        .bind(&names)
        .fetch_all(connection)
        .await?;
    let place = |(name, room, last): (String, i64, i64)| (name, (room, from_sql(last)));
    Ok(locked.into_iter().map(place).collect())
}

/// Which messages are the next ones of their rooms, and which should be there already.
fn sort_out(
    messages: Vec<Message>,
    rooms: &HashMap<String, (i64, u64)>,
) -> Result<(Vec<Message>, Vec<Message>), ChatArchiveError> {
    let mut lasts: HashMap<&str, u64> = HashMap::new();
    for (name, (_, last)) in rooms {
        lasts.insert(name, *last);
    }
    let (mut new, mut known) = (Vec::new(), Vec::new());
    for message in messages {
        let last = lasts.get_mut(message.room_id.as_str());
        let last = last.ok_or_else(|| unavailable("a room was lost"))?;
        let seq = message.seq;
        if seq == 0 || seq > *last + 1 {
            let (room, last) = (message.room_id, *last);
            return Err(ChatArchiveError::Gap { room, last, seq });
        }
        if seq <= *last {
            known.push(message);
        } else {
            *last = seq;
            new.push(message);
        }
    }
    Ok((new, known))
}

/// What is there in the places of messages.
async fn find_messages(
    executor: impl PgExecutor<'_>,
    messages: &[Message],
) -> Result<Vec<PgRow>, sqlx::Error> {
    let sql = "SELECT r.name, m.seq, m.id, m.user_id, m.username, m.message, m.at
         FROM unnest($1::text[], $2::bigint[]) AS k (name, seq)
         JOIN chat_rooms AS r ON r.name = k.name COLLATE \"C\"
         JOIN chat_messages AS m ON m.room = r.room AND m.seq = k.seq";
    sqlx::query(sql)
        .bind(column(messages, |message| message.room_id.as_str()))
        .bind(column(messages, |message| to_sql(message.seq)))
        .fetch_all(executor)
        .await
}

fn place(message: &Message) -> (RoomId, u64) {
    (message.room_id.clone(), message.seq)
}

fn by_place(rows: &[PgRow]) -> Result<HashMap<(RoomId, u64), Message>, ChatArchiveError> {
    let messages = rows.iter().map(message);
    messages
        .map(|message| message.map(|message| (place(&message), message)))
        .collect()
}

/// Makes sure that messages are there as they are here; answers those that are tombstones only here.
async fn compare(
    connection: &mut Session,
    there: Vec<Message>,
    known: Known,
) -> Result<Vec<Message>, ChatArchiveError> {
    if there.is_empty() {
        return Ok(Vec::new());
    }
    let found = find_messages(connection, &there).await;
    let found = by_place(&found.map_err(unavailable)?)?;
    let mut erased = Vec::new();
    for new in there {
        let (room, seq) = place(&new);
        let found = found.get(&(room.clone(), seq));
        let found = found.ok_or(ChatArchiveError::Other { room, seq })?;
        if Meeting::of(found, &new, known)? == Meeting::Erased {
            erased.push(new);
        }
    }
    Ok(erased)
}

/// Makes tombstones of messages, and forgets the senders' own names in their rooms.
async fn erase_messages(
    connection: &mut Session,
    erased: &[Message],
    rooms: &HashMap<String, (i64, u64)>,
) -> Result<(), sqlx::Error> {
    if erased.is_empty() {
        return Ok(());
    }
    let numbers = column(erased, |message| number(rooms, &message.room_id));
    let messages = "UPDATE chat_messages AS m SET username = $3, message = $3
         FROM unnest($1::bigint[], $2::bigint[]) AS n (room, seq) WHERE m.room = n.room AND m.seq = n.seq";
    sqlx::query(messages)
        .bind(&numbers)
        .bind(column(erased, |message| to_sql(message.seq)))
        .bind(ERASED_TEXT.as_bytes())
        .execute(&mut *connection)
        .await?;
    let names = "DELETE FROM chat_client_ids AS c
         USING unnest($1::bigint[], $2::uuid[]) AS n (room, user_id) WHERE c.room = n.room AND c.user_id = n.user_id";
    sqlx::query(names)
        .bind(&numbers)
        .bind(column(erased, |message| message.user_id.0))
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert_messages(
    connection: &mut Session,
    new: &[Message],
    rooms: &HashMap<String, (i64, u64)>,
) -> Result<(), sqlx::Error> {
    let numbers = column(new, |message| number(rooms, &message.room_id));
    let insert = "INSERT INTO chat_messages (room, seq, id, user_id, username, message, at)
         SELECT n.room, n.seq, n.id, n.user_id, CASE WHEN e.user_id IS NULL THEN n.username ELSE $8 END,
             CASE WHEN e.user_id IS NULL THEN n.message ELSE $8 END, n.at
         FROM unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::uuid[], $5::bytea[], $6::bytea[], $7::bigint[])
             AS n (room, seq, id, user_id, username, message, at)
         LEFT JOIN chat_erased AS e ON e.user_id = n.user_id";
    sqlx::query(insert)
        .bind(&numbers)
        .bind(column(new, |message| to_sql(message.seq)))
        .bind(column(new, |message| message.id))
        .bind(column(new, |message| message.user_id.0))
        .bind(column(new, |message| message.username.as_bytes()))
        .bind(column(new, |message| message.message.as_bytes()))
        .bind(column(new, |message| message.timestamp.0))
        .bind(ERASED_TEXT.as_bytes())
        .execute(&mut *connection)
        .await?;
    let update = "UPDATE chat_rooms AS r SET last_seq = s.last
         FROM (
             SELECT n.room, max(n.seq) AS last FROM unnest($1::bigint[], $2::bigint[]) AS n (room, seq) GROUP BY n.room
         ) AS s
         WHERE r.room = s.room";
    sqlx::query(update)
        .bind(&numbers)
        .bind(column(new, |message| to_sql(message.seq)))
        .execute(connection)
        .await?;
    Ok(())
}

/// The room's number; every room of the batch was locked.
fn number(rooms: &HashMap<String, (i64, u64)>, room: &RoomId) -> i64 {
    rooms.get(room.as_str()).map_or(0, |(number, _)| *number)
}

async fn insert_names(
    connection: &mut Session,
    names: &[MessageName],
    rooms: &HashMap<String, (i64, u64)>,
) -> Result<u64, sqlx::Error> {
    let sql = "INSERT INTO chat_client_ids (room, user_id, client_id, seq)
         SELECT n.* FROM unnest($1::bigint[], $2::uuid[], $3::bytea[], $4::bigint[]) AS n (room, user_id, client_id, seq)
         WHERE NOT EXISTS (SELECT 1 FROM chat_erased AS e WHERE e.user_id = n.user_id)
         ON CONFLICT DO NOTHING";
    let done = sqlx::query(sql)
        .bind(column(names, |name| number(rooms, &name.room_id)))
        .bind(column(names, |name| name.user_id.0))
        .bind(column(names, |name| name.client_id.as_bytes()))
        .bind(column(names, |name| to_sql(name.seq)))
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// A name that stands for another message.
async fn other_name<'n>(
    executor: impl PgExecutor<'_>,
    names: &'n [MessageName],
) -> Result<Option<&'n MessageName>, sqlx::Error> {
    let sql = "SELECT n.place
         FROM unnest($1::text[], $2::uuid[], $3::bytea[], $4::bigint[]) WITH ORDINALITY
             AS n (name, user_id, client_id, seq, place)
         JOIN chat_rooms AS r ON r.name = n.name COLLATE \"C\"
         JOIN chat_client_ids AS c ON c.room = r.room AND c.user_id = n.user_id AND c.client_id = n.client_id
         WHERE c.seq <> n.seq ORDER BY n.place LIMIT 1";
    let place: Option<i64> = sqlx::query_scalar(sql)
        .bind(column(names, |name| name.room_id.as_str()))
        .bind(column(names, |name| name.user_id.0))
        .bind(column(names, |name| name.client_id.as_bytes()))
        .bind(column(names, |name| to_sql(name.seq)))
        .fetch_optional(executor)
        .await?;
    let place = place.and_then(|place| usize::try_from(place - 1).ok());
    Ok(place.and_then(|place| names.get(place)))
}

fn require_same_name(other: Option<&MessageName>) -> Result<(), ChatArchiveError> {
    match other {
        None => Ok(()),
        Some(other) => Err(ChatArchiveError::Other {
            room: other.room_id.clone(),
            seq: other.seq,
        }),
    }
}
