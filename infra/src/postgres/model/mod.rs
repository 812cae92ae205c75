//! What the Postgres stores of all read models share.
//!
//! A generation is a schema of its own (`feed_1`, `feed_2`, …): the model's tables, and beside them its checkpoints,
//! parked letters, attempts and how its writers ended. The schema `read_models` holds the catalogue: which generations
//! there are, and which one is current.
//!
//! A generation may have many writers, each in whatever process its partitions are assigned to. Three locks, all of them
//! the server's, so that a killed process leaves none behind, keep them in order:
//! - the **gate** of a generation, an advisory lock: a batch shares it; a fence, a retried letter or an erasure holds it alone. Unlike
//!   a row lock it is handed out in turn, so a fence cannot be starved by batches that overlap;
//! - the checkpoint row of its source, locked before anything else is looked at: of two writers that believe in the same
//!   partition, the second finds it moved;
//! - what the model locks itself, since changes from different partitions may touch the same rows.
//!
//! Commits of effects do not wait for the disk (`synchronous_commit = off`). The checkpoint commits with the effects, so
//! what a crash of the server takes away (some hundred milliseconds at most, never a part of a transaction) is read from
//! its source again; a rebuild that loses its tail redoes it. The catalogue's commits do wait, and with them all before.

mod catalogue;
mod fault;
mod generations;
mod locks;
mod store;
mod tables;

use async_trait::async_trait;
use socialhub_projections::{
    Projection,
    projection::Projected,
    runtime::WriteMode,
    verify::{Entity, ModelFold, RowSink},
};
use sqlx::{Executor, Row};
use uuid::Uuid;

use super::session::Session;

pub use generations::PgGenerations;
pub use store::PgModelStore;

/// What a model's projection makes of an event.
pub type Change<M> = <<M as PgModel>::Projection as Projection>::Change;

/// One read model on Postgres: its tables and how changes are written to them.
#[async_trait]
pub trait PgModel: Send + Sync + Sized + 'static {
    /// The projection whose changes it writes.
    type Projection: Projection;
    /// The plain fold it is verified against.
    type Fold: ModelFold;
    /// The statements that make the model's own tables, names without a schema.
    const SCHEMA: &'static str;

    /// Writes the changes of a batch, positions rising, in the transaction of its checkpoint.
    ///
    /// Batches of different sources are written at the same time by different processes, each statement seeing what was
    /// committed before it. [`WriteMode::Bulk`] says that there is no other writer.
    ///
    /// # Errors
    /// What Postgres says; the transaction is rolled back.
    async fn apply(
        &self,
        connection: &mut Session,
        mode: WriteMode,
        batch: &[Projected<Change<Self>>],
    ) -> sqlx::Result<()>;

    /// Whether a batch must not be written beside any other of the generation: it changes what they rest on.
    fn is_alone(_batch: &[Projected<Change<Self>>]) -> bool {
        false
    }

    /// Hands over every row for verification, in one transaction of the caller's.
    ///
    /// # Errors
    /// What Postgres says.
    async fn rows(connection: &mut Session, rows: &mut dyn RowSink) -> sqlx::Result<()>;

    /// The kinds of entity, in the order in which they are mended.
    const KINDS: &'static [&'static str];

    /// Makes an entity what it is in another generation, in the schema `other`, in the caller's transaction. The other has
    /// handled the same events.
    ///
    /// # Errors
    /// What Postgres says.
    async fn mend(connection: &mut Session, other: &str, entity: &Entity) -> sqlx::Result<()>;
}

/// Makes the rows of a table for which `of` is true those that the schema `other` has. `$1` and `$2` are the ids.
pub(crate) async fn copy_rows(
    connection: &mut Session,
    other: &str,
    table: &str,
    of: &str,
    ids: &[Uuid],
) -> sqlx::Result<()> {
    for statement in [
        format!("DELETE FROM {table} WHERE {of}"),
        format!("INSERT INTO {table} SELECT * FROM {other}.{table} WHERE {of}"),
    ] {
        let mut query = sqlx::query(&statement);
        for id in ids {
            query = query.bind(*id);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Runs statements that have no values, one after another, in one round trip.
async fn execute(connection: &mut Session, statements: &str) -> sqlx::Result<()> {
    connection.execute(statements).await.map(|_| ())
}

/// Runs statements that have no values, one after another, in one round trip; what the last one answers.
async fn last_answer(connection: &mut Session, statements: &str) -> sqlx::Result<bool> {
    let answers = connection.fetch_all(statements).await?;
    answers.last().map_or(Ok(false), |row| row.try_get(0))
}

/// Positions and counts are never near 2^63: Postgres's integers hold them.
pub(crate) fn to_sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Reads a position or count.
pub(crate) fn from_sql(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
