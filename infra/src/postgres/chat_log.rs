//! The chat log on Postgres: many instances append, each with one task that commits in groups.
//!
//! A group is one call of the function `append_messages`, one round trip and one transaction. Each room's `seq` is counted
//! under the lock of the room's row, held until the commit; a group takes its locks in the order of the rooms' names. So
//! `seq` has no holes and rises in the order of commits, and instances that serve different rooms never wait for each
//! other.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    time::Duration,
};

use async_trait::async_trait;
use socialhub_chat::{
    Appended, ChatLog, ChatLogError, Direction, History, HistoryQuery, Message, NewMessage, RoomId,
};
use socialhub_domain::{Timestamp, UserId, personal::ERASED_TEXT};
use sqlx::{Row, postgres::PgRow};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{
    connect::{Access, OpenError, Schema, from_sql, to_sql},
    pool::{Pool, retrying},
    session::Session,
};

/// Batches that may wait.
const QUEUE: usize = 1_024;
/// Batches taken into one call at most.
const GROUP: usize = 256;
/// Messages in a call, unless one batch alone has more.
const MESSAGES: usize = 1_024;
/// Messages that an erasure looks at in one transaction.
const PIECE: usize = 1_000;
/// Connections for history.
const CONNECTIONS: usize = 4;
/// How long the server lets a call run and wait for a room's lock.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was not used for so long is tried before a call is risked on it.
const IDLE: Duration = Duration::from_secs(1);

pub(super) const SCHEMA: Schema = Schema {
    component: "chat log",
    migrations: &[
        include_str!("../../../migrations/postgres/chat/0001_chat.sql"),
        include_str!("../../../migrations/postgres/chat/0002_erasure.sql"),
        include_str!("../../../migrations/postgres/chat/0003_nothing_of_the_erased.sql"),
        include_str!("../../../migrations/postgres/chat/0004_erase_in_pieces.sql"),
    ],
};

type Outcome = Result<Vec<Appended>, ChatLogError>;

struct Batch {
    messages: Vec<NewMessage>,
    reply: oneshot::Sender<Outcome>,
}

/// The chat log in a Postgres database. Cheap to clone; its task ends when the last clone is dropped.
#[derive(Clone)]
pub struct PgChatLog {
    batches: mpsc::Sender<Batch>,
    pool: Pool,
}

impl PgChatLog {
    /// Brings the chat's tables in a database up to date. Idempotent; several processes may do it at once.
    ///
    /// # Errors
    /// When the database cannot be reached, a newer program wrote it, or a migration fails.
    pub async fn migrate(url: &str) -> Result<(), OpenError> {
        SCHEMA.migrate(url).await
    }

    /// Opens a chat log that is there and up to date.
    ///
    /// # Errors
    /// When the database cannot be reached, or its schema is not this program's.
    pub async fn connect(url: &str) -> Result<Self, OpenError> {
        SCHEMA.require_current(&access(url)?).await?;
        Self::lazy(url)
    }

    /// A chat log that connects when it is used. Needs a runtime.
    ///
    /// # Errors
    /// When the address is none.
    pub fn lazy(url: &str) -> Result<Self, OpenError> {
        let access = access(url)?;
        let pool = Pool::new(access.clone(), CONNECTIONS);
        let (batches, queue) = mpsc::channel(QUEUE);
        tokio::spawn(run(access, queue));
        Ok(Self { batches, pool })
    }
}

fn access(url: &str) -> Result<Access, OpenError> {
    Access::new(url, "socialhub-chat", STATEMENT_TIMEOUT, STATEMENT_TIMEOUT)
}

#[async_trait]
impl ChatLog for PgChatLog {
    async fn append(&self, messages: Vec<NewMessage>) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        match self.batches.try_send(Batch { messages, reply }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(ChatLogError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(closed()),
        }
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn read(&self, room: &RoomId, query: HistoryQuery) -> Result<History, ChatLogError> {
        let rows = retrying(|| history(&self.pool, room, query)).await;
        read_history(&rows.map_err(unavailable)?, room, query).map_err(unavailable)
    }

    async fn erase(&self, user: UserId) -> Result<(), ChatLogError> {
        let noted = retrying(|| note_erased(&self.pool, user)).await;
        noted.map_err(unavailable)?;
        let mut after = (0, 0);
        loop {
            let piece = retrying(|| erase_piece(&self.pool, user, after)).await;
            match piece.map_err(unavailable)? {
                Some(last) => after = last,
                None => return Ok(()),
            }
        }
    }

    async fn last_seqs(&self, rooms: &[RoomId]) -> Result<Vec<u64>, ChatLogError> {
        let seqs = retrying(|| last_seqs(&self.pool, rooms)).await;
        let seqs = seqs.map_err(unavailable)?;
        Ok(seqs.into_iter().map(from_sql).collect())
    }
}

fn closed() -> ChatLogError {
    unavailable("it is closed")
}

fn unavailable(reason: impl Display) -> ChatLogError {
    ChatLogError::Unavailable(reason.to_string())
}

/// Notes that somebody is erased: from then on whatever comes of theirs is a tombstone. Appends that are under way are
/// waited for, later ones see it; readers are not held up.
async fn note_erased(pool: &Pool, user: UserId) -> Result<(), sqlx::Error> {
    let known = "SELECT EXISTS (SELECT 1 FROM chat_erased WHERE user_id = $1)";
    let known = sqlx::query_scalar(known).bind(user.0).fetch_one(pool);
    if known.await? {
        return Ok(());
    }
    let mut transaction = pool.begin().await?;
    sqlx::query("LOCK TABLE chat_messages IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await?;
    sqlx::query("INSERT INTO chat_erased (user_id) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(user.0)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

/// The room and `seq` of a message.
type Place = (i64, i64);

/// Erases the next of somebody's messages, and as many of their names in those rooms: each name was given to a message.
/// Nothing of theirs is added any more, so going through once finds all. Answers the last place; none at the end.
async fn erase_piece(
    pool: &Pool,
    user: UserId,
    after: Place,
) -> Result<Option<Place>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let places = "SELECT room, seq FROM chat_messages WHERE user_id = $1 AND (room, seq) > ($2, $3)
         ORDER BY room, seq LIMIT $4";
    let places: Vec<Place> = sqlx::query_as(places)
        .bind(user.0)
        .bind(after.0)
        .bind(after.1)
        .bind(to_sql(PIECE as u64))
        .fetch_all(&mut *transaction)
        .await?;
    let (rooms, seqs): (Vec<i64>, Vec<i64>) = places.iter().copied().unzip();
    let messages = "UPDATE chat_messages AS m SET username = $3, message = $3
         FROM unnest($1::bigint[], $2::bigint[]) AS p (room, seq)
         WHERE m.room = p.room AND m.seq = p.seq AND (m.username <> $3 OR m.message <> $3)";
    sqlx::query(messages)
        .bind(&rooms)
        .bind(seqs)
        .bind(ERASED_TEXT.as_bytes())
        .execute(&mut *transaction)
        .await?;
    let names = "DELETE FROM chat_client_ids AS c
         USING (SELECT room, count(*) AS messages FROM unnest($2::bigint[]) AS p (room) GROUP BY room) AS p,
             LATERAL (
                 SELECT n.client_id FROM chat_client_ids AS n WHERE n.room = p.room AND n.user_id = $1
                 LIMIT p.messages
             ) AS n
         WHERE c.room = p.room AND c.user_id = $1 AND c.client_id = n.client_id";
    sqlx::query(names)
        .bind(user.0)
        .bind(rooms)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(places.last().copied().filter(|_| places.len() == PIECE))
}

/// Serves until nobody can send any more.
async fn run(access: Access, mut queue: mpsc::Receiver<Batch>) {
    let mut link = None;
    while let Some(first) = queue.recv().await {
        let mut messages = first.messages.len();
        let mut batches = vec![first];
        while batches.len() < GROUP
            && messages < MESSAGES
            && let Ok(batch) = queue.try_recv()
        {
            messages += batch.messages.len();
            batches.push(batch);
        }
        let all = batches.iter().flat_map(|batch| batch.messages.clone());
        let outcomes = append(&access, &mut link, all.collect()).await;
        match outcomes {
            Ok(outcomes) => {
                let mut outcomes = outcomes.into_iter();
                for batch in batches {
                    let outcome = outcomes.by_ref().take(batch.messages.len()).collect();
                    // The asker may have gone away; the messages are there all the same.
                    let _ = batch.reply.send(Ok(outcome));
                }
            }
            Err(error) => {
                tracing::warn!(%error, messages, "the chat log could not append");
                for batch in batches {
                    let _ = batch.reply.send(Err(unavailable(&error)));
                }
            }
        }
    }
}

/// Appends in one call. When the connection is lost in it, nobody knows what became of the messages, and the error says
/// no more than that they do not count as sent: that is the port's promise.
async fn append(
    access: &Access,
    link: &mut Option<Session>,
    messages: Vec<NewMessage>,
) -> Result<Vec<Appended>, sqlx::Error> {
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let mut session = usable(access, link.take()).await?;
    let group = Group::of(&messages);
    let call = group.call(&mut session).await;
    *link = session.is_whole().then_some(session);
    group.outcomes(messages, &call?)
}

/// The old connection while it is good, or a new one.
async fn usable(access: &Access, old: Option<Session>) -> Result<Session, sqlx::Error> {
    if let Some(mut session) = old {
        let heard = session.heard();
        if heard.is_some_and(|heard| heard.elapsed() < IDLE) || session.ping(IDLE).await.is_ok() {
            return Ok(session);
        }
        tracing::debug!("a connection to the chat log was lost");
    }
    Session::connect(access).await
}

/// Messages as the function takes them.
struct Group {
    rooms: Vec<String>,
    /// For each message the place of the one that is sent for it: itself, or an earlier one that it repeats.
    sent_as: Vec<usize>,
    message_rooms: Vec<i32>,
    ids: Vec<Uuid>,
    users: Vec<Uuid>,
    usernames: Vec<Vec<u8>>,
    texts: Vec<Vec<u8>>,
    client_ids: Vec<Option<Vec<u8>>>,
    ats: Vec<i64>,
}

impl Group {
    fn of(messages: &[NewMessage]) -> Self {
        let mut places: BTreeMap<&str, i32> = BTreeMap::new();
        for message in messages {
            places.insert(message.room.as_str(), 0);
        }
        // Sorted byte by byte, as the database compares them.
        for (place, n) in places.values_mut().zip(1..) {
            *place = n;
        }
        let mut group = Self {
            rooms: places.keys().map(|name| (*name).to_owned()).collect(),
            sent_as: Vec::with_capacity(messages.len()),
            message_rooms: Vec::new(),
            ids: Vec::new(),
            users: Vec::new(),
            usernames: Vec::new(),
            texts: Vec::new(),
            client_ids: Vec::new(),
            ats: Vec::new(),
        };
        let mut named = HashMap::new();
        for message in messages {
            let next = group.ids.len();
            let name = message.client_id.as_deref();
            let name = name.map(|name| (&message.room, message.user.id, name));
            let sent_as = name.map_or(next, |name| *named.entry(name).or_insert(next));
            group.sent_as.push(sent_as);
            if sent_as == next {
                group.push(places[message.room.as_str()], message);
            }
        }
        group
    }

    fn push(&mut self, room: i32, message: &NewMessage) {
        self.message_rooms.push(room);
        self.ids.push(message.id);
        self.users.push(message.user.id.0);
        self.usernames
            .push(message.user.username.as_bytes().to_vec());
        self.texts.push(message.text.as_bytes().to_vec());
        let client_id = message.client_id.as_ref();
        self.client_ids
            .push(client_id.map(|id| id.as_bytes().to_vec()));
        self.ats.push(message.at.0);
    }

    async fn call(&self, session: &mut Session) -> Result<Vec<PgRow>, sqlx::Error> {
        let sql = "SELECT nth, placed, duplicate, earlier_id, earlier_username, earlier_message, earlier_at
             FROM append_messages($1, $2, $3, $4, $5, $6, $7, $8)";
        // All rows and the server's word that the transaction is over: only then is it committed.
        sqlx::query(sql)
            .bind(&self.rooms)
            .bind(&self.message_rooms)
            .bind(&self.ids)
            .bind(&self.users)
            .bind(&self.usernames)
            .bind(&self.texts)
            .bind(&self.client_ids)
            .bind(&self.ats)
            .fetch_all(session)
            .await
    }

    /// What became of each message, in their order.
    fn outcomes(
        &self,
        messages: Vec<NewMessage>,
        rows: &[PgRow],
    ) -> Result<Vec<Appended>, sqlx::Error> {
        let mut placed: Vec<Option<Appended>> = vec![None; self.ids.len()];
        let mut by_place: Vec<Option<&PgRow>> = vec![None; self.ids.len()];
        for row in rows {
            let nth = usize::try_from(row.try_get::<i32, _>(0)?).unwrap_or(0);
            if let Some(place) = nth.checked_sub(1).and_then(|nth| by_place.get_mut(nth)) {
                *place = Some(row);
            }
        }
        let mut outcomes = Vec::with_capacity(messages.len());
        for (new, sent_as) in messages.into_iter().zip(&self.sent_as) {
            if let Some(first) = &placed[*sent_as] {
                outcomes.push(Appended {
                    message: first.message.clone(),
                    duplicate: true,
                });
                continue;
            }
            let row = by_place[*sent_as].ok_or(sqlx::Error::RowNotFound)?;
            let appended = read_outcome(new, row)?;
            placed[*sent_as] = Some(appended.clone());
            outcomes.push(appended);
        }
        Ok(outcomes)
    }
}

fn read_outcome(new: NewMessage, row: &PgRow) -> Result<Appended, sqlx::Error> {
    let seq = from_sql(row.try_get(1)?);
    let duplicate = row.try_get(2)?;
    // A message as it stands in the log is told of a repeat, and of what comes of the erased.
    let Some(id) = row.try_get(3)? else {
        return Ok(Appended {
            message: Message::placed(new, seq),
            duplicate,
        });
    };
    let message = Message {
        id,
        seq,
        room_id: new.room,
        user_id: new.user.id,
        username: text(row, 4)?.into(),
        message: text(row, 5)?,
        timestamp: Timestamp(row.try_get(6)?),
    };
    Ok(Appended { message, duplicate })
}

pub(super) fn text(row: &PgRow, index: usize) -> Result<String, sqlx::Error> {
    String::from_utf8(row.try_get(index)?).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// One statement, so that the messages and the last seq belong together. A room without messages in the page is one row.
async fn history(
    pool: &Pool,
    room: &RoomId,
    query: HistoryQuery,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let sql = match query.direction {
        Direction::Newest => {
            "SELECT r.last_seq, m.seq, m.id, m.user_id, m.username, m.message, m.at
             FROM chat_rooms AS r LEFT JOIN LATERAL (
                 SELECT * FROM chat_messages AS m WHERE m.room = r.room AND m.seq > $2 AND m.seq < $3
                 ORDER BY m.seq DESC LIMIT $4
             ) AS m ON true
             WHERE r.name = $1 ORDER BY m.seq"
        }
        Direction::Oldest => {
            "SELECT r.last_seq, m.seq, m.id, m.user_id, m.username, m.message, m.at
             FROM chat_rooms AS r LEFT JOIN LATERAL (
                 SELECT * FROM chat_messages AS m WHERE m.room = r.room AND m.seq > $2 AND m.seq < $3
                 ORDER BY m.seq LIMIT $4
             ) AS m ON true
             WHERE r.name = $1 ORDER BY m.seq"
        }
    };
    sqlx::query(sql)
        .bind(room.as_str())
        .bind(to_sql(query.after))
        .bind(query.before.map_or(i64::MAX, to_sql))
        .bind(to_sql(query.limit as u64))
        .fetch_all(pool)
        .await
}

async fn last_seqs(pool: &Pool, rooms: &[RoomId]) -> Result<Vec<i64>, sqlx::Error> {
    let names: Vec<&str> = rooms.iter().map(RoomId::as_str).collect();
    sqlx::query_scalar(
        "SELECT coalesce(r.last_seq, 0)
         FROM unnest($1::text[]) WITH ORDINALITY AS asked (name, place)
         LEFT JOIN chat_rooms AS r ON r.name = asked.name COLLATE \"C\"
         ORDER BY asked.place",
    )
    .bind(names)
    .fetch_all(pool)
    .await
}

fn read_history(
    rows: &[PgRow],
    room: &RoomId,
    query: HistoryQuery,
) -> Result<History, sqlx::Error> {
    let mut history = History {
        messages: Vec::with_capacity(rows.len().min(query.limit)),
        last_seq: 0,
    };
    for row in rows {
        history.last_seq = from_sql(row.try_get(0)?);
        let Some(seq) = row.try_get::<Option<i64>, _>(1)? else {
            continue;
        };
        history.messages.push(Message {
            id: row.try_get(2)?,
            seq: from_sql(seq),
            room_id: room.clone(),
            user_id: UserId(row.try_get(3)?),
            username: text(row, 4)?.into(),
            message: text(row, 5)?,
            timestamp: Timestamp(row.try_get(6)?),
        });
    }
    Ok(history)
}
