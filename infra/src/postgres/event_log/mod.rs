//! The event log on Postgres: many processes append, each with one task that commits in groups.
//!
//! * A batch is one call of the function `append_events`, one round trip. Its first statement takes an advisory lock that
//!   is held until the commit, so batches of all processes follow one another and positions are dense, in the order of
//!   commits. See `migrations/postgres/event_log/` and `docs/decisions/0007-append-on-postgres.md`.
//! * A lost connection leaves no outcome unknown that can still be found out: `appender` tells how.
//! * Connections are opened when they are needed. A process starts while the server is down, and goes on when it is back.

mod appender;
mod archive;
mod batch;
mod copying;
mod follow;
mod people;
mod processes;
mod queries;
mod reader;
mod rows;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use socialhub_domain::{Clock, StreamId, Timestamp, UserId};
use socialhub_event_log::{
    AnswerKey, Append, AppendError, Appended, Credentials, CredentialsReader, EventLog, LogError,
    Position, RecordedEvent, SideWrite, StoredAnswer,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

pub use self::archive::PgLogArchive;
use self::{
    appender::{Appender, Ticket, Waiting},
    follow::Follower,
    reader::StreamReader,
    rows::decode_all,
};
use super::{
    connect::{Access, OpenError, Schema},
    pool::{Pool, retrying},
};
use crate::event_rows::encode;

/// How many commands wait at most; more are refused, which the edge answers with 503.
const QUEUE: usize = 8_192;

/// How long the server lets a call run, and how long it waits for the lock.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// Tasks that load streams.
const READERS: usize = 2;

/// Connections for everything else.
const CONNECTIONS: usize = 4;

/// The schema of the log and of what lies beside it, the relay's state included.
pub(super) const SCHEMA: Schema = Schema {
    component: "event log",
    migrations: &[
        include_str!("../../../../migrations/postgres/event_log/0001_event_log.sql"),
        include_str!("../../../../migrations/postgres/event_log/0002_append_events.sql"),
        include_str!("../../../../migrations/postgres/event_log/0003_relay.sql"),
        include_str!("../../../../migrations/postgres/event_log/0004_erasure.sql"),
        include_str!("../../../../migrations/postgres/event_log/0005_unfinished_copy.sql"),
        include_str!("../../../../migrations/postgres/event_log/0006_refuse_the_erased.sql"),
        include_str!("../../../../migrations/postgres/event_log/0007_processes.sql"),
    ],
};

/// What may be chosen.
#[derive(Debug, Clone, Copy)]
pub struct PgLogSettings {
    /// How long a caller waits for an outcome before it is called unknown.
    pub deadline: Duration,
    /// How many commands one call carries at most.
    pub max_batch: usize,
}

impl Default for PgLogSettings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            max_batch: 256,
        }
    }
}

/// The event log in a Postgres database.
#[derive(Debug)]
pub struct PgEventLog {
    pool: Pool,
    readers: StreamReader,
    head: Arc<watch::Sender<Position>>,
    follower: Follower,
    deadline: Duration,
    queue: Mutex<Option<mpsc::Sender<Waiting>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl PgEventLog {
    /// Brings the log's tables in a database up to date. Idempotent; several processes may do it at once.
    ///
    /// # Errors
    /// When the database cannot be reached, a newer program wrote it, or a migration fails.
    pub async fn migrate(url: &str) -> Result<(), OpenError> {
        SCHEMA.migrate(url).await
    }

    /// Opens a log that is there and up to date. The clock stamps `recorded_at` and decides which stored answers may be
    /// forgotten.
    ///
    /// # Errors
    /// When the database cannot be reached, its schema is not this program's, or it holds half a copy.
    pub async fn connect(url: &str, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        SCHEMA.require_current(&access(url)?).await?;
        let log = Self::lazy(url, clock, PgLogSettings::default())?;
        copying::require_whole(&log.pool).await?;
        let head = queries::head(&log.pool)
            .await
            .map_err(OpenError::Unreachable)?;
        appender::raise(&log.head, head);
        Ok(log)
    }

    /// A log that connects when it is used; until the server answers, everything is "unavailable". Needs a runtime.
    ///
    /// # Errors
    /// When the address is none.
    pub fn lazy(
        url: &str,
        clock: Arc<dyn Clock>,
        settings: PgLogSettings,
    ) -> Result<Self, OpenError> {
        let access = access(url)?;
        let pool = Pool::new(access.clone(), CONNECTIONS);
        let head = Arc::new(watch::Sender::new(0));
        let (queue, waiting) = mpsc::channel(QUEUE);
        let appender = Appender::new(
            access.clone(),
            waiting,
            clock,
            Arc::clone(&head),
            settings.max_batch,
        );
        Ok(Self {
            readers: StreamReader::start(&access, READERS),
            follower: Follower::start(pool.clone(), &head),
            pool,
            head,
            deadline: settings.deadline,
            queue: Mutex::new(Some(queue)),
            task: Mutex::new(Some(tokio::spawn(appender.run()))),
        })
    }

    /// Looks at the head closely from now on: for a process that hands on what others append.
    pub fn follow_closely(&self) {
        self.follower.closely();
    }

    /// Commits what waits and ends the appending task. Later appends are refused, reads go on.
    pub async fn close(&self) {
        drop(self.queue.lock().take());
        let task = self.task.lock().take();
        if let Some(task) = task {
            // Fails only when the task has panicked, which was reported then.
            let _ = task.await;
        }
    }

    /// The token epochs that changed after a cursor (0 for all that ever did), and the cursor to ask with next. Changes
    /// are numbered in the order of their commits, so none is ever missed.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn epochs_since(&self, cursor: i64) -> Result<(Vec<(UserId, u64)>, i64), LogError> {
        answer(retrying(|| queries::epochs_since(&self.pool, cursor)).await)
    }

    /// The position of the last event that a person caused; 0 when there is none.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub async fn last_position_of(&self, actor: UserId) -> Result<Position, LogError> {
        answer(retrying(|| queries::last_position_of(&self.pool, actor)).await)
    }
}

fn access(url: &str) -> Result<Access, OpenError> {
    Access::new(url, "socialhub-log", STATEMENT_TIMEOUT, LOCK_TIMEOUT)
}

fn answer<T>(answer: Result<T, sqlx::Error>) -> Result<T, LogError> {
    answer.map_err(|error| LogError::Unavailable(error.to_string()))
}

/// No text in Postgres holds a NUL. JSON escapes it, so only plain texts can have one.
fn has_nul(append: &Append) -> bool {
    fn texts(side: &SideWrite) -> Vec<&str> {
        match side {
            SideWrite::InsertCredentials(new) => {
                vec![&new.username, &new.email, &new.password_hash]
            }
            SideWrite::ResetPassword { password_hash, .. } => vec![password_hash],
            SideWrite::Erase { .. } => Vec::new(),
            SideWrite::StoreAnswer { key, answer } => {
                vec![&key.owner, &key.route, &key.key, &answer.body]
            }
        }
    }
    let stream = &append.stream;
    let side = append.side.iter().flat_map(texts);
    let mut all = side.chain([&*stream.aggregate_type, &*stream.aggregate_id]);
    all.any(|text| text.contains('\0'))
}

#[async_trait]
impl EventLog for PgEventLog {
    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let unavailable = |why: &str| AppendError::Unavailable(why.to_owned());
        if has_nul(&append) {
            return Err(unavailable("a text with a NUL in it cannot be stored"));
        }
        let command = encode(append).map_err(|error| unavailable(&error.to_string()))?;
        let ticket = Ticket::new();
        let (reply, outcome) = oneshot::channel();
        let waiting = Waiting {
            command,
            ticket: Arc::clone(&ticket),
            reply,
            unresolved: false,
        };
        match &*self.queue.lock() {
            None => return Err(unavailable("the event log is closed")),
            Some(queue) => queue
                .try_send(waiting)
                .map_err(|_| unavailable("too many commands are waiting"))?,
        }
        let outcome = tokio::time::timeout(self.deadline, outcome).await;
        if let Ok(Ok(outcome)) = outcome {
            return outcome;
        }
        // Out of time, or the task is gone with its runtime.
        if ticket.take_back() {
            return Err(unavailable("the event log did not come to it in time"));
        }
        Err(AppendError::OutcomeUnknown)
    }

    async fn read_stream(&self, stream: &StreamId) -> Result<Vec<RecordedEvent>, LogError> {
        let mut streams = self.readers.read(vec![stream.clone()]).await?;
        Ok(streams.pop().unwrap_or_default())
    }

    async fn read_streams(
        &self,
        streams: &[StreamId],
    ) -> Result<Vec<Vec<RecordedEvent>>, LogError> {
        self.readers.read(streams.to_vec()).await
    }

    async fn read_all(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Vec<RecordedEvent>, LogError> {
        decode_all(&answer(
            retrying(|| queries::read_all(&self.pool, after, limit)).await,
        )?)
    }

    async fn head(&self) -> Result<Position, LogError> {
        answer(retrying(|| queries::head(&self.pool)).await)
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        let receiver = self.head.subscribe();
        self.follower.wake();
        receiver
    }
}

#[async_trait]
impl CredentialsReader for PgEventLog {
    async fn find_by_identifier(&self, identifier: &str) -> Result<Option<Credentials>, LogError> {
        answer(retrying(|| queries::find_by_identifier(&self.pool, identifier)).await)
    }

    async fn find_by_id(&self, user_id: UserId) -> Result<Option<Credentials>, LogError> {
        answer(retrying(|| queries::find_by_id(&self.pool, user_id)).await)
    }

    async fn raised_epochs(&self) -> Result<Vec<(UserId, u64)>, LogError> {
        Ok(self.epochs_since(0).await?.0)
    }

    async fn find_answer(
        &self,
        key: &AnswerKey,
        now: Timestamp,
    ) -> Result<Option<StoredAnswer>, LogError> {
        let stored = answer(retrying(|| queries::find_answer(&self.pool, key)).await)?;
        Ok(stored.filter(|stored| !stored.expired(now)))
    }
}
