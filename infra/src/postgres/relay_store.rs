//! The relay's lease and state, in the log's database.
//!
//! All time is the database's: the processes' clocks need not agree. `clock_timestamp()` and not `now()`: a statement that
//! waited for a row's lock must not judge by when it began to wait.

use std::time::Duration;

use async_trait::async_trait;
use socialhub_event_log::{Frontier, FrontierReader, Lease, LogError, RelayStore};
use sqlx::types::Json;

use super::{
    connect::{Access, OpenError},
    event_log::SCHEMA,
    pool::{Pool, retrying},
};

/// A lease that was not renewed for so long may be taken over, in seconds.
const EXPIRY: f64 = 5.0;

/// Shorter than the expiry: who waits for a stuck server must know in time that the lease may be lost.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The relay's lease and state on Postgres.
#[derive(Debug, Clone)]
pub struct PgRelayStore {
    pool: Pool,
}

impl PgRelayStore {
    /// The store in a database whose log is there and up to date.
    ///
    /// # Errors
    /// When the database cannot be reached, or its schema is not this program's.
    pub async fn connect(url: &str) -> Result<Self, OpenError> {
        SCHEMA.require_current(&access(url)?).await?;
        Self::lazy(url)
    }

    /// A store that connects when it is used. Needs a runtime.
    ///
    /// # Errors
    /// When the address is none.
    pub fn lazy(url: &str) -> Result<Self, OpenError> {
        Ok(Self {
            pool: Pool::new(access(url)?, 2),
        })
    }
}

fn access(url: &str) -> Result<Access, OpenError> {
    Access::new(url, "socialhub-relay", TIMEOUT, TIMEOUT)
}

fn answer<T>(answer: Result<T, sqlx::Error>) -> Result<T, LogError> {
    answer.map_err(|error| LogError::Unavailable(error.to_string()))
}

#[async_trait]
impl FrontierReader for PgRelayStore {
    async fn frontier(&self) -> Result<Frontier, LogError> {
        let read = || {
            sqlx::query_scalar("SELECT frontier FROM relay_state WHERE id = 1")
                .fetch_optional(&self.pool)
        };
        let frontier: Option<Json<Frontier>> = answer(retrying(read).await)?;
        Ok(frontier.map(|Json(frontier)| frontier).unwrap_or_default())
    }
}

#[async_trait]
impl RelayStore for PgRelayStore {
    async fn acquire(&self, owner: &str) -> Result<Option<Lease>, LogError> {
        // Who asks for the row while another takes it waits, and then judges by what that one wrote.
        let sql = "UPDATE relay_lease SET owner = $1, epoch = epoch + 1, renewed = clock_timestamp()
             WHERE id = 1 AND (owner IS NULL OR owner = $1 OR clock_timestamp() - renewed > make_interval(secs => $2))
             RETURNING epoch";
        let epoch: Option<i64> = answer(
            sqlx::query_scalar(sql)
                .bind(owner)
                .bind(EXPIRY)
                .fetch_optional(&self.pool)
                .await,
        )?;
        Ok(epoch.map(|epoch| Lease { epoch }))
    }

    async fn renew(&self, owner: &str, lease: &Lease) -> Result<bool, LogError> {
        // Also when it is late: nobody else has taken it.
        let sql = "UPDATE relay_lease SET renewed = clock_timestamp()
             WHERE id = 1 AND owner = $1 AND epoch = $2";
        let renew = || {
            sqlx::query(sql)
                .bind(owner)
                .bind(lease.epoch)
                .execute(&self.pool)
        };
        Ok(answer(retrying(renew).await)?.rows_affected() == 1)
    }

    async fn release(&self, owner: &str, lease: &Lease) -> Result<(), LogError> {
        let sql = "UPDATE relay_lease SET owner = NULL WHERE id = 1 AND owner = $1 AND epoch = $2";
        let release = || {
            sqlx::query(sql)
                .bind(owner)
                .bind(lease.epoch)
                .execute(&self.pool)
        };
        answer(retrying(release).await)?;
        Ok(())
    }

    async fn save(&self, lease: &Lease, frontier: &Frontier) -> Result<bool, LogError> {
        // The lease's row is locked first: nobody takes over between the look at the epoch and the commit.
        let sql = "WITH mine AS (
                 SELECT id FROM relay_lease WHERE id = 1 AND epoch = $1 FOR UPDATE
             )
             INSERT INTO relay_state (id, frontier) SELECT id, $2 FROM mine
             ON CONFLICT (id) DO UPDATE SET frontier = excluded.frontier";
        let save = || {
            sqlx::query(sql)
                .bind(lease.epoch)
                .bind(Json(frontier))
                .execute(&self.pool)
        };
        Ok(answer(retrying(save).await)?.rows_affected() == 1)
    }

    async fn holder(&self) -> Result<Option<(String, i64, f64)>, LogError> {
        let sql = "SELECT owner, epoch, extract(epoch FROM clock_timestamp() - renewed)::float8
             FROM relay_lease WHERE id = 1 AND owner IS NOT NULL";
        answer(retrying(|| sqlx::query_as(sql).fetch_optional(&self.pool)).await)
    }
}
