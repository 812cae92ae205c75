//! The chat log's rows as they are, out of the file and into it.

use std::{collections::HashMap, fmt::Display, path::Path, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use socialhub_chat::{ChatArchive, ChatArchiveError, Known, Meeting, Message, MessageName, RoomId};
use socialhub_domain::{Timestamp, UserId, personal::ERASED_TEXT};

use super::{
    chat_log::{SCHEMA, is_erased},
    connection::{
        Durability, SqliteError, from_sql, id_bytes, open_reader, open_writer, read_id, to_sql,
    },
};

/// A chat log's file, opened for copying rows. The log's lock keeps servers away from it.
#[derive(Debug, Clone)]
pub struct SqliteChatArchive(Arc<Mutex<Connection>>);

/// The rooms that a batch has met: their numbers and last `seq`.
type Rooms = HashMap<RoomId, (i64, u64)>;

impl SqliteChatArchive {
    /// Opens the file for reading and writing; makes it if it is not there.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open(path: &Path) -> Result<Self, SqliteError> {
        let connection = open_writer(path, Durability::Full)?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Opens the file for reading only, also while another process writes it. Without a file there are no messages.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open_read_only(path: &Path) -> Result<Self, SqliteError> {
        let connection = if path.exists() {
            open_reader(path)?
        } else {
            let empty = Connection::open_in_memory()?;
            empty.execute_batch(SCHEMA)?;
            empty
        };
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ChatArchiveError> {
        self.look(|connection| query(connection).map_err(unavailable))
            .await
    }

    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> Result<T, ChatArchiveError> + Send + 'static,
    ) -> Result<T, ChatArchiveError> {
        let connection = self.0.clone();
        let job = tokio::task::spawn_blocking(move || look(&connection.lock()));
        job.await.map_err(unavailable)?
    }

    /// Writes each row in one transaction, which stands when all were taken. Answers how many are new.
    async fn write<R: Send + 'static>(
        &self,
        rows: Vec<R>,
        write_one: impl Fn(&Transaction<'_>, &mut Rooms, &R) -> Result<bool, ChatArchiveError>
        + Send
        + 'static,
    ) -> Result<u64, ChatArchiveError> {
        let connection = self.0.clone();
        let job = tokio::task::spawn_blocking(move || {
            let mut connection = connection.lock();
            let transaction = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(unavailable)?;
            let (mut rooms, mut new) = (Rooms::new(), 0);
            for row in &rows {
                new += u64::from(write_one(&transaction, &mut rooms, row)?);
            }
            for (room, last_seq) in rooms.values() {
                transaction
                    .execute(
                        "UPDATE rooms SET last_seq = ?2 WHERE room = ?1",
                        params![room, to_sql(*last_seq)],
                    )
                    .map_err(unavailable)?;
            }
            transaction.commit().map_err(unavailable)?;
            Ok(new)
        });
        job.await.map_err(unavailable)?
    }
}

fn unavailable(error: impl Display) -> ChatArchiveError {
    ChatArchiveError::Unavailable(error.to_string())
}

#[async_trait]
impl ChatArchive for SqliteChatArchive {
    async fn read_messages(
        &self,
        after: Option<(RoomId, u64)>,
        limit: usize,
    ) -> Result<Vec<Message>, ChatArchiveError> {
        self.read(move |connection| {
            let (room, seq) = match &after {
                Some((room, seq)) => (room.as_str(), *seq),
                None => ("", 0),
            };
            // Outer and inner rows come in the order asked for: a page costs what it holds, wherever it begins.
            let sql = "SELECT r.name, m.seq, m.id, m.user_id, m.username, m.message, m.at
                 FROM rooms AS r CROSS JOIN messages AS m
                     ON m.room = r.room AND m.seq > CASE WHEN r.name = ?1 THEN ?2 ELSE 0 END
                 WHERE r.name >= ?1 ORDER BY r.name, m.seq LIMIT ?3";
            let mut statement = connection.prepare_cached(sql)?;
            let rows =
                statement.query_map(params![room, to_sql(seq), to_sql(limit as u64)], message)?;
            rows.collect()
        })
        .await
    }

    async fn compare_messages(
        &self,
        messages: Vec<Message>,
        known: Known,
    ) -> Result<(), ChatArchiveError> {
        self.look(move |connection| {
            for new in &messages {
                let number = find_room(connection, &new.room_id).map_err(unavailable)?;
                let Some((number, _)) = number else { continue };
                let found = find_message(connection, number, &new.room_id, new.seq);
                if let Some(found) = found.map_err(unavailable)? {
                    Meeting::of(&found, new, known)?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn write_messages(
        &self,
        messages: Vec<Message>,
        known: Known,
    ) -> Result<u64, ChatArchiveError> {
        self.write(messages, move |transaction, rooms, new| {
            write_message(transaction, rooms, new, known)
        })
        .await
    }

    async fn read_names(
        &self,
        after: Option<(RoomId, UserId, String)>,
        limit: usize,
    ) -> Result<Vec<MessageName>, ChatArchiveError> {
        self.read(move |connection| {
            let (room, user, name) = match &after {
                Some((room, user, name)) => {
                    (room.as_str(), id_bytes(user.0).to_vec(), name.as_str())
                }
                None => ("", Vec::new(), ""),
            };
            let sql = "SELECT r.name, c.user_id, c.client_id, c.seq
                 FROM rooms AS r CROSS JOIN client_ids AS c
                     ON c.room = r.room AND (c.user_id, c.client_id) >
                         (CASE WHEN r.name = ?1 THEN ?2 ELSE x'' END, CASE WHEN r.name = ?1 THEN ?3 ELSE '' END)
                 WHERE r.name >= ?1 ORDER BY r.name, c.user_id, c.client_id LIMIT ?4";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map(
                params![room, user, name, to_sql(limit as u64)],
                |row| {
                    Ok(MessageName {
                        room_id: room_id(row)?,
                        user_id: UserId(read_id(row, 1)?),
                        client_id: row.get(2)?,
                        seq: from_sql(row.get(3)?),
                    })
                },
            )?;
            rows.collect()
        })
        .await
    }

    async fn compare_names(&self, names: Vec<MessageName>) -> Result<(), ChatArchiveError> {
        self.look(move |connection| {
            for new in &names {
                let number = find_room(connection, &new.room_id).map_err(unavailable)?;
                let Some((number, _)) = number else { continue };
                let found = find_name(connection, number, new).map_err(unavailable)?;
                require_same_name(new, found)?;
            }
            Ok(())
        })
        .await
    }

    async fn write_names(&self, names: Vec<MessageName>) -> Result<u64, ChatArchiveError> {
        self.write(names, write_name).await
    }
}

/// A room's name in the first column.
fn room_id(row: &Row<'_>) -> rusqlite::Result<RoomId> {
    RoomId::parse(row.get_ref(0)?.as_str()?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn message(row: &Row<'_>) -> rusqlite::Result<Message> {
    Ok(Message {
        room_id: room_id(row)?,
        seq: from_sql(row.get(1)?),
        id: read_id(row, 2)?,
        user_id: UserId(read_id(row, 3)?),
        username: row.get::<_, String>(4)?.into(),
        message: row.get(5)?,
        timestamp: Timestamp(row.get(6)?),
    })
}

/// The room's place among those the batch has met; a room that is not there is made.
fn meet<'r>(
    transaction: &Transaction<'_>,
    rooms: &'r mut Rooms,
    room: &RoomId,
) -> Result<&'r mut (i64, u64), ChatArchiveError> {
    if !rooms.contains_key(room) {
        let place = find_or_make(transaction, room).map_err(unavailable)?;
        rooms.insert(room.clone(), place);
    }
    rooms
        .get_mut(room)
        .ok_or_else(|| unavailable("a room was lost"))
}

fn find_or_make(transaction: &Transaction<'_>, room: &RoomId) -> rusqlite::Result<(i64, u64)> {
    transaction
        .prepare_cached("INSERT OR IGNORE INTO rooms (name, last_seq) VALUES (?1, 0)")?
        .execute([room.as_str()])?;
    find_room(transaction, room)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

fn find_room(connection: &Connection, room: &RoomId) -> rusqlite::Result<Option<(i64, u64)>> {
    connection
        .prepare_cached("SELECT room, last_seq FROM rooms WHERE name = ?1")?
        .query_row([room.as_str()], |row| {
            Ok((row.get(0)?, from_sql(row.get(1)?)))
        })
        .optional()
}

fn write_message(
    transaction: &Transaction<'_>,
    rooms: &mut Rooms,
    new: &Message,
    known: Known,
) -> Result<bool, ChatArchiveError> {
    let (number, last) = meet(transaction, rooms, &new.room_id)?;
    let (room, seq) = (new.room_id.clone(), new.seq);
    if seq == 0 || seq > *last + 1 {
        let last = *last;
        return Err(ChatArchiveError::Gap { room, last, seq });
    }
    if seq <= *last {
        let found = find_message(transaction, *number, &room, seq).map_err(unavailable)?;
        let found = found.ok_or(ChatArchiveError::Other { room, seq })?;
        return match Meeting::of(&found, new, known)? {
            Meeting::Stays => Ok(false),
            Meeting::Erased => {
                erase_message(transaction, *number, new).map_err(unavailable)?;
                Ok(true)
            }
        };
    }
    insert_message(transaction, *number, new).map_err(unavailable)?;
    *last = seq;
    Ok(true)
}

/// Makes a tombstone of a message, and forgets the sender's own names in its room.
fn erase_message(
    transaction: &Transaction<'_>,
    number: i64,
    message: &Message,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "UPDATE messages SET username = ?3, message = ?3 WHERE room = ?1 AND seq = ?2",
        )?
        .execute(params![number, to_sql(message.seq), ERASED_TEXT])?;
    transaction
        .prepare_cached("DELETE FROM client_ids WHERE room = ?1 AND user_id = ?2")?
        .execute(params![number, id_bytes(message.user_id.0)])?;
    Ok(())
}

fn find_message(
    transaction: &Connection,
    number: i64,
    room: &RoomId,
    seq: u64,
) -> rusqlite::Result<Option<Message>> {
    let sql = "SELECT ?1, seq, id, user_id, username, message, at FROM messages
         WHERE room = ?2 AND seq = ?3";
    let key = params![room.as_str(), number, to_sql(seq)];
    transaction
        .prepare_cached(sql)?
        .query_row(key, message)
        .optional()
}

fn insert_message(
    transaction: &Transaction<'_>,
    number: i64,
    new: &Message,
) -> rusqlite::Result<()> {
    let user = id_bytes(new.user_id.0);
    let (username, text) = match is_erased(transaction, user)? {
        true => (ERASED_TEXT, ERASED_TEXT),
        false => (&*new.username, &*new.message),
    };
    transaction
        .prepare_cached("INSERT INTO messages VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
        .execute(params![
            number,
            to_sql(new.seq),
            id_bytes(new.id),
            user,
            username,
            text,
            new.timestamp.0,
        ])?;
    Ok(())
}

fn write_name(
    transaction: &Transaction<'_>,
    rooms: &mut Rooms,
    new: &MessageName,
) -> Result<bool, ChatArchiveError> {
    let (number, _) = *meet(transaction, rooms, &new.room_id)?;
    let user = id_bytes(new.user_id.0);
    let write = || -> rusqlite::Result<(bool, Option<u64>)> {
        if is_erased(transaction, user)? {
            return Ok((false, None));
        }
        let inserted = transaction
            .prepare_cached("INSERT OR IGNORE INTO client_ids VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![number, user, new.client_id, to_sql(new.seq)])?;
        Ok((inserted > 0, find_name(transaction, number, new)?))
    };
    let (new_row, found) = write().map_err(unavailable)?;
    require_same_name(new, found)?;
    Ok(new_row)
}

/// The number of the message that a name stands for.
fn find_name(
    connection: &Connection,
    number: i64,
    name: &MessageName,
) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT seq FROM client_ids WHERE room = ?1 AND user_id = ?2 AND client_id = ?3";
    let key = params![number, id_bytes(name.user_id.0), name.client_id];
    connection
        .prepare_cached(sql)?
        .query_row(key, |row| Ok(from_sql(row.get(0)?)))
        .optional()
}

fn require_same_name(new: &MessageName, found: Option<u64>) -> Result<(), ChatArchiveError> {
    match found.filter(|seq| *seq != new.seq) {
        None => Ok(()),
        Some(seq) => Err(ChatArchiveError::Other {
            room: new.room_id.clone(),
            seq,
        }),
    }
}
