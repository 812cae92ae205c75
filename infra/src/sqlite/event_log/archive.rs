//! The log's rows as they are, out of the file and into it.

use std::{collections::HashMap, fs::File, path::Path, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use socialhub_domain::UserId;
use socialhub_event_log::{
    ArchiveError, Credentials, EventRow, KeyRecord, KeyState, LogArchive, Over, Position,
    UnfinishedCopy, credential_key, require_same_keys,
};

use super::{OpenError, copying, lock, people, read_head, schema, side, writer};
use crate::sqlite::connection::{from_sql, id_bytes, open_reader, read_id, to_sql};

/// The columns [`read_row`] reads, in its order.
macro_rules! row_columns {
    () => {
        "SELECT position, event_id, command_id, aggregate_type, aggregate_id, sequence, event_type, event_version,
             payload, metadata, recorded_at"
    };
}

/// A log's file, opened for copying rows.
#[derive(Debug, Clone)]
pub struct SqliteLogArchive(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    connection: Connection,
    /// The copy that what is written belongs to.
    copy: Option<UnfinishedCopy>,
    /// Held until the connection is closed: fields are dropped in order.
    _lock: Option<File>,
}

impl SqliteLogArchive {
    /// Opens a log for reading and writing; makes the file if it is not there. No other process can write it, or start
    /// to serve it, until this is dropped.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let lock = lock(path)?;
        let mut connection = writer::connect(path)?;
        schema::migrate(&mut connection, path)?;
        Ok(Self::new(connection, Some(lock)))
    }

    /// Opens an existing log for reading only, also while another process writes it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_read_only(path: &Path) -> Result<Self, OpenError> {
        let connection = open_reader(path)?;
        schema::require_current(&connection, path)?;
        Ok(Self::new(connection, None))
    }

    fn new(connection: Connection, lock: Option<File>) -> Self {
        let open = Open {
            connection,
            copy: None,
            _lock: lock,
        };
        Self(Arc::new(Mutex::new(open)))
    }

    /// Runs work on the connection, off the async threads.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, ArchiveError> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        self.run_on(|open| work(&mut open.connection)).await
    }

    async fn run_on<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Open) -> Result<T, ArchiveError> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        let open = self.0.clone();
        let job = tokio::task::spawn_blocking(move || work(&mut open.lock()));
        job.await.map_err(unavailable)?
    }

    /// Runs work in one transaction, which stands when the work succeeds. It answers how much it has written: if
    /// anything, the log is marked as half of the copy under way.
    async fn write(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<u64, ArchiveError> + Send + 'static,
    ) -> Result<u64, ArchiveError> {
        self.run_on(move |open| {
            let transaction = open
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(unavailable)?;
            let new = work(&transaction)?;
            if let Some(copy) = open.copy.as_ref().filter(|_| new > 0) {
                copying::mark(&transaction, copy).map_err(unavailable)?;
            }
            transaction.commit().map_err(unavailable)?;
            Ok(new)
        })
        .await
    }
}

fn unavailable(error: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Unavailable(error.to_string())
}

#[async_trait]
impl LogArchive for SqliteLogArchive {
    async fn head(&self) -> Result<Position, ArchiveError> {
        self.run(|connection| read_head(connection).map_err(unavailable))
            .await
    }

    fn keeps_any_text(&self) -> bool {
        true
    }

    async fn read_rows(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Vec<EventRow>, ArchiveError> {
        self.run(move |connection| read_rows(connection, after, limit).map_err(unavailable))
            .await
    }

    async fn read_stream_rows(
        &self,
        stream_type: &str,
        stream_id: &str,
    ) -> Result<Vec<EventRow>, ArchiveError> {
        let key = [stream_type.to_owned(), stream_id.to_owned()];
        self.run(move |connection| {
            let sql = concat!(
                row_columns!(),
                " FROM events WHERE aggregate_type = ?1 AND aggregate_id = ?2 ORDER BY sequence"
            );
            let read = || -> rusqlite::Result<Vec<EventRow>> {
                let mut statement = connection.prepare_cached(sql)?;
                statement.query_map(key, read_row)?.collect()
            };
            read().map_err(unavailable)
        })
        .await
    }

    async fn write_rows(&self, rows: Vec<EventRow>) -> Result<(), ArchiveError> {
        self.write(move |transaction| {
            write_rows(transaction, &rows)?;
            Ok(rows.len() as u64)
        })
        .await?;
        Ok(())
    }

    async fn read_credentials(
        &self,
        after: Option<UserId>,
        registered_by: Position,
        limit: usize,
    ) -> Result<Vec<Credentials>, ArchiveError> {
        self.run(move |connection| {
            read_credentials(connection, after, registered_by, limit).map_err(unavailable)
        })
        .await
    }

    async fn compare_credentials(&self, rows: Vec<Credentials>) -> Result<(), ArchiveError> {
        self.run(move |connection| rows.iter().try_for_each(|row| compare(connection, row)))
            .await
    }

    async fn write_credentials(
        &self,
        rows: Vec<Credentials>,
        over: Over,
    ) -> Result<u64, ArchiveError> {
        self.write(move |transaction| {
            let mut new = 0;
            for row in &rows {
                new += u64::from(write_one(transaction, row, over)?);
            }
            Ok(new)
        })
        .await
    }

    async fn find_keys(
        &self,
        wanted: &[UserId],
    ) -> Result<HashMap<UserId, KeyState>, ArchiveError> {
        let wanted = wanted.to_vec();
        self.run(move |connection| people::find_keys(connection, &wanted).map_err(unavailable))
            .await
    }

    async fn read_keys(
        &self,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, ArchiveError> {
        self.run(move |connection| {
            let mut records = people::read_keys(connection, after, limit).map_err(unavailable)?;
            // After the keys: who is not erased now had credentials when those were read.
            for record in records.iter_mut().filter(|record| record.key.is_some()) {
                let erased = people::said_erased(connection, record.user_id);
                if let Some(position) = erased.map_err(unavailable)? {
                    (record.key, record.erased_at) = (None, Some(position));
                }
            }
            Ok(records)
        })
        .await
    }

    async fn write_keys(&self, records: Vec<KeyRecord>) -> Result<u64, ArchiveError> {
        self.write(move |transaction| {
            let mut new = 0;
            for record in &records {
                new += u64::from(people::restore(transaction, record).map_err(unavailable)?);
            }
            let users: Vec<UserId> = records.iter().map(|record| record.user_id).collect();
            let found = people::find_keys(transaction, &users).map_err(unavailable)?;
            require_same_keys(&records, &found)?;
            Ok(new)
        })
        .await
    }

    async fn unfinished_copy(&self) -> Result<Option<UnfinishedCopy>, ArchiveError> {
        self.run(|connection| copying::find(connection).map_err(unavailable))
            .await
    }

    async fn begin_copy(&self, copy: UnfinishedCopy) -> Result<(), ArchiveError> {
        self.run_on(move |open| {
            let found = copying::find(&open.connection).map_err(unavailable)?;
            if let Some(other) = found.filter(|found| found.id != copy.id) {
                return Err(ArchiveError::OtherCopy(other));
            }
            open.copy = Some(copy);
            Ok(())
        })
        .await
    }

    async fn mark_copy(&self) -> Result<(), ArchiveError> {
        self.run_on(|open| match &open.copy {
            Some(copy) => copying::mark(&open.connection, copy).map_err(unavailable),
            None => Ok(()),
        })
        .await
    }

    async fn end_copy(&self) -> Result<(), ArchiveError> {
        self.run_on(|open| {
            copying::clear(&open.connection).map_err(unavailable)?;
            open.copy = None;
            Ok(())
        })
        .await
    }
}

fn read_rows(
    connection: &Connection,
    after: Position,
    limit: usize,
) -> rusqlite::Result<Vec<EventRow>> {
    let sql = concat!(
        row_columns!(),
        " FROM events WHERE position > ?1 ORDER BY position LIMIT ?2"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(sql)?;
    statement
        .query_map([to_sql(after), limit], read_row)?
        .collect()
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<EventRow> {
    Ok(EventRow {
        position: from_sql(row.get(0)?),
        event_id: read_id(row, 1)?,
        command_id: read_id(row, 2)?,
        stream_type: row.get(3)?,
        stream_id: row.get(4)?,
        sequence: from_sql(row.get(5)?),
        event_type: row.get(6)?,
        event_version: row.get(7)?,
        payload: row.get(8)?,
        metadata: row.get(9)?,
        recorded_at: row.get(10)?,
    })
}

fn write_rows(transaction: &Transaction<'_>, rows: &[EventRow]) -> Result<(), ArchiveError> {
    let mut head = read_head(transaction).map_err(unavailable)?;
    for row in rows {
        row.follows(head)?;
        if version(transaction, row).map_err(unavailable)? + 1 != row.sequence {
            return Err(row.astray());
        }
        insert(transaction, row).map_err(unavailable)?;
        if let Some(user) = row.erases() {
            side::erase(transaction, user, row.position).map_err(unavailable)?;
        }
        head = row.position;
    }
    Ok(())
}

fn version(transaction: &Transaction<'_>, row: &EventRow) -> rusqlite::Result<u64> {
    let sql = "SELECT max(sequence) FROM events WHERE aggregate_type = ?1 AND aggregate_id = ?2";
    let mut statement = transaction.prepare_cached(sql)?;
    let last: Option<i64> =
        statement.query_row([&row.stream_type, &row.stream_id], |row| row.get(0))?;
    Ok(last.map_or(0, from_sql))
}

fn insert(transaction: &Transaction<'_>, row: &EventRow) -> rusqlite::Result<()> {
    let sql = "INSERT INTO events (position, event_id, command_id, aggregate_type, aggregate_id, sequence, event_type,
             event_version, payload, metadata, recorded_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    transaction.prepare_cached(sql)?.execute(params![
        to_sql(row.position),
        id_bytes(row.event_id),
        id_bytes(row.command_id),
        row.stream_type,
        row.stream_id,
        to_sql(row.sequence),
        row.event_type,
        row.event_version,
        row.payload,
        row.metadata,
        row.recorded_at,
    ])?;
    Ok(())
}

/// Goes on beyond people who registered later, so that an empty answer means the end.
fn read_credentials(
    connection: &Connection,
    after: Option<UserId>,
    registered_by: Position,
    limit: usize,
) -> rusqlite::Result<Vec<Credentials>> {
    let sql = "SELECT user_id, username, email, password_hash, token_epoch FROM credentials
         WHERE ?1 IS NULL OR user_id > ?1 ORDER BY user_id";
    let first_event = "SELECT position FROM events
         WHERE aggregate_type = 'user' AND aggregate_id = ?1 AND sequence = 1";
    let mut first_event = connection.prepare_cached(first_event)?;
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([after.map(|user| id_bytes(user.0))])?;
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(row) = rows.next()?
    {
        let credentials = side::credentials(row)?;
        let user = credentials.user_id.to_string();
        let position: Option<i64> = first_event.query_row([user], |row| row.get(0)).optional()?;
        if position.is_some_and(|position| from_sql(position) <= registered_by) {
            found.push(credentials);
        }
    }
    Ok(found)
}

/// Nobody of the three who could be in the way has other credentials.
fn compare(connection: &Connection, new: &Credentials) -> Result<(), ArchiveError> {
    let sql = "SELECT user_id, username, email, password_hash, token_epoch FROM credentials
         WHERE user_id = ?1 OR username_key = ?2 OR email_key = ?3";
    let read = || -> rusqlite::Result<Vec<Credentials>> {
        let keys = params![
            id_bytes(new.user_id.0),
            credential_key(&new.username),
            credential_key(&new.email),
        ];
        let mut statement = connection.prepare_cached(sql)?;
        statement.query_map(keys, side::credentials)?.collect()
    };
    match read()
        .map_err(unavailable)?
        .iter()
        .all(|found| found == new)
    {
        true => Ok(()),
        false => Err(ArchiveError::OtherCredentials(new.user_id)),
    }
}

/// Whether it is new.
fn write_one(
    transaction: &Transaction<'_>,
    new: &Credentials,
    over: Over,
) -> Result<bool, ArchiveError> {
    let write = |sql| {
        transaction.prepare_cached(sql)?.execute(params![
            id_bytes(new.user_id.0),
            new.username,
            credential_key(&new.username),
            new.email,
            credential_key(&new.email),
            new.password_hash,
            to_sql(new.token_epoch),
        ])
    };
    let find = || side::find_by_id(transaction, new.user_id).map_err(unavailable);
    let written = match (find()?, over) {
        (Some(found), _) if found == *new => return Ok(false),
        (Some(_), Over::Same) => return Err(ArchiveError::OtherCredentials(new.user_id)),
        (Some(_), Over::Older) => write(
            "UPDATE OR IGNORE credentials SET username = ?2, username_key = ?3, email = ?4, email_key = ?5,
                 password_hash = ?6, token_epoch = ?7 WHERE user_id = ?1",
        ),
        (None, _) => write(
            "INSERT OR IGNORE INTO credentials
                 (user_id, username, username_key, email, email_key, password_hash, token_epoch)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        ),
    };
    match written.map_err(unavailable)? {
        0 => Err(ArchiveError::OtherCredentials(new.user_id)),
        _ => Ok(true),
    }
}
