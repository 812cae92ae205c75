//! Connections that are shared.
//!
//! Not the driver's own pool: that one asks the server whether it is there whenever a connection is given back, without a
//! limit, and until an answer comes nobody else gets its place. Here giving back costs nothing: a [`Session`] knows whether
//! all its statements have ended, and one that is not whole is closed at once, and its place is free. That holds for
//! futures that were dropped in the middle of a statement and for transactions that were not committed (the server rolls
//! back when the connection closes).

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use deadpool::{
    Runtime,
    managed::{
        BuildError, Manager, Metrics, Object, PoolConfig, PoolError, QueueMode, RecycleError,
        RecycleResult, TimeoutType, Timeouts,
    },
};
use futures::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use parking_lot::Mutex;
use sqlx::{
    Either, Execute, Executor, Postgres,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use tokio::{sync::Notify, time::Instant};

use super::{
    connect::{Access, CONNECT_TIMEOUT, is_refusal, is_timeout, timed_out},
    session::Session,
};

/// Between two looks whether all connections have come back, when nothing is told.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A connection that nobody used for so long is replaced: what lies between may have forgotten it.
const REST: Duration = Duration::from_secs(600);

/// Connections that are opened when they are needed, so that a process starts while the server is down. Statements are run
/// on `&` it, as on a pool of the driver; an answer is handed out whole. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool {
    sessions: deadpool::managed::Pool<Sessions, Pooled>,
}

impl Pool {
    /// One of so many connections at most.
    #[must_use]
    pub fn new(access: Access, connections: usize) -> Self {
        Self::with(Sessions::new(access), connections, CONNECT_TIMEOUT)
    }

    /// One whose every connection begins with a statement, and which keeps them however long they rest: what the statement
    /// has made is the connection's. A place is waited for so long.
    pub(super) fn greeting(
        access: Access,
        connections: usize,
        wait: Duration,
        greeting: String,
    ) -> Self {
        let sessions = Sessions {
            greeting: Some(greeting),
            ..Sessions::new(access)
        };
        Self::with(sessions, connections, wait)
    }

    fn with(sessions: Sessions, connections: usize, wait: Duration) -> Self {
        let config = PoolConfig {
            max_size: connections,
            timeouts: Timeouts {
                wait: Some(wait),
                create: Some(CONNECT_TIMEOUT),
                recycle: None,
            },
            queue_mode: QueueMode::Lifo,
        };
        let pool = deadpool::managed::Pool::builder(sessions)
            .config(config)
            .runtime(Runtime::Tokio1)
            .build();
        let sessions = match pool {
            Ok(sessions) => sessions,
            Err(BuildError::NoRuntimeSpecified) => unreachable!("it was named"),
        };
        Self { sessions }
    }

    /// A connection for several statements. Both the wait for a place and connecting are limited.
    ///
    /// # Errors
    /// [`sqlx::Error::PoolTimedOut`] when no place became free, else why there is no connection.
    pub async fn acquire(&self) -> sqlx::Result<Pooled> {
        self.sessions.get().await.map_err(|error| match error {
            PoolError::Timeout(TimeoutType::Wait) => sqlx::Error::PoolTimedOut,
            PoolError::Closed => sqlx::Error::PoolClosed,
            PoolError::Backend(error) => error,
            PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle)
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_) => timed_out(),
        })
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// As [`Pool::acquire`], and what the server says.
    pub async fn begin(&self) -> sqlx::Result<Transaction> {
        let mut session = self.acquire().await?;
        session.in_transaction = true;
        session.execute("BEGIN").await?;
        Ok(Transaction(session))
    }

    /// Closes all connections, those that are out when they come back, and waits for that.
    pub async fn close(&self) {
        self.sessions.close();
        loop {
            let returned = self.sessions.manager().returned.notified();
            // One that comes back to somebody who waits stays when that one has gone away meanwhile.
            self.sessions.retain(|_, _| false);
            if self.sessions.status().size == 0 {
                return;
            }
            // It is told when one is given back, a moment before it lies there.
            let _ = tokio::time::timeout(LOOK_AGAIN, returned).await;
        }
    }
}

/// Makes connections, and says which ones may be used again.
#[derive(Debug)]
struct Sessions {
    access: Access,
    greeting: Option<String>,
    /// Connections that were not heard of since then may be dead: another one was found to be.
    suspicious: Mutex<Option<Instant>>,
    /// Told whenever one was given back.
    returned: Arc<Notify>,
}

impl Sessions {
    fn new(access: Access) -> Self {
        Self {
            access,
            greeting: None,
            suspicious: Mutex::default(),
            returned: Arc::default(),
        }
    }

    fn suspect(&self, since: Instant) {
        let mut suspicious = self.suspicious.lock();
        *suspicious = (*suspicious).max(Some(since));
    }

    /// Without asking anybody.
    fn may_be_used(&self, session: &Session) -> bool {
        let Some(heard) = session.heard() else {
            return false;
        };
        let suspicious = *self.suspicious.lock();
        let rested = self.greeting.is_none() && heard.elapsed() > REST;
        !rested && suspicious.is_none_or(|since| heard > since)
    }
}

impl Manager for Sessions {
    type Type = Session;
    type Error = sqlx::Error;

    async fn create(&self) -> sqlx::Result<Session> {
        let mut session = Session::connect(&self.access).await?;
        if let Some(greeting) = &self.greeting {
            session.execute(greeting.as_str()).await?;
        }
        Ok(session)
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<sqlx::Error> {
        if self.may_be_used(session) {
            Ok(())
        } else {
            Err(RecycleError::message("it may be dead"))
        }
    }
}

/// A connection of a [`Pool`], given back when it is dropped, or closed if it is not whole.
#[derive(Debug)]
pub struct Pooled {
    session: Object<Sessions>,
    // Dropped after the session: it has been given back then.
    _returned: Option<Returned>,
}

#[derive(Debug)]
struct Returned(Arc<Notify>);

impl Drop for Returned {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

impl From<Object<Sessions>> for Pooled {
    fn from(session: Object<Sessions>) -> Self {
        let pool = Object::pool(&session);
        let returned = pool.map(|pool| Returned(Arc::clone(&pool.manager().returned)));
        Self {
            session,
            _returned: returned,
        }
    }
}

impl Deref for Pooled {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if self.session.is_whole() {
            return;
        }
        if let Some(since) = self.session.suspicious_since()
            && let Some(pool) = Object::pool(&self.session)
        {
            pool.manager().suspect(since);
        }
        // What goes back to the pool is an empty place.
        self.session.hang_up();
    }
}

/// A transaction. Dropped before it is ended, it is rolled back: its connection is closed.
#[derive(Debug)]
pub struct Transaction(Pooled);

impl Transaction {
    /// Commits.
    ///
    /// # Errors
    /// What the server says. When it says nothing, nobody knows what became of the transaction.
    pub async fn commit(self) -> sqlx::Result<()> {
        self.end("COMMIT").await
    }

    /// Rolls back, and keeps the connection.
    ///
    /// # Errors
    /// When the server does not answer; it rolls back all the same.
    pub async fn rollback(self) -> sqlx::Result<()> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, statement: &str) -> sqlx::Result<()> {
        self.0.execute(statement).await?;
        self.0.in_transaction = false;
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.0
    }
}

impl<'p> Executor<'p> for &'p Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let answer = async move {
            let mut session = self.acquire().await?;
            session.fetch_many(query).try_collect().await
        };
        let rows = |all: Vec<_>| stream::iter(all.into_iter().map(Ok));
        stream::once(answer).map_ok(rows).try_flatten().boxed()
    }

    fn fetch_all<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Vec<PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move { self.acquire().await?.fetch_all(query).await })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move { self.acquire().await?.fetch_optional(query).await })
    }

    fn prepare_with<'e, 'q: 'e>(
        self,
        sql: &'q str,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, sqlx::Result<PgStatement<'q>>>
    where
        'p: 'e,
    {
        Box::pin(async move { self.acquire().await?.prepare_with(sql, parameters).await })
    }

    fn describe<'e, 'q: 'e>(
        self,
        sql: &'q str,
    ) -> BoxFuture<'e, sqlx::Result<sqlx::Describe<Postgres>>>
    where
        'p: 'e,
    {
        Box::pin(async move { self.acquire().await?.describe(sql).await })
    }
}

/// Runs a query that changes nothing, again when the connections it got were dead ones: after a restart of the server
/// every idle connection of the pool is. Who has waited in vain is told so: their time is up, and the next one gets a new
/// connection.
///
/// # Errors
/// The last one.
pub async fn retrying<T, F>(query: impl Fn() -> F) -> sqlx::Result<T>
where
    F: Future<Output = sqlx::Result<T>>,
{
    let mut last = query().await;
    for _ in 0..RETRIES {
        match &last {
            Err(error) if is_lost(error) => last = query().await,
            _ => break,
        }
    }
    last
}

fn is_lost(error: &sqlx::Error) -> bool {
    let gave_up = is_timeout(error) || matches!(error, sqlx::Error::PoolTimedOut);
    !gave_up && !is_refusal(error)
}

/// One would do: a connection that is found dead makes all that rest suspicious. The server may be about to end.
const RETRIES: usize = 3;
