//! The generic store of one generation of a read model: one file, one writer thread, and the model's effects, its
//! checkpoint, its parked letters and its attempts in the same transaction.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    thread,
};

use async_trait::async_trait;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};
use socialhub_domain::Timestamp;
use socialhub_event_log::Position;
use socialhub_projections::{
    Checkpoint, ParkedLetter, Projection, ReadModelStore, Source, StoreError,
    projection::Projected,
    record::SequenceKey,
    runtime::WriteMode,
    store::{Attempts, ParkedSequence, WriteBatch},
};
use tokio::sync::oneshot;

use crate::{
    CODE,
    sqlite::{
        connection::{Durability, from_sql, open_writer, read_id, to_sql},
        model::SqliteModel,
    },
};

/// The tables that every generation has beside its model's own.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS checkpoint (
    source TEXT NOT NULL, partition INTEGER NOT NULL, position INTEGER NOT NULL, event_id BLOB NOT NULL,
    next_offset INTEGER, PRIMARY KEY (source, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parked (
    position INTEGER PRIMARY KEY, event_id BLOB NOT NULL, topic TEXT NOT NULL, key TEXT NOT NULL,
    raw TEXT NOT NULL, reason TEXT NOT NULL, attempts INTEGER NOT NULL, parked_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS attempts (position INTEGER PRIMARY KEY, tries INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
";

/// In `state`: set once the pointer has moved away; whoever writes after that has lost the generation.
const RETIRED: &str = "retired";
/// In `state`: whether the last writer ended cleanly.
const CLEAN: &str = "stopped_cleanly";
/// In `state`: which tables the file was made with.
const TABLES: &str = "tables";
/// In `state`: by what code it was begun.
const MADE_BY: &str = "made_by";

/// Calls that may wait for the writer. Its one user waits for each answer, so this is never near full.
const QUEUE: usize = 64;

/// The page cache of a model that is being filled, in KiB.
const BULK_CACHE_KIB: i64 = 48 * 1024;

/// Makes the tables of a new generation, in one transaction.
///
/// # Errors
/// What SQLite says.
pub(crate) fn begin<M: SqliteModel>(connection: &mut Connection) -> Result<(), StoreError> {
    let transaction = connection.transaction().map_err(unusable)?;
    prepare::<M>(&transaction)?;
    write_state(&transaction, MADE_BY, CODE).map_err(unusable)?;
    transaction.commit().map_err(unusable)
}

/// Whether a generation was begun by this very code.
pub(crate) fn is_of_this_program(connection: &Connection) -> rusqlite::Result<bool> {
    Ok(read_state(connection, MADE_BY)?.as_deref() == Some(CODE))
}

/// Makes a generation's tables, or checks that an existing one has the tables of this program.
///
/// # Errors
/// [`StoreError::Unusable`] when the file was made by a program with other tables.
pub(crate) fn prepare<M: SqliteModel>(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch(SCHEMA).map_err(unusable)?;
    let wanted = fingerprint(M::SCHEMA);
    match read_state(connection, TABLES).map_err(unusable)? {
        Some(found) if found != wanted => {
            return Err(StoreError::Unusable(format!(
                "it was made with other tables than this program has; run `socialhub replay rebuild {}`",
                M::Projection::NAME
            )));
        }
        Some(_) => {}
        None => write_state(connection, TABLES, &wanted).map_err(unusable)?,
    }
    connection.execute_batch(M::SCHEMA).map_err(unusable)
}

/// A name for a schema: FNV-1a over its words, so that another layout of the same text is the same schema.
fn fingerprint(schema: &str) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in schema
        .split_whitespace()
        .flat_map(|word| word.bytes().chain([b' ']))
    {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}

/// Outside a batch there is no record to blame.
#[expect(clippy::needless_pass_by_value, reason = "made for `map_err`")]
fn unusable(error: rusqlite::Error) -> StoreError {
    match classify(&error) {
        Fault::Unavailable => StoreError::Unavailable(error.to_string()),
        Fault::Unusable | Fault::Rejected => StoreError::Unusable(error.to_string()),
    }
}

fn read_state(connection: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("SELECT value FROM state WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()
}

fn write_state(connection: &Connection, name: &str, value: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO state (name, value) VALUES (?1, ?2)")?
        .execute([name, value])
        .map(|_| ())
}

/// Marks a generation as one whose writer has lost it, within the caller's transaction.
pub(crate) fn retire(connection: &Connection) -> rusqlite::Result<()> {
    write_state(connection, RETIRED, "1")
}

/// Every checkpoint in a generation's file.
pub(crate) fn read_checkpoints(connection: &Connection) -> rusqlite::Result<Vec<Checkpoint>> {
    connection
        .prepare_cached(
            "SELECT source, partition, position, event_id, next_offset FROM checkpoint
             ORDER BY source, partition",
        )?
        .query_map([], |row| {
            Ok(Checkpoint {
                source: Source {
                    name: row.get(0)?,
                    partition: row.get(1)?,
                },
                position: from_sql(row.get(2)?),
                event_id: read_id(row, 3)?,
                next_offset: row.get(4)?,
                // Nothing in process is divided.
                partitions: None,
            })
        })?
        .collect()
}

/// Every letter in a generation's file, by position.
pub(crate) fn read_parked(connection: &Connection) -> rusqlite::Result<Vec<ParkedLetter>> {
    connection
        .prepare_cached(
            "SELECT position, event_id, topic, key, raw, reason, attempts, parked_at FROM parked
             ORDER BY position",
        )?
        .query_map([], read_letter)?
        .collect()
}

/// The sequences of the letters in a generation's file.
fn read_parked_sequences(connection: &Connection) -> rusqlite::Result<Vec<ParkedSequence>> {
    // Beside `min` a column without an aggregate is that of the row with the least.
    connection
        .prepare_cached(
            "SELECT topic, key, min(position), attempts, count(*) FROM parked GROUP BY topic, key ORDER BY 3",
        )?
        .query_map([], |row| {
            Ok(ParkedSequence {
                sequence: SequenceKey {
                    topic: row.get(0)?,
                    key: row.get(1)?,
                },
                first: from_sql(row.get(2)?),
                is_tried: row.get::<_, u32>(3)? > 0,
                events: from_sql(row.get(4)?),
            })
        })?
        .collect()
}

/// How many letters a generation's file holds.
pub(crate) fn count_parked(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT count(*) FROM parked")?
        .query_row([], |row| row.get(0).map(from_sql))
}

fn read_letter(row: &Row<'_>) -> rusqlite::Result<ParkedLetter> {
    Ok(ParkedLetter {
        position: from_sql(row.get(0)?),
        event_id: read_id(row, 1)?,
        topic: row.get(2)?,
        key: row.get(3)?,
        raw: row.get(4)?,
        reason: row.get(5)?,
        attempts: row.get(6)?,
        parked_at: Timestamp(row.get(7)?),
    })
}

/// What an error of SQLite means for the batch that met it.
enum Fault {
    /// Not now.
    Unavailable,
    /// Never again with this file or program.
    Unusable,
    /// Not this batch.
    Rejected,
}

/// Whether a file is beyond reading: it is no database, or not one of ours.
pub(crate) fn is_broken(error: &rusqlite::Error) -> bool {
    let may_be_readable = error.sqlite_error_code() == Some(ErrorCode::ReadOnly);
    !may_be_readable && !matches!(classify(error), Fault::Unavailable)
}

fn classify(error: &rusqlite::Error) -> Fault {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OutOfMemory
            | ErrorCode::SystemIoFailure
            | ErrorCode::DiskFull
            | ErrorCode::CannotOpen
            | ErrorCode::OperationInterrupted
            | ErrorCode::SchemaChanged
            | ErrorCode::FileLockingProtocolFailed => Fault::Unavailable,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ReadOnly => {
                Fault::Unusable
            }
            _ => Fault::Rejected,
        },
        // A statement that cannot be prepared is the program's fault and not the event's: parking every event there is
        // would help nobody.
        rusqlite::Error::SqlInputError { .. } => Fault::Unusable,
        _ => Fault::Rejected,
    }
}

fn store_error(error: &rusqlite::Error, position: Position) -> StoreError {
    let reason = error.to_string();
    match classify(error) {
        Fault::Unavailable => StoreError::Unavailable(reason),
        Fault::Unusable => StoreError::Unusable(reason),
        Fault::Rejected => StoreError::Rejected { position, reason },
    }
}

type Change<M> = <<M as SqliteModel>::Projection as Projection>::Change;
type Task<M> = Box<dyn FnOnce(&mut Writer<M>) + Send>;

enum Job<M: SqliteModel> {
    Run(Task<M>),
    Close(oneshot::Sender<()>),
}

/// The store of one generation on SQLite, as its single writer sees it.
///
/// Calls are handed to the writer's thread one after another. The lock that makes it the only writer over all
/// processes is given back when the store is closed or dropped, or when the process ends.
pub struct SqliteModelStore<M: SqliteModel> {
    /// None once it is closed: nothing may come to stand in the queue behind the last job, where nobody would answer it.
    jobs: Mutex<Option<Sender<Job<M>>>>,
}

impl<M: SqliteModel> SqliteModelStore<M> {
    /// Opens a generation's file, making it if it is not there, and starts its writer. `lock` is the lock that makes
    /// it the only one; it is held as long as the writer lives. Blocks: not to be called on an async thread.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the file was made by a program with other tables.
    pub fn open(path: &Path, mode: WriteMode, lock: Option<File>) -> Result<Self, StoreError> {
        let connection = open_writer(path, Durability::Normal).map_err(unusable)?;
        tune(&connection, mode).map_err(unusable)?;
        prepare::<M>(&connection)?;
        // Whoever holds the lock is the writer again, for example after a rollback.
        connection
            .execute("DELETE FROM state WHERE name = ?1", [RETIRED])
            .map_err(unusable)?;
        let model = M::open(&connection).map_err(unusable)?;
        widen_cache(&connection, mode).map_err(unusable)?;
        let (jobs, queue) = bounded(QUEUE);
        let data_version = data_version(&connection).map_err(unusable)?;
        let writer = Writer {
            connection,
            model,
            data_version,
        };
        thread::Builder::new()
            .name(format!("sqlite-write-{}", M::Projection::NAME))
            .spawn(move || serve(writer, &queue, lock))
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Self {
            jobs: Mutex::new(Some(jobs)),
        })
    }

    async fn run<T, F>(&self, task: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Writer<M>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Job::Run(Box::new(move |writer| {
            // The asker may have gone away: then nobody wants the answer.
            let _ = reply.send(task(writer));
        }));
        match self.jobs.lock().as_ref().map(|jobs| jobs.try_send(job)) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_))) => {
                return Err(StoreError::Unavailable("its writer is busy".to_owned()));
            }
            Some(Err(TrySendError::Disconnected(_))) | None => return Err(closed()),
        }
        answer.await.map_err(|_| closed())?
    }
}

fn closed() -> StoreError {
    StoreError::Unusable("it has been closed".to_owned())
}

/// How often the write-ahead log is carried over. In bulk a batch spreads over a large part of the pages: carried over
/// rarely, a page that many batches changed is written to the file once.
fn tune(connection: &Connection, mode: WriteMode) -> rusqlite::Result<()> {
    let checkpoint_pages = match mode {
        WriteMode::Live => 2_000,
        WriteMode::Bulk => 64_000,
    };
    connection.pragma_update(None, "wal_autocheckpoint", checkpoint_pages)?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)
}

/// The page cache while a generation is filled, whatever the model sets for live use, where memory is dearer.
fn widen_cache(connection: &Connection, mode: WriteMode) -> rusqlite::Result<()> {
    match mode {
        WriteMode::Live => Ok(()),
        WriteMode::Bulk => connection.pragma_update(None, "cache_size", -BULK_CACHE_KIB),
    }
}

fn serve<M: SqliteModel>(mut writer: Writer<M>, queue: &Receiver<Job<M>>, lock: Option<File>) {
    let mut closing = None;
    while let Ok(job) = queue.recv() {
        match job {
            Job::Run(task) => task(&mut writer),
            Job::Close(done) => {
                closing = Some(done);
                break;
            }
        }
    }
    // The file first, then the lock on it, then the word that both are free.
    drop(writer);
    drop(lock);
    if let Some(done) = closing {
        let _ = done.send(());
    }
}

struct Writer<M: SqliteModel> {
    connection: Connection,
    model: M,
    /// What SQLite calls the file's contents as this connection knows them: another number once another has written, as
    /// a repair does.
    data_version: i64,
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("PRAGMA data_version")?
        .query_row([], |row| row.get(0))
}

impl<M: SqliteModel> Writer<M> {
    /// Runs `work` in a write transaction; whatever goes wrong, panics included, nothing is written and the model
    /// knows.
    fn transact(
        &mut self,
        position: Position,
        work: impl FnOnce(&mut M, &Transaction<'_>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let Self {
            connection,
            model,
            data_version: known,
        } = self;
        let done = catch_unwind(AssertUnwindSafe(|| {
            let transaction = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(|error| store_error(&error, position))?;
            let found = data_version(&transaction).map_err(unusable)?;
            if *known != found {
                *known = found;
                model.rolled_back();
            }
            work(model, &transaction)?;
            transaction
                .commit()
                .map_err(|error| store_error(&error, position))
        }));
        let result = done.unwrap_or_else(|_| {
            Err(StoreError::Rejected {
                position,
                reason: "the model's writer panicked".to_owned(),
            })
        });
        if result.is_err() {
            self.model.rolled_back();
        }
        result
    }

    fn apply(&mut self, batch: &WriteBatch<Change<M>>) -> Result<(), StoreError> {
        let first = batch
            .projected
            .first()
            .map_or(batch.checkpoint.position, |projected| projected.position);
        self.transact(first, |model, transaction| {
            refuse_when_retired(transaction)?;
            write_batch(model, transaction, batch).map_err(|error| store_error(&error, first))
        })
    }

    fn apply_parked(&mut self, projected: &Projected<Change<M>>) -> Result<(), StoreError> {
        let position = projected.position;
        self.transact(position, |model, transaction| {
            refuse_when_retired(transaction)?;
            let applied = match delete_letter(transaction, position) {
                Ok(true) => model.apply(transaction, std::slice::from_ref(projected)),
                // Gone already: it was applied before.
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            };
            applied.map_err(|error| store_error(&error, position))
        })
    }

    /// Runs statements or queries of the runtime's own tables, in a transaction of its own.
    fn own<T>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let transaction = self.connection.transaction().map_err(unusable)?;
        let done = work(&transaction).map_err(unusable)?;
        transaction.commit().map_err(unusable)?;
        Ok(done)
    }
}

fn refuse_when_retired(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    match read_state(transaction, RETIRED).map_err(unusable)? {
        Some(_) => Err(StoreError::Unusable(
            "another generation has become current".to_owned(),
        )),
        None => Ok(()),
    }
}

fn write_batch<M: SqliteModel>(
    model: &mut M,
    transaction: &Transaction<'_>,
    batch: &WriteBatch<Change<M>>,
) -> rusqlite::Result<()> {
    let checkpoint = &batch.checkpoint;
    let stored = stored_position(transaction, &checkpoint.source)?;
    if stored.is_some_and(|stored| checkpoint.position <= stored) {
        return Ok(());
    }
    let stored = stored.unwrap_or(0);
    let known = batch
        .projected
        .partition_point(|projected| projected.position <= stored);
    let fresh = batch.projected.get(known..).unwrap_or_default();
    if !fresh.is_empty() {
        model.apply(transaction, fresh)?;
    }
    for letter in batch
        .parked
        .iter()
        .filter(|letter| letter.position > stored)
    {
        insert_letter(transaction, letter)?;
    }
    write_checkpoint(transaction, checkpoint)
}

fn stored_position(connection: &Connection, source: &Source) -> rusqlite::Result<Option<Position>> {
    connection
        .prepare_cached("SELECT position FROM checkpoint WHERE source = ?1 AND partition = ?2")?
        .query_row(params![source.name, source.partition], |row| {
            row.get(0).map(from_sql)
        })
        .optional()
}

fn write_checkpoint(connection: &Connection, checkpoint: &Checkpoint) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO checkpoint (source, partition, position, event_id, next_offset)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            checkpoint.source.name,
            checkpoint.source.partition,
            to_sql(checkpoint.position),
            checkpoint.event_id.as_bytes(),
            checkpoint.next_offset,
        ])
        .map(|_| ())
}

fn insert_letter(connection: &Connection, letter: &ParkedLetter) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO parked
             (position, event_id, topic, key, raw, reason, attempts, parked_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            to_sql(letter.position),
            letter.event_id.as_bytes(),
            letter.topic,
            letter.key,
            letter.raw,
            letter.reason,
            letter.attempts,
            letter.parked_at.0,
        ])
        .map(|_| ())
}

/// Answers whether it was there.
fn delete_letter(connection: &Connection, position: Position) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("DELETE FROM parked WHERE position = ?1")?
        .execute([to_sql(position)])
        .map(|deleted| deleted > 0)
}

fn write_attempts(connection: &Connection, attempts: &Attempts) -> rusqlite::Result<()> {
    forget_attempts(connection)?;
    let mut insert =
        connection.prepare_cached("INSERT INTO attempts (position, tries) VALUES (?1, ?2)")?;
    for (position, tries) in attempts {
        insert.execute(params![to_sql(*position), tries])?;
    }
    Ok(())
}

fn read_attempts(connection: &Connection) -> rusqlite::Result<Attempts> {
    connection
        .prepare_cached("SELECT position, tries FROM attempts")?
        .query_map([], |row| Ok((row.get(0).map(from_sql)?, row.get(1)?)))?
        .collect()
}

fn forget_attempts(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM attempts", []).map(|_| ())
}

/// One file, one writer, one source: what is kept by source needs no key.
#[async_trait]
impl<M: SqliteModel> ReadModelStore<M::Projection> for SqliteModelStore<M> {
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.run(|writer| writer.own(read_checkpoints)).await
    }

    async fn apply(&self, batch: WriteBatch<Change<M>>) -> Result<(), StoreError> {
        self.run(move |writer| writer.apply(&batch)).await
    }

    async fn parked(&self) -> Result<Vec<ParkedLetter>, StoreError> {
        self.run(|writer| writer.own(read_parked)).await
    }

    async fn parked_sequences(&self) -> Result<Vec<ParkedSequence>, StoreError> {
        self.run(|writer| writer.own(read_parked_sequences)).await
    }

    async fn apply_parked(&self, projected: Projected<Change<M>>) -> Result<(), StoreError> {
        self.run(move |writer| writer.apply_parked(&projected))
            .await
    }

    async fn discard_parked(&self, position: Position) -> Result<(), StoreError> {
        self.run(move |writer| writer.own(|connection| delete_letter(connection, position)))
            .await
            .map(|_| ())
    }

    async fn set_attempts(&self, _source: &Source, attempts: &Attempts) -> Result<(), StoreError> {
        let attempts = attempts.clone();
        self.run(move |writer| writer.own(|connection| write_attempts(connection, &attempts)))
            .await
    }

    async fn attempts(&self, _source: &Source) -> Result<Attempts, StoreError> {
        self.run(|writer| writer.own(read_attempts)).await
    }

    async fn stopped_cleanly(&self, _source: &Source) -> Result<bool, StoreError> {
        self.run(|writer| writer.own(|connection| read_state(connection, CLEAN)))
            .await
            .map(|clean| clean.as_deref() != Some("0"))
    }

    async fn set_stopped_cleanly(&self, _source: &Source, clean: bool) -> Result<(), StoreError> {
        self.run(move |writer| {
            writer.own(|connection| {
                write_state(connection, CLEAN, if clean { "1" } else { "0" })?;
                if clean {
                    forget_attempts(connection)?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn close(&self) {
        let (done, closed) = oneshot::channel();
        let jobs = self.jobs.lock().take();
        if jobs.is_some_and(|jobs| jobs.try_send(Job::Close(done)).is_ok()) {
            // An error means that the thread is gone, which is what is asked for.
            let _ = closed.await;
        }
    }
}
