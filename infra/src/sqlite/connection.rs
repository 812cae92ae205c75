//! Opening SQLite files, and the reader threads that serve queries.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::oneshot;
use uuid::Uuid;

/// How much a commit must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power cut: `synchronous=FULL`. For what cannot be rebuilt.
    Full,
    /// A crash of the process: `synchronous=NORMAL`. For what can be rebuilt from the log.
    Normal,
}

/// A fault of SQLite, or of the threads around it.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// SQLite said no.
    #[error("sqlite: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// More queries wait than the queue holds.
    #[error("too many queries are waiting")]
    Busy,
    /// The threads are gone: the program is closing.
    #[error("the database is closed")]
    Closed,
    /// A thread could not be started.
    #[error("cannot start a database thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// For so long a lock is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// And for so long readers that began before the write-ahead log is emptied.
const CHECKPOINT_PATIENCE: Duration = Duration::from_millis(250);

/// Opens a file for writing, making it if it is not there: WAL, a patient lock, statements cached.
///
/// # Errors
/// What SQLite says.
pub fn open_writer(path: &Path, durability: Durability) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    write_ahead(&connection, PATIENCE)?;
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // What is deleted or replaced is overwritten: nothing of the erased may stay in free space.
    connection.pragma_update(None, "secure_delete", true)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// Lets the file have a write-ahead log.
///
/// Of a new file, which has none yet, that changes the header. Where somebody else is about to write meanwhile (another
/// process that makes the same file, say), SQLite says "locked" at once, without the patience that it has for other locks.
/// Blocks for at most twice as long as the patience is.
fn write_ahead(connection: &Connection, patience: Duration) -> rusqlite::Result<()> {
    let begun = Instant::now();
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && begun.elapsed() < patience =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

/// Opens an existing file for reading only.
///
/// # Errors
/// What SQLite says; also when there is no such file.
pub fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A few threads, each with a connection for reading. Queries beyond the queue's bound are refused, which the edge
/// answers with 503.
#[derive(Debug, Clone)]
pub struct Readers {
    jobs: Sender<Job>,
    path: PathBuf,
}

impl Readers {
    /// Starts `threads` readers of an existing file. They end when the last clone of the handle is dropped.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn start(path: &Path, threads: usize) -> Result<Self, SqliteError> {
        let (jobs, queue) = bounded::<Job>(4096);
        for index in 0..threads.max(1) {
            let connection = open_reader(path)?;
            let queue: Receiver<Job> = queue.clone();
            thread::Builder::new()
                .name(format!("sqlite-read-{index}"))
                .spawn(move || serve(connection, &queue))?;
        }
        Ok(Self {
            jobs,
            path: path.to_owned(),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a query on one of the threads.
    ///
    /// # Errors
    /// [`SqliteError`].
    pub async fn run<T, F>(&self, query: F) -> Result<T, SqliteError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // The asker may have gone away: then nobody wants the answer.
            let _ = reply.send(query(connection));
        });
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(SqliteError::Busy),
            Err(TrySendError::Disconnected(_)) => return Err(SqliteError::Closed),
        }
        Ok(answer.await.map_err(|_| SqliteError::Closed)??)
    }
}

fn serve(mut connection: Connection, queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        job(&mut connection);
    }
}

/// An id as the read models store it: 16 bytes.
pub fn id_bytes(id: Uuid) -> [u8; 16] {
    *id.as_bytes()
}

/// Reads an id stored as 16 bytes.
///
/// # Errors
/// When the column holds something else.
pub fn read_id(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Uuid> {
    row.get::<_, [u8; 16]>(column).map(Uuid::from_bytes)
}

/// Positions and counts are never near 2^63: SQLite's integers hold them.
pub fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Reads a position or count.
pub fn from_sql(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Copies the WAL into the file and empties it. Meanwhile nobody writes: so it does not wait long for readers that began
/// before.
///
/// # Errors
/// What SQLite says; also when readers held it up.
pub fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(CHECKPOINT_PATIENCE)?;
    let outcome = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
    connection.busy_timeout(PATIENCE)?;
    if outcome? {
        let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        let reason = "readers hold up the checkpoint".to_owned();
        return Err(rusqlite::Error::SqliteFailure(busy, Some(reason)));
    }
    Ok(())
}

/// Asks SQLite to look through a whole file for damage. Takes seconds for large files.
///
/// # Errors
/// What SQLite says, or the first damage it found.
pub fn check_file(path: &Path) -> Result<(), String> {
    let connection = open_reader(path).map_err(|error| error.to_string())?;
    let verdict = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match verdict {
        Ok(text) if text == "ok" => Ok(()),
        Ok(damage) => Err(damage),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_that_somebody_else_writes_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new.db");
        let somebody = Connection::open(&path).unwrap();
        somebody.execute_batch("BEGIN IMMEDIATE").unwrap();
        let error = write_ahead(&Connection::open(&path).unwrap(), Duration::ZERO).unwrap_err();
        assert_eq!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy));

        thread::scope(|scope| {
            let opened = scope.spawn(|| open_writer(&path, Durability::Full));
            // So that it has met the lock, as good as always.
            thread::sleep(Duration::from_millis(50));
            somebody.execute_batch("COMMIT").unwrap();
            let mode = opened.join().unwrap().and_then(|opened| {
                opened.pragma_query_value(None, "journal_mode", |row| row.get(0))
            });
            assert_eq!(mode, Ok("wal".to_owned()));
        });
    }
}
