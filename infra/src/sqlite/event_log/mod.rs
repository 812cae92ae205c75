//! The event log on SQLite: one file, one writing thread with group commit, a few reading threads.
//!
//! * [`writer`](self) gathers what waits into one transaction (`synchronous=FULL`: one disk flush for all of them) and
//!   gives each command its own outcome.
//! * Only one process may write a file: an advisory lock on `<file>.lock` sees to it. Others read it with
//!   [`SqliteEventLog::open_read_only`], also while it is being written.
//! * A command sent again is noticed by an index on the command ids of the events (ids sort by time, so that the index
//!   grows at its end and looking up a fresh id touches a page that is in memory anyway): no time window, no memory,
//!   and it survives a restart. Commands without events have a small table, pruned with the answers after 24 hours.
//! * Opening costs the same whatever the log's length: the head is the last key of the table.

mod archive;
mod batch;
mod copying;
mod encode;
mod follow;
mod people;
mod schema;
mod side;
mod writer;

use std::{
    ffi::OsString,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use async_trait::async_trait;
use crossbeam_channel::{Sender, TrySendError, bounded};
use parking_lot::Mutex;
use rusqlite::Connection;
use socialhub_domain::{Clock, StreamId, Timestamp, UserId};
use socialhub_event_log::{
    AnswerKey, Append, AppendError, Appended, Credentials, CredentialsReader, EventLog, LogError,
    Position, RecordedEvent, StoredAnswer, UnfinishedCopy,
};
use tokio::sync::{oneshot, watch};

pub use self::archive::SqliteLogArchive;
use self::{
    encode::{decode_all, encode, event_columns},
    follow::Follower,
    writer::{Message, Writer},
};
use crate::sqlite::connection::{Readers, SqliteError, from_sql, open_reader, to_sql};

/// How many commands wait at most; more are refused, which the edge answers with 503.
const QUEUE: usize = 8192;

/// Loads of streams and scans of the log are short: a few threads serve them all.
const READER_THREADS: usize = 2;

/// Why a log's file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open for writing.
    #[error(
        "{path} is being written by another process: stop that one first, or use a command that only reads"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error(
        "{path} has schema version {found}, this program knows up to {known}: it was written by a newer SocialHub, use that one"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version it has.
        found: usize,
        /// The newest version this program knows.
        known: usize,
    },
    /// An older program wrote it, or nobody did, and it was to be opened for reading only.
    #[error(
        "{path} has schema version {found}, not {known}: start the server once to bring it up to date"
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// The version it has.
        found: usize,
        /// The version this program reads.
        known: usize,
    },
    /// A copy into it was interrupted.
    #[error("{path} is not whole: {copy}")]
    Unfinished {
        /// The file.
        path: PathBuf,
        /// The copy.
        copy: UnfinishedCopy,
    },
    /// The lock file beside it could not be made or locked.
    #[error("cannot lock {path}: {source}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// SQLite or a thread failed.
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error.into())
    }
}

/// The event log in one SQLite file.
#[derive(Debug)]
pub struct SqliteEventLog {
    readers: Readers,
    head: Arc<watch::Sender<Position>>,
    role: Role,
}

/// What this value may do with the file.
#[derive(Debug)]
enum Role {
    Writes {
        queue: Sender<Message>,
        thread: Mutex<Option<JoinHandle<()>>>,
    },
    Follows {
        _follower: Follower,
    },
}

impl SqliteEventLog {
    /// Opens a log for reading and writing; makes the file if it is not there. The clock stamps `recorded_at` and
    /// decides which stored answers may be forgotten.
    ///
    /// # Errors
    /// When another process writes it, a newer program wrote it, it holds half a copy, or the file cannot be opened.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let lock = lock(path)?;
        let mut connection = writer::connect(path)?;
        schema::migrate(&mut connection, path)?;
        copying::require_whole(&connection, path)?;
        let readers = Readers::start(path, READER_THREADS)?;
        let head = Arc::new(watch::Sender::new(0));
        let writer = Writer::new(path.to_owned(), connection, clock, Arc::clone(&head), lock)?;
        let (queue, waiting) = bounded(QUEUE);
        let thread = thread::Builder::new()
            .name("event-log".to_owned())
            .spawn(move || writer.run(&waiting))
            .map_err(SqliteError::Thread)?;
        let thread = Mutex::new(Some(thread));
        let role = Role::Writes { queue, thread };
        Ok(Self {
            readers,
            head,
            role,
        })
    }

    /// Opens an existing log for reading only, also while another process writes it. Appends are refused; the watched
    /// head follows the other process about five times a second.
    ///
    /// # Errors
    /// When there is no such file, its schema is not this program's, it holds half a copy, or it cannot be opened.
    pub fn open_read_only(path: &Path) -> Result<Self, OpenError> {
        let connection = open_reader(path)?;
        schema::require_current(&connection, path)?;
        copying::require_whole(&connection, path)?;
        let readers = Readers::start(path, READER_THREADS)?;
        let head = Arc::new(watch::Sender::new(read_head(&connection)?));
        let follower = Follower::start(connection, Arc::clone(&head))?;
        let role = Role::Follows {
            _follower: follower,
        };
        Ok(Self {
            readers,
            head,
            role,
        })
    }

    /// Commits what waits, brings the WAL into the file, and ends the writing thread; blocks for that long. Later
    /// appends are refused, reads go on. Dropping the log closes it too.
    pub fn close(&self) {
        let Role::Writes { queue, thread } = &self.role else {
            return;
        };
        let Some(thread) = thread.lock().take() else {
            return;
        };
        // Fails only when the thread is gone already.
        let _ = queue.send(Message::Close);
        let _ = thread.join();
    }

    /// Runs something on the writing thread, between two commits.
    async fn write<T, F>(&self, work: F) -> Result<T, LogError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let unavailable = |why: String| LogError::Unavailable(why);
        let Role::Writes { queue, .. } = &self.role else {
            return Err(unavailable(
                "the event log is open for reading only".to_owned(),
            ));
        };
        let (reply, answer) = oneshot::channel();
        let job = Message::Run(Box::new(move |connection| {
            // The asker may have gone away; the work is done all the same.
            let _ = reply.send(work(connection));
        }));
        queue
            .try_send(job)
            .map_err(|_| unavailable("too many commands are waiting".to_owned()))?;
        match answer.await {
            Ok(done) => done.map_err(|error| unavailable(error.to_string())),
            Err(_) => Err(unavailable("the event log is closed".to_owned())),
        }
    }

    async fn read<T, F>(&self, query: F) -> Result<T, LogError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let answer = self.readers.run(query).await;
        answer.map_err(|error| LogError::Unavailable(error.to_string()))
    }
}

impl Drop for SqliteEventLog {
    fn drop(&mut self) {
        self.close();
    }
}

/// Makes sure that no other process writes the file, until the answer is dropped. The lock is on a file of its own:
/// opening and closing the database's file beside SQLite would drop SQLite's own locks.
fn lock(path: &Path) -> Result<File, OpenError> {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let failed = |source| OpenError::Lock {
        path: lock_path.clone(),
        source,
    };
    let mut options = File::options();
    let file = options
        .create(true)
        .write(true)
        .truncate(false)
        .open(&lock_path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The position of the newest event; 0 when there is none. One step down the table's tree.
fn read_head(connection: &Connection) -> rusqlite::Result<Position> {
    let mut statement = connection.prepare_cached("SELECT max(position) FROM events")?;
    let last: Option<i64> = statement.query_row([], |row| row.get(0))?;
    Ok(last.map_or(0, from_sql))
}

fn read_stream(
    connection: &Connection,
    stream: &StreamId,
) -> rusqlite::Result<Result<Vec<RecordedEvent>, LogError>> {
    let sql = concat!(
        "SELECT ",
        event_columns!(),
        " FROM events WHERE aggregate_type = ?1 AND aggregate_id = ?2 ORDER BY sequence"
    );
    let mut statement = connection.prepare_cached(sql)?;
    decode_all(statement.query([&stream.aggregate_type, &stream.aggregate_id])?)
}

#[async_trait]
impl EventLog for SqliteEventLog {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let unavailable = |why: &str| AppendError::Unavailable(why.to_owned());
        let Role::Writes { queue, .. } = &self.role else {
            return Err(unavailable("the event log is open for reading only"));
        };
        let encoded = encode(append).map_err(|error| unavailable(&error.to_string()))?;
        let (reply, outcome) = oneshot::channel();
        match queue.try_send(Message::Append(encoded, reply)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(unavailable("too many commands are waiting")),
            Err(TrySendError::Disconnected(_)) => {
                return Err(unavailable("the event log is closed"));
            }
        }
        // The writer answers all it takes from the queue; what it never took was not applied.
        outcome
            .await
            .unwrap_or_else(|_| Err(unavailable("the event log is closed")))
    }

    async fn read_stream(&self, stream: &StreamId) -> Result<Vec<RecordedEvent>, LogError> {
        let stream = stream.clone();
        self.read(move |connection| read_stream(connection, &stream))
            .await?
    }

    async fn read_streams(
        &self,
        streams: &[StreamId],
    ) -> Result<Vec<Vec<RecordedEvent>>, LogError> {
        let streams = streams.to_vec();
        let query = move |connection: &mut Connection| {
            // One transaction: all of them as they were at one moment.
            let snapshot = connection.transaction()?;
            streams
                .iter()
                .map(|stream| read_stream(&snapshot, stream))
                .collect()
        };
        let found: Vec<Result<Vec<RecordedEvent>, LogError>> = self.read(query).await?;
        found.into_iter().collect()
    }

    async fn read_all(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, LogError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = concat!(
            "SELECT ",
            event_columns!(),
            " FROM events WHERE position > ?1 ORDER BY position LIMIT ?2"
        );
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(sql)?;
            decode_all(statement.query([to_sql(after), limit])?)
        })
        .await?
    }

    /// The writing process knows it: no other can move it.
    async fn head(&self) -> Result<Position, LogError> {
        match self.role {
            Role::Writes { .. } => Ok(*self.head.borrow()),
            Role::Follows { .. } => self.read(|connection| read_head(connection)).await,
        }
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }
}

#[async_trait]
impl CredentialsReader for SqliteEventLog {
    async fn find_by_identifier(&self, identifier: &str) -> Result<Option<Credentials>, LogError> {
        let identifier = identifier.to_owned();
        self.read(move |connection| side::find_by_identifier(connection, &identifier))
            .await
    }

    async fn find_by_id(&self, user_id: UserId) -> Result<Option<Credentials>, LogError> {
        self.read(move |connection| side::find_by_id(connection, user_id))
            .await
    }

    async fn raised_epochs(&self) -> Result<Vec<(UserId, u64)>, LogError> {
        self.read(|connection| side::raised_epochs(connection))
            .await
    }

    async fn find_answer(
        &self,
        key: &AnswerKey,
        now: Timestamp,
    ) -> Result<Option<StoredAnswer>, LogError> {
        let key = key.clone();
        let stored = self
            .read(move |connection| side::find_answer(connection, &key))
            .await?;
        Ok(stored.filter(|stored| !stored.expired(now)))
    }
}
