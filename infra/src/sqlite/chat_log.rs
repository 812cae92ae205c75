//! The chat log on SQLite: a file of its own, so that chat and events never wait for each other's commits.
//!
//! One thread writes. It takes every batch that waits, appends them all in one transaction (`synchronous=FULL`: the
//! answer means that the messages survive a power cut), and then answers. Rooms are numbered, so that a message's key
//! is small.

use std::{collections::HashMap, fmt::Display, path::Path, thread};

use async_trait::async_trait;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use socialhub_chat::{
    Appended, ChatLog, ChatLogError, Direction, History, HistoryQuery, Message, NewMessage, RoomId,
};
use socialhub_domain::{Timestamp, UserId, personal::ERASED_TEXT};
use tokio::sync::oneshot;

use super::connection::{
    Durability, Readers, SqliteError, checkpoint, from_sql, id_bytes, open_writer, read_id, to_sql,
};

/// Batches that may wait for the writer.
const QUEUE: usize = 1_024;
/// Batches taken into one transaction at most.
const GROUP: usize = 256;
/// Messages that an erasure looks at in one transaction: others' messages wait no longer than for that.
const PIECE: usize = 1_000;
/// Rooms whose last `seq` the writer remembers.
const REMEMBERED: usize = 50_000;

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS rooms (
    room INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    last_seq INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS messages (
    room INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    id BLOB NOT NULL,
    user_id BLOB NOT NULL,
    username TEXT NOT NULL,
    message TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (room, seq)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS messages_by_user ON messages (user_id);
CREATE TABLE IF NOT EXISTS erased (
    user_id BLOB PRIMARY KEY
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS client_ids (
    room INTEGER NOT NULL,
    user_id BLOB NOT NULL,
    client_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (room, user_id, client_id)
) WITHOUT ROWID;
";

type Outcome = Result<Vec<Appended>, ChatLogError>;

struct Batch {
    messages: Vec<NewMessage>,
    reply: oneshot::Sender<Outcome>,
}

/// What the writer is asked to do.
enum Work {
    Append(Batch),
    Erase(Piece),
}

/// The room and `seq` of a message.
type MessagePlace = (i64, i64);

/// The next messages to be erased.
struct Piece {
    user: UserId,
    after: MessagePlace,
    /// Is told the last place; none at the end.
    reply: oneshot::Sender<Result<Option<MessagePlace>, ChatLogError>>,
}

/// The chat log in a SQLite file. Cheap to clone; the writer ends when the last clone is dropped.
#[derive(Clone)]
pub struct SqliteChatLog {
    work: Sender<Work>,
    readers: Readers,
}

impl SqliteChatLog {
    /// Opens the file, making it if it is not there, and starts its writer and two readers.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, SqliteError> {
        let connection = open_writer(path, Durability::Full)?;
        connection.execute_batch(SCHEMA)?;
        let readers = Readers::start(path, 2)?;
        let (work, queue) = bounded(QUEUE);
        thread::Builder::new()
            .name("sqlite-chat".to_owned())
            .spawn(move || Writer::new(connection).run(&queue))?;
        Ok(Self { work, readers })
    }

    fn ask(&self, work: Work) -> Result<(), ChatLogError> {
        self.work.try_send(work).map_err(|refused| match refused {
            TrySendError::Full(_) => ChatLogError::Busy,
            TrySendError::Disconnected(_) => closed(),
        })
    }
}

#[async_trait]
impl ChatLog for SqliteChatLog {
    async fn append(&self, messages: Vec<NewMessage>) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        self.ask(Work::Append(Batch { messages, reply }))?;
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn erase(&self, user: UserId) -> Result<(), ChatLogError> {
        let mut after = (0, 0);
        loop {
            let (reply, outcome) = oneshot::channel();
            self.ask(Work::Erase(Piece { user, after, reply }))?;
            match outcome.await.unwrap_or_else(|_| Err(closed()))? {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    async fn read(&self, room: &RoomId, query: HistoryQuery) -> Result<History, ChatLogError> {
        let room = room.clone();
        let read = self.readers.run(move |connection| {
            // One transaction, so that the messages and the last seq belong together.
            let transaction = connection.transaction()?;
            history(&transaction, &room, query)
        });
        read.await.map_err(fault)
    }

    async fn last_seqs(&self, rooms: &[RoomId]) -> Result<Vec<u64>, ChatLogError> {
        let rooms = rooms.to_vec();
        let read = self.readers.run(move |connection| {
            let transaction = connection.transaction()?;
            let last = |room| Ok(find_place(&transaction, room)?.map_or(0, |place| place.last_seq));
            rooms.iter().map(last).collect()
        });
        read.await.map_err(fault)
    }
}

fn fault(error: SqliteError) -> ChatLogError {
    match error {
        SqliteError::Busy => ChatLogError::Busy,
        other => unavailable(other),
    }
}

fn closed() -> ChatLogError {
    unavailable("it is closed")
}

fn unavailable(reason: impl Display) -> ChatLogError {
    ChatLogError::Unavailable(reason.to_string())
}

#[derive(Debug, Clone, Copy)]
struct Place {
    room: i64,
    last_seq: u64,
}

struct Writer {
    connection: Connection,
    places: HashMap<RoomId, Place>,
}

impl Writer {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            places: HashMap::new(),
        }
    }

    fn run(mut self, queue: &Receiver<Work>) {
        while let Ok(first) = queue.recv() {
            let mut batches = Vec::new();
            let mut pieces = Vec::new();
            for work in std::iter::once(first).chain(queue.try_iter().take(GROUP - 1)) {
                match work {
                    Work::Append(batch) => batches.push((batch.messages, batch.reply)),
                    Work::Erase(piece) => pieces.push(piece),
                }
            }
            if !batches.is_empty() {
                self.append_all(batches.into_iter().unzip());
            }
            for Piece { user, after, reply } in pieces {
                let _ = reply.send(self.erase(user, after).map_err(unavailable));
            }
        }
    }

    fn append_all(
        &mut self,
        (messages, replies): (Vec<Vec<NewMessage>>, Vec<oneshot::Sender<Outcome>>),
    ) {
        match self.append(messages) {
            Ok(outcomes) => {
                for (outcome, reply) in outcomes.into_iter().zip(replies) {
                    // The asker may have gone away; the messages are there all the same.
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(error) => {
                // What was learnt in the transaction is not so.
                self.places.clear();
                for reply in replies {
                    let _ = reply.send(Err(unavailable(&error)));
                }
            }
        }
    }

    /// Erases the next of somebody's messages. From the first piece on whatever comes of theirs is a tombstone, so going
    /// through once finds all. What was overwritten still stands in the WAL: with the last piece it is emptied, too.
    fn erase(
        &mut self,
        user: UserId,
        after: MessagePlace,
    ) -> rusqlite::Result<Option<MessagePlace>> {
        let transaction = self.connection.transaction()?;
        let places = erase_piece(&transaction, id_bytes(user.0), after)?;
        transaction.commit()?;
        if places.len() == PIECE {
            return Ok(places.last().copied());
        }
        checkpoint(&self.connection)?;
        Ok(None)
    }

    /// Appends the batches in one transaction.
    fn append(&mut self, batches: Vec<Vec<NewMessage>>) -> rusqlite::Result<Vec<Vec<Appended>>> {
        if self.places.len() > REMEMBERED {
            self.places.clear();
        }
        let transaction = self.connection.transaction()?;
        let mut outcomes = Vec::with_capacity(batches.len());
        let mut touched = Vec::new();
        for batch in batches {
            let mut outcome = Vec::with_capacity(batch.len());
            for new in batch {
                let place = match self.places.get_mut(&new.room) {
                    Some(place) => place,
                    None => {
                        let found = place_of(&transaction, &new.room)?;
                        self.places.entry(new.room.clone()).or_insert(found)
                    }
                };
                let appended = append_one(&transaction, place, new)?;
                if !appended.duplicate && !touched.contains(&appended.message.room_id) {
                    touched.push(appended.message.room_id.clone());
                }
                outcome.push(appended);
            }
            outcomes.push(outcome);
        }
        for room in &touched {
            if let Some(place) = self.places.get(room) {
                transaction
                    .prepare_cached("UPDATE rooms SET last_seq = ?2 WHERE room = ?1")?
                    .execute(params![place.room, to_sql(place.last_seq)])?;
            }
        }
        transaction.commit()?;
        Ok(outcomes)
    }
}

/// A room's number and last `seq`; a new room gets a number.
fn place_of(transaction: &Transaction<'_>, room: &RoomId) -> rusqlite::Result<Place> {
    if let Some(place) = find_place(transaction, room)? {
        return Ok(place);
    }
    transaction
        .prepare_cached("INSERT INTO rooms (name, last_seq) VALUES (?1, 0)")?
        .execute([room.as_str()])?;
    Ok(Place {
        room: transaction.last_insert_rowid(),
        last_seq: 0,
    })
}

fn find_place(connection: &Connection, room: &RoomId) -> rusqlite::Result<Option<Place>> {
    connection
        .prepare_cached("SELECT room, last_seq FROM rooms WHERE name = ?1")?
        .query_row([room.as_str()], |row| {
            Ok(Place {
                room: row.get(0)?,
                last_seq: from_sql(row.get(1)?),
            })
        })
        .optional()
}

fn append_one(
    transaction: &Transaction<'_>,
    place: &mut Place,
    new: NewMessage,
) -> rusqlite::Result<Appended> {
    let user = id_bytes(new.user.id.0);
    let seq = place.last_seq + 1;
    let mut new = new;
    if is_erased(transaction, user)? {
        new.user.username = ERASED_TEXT.into();
        ERASED_TEXT.clone_into(&mut new.text);
        new.client_id = None;
    }
    if let Some(client_id) = &new.client_id {
        let inserted = transaction
            .prepare_cached("INSERT OR IGNORE INTO client_ids VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![place.room, user, client_id, to_sql(seq)])?;
        if inserted == 0 {
            let message = earlier(transaction, place.room, &new, client_id)?;
            return Ok(Appended {
                message,
                duplicate: true,
            });
        }
    }
    transaction
        .prepare_cached("INSERT INTO messages VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
        .execute(params![
            place.room,
            to_sql(seq),
            id_bytes(new.id),
            user,
            &*new.user.username,
            new.text,
            new.at.0,
        ])?;
    place.last_seq = seq;
    Ok(Appended {
        message: Message::placed(new, seq),
        duplicate: false,
    })
}

/// Notes who is erased, makes tombstones of messages after a place, and forgets as many names in their rooms: each name was
/// given to a message. Answers the places of the messages.
fn erase_piece(
    transaction: &Transaction<'_>,
    user: [u8; 16],
    after: MessagePlace,
) -> rusqlite::Result<Vec<MessagePlace>> {
    transaction.execute("INSERT OR IGNORE INTO erased (user_id) VALUES (?1)", [user])?;
    let places: Vec<MessagePlace> = transaction
        .prepare_cached(
            "SELECT room, seq FROM messages WHERE user_id = ?1 AND (room, seq) > (?2, ?3)
             ORDER BY room, seq LIMIT ?4",
        )?
        .query_map(
            params![user, after.0, after.1, to_sql(PIECE as u64)],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?
        .collect::<rusqlite::Result<_>>()?;
    let mut tombstone = transaction.prepare_cached(
        "UPDATE messages SET username = ?3, message = ?3
         WHERE room = ?1 AND seq = ?2 AND (username <> ?3 OR message <> ?3)",
    )?;
    for (room, seq) in &places {
        tombstone.execute(params![room, seq, ERASED_TEXT])?;
    }
    let mut forget = transaction.prepare_cached(
        "DELETE FROM client_ids WHERE room = ?1 AND user_id = ?2 AND client_id IN (
             SELECT client_id FROM client_ids WHERE room = ?1 AND user_id = ?2 LIMIT ?3
         )",
    )?;
    for in_room in places.chunk_by(|one, other| one.0 == other.0) {
        let [(room, _), ..] = in_room else { continue };
        forget.execute(params![room, user, to_sql(in_room.len() as u64)])?;
    }
    Ok(places)
}

pub(super) fn is_erased(transaction: &Transaction<'_>, user: [u8; 16]) -> rusqlite::Result<bool> {
    transaction
        .prepare_cached("SELECT 1 FROM erased WHERE user_id = ?1")?
        .exists([user])
}

/// The message that a sender gave this name before.
fn earlier(
    transaction: &Transaction<'_>,
    room: i64,
    new: &NewMessage,
    client_id: &str,
) -> rusqlite::Result<Message> {
    transaction
        .prepare_cached(
            "SELECT m.seq, m.id, m.user_id, m.username, m.message, m.at
             FROM client_ids c JOIN messages m ON m.room = c.room AND m.seq = c.seq
             WHERE c.room = ?1 AND c.user_id = ?2 AND c.client_id = ?3",
        )?
        .query_row(params![room, id_bytes(new.user.id.0), client_id], |row| {
            message(row, &new.room)
        })
}

fn message(row: &Row<'_>, room: &RoomId) -> rusqlite::Result<Message> {
    Ok(Message {
        seq: from_sql(row.get(0)?),
        id: read_id(row, 1)?,
        room_id: room.clone(),
        user_id: UserId(read_id(row, 2)?),
        username: row.get::<_, String>(3)?.into(),
        message: row.get(4)?,
        timestamp: Timestamp(row.get(5)?),
    })
}

fn history(
    transaction: &Transaction<'_>,
    room: &RoomId,
    query: HistoryQuery,
) -> rusqlite::Result<History> {
    let Some(place) = find_place(transaction, room)? else {
        return Ok(History::default());
    };
    let sql = match query.direction {
        Direction::Newest => {
            "SELECT seq, id, user_id, username, message, at FROM messages
             WHERE room = ?1 AND seq > ?2 AND seq < ?3 ORDER BY seq DESC LIMIT ?4"
        }
        Direction::Oldest => {
            "SELECT seq, id, user_id, username, message, at FROM messages
             WHERE room = ?1 AND seq > ?2 AND seq < ?3 ORDER BY seq LIMIT ?4"
        }
    };
    let before = query.before.map_or(i64::MAX, to_sql);
    let limit = to_sql(query.limit as u64);
    let mut statement = transaction.prepare_cached(sql)?;
    let rows = statement.query_map(
        params![place.room, to_sql(query.after), before, limit],
        |row| message(row, room),
    )?;
    let mut messages = rows.collect::<rusqlite::Result<Vec<Message>>>()?;
    if query.direction == Direction::Newest {
        messages.reverse();
    }
    Ok(History {
        messages,
        last_seq: place.last_seq,
    })
}
