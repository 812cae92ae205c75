//! A connection whose every statement ends in bounded time, also when the server's host vanishes without a word.
//!
//! Then nothing comes any more, not even an error, and the driver waits for as long as TCP tries: a quarter of an hour, or
//! for ever. So waiting has a limit on this side, and what was waited for in vain is never used again: dropped, it closes
//! its socket and waits for nothing.

use std::{io::ErrorKind, pin::pin, time::Duration};

use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Connection, Either, Execute, Executor, PgConnection, Postgres,
    postgres::{PgConnectOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use tokio::time::{Instant, timeout};

use super::connect::{
    Access, CONNECT_TIMEOUT, Patience, SLACK, is_read_only, is_refusal, is_timeout, timed_out,
    within,
};

/// How long a statement that may take its time is waited for before the server is asked what became of it.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long nothing may answer that question before the server is taken for gone.
const GIVE_UP: Duration = Duration::from_secs(60);

/// One connection to Postgres. Statements are run on `&mut` it, as on a connection of the driver.
#[derive(Debug)]
pub struct Session {
    /// None when it was hung up.
    connection: Option<PgConnection>,
    waiting: Waiting,
    state: State,
    pub(super) in_transaction: bool,
}

/// How far the conversation is.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Every statement has come to its end, the last one then.
    Idle(Instant),
    /// A statement has begun, and nobody has heard its end: it is being waited for, or who waited has gone away.
    Busy(Instant),
    /// The connection is lost. What was not heard of since then may be, too.
    Lost(Instant),
}

impl State {
    /// Begins a statement on a connection that is ready for one.
    fn begin<'c>(
        &mut self,
        connection: &'c mut Option<PgConnection>,
    ) -> sqlx::Result<&'c mut PgConnection> {
        match (*self, connection) {
            (Self::Idle(_), Some(connection)) => {
                *self = Self::Busy(Instant::now());
                Ok(connection)
            }
            _ => Err(std::io::Error::from(ErrorKind::ConnectionAborted).into()),
        }
    }

    fn end(&mut self, error: Option<&sqlx::Error>) {
        let now = Instant::now();
        *self = match (error, *self) {
            (None, _) => Self::Idle(now),
            // Whoever may not write is not who is looked for: the next connection may lead there.
            (Some(error), _) if is_refusal(error) && !is_read_only(error) => Self::Idle(now),
            // Silence began at some time since the statement was sent.
            (Some(error), Self::Busy(since)) if is_timeout(error) => Self::Lost(since),
            (Some(_), _) => Self::Lost(now),
        };
    }
}

impl Session {
    /// Connects, within [`CONNECT_TIMEOUT`].
    ///
    /// # Errors
    /// When the server does not answer in time, or refuses.
    pub async fn connect(access: &Access) -> sqlx::Result<Self> {
        let connect = async {
            let mut connection = PgConnection::connect_with(&access.options).await?;
            let waiting = match access.patience {
                Patience::Limit(limit) => Waiting::Limit(limit),
                Patience::Watch => Waiting::Watch(Box::new(Watch {
                    options: access.options.clone(),
                    backend: Backend::of(&mut connection).await?,
                })),
            };
            Ok(Self {
                connection: Some(connection),
                waiting,
                state: State::Idle(Instant::now()),
                in_transaction: false,
            })
        };
        within(CONNECT_TIMEOUT, connect).await
    }

    /// Makes sure that somebody is there.
    ///
    /// # Errors
    /// When nobody answers within this time; the session is lost then.
    pub async fn ping(&mut self, time: Duration) -> sqlx::Result<()> {
        let connection = self.state.begin(&mut self.connection)?;
        let answer = within(time, connection.ping()).await;
        self.state.end(answer.as_ref().err());
        answer
    }

    /// Says goodbye. The server notices also without, when the session is dropped.
    pub async fn close(self) {
        if let Some(connection) = self.connection {
            // How a connection ends is nobody's concern.
            let _ = within(SLACK, connection.close()).await;
        }
    }

    /// Closes the socket, whatever is on its way, and waits for nothing.
    pub(super) fn hang_up(&mut self) {
        self.connection = None;
    }

    /// Runs a statement whose answer is waited for as one.
    fn whole<'e, T: Send + 'e>(
        &'e mut self,
        statement: impl FnOnce(&'e mut PgConnection) -> BoxFuture<'e, sqlx::Result<T>>,
    ) -> BoxFuture<'e, sqlx::Result<T>> {
        let Session {
            connection,
            waiting,
            state,
            ..
        } = self;
        let answer = state.begin(connection).map(statement);
        Box::pin(async move {
            let answer = waiting.on(answer?).await.flatten();
            state.end(answer.as_ref().err());
            answer
        })
    }

    /// Whether the next statement would begin where it should: no answer is outstanding, no transaction open.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.state, State::Idle(_)) && !self.in_transaction && self.connection.is_some()
    }

    /// When its last statement ended; none when it is not whole.
    pub(super) fn heard(&self) -> Option<Instant> {
        match self.state {
            State::Idle(heard) if self.is_whole() => Some(heard),
            _ => None,
        }
    }

    /// Since when it is certain, or to be feared, that nobody is at the other end. Who went away after a moment went for
    /// reasons of their own; who had waited for longer may have been waiting in vain.
    pub(super) fn suspicious_since(&self) -> Option<Instant> {
        match self.state {
            State::Lost(since) => Some(since),
            State::Busy(since) if since.elapsed() > SLACK => Some(since),
            State::Idle(_) | State::Busy(_) => None,
        }
    }
}

impl<'c> Executor<'c> for &'c mut Session {
    type Database = Postgres;

    /// The limit is for each wait: rows that come have somebody who sends them.
    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let Session {
            connection,
            waiting,
            state,
            ..
        } = self;
        let rows = match state.begin(connection) {
            Ok(connection) => connection.fetch_many(query),
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let waiting = &*waiting;
        stream::unfold(Some((rows, state)), move |going| async move {
            let (mut rows, state) = going?;
            let error = match waiting.on(rows.next()).await {
                Ok(Some(Ok(row))) => return Some((Ok(row), Some((rows, state)))),
                Ok(None) => {
                    state.end(None);
                    return None;
                }
                Ok(Some(Err(error))) | Err(error) => error,
            };
            state.end(Some(&error));
            Some((Err(error), None))
        })
        .boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.whole(|connection| connection.fetch_optional(query))
    }

    fn prepare_with<'e, 'q: 'e>(
        self,
        sql: &'q str,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement<'q>>>
    where
        'c: 'e,
    {
        self.whole(|connection| connection.prepare_with(sql, parameters))
    }

    fn describe<'e, 'q: 'e>(
        self,
        sql: &'q str,
    ) -> BoxFuture<'e, sqlx::Result<sqlx::Describe<Postgres>>>
    where
        'c: 'e,
    {
        self.whole(|connection| connection.describe(sql))
    }
}

/// How an answer is waited for.
#[derive(Debug)]
enum Waiting {
    Limit(Duration),
    Watch(Box<Watch>),
}

impl Waiting {
    async fn on<T>(&self, answer: impl Future<Output = T>) -> sqlx::Result<T> {
        match self {
            Self::Limit(limit) => within(*limit, async { Ok(answer.await) }).await,
            Self::Watch(watch) => watch.on(answer).await,
        }
    }
}

/// Looks after a statement that may take its time: as long as the server has the backend that is at it, there will be an
/// answer.
#[derive(Debug)]
struct Watch {
    options: PgConnectOptions,
    backend: Backend,
}

impl Watch {
    async fn on<T>(&self, answer: impl Future<Output = T>) -> sqlx::Result<T> {
        let mut answer = pin!(answer);
        let mut seen = Instant::now();
        loop {
            if let Ok(answer) = timeout(LOOK_EVERY, &mut answer).await {
                return Ok(answer);
            }
            let there = tokio::select! {
                answer = &mut answer => return Ok(answer),
                there = self.look() => there,
            };
            match there {
                Ok(true) => seen = Instant::now(),
                // What it said before it went may be on its way.
                Ok(false) => return within(SLACK, async { Ok(answer.await) }).await,
                // It answers, if only that it has no time.
                Err(sqlx::Error::Database(_)) => {}
                Err(error) if seen.elapsed() > GIVE_UP => {
                    tracing::warn!(%error, "the database's server is taken for gone");
                    return Err(timed_out());
                }
                Err(_) => {}
            }
        }
    }

    async fn look(&self) -> sqlx::Result<bool> {
        let look = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            self.backend.is_there(&mut connection).await
        };
        within(CONNECT_TIMEOUT, look).await
    }
}

/// The server's process behind a connection: no other one ever has both numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backend {
    pid: i32,
    /// In microseconds.
    started: i64,
}

impl Backend {
    pub(super) async fn of(executor: impl sqlx::PgExecutor<'_>) -> sqlx::Result<Self> {
        let who = "SELECT pid, (extract(epoch FROM backend_start) * 1000000)::bigint
             FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let (pid, started) = sqlx::query_as(who).fetch_one(executor).await?;
        Ok(Self { pid, started })
    }

    async fn is_there(self, executor: impl sqlx::PgExecutor<'_>) -> sqlx::Result<bool> {
        let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity
             WHERE pid = $1 AND (extract(epoch FROM backend_start) * 1000000)::bigint = $2)";
        let there = sqlx::query_scalar(sql).bind(self.pid).bind(self.started);
        there.fetch_one(executor).await
    }

    /// Asks it to end, and answers whether it is gone.
    pub(super) async fn end(self, executor: impl sqlx::PgExecutor<'_>) -> sqlx::Result<bool> {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE pid = $1 AND (extract(epoch FROM backend_start) * 1000000)::bigint = $2";
        let found = sqlx::query(sql).bind(self.pid).bind(self.started);
        Ok(found.fetch_all(executor).await?.is_empty())
    }
}
